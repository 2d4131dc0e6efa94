"""Logs to plan from, with tokens, groups and calls, in which everything is known; and what a plan may lead to.

A special tag is one token, and so is a word or a sign of any other text.
"""

import math
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from msgspec.structs import replace

import gapscope as gs
from gapscope.axpo.continuations import continuation, originals
from gapscope.plan_options import PlanOptions
from gapscope.plans import Plan, PlannedPrefix
from gapscope.recorders import RolloutWriter
from gapscope.rollouts import CallTokens, Outcome, Parent, Source, Span, SpanKind, Tokens, ToolCall, Turn, to_json

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_PIECE = re.compile(r"</?(?:tool_call|tool_response|think|answer)>|\w+|\W")
_TIED = (math.log(0.5),) * 16
"""Log-probs of a call as sure as any other that has them, to the last bit."""


class Made(NamedTuple):
    """A call: its body, with which delimiters and what answer, and the log-probs of its tokens."""

    body: str = '{"name": "calc", "arguments": {"x": 1}}'
    closed: bool = True
    parsed: bool = True
    answer: str | None = "4"
    in_think: bool = False
    mixed: bool = False
    logprobs: Sequence[float] | None = None

    @property
    def outcome(self) -> Outcome:
        """Its class (metrics, section 3)."""
        if self.in_think:
            return "in_think"
        if not self.closed:
            return "opened_not_closed"
        if not self.parsed:
            return "unparseable"
        return "no_result" if self.answer is None else "executed_ok"


def pieces(text: str) -> list[str]:
    """The tokens of a text."""
    return _PIECE.findall(text)


def ids(text: str) -> list[int]:
    """Their ids."""
    return [crc32(piece.encode()) % 100_000 for piece in pieces(text)]


def rollout(
    calls: Sequence[Made] = (),
    *,
    prompt: str = "What is 1 + 1?",
    answer: str = "2",
    logprob: Callable[[], float] = lambda: -0.1,
    **fields: object,
) -> gs.Rollout:
    """A rollout that thinks and makes these calls, with all tokens; `logprob` gives what a token's is, if not given."""
    record = gs.Rollout(format="drawn", source=Source("drawn", 1), dialect="hermes", turns=[Turn(0)])
    writer = _Writer(record, prompt, logprob)
    inner = next((each for each in calls if each.in_think), None)
    writer.part("think", f"<think>hm {OPEN}{inner.body}{CLOSE}</think>" if inner else "<think>hm</think>")
    for each in calls:
        writer.call(each)
        if each.outcome == "executed_ok":
            writer.part("tool_result", f"<tool_response>{each.answer}</tool_response>")
            record.turns.append(Turn(len(record.turns)))
    if all(each.closed for each in calls):
        writer.part("answer", f"<answer>{answer}</answer>")
    record.prompt, record.output, record.tokens = prompt, writer.text, writer.tokens()
    for name, value in fields.items():
        setattr(record, name, value)
    if record.correct is not None:
        record.correct_rule = "drawn"
    return record


class _Writer:
    """Text and tokens of a rollout as it grows."""

    def __init__(self, record: gs.Rollout, prompt: str, logprob: Callable[[], float]) -> None:
        self._record = record
        self._logprob = logprob
        self._n_prompt = len(pieces(prompt))
        self._ids = ids(prompt)
        self._values: list[float | None] = [None] * self._n_prompt
        self._sampled = [False] * self._n_prompt
        self.text = ""

    def part(self, kind: SpanKind, text: str, values: Sequence[float] | None = None) -> None:
        own, start, first = kind != "tool_result", len(self.text), len(self._ids)
        self.text += text
        found = ids(text)
        self._ids += found
        self._sampled += [own] * len(found)
        for place in range(len(found)):
            known = values[place % len(values)] if values else None
            self._values.append(None if not own else self._logprob() if known is None else known)
        turn = len(self._record.turns) - 1
        self._record.spans.append(Span(kind, turn, start, len(self.text), own, first, len(self._ids)))

    def call(self, made: Made) -> None:
        index, spans, turn = len(self._record.calls), self._record.spans, len(self._record.turns) - 1
        executed = made.outcome == "executed_ok"
        place, at, span = None, len("<think>hm ") + len(OPEN), 0
        if not made.in_think:
            first, at, span = len(self._ids), len(self.text) + len(OPEN), len(spans)
            self.part("tool_call", OPEN + made.body + (CLOSE if made.closed else ""), made.logprobs)
            place = CallTokens(first, first + 1, len(self._ids) - made.closed, len(self._ids), mixed=made.mixed)
        self._record.calls.append(
            ToolCall(
                index, turn, span, made.body, "calc" if made.parsed else None, {"x": 1} if made.parsed else None,
                opened=True, closed=made.closed, parsed=made.parsed, executed=executed, in_think=made.in_think,
                outcome=made.outcome, body_start=at, tokens=place,
                result=made.answer if executed else None, result_span=span + 1 if executed else None,
            )
        )  # fmt: skip

    def tokens(self) -> Tokens:
        return Tokens(self._ids, self._n_prompt, logprobs=self._values, logprob_source="rollout", sampled=self._sampled)


# --- Drawn at random -------------------------------------------------------------------------------------


