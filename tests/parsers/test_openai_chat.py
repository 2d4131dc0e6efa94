import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gapscope as gs
from gapscope.parsers import openai_chat

QUESTION = {"role": "user", "content": "2+2?"}
ANSWER = {"role": "assistant", "content": "4"}


def call(arguments: str = '{"x": "2+2"}', name: str = "a") -> dict[str, Any]:
    function = {"name": "calc", "arguments": arguments}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": name, "type": "function", "function": function}],
    }


def result(content: str = "4", name: str = "a") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": name, "content": content}


def chat(*messages: dict[str, Any], **beside: Any) -> dict[str, Any]:
    return {"messages": [QUESTION, *messages], **beside}


Read = Callable[..., list[gs.Rollout | gs.Refused]]


@pytest.fixture
def openai(log: Callable[..., Path]) -> Read:
    return lambda *rows: list(gs.read(log(rows, "logs/mine.jsonl")))


def only(records: list[gs.Rollout | gs.Refused]) -> gs.Rollout:
    (record,) = records
    assert isinstance(record, gs.Rollout), record
    return record


def reasons(records: list[gs.Rollout | gs.Refused]) -> list[str]:
    return [record.reason for record in records if isinstance(record, gs.Refused)]


def test_what_stands_beside_the_messages_is_read(openai: Read) -> None:
    beside = {
        "reward": 0.5, "rewards": {"format": 1, "accuracy": 0.0}, "group_id": "q7", "step": 3, "sample_index": 2,
        "ground_truth": "4", "data_source": "sums", "is_correct": False, "advantage": -0.5, "rollout_id": "r1",
        "split": "val", "finish_reason": "length", "tools": [{"type": "function", "function": {"name": "calc"}}],
    }  # fmt: skip
    rollout = only(openai(chat(ANSWER, **beside, temperature=0.7)))
    assert (rollout.reward, rollout.advantage, rollout.correct) == (0.5, -0.5, False)
    assert rollout.correct_rule == "`is_correct`, as the log says"
    assert [(part.name, part.value) for part in rollout.reward_parts] == [("format", 1.0), ("accuracy", 0.0)]
    assert (rollout.group_id, rollout.group_origin, rollout.sample_index) == ("q7", "logged", 2)
    assert (rollout.step, rollout.split, rollout.rollout_id) == (3, "validation", "r1")
    assert (rollout.ground_truth, rollout.data_source, rollout.declared_tools) == ("4", "sums", ["calc"])
    assert (rollout.finish_reason, rollout.status) == ("length", "truncated")
    assert rollout.extra == {"is_correct": False, "temperature": 0.7}


def test_a_row_without_a_reward_is_a_rollout(openai: Read) -> None:
    rollout = only(openai(chat(ANSWER)))
    assert (rollout.reward, rollout.group_id, rollout.output, rollout.prompt) == (None, None, "4\n", "user\n2+2?\n")
    assert rollout.messages == [QUESTION]


def test_a_call_turn_has_no_content_and_its_answer_is_found_by_id(openai: Read) -> None:
    both = call(name="a")
    both["tool_calls"] += call('{"x": "3+3"}', "b")["tool_calls"]
    rollout = only(openai(chat(both, result("6", "b"), result("4", "a"), ANSWER)))
    assert [(c.arguments, c.outcome, c.result) for c in rollout.calls] == [
        ({"x": "2+2"}, "executed_ok", "4"), ({"x": "3+3"}, "executed_ok", "6"),
    ]  # fmt: skip
    assert len(rollout.turns) == 2


def test_a_legacy_function_call_is_one(openai: Read) -> None:
    said = {"role": "assistant", "content": None, "function_call": {"name": "calc", "arguments": '{"x": '}}
    row = chat(said, {"role": "function", "name": "calc", "content": "4"}, functions=[{"name": "calc"}])
    rollout = only(openai(row))
    assert [(c.name, c.outcome, c.result) for c in rollout.calls] == [("calc", "bad_arguments", "4")]
    assert rollout.declared_tools == ["calc"]


def test_definitions_of_tools_are_there_as_they_were_written(openai: Read) -> None:
    tools = [{"type": "function", "function": {"name": "calc", "parameters": {"type": "object"}, "strict": True}}]
    first, second = openai(chat(choices=[{"message": ANSWER}, {"message": ANSWER}], tools=tools))
    assert isinstance(first, gs.Rollout)
    assert isinstance(second, gs.Rollout)
    assert first.tools == tools
    assert second.tools is first.tools
    assert only(openai(chat(ANSWER, functions=[{"name": "calc"}]))).tools == [{"name": "calc"}]


