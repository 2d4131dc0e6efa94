"""Logs with continuations, drawn at random. Each token is one character, and each rollout's prompt another one."""

import math
import random
from typing import NamedTuple

import gapscope as gs
from gapscope.rollouts import CallTokens, Parent, Source, Span, SpanKind, Tokens, ToolCall, Turn

TOOLS = ("search", "python")
BODIES = ("Rome", "rome", "Oslo")
"""All of one length, so that equal confidences are equal to the last bit."""
ENDINGS = ("executed_ok", "executed_error", "opened_not_closed", "unparseable", "unknown_tool", "no_result")
CONFIDENCES = (0.125, 0.25, 0.5, 0.75)


class Drawn(NamedTuple):
    """Rollouts in the order of the log, and of which group each is: a continuation is of its source's."""

    rollouts: list[gs.Rollout]
    groups: dict[str, list[gs.Rollout]]
    continued: dict[str, list[gs.Rollout]]

    def prefixes(self) -> "list[Prefix]":
        """The prefixes in scope."""
        return [
            Prefix(own, source, self.continued[source.rollout_id])
            for own in self.in_scope()
            for source in own
            if source.rollout_id in self.continued
        ]

    def in_scope(self) -> list[list[gs.Rollout]]:
        """All groups but those of the validation split."""
        return [own for own in self.groups.values() if own[0].split != "validation"]


class Prefix(NamedTuple):
    """A prefix that was resampled: the group of its source, the source, and what was sampled after it."""

    group: list[gs.Rollout]
    source: gs.Rollout
    continuations: list[gs.Rollout]

    @property
    def judged(self) -> list[gs.Rollout]:
        """Its continuations that have a verdict."""
        return [rollout for rollout in self.continuations if rollout.correct is not None]

    @property
    def failed(self) -> bool:
        """Whether all tool-using rollouts of the group are wrong."""
        return all(rollout.correct is False for rollout in self.group if rollout.calls)


def drawn(seed: int, *, groups: int = 150) -> Drawn:
    """Groups of two to five rollouts of two runs, two data sources and three steps; some are of validation."""
    rng = random.Random(seed)
    by_group: dict[str, list[gs.Rollout]] = {}
    continued: dict[str, list[gs.Rollout]] = {}
    for number in range(groups):
        # A question is asked at each step, under another id.
        name, ease = f"q{number}", rng.choice([0.1, 0.5])
        of_group = {
            "run": f"run{number % 2}",
            "step": number // 2 % 3,
            "split": "validation" if number % 7 == 6 else "train",
            "data_source": rng.choice(["math", "charts"]),
            "prompt": f"Question {number // 6 % 6}?",
        }
        own = [
            _rollout(rng, rng.choices([True, False, None], [ease, 1 - ease, 0.02])[0], tool=rng.random() < 0.6)
            for _ in range(rng.randint(2, 5))
        ]
        for place, rollout in enumerate(own):
            _set(rollout, of_group, group_id=name, rollout_id=f"{name}.{place}")
        by_group[name] = own
        # Some steps are resampled, and not only the groups that AXPO would choose.
        for source in own if of_group["step"] else []:
            if source.calls and rng.random() < 0.5:
                named = rng.random() < 0.7
                continuations = [_continuation(rng, source, named=named) for _ in range(rng.choice([1, 4, 4]))]
                for place, rollout in enumerate(continuations):
                    prefix = f"of {source.rollout_id}"
                    _set(rollout, of_group, group_id=prefix, rollout_id=f"{prefix} {place}")
                continued[source.rollout_id or ""] = continuations
    everything = [r for own in (*by_group.values(), *continued.values()) for r in own]
    rng.shuffle(everything)
    return Drawn(everything, by_group, continued)


def _set(rollout: gs.Rollout, shared: dict[str, object], **own: object) -> None:
    for name, value in (shared | own).items():
        setattr(rollout, name, value)


def _rollout(rng: random.Random, correct: bool | None, *, tool: bool) -> gs.Rollout:
    think = rng.randint(1, 4)
    scored = rng.random() < 0.8
    return _made(rng, correct, think, ["executed_ok"] if tool else [], scored=scored)


def _continuation(rng: random.Random, source: gs.Rollout, *, named: bool) -> gs.Rollout:
    think = source.spans[0].end
    correct = rng.choices([True, False, None], [0.3, 0.7, 0.05])[0]
    seen = rng.random() < 0.95
    made = _made(rng, correct, think, [rng.choice(ENDINGS)] if seen else [], scored=rng.random() < 0.8)
    made.parent = Parent(source.rollout_id or "", think + 1, prefix_id=f"of {source.rollout_id}" if named else None)
    return made


def _made(rng: random.Random, correct: bool | None, think: int, endings: list[str], *, scored: bool) -> gs.Rollout:
    """Thinking, a call for each ending, and an answer; the tokens all have one probability."""
    output, spans = "t" * think, [_span("think", 0, think, scored=scored)]
    calls: list[ToolCall] = []
    for ending in endings:
        body, start = rng.choice(BODIES), len(output)
        output += f"<{body}>"
        spans.append(_span("tool_call", start, len(output), scored=scored))
        place = CallTokens(1 + start, 2 + start, len(output), 1 + len(output)) if scored else None
        name = None if ending in {"opened_not_closed", "unparseable"} else rng.choice(TOOLS)
        call = ToolCall(
            0, 0, 1, body, name, {"what": body} if name else None, opened=True, closed=ending != "opened_not_closed",
            parsed=name is not None, executed=ending.startswith("executed"), in_think=False, outcome=ending,
            body_start=start + 1, tokens=place,
        )  # fmt: skip
        calls.append(call)
    start, output = len(output), output + "a" * rng.randint(1, 9)
    spans.append(_span("answer", start, len(output), scored=scored))
    probability = math.log(rng.choice(CONFIDENCES))
    tokens = Tokens(
        list(range(1 + len(output))), 1, logprobs=[None, *[probability] * len(output)], logprob_source="rollout",
        sampled=[False, *[True] * len(output)],
    )  # fmt: skip
    return gs.Rollout(
        format="drawn", source=Source("drawn", 1), output=output, spans=spans, calls=calls, turns=[Turn(0)],
        tokens=tokens if scored else None, correct=correct, correct_rule=None if correct is None else "drawn",
    )  # fmt: skip


def _span(kind: SpanKind, start: int, end: int, *, scored: bool) -> Span:
    return Span(kind, 0, start, end, True, *((1 + start, 1 + end) if scored else ()))
