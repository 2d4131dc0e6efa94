"""Rollouts with tokens: drawn at random, and what a plain script finds in them without gapscope's own numbers.

Each token is one character, so that which tokens a span is made of is known from how it was made.
"""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

import gapscope as gs
from gapscope.rollouts import CallTokens, EntropyKind, Source, Span, SpanKind, Tokens, ToolCall, Turn, to_json

Values = list[float | None]


def written(path: Path, rollouts: Iterable[gs.Rollout]) -> Path:
    """The rollouts as a log."""
    path.write_bytes(b"".join(to_json(rollout) + b"\n" for rollout in rollouts))
    return path


def drawn(seed: int, *, kinds: Sequence[EntropyKind | None], groups: int = 20) -> list[gs.Rollout]:
    """Groups of two to five rollouts at three steps; their entropies are of any of these kinds, or there are none."""
    rng = random.Random(seed)
    found: list[gs.Rollout] = []
    for group in range(groups):
        split = "validation" if group % 5 == 4 else "train"
        for _ in range(rng.randint(2, 5)):
            rollout = _rollout(rng, len(found) + 1, rng.choice(kinds))
            rollout.group_id, rollout.step, rollout.split = f"q{group}", group % 3, split
            found.append(rollout)
    return found


def _rollout(rng: random.Random, number: int, kind: EntropyKind | None) -> gs.Rollout:
    state = rng.choice(["without tokens", "not aligned", *["aligned"] * 6])
    parts: list[SpanKind] = ["think"] if rng.random() < 0.7 else []
    for _ in range(rng.choice([0, 1, 1, 2])):
        parts += ["tool_call", "tool_result"]
        parts += ["think"] if rng.random() < 0.5 else []
    parts.append("answer")
    first = position = rng.randint(0, 3)
    spans: list[Span] = []
    calls: list[ToolCall] = []
    for part in parts:
        end = position + rng.randint(2, 6)
        place = (position, end) if state == "aligned" else (None, None)
        span = Span(part, 0, position - first, end - first, part != "tool_result", *place)
        if part == "think" and rng.random() < 0.2:
            calls.append(_call(len(calls), len(spans), None, in_think=True))
        if part == "tool_call":
            branch = rng.randint(position + 1, end)
            at = CallTokens(position, branch, rng.randint(branch, end), end, mixed=rng.random() < 0.2)
            known = state == "aligned" and rng.random() < 0.85
            calls.append(_call(len(calls), len(spans), at if known else None))
        spans.append(span)
        position = end
    own = [False] * first + [span.sampled for span in spans for _ in range(span.end - span.start)]
    return gs.Rollout(
        format="drawn",
        source=Source("drawn", number),
        output="x" * (position - first),
        turns=[Turn(0)],
        spans=spans,
        calls=calls,
        tokens=None if state == "without tokens" else _tokens(rng, first, own, kind, strings=state == "aligned"),
    )


def _call(index: int, span: int, tokens: CallTokens | None, *, in_think: bool = False) -> ToolCall:
    return ToolCall(
        index, 0, span, "", "search", {}, opened=True, closed=True, parsed=True, executed=not in_think,
        in_think=in_think, outcome="in_think" if in_think else "executed_ok", tokens=tokens,
    )  # fmt: skip


def _tokens(rng: random.Random, first: int, own: list[bool], kind: EntropyKind | None, *, strings: bool) -> Tokens:
    scored, remade = rng.random() < 0.8, rng.random() < 0.2
    by_strings = strings and rng.random() < 0.15
    entropies = _values(rng, own, 1.0) if kind else None
    bounded = kind == "topk" and rng.random() < 0.95
    return Tokens(
        None if by_strings else list(range(len(own))),
        first,
        logprobs=_values(rng, own, -1.0) if scored else None,
        logprob_source=rng.choice(["rollout", "rescored"]) if scored else None,
        entropies=entropies,
        entropy_kind=kind,
        entropy_uppers=[None if e is None else e + 0.5 for e in entropies] if bounded and entropies else None,
        sampled=own,
        strings=["x"] * len(own) if by_strings else None,
        retokenised=remade,
    )


def _values(rng: random.Random, own: list[bool], sign: float) -> Values:
    """A number at most of the tokens that the policy wrote; at others what trainers put there."""
    return [
        (None if rng.random() < 0.25 else sign * rng.expovariate(1)) if mine else rng.choice([0.0, None])
        for mine in own
    ]


# --- A plain script --------------------------------------------------------------------------------------


def in_scope(rollouts: Iterable[gs.Rollout]) -> list[gs.Rollout]:
    return [rollout for rollout in rollouts if rollout.split != "validation"]


def first_call(rollout: gs.Rollout) -> ToolCall | None:
    """The first call outside thinking."""
    return next((call for call in rollout.calls if not call.in_think), None)


def values_at(rollout: gs.Rollout, values: Values | None, start: int, end: int) -> list[float]:
    """The numbers of the tokens [start, end) that the policy wrote and that have one."""
    tokens = rollout.tokens
    if tokens is None or values is None:
        return []
    assert tokens.sampled is not None
    return [v for v, mine in list(zip(values, tokens.sampled, strict=True))[start:end] if mine and v is not None]


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def close(value: float | None) -> Any:
    """Equal up to the order in which floats are added."""
    return None if value is None else pytest.approx(value, rel=0, abs=1e-12)
