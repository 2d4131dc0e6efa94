"""Episodes of verifiers: the graph of messages, compact log-probs, rewards that were not scored, several agents."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gapscope as gs

TRACES = "outputs/adder--m--h--1/traces.jsonl"
ASSISTANT = [151644, 77091]


def node(role: str, content: str, parent: int | None = None, **changes: Any) -> dict[str, Any]:
    """A message of the graph; one of the assistant was sampled, with two tokens behind the template's."""
    sampled = role == "assistant"
    tokens = [*ASSISTANT, 10, 11] if sampled else [2, 3]
    whole = {
        "semantic_parents": [],
        "message": {"role": role, "content": content},
        "sampled": sampled,
        "token_ids": tokens,
        "mask": [False, False, True, True] if sampled else [False, False],
        "is_content": [],
        "logprobs": [-0.25, -0.5] if sampled else [],
    }
    # The writer leaves keys out that are null, and a root has no parent.
    return whole | ({} if parent is None else {"parent": parent}) | changes


def call(arguments: str, name: str = "add", **changes: Any) -> dict[str, Any]:
    entry = {"id": "c1", "type": "function", "name": name, "arguments": arguments}
    return {"role": "assistant", "content": "", "tool_calls": [entry | changes]}


def result(content: str, parent: int) -> dict[str, Any]:
    return node("tool", content, parent, message={"role": "tool", "tool_call_id": "c1", "content": content})


