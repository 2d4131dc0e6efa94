"""gapscope's own interchange form: what contradicts itself is refused, with the value."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gapscope as gs

CALL = {
    "index": 0, "turn": 0, "span": 0, "raw": "bcd", "name": None, "arguments": None, "opened": True, "closed": True,
    "parsed": False, "executed": False, "in_think": False, "outcome": "unparseable", "body_start": 1,
}  # fmt: skip
SPAN = {"kind": "tool_call", "turn": 0, "start": 0, "end": 5, "sampled": True}
TOKENS: dict[str, Any] = {"ids": [7, 8, 9], "n_prompt": 0}
PLACE = {"start": 0, "branch": 1, "body_end": 2, "end": 3}


def row(*, tokens: Any = ..., **changes: Any) -> dict[str, Any]:
    whole = {
        "schema": "gapscope.rollout/1", "format": "mine", "source": {"file": "x", "line": 1}, "output": "abcde",
        "spans": [SPAN], "calls": [CALL], "tokens": TOKENS if tokens is ... else tokens,
    }  # fmt: skip
    return whole | changes


@pytest.fixture
def read(log: Callable[..., Path]) -> Callable[..., Any]:
    def one(value: dict[str, Any]) -> Any:
        (record,) = gs.read(str(log([value], "rollouts.jsonl")))
        return record

    return one


def test_all_arrays_of_tokens_are_read(read: Callable[..., Any]) -> None:
    tokens = {
        **TOKENS, "strings": ["a", "bcd", "e"], "sampled": [True] * 3, "logprobs": [-0.5, None, 0.0],
        "logprob_source": "rescored", "scored_by": "tiny", "trainer_logprobs": [-0.25, None, None],
        "entropies": [0.5, None, None], "entropy_kind": "topk", "entropy_uppers": [None, None, 1.5],
        "retokenised": True,
    }  # fmt: skip
    placed = {**SPAN, "token_start": 0, "token_end": 3}
    record = read(row(tokens=tokens, spans=[placed], calls=[{**CALL, "tokens": PLACE}]))
    assert record.tokens == gs.rollouts.Tokens(**tokens)
    assert record.calls[0].tokens == gs.rollouts.CallTokens(0, 1, 2, 3)


def test_definitions_of_tools_are_read_as_they_were_written(read: Callable[..., Any]) -> None:
    tools = [{"type": "function", "function": {"name": "calc", "parameters": {"type": "object"}}}]
    assert (read(row(tools=tools)).tools, read(row()).tools) == (tools, None)


@pytest.mark.parametrize("array", ["strings", "sampled", "logprobs", "trainer_logprobs", "entropies", "entropy_uppers"])
def test_arrays_of_another_length_are_refused(read: Callable[..., Any], array: str) -> None:
    values = [True] if array == "sampled" else ["a"] if array == "strings" else [0.5]
    tokens = {**TOKENS, "entropies": [0.5] * 3, "entropy_kind": "topk", array: values}
    assert read(row(tokens=tokens)).reason == f"`tokens.{array}` has 1 values for 3 tokens"


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        ({}, "`tokens` has neither `ids` nor `strings`"),
        ({"logprobs": []}, "`tokens` has neither `ids` nor `strings`"),
        ({"strings": ["a"], "n_prompt": 2}, "`tokens.n_prompt` is 2 of 1 tokens"),
        ({"ids": [7], "entropies": [0.5]}, "`tokens.entropies` is there, and `tokens.entropy_kind` is missing"),
        (
            {"ids": [7], "entropies": [0.5], "entropy_kind": "full", "entropy_uppers": [0.5]},
            "`tokens.entropy_uppers` is there, and `tokens.entropies` is of the kind full, not topk",
        ),
        (
            {"ids": [7], "entropy_uppers": [0.5]},
            "`tokens.entropy_uppers` is there, and `tokens.entropies` is of the kind None, not topk",
        ),
    ],
)
def test_tokens_that_contradict_themselves_are_refused(read: Callable[..., Any], tokens: Any, reason: str) -> None:
    assert read(row(tokens=tokens)).reason == reason


@pytest.mark.parametrize(
    "changes",
    [{"start": -1}, {"branch": 3}, {"body_end": 0}, {"end": 4}, {"start": 2}],
)
def test_a_call_lies_inside_the_tokens_and_its_offsets_are_in_order(
    read: Callable[..., Any], changes: dict[str, int]
) -> None:
    offsets = list((PLACE | changes).values())
    refused = read(row(calls=[{**CALL, "tokens": PLACE | changes}]))
    assert refused.reason == f"call 0 has the token offsets {offsets} of 3 tokens"


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (2, 1), (0, 4), (0, None), (None, 3)])
def test_a_span_lies_inside_the_tokens(read: Callable[..., Any], start: int | None, end: int | None) -> None:
    refused = read(row(spans=[{**SPAN, "token_start": start, "token_end": end}]))
    assert refused.reason == f"span 0 has the token offsets [{start}, {end}] of 3 tokens"


def test_offsets_without_tokens_are_refused(read: Callable[..., Any]) -> None:
    refused = read(row(tokens=None, calls=[{**CALL, "tokens": PLACE}]))
    assert refused.reason == "call 0 has the token offsets [0, 1, 2, 3] of 0 tokens"


@pytest.mark.parametrize("place", [-1, 0, 2, 10**30])
def test_the_body_of_a_call_stands_where_the_record_says(read: Callable[..., Any], place: int) -> None:
    refused = read(row(calls=[{**CALL, "body_start": place}]))
    assert refused.reason == f"call 0 is not in `output` at `body_start` {place}"


def test_a_call_whose_place_is_not_known_is_no_fault(read: Callable[..., Any]) -> None:
    assert isinstance(read(row(calls=[{**CALL, "body_start": None}])), gs.Rollout)
