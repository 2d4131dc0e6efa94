"""verifiers up to 0.3: calls as JSON in strings, metrics twice, tokens in `trajectory`, and prime-rl's own keys."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gapscope as gs

RESULTS = "outputs/evals/adder--m/3f2a91cc/results.jsonl"
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "5+6?"}]
SAID = [{"role": "assistant", "content": "11"}]


def row(**changes: Any) -> dict[str, Any]:
    """A row of 0.3; `...` takes a key away."""
    whole = {
        "example_id": 7, "prompt": ASKED, "completion": SAID, "answer": "11", "reward": 1.0, "error": None,
        "timing": {"start_time": 1.0}, "is_completed": True, "is_truncated": False,
        "stop_condition": "no_tools_called", "metrics": {"correct": 1.0, "num_turns": 1.0}, "tool_defs": None,
        "correct": 1.0, "num_turns": 1.0, "token_usage": {"input_tokens": 3.0},
    }  # fmt: skip
    return {key: item for key, item in (whole | changes).items() if item is not ...}


def calling(call: Any) -> list[dict[str, Any]]:
    return [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "11"},
        *SAID,
    ]


@pytest.fixture
def read(log: Callable[..., Path]) -> Callable[..., gs.Rollout]:
    """The rollout of one row, changed key by key."""

    def only(name: str = RESULTS, **changes: Any) -> gs.Rollout:
        (record,) = gs.read([str(log([row(**changes)], name))])
        assert isinstance(record, gs.Rollout), record
        return record

    return only


def test_a_row_is_a_rollout_of_the_group_of_its_example(read: Callable[..., gs.Rollout]) -> None:
    rollout = read(mood="good")
    assert rollout.format == "verifiers-results"
    assert (rollout.group_id, rollout.group_origin, rollout.rollout_id) == ("7", "logged", None)
    assert (rollout.prompt, rollout.output) == ("system\nBe brief.\nuser\n5+6?\n", "11\n")
    assert (rollout.ground_truth, rollout.reward, rollout.status, rollout.finish_reason) == ("11", 1.0, "ok", "stop")
    assert (rollout.split, rollout.step, rollout.tokens) == ("validation", None, None)
    assert [(part.name, part.value) for part in rollout.reward_parts] == [("correct", 1.0), ("num_turns", 1.0)]
    assert rollout.extra == {"stop_condition": "no_tools_called", "mood": "good"}


def test_the_metadata_beside_it_names_the_environment(
    log: Callable[..., Path], read: Callable[..., gs.Rollout]
) -> None:
    log([{"env_id": "adder", "model": "m"}], "outputs/evals/adder--m/3f2a91cc/metadata.json")
    assert read().data_source == "adder"
    assert read(task="gsm8k").data_source == "gsm8k"


@pytest.mark.parametrize(
    "call",
    [
        {"id": "c1", "name": "add", "arguments": '{"a": 5}'},
        json.dumps({"id": "c1", "name": "add", "arguments": '{"a": 5}'}),
        json.dumps({"id": "c1", "function": {"name": "add", "arguments": '{"a": 5}'}, "type": "function"}),
    ],
)
def test_a_call_is_the_same_as_an_object_or_as_json_in_a_string(read: Callable[..., gs.Rollout], call: Any) -> None:
    rollout = read(completion=calling(call), tool_defs=[{"name": "add", "description": "", "parameters": {}}])
    assert rollout.declared_tools == ["add"]
    assert [(item.name, item.arguments, item.outcome) for item in rollout.calls] == [("add", {"a": 5}, "executed_ok")]


def test_calls_that_cannot_be_read_are_attempts_all_the_same(read: Callable[..., gs.Rollout]) -> None:
    half = json.dumps({"id": "c1", "name": "add", "arguments": '{"a": '})
    assert [item.outcome for item in read(completion=calling(half)).calls] == ["bad_arguments"]
    assert [item.outcome for item in read(completion=calling("{broken")).calls] == ["unparseable"]


def test_tools_of_older_rows_are_in_their_info(read: Callable[..., gs.Rollout]) -> None:
    info = {"oai_tools": [{"type": "function", "function": {"name": "add"}}]}
    assert read(tool_defs=..., info=info).declared_tools == ["add"]


def test_definitions_of_tools_are_there_as_they_were_written(read: Callable[..., gs.Rollout]) -> None:
    definitions = [{"name": "add", "description": "Add.", "parameters": {"type": "object"}}]
    assert read(tool_defs=definitions).tools == definitions
    assert read(tool_defs=..., info={"oai_tools": definitions}).tools == definitions
    assert read(tool_defs=[]).tools is None


def test_rows_before_metrics_had_a_key_of_their_own(read: Callable[..., gs.Rollout]) -> None:
    rollout = read(
        metrics=..., example_id=..., stop_condition=..., is_completed=..., is_truncated=..., timing=...,
        tool_defs=..., token_usage=..., task="default", generation_ms=12.0, correct=0.5, note="odd",
    )  # fmt: skip
    assert [(part.name, part.value) for part in rollout.reward_parts] == [("correct", 0.5), ("num_turns", 1.0)]
    assert (rollout.group_id, rollout.group_origin, rollout.data_source) == (None, None, "default")
    assert (rollout.status, rollout.finish_reason) == (None, None)
    assert rollout.extra == {"note": "odd"}


def test_an_environment_that_completes_text_holds_texts(read: Callable[..., gs.Rollout]) -> None:
    rollout = read(prompt="5+6=", completion="11")
    assert (rollout.prompt, rollout.output, rollout.output_origin) == ("5+6=", "11", "logged")


@pytest.mark.parametrize(
    ("changes", "finish", "status"),
    [
        ({"stop_condition": "max_turns_reached"}, "stop", "ok"),
        ({"stop_condition": "max_turns_reached", "completion": calling({"name": "add"})}, "turn_limit", "ok"),
        ({"stop_condition": "max_turns_reached", "is_truncated": True}, "length", "truncated"),
        ({"stop_condition": "prompt_too_long"}, "length", "ok"),
        ({"stop_condition": "solved"}, "solved", "ok"),
        ({"stop_condition": "has_error", "error": {"error": "ToolError", "message": "gone"}}, "error", "error"),
        ({"stop_condition": ..., "is_truncated": True}, "length", "truncated"),
        ({"stop_condition": ..., "is_completed": False}, None, None),
        ({"is_filtered": True}, "stop", "masked"),
    ],
)
def test_why_it_ended(
    read: Callable[..., gs.Rollout], changes: dict[str, Any], finish: str | None, status: str | None
) -> None:
    rollout = read(**changes)
    assert (rollout.finish_reason, rollout.status) == (finish, status)


def test_a_reward_that_was_not_scored_is_none(read: Callable[..., gs.Rollout]) -> None:
    rollout = read(reward=0.0, metrics={}, completion=None, error="ToolError('gone')")
    assert (rollout.reward, rollout.notes, rollout.output) == (None, ["not_scored"], "")
    assert read(reward=0.0).reward == 0.0


def step(prompt: list[int], completion: list[int], **changes: Any) -> dict[str, Any]:
    tokens = {
        "prompt_ids": prompt, "prompt_mask": [0] * len(prompt), "completion_ids": completion,
        "completion_mask": [1] * len(completion), "completion_logprobs": [-0.5] * len(completion),
    }  # fmt: skip
    return {"tokens": tokens | changes, "trajectory_id": "t-1", "advantage": None}


def test_the_sequences_of_a_trajectory_lie_in_the_last_one(read: Callable[..., gs.Rollout]) -> None:
    rollout = read(trajectory=[step([1, 2], [3]), step([1, 2, 3, 4], [5, 6])])
    assert rollout.rollout_id == "t-1"
    assert rollout.tokens is not None
    assert rollout.tokens.ids == [1, 2, 3, 4, 5, 6]
    assert rollout.tokens.sampled == [False, False, True, False, True, True]
    assert rollout.tokens.logprobs == [None, None, -0.5, None, -0.5, -0.5]
    assert (rollout.tokens.n_prompt, rollout.tokens.logprob_source) == (2, "rollout")


def test_a_trajectory_whose_history_was_rewritten_has_no_one_sequence(read: Callable[..., gs.Rollout]) -> None:
    rollout = read(trajectory=[step([1, 2], [3]), step([1, 9, 3, 4], [5, 6])])
    assert rollout.tokens is None
    assert rollout.notes == ["token_history_rewritten"]
    assert read(trajectory=[step([1, 2], [3]), {"tokens": None}]).tokens is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"reward": "high"}, "`reward` is 'high', expected a number"),
        ({"completion": 7}, "`completion` is int, expected text or a list of messages"),
        ({"prompt": [3]}, "a message is 3, expected an object with a role"),
        (
            {"trajectory": [step([1], [2], completion_logprobs=[-1.0, -1.0])]},
            "`completion_logprobs` has 2 values for 1 tokens",
        ),
        (
            {"trajectory": [step([1], [2], prompt_ids="x")]},
            "`trajectory[].tokens`: Expected `array`, got `str` - at `$.prompt_ids`",
        ),
    ],
)
def test_what_does_not_fit_is_refused(log: Callable[..., Path], changes: dict[str, Any], reason: str) -> None:
    (refused,) = gs.read([str(log([row(**changes)], RESULTS))])
    assert isinstance(refused, gs.Refused)
    assert refused.reason == reason


STAMP = {"env_name": "math", "group_id": "g-1", "policy_version": 5, "off_policy_steps": 1, "rollout_id": "r-1"}


def test_prime_rl_says_step_group_and_advantage(read: Callable[..., gs.Rollout]) -> None:
    path = "run_default/rollouts/step_12/train_rollouts.jsonl"
    rollout = read(path, **STAMP, advantage=-0.25, is_filtered=False, filters={"zero_advantage": False})
    assert (rollout.step, rollout.split, rollout.group_id, rollout.rollout_id) == (12, "train", "g-1", "r-1")
    assert (rollout.advantage, rollout.data_source) == (-0.25, "math")
    assert [turn.policy_version for turn in rollout.turns] == ["5"]
    assert rollout.run is not None
    assert rollout.run.endswith("/run_default")


def test_prime_rls_evaluations_are_validation(read: Callable[..., gs.Rollout]) -> None:
    rollout = read("run_default/rollouts/step_12/eval_rollouts_math.jsonl", **STAMP, eval_step=11)
    assert (rollout.step, rollout.split, rollout.advantage) == (11, "validation", None)


def test_a_table_of_prompts_and_completions_is_no_evaluation(log: Callable[..., Path]) -> None:
    rows = [{"prompt": "5+6=", "completion": "11", "reward": 1.0}]
    with pytest.raises(gs.InputError, match="no rollouts"):
        list(gs.read([str(log(rows, RESULTS))]))


def test_an_empty_file_and_one_that_is_cut_off(log: Callable[..., Path]) -> None:
    with pytest.raises(gs.NothingScanned):
        list(gs.read([str(log([], RESULTS))]))
    whole = json.dumps(row()).encode()
    read, refused = gs.read([str(log(whole + b"\n" + whole[:200], RESULTS))])
    assert isinstance(read, gs.Rollout)
    assert isinstance(refused, gs.Refused)