def trace(*nodes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    whole = {
        "version": 1,
        "id": "tr-1",
        "verifiers": {"version": "0.4.0"},
        "agent": {"config": {}, "name": "agent", "trainable": True},
        "tools": [],
        "nodes": list(nodes) or [node("user", "5+6?"), node("assistant", "11", 0)],
        "calls": [],
        "rewards": {"correct": {"score": 1.0, "weight": 1.0}},
        "metrics": {},
        "info": {},
        "is_completed": True,
        "ok": True,
        "stop_condition": "agent_completed",
        "is_timeout": False,
        "errors": [],
    }
    return whole | changes


def episode(*traces: dict[str, Any], **changes: Any) -> dict[str, Any]:
    whole = {
        "id": "ep-1",
        "env": {"id": "adder"},
        "task": {"type": "MathTask", "data": {"idx": 3, "prompt": "5+6?", "answer": "11"}, "key": "3", "hash": "h3"},
        "ok": True,
        "is_timeout": False,
        "errors": [],
        "traces": list(traces),
    }
    return whole | changes


@pytest.fixture
def read(log: Callable[..., Path]) -> Callable[..., list[gs.Rollout | gs.Refused]]:
    """The records of episodes."""
    return lambda *episodes, name=TRACES: list(gs.read([str(log(episodes, name))]))


@pytest.fixture
def one(read: Callable[..., list[gs.Rollout | gs.Refused]]) -> Callable[..., gs.Rollout]:
    """The rollout of an episode with one trace of one branch."""

    def only(*nodes: dict[str, Any], **changes: Any) -> gs.Rollout:
        (record,) = read(episode(trace(*nodes, **changes)))
        assert isinstance(record, gs.Rollout), record
        return record

    return only


def test_a_trace_is_a_rollout_of_the_group_of_its_task(one: Callable[..., gs.Rollout]) -> None:
    rollout = one()
    assert rollout.format == "verifiers"
    assert (rollout.rollout_id, rollout.output_index) == ("tr-1", None)
    assert (rollout.group_id, rollout.group_origin) == ("h3", "logged")
    assert (rollout.prompt, rollout.output) == ("user\n5+6?\n", "11\n")
    assert (rollout.ground_truth, rollout.data_source, rollout.status) == ("11", "adder", "ok")
    assert rollout.step is rollout.split is rollout.advantage is None


def test_an_evaluation_that_names_itself_is_validation(read: Callable[..., Any]) -> None:
    (rollout,) = read(episode(trace(), run={"type": "eval", "id": "r1", "name": "mine"}))
    assert rollout.split == "validation"


def test_compact_logprobs_stand_at_their_sampled_tokens(one: Callable[..., gs.Rollout]) -> None:
    tokens = one().tokens
    assert tokens is not None
    assert tokens.ids == [2, 3, *ASSISTANT, 10, 11]
    assert tokens.sampled == [False] * 4 + [True] * 2
    assert tokens.logprobs == [None] * 4 + [-0.25, -0.5]
    assert (tokens.n_prompt, tokens.logprob_source, tokens.entropies) == (4, "rollout", None)


def test_a_provider_that_relays_text_leaves_no_tokens(one: Callable[..., gs.Rollout]) -> None:
    bare: dict[str, Any] = {"token_ids": [], "mask": [], "logprobs": []}
    rollout = one(node("user", "5+6?", **bare), node("assistant", "11", 0, **bare))
    assert rollout.tokens is None
    assert rollout.output == "11\n"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mask": [True]}, "`traces[0]`: `nodes[1].mask` has 1 values for 4 `token_ids`"),
        ({"logprobs": [-0.1]}, "`traces[0]`: `nodes[1].logprobs` has 1 values for 2 sampled tokens"),
        ({"entropies": [0.1] * 3}, "`traces[0]`: `nodes[1].entropies` has 3 values for 2 sampled tokens"),
        ({"parent": 1}, "`traces[0]`: `nodes[1].parent` is 1, expected an earlier node"),
        ({"parent": "0"}, "`traces[0]`: Expected `int | null`, got `str` - at `$.nodes[1].parent`"),
        ({"message": None}, "`traces[0]`: a message is None, expected an object with a role"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(
    read: Callable[..., Any], changes: dict[str, Any], reason: str
) -> None:
    (refused,) = read(episode(trace(node("user", "5+6?"), node("assistant", "11", 0) | changes)))
    assert refused.reason == reason


def test_a_trace_that_is_broken_does_not_take_the_others_with_it(read: Callable[..., Any]) -> None:
    first, second = read(episode(trace(nodes=7), trace(id="tr-2")))
    assert first.reason == "`traces[0]`: Expected `array`, got `int` - at `$.nodes`"
    assert second.rollout_id == "tr-2"


def test_entropies_and_trainer_logprobs_are_read_where_a_trainer_annotated_them(one: Callable[..., gs.Rollout]) -> None:
    changes: dict[str, Any] = {"logprobs": [], "trainer_logprobs": [-1.0, None], "entropies": [0.5, 0.25]}
    tokens = one(node("user", "5+6?"), node("assistant", "11", 0, **changes)).tokens
    assert tokens is not None
    assert (tokens.logprobs, tokens.logprob_source) == ([None] * 4 + [-1.0, None], "trainer")
    assert (tokens.entropies, tokens.entropy_kind) == ([None] * 4 + [0.5, 0.25], "full")


def test_a_fork_makes_two_rollouts_and_what_they_share_is_the_policys_once(read: Callable[..., Any]) -> None:
    forked = trace(
        node("user", "5+6?"),
        node("assistant", "", 0, message=call('{"a": 5, "b": 6}')),
        result("11", 1),
        node("assistant", "It is 11.", 2),
        result("12", 1),
        node("assistant", "It is 12.", 4),
    )
    first, second = read(episode(forked))
    assert [first.output_index, second.output_index] == [0, 1]
    assert first.rollout_id == second.rollout_id == "tr-1"
    assert [len(first.calls), len(second.calls)] == [1, 0]
    assert (len(first.turns), len(second.turns)) == (2, 1)
    assert (second.prompt, second.output) == ("user\n5+6?\nassistant\n\ntool\n12\n", "It is 12.\n")
    assert second.tokens.ids == [2, 3, *ASSISTANT, 10, 11, 2, 3, *ASSISTANT, 10, 11]
    assert sum(first.tokens.sampled) == 4
    assert second.tokens.sampled == [False] * 10 + [True] * 2
    assert second.tokens.logprobs == [None] * 10 + [-0.25, -0.5]


def test_roots_of_their_own_are_branches_too(read: Callable[..., Any]) -> None:
    first, second = read(
        episode(trace(node("user", "a"), node("assistant", "b", 0), node("user", "c"), node("assistant", "d", 2)))
    )
    assert [(first.prompt, first.output), (second.prompt, second.output)] == [
        ("user\na\n", "b\n"),
        ("user\nc\n", "d\n"),
    ]


@pytest.mark.parametrize(("resumed", "status"), [(True, "ok"), (False, "masked")])
def test_an_attempt_to_compact_trains_only_if_the_agent_went_on_from_it(
    read: Callable[..., Any], resumed: bool, status: str
) -> None:
    attempt = node("assistant", "so far", 0, semantic_parents=[{"node": 0, "type": "compaction_attempt"}])
    link = [{"node": 1, "type": "compaction"}] if resumed else []
    after = [node("user", "so far: 11"), node("assistant", "11", 2, semantic_parents=link)]
    first, second = read(episode(trace(node("user", "5+6?"), attempt, *after)))
    assert (first.status, second.status) == (status, "ok")


def test_an_assistant_message_that_the_prompt_supplied_is_not_the_policys(one: Callable[..., gs.Rollout]) -> None:
    shot = node("assistant", "4", 0, sampled=False, mask=[False] * 4, logprobs=[])
    rollout = one(node("user", "2+2?"), shot, node("user", "5+6?", 1), node("assistant", "11", 2))
    assert (rollout.prompt, rollout.output) == ("user\n2+2?\nassistant\n4\nuser\n5+6?\n", "11\n")


def test_the_reward_is_the_weighted_sum_of_parts_that_stay_unweighted(one: Callable[..., gs.Rollout]) -> None:
    rewards = {"correct": {"score": 1.0, "weight": 2.0}, "format": {"score": 0.5, "weight": 0.5}}
    rollout = one(rewards=rewards, metrics={"num_tool_calls": 3.0, "correct": 0.0, "judge": None})
    assert rollout.reward == 2.25
    assert [(part.name, part.value, part.weight) for part in rollout.reward_parts] == [
        ("correct", 1.0, 2.0),
        ("format", 0.5, 0.5),
    ]
    assert rollout.extra == {
        "stop_condition": "agent_completed", "num_tool_calls": 3.0, "metrics.correct": 0.0, "judge": None,
    }  # fmt: skip
    assert rollout.correct is None


def test_a_total_beyond_a_double_is_none(one: Callable[..., gs.Rollout]) -> None:
    assert one(rewards={"correct": {"score": 1e308, "weight": 1e308}}).reward is None


@pytest.mark.parametrize("rewards", [{}, {"correct": None}, {"correct": None, "format": {"score": 1.0, "weight": 1.0}}])
def test_what_was_not_scored_has_no_reward(one: Callable[..., gs.Rollout], rewards: dict[str, Any]) -> None:
    rollout = one(rewards=rewards)
    assert rollout.reward is None
    assert [part.name for part in rollout.reward_parts] == list(rewards)


def test_a_call_keeps_the_arguments_as_they_were_emitted(one: Callable[..., gs.Rollout]) -> None:
    rollout = one(
        node("user", "5+6?"),
        node("assistant", "", 0, message=call('{"a": 5, "b": 6}')),
        result("11", 1),
        node("assistant", "", 2, message=call('{"a": 5, "b"')),
        result("Error: no JSON", 3),
        node("assistant", "11", 4),
        tools=[{"type": "function", "name": "add", "description": "", "parameters": {}}],
    )
    assert rollout.declared_tools == ["add"]
    assert [(item.outcome, item.arguments, item.result) for item in rollout.calls] == [
        ("executed_ok", {"a": 5, "b": 6}, "11"),
        ("bad_arguments", '{"a": 5, "b"', "Error: no JSON"),
    ]


def test_what_vf_eval_answers_for_a_tool_that_raised_is_a_failure(one: Callable[..., gs.Rollout]) -> None:
    asked = node("assistant", "", 0, message=call('{"a": 0, "b": 6}'))
    rollout = one(node("user", "0+6?"), asked, result("Error executing tool add: zero", 1))
    assert [item.outcome for item in rollout.calls] == ["executed_error"]


def test_a_custom_tool_takes_text_that_need_be_no_json(one: Callable[..., gs.Rollout]) -> None:
    asked = call("print(5+6)", name="python", type="custom")
    rollout = one(node("user", "5+6?"), node("assistant", "", 0, message=asked), result("11", 1))
    assert [(item.outcome, item.arguments) for item in rollout.calls] == [("executed_ok", {"input": "print(5+6)"})]


def test_a_root_says_which_tools_were_rendered_into_its_branch(one: Callable[..., gs.Rollout]) -> None:
    tools = [{"name": "add"}, {"name": "zoom"}]
    assert one(node("user", "5+6?", tools=tools[:1]), node("assistant", "11", 0), tools=tools).declared_tools == ["add"]


def test_definitions_are_those_of_the_trace_or_of_the_root_that_has_its_own(one: Callable[..., gs.Rollout]) -> None:
    tools = [{"name": "add", "parameters": {"type": "object"}}, {"name": "zoom"}]
    assert one(node("user", "5+6?"), node("assistant", "11", 0), tools=tools).tools == tools
    own = one(node("user", "5+6?", tools=tools[:1]), node("assistant", "11", 0), tools=tools)
    assert own.tools == tools[:1]


def test_reasoning_and_images_are_found(one: Callable[..., gs.Rollout]) -> None:
    parts = [
        {"type": "text", "text": "What is it? "},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
    ]
    thought = {"role": "assistant", "content": "A cat.", "reasoning_content": "whiskers"}
    rollout = one(
        node("user", "", message={"role": "user", "content": parts}), node("assistant", "", 0, message=thought)
    )
    assert rollout.prompt == "user\nWhat is it? <image><image>\n"
    assert [image.sha256 for image in rollout.images] == [hashlib.sha256(b"hi").hexdigest()]
    assert [(span.kind, rollout.output[span.start : span.end]) for span in rollout.spans] == [
        ("think", "whiskers\n"),
        ("text", "A cat.\n"),
    ]


@pytest.mark.parametrize(
    ("stop", "final", "finish", "status"),
    [
        ("agent_completed", "stop", "stop", "ok"),
        ("agent_completed", None, "stop", "ok"),
        ("agent_completed", "length", "length", "truncated"),
        ("max_turns", "tool_calls", "turn_limit", "truncated"),
        ("max_total_tokens", "tool_calls", "length", "truncated"),
        ("agent_timeout", "tool_calls", "agent_timeout", "ok"),
        ("solved", "stop", "solved", "ok"),
        (None, "tool_calls", "tool_calls", "ok"),
    ],
)
def test_why_it_ended(
    one: Callable[..., gs.Rollout], stop: str | None, final: str | None, finish: str, status: str
) -> None:
    calls = [{"node": 1, "model": "m", "finish_reason": final, "time": {"start": 0.0, "end": 0.0}}]
    rollout = one(stop_condition=stop, calls=calls)
    assert (rollout.finish_reason, rollout.status) == (finish, status)
    assert [turn.finish_reason for turn in rollout.turns] == [final]


def test_an_error_is_a_status_unless_a_later_attempt_succeeded(one: Callable[..., gs.Rollout]) -> None:
    errors = [{"type": "SandboxError", "message": "gone", "traceback": "Traceback …"}]
    rollout = one(ok=False, errors=errors, stop_condition="sandbox_error", rewards={"correct": None})
    assert (rollout.status, rollout.finish_reason, rollout.reward) == ("error", "error", None)
    assert rollout.extra["errors"] == [{"type": "SandboxError", "message": "gone"}]
    assert one(errors=errors).status == "ok"


def test_an_episode_that_broke_before_any_agent_began_is_one_of_its_group(read: Callable[..., Any]) -> None:
    failed, empty = read(
        episode(ok=False, errors=[{"type": "ProviderError", "message": "502"}]), episode(id="ep-2", ok=True)
    )
    assert (failed.rollout_id, failed.status, failed.group_id, failed.prompt) == ("ep-1", "error", "h3", None)
    assert empty.reason == "`traces` is empty, and `errors` does not say why"


def test_an_error_of_the_environment_is_kept_beside_those_of_the_agents(read: Callable[..., Any]) -> None:
    (rollout,) = read(episode(trace(), ok=False, errors=[{"type": "EnvError", "message": "late"}]))
    assert (rollout.status, rollout.extra["episode_errors"]) == ("ok", [{"type": "EnvError", "message": "late"}])
    assert "errors" not in rollout.extra


def test_an_agent_that_is_not_trained_is_excluded_and_of_no_group_of_the_policy(read: Callable[..., Any]) -> None:
    judge = {"config": {}, "name": "judge", "trainable": False}
    solver, other = read(episode(trace(), trace(id="tr-2", agent=judge)))
    assert (solver.status, solver.group_id) == ("ok", "h3")
    assert (other.status, other.group_id, other.extra["agent"]) == ("excluded", "h3#judge", "judge")


def test_a_trace_that_never_got_to_a_message_has_neither_prompt_nor_output(one: Callable[..., gs.Rollout]) -> None:
    rollout = one(nodes=[], ok=False, errors=[{"type": "SandboxError", "message": "gone"}], rewards={})
    assert (rollout.prompt, rollout.output, rollout.status, rollout.turns) == (None, "", "error", [])


def test_keys_of_a_later_version_are_kept(read: Callable[..., Any]) -> None:
    (rollout,) = read(episode(trace(mood="good"), weather="fine"))
    assert (rollout.extra["mood"], rollout.extra["weather"]) == ("good", "fine")


def test_a_trace_that_stands_alone_is_read_as_older_versions_wrote_it(read: Callable[..., Any]) -> None:
    task = {"type": "MathTask", "data": {"idx": 3, "prompt": "5+6?", "answer": "11"}}
    older = trace(task=task, rewards={"correct": 1.0, "format": 0.5}, agent={"model": "m"}, ok=..., runtime=None)
    (rollout,) = read({key: item for key, item in older.items() if item is not ...})
    assert (rollout.format, rollout.reward, rollout.status, rollout.group_id) == ("verifiers", 1.5, None, None)
    assert rollout.ground_truth == "11"


def test_a_resumed_run_counts_an_episode_once(log: Callable[..., Path], audit: Callable[..., gs.Report]) -> None:
    rows = [episode(trace(id=f"tr-{index}")) for index in (1, 2, 2)]
    report = audit(log(rows, TRACES), correct="correct")
    assert report.metrics["accuracy"].n == 2


def test_the_sample_tells_the_story_of_the_rollouts_it_was_made_from(samples: Path) -> None:
    stories = [
        [[(item.name, item.outcome) for item in record.calls] for record in gs.read([str(samples / name)])][:16]
        for name in ("trl", "verifiers", "verifiers-results")
    ]
    assert stories[0] == stories[1] == stories[2]


def test_an_empty_file_and_one_that_is_cut_off(log: Callable[..., Path]) -> None:
    with pytest.raises(gs.NothingScanned):
        list(gs.read([str(log([], TRACES))]))
    whole = json.dumps(episode(trace())).encode()
    read, refused = gs.read([str(log(whole + b"\n" + whole[:200], TRACES))])
    assert isinstance(read, gs.Rollout)
    assert isinstance(refused, gs.Refused)
    assert "cut off" in refused.reason


def test_results_of_validate_are_of_another_kind(log: Callable[..., Path]) -> None:
    with pytest.raises(gs.InputError, match="no rollouts"):
        list(gs.read([str(log([{"task": "3", "valid": True, "reason": None}], "outputs/results.jsonl"))]))
