import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gapscope as gs
from gapscope.parsers import nemo_gym

QUESTION = {"role": "user", "content": "2+2?"}
CALL = {"type": "function_call", "call_id": "a", "name": "calc", "arguments": '{"x": "2+2"}'}
RESULT = {"type": "function_call_output", "call_id": "a", "output": "4"}


def text(content: str, **more: Any) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": content}], **more}


def thought(content: str) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [{"type": "summary_text", "text": content}]}


def row(*items: Any, response: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A row of `rollouts.jsonl`; `...` takes a key away."""
    whole = {
        "responses_create_params": {"input": [QUESTION]},
        "response": {"output": list(items), **(response or {})},
        "reward": 1.0,
        "_ng_task_index": 3,
        "_ng_rollout_index": 1,
    } | changes
    return {key: value for key, value in whole.items() if value is not ...}


Gym = Callable[..., list[gs.Rollout | gs.Refused]]


@pytest.fixture
def gym(log: Callable[..., Path]) -> Gym:
    def read(*rows: Any, name: str = "results/rollouts.jsonl") -> list[gs.Rollout | gs.Refused]:
        return list(gs.read(log(rows, name)))

    return read


def only(records: list[gs.Rollout | gs.Refused]) -> gs.Rollout:
    (record,) = records
    assert isinstance(record, gs.Rollout), record
    return record


def reason(records: list[gs.Rollout | gs.Refused]) -> str:
    (record,) = records
    assert isinstance(record, gs.Refused), record
    return record.reason


def test_task_and_rollout_index_are_group_and_place(gym: Gym) -> None:
    rollout = only(gym(row(text("4"))))
    assert (rollout.group_id, rollout.group_origin, rollout.sample_index) == ("3", "logged", 1)
    older = only(gym(row(text("4"), _ng_task_index=..., _ng_rollout_index=...)))
    assert (older.group_id, older.group_origin, older.sample_index) == (None, None, None)


def test_the_output_path_is_the_run_for_its_failures_too(log: Callable[..., Path]) -> None:
    main = log([row(text("4"))], "results/rollouts.jsonl")
    log([{"_ng_failure_class": "agent_run_error", "_ng_task_index": 3}], "results/rollouts_failures.jsonl")
    log([row(text("5"))], "results/other.jsonl")
    records = list(gs.read(main.parent))
    runs = {Path(record.source.file).name: record.run for record in records if isinstance(record, gs.Rollout)}
    assert runs["rollouts.jsonl"] == runs["rollouts_failures.jsonl"] == str(main.parent / "rollouts")
    assert runs["other.jsonl"] == str(main.parent / "other")


def test_items_of_one_generation_are_one_turn(gym: Gym) -> None:
    rollout = only(gym(row(thought("hm"), text("Let me see."), CALL, RESULT, thought("so"), text("4"))))
    assert rollout.output.split("\n") == [
        "hm", "Let me see.", '{"name":"calc","arguments":{"x": "2+2"}}', "4", "so", "4", "",
    ]  # fmt: skip
    assert [(span.kind, span.turn) for span in rollout.spans] == [
        ("think", 0), ("text", 0), ("tool_call", 0), ("tool_result", 0), ("think", 1), ("text", 1),
    ]  # fmt: skip
    assert [(call.name, call.outcome, call.result) for call in rollout.calls] == [("calc", "executed_ok", "4")]
    assert len(rollout.turns) == 2


def test_text_after_text_is_the_next_turn(gym: Gym) -> None:
    assert len(only(gym(row(text("one"), text("two"), thought("hm"), text("three")))).turns) == 3


def test_reasoning_between_a_call_and_its_answer_takes_the_answer_from_nobody(gym: Gym) -> None:
    rollout = only(gym(row(CALL, thought("That should do."), RESULT, text("4"))))
    assert [(call.outcome, call.result) for call in rollout.calls] == [("executed_ok", "4")]
    assert len(rollout.turns) == 2


def test_parallel_calls_get_their_answers_by_id(gym: Gym) -> None:
    other = {**CALL, "call_id": "b", "arguments": '{"x": "3+3"}'}
    rollout = only(gym(row(CALL, other, {**RESULT, "call_id": "b", "output": "6"}, RESULT)))
    assert [call.result for call in rollout.calls] == ["4", "6"]
    assert len(rollout.turns) == 1


def test_a_message_of_the_user_among_the_output_is_nobodys_sample(gym: Gym) -> None:
    rollout = only(gym(row(text("4"), {"role": "user", "content": "Sure?"}, text("Yes."))))
    assert [(span.kind, span.sampled) for span in rollout.spans] == [("text", True), ("prompt", False), ("text", True)]
    assert rollout.prompt == "user\n2+2?\n"


def test_the_prompt_may_be_one_string_and_have_instructions(gym: Gym) -> None:
    asked = {"input": "2+2?", "instructions": "Be brief."}
    assert only(gym(row(text("4"), responses_create_params=asked))).prompt == "system\nBe brief.\nuser\n2+2?\n"


def test_arguments_that_are_no_json_are_bad_ones(gym: Gym) -> None:
    rollout = only(gym(row({**CALL, "arguments": '{"x": '}, RESULT)))
    assert [(call.arguments, call.outcome) for call in rollout.calls] == [('{"x": ', "bad_arguments")]


def test_hosted_and_custom_tools_are_calls_too(gym: Gym) -> None:
    search = {"type": "web_search_call", "id": "s", "action": {"query": "4"}, "status": "failed"}
    remote = {"type": "mcp_call", "id": "m", "name": "look", "arguments": "{}", "output": "seen", "error": None}
    own = {"type": "custom_tool_call", "call_id": "c", "name": "run", "input": "print(4)"}
    answer = {"type": "custom_tool_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "4"}]}
    rollout = only(gym(row(search, remote, own, answer)))
    assert [(call.name, call.arguments, call.outcome, call.result) for call in rollout.calls] == [
        ("web_search", {"action": {"query": "4"}}, "executed_error", None),
        ("look", {}, "executed_ok", "seen"),
        ("run", {"input": "print(4)"}, "executed_ok", "4"),
    ]


def test_an_item_that_nobody_knows_is_told_as_json(gym: Gym) -> None:
    rollout = only(gym(row(text("4"), {"type": "compaction", "x": 1})))
    assert rollout.output == '4\n{"type":"compaction","x":1}\n'
    assert [span.sampled for span in rollout.spans] == [True, False]


def test_tools_that_are_declared_nowhere_are_not_unknown(gym: Gym) -> None:
    assert only(gym(row(CALL, RESULT, responses_create_params={"input": [], "tools": []}))).declared_tools is None
    declared = {"input": [], "tools": [{"type": "function", "name": "search"}]}
    rollout = only(gym(row(CALL, RESULT, responses_create_params=declared)))
    assert (rollout.declared_tools, rollout.calls[0].outcome) == (["search"], "unknown_tool")


def test_definitions_and_input_are_there_as_they_were_sent(gym: Gym) -> None:
    tools = [{"type": "function", "name": "search", "parameters": {"type": "object"}, "strict": True}]
    rollout = only(gym(row(text("4"), responses_create_params={"input": [QUESTION], "tools": tools})))
    assert (rollout.tools, rollout.messages) == (tools, [QUESTION])
    rollout = only(gym(row(text("4"), responses_create_params={"input": "2+2?", "instructions": "Be brief."})))
    system = {"role": "system", "content": "Be brief."}
    assert (rollout.tools, rollout.messages) == (None, [system, {"role": "user", "content": "2+2?"}])


def block(prompt: list[int], written: list[int], logprobs: list[Any] | None = None) -> dict[str, Any]:
    logprobs = [-0.5] * len(written) if logprobs is None else logprobs
    return {"prompt_token_ids": prompt, "generation_token_ids": written, "generation_log_probs": logprobs}


def test_blocks_of_tokens_that_extend_one_another_are_joined(gym: Gym) -> None:
    rollout = only(gym(row({**CALL, **block([1, 2], [3, 4])}, RESULT, text("4", **block([1, 2, 3, 4, 9], [5], [0.0])))))
    assert rollout.tokens is not None
    assert rollout.tokens.ids == [1, 2, 3, 4, 9, 5]
    assert rollout.tokens.n_prompt == 2
    assert rollout.tokens.sampled == [False, False, True, True, False, True]
    # A log-prob of zero of a sampled token is one: the policy was certain.
    assert rollout.tokens.logprobs == [None, None, -0.5, -0.5, None, 0.0]
    assert rollout.tokens.logprob_source == "rollout"


def test_blocks_that_do_not_extend_one_another_are_no_sequence(gym: Gym) -> None:
    rollout = only(gym(row({**CALL, **block([1, 2], [3])}, RESULT, text("4", **block([1, 7], [5])))))
    assert (rollout.tokens, rollout.notes) == (None, ["token_blocks_are_not_one_sequence"])


def test_empty_blocks_are_no_tokens(gym: Gym) -> None:
    rollout = only(gym(row(text("one", **block([], [])), text("two", **block([], [])))))
    assert (rollout.tokens, rollout.notes, len(rollout.turns)) == (None, [], 2)


def test_log_probs_that_do_not_fit_their_tokens_are_refused(gym: Gym) -> None:
    assert reason(gym(row(text("4", **block([1], [2, 3], [-0.5]))))) == (
        "`generation_log_probs` is 1 for 2 `generation_token_ids`"
    )


def test_a_token_block_ends_a_generation(gym: Gym) -> None:
    other = {**CALL, "call_id": "b"}
    rollout = only(gym(row({**CALL, **block([1], [2])}, other)))
    assert [call.turn for call in rollout.calls] == [0, 1]


def test_transitions_that_extend_one_another_are_one_conversation(gym: Gym) -> None:
    first = [QUESTION, CALL, RESULT]
    rollout = only(gym(row(first, [*first, text("4")], responses_create_params={"input": []})))
    assert (rollout.prompt, rollout.output_index) == ("user\n2+2?\n", None)
    assert len(rollout.calls) == 1
    assert rollout.output.endswith("4\n4\n")


def test_a_rewritten_history_is_context_in_the_next_sub_output(gym: Gym) -> None:
    first = [QUESTION, CALL, RESULT]
    again = [QUESTION, CALL, {**RESULT, "output": "(hidden)"}, text("4")]
    one, other = gym(row(first, again, responses_create_params={"input": []}))
    assert isinstance(one, gs.Rollout)
    assert isinstance(other, gs.Rollout)
    assert one.rollout_id == other.rollout_id
    assert (one.output_index, other.output_index) == (0, 1)
    assert [len(one.calls), len(other.calls)] == [1, 0]
    assert other.output == "4\n"


def test_masked_truncated_and_broken_responses_have_their_status(gym: Gym) -> None:
    cut = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    read = gym(
        row(text("4"), response={"status": "completed"}),
        row(text("4"), response=cut),
        row(text("4"), response=cut, mask_sample=True),
        row(text("4"), instance_config={"mask_sample": True}),
        row(response={"error": {"code": "server_error"}}),
        row(text("4")),
    )
    assert [(record.status, record.finish_reason) for record in read if isinstance(record, gs.Rollout)] == [
        ("ok", "stop"), ("truncated", "length"), ("excluded", "length"), ("excluded", None), ("error", "error"),
        (None, None),
    ]  # fmt: skip


def test_a_failure_has_no_reward_and_no_place_in_its_group(gym: Gym) -> None:
    bare = {
        "_ng_failure_class": "agent_request_failed",
        "_ng_failure_http_status": 503,
        "_ng_task_index": 3,
        "_ng_rollout_index": 1,
    }
    judged = row(text("4"), reward=0.0, mask_sample=True, _ng_failure_class="judge_failed", is_correct=False)
    read = gym(bare, judged, name="results/rollouts_failures.jsonl")
    for record in read:
        assert isinstance(record, gs.Rollout)
        assert (record.status, record.reward, record.correct) == ("error", None, None)
        assert (record.group_id, record.sample_index) == ("3", None)
    assert [record.output for record in read if isinstance(record, gs.Rollout)] == ["", "4\n"]


def test_components_of_the_reward_are_told_once(gym: Gym) -> None:
    rollout = only(gym(row(text("4"), reward_components={"format": 0.5, "said": 1}, format=0.5, turns_used=2)))
    assert [(part.name, part.value) for part in rollout.reward_parts] == [("format", 0.5), ("said", 1.0)]
    assert rollout.extra == {"turns_used": 2}


def test_what_the_verifier_says_is_read_where_it_is_plain(gym: Gym) -> None:
    rollout = only(gym(row(text("4"), resolved=False, expected_answer="5", task_source="sums", domain="x")))
    assert (rollout.correct, rollout.correct_rule) == (False, "`resolved`, as the verifier says")
    assert (rollout.ground_truth, rollout.data_source) == ("5", "sums")
    assert rollout.extra == {"resolved": False, "task_source": "sums", "domain": "x"}
    # A share of something is no verdict.
    assert only(gym(row(text("4"), is_correct=0.5))).correct is None


def test_an_unscored_row_has_no_reward(gym: Gym) -> None:
    assert only(gym(row(text("4"), reward=...))).reward is None
    assert reason(gym(row(text("4"), reward="good"))) == "`reward` is 'good', expected a number"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"response": {"output": "4"}}, "`response.output` is str, expected a list of items"),
        ({"response": {"output": [4]}}, "an item of `response.output` is 4, expected an object"),
        ({"_ng_task_index": [3]}, "`_ng_task_index` is [3], expected a number"),
        (
            {"responses_create_params": {"input": 4}},
            "`responses_create_params.input` is int, expected a list of items",
        ),
    ],
)
def test_a_row_of_another_shape_is_refused_with_key_and_value(gym: Gym, changes: Any, expected: str) -> None:
    assert reason(gym(row(text("4"), **changes))) == expected


def test_a_result_without_response_is_refused_by_its_type(gym: Gym) -> None:
    simulated = {"reward": 1.0, "usersim_result": {}, "_ng_task_index": 0, "_ng_result_type": "nemo_user_sim"}
    assert reason(gym(simulated)) == "`response` is missing; a result of type 'nemo_user_sim' has none"


def test_inputs_and_aggregates_are_no_rollouts() -> None:
    inputs = {"responses_create_params": {"input": [QUESTION]}, "_ng_task_index": 0, "_ng_rollout_index": 0}
    aggregate = {"agent_ref": {"name": "a"}, "agent_metrics": {"mean/reward": 0.5}}
    batch = {"custom_id": "a", "response": {"status_code": 200, "body": {"output": []}}, "error": None}
    assert not any(nemo_gym.PARSER.claims(other) for other in (inputs, aggregate, batch))


def test_an_image_is_known_by_its_bytes(gym: Gym) -> None:
    shown = {"type": "input_image", "image_url": "data:image/png;base64,aGk=", "detail": "auto"}
    asked = {"input": [{"role": "user", "content": [shown, {"type": "input_text", "text": "?"}]}]}
    rollout = only(gym(row(text("4"), responses_create_params=asked)))
    assert [image.media_type for image in rollout.images] == ["image/png"]
    assert rollout.prompt == "user\n<image>?\n"


def test_a_line_that_was_cut_off_costs_itself(log: Callable[..., Path]) -> None:
    line = json.dumps(row(text("4"))).encode()
    whole, cut = gs.read(log(line + b"\n" + line[:100], "rollouts.jsonl"))
    assert isinstance(whole, gs.Rollout)
    assert isinstance(cut, gs.Refused)


def test_an_empty_file_holds_nothing(log: Callable[..., Path]) -> None:
    with pytest.raises(gs.NothingScanned):
        list(gs.read(log(b"", "rollouts.jsonl")))
