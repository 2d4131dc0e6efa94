"""DeepEyes: observations inside the response, token strings without ids, one file for the whole run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gapscope as gs
from gapscope.parsers.deepeyes import sampled_in

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
CALL = ["<tool_call>", '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2, 3, 4]}}', "</tool_call>"]
WITH_TAGS = ["\n", IM_START, "user", "\n", "<tool_response>", "<|image_pad|>", "</tool_response>", IM_END, "\n"]
NEXT = [IM_START, "assistant", "\n"]
TOKENS = [*CALL, IM_END, *WITH_TAGS, *NEXT, "red", IM_END]


def row(tokens: list[str] = TOKENS, **changes: Any) -> dict[str, Any]:
    whole = {
        "step": 3, "prompt": f"{IM_START}user\nWhich colour?{IM_END}\n{IM_START}assistant\n",
        "response": "".join(tokens), "response_tokens": tokens, "logprobs": [-0.1] * len(tokens),
        "token_rewards": [0.0] * len(tokens), "reward": 0.8, "ground_truth": "red",
    }  # fmt: skip
    return whole | changes


@pytest.fixture
def read(log: Callable[..., Path]) -> Callable[..., gs.Rollout]:
    def one(value: dict[str, Any]) -> gs.Rollout:
        (record,) = gs.read([str(log([value], "rollout_data_rank0.jsonl"))])
        assert isinstance(record, gs.Rollout), record
        return record

    return one


def test_an_observation_is_the_result_of_its_call(read: Callable[..., gs.Rollout]) -> None:
    rollout = read(row())
    assert (rollout.format, rollout.step, rollout.reward, rollout.ground_truth) == ("deepeyes", 3, 0.8, "red")
    assert [(call.name, call.outcome, call.result) for call in rollout.calls] == [
        ("image_zoom_in_tool", "executed_ok", "<|image_pad|>")
    ]
    assert len(rollout.turns) == 2


def test_an_error_without_tags_is_a_result_too(read: Callable[..., gs.Rollout]) -> None:
    error = ["\n", IM_START, "user", "\n", "Error: invalid bbox", IM_END, "\n"]
    (call,) = read(row([*CALL, IM_END, *error, *NEXT, "red"])).calls
    assert (call.outcome, call.result) == ("executed_error", "Error: invalid bbox")


def test_the_policy_wrote_what_is_not_an_observation() -> None:
    own = [token for token, sampled in zip(TOKENS, sampled_in(TOKENS), strict=True) if sampled]
    assert own == [*CALL, IM_END, "red", IM_END]
    assert sampled_in([]) == []
    assert sampled_in([IM_START]) == [False]
    assert sampled_in(["a", IM_START, "user"]) == [True, False, False]


def test_tokens_are_texts_with_the_log_probs_of_the_trainer(read: Callable[..., gs.Rollout]) -> None:
    rollout = read(row(["4", IM_END], logprobs=[-0.25, None]))
    assert rollout.tokens == gs.rollouts.Tokens(
        n_prompt=0, logprobs=[-0.25, None], logprob_source="trainer", sampled=[True, True], strings=["4", IM_END]
    )
    assert rollout.extra == {}


def test_an_observation_has_log_probs_that_nobody_sampled(read: Callable[..., gs.Rollout]) -> None:
    tokens = read(row()).tokens
    assert tokens is not None
    assert tokens.logprobs == [-0.1] * 4 + [None] * 12 + [-0.1] * 2
    assert tokens.sampled == sampled_in(TOKENS)
    seen = read(row([IM_START, "user", "\n"])).tokens
    assert seen is not None
    assert (seen.logprobs, seen.logprob_source) == (None, None)


def test_a_row_without_tokens_has_none(read: Callable[..., gs.Rollout]) -> None:
    assert read(row([])).tokens is None


def test_strings_that_do_not_join_to_the_response_stay_as_they_are(read: Callable[..., gs.Rollout]) -> None:
    rollout = read(row(["\ufffd", "\ufffd"], response="é"))
    assert rollout.output == "é"
    assert rollout.tokens is not None
    assert rollout.tokens.strings == ["\ufffd", "\ufffd"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"response_tokens": ["4", 7]}, "`response_tokens` holds 7, expected texts"),
        ({"logprobs": [-0.5, "low"]}, "`logprobs` holds 'low', expected numbers"),
    ],
)
def test_tokens_of_another_kind_are_refused(log: Callable[..., Path], changes: dict[str, Any], reason: str) -> None:
    (refused,) = gs.read([str(log([row(["4", IM_END], **changes)]))])
    assert isinstance(refused, gs.Refused)
    assert refused.reason == reason


def test_lists_of_unequal_length_are_refused_with_both(log: Callable[..., Path]) -> None:
    (refused,) = gs.read([str(log([row(logprobs=[-0.1])]))])
    assert isinstance(refused, gs.Refused)
    assert refused.reason == f"`response_tokens` has {len(TOKENS)} entries, `logprobs` 1"


def test_optional_keys_are_kept_or_left_out(read: Callable[..., gs.Rollout]) -> None:
    value = row(rm_response="fine", values=[0.0])
    del value["ground_truth"]
    rollout = read(value)
    assert (rollout.extra["rm_response"], rollout.ground_truth) == ("fine", None)
    assert "values" not in rollout.extra