def drawn(seed: int, *, steps: int = 25, groups: int = 5, indexed: bool = True, ties: bool = True) -> list[gs.Rollout]:
    """Steps of one to nine groups (five on average) of one to six rollouts, with all that can be wrong with them.

    Without `indexed` rollouts have neither a place in their group nor a name, and no two are alike.
    """
    rng = random.Random(seed)
    found: list[gs.Rollout] = []
    for step in range(steps):
        number = rng.randint(1, 2 * groups - 1)
        batch = [_group(rng, f"q{step % 7}-{place}", ties=ties and indexed) for place in range(number)]
        if rng.random() < 0.3:
            batch = [_mixed_up(rng, batch)]
        for each in (rollout for group in batch for rollout in group):
            each.step = step
            each.rollout_id = f"r{len(found)}"
            found.append(each)
    for parent in rng.sample(found, min(3, len(found))):
        child = rollout([Made()], prompt=parent.prompt or "", correct=True)
        child.rollout_id, child.step, child.split = f"c{len(found)}", parent.step, parent.split
        child.group_id, child.parent = f"p{len(found)}", Parent(parent.rollout_id or "")
        found.append(child)
    if not indexed:
        for number, each in enumerate(found):
            each.sample_index = None
            each.rollout_id = None if each.parent is None else each.rollout_id
            each.output += f"{number}"
            each.spans[-1] = replace(each.spans[-1], end=len(each.output))
    return found


def _mixed_up(rng: random.Random, batch: list[list[gs.Rollout]]) -> list[gs.Rollout]:
    mixed = [rollout for group in batch for rollout in group]
    rng.shuffle(mixed)
    return mixed


def _group(rng: random.Random, name: str, *, ties: bool) -> list[gs.Rollout]:
    size = rng.randint(1, 6)
    odd = rng.random()
    members = [_drawn(rng, name, ties=ties) for _ in range(size)]
    places = rng.sample(range(9), size)
    for place, each in zip(places, members, strict=True):
        each.group_id, each.sample_index, each.split = name, place, "validation" if odd > 0.95 else "train"
        each.data_source = rng.choice(["math", "search"])
    if odd < 0.04:
        members[0].correct = members[0].correct_rule = None
    elif odd < 0.08:
        members[0].prompt = "Another question?"
    elif odd < 0.12:
        for each in members:
            each.prompt = None
    return members


def _drawn(rng: random.Random, question: str, *, ties: bool) -> gs.Rollout:
    calls = [Made(in_think=True)] if rng.random() < 0.1 else []
    tied = ties and rng.random() < 0.3
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        state = rng.random()
        calls.append(
            Made(
                closed=state > 0.12,
                parsed=0.12 < state < 0.85,
                answer=None if 0.12 < state < 0.25 else "4",
                mixed=rng.random() < 0.08,
                logprobs=_TIED if tied else None,
            )
        )
        if not calls[-1].closed or tied:
            break
    correct = rng.random() < 0.25
    made = rollout(
        calls, prompt=f"Question {question}?", answer=str(rng.random()), logprob=lambda: -rng.expovariate(2.0),
        correct=correct, reward=float(correct),
    )  # fmt: skip
    return _damaged(rng, made)


def _damaged(rng: random.Random, made: gs.Rollout) -> gs.Rollout:
    """What trainers leave out of their logs, in one rollout of four."""
    tokens = made.tokens
    assert tokens is not None
    fault = rng.randrange(28)
    if fault == 0:
        made.tokens = None
        made.spans = [replace(span, token_start=None, token_end=None) for span in made.spans]
    elif fault == 1:
        made.tokens = replace(tokens, retokenised=True)
    elif fault == 2:
        strings = [*pieces(made.prompt or ""), *pieces(made.output)]
        made.tokens = replace(tokens, ids=None, strings=strings)
    elif fault == 3:
        made.tokens = replace(tokens, n_prompt=None)
    elif fault == 4:
        made.tokens = replace(tokens, logprobs=None, logprob_source=None)
    if fault in {0, 5}:
        made.calls = [replace(call, tokens=None) for call in made.calls]
    return made


def attempts(each: gs.Rollout) -> list[ToolCall]:
    """The calls outside thinking."""
    return [call for call in each.calls if not call.in_think]


def uses(each: gs.Rollout, options: PlanOptions) -> bool:
    """Whether it is tool-using, as the options say it (axpo, section 1)."""
    calls = attempts(each)
    if options.tool_using == "parsed":
        calls = [call for call in calls if call.parsed]
    if options.tool_using == "executed":
        calls = [call for call in calls if call.executed]
    return bool(calls)


# --- Files -----------------------------------------------------------------------------------------------


def written(path: Path, rollouts: Iterable[gs.Rollout]) -> Path:
    """The rollouts as a log."""
    path.write_bytes(b"".join(to_json(rollout) + b"\n" for rollout in rollouts))
    return path


def resampled(
    path: Path, plan: Plan, chance: float | Callable[[PlannedPrefix], float], *, seed: int = 0, whole: bool = True
) -> Path:
    """The log that a plan leads to if each continuation is correct with this chance; the continuations alone if not
    `whole`."""
    rng = random.Random(seed)
    with RolloutWriter(path) as log:
        if whole:
            log.write(*originals(plan.header))
        for prefix in plan.prefixes:
            own = chance(prefix) if callable(chance) else chance
            log.write(*_continuations(prefix, [rng.random() < own for _ in range(prefix.k)]))
    return path


def _continuations(prefix: PlannedPrefix, verdicts: Iterable[bool]) -> Iterator[gs.Rollout]:
    for index, correct in enumerate(verdicts):
        body = f'{{"name": "calc", "arguments": {{"x": {index}}}}}{CLOSE}'
        answer = f"<answer>{2 if correct else 3}</answer>"
        if not prefix.prefix.exact:
            yield continuation(prefix, index, body + answer, correct=correct)
            continue
        own = [*ids(body), *ids(answer)]
        values = [-0.1] * len(own)
        yield continuation(prefix, index, body + answer, correct=correct, token_ids=own, logprobs=values)
