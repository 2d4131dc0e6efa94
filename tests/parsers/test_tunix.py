import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gapscope as gs

CALL = '<tool_call>\n{"name": "calc", "arguments": {}}\n</tool_call>'
ASKED = {"role": "user", "content": "2+2?"}
SAID = {"role": "assistant", "content": "It's 4."}


def trajectory(**changes: Any) -> dict[str, Any]:
    """A row before it is printed; `...` takes a column away."""
    whole = {
        "conversation_text": [ASKED, SAID], "prompt_tokens": [1, 2], "conversation_tokens": [3, 4, 5],
        "conversation_masks": [1, 0, 1], "status": "SUCCEEDED", "trajectory_reward": 1.0,
        "env_time": {"reset_latency": 0.1}, "reward_time": 0.1, "old_logprobs": [-0.5, 0.0, -0.25],
        "policy_version": 3, "original_input": {"question": "2+2?", "answer": "4"}, "group_id": 12,
    }  # fmt: skip
    return {key: value for key, value in (whole | changes).items() if value is not ...}


@pytest.fixture
def tunix(log: Callable[..., Path]) -> Callable[..., list[Any]]:
    def read(*rows: dict[str, Any], name: str = "logs/trajectory_log_1755900000.csv") -> list[Any]:
        out = io.StringIO(newline="")
        table = csv.DictWriter(out, rows[0].keys(), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        return list(gs.read([str(log(out.getvalue().encode(), name))]))

    return read


def test_a_trajectory(tunix: Callable[..., Any], tmp_path: Path) -> None:
    (rollout,) = tunix(trajectory())
    assert (rollout.run, rollout.step, rollout.split) == (str(tmp_path / "logs"), 3, None)
    assert (rollout.group_id, rollout.group_origin, rollout.reward) == ("12", "logged", 1.0)
    assert (rollout.status, rollout.finish_reason, rollout.output) == ("ok", "stop", "It's 4.\n")
    assert [turn.policy_version for turn in rollout.turns] == ["3"]
    assert rollout.extra == {"original_input": {"question": "2+2?", "answer": "4"}}
    assert rollout.notes == ["step_is_weight_version"]


def test_tokens_of_prompt_and_conversation_are_joined(tunix: Callable[..., Any]) -> None:
    (rollout,) = tunix(trajectory())
    assert rollout.tokens == gs.rollouts.Tokens(
        [1, 2, 3, 4, 5],
        n_prompt=2,
        logprobs=[None, None, -0.5, None, -0.25],
        logprob_source="rollout",
        sampled=[False, False, True, False, True],
    )


def test_without_those_of_the_prompt_the_tokens_are_the_conversations_alone(tunix: Callable[..., Any]) -> None:
    (rollout,) = tunix(trajectory(prompt_tokens=None))
    assert (rollout.tokens.ids, rollout.tokens.n_prompt) == ([3, 4, 5], 0)


@pytest.mark.parametrize("logprobs", [None, [0.0, 0.0, 0.0]])
def test_log_probs_that_the_sampler_did_not_return_are_absent(tunix: Callable[..., Any], logprobs: Any) -> None:
    (rollout,) = tunix(trajectory(old_logprobs=logprobs))
    assert (rollout.tokens.logprobs, rollout.tokens.logprob_source) == (None, None)


def test_nan_in_a_list_is_no_value(tunix: Callable[..., Any]) -> None:
    (rollout,) = tunix(trajectory(old_logprobs=[float("nan"), 0.0, -1.0]))
    assert rollout.tokens.logprobs == [None, None, None, None, -1.0]


def test_a_mask_of_zeros_is_that_of_a_trajectory_that_was_filtered_out(tunix: Callable[..., Any]) -> None:
    (rollout,) = tunix(trajectory(conversation_masks=[0, 0, 0], status="MAX_CONTEXT_LIMIT_REACHED"))
    assert (rollout.status, rollout.finish_reason, rollout.tokens.sampled) == ("masked", "length", None)
    assert rollout.tokens.logprobs == [None, None, -0.5, None, -0.25]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("SUCCEEDED", ("ok", "stop")),
        ("RUNNING", (None, None)),
        ("MAX_STEPS_REACHED", (None, "turn_limit")),
        ("MAX_CONTEXT_LIMIT_REACHED", ("truncated", "length")),
        ("TIMEOUT", ("error", "timeout")),
        ("ENV_TIMEOUT", ("error", "timeout")),
        ("FAILED", ("error", "error")),
        ("NEW_ONE", (None, "NEW_ONE")),
        (None, (None, None)),
    ],
)
def test_how_a_trajectory_ended(tunix: Callable[..., Any], status: Any, said: Any) -> None:
    (rollout,) = tunix(trajectory(status=status))
    assert (rollout.status, rollout.finish_reason) == said


