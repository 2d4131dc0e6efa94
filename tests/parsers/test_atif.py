"""ATIF trajectories, in a trial's folder and outside of one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from samples import rollouts

import gapscope as gs
from gapscope.parsers import PARSERS, atif

Log = Callable[..., Path]


def call(id: str = "c", **arguments: Any) -> dict[str, Any]:  # noqa: A002
    return {"tool_call_id": id, "function_name": "calc", "arguments": arguments}


def observed(*results: dict[str, Any]) -> dict[str, Any]:
    return {"observation": {"results": list(results)}}


def step(source: str, message: Any = "", **more: Any) -> dict[str, Any]:
    return {"step_id": 1, "source": source, "message": message, **more}


def trajectory(*steps: Any, **changes: Any) -> dict[str, Any]:
    asked = step("user", "2+2?")
    agent = {"name": "a", "version": "1"}
    return {"schema_version": "ATIF-v1.6", "session_id": "s", "agent": agent, "steps": [asked, *steps]} | changes


@pytest.fixture
def read(log: Log) -> Callable[..., Any]:
    """What becomes of a trajectory: the one record, if there is one."""

    def records(document: dict[str, Any], name: str = "job/trial/agent/trajectory.json", **beside: Any) -> Any:
        for path, content in beside.items():
            log(json.dumps(content, indent=2).encode(), path)
        found = list(gs.read(str(log(json.dumps(document, indent=2).encode(), name))))
        return found[0] if len(found) == 1 else found

    return records


def calls(rollout: gs.Rollout) -> list[tuple[str | None, str, str | None]]:
    return [(found.name, found.outcome, found.result) for found in rollout.calls]


RESULT = "job/trial/result.json"


def test_the_sample_tells_the_same_story_as_that_of_verl() -> None:
    stories: list[list[Any]] = [[], []]
    for story, name in zip(stories, ("atif", "verl-v1"), strict=True):
        for rollout in rollouts(name):
            if str(rollout.rollout_id).startswith("q2"):
                continue
            question = (rollout.prompt or "").removesuffix("assistant\n").removesuffix("\n").split("user\n")[-1]
            found = [(each.name, each.arguments, each.outcome) for each in rollout.calls]
            story.append((question, rollout.reward, str(found)))
    assert len(stories[0]) == 10
    assert set(stories[0]) == set(stories[1][:16])


def test_a_trial_says_task_dataset_and_rewards(read: Callable[..., Any]) -> None:
    result = {
        "task_name": "sum",
        "source": "arithmetic",
        "trial_name": "trial",
        "verifier_result": {"rewards": {"reward": 1, "style": 0.5}},
    }
    record = read(trajectory(step("agent", "4")), **{RESULT: result})
    assert (record.rollout_id, record.group_id, record.group_origin) == ("trial", "sum", "logged")
    assert (record.data_source, record.reward, record.status) == ("arithmetic", 1.0, "ok")
    assert [(part.name, part.value) for part in record.reward_parts] == [("reward", 1.0), ("style", 0.5)]
    assert record.run.endswith("/job")
    assert (record.output_index, record.correct) == (None, None)


@pytest.mark.parametrize(
    ("rewards", "reward"), [({"accuracy": 0.5}, 0.5), ({"a": 1, "b": 0}, None), ({}, None), (None, None), (3, None)]
)
def test_without_a_total_the_only_reward_is_the_reward(
    read: Callable[..., Any], rewards: Any, reward: float | None
) -> None:
    record = read(trajectory(step("agent", "4")), **{RESULT: {"verifier_result": {"rewards": rewards}}})
    assert record.reward == reward


def test_rewards_are_in_the_verifiers_file_where_the_trial_has_none(read: Callable[..., Any]) -> None:
    record = read(trajectory(step("agent", "4")), **{"job/trial/verifier/reward.json": {"reward": 0.25}})
    assert (record.reward, record.status, record.group_id) == (0.25, None, None)


def test_results_json_is_read_as_well(read: Callable[..., Any]) -> None:
    record = read(trajectory(step("agent", "4")), **{"job/trial/results.json": {"task_name": "sum"}})
    assert record.group_id == "sum"


def test_a_damaged_result_is_said(read: Callable[..., Any], log: Log) -> None:
    log(b'{\n"task_name": ', RESULT)
    record, refused = read(trajectory(step("agent", "4")))
    assert (record.group_id, record.reward) == (None, None)
    assert "result.json, which belongs to it, cannot be read" in refused.reason


def test_a_task_of_several_steps_has_rewards_for_each(read: Callable[..., Any]) -> None:
    steps = [
        {"step_name": "one", "verifier_result": {"rewards": {"reward": 0}}},
        {"step_name": "two", "verifier_result": {"rewards": {"reward": 1}}},
    ]
    name = "job/trial/steps/two/agent/trajectory.json"
    record = read(trajectory(step("agent", "4")), name, **{RESULT: {"task_name": "sum", "step_results": steps}})
    assert (record.rollout_id, record.group_id, record.reward) == ("trial/two", "sum/two", 1.0)
    assert record.run.endswith("/job")


@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [
        ("AgentTimeoutError", "truncated", "timeout"),
        ("ContextLengthExceededError", "truncated", "length"),
        ("CancelledError", "error", "abort"),
        ("VerifierTimeoutError", "error", "error"),
        (7, "error", "error"),
    ],
)
def test_how_a_trial_ended_is_told_by_its_exception(
    read: Callable[..., Any], kind: Any, status: str, reason: str
) -> None:
    exception = {"exception_type": kind, "exception_message": "so"}
    record = read(trajectory(step("agent", "4")), **{RESULT: {"exception_info": exception}})
    assert (record.status, record.finish_reason, record.extra["exception_message"]) == (status, reason, "so")


def test_continuations_and_summaries_are_outputs_of_one_rollout_in_their_order(log: Log) -> None:
    names = ["trajectory", "trajectory.cont-1", "trajectory.summarization-1-summary", "trajectory.cont-2"]
    names += ["trajectory.summarization-1-answers", "trajectory.summarization-2-questions"]
    for name in names:
        document = trajectory(step("agent", name), continued_trajectory_ref="x")
        log(json.dumps(document, indent=2).encode(), f"job/trial/agent/{name}.json")
    folder = log(json.dumps({"verifier_result": {"rewards": {"reward": 1}}}, indent=2).encode(), RESULT).parent
    found = [record for record in gs.read(str(folder)) if isinstance(record, gs.Rollout)]
    assert {(record.rollout_id, record.reward) for record in found} == {("trial", 1.0)}
    assert [record.output.strip() for record in sorted(found, key=lambda record: record.output_index or 0)] == [
        "trajectory",
        "trajectory.summarization-1-summary",
        "trajectory.summarization-1-answers",
        "trajectory.cont-1",
        "trajectory.summarization-2-questions",
        "trajectory.cont-2",
    ]


def test_sub_agents_are_outputs_of_the_rollout_that_they_are_in(read: Callable[..., Any]) -> None:
    inner = trajectory(step("agent", "inner"), trajectory_id="i")
    middle = trajectory(step("agent", "middle"), trajectory_id="m", subagent_trajectories=[inner])
    delegated = observed({"source_call_id": "c", "subagent_trajectory_ref": [{"trajectory_id": "m"}]})
    outer = trajectory(
        step("agent", "outer", tool_calls=[call()], **delegated), trajectory_id="o", subagent_trajectories=[middle, 3]
    )
    found = read(outer, "o.json")
    assert [getattr(record, "output_index", None) for record in found] == [0, 1, None, 3]
    assert {record.rollout_id for record in found if isinstance(record, gs.Rollout)} == {"o"}
    assert found[2].reason == "`subagent_trajectories` holds 3, expected trajectories"
    assert calls(found[0]) == [("calc", "executed_ok", '[{"trajectory_id":"m"}]')]


def test_copied_steps_and_steps_without_a_model_were_not_sampled(read: Callable[..., Any]) -> None:
    record = read(
        trajectory(
            step("agent", "before", is_copied_context=True),
            step("agent", "", llm_call_count=0, tool_calls=[call()], **observed({"content": "set up"})),
            step("agent", "mine", llm_call_count=1),
        )
    )
    assert record.prompt.startswith("user\n2+2?\nassistant\nbefore\n")
    assert (record.output, record.calls) == ("mine\n", [])


def test_answers_stand_in_the_step_of_the_call(read: Callable[..., Any]) -> None:
    record = read(
        trajectory(
            step(
                "agent",
                "I call.",
                reasoning_content="Think.",
                tool_calls=[call("a", x=1), call("b", x=2), call("c", x=3)],
                **observed(
                    {"source_call_id": "b", "content": "two"},
                    {"source_call_id": "a", "content": [{"type": "text", "text": "Error: "}, {"type": "image"}]},
                    {"source_call_id": "c", "content": "no", "extra": {"is_error": True}},
                ),
            ),
            step("agent", "4"),
        )
    )
    assert calls(record) == [
        ("calc", "executed_error", "Error: <image>"),
        ("calc", "executed_ok", "two"),
        ("calc", "executed_error", "no"),
    ]
    assert [span.kind for span in record.spans] == ["think", "text", *["tool_call"] * 3, *["tool_result"] * 3, "text"]
    assert len(record.turns) == 2


def test_one_terminal_after_several_commands_answers_the_last(read: Callable[..., Any]) -> None:
    record = read(trajectory(step("agent", "", tool_calls=[call("a"), call("b")], **observed({"content": "$"}))))
    assert calls(record) == [("calc", "executed_unknown", None), ("calc", "executed_ok", "$")]


def test_what_a_system_does_by_itself_answers_no_call(read: Callable[..., Any]) -> None:
    handed_over = observed({"subagent_trajectory_ref": [{"trajectory_path": "x"}]})
    record = read(trajectory(step("agent", "", tool_calls=[call()]), step("system", "Summarised.", **handed_over)))
    assert calls(record) == [("calc", "no_result", None)]
    assert record.spans[-1].kind == "prompt"


def test_tools_are_those_that_the_agent_declares(read: Callable[..., Any]) -> None:
    agent = {"name": "a", "version": "1", "tool_definitions": [{"type": "function", "function": {"name": "sum"}}]}
    record = read(trajectory(step("agent", "", tool_calls=[call()]), agent=agent))
    assert record.declared_tools == ["sum"]
    assert calls(record) == [("calc", "unknown_tool", None)]


def test_definitions_of_tools_are_there_as_they_were_written(read: Callable[..., Any]) -> None:
    definition = {"type": "function", "function": {"name": "sum", "parameters": {"type": "object"}}}
    agent = {"name": "a", "version": "1", "tool_definitions": [definition]}
    assert read(trajectory(step("agent", "4"), agent=agent)).tools == [definition]
    assert read(trajectory(step("agent", "4"))).tools is None


def test_steps_before_the_first_generation_are_messages_unless_they_are_more(read: Callable[..., Any]) -> None:
    shown = [{"type": "text", "text": "What?"}, {"type": "image", "source": {"path": "a.png"}}]
    record = read(trajectory(step("user", shown), step("agent", "4"), step("user", "Sure?"), step("agent", "Yes.")))
    assert record.messages == [{"role": "user", "content": "2+2?"}, {"role": "user", "content": shown}]
    copied = step("agent", "", tool_calls=[call()], is_copied_context=True)
    assert read(trajectory(copied, step("agent", "4"))).messages is None


def with_tokens(prompt: Any, ids: Any, logprobs: Any = None) -> dict[str, Any]:
    metrics = {"prompt_token_ids": prompt, "completion_token_ids": ids, "logprobs": logprobs}
    return step("agent", "x", metrics=metrics)


def test_tokens_are_one_sequence_where_they_extend(read: Callable[..., Any]) -> None:
    record = read(trajectory(with_tokens([1, 2], [3, 4], [-0.5, -1]), with_tokens([1, 2, 3, 4, 5], [6], [-2])))
    assert record.tokens == type(record.tokens)(
        [1, 2, 3, 4, 5, 6],
        n_prompt=2,
        logprobs=[None, None, -0.5, -1.0, None, -2.0],
        logprob_source="rollout",
        sampled=[False, False, True, True, False, True],
    )
    broken = read(trajectory(with_tokens([1, 2], [3]), with_tokens([1, 9, 3], [6])))
    assert (broken.tokens, broken.notes) == (None, ["tokens_are_not_one_sequence"])
    assert read(trajectory(with_tokens(None, [3]))).tokens is None
    unequal = read(trajectory(with_tokens([1], [2, 3], [-1])))
    assert unequal.reason == "1 log-probs for 2 tokens of a completion"


def test_tokens_may_be_in_the_result_of_the_trial(read: Callable[..., Any]) -> None:
    details = [{"prompt_token_ids": [[1], [1, 2, 3]], "completion_token_ids": [[2], [4]], "logprobs": [[-1], [-2]]}]
    result = {"agent_result": {"rollout_details": details}}
    record = read(trajectory(step("agent", "4")), **{RESULT: result})
    assert (record.tokens.ids, record.tokens.logprobs) == ([1, 2, 3, 4], [None, -1.0, None, -2.0])


def test_an_export_of_nemo_gym_says_task_and_place(read: Callable[..., Any]) -> None:
    source = {"format": "ng_trajectory", "task_index": 3, "rollout_index": 1, "rollout_id": "r"}
    extra = {"nemo_gym": {"source": source, "exporter": {"name": "nemo-gym", "version": "0.7.0"}}}
    document = trajectory(step("agent", "4"), schema_version="ATIF-v1.7", trajectory_id="s:3:1", extra=extra)
    record = read(document, "export/3-1.json")
    assert (record.rollout_id, record.group_id, record.sample_index) == ("s:3:1", "3", 1)
    assert (record.step, record.reward, record.status) == (None, None, None)
    assert record.extra["extra"] == extra


def test_trajectories_may_be_lines(log: Log) -> None:
    found = list(gs.read(str(log([trajectory(step("agent", "4")), trajectory(step("agent", "5"))], "all.jsonl"))))
    assert [getattr(record, "output", None) for record in found] == ["4\n", "5\n"]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (trajectory(steps=None), "`steps` is None, expected a list of steps"),
        (trajectory("x"), "a step is 'x', expected one of system, user or agent"),
        (trajectory(step("tool")), "a step is {'step_id': 1, 'source': 'tool'"),
        (trajectory(step("agent", tool_calls=[3])), "`tool_calls` is [3], expected a list of calls"),
        (trajectory(step("agent", observation=[3])), "`observation` is [3], expected results"),
    ],
)
def test_a_trajectory_that_is_none_is_refused(read: Callable[..., Any], document: Any, reason: str) -> None:
    assert read(document).reason.startswith(reason)


def test_a_later_version_is_read_and_its_keys_are_kept(read: Callable[..., Any]) -> None:
    record = read(trajectory(step("agent", "4", later=1), schema_version="ATIF-v2.0", later={"x": 1}))
    assert record.extra["later"] == {"x": 1}


def test_no_other_format_claims_a_trajectory_and_it_claims_no_other() -> None:
    row = trajectory(step("agent", "4"))
    assert [parser.name for parser in PARSERS if parser.claims(row)] == ["atif"]
    for other in ({"schema_version": "1.0", "steps": []}, {"schema_version": 1, "steps": []}, {"steps": []}):
        assert not atif.claims(other)


def test_a_truncated_and_an_empty_file_are_no_trajectories(log: Log) -> None:
    content = json.dumps(trajectory(step("agent", "4")), indent=2).encode()
    for damaged, word in ((content[:-9], "not JSON"), (b"", "an empty file")):
        with pytest.raises(gs.InputError, match=word):
            list(gs.read(str(log(damaged, "trajectory.json"))))