@pytest.mark.parametrize("tools", [None, [], ["calc"], [{"name": "calc"}, "calc"], {"calc": {}}, "calc"])
def test_what_is_no_list_of_definitions_is_none(openai: Read, tools: Any) -> None:
    assert only(openai(chat(ANSWER, tools=tools))).tools is None


def test_images_are_parts_of_a_message(openai: Read) -> None:
    shown = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    asked = {"role": "user", "content": [shown, {"type": "text", "text": "What is it?"}]}
    rollout = only(openai({"messages": [asked, ANSWER]}))
    assert rollout.prompt == "user\n<image>What is it?\n"
    assert [image.media_type for image in rollout.images] == ["image/png"]


def test_an_example_of_weight_zero_is_no_sample(openai: Read) -> None:
    rollout = only(openai(chat({**ANSWER, "weight": 0}, QUESTION, ANSWER)))
    assert rollout.prompt == "user\n2+2?\nassistant\n4\nuser\n2+2?\n"
    assert rollout.output == "4\n"


def test_the_prompt_is_another_name_of_the_group_and_may_be_a_number(openai: Read) -> None:
    assert only(openai(chat(ANSWER, prompt_id=7))).group_id == "7"
    assert reasons(openai(chat(ANSWER, group_id=["q"]))) == ["`group_id` is ['q'], expected a name"]


def test_choices_beside_the_messages_are_how_they_go_on(openai: Read) -> None:
    choices = [
        {"index": 0, "message": ANSWER, "finish_reason": "stop"},
        {"index": 1, "message": {"role": "assistant", "content": "5"}, "finish_reason": "length"},
    ]
    one, other = openai(chat(choices=choices, rollout_id="r", object="chat.completion"))
    assert isinstance(one, gs.Rollout)
    assert isinstance(other, gs.Rollout)
    assert [(r.output, r.finish_reason, r.sample_index, r.rollout_id) for r in (one, other)] == [
        ("4\n", "stop", 0, "r:0"), ("5\n", "length", 1, "r:1"),
    ]  # fmt: skip


def batch(body: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "b1", "custom_id": "q1", "response": {"status_code": 200, "body": body}, "error": None, **more}


def test_a_row_of_a_batch_has_no_prompt_and_its_request_is_the_group(openai: Read) -> None:
    body = {"object": "chat.completion", "choices": [{"message": ANSWER, "finish_reason": "stop"}]}
    rollout = only(openai(batch(body, reward=1.0)))
    assert (rollout.prompt, rollout.output, rollout.group_id, rollout.reward) == (None, "4\n", "q1", 1.0)
    body = {"object": "response", "output": [{"type": "message", "role": "assistant", "content": "5"}]}
    assert only(openai(batch(body))).output == "5\n"


def test_a_failed_request_of_a_batch_is_refused(openai: Read) -> None:
    good = batch({"object": "chat.completion", "choices": [{"message": ANSWER}]})
    failed = {"id": "b2", "custom_id": "q2", "response": None, "error": {"code": "batch_expired"}}
    assert reasons(openai(good, failed)) == ["`messages` is missing or empty, and there are no `choices`"]


def test_the_input_of_a_response_is_kept_as_it_was_sent(openai: Read) -> None:
    shown = {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,aGk="}]}
    output = [{"type": "message", "role": "assistant", "content": "4"}]
    row = {"object": "response", "instructions": "Be brief.", "input": [shown], "output": output}
    assert only(openai(row)).messages == [{"role": "system", "content": "Be brief."}, shown]
    assert only(openai(row | {"instructions": None, "input": "2+2?"})).messages == [QUESTION]


def test_a_response_may_have_its_input(openai: Read) -> None:
    output = [
        {"type": "function_call", "call_id": "a", "name": "calc", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "4"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "4"}]},
    ]
    row = {
        "object": "response",
        "instructions": "Be brief.",
        "input": [QUESTION],
        "output": output,
        "status": "completed",
    }
    rollout = only(openai(row))
    assert (rollout.prompt, rollout.finish_reason) == ("system\nBe brief.\nuser\n2+2?\n", "stop")
    assert [(c.outcome, c.result) for c in rollout.calls] == [("executed_ok", "4")]