def test_a_group_that_spans_two_versions_has_one_step(tunix: Callable[..., Any]) -> None:
    rows = [trajectory(policy_version=version, group_id=group) for version, group in ((4, 12), (3, 12), (4, 13))]
    read = tunix(*rows)
    assert [(r.group_id, r.step, r.turns[0].policy_version) for r in read] == [
        ("12", 3, "4"),
        ("12", 3, "3"),
        ("13", 4, "4"),
    ]


def test_the_number_in_the_name_is_no_step(tunix: Callable[..., Any]) -> None:
    (rollout,) = tunix(trajectory(policy_version="None", group_id="None", trajectory_reward=None))
    assert (rollout.step, rollout.group_id, rollout.group_origin, rollout.reward) == (None, None, None, None)
    assert rollout.notes == []


def test_a_call_in_the_text_is_answered_by_what_the_tool_itself_said(tunix: Callable[..., Any]) -> None:
    answer = {"role": "tool", "tool_call_id": "u1", "content": "Tool returned result: Error: no number"}
    said = [ASKED, {"role": "assistant", "content": CALL}, answer, SAID]
    (rollout,) = tunix(trajectory(conversation_text=said))
    assert [(c.name, c.outcome, c.result) for c in rollout.calls] == [("calc", "executed_error", "Error: no number")]
    assert len(rollout.turns) == 2


def test_tools_are_declared_in_the_system_prompt(tunix: Callable[..., Any]) -> None:
    system = {"role": "system", "content": 'Think.\n<tools>\n{"name": "add"}\n</tools>'}
    (rollout,) = tunix(trajectory(conversation_text=[system, ASKED, {"role": "assistant", "content": CALL}]))
    assert (rollout.declared_tools, rollout.calls[0].outcome) == (["add"], "unknown_tool")
    assert (rollout.tools, rollout.messages) == (None, [system, ASKED])


def test_columns_that_nobody_has_heard_of_are_kept_as_text(tunix: Callable[..., Any]) -> None:
    (rollout,) = tunix(trajectory(original_input="a 'question'", note="new", empty=None))
    assert rollout.extra == {"original_input": "a 'question'", "note": "new"}


def test_arrays_that_were_printed_with_gaps_cost_the_text_nothing(tunix: Callable[..., Any]) -> None:
    (rollout,) = tunix(trajectory(conversation_tokens="[1 2 3 ... 7 8 9]"))
    assert (rollout.tokens, rollout.output) == (None, "It's 4.\n")
    assert rollout.notes == ["tokens_cannot_be_read", "step_is_weight_version"]


def test_thousands_of_tokens_are_read(tunix: Callable[..., Any]) -> None:
    tokens = list(range(50_000))
    row = trajectory(conversation_tokens=tokens, conversation_masks=[1] * 50_000, old_logprobs=[-0.5] * 50_000)
    (rollout,) = tunix(row)
    assert rollout.tokens.ids[2:] == tokens


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"conversation_text": "['a'"}, "`conversation_text` is not a printed value at character 5: ''"),
        ({"conversation_text": None}, "`conversation_text` is NoneType, expected a list of messages"),
        ({"conversation_masks": [1]}, "`conversation_masks` has 1 items, and `conversation_tokens` has 3"),
        ({"old_logprobs": [-1.0]}, "`old_logprobs` has 1 items, and `conversation_tokens` has 3"),
        ({"trajectory_reward": "high"}, "`trajectory_reward` is 'high', expected a number"),
    ],
)
def test_a_row_that_cannot_be_read_is_refused(tunix: Callable[..., Any], changes: Any, reason: str) -> None:
    _, refused = tunix(trajectory(), trajectory(**changes))
    assert refused.reason == reason


def test_the_tables_of_other_learners_are_not_claimed(log: Callable[..., Path]) -> None:
    path = log(b"call_idx,sample_idx,reward,prompt,completion\n1,0,1.0,a,b\n", "trajectory_log_1.csv")
    with pytest.raises(gs.InputError, match="no rollouts of a known format"):
        list(gs.read([str(path)]))
