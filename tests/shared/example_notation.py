"""Rollouts in the notation of the metrics' examples, a line each."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

import gapscope as gs
from gapscope.rollouts import CallTokens, Parent, RewardPart, Source, Span, Tokens, ToolCall, Turn, to_json

CALLS: dict[str, dict[str, Any]] = {
    "answered": {},
    "error": {"outcome": "executed_error", "result": "Error: no"},
    "unanswered": {"outcome": "no_result", "executed": False, "result": None},
    "unparseable": {"outcome": "unparseable", "executed": False, "result": None, "parsed": False, "name": None},
    "unclosed": {
        "outcome": "opened_not_closed",
        "executed": False,
        "result": None,
        "parsed": False,
        "name": None,
        "closed": False,
    },
    "in_think": {"outcome": "in_think", "executed": False, "result": None, "in_think": True},
}
"""What the option `call=` of an example makes of a rollout's one call."""


def rollout_of(line: str, number: int) -> gs.Rollout:
    """A line of an example as a record: everything it does not say is null, and a tool-using rollout calls once.

    A call that was answered begins a second turn. `chars` and `tokens` are all the policy's own. Where `probs`, `think`
    or `after` give probabilities, the tokens are thinking, then the call (its first token is the opening tag, and its
    last the closing one), then text; `entropies` are those of all of them, and `trainer` the trainer's probabilities.
    `raw` is the body of the call, and `prefix` the text before it. A continuation names its `parent`; its group is the
    prefix, and `branch` the number of characters in that.
    """
    group, tool, verdict, *options = line.split()
    assert tool in {"tool", "-"}, line
    assert verdict in {"right", "wrong"}, line
    given = dict(option.split("=", 1) for option in options)
    source, branch = given.pop("parent", None), given.pop("branch", None)
    output = "x" * int(given.pop("chars", 0))
    tokens = given.pop("tokens", None)
    calls = []
    if tool == "tool" or "call" in given:
        usual = {"name": given.pop("name", "search"), "outcome": "executed_ok", "result": "4"}
        usual |= {"closed": True, "parsed": True, "executed": True, "in_think": False}
        usual |= CALLS[given.pop("call", "answered")]
        raw = given.pop("raw", "")
        calls.append(ToolCall(index=0, turn=0, span=None, raw=raw, arguments={"text": raw}, opened=True, **usual))
    scored = Scored.of(given)
    if scored is not None and calls:
        calls = [msgspec.structs.replace(calls[0], tokens=scored.call)]
    if (prefix := given.pop("prefix", None)) is not None:
        output = prefix + (calls[0].raw if calls else "")
        calls = [msgspec.structs.replace(call, body_start=len(prefix)) for call in calls]
    record = gs.Rollout(
        format="example",
        source=Source("example", number),
        group_id=group,
        reward=float(verdict == "right"),
        reward_parts=[RewardPart("accuracy", float(verdict == "right"), 1.0)],
        correct=verdict == "right",
        correct_rule="the example",
        output=output,
        turns=[Turn(index) for index in range(1 + any(call.executed for call in calls))],
        spans=scored.spans(len(output))
        if scored
        else [Span("text", 0, 0, len(output), sampled=True)]
        if output
        else [],
        calls=calls,
        tokens=scored.tokens if scored else Tokens([7] * int(tokens), sampled=[True] * int(tokens)) if tokens else None,
        step=int(given.pop("step")) if "step" in given else None,
        advantage=float(given.pop("advantage")) if "advantage" in given else None,
        finish_reason=given.pop("finish_reason", None),
        rollout_id=given.pop("rollout_id", None),
        status=given.pop("status", None),
        prompt=given.pop("prompt", None),
        data_source=given.pop("data_source", None),
        parent=Parent(source, int(branch) if branch else None, prefix_id=group) if source else None,
    )
    assert not given, f"unknown options in {line!r}"
    return record


def numbers(text: str | None) -> list[float]:
    return [float(item) for item in text.split(",")] if text else []


PROMPT = [None]
"""The prompt's one token, which has no numbers."""


class Scored(NamedTuple):
    """The tokens of an example with probabilities, and where in them thinking and the call are."""

    tokens: Tokens
    think: int
    called: int

    @classmethod
    def of(cls, given: dict[str, str]) -> "Scored | None":
        parts = [numbers(given.pop(name, None)) for name in ("think", "probs", "after")]
        trainer, entropies = numbers(given.pop("trainer", None)), numbers(given.pop("entropies", None))
        kind = given.pop("kind", "full") if entropies else None
        uppers = numbers(given.pop("uppers", None))
        probabilities = [p for part in parts for p in part]
        if not probabilities:
            return None
        tokens = Tokens(
            list(range(len(PROMPT) + len(probabilities))),
            n_prompt=len(PROMPT),
            logprobs=[*PROMPT, *(math.log(p) for p in probabilities)],
            logprob_source="rollout",
            sampled=[False] * len(PROMPT) + [True] * len(probabilities),
            trainer_logprobs=[*PROMPT, *(math.log(p) for p in trainer)] if trainer else None,
            entropies=[*PROMPT, *entropies] if entropies else None,
            entropy_kind=kind,
            entropy_uppers=[*PROMPT, *uppers] if uppers else None,
        )
        return cls(tokens, len(parts[0]), len(parts[1]))

    @property
    def call(self) -> CallTokens | None:
        start = len(PROMPT) + self.think
        end = start + self.called
        return CallTokens(start, start + 1, end - 1, end) if self.called else None

    def spans(self, size: int) -> list[Span]:
        start = len(PROMPT)
        bounds = (start, start + self.think, start + self.think + self.called, len(self.tokens))
        kinds = ("think", "tool_call", "text")
        # The text is the first span's: examples say how long it is, and not how it is cut.
        return [
            Span(kind, 0, 0 if index == 0 else size, size, True, bounds[index], bounds[index + 1])
            for index, kind in enumerate(kinds)
        ]


def example_lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def repeated(line: str) -> Iterator[str]:
    """The line as often as it says, numbered."""
    line, _, times = line.partition(" times=")
    for number in range(int(times or 1)):
        yield line.replace("{}", str(number))


def log_of(text: str, path: Path) -> Path:
    """The rollouts of an example as a log."""
    lines = [line for written in example_lines(text) for line in repeated(written)]
    records = (rollout_of(line, number) for number, line in enumerate(lines, start=1))
    path.write_bytes(b"".join(to_json(record) + b"\n" for record in records))
    return path
