"""What the environment says after the policy's turn, as the trainer's own log shows it.

Learned from the original rollouts: the text around results, how turns with calls ended, what became of a call that
could not be read, and whether all calls of a turn were answered.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from gapscope.dialects import dialect_named
from gapscope.dialects.base import TaggedDialect
from gapscope.resampler.stretches import Stretch, stretches
from gapscope.resampler.wording import NAME, NEWLINES, Ending, Wording, turn_ends
from gapscope.rollouts import Rollout, ToolCall
from gapscope.tokenizer import Vocabulary

AGREEMENT = 0.9
"""The share of examples that must say the same: what varies, as a count of turns does, cannot be learned."""

NO_ANSWER = "no call of the log was answered and followed by another turn"
MESSAGES = "the log holds messages, and not the text between them"
STRIPPED = "the special tokens between turns were dropped from the log's text"
UNBOUNDED = "where the policy's turns end cannot be seen: the mask and the text of the log do not fit together"
NOT_IN_TEXT = "the results of the log are not found in its text"
VARIES = "what stands around results varies"

_SPECIAL = re.compile(
    r"<[|｜][^<>]{1,64}>|<[^<>]{1,64}[|｜]>|<(?:start|end)_of_turn>|</?s>|\[/?(?:INST|TOOL_RESULTS)\]|\]~b\]|\[e~\["
    r"|<seed:(?:bos|eos)>"
)
_BARE_ROLE = re.compile(r"(?:\A|\n)(?:system|user|tool|assistant|ipython)(?:\n|\Z)")
_WORDS = frozenset(
    {
        *("user", "tool", "assistant", "system", "ipython", "function", "functions", "commentary", "tool_response"),
        *("result", "results", "response", "information", "observation", "interpreter", "output"),
    }
)
"""What templates and tags say by themselves: a tool that is called so is not named by them."""
_LAST = 64
"""Characters at the end of a turn in which a closing delimiter that is a pattern is looked for."""


class Malformed(NamedTuple):
    """After turns whose calls could not be read: how many rollouts ended, and how many were answered and went on.

    `answer` is all that stands between such a turn and the next, None where it is not known or varies.
    """

    ends: int = 0
    continues: int = 0
    answer: str | None = None


class Several(NamedTuple):
    """Turns with several calls: how many had all of them answered, and how many only the first few.

    `most` is how many calls of one turn are answered, None for all of them.
    """

    all: int = 0
    some: int = 0
    most: int | None = None


class Learned(NamedTuple):
    """What a log shows of its environment.

    `wording` is None where it cannot be learned, and `why` then says so. `n` are the answered turns that could be
    examples, and `same` those that say what the wording does. `ended` counts how turns with calls ended.
    """

    wording: Wording | None
    why: str | None
    n: int
    same: int
    ended: Mapping[Ending, int]
    malformed: Malformed
    several: Several


class _Example(NamedTuple):
    head: str
    between: tuple[str, ...]
    tail: str
    names: tuple[str, ...]
    quoted: bool
    ended_by: Ending | None

    @property
    def core(self) -> tuple[str, str]:
        """What is written around the results, but for the lines that may be their own."""
        return self.head.rstrip(NEWLINES), self.tail.lstrip(NEWLINES)


def learned(rollouts: Iterable[Rollout], vocabulary: Vocabulary | None = None) -> Learned:
    """What these rollouts show; those that were resampled are passed over.

    The `vocabulary` of their token ids makes examples of logs that hold messages.
    """
    found = _Found()
    for rollout in rollouts:
        if rollout.parent is None and rollout.dialect is not None:
            found.read(rollout, vocabulary)
    wording, same = found.wording()
    why = None if wording else found.why()
    return Learned(wording, why, found.examples.total(), same, found.ended, found.malformed(), found.several())


class _Found:
    """What was seen so far."""

    def __init__(self) -> None:
        self.examples: Counter[_Example] = Counter()
        self.useless: Counter[str] = Counter()
        self.ended: Counter[Ending] = Counter()
        self.ends: Counter[int] = Counter()
        self.told: Counter[str | None] = Counter()
        self.answers: Counter[tuple[int, int]] = Counter()
        self.last_answered = -1
        self.untagged = False

    def read(self, rollout: Rollout, vocabulary: Vocabulary | None) -> None:
        try:
            dialect = dialect_named(rollout.dialect or "")
        except KeyError:
            return
        if not isinstance(dialect, TaggedDialect):
            return
        self.untagged = self.untagged or not dialect.tags.results
        between = stretches(rollout, dialect, vocabulary)
        told = {stretch.turn: stretch for stretch in between}
        for stretch in between:
            if stretch.answered:
                self.last_answered = max(self.last_answered, stretch.turn)
                self._learn(stretch, rollout, dialect)
        for turn, calls in _attempts(rollout):
            self._count(rollout, turn, calls, told.get(turn), dialect)

    def _learn(self, stretch: Stretch, rollout: Rollout, dialect: TaggedDialect) -> None:
        if not stretch.after:
            return
        ended_by = _ended_by(stretch, dialect)
        if ended_by:
            self.ended[ended_by] += 1
        example = _example(stretch, ended_by)
        why = UNBOUNDED if stretch.text is None else NOT_IN_TEXT
        if example is not None:
            why = _illegible(stretch, example, rollout, dialect)
        if example is None or why:
            self.useless[why] += 1
        else:
            self.examples[example] += 1

    def _count(
        self, rollout: Rollout, turn: int, calls: list[ToolCall], told: Stretch | None, dialect: TaggedDialect
    ) -> None:
        answered = sum(call.result is not None for call in calls)
        read = [call for call in calls if call.parsed]
        if len(read) > 1 and answered:
            self.answers[len(read), min(answered, len(read))] += 1
        if read:
            return
        if told is not None:
            known = told.text is not None and bool(told.after)
            text = told.text if known and _is_legible(told.text or "", rollout, dialect, exact=told.exact) else None
            self.told[text] += 1
        elif _is_whole(rollout, calls[-1], dialect):
            self.ends[turn] += 1

    def malformed(self) -> Malformed:
        # In later turns than any that was answered, rollouts end at the limit of turns whatever was called.
        ends = sum(n for turn, n in self.ends.items() if turn <= self.last_answered)
        text, n = self.told.most_common(1)[0] if self.told else (None, 0)
        return Malformed(ends, self.told.total(), text if n >= AGREEMENT * self.told.total() else None)

    def several(self) -> Several:
        whole = sum(n for (calls, answered), n in self.answers.items() if answered == calls)
        cut: Counter[int] = Counter()
        for (calls, answered), n in self.answers.items():
            if answered < calls:
                cut[answered] += n
        most = cut.most_common(1)[0][0] if cut.total() > whole else None
        return Several(whole, cut.total(), most)

    def why(self) -> str:
        if self.examples:
            same = _commonest(self.examples)
            head, tail = next(iter(same)).core
            return f"{VARIES}: {same.total()} of {self.examples.total()} are as in {head[-60:]!r} … {tail[:60]!r}"
        return self.useless.most_common(1)[0][0] if self.useless else NO_ANSWER

    def wording(self) -> tuple[Wording | None, int]:
        """The wording of most examples, and of how many; None where too few agree."""
        named: Counter[_Example] = Counter()
        for example, n in self.examples.items():
            named[_named(example)] += n
        same = max(_commonest(named), _commonest(self.examples), key=Counter.total)
        if not same or same.total() < AGREEMENT * self.examples.total():
            return None, same.total()
        heads, tails = {example.head for example in same}, {example.tail for example in same}
        ended: Counter[Ending] = Counter()
        between: Counter[str] = Counter()
        for example, n in same.items():
            between.update(dict.fromkeys(example.between, n))
            if example.ended_by:
                ended[example.ended_by] += n
        wording = Wording(
            head=min(heads, key=len),
            between=_between(between),
            tail=min(tails, key=len),
            ended_by=ended.most_common(1)[0][0] if ended else "turn",
            source="log",
            # Cut out of a text, results have lost the lines around them. Where these are always the same, they belong
            # to the wording as far as anyone can tell; where they vary, only those that are always there do.
            trims=NEWLINES if len(heads) == len(tails) == 1 else "",
            quoted=self.untagged and all(example.quoted for example in same),
        )
        return wording, same.total()


def _attempts(rollout: Rollout) -> Iterator[tuple[int, list[ToolCall]]]:
    """The calls of each turn, those in thinking aside."""
    for turn in sorted({call.turn for call in rollout.calls}):
        calls = [call for call in rollout.calls if call.turn == turn and not call.in_think]
        if calls:
            yield turn, calls


def _example(stretch: Stretch, ended_by: Ending | None) -> _Example | None:
    """The stretch around its results, where each is found in it once; None otherwise."""
    text, at = stretch.text or "", 0
    pieces: list[str] = []
    for call in stretch.answered:
        result = call.result or ""
        place = text.find(result, at)
        if not result or place < 0 or (len(stretch.answered) == 1 and text.rfind(result) != place):
            return None
        pieces.append(text[at:place])
        at = place + len(result)
    head, *between = pieces
    names = tuple(call.name or "" for call in stretch.answered)
    quoted = all(_is_quoted(call.result or "") for call in stretch.answered)
    return _Example(head, tuple(between), text[at:], names, quoted, ended_by)


def _named(example: _Example) -> _Example:
    """The same with a mark for the name of each tool, and without the names."""
    first, *others = example.names
    between = (_marked(text, name) for text, name in zip(example.between, others, strict=True))
    return example._replace(head=_marked(example.head, first), between=tuple(between), names=())


def _marked(text: str, name: str) -> str:
    return re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", NAME, text) if name and name not in _WORDS else text


def _commonest(examples: Counter[_Example]) -> Counter[_Example]:
    """The examples of the wording that most of them have."""
    cores: Counter[tuple[str, str]] = Counter()
    for example, n in examples.items():
        cores[example.core] += n
    core = cores.most_common(1)[0][0] if cores else None
    return Counter({example: n for example, n in examples.items() if example.core == core})


def _between(texts: Counter[str]) -> str | None:
    """What stands between results, where nearly all examples say the same; the shortest of it, as around results."""
    cores: Counter[str] = Counter()
    for text, n in texts.items():
        cores[text.strip(NEWLINES)] += n
    core, n = cores.most_common(1)[0] if cores else (None, 0)
    if core is None or n < AGREEMENT * cores.total():
        return None
    return min((text for text in texts if text.strip(NEWLINES) == core), key=len)


def _is_quoted(result: str) -> bool:
    if not (len(result) > 1 and result[0] == result[-1] == '"'):
        return False
    try:
        return isinstance(json.loads(result), str)
    except ValueError:
        return False


def _illegible(stretch: Stretch, example: _Example, rollout: Rollout, dialect: TaggedDialect) -> str:
    """Why what stands around results cannot be said again; empty where it can."""
    around = "".join((example.head, *example.between, "\0", example.tail))
    if _is_legible(around, rollout, dialect, exact=stretch.exact):
        return ""
    return MESSAGES if rollout.output_origin == "joined" and not _BARE_ROLE.search(around) else STRIPPED


def _is_legible(text: str, rollout: Rollout, dialect: TaggedDialect, *, exact: bool) -> bool:
    """Whether the text is all that stood there: special tokens are kept, or none are needed."""
    if exact:
        return True
    if _BARE_ROLE.search(text):
        return False
    if dialect.frame is not None and dialect.frame.ended_by == "call":
        return rollout.output_origin == "logged"
    return _SPECIAL.search(text) is not None


def _ended_by(stretch: Stretch, dialect: TaggedDialect) -> Ending | None:
    """How the turn before it ended; None where that cannot be seen."""
    if stretch.before.endswith(turn_ends(dialect)):
        return "turn"
    if not _closes(stretch.before, dialect):
        return None
    inline = dialect.frame is not None and dialect.frame.ended_by == "call"
    # Where a template writes the turns, a text without any end-of-turn token has lost it.
    return "call" if stretch.exact or inline else "turn"


def _closes(text: str, dialect: TaggedDialect) -> bool:
    """Whether a text ends with the closing delimiter of a call."""
    end = text[-_LAST:]
    for call in dialect.tags.calls:
        closing = call.closing
        if isinstance(closing, str):
            if end.endswith(closing):
                return True
        elif isinstance(closing, re.Pattern) and any(match.end() == len(end) for match in closing.finditer(end)):
            return True
    return False


def _is_whole(rollout: Rollout, call: ToolCall, dialect: TaggedDialect) -> bool:
    """Whether the policy has said all that it wanted to in its last turn, and was not cut off."""
    if call.closed or call.truncated is False:
        return True
    return call.truncated is None and rollout.output.endswith(turn_ends(dialect))