def test_a_logged_error_is_a_status(openai: Read) -> None:
    assert only(openai(chat(error="time-out"))).status == "error"


def test_rewards_that_are_no_numbers_are_kept(openai: Read) -> None:
    rollout = only(openai(chat(ANSWER, rewards={"format": 1.0, "judge": "good"})))
    assert [(part.name, part.value) for part in rollout.reward_parts] == [("format", 1.0)]
    assert rollout.extra == {"rewards": {"format": 1.0, "judge": "good"}}
    named = only(openai(chat(ANSWER, reward={"accuracy": 1.0})))
    assert (named.reward, [(part.name, part.value) for part in named.reward_parts]) == (None, [("accuracy", 1.0)])
    assert reasons(openai(chat(ANSWER, reward="good"))) == ["`reward` is 'good', expected a number"]


@pytest.mark.parametrize(
    "foreign",
    [
        {"custom_id": "t", "metadata": {"env_id": 1, "group_id": 2}},
        {"sample_index": 0, "group_index": 0, "status": "completed"},
        {"epoch": 1, "scores": {}, "id": "q", "target": "4"},
        {"group_index": 0, "metrics": "{}"},
        {"trajectory_data": ["{}"]},
        {"chat_completions": []},
        {"schema": "gapscope.rollout/1"},
        {"responses_create_params": {}, "response": {"output": []}},
    ],
)
def test_rows_of_other_formats_with_messages_are_not_claimed(foreign: dict[str, Any]) -> None:
    assert openai_chat.PARSER.claims(chat(ANSWER))
    assert not openai_chat.PARSER.claims(chat(ANSWER, **foreign))


@pytest.mark.parametrize("messages", [[], {}, "hello", [[QUESTION]], [{"content": "4"}], [{"role": 3}], [None]])
def test_what_is_no_conversation_is_not_claimed(messages: Any) -> None:
    assert not openai_chat.PARSER.claims({"messages": messages})


def test_requests_of_a_batch_are_no_rollouts() -> None:
    assert not openai_chat.PARSER.claims({"custom_id": "q", "url": "/v1/chat/completions", "body": chat()})


def test_a_line_that_was_cut_off_costs_itself(openai: Read) -> None:
    line = json.dumps(chat(ANSWER)).encode()
    assert [type(record) for record in openai(line, line[:40])] == [gs.Rollout, gs.Refused]


# --- Tokens ----------------------------------------------------------------------------------------------


def told(token: str, chance: float, **others: float) -> dict[str, Any]:
    """One token with its chance, and those of the likeliest."""
    top = [{"token": name, "logprob": math.log(p), "bytes": list(name.encode())} for name, p in others.items()]
    return {"token": token, "logprob": math.log(chance), "bytes": list(token.encode()), "top_logprobs": top}


def choice(*entries: Any, message: dict[str, Any] = ANSWER, **more: Any) -> dict[str, Any]:
    return {"index": 0, "message": message, "logprobs": {"content": list(entries), "refusal": None}, **more}


def test_a_choice_has_the_texts_of_its_tokens_with_their_log_probs(openai: Read) -> None:
    rollout = only(openai(chat(choices=[choice(told("4", 0.5), told("<|im_end|>", 1.0))])))
    assert rollout.tokens == gs.rollouts.Tokens(
        n_prompt=0,
        logprobs=[math.log(0.5), 0.0],
        logprob_source="rollout",
        sampled=[True, True],
        strings=["4", "<|im_end|>"],
    )
    assert rollout.notes == []


def test_the_likeliest_tokens_bound_the_entropy_from_below(openai: Read) -> None:
    """Metrics 13.7: 0.5, 0.3 and 0.1 leave 0.1, on one token at least; the vocabulary is not in the log."""
    entries = [
        told("a", 0.5, a=0.5, b=0.3, c=0.1),
        told("c", 0.1, a=0.5, b=0.3),  # The sampled one is not among the likeliest, and is one more that is known.
        told("a", 1.0),
        {**told("a", 0.5, a=0.5), "top_logprobs": [{"token": "a", "logprob": 0.5}]},
    ]
    tokens = only(openai(chat(choices=[choice(*entries)]))).tokens
    assert tokens is not None
    assert tokens.entropies == [pytest.approx(1.168282, abs=1e-6), pytest.approx(1.168282, abs=1e-6), None, None]
    assert (tokens.entropy_kind, tokens.entropy_uppers) == ("topk", None)


