"""Branch points of a few rollouts, each checked by hand."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gapscope as gs
from gapscope.rollouts import CallTokens, Source, Span, Tokens, ToolCall, Turn, to_json

PROMPT = [1, 2]
LITERAL = gs.Confidence()
THREE = "<c>abc</c>"


def call(index: int, span: int, tokens: CallTokens | None, body_start: int, **changes: Any) -> ToolCall:
    fields: dict[str, Any] = {
        "index": index, "turn": index, "span": span, "raw": "abc", "name": "calc", "arguments": {}, "opened": True,
        "closed": True, "parsed": True, "executed": True, "in_think": False, "outcome": "executed_ok",
        "tokens": tokens, "body_start": body_start,
    }  # fmt: skip
    return ToolCall(**(fields | changes))


def rollout(number: int, *calls: list[float], think: str = "hm", **changes: Any) -> gs.Rollout:
    """Thinking of one token, then calls of as many tokens as there are probabilities; ids are their own numbers."""
    output, spans, found = think, [Span("think", 0, 0, len(think), True, 2, 3)], []
    ids, values, position = [*PROMPT, 10 + len(think)], [None, None, math.log(0.5)], 3
    for index, probabilities in enumerate(calls):
        end = position + len(probabilities)
        start = len(output)
        output += THREE
        spans.append(Span("tool_call", index, start, len(output), True, position, end))
        found.append(call(index, index + 1, CallTokens(position, position + 1, end - 1, end), start + len("<c>")))
        ids += [20 + index] * len(probabilities)
        values += [math.log(p) for p in probabilities]
        position = end
    mask = [False, False] + [True] * (len(ids) - 2)
    tokens = Tokens(ids, 2, logprobs=values, logprob_source="rollout", sampled=mask)
    fields: dict[str, Any] = {
        "format": "test", "source": Source("x", number), "rollout_id": str(number), "group_id": "g", "prompt": "Q",
        "output": output, "spans": spans, "calls": found, "tokens": tokens, "turns": [Turn(0)], "correct": False,
        "correct_rule": "test",
    }  # fmt: skip
    return gs.Rollout(**(fields | changes))


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    def prefixes(*rollouts: gs.Rollout, confidence: gs.Confidence = LITERAL) -> list[dict[str, Any]]:
        path = tmp_path / "log.jsonl"
        path.write_bytes(b"".join(to_json(each) + b"\n" for each in rollouts))
        return gs.prefixes(path, confidence=confidence).to_dicts()

    return prefixes


def test_the_first_call_is_the_branch_point_and_later_ones_are_marked(table: Callable[..., Any]) -> None:
    first, second = table(rollout(1, [0.9, 0.5, 0.1], [0.8, 0.8, 0.8]))
    assert (first["call"], first["first"], first["tokens"], first["characters"]) == (0, True, 4, 5)
    assert (second["call"], second["first"], second["tokens"], second["characters"]) == (1, False, 7, 15)
    assert first["confidence"] == pytest.approx(0.5, abs=1e-12)
    assert second["confidence"] == pytest.approx(0.8, abs=1e-12)
    assert first["entropy"] == pytest.approx(-math.log(0.5), abs=1e-12)
    assert first["entropy_kind"] == "nll"


def test_the_two_means_can_order_prefixes_differently(table: Callable[..., Any]) -> None:
    rollouts = rollout(1, [0.9, 0.9, 0.1]), rollout(2, [0.6, 0.6, 0.6])
    arithmetic = [row["confidence"] for row in table(*rollouts)]
    geometric = [row["confidence"] for row in table(*rollouts, confidence=gs.Confidence(mean="geometric"))]
    assert arithmetic == pytest.approx([0.633333, 0.6], abs=1e-6)
    assert geometric == pytest.approx([0.432675, 0.6], abs=1e-6)


def test_confidence_can_leave_the_delimiters_out_or_take_all_calls(table: Callable[..., Any]) -> None:
    one = rollout(1, [0.9, 0.5, 0.1], [0.8, 0.8, 0.8])
    inner = table(one, confidence=gs.Confidence(span="first_call_no_tags"))
    assert [row["confidence"] for row in inner] == pytest.approx([0.5, 0.8], abs=1e-12)
    every = table(one, confidence=gs.Confidence(span="all_calls"))
    assert [row["confidence"] for row in every] == pytest.approx([3.9 / 6] * 2, abs=1e-12)


def test_siblings_share_the_tokens_of_the_prefix(table: Callable[..., Any]) -> None:
    rows = table(rollout(1, [0.9] * 3), rollout(2, [0.5] * 3), rollout(3, [0.5] * 3, think="hmm"), rollout(4))
    assert [(row["rollout_id"], row["siblings"], row["exactness"]) for row in rows] == [
        ("1", 1, "token_exact"),
        ("2", 1, "token_exact"),
        ("3", 0, "token_exact"),
    ]
    other_group = table(rollout(1, [0.9] * 3), rollout(2, [0.5] * 3, group_id="h"))
    assert [row["siblings"] for row in other_group] == [0, 0]


def retokenised(made: gs.Rollout) -> gs.Rollout:
    made.tokens = Tokens(**{**{f: getattr(made.tokens, f) for f in Tokens.__struct_fields__}, "retokenised": True})
    return made


def test_a_prefix_made_from_text_is_not_exact(table: Callable[..., Any]) -> None:
    (row,) = table(retokenised(rollout(1, [0.9] * 3)))
    assert (row["exactness"], row["unusable"]) == ("text_retokenised", None)
    assert row["confidence"] == pytest.approx(0.9, abs=1e-12)


def changed(made: gs.Rollout, **changes: Any) -> gs.Rollout:
    made.calls = [call(0, 1, changes.pop("tokens", made.calls[0].tokens), 5, **changes)]
    return made


MIXED = CallTokens(3, 4, 5, 6, mixed=True)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"tokens": MIXED}, "boundary_token_mixed"),
        ({"closed": False, "outcome": "opened_not_closed"}, "unclosed"),
        ({"tokens": None}, "calls_unaligned"),
    ],
)
def test_why_a_prefix_cannot_be_used_is_said(changes: dict[str, Any], why: str, table: Callable[..., Any]) -> None:
    (row,) = table(changed(rollout(1, [0.9] * 3), **changes))
    assert row["unusable"] == why


def test_an_unclosed_call_can_be_let_in(table: Callable[..., Any]) -> None:
    one = changed(rollout(1, [0.9] * 3), closed=False, outcome="opened_not_closed")
    (row,) = table(one, confidence=gs.Confidence(require_closed=False))
    assert row["unusable"] is None


def test_a_log_without_tokens_has_prefixes_of_text(table: Callable[..., Any]) -> None:
    one = rollout(1, [0.9] * 3, tokens=None)
    one.spans = [Span(span.kind, span.turn, span.start, span.end, sampled=True) for span in one.spans]
    (row,) = table(changed(one, tokens=None))
    assert (row["exactness"], row["unusable"], row["tokens"]) == ("text_retokenised", "no_logprobs", None)
    assert row["hash"] is not None


def test_the_bounds_of_an_entropy_are_both_given(table: Callable[..., Any]) -> None:
    one = rollout(1, [0.9] * 3)
    assert one.tokens is not None
    fields = {name: getattr(one.tokens, name) for name in Tokens.__struct_fields__}
    lower, upper = [None, None, 0.1, 0.2, 0.3, 0.4], [None, None, 1.1, 1.2, 1.3, 1.4]
    one.tokens = Tokens(**fields | {"entropies": lower, "entropy_uppers": upper, "entropy_kind": "topk"})
    (row,) = table(one)
    assert (row["entropy"], row["entropy_upper"], row["entropy_kind"]) == (0.3, 1.3, "topk")


def test_a_rollout_of_several_outputs_branches_at_the_first_call_of_all(table: Callable[..., Any]) -> None:
    session = {"rollout_id": "s", "sample_index": 0}
    rows = table(
        rollout(1, **session, output_index=0),
        rollout(2, [0.9] * 3, **session, output_index=1),
        rollout(3, [0.5] * 3, **session, output_index=2),
    )
    assert [(row["line"], row["first"]) for row in rows] == [(2, True), (3, False)]
