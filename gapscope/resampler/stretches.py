"""What the environment wrote between two turns of the policy, as exactly as a log shows it.

A mask over tokens says who wrote what. Without one the text is all there is: an end-of-turn token is then the policy's,
and so the blanks around a result are the environment's where the dialect writes it into the policy's own turn.
"""

from collections.abc import Sequence
from itertools import groupby, takewhile
from typing import NamedTuple

from gapscope.dialects.base import Dialect, TaggedDialect
from gapscope.resampler.wording import BLANKS, turn_ends
from gapscope.rollouts import Rollout, Span, Tokens, ToolCall
from gapscope.tokenizer import Vocabulary

_UNKNOWN = "\ufffd"
_LONGEST_OPENING = 64
"""Characters of what a template writes behind its assistant line, such as an opening thinking tag."""


class Stretch(NamedTuple):
    """A stretch of text that the policy did not write, behind its turn number `turn`.

    `text` is None where its bounds are not known. `before` is the turn and `after` the next one, empty where none
    follows. `answered` are the calls that it answers. It is `exact` where a mask gives its bounds, and [`start`, `end`)
    are then its tokens.
    """

    turn: int
    before: str
    text: str | None
    after: str
    answered: list[ToolCall]
    exact: bool = False
    start: int | None = None
    end: int | None = None


def stretches(rollout: Rollout, dialect: Dialect, vocabulary: Vocabulary | None = None) -> list[Stretch]:
    """The stretches of a rollout, in order; its ids are spelled out where their `vocabulary` is given."""
    tokens = rollout.tokens
    if tokens is not None and tokens.sampled is not None and not tokens.retokenised:
        pieces = _pieces(tokens, vocabulary)
        found = None if pieces is None else _spelled(rollout, tokens.sampled, pieces, tokens.n_prompt or 0)
        if found is not None:
            return found
    return _read(rollout, dialect)


def _pieces(tokens: Tokens, vocabulary: Vocabulary | None) -> list[bytes] | None:
    if vocabulary is not None and tokens.ids is not None:
        return vocabulary.pieces(tokens.ids)
    if tokens.strings is not None:
        return [string.encode("utf-8", "surrogatepass") for string in tokens.strings]
    return None


def _spelled(rollout: Rollout, sampled: Sequence[bool], pieces: Sequence[bytes], first: int) -> list[Stretch] | None:
    """By the mask; None where it has another number of turns than the text."""
    runs: list[tuple[bool, int, int]] = []
    position = first
    for own, group in groupby(sampled[first : len(pieces)]):
        end = position + sum(1 for _ in group)
        runs.append((own, position, end))
        position = end
    turns = sorted({span.turn for span in rollout.spans if span.sampled and span.turn is not None})
    if sum(own for own, _, _ in runs) != len(turns):
        return None
    texts = [b"".join(pieces[start:end]).decode("utf-8", "replace") for _, start, end in runs]
    found: list[Stretch] = []
    turn = -1
    for index, (own, start, end) in enumerate(runs):
        turn += own
        if own or turn < 0:
            continue
        answered = [call for call in rollout.calls if call.turn == turns[turn] and call.result is not None]
        text = None if _UNKNOWN in texts[index] else texts[index]
        after = texts[index + 1] if index + 1 < len(runs) else ""
        found.append(Stretch(turns[turn], texts[index - 1], text, after, answered, exact=True, start=start, end=end))
    return found


def _read(rollout: Rollout, dialect: Dialect) -> list[Stretch]:
    """By the spans, whose bounds are those of the mask where their tokens are known."""
    groups = [(own, list(group)) for own, group in groupby(enumerate(rollout.spans), key=lambda item: item[1].sampled)]
    found: list[Stretch] = []
    for place, (own, group) in enumerate(groups):
        if own or place == 0:
            continue
        spans = [span for _, span in group]
        answered = [call for call in rollout.calls if any(call.result_span == index for index, _ in group)]
        former = [span for _, span in groups[place - 1][1]]
        latter = [span for _, span in groups[place + 1][1]] if place + 1 < len(groups) else []
        stretch = Stretch(
            former[-1].turn or 0,
            rollout.output[former[0].start : spans[0].start],
            rollout.output[spans[0].start : spans[-1].end],
            rollout.output[latter[0].start : latter[-1].end] if latter else "",
            answered,
        )
        mask = rollout.tokens.sampled if rollout.tokens else None
        if mask is not None and spans[0].token_start is not None and spans[-1].token_end is not None:
            found.append(_masked(stretch, spans, mask, dialect, goes_on=bool(latter)))
        else:
            found.append(_by_text(stretch, rollout, dialect))
    return found


def _masked(
    stretch: Stretch, spans: Sequence[Span], mask: Sequence[bool], dialect: Dialect, *, goes_on: bool
) -> Stretch:
    """Without the end-of-turn token that the policy has sampled, where the mask says that it has, and nothing more."""
    first, end = spans[0].token_start or 0, spans[-1].token_end or 0
    start = first
    while start < end and mask[start]:
        start += 1
    ended = _ended(stretch.text or "", dialect)
    taken = start - first
    before = first == 0 or mask[first - 1]
    after = not goes_on or any(mask[end : end + 1])
    if not (before and after) or any(mask[start:end]) or taken > 1 or (taken and not ended):
        return stretch._replace(text=None)
    if taken:
        stretch = _without(stretch, ended)
    return stretch._replace(exact=True, start=start, end=end)


def _ended(text: str, dialect: Dialect) -> str:
    """The end-of-turn token that a text begins with; empty where it begins with none."""
    return next((token for token in turn_ends(dialect) if text.startswith(token)), "")


def _without(stretch: Stretch, ended: str) -> Stretch:
    return stretch._replace(before=stretch.before + ended, text=(stretch.text or "").removeprefix(ended))


def _by_text(stretch: Stretch, rollout: Rollout, dialect: Dialect) -> Stretch:
    stretch = _without(stretch, _ended(stretch.text or "", dialect))
    own = dialect.frame if isinstance(dialect, TaggedDialect) else None
    text = stretch.text or ""
    if own is not None and own.ended_by == "call":
        said = stretch.before.rstrip(BLANKS)
        text = stretch.before[len(said) :] + text
        blanks = own.tail[len(own.tail.rstrip(BLANKS)) :]
        taken = 0 if text[-1:] in BLANKS else _shared(blanks, stretch.after)
        return stretch._replace(before=said, text=text + stretch.after[:taken], after=stretch.after[taken:])
    opening = _opening(rollout.prompt or "", text)
    if opening and stretch.after.startswith(opening):
        return stretch._replace(text=text + opening, after=stretch.after[len(opening) :])
    return stretch


def _shared(one: str, other: str) -> int:
    """How many characters the beginnings of two texts share."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _opening(prompt: str, text: str) -> str:
    """What the template writes behind its last header where an answer begins, and the text does not show."""
    at = text.rfind("<|")
    header = text[at:] if at >= 0 else ""
    start = prompt.rfind(header) if header else -1
    opening = prompt[start + len(header) :] if start >= 0 else ""
    return opening if len(opening) <= _LONGEST_OPENING else ""
