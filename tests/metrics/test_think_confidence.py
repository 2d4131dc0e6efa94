"""Thinking and calls, compared inside each rollout."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from token_logs import close, drawn, first_call, in_scope, mean, values_at, written

import gapscope as gs
from gapscope.metrics import groups, think_confidence
from gapscope.rollouts import CallTokens, Span, SpanKind, Tokens, ToolCall

Audit = Callable[..., gs.Report]
MEASURED = (groups, think_confidence)
KEYS = ("think_confidence_mean", "think_surprisal_mean", "tool_think_surprisal_gap")


def thinking(rollout: gs.Rollout, before: int | None = None) -> list[float]:
    """The log-probs of its thinking, as far as it ends before a token."""
    assert rollout.tokens is not None
    return [
        logprob
        for span in rollout.spans
        if span.kind == "think" and span.token_start is not None and span.token_end is not None
        if before is None or span.token_end <= before
        for logprob in values_at(rollout, rollout.tokens.logprobs, span.token_start, span.token_end)
    ]


def by_hand(rollouts: list[gs.Rollout]) -> dict[str, list[float]]:
    """Per key its value in each rollout that has one."""
    found: dict[str, list[float]] = {key: [] for key in KEYS}
    for rollout in rollouts:
        if rollout.tokens is None:
            continue
        if thought := thinking(rollout):
            found["think_confidence_mean"].append(sum(map(math.exp, thought)) / len(thought))
            found["think_surprisal_mean"].append(-sum(thought) / len(thought))
        call = first_call(rollout)
        if call is None or call.tokens is None:
            continue
        called = values_at(rollout, rollout.tokens.logprobs, call.tokens.start, call.tokens.end)
        before = thinking(rollout, call.tokens.start)
        if called and before:
            found["tool_think_surprisal_gap"].append(sum(before) / len(before) - sum(called) / len(called))
    return found


@pytest.mark.parametrize("seed", range(2))
def test_on_a_log_drawn_at_random_the_means_are_those_of_a_plain_script(
    seed: int, audit: Audit, tmp_path: Path
) -> None:
    rollouts = drawn(seed, kinds=[None])
    report = audit(written(tmp_path / "drawn.jsonl", rollouts))
    scope = in_scope(rollouts)
    for key, values in by_hand(scope).items():
        assert (report[key].n, report[key].value) == (len(values), close(mean(values)))
        for row in report[key].table:
            at_step = by_hand([rollout for rollout in scope if rollout.step == row["step"]])[key]
            assert (row["n"], row["value"]) == (len(at_step), close(mean(at_step)))
        assert sum(int(row["n"] or 0) for row in report[key].table) == report[key].n


@pytest.mark.parametrize("seed", range(2))
def test_rollouts_of_which_nothing_is_known_are_counted(seed: int, audit: Audit, tmp_path: Path) -> None:
    rollouts = drawn(seed, kinds=[None])
    report = audit(written(tmp_path / "drawn.jsonl", rollouts))
    scope = in_scope(rollouts)
    known = [r for r in scope if r.tokens and r.tokens.logprobs and r.spans[0].token_start is not None]
    calling = [(r, call) for r in scope if (call := first_call(r))]
    scored = [
        r for r, c in calling if c.tokens and values_at(r, r.tokens and r.tokens.logprobs, c.tokens.start, c.tokens.end)
    ]
    assert report["think_confidence_mean"].details["coverage"] == len(known) / len(scope)
    gap = report["tool_think_surprisal_gap"]
    assert gap.details["coverage"] == len(scored) / len(calling)
    assert gap.excluded == {"no_thinking_before": len(scored) - gap.n}
    assert {report[key].status for key in KEYS} == {"annotated"}
    assert gap.reason == f"only {len(scored)} of {len(calling)} tool-using rollouts have the numbers for it"
    assert f"of {len(scope)} rollouts" in str(report["think_surprisal_mean"].reason)


def pair(first: SpanKind, second: SpanKind) -> gs.Rollout:
    """A rollout of two spans of two tokens each, of which one is a call."""
    rollout = drawn(0, kinds=[None], groups=1)[0]
    spans = [Span(first, 0, 0, 2, True, 0, 2), Span(second, 0, 2, 4, True, 2, 4)]
    start = 2 * [first, second].index("tool_call")
    place = CallTokens(start, start + 1, start + 2, start + 2)
    call = ToolCall(0, 0, start // 2, "", "f", {}, True, True, True, False, False, "no_result", tokens=place)
    tokens = Tokens([1, 2, 3, 4], 0, logprobs=[-1.0, -2.0, -3.0, -5.0], sampled=[True] * 4)
    rollout.output, rollout.spans, rollout.calls, rollout.tokens = "xxxx", spans, [call], tokens
    return rollout


def test_what_is_thought_after_a_call_is_not_compared_with_it(audit: Audit, tmp_path: Path) -> None:
    early, late = pair("think", "tool_call"), pair("tool_call", "think")
    report = audit(written(tmp_path / "two.jsonl", [early, late]))
    gap = report["tool_think_surprisal_gap"]
    assert (gap.value, gap.n, gap.unit) == (4.0 - 1.5, 1, "nats")
    assert gap.excluded == {"no_thinking_before": 1}
    assert (report["think_surprisal_mean"].value, report["think_surprisal_mean"].n) == ((1.5 + 4.0) / 2, 2)


def test_a_log_without_log_probs_says_what_would_give_them(audit: Audit, samples: Path) -> None:
    report = audit(samples / "verl-v1")
    for key in KEYS:
        assert (report[key].value, report[key].status) == (None, "unobserved")
        assert report[key].setting
    assert report["think_confidence_mean"].reason == "the log has no log-probs"


def test_where_no_tool_is_used_there_is_no_gap_and_thinking_has_its_mean(audit: Audit, tmp_path: Path) -> None:
    rollouts = [rollout for rollout in drawn(1, kinds=[None]) if first_call(rollout) is None]
    report = audit(written(tmp_path / "drawn.jsonl", rollouts))
    assert report["tool_think_surprisal_gap"].reason == "no rollout used a tool"
    assert report["think_confidence_mean"].value is not None
