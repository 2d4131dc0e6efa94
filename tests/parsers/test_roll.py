import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gapscope as gs

NAME = "dump/rollout_dump_data.step_3.jsonl"
ASKED = {"role": "user", "content": "2+2?"}
SAID = {"role": "assistant", "content": "4"}
CALL = '<tool_call>\n{"name": "calc", "arguments": {}}\n</tool_call>'


def rlvr(n: int = 2, **columns: Any) -> dict[str, Any]:
    """The line of an RLVR pipeline; `...` takes a column away."""
    whole: dict[str, Any] = {
        "global_step": [3] * n, "id": ["q7"] * n, "prompt": ["2+2?"] * n, "ground_truth": ["4"] * n,
        "tag": ["sums"] * n, "domain": ["math_rule"] * n, "responses": ["4"] * n, "scores": [1.0] * n,
        "sampling_params": ["{}"] * n,
    }  # fmt: skip
    return {name: column for name, column in (whole | columns).items() if column is not ...}


def native(**changes: Any) -> dict[str, Any]:
    """A trajectory of AgentNative."""
    whole = {
        "trajectory_id": "swe_3_3_0_1_5_42_20260819_120000_000000",
        "env_info": {"env_id": 1, "group_id": 0, "tag": "swe", "seed": 42, "episode_id": 5, "mode": "train"},
        "reward_info": {"episode_reward": 1.0, "step_rewards": [0, 1.0]},
        "failure_info": {"stop_reason": "FINISH", "has_failure": False}, "last_observation": ["long"],
    }  # fmt: skip
    return whole | changes


def proxy(name: str = "swe_0_5_42_1_20260819_120000_000000", **changes: Any) -> dict[str, Any]:
    """A trajectory of Proxy."""
    whole = {
        "trajectory_id": name, "branch_or_step_idx": 0, "num_branches_or_steps": 1,
        "reward_info": {"episode_reward": 1.0, "step_reward": 1.0}, "finish_reason": "unknown",
    }  # fmt: skip
    return whole | changes


def agentic(*rows: tuple[Any, Any], tools: Any = (), **columns: Any) -> dict[str, Any]:
    """The line of an agentic pipeline, of trajectories and their messages."""
    return {
        "trajectory_data": [json.dumps(data) for data, _ in rows],
        "messages": [json.dumps(messages) for _, messages in rows],
        "tools": [json.dumps(tools)] * len(rows),
        "exp_name": ["x"] * len(rows),
        "global_step": [3] * len(rows),
    } | columns


@pytest.fixture
def roll(log: Callable[..., Path]) -> Callable[..., list[Any]]:
    return lambda *lines, name=NAME: list(gs.read([str(log(lines, name))]))


def test_a_line_of_columns_is_a_rollout_for_each_row(roll: Callable[..., Any], tmp_path: Path) -> None:
    first, second = roll(rlvr(scores=[1.0, 0.0], responses=["4", "5"], difficulty=[1, 2]))
    assert (first.format, first.run, first.step, first.split) == ("roll-rlvr", str(tmp_path / "dump"), 3, "train")
    assert (first.reward, first.output, first.prompt, first.ground_truth) == (1.0, "4", "2+2?", "4")
    assert (first.group_id, first.group_origin, first.data_source) == ("math_rule:q7", "logged", "sums")
    assert (second.output, second.reward, second.sample_index) == ("5", 0.0, 1)
    assert second.extra == {"domain": "math_rule", "difficulty": 2}


def test_an_id_may_be_a_number_and_a_domain_missing(roll: Callable[..., Any]) -> None:
    assert {rollout.group_id for rollout in roll(rlvr(id=[7, 7], domain=...))} == {"7"}
    assert {rollout.group_id for rollout in roll(rlvr(id=...))} == {None}


@pytest.mark.parametrize("messages", [[ASKED], json.dumps([ASKED])])
def test_messages_come_before_the_prompt_also_as_json_in_a_string(roll: Callable[..., Any], messages: Any) -> None:
    (rollout,) = roll(rlvr(1, messages=[messages], prompt=["other"]))
    assert (rollout.prompt, rollout.messages) == ("user\n2+2?\n", [ASKED])


def test_a_step_that_the_name_contradicts_is_noted(roll: Callable[..., Any]) -> None:
    (rollout,) = roll(rlvr(1, global_step=[4]))
    assert (rollout.step, rollout.notes) == (4, ["step_differs_from_file_name"])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (rlvr(scores=[1.0]), "the columns are of unequal length: `global_step` 2, `id` 2, `prompt` 2, "),
        (rlvr(tag="sums"), "`tag` is str, expected a column of values"),
        (rlvr(0), "the columns hold no row"),
        (
            agentic((native(), [[SAID]]), messages=["[]", "[]"]),
            "the columns are of unequal length: `trajectory_data` 1",
        ),
    ],
)
def test_columns_that_do_not_fit_are_refused_as_a_whole(roll: Callable[..., Any], line: Any, reason: str) -> None:
    (refused,) = roll(line)
    assert refused.reason.startswith(reason)


def test_a_row_that_cannot_be_read_costs_the_others_nothing(roll: Callable[..., Any]) -> None:
    first, second = roll(rlvr(responses=[4, "4"]))
    assert first.reason == "`responses` is int, expected text"
    assert second.output == "4"