def test_each_choice_has_its_own_tokens(openai: Read) -> None:
    other = {"role": "assistant", "content": "5"}
    records = openai(chat(choices=[choice(told("4", 0.5)), choice(told("5", 0.25), message=other), {"message": other}]))
    tokens = [record.tokens for record in records if isinstance(record, gs.Rollout)]
    assert [found and found.strings for found in tokens] == [["4"], ["5"], None]


def test_vllm_gives_ids_beside_the_choices(openai: Read) -> None:
    row = chat(choices=[choice(told("4", 0.5), told("", 1.0), token_ids=[19, 2])], prompt_token_ids=[1, 17])
    rollout = only(openai(row))
    assert rollout.tokens == gs.rollouts.Tokens(
        [1, 17, 19, 2],
        n_prompt=2,
        logprobs=[None, None, math.log(0.5), 0.0],
        logprob_source="rollout",
        sampled=[False, False, True, True],
    )
    assert rollout.extra == {}
    named = [told("token_id:19", 0.5), told("token_id:2", 1.0)]
    assert only(openai(chat(choices=[choice(*named)], prompt_token_ids=[1, 17]))).tokens == rollout.tokens
    short = chat(choices=[choice(told("4", 0.5), token_ids=[19, 2])], prompt_token_ids=[1])
    assert reasons(openai(short)) == ["1 log-probs for 2 tokens of a completion"]


def test_the_tokens_of_the_last_of_several_turns_are_not_all(openai: Read) -> None:
    rollout = only(openai(chat(call(), result(), choices=[choice(told("4", 0.5))])))
    assert (rollout.tokens, rollout.notes) == (None, ["tokens_are_not_one_sequence"])
    shown = only(openai(chat({**ANSWER, "weight": 0}, QUESTION, choices=[choice(told("4", 0.5))])))
    assert shown.tokens is not None


def test_log_probs_of_the_content_alone_are_not_those_of_a_call(openai: Read) -> None:
    said = {**call(), "content": "Let me see."}
    partial = only(openai(chat(choices=[choice(told("Let me", 0.5), told(" see.", 0.5), message=said)])))
    assert (partial.tokens, partial.notes) == (None, ["tokens_are_not_one_sequence"])
    markup = [told("Let me", 0.5), told(" see.", 0.5), told("<tool_call>", 0.5), told('{"name": "calc"}', 0.5)]
    whole = only(openai(chat(choices=[choice(*markup, message=said)]))).tokens
    assert whole is not None
    assert len(whole) == 4


def test_a_response_of_texts_alone_has_their_log_probs(openai: Read) -> None:
    def said(*entries: Any) -> dict[str, Any]:
        part = {"type": "output_text", "text": "4", "annotations": [], "logprobs": list(entries)}
        return {"type": "message", "role": "assistant", "content": [part]}

    called = {"type": "function_call", "call_id": "a", "name": "calc", "arguments": "{}"}
    rows = [
        {"object": "response", "output": output}
        for output in ([said(told("4", 0.5))], [said(told("4", 0.5)), said()], [called, said(told("4", 0.5))])
    ]
    tokens = [record.tokens for record in openai(*rows) if isinstance(record, gs.Rollout)]
    assert [found and found.strings for found in tokens] == [["4"], None, None]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (["4"], "an entry of `logprobs.content` is '4', expected an object"),
        ([{"token": "4", "logprob": "low"}], "`logprob` of the token '4' is 'low', expected a number"),
        ([{"token": "4", "logprob": 10**400}], f"`logprob` of the token '4' is {10**59}, expected a number"),
    ],
)
def test_log_probs_of_another_shape_are_refused(openai: Read, content: Any, reason: str) -> None:
    assert reasons(openai(chat(choices=[choice(*content)]))) == [reason]


@pytest.mark.parametrize("logprobs", [None, [], "no", {}, {"content": None}, {"content": []}])
def test_a_choice_without_log_probs_has_no_tokens(openai: Read, logprobs: Any) -> None:
    rollout = only(openai(chat(choices=[{"message": ANSWER, "logprobs": logprobs}])))
    assert (rollout.tokens, rollout.notes) == (None, [])