def test_a_trajectory_of_agent_native(roll: Callable[..., Any], tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "calc"}}]
    said = [ASKED, {"role": "assistant", "content": CALL}, {"role": "tool", "content": "4"}, SAID]
    (rollout,) = roll(agentic((native(), [said]), tools=tools))
    assert (rollout.format, rollout.run, rollout.step, rollout.split) == (
        "roll-agentic",
        str(tmp_path / "dump"),
        3,
        "train",
    )
    assert (rollout.group_id, rollout.sample_index, rollout.output_index) == ("swe_0_5_42", 1, None)
    assert rollout.rollout_id == "swe_3_3_0_1_5_42_20260819_120000_000000"
    assert (rollout.reward, rollout.finish_reason, rollout.declared_tools) == (1.0, "stop", ["calc"])
    assert [(call.name, call.outcome) for call in rollout.calls] == [("calc", "executed_ok")]
    assert set(rollout.extra) == {"exp_name", "env_info", "reward_info", "failure_info"}


def test_conversations_of_one_row_share_the_definitions_of_their_tools(roll: Callable[..., Any]) -> None:
    tools = [{"type": "function", "function": {"name": "calc", "parameters": {"type": "object"}}}]
    first, second = roll(agentic((native(), [[ASKED, SAID], [ASKED | {"content": "3+3?"}, SAID]]), tools=tools))
    assert first.tools == tools
    assert second.tools is first.tools
    assert (first.messages, second.messages) == ([ASKED], [ASKED | {"content": "3+3?"}])


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("FINISH", (None, "stop")),
        ("MAX_LENGTH", ("truncated", "length")),
        ("MAX_STEPS", (None, "turn_limit")),
        ("ABORT", ("error", "abort")),
        ("ENV_RESET_FAILED", ("error", "error")),
        ("NEW_ONE", (None, "NEW_ONE")),
    ],
)
def test_why_an_episode_stopped(roll: Callable[..., Any], reason: str, said: Any) -> None:
    (rollout,) = roll(agentic((native(failure_info={"stop_reason": reason}), [[ASKED, SAID]])))
    assert (rollout.status, rollout.finish_reason) == said


def test_evaluation_of_the_same_step_is_told_by_the_mode(roll: Callable[..., Any]) -> None:
    info = native()["env_info"] | {"mode": "val"}
    (rollout,) = roll(agentic((native(env_info=info), [[ASKED, SAID]])))
    assert rollout.split == "validation"


def test_an_empty_list_of_tools_declares_nothing(roll: Callable[..., Any]) -> None:
    (rollout,) = roll(agentic((native(), [[ASKED, SAID | {"content": CALL}]])))
    assert (rollout.declared_tools, rollout.calls[0].outcome) == (None, "no_result")


def test_the_group_of_proxy_is_in_the_name_of_the_trajectory(roll: Callable[..., Any]) -> None:
    (rollout,) = roll(agentic((proxy(), [ASKED, SAID])))
    assert (rollout.group_id, rollout.sample_index, rollout.finish_reason) == ("swe_0_5_42", 1, None)


def test_what_branches_share_is_sampled_once(roll: Callable[..., Any]) -> None:
    name = proxy()["trajectory_id"]
    stem = [ASKED, SAID | {"content": "first"}, ASKED]
    rows = [(proxy(f"{name}_b{n}", branch_or_step_idx=n, num_branches_or_steps=2), [*stem, SAID]) for n in range(2)]
    rows[1][1][-1] = SAID | {"content": "other"}
    first, second = roll(agentic(*rows))
    assert (first.rollout_id, first.output_index) == (name, 0)
    assert (second.rollout_id, second.output_index) == (name, 1)
    assert (first.output, second.output) == ("first\n2+2?\n4\n", "other\n")


def test_steps_of_proxy_end_before_their_own_answer(roll: Callable[..., Any]) -> None:
    name = proxy()["trajectory_id"]
    whole = [ASKED, SAID, ASKED, SAID | {"content": "5"}, ASKED]
    rows = [
        (proxy(f"{name}_b{n}", branch_or_step_idx=n, num_branches_or_steps=3), whole[: 2 * n + 1]) for n in range(3)
    ]
    read = roll(agentic(*rows))
    assert [rollout.output for rollout in read] == ["", "4\n2+2?\n", "5\n2+2?\n"]
    assert {tuple(rollout.notes) for rollout in read} == {("ends_before_the_answer",)}


def test_branches_of_one_trajectory_are_one_rollout(
    roll: Callable[..., Any], audit: Callable[..., gs.Report], tmp_path: Path
) -> None:
    name = proxy()["trajectory_id"]
    rows = [
        (proxy(f"{name}_b{n}", branch_or_step_idx=n, num_branches_or_steps=2), [ASKED, SAID | {"content": str(n)}])
        for n in range(2)
    ]
    roll(agentic(*rows))
    report = audit(tmp_path)
    assert (report.rollouts, report.sub_outputs) == (1, 1)


def test_a_placeholder_is_an_error(roll: Callable[..., Any]) -> None:
    (rollout,) = roll(agentic((proxy(), [])))
    assert (rollout.status, rollout.prompt, rollout.output) == ("error", None, "")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"trajectory_data": ["{"]}, "`trajectory_data` is not JSON"),
        ({"trajectory_data": ["[]"]}, "`trajectory_data` holds [], expected an object"),
        ({"messages": ['{"role": "user"}']}, "`messages` holds {'role': 'user'}, expected a list"),
        ({"messages": [None]}, "`messages` holds None, expected a list"),
    ],
)
def test_a_trajectory_that_cannot_be_read_is_refused(roll: Callable[..., Any], changes: Any, reason: str) -> None:
    (refused,) = roll(agentic((native(), [[ASKED, SAID]]), **changes))
    assert refused.reason.startswith(reason)


def test_a_line_that_is_cut_off_is_refused(log: Callable[..., Path]) -> None:
    line = json.dumps(rlvr()).encode()
    first, second, refused = gs.read([str(log([line, line[:80]], NAME))])
    assert isinstance(first, gs.Rollout)
    assert isinstance(second, gs.Rollout)
    assert isinstance(refused, gs.Refused)
