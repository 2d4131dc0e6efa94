"""Agent Lightning's spans, events and trajectories."""

import io
import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from samples import rollouts

import gapscope as gs
from gapscope.parsers import PARSERS, agent_lightning

Log = Callable[..., Path]


def span(
    sequence: int, name: str = "openai.chat.completion", rollout: str = "ro-1", **attributes: Any
) -> dict[str, Any]:
    """A span as `model_dump_json` gives it; double underscores stand for dots."""
    return {
        "rollout_id": rollout,
        "attempt_id": "at-1",
        "sequence_id": sequence,
        "trace_id": "01",
        "span_id": f"{sequence:02}",
        "parent_id": None,
        "name": name,
        "status": {"status_code": "OK", "description": None},
        "attributes": {key.replace("__", "."): value for key, value in attributes.items()},
        "events": [],
        "links": [],
        "start_time": None,
        "end_time": None,
        "context": None,
        "parent": None,
        "resource": {"attributes": {}, "schema_url": ""},
    }


def reward(sequence: int, value: Any, *more: tuple[str, float]) -> dict[str, Any]:
    dimensions = [("primary", value), *more]
    attributes = {f"agentlightning__reward__{i}__name": name for i, (name, _) in enumerate(dimensions)}
    attributes |= {f"agentlightning__reward__{i}__value": item for i, (_, item) in enumerate(dimensions)}
    return span(sequence, "agentlightning.annotation", **attributes)


def chat(sequence: int, said: str = "4", **more: Any) -> dict[str, Any]:
    asked = {"gen_ai__prompt__0__role": "user", "gen_ai__prompt__0__content": "2+2?"}
    return span(sequence, gen_ai__completion__0__role="assistant", gen_ai__completion__0__content=said, **asked, **more)


@pytest.fixture
def read(log: Log) -> Callable[..., Any]:
    """What becomes of rows: the one record, if there is one."""

    def records(*rows: Any) -> Any:
        found = list(gs.read(str(log(rows, "spans.jsonl"))))
        return found[0] if len(found) == 1 else found

    return records


def test_the_sample_tells_the_same_story_as_that_of_verl() -> None:
    expected = rollouts("verl-v1")
    spans = [record for record in rollouts("agent-lightning") if record.source.file == "spans.jsonl"]
    assert len(spans) == 9
    for record in spans:
        same = expected[int(str(record.rollout_id).split("/")[0].removeprefix("ro-"))]
        assert [(c.name, c.arguments, c.outcome) for c in record.calls] == [
            (c.name, c.arguments, c.outcome) for c in same.calls
        ]
        assert record.reward == same.reward


def test_spans_are_put_in_the_order_of_their_sequence(read: Callable[..., Any]) -> None:
    more = {
        "gen_ai__prompt__1__role": "assistant",
        "gen_ai__prompt__1__content": "4",
        "gen_ai__prompt__2__role": "user",
        "gen_ai__prompt__2__content": "Sure?",
    }
    record = read(reward(3, 1.0), chat(2, "Yes.", **more), chat(1))
    assert (record.rollout_id, record.output, record.reward) == ("ro-1/at-1", "4\nSure?\nYes.\n", 1.0)
    assert record.group_id is None


def test_tokens_and_log_probs_are_one_sequence_where_prompts_repeat_them(read: Callable[..., Any]) -> None:
    logprobs = json.dumps([{"token": "4", "logprob": -0.5}, {"token": "", "logprob": -1.0}])
    tokens = {"prompt_token_ids": [1, 2], "response_token_ids": [3, 4], "logprobs__content": logprobs}
    record = read(chat(1, **tokens))
    assert record.tokens == type(record.tokens)(
        [1, 2, 3, 4],
        n_prompt=2,
        logprobs=[None, None, -0.5, -1.0],
        logprob_source="rollout",
        sampled=[False, False, True, True],
    )
    assert (
        read(chat(1, **{**tokens, "response_token_ids": [3]})).reason
        == "ro-1: 2 log-probs for 1 tokens of a completion"
    )
    assert read(chat(1)).tokens is None


def test_without_ids_the_texts_of_the_tokens_stand_for_one_call(read: Callable[..., Any]) -> None:
    logprobs = json.dumps([{"token": "4", "logprob": -0.5}, {"token": "<|im_end|>", "logprob": -1.0}])
    record = read(chat(1, prompt_token_ids=[1, 2], logprobs__content=logprobs))
    assert record.tokens == type(record.tokens)(
        n_prompt=0,
        logprobs=[-0.5, -1.0],
        logprob_source="rollout",
        sampled=[True, True],
        strings=["4", "<|im_end|>"],
    )
    more = {"gen_ai__prompt__1__role": "assistant", "gen_ai__prompt__1__content": "4"}
    several = read(chat(1, logprobs__content=logprobs), chat(2, "Yes.", **more, logprobs__content=logprobs))
    assert (several.tokens, several.notes) == (None, ["tokens_are_not_one_sequence"])


def test_the_likeliest_tokens_bound_the_entropy_from_below(read: Callable[..., Any]) -> None:
    half = {"logprob": math.log(0.5), "top_logprobs": [{"token": "4", "logprob": math.log(0.5)}]}
    logprobs = json.dumps([{"token": "4", **half}, {"token": "5", "logprob": -1.0, "top_logprobs": []}])
    record = read(chat(1, prompt_token_ids=[1], response_token_ids=[3, 4], logprobs__content=logprobs))
    assert record.tokens.entropies == [None, pytest.approx(math.log(2)), None]
    assert (record.tokens.entropy_kind, record.tokens.entropy_uppers) == ("topk", None)


def test_log_probs_that_are_none_refuse_the_rollout(read: Callable[..., Any]) -> None:
    low = json.dumps([{"token": "4", "logprob": "low"}])
    assert read(chat(1, logprobs__content=low)).reason == "ro-1: `logprob` of the token '4' is 'low', expected a number"


def test_the_last_reward_counts_its_first_dimension_is_the_total(read: Callable[..., Any]) -> None:
    record = read(chat(1), reward(2, 0.25), reward(3, 1.0, ("style", 0.5)))
    assert record.reward == 1.0
    assert [(part.name, part.value) for part in record.reward_parts] == [("primary", 1.0), ("style", 0.5)]
    assert record.extra["step_rewards"] == [0.25, 1.0]


@pytest.mark.parametrize(
    ("span", "value"),
    [
        (span(2, "agentlightning.annotation", reward=0.5), 0.5),
        (span(2, "agentops_reward", agentops__task__output='{"type": "reward", "value": 0.5}'), 0.5),
        (span(2, "agentops_reward", agentops__entity__output='{"type": "reward", "value": null}'), None),
        (span(2, "agentops_reward", agentops__entity__output='{"type": "other", "value": 1}'), None),
        (span(2, "other", reward=0.5), None),
        (reward(2, "high"), None),
    ],
)
def test_older_ways_of_writing_a_reward_are_read(read: Callable[..., Any], span: Any, value: float | None) -> None:
    assert read(chat(1), span).reward == value


def test_each_attempt_is_a_rollout_of_its_own(read: Callable[..., Any]) -> None:
    found = read(chat(1), {**chat(1, "5"), "attempt_id": "at-2"}, {**chat(1, "6"), "rollout_id": "ro-2"})
    assert [(record.rollout_id, record.output) for record in found] == [
        ("ro-1/at-1", "4\n"),
        ("ro-1/at-2", "5\n"),
        ("ro-2/at-1", "6\n"),
    ]


def test_operations_of_the_weave_tracer_are_calls_of_a_model(read: Callable[..., Any]) -> None:
    record = read(
        span(
            1,
            "openai.chat.completions.create",
            agentlightning__operation__input__messages__0__role="user",
            agentlightning__operation__input__messages__0__content="2+2?",
            agentlightning__operation__output__choices__0__message__role="assistant",
            agentlightning__operation__output__choices__0__message__content="4",
        )
    )
    assert (record.prompt, record.output) == ("user\n2+2?\n", "4\n")


def event(kind: str, when: float, **data: Any) -> dict[str, Any]:
    return {"event_type": kind, "rollout_id": "ro-1", "attempt_id": "at-1", "timestamp": when, "data": data}


def request(
    when: float, messages: list[Any], message: dict[str, Any], prompt: list[int], ids: list[int]
) -> dict[str, Any]:
    logprobs = {"content": [{"token": "x", "logprob": -0.5} for _ in ids]}
    choice = {"message": message, "token_ids": ids, "logprobs": logprobs, "finish_reason": "stop"}
    asked = {"messages": messages, "tools": [{"type": "function", "function": {"name": "calc"}}]}
    return event("model_request", when, request=asked, response={"prompt_token_ids": prompt, "choices": [choice]})


def test_events_tell_conversations_with_tokens_and_rewards(read: Callable[..., Any]) -> None:
    asked = {"role": "user", "content": "2+2?"}
    called = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c", "function": {"name": "calc", "arguments": "{}"}}],
    }
    answer = {"role": "tool", "tool_call_id": "c", "content": "4"}
    record = read(
        event("reward", 3.0, value=1.0, message="ok"),
        request(2.0, [asked, called, answer], {"role": "assistant", "content": "4"}, [1, 2, 3, 9], [4]),
        event("custom", 2.5, anything=1),
        request(1.0, [asked], called, [1, 2], [3]),
    )
    assert [(call.name, call.outcome, call.result) for call in record.calls] == [("calc", "executed_ok", "4")]
    assert (record.reward, record.finish_reason, record.declared_tools) == (1.0, "stop", ["calc"])
    assert (record.messages, record.tools) == ([asked], [{"type": "function", "function": {"name": "calc"}}])
    assert record.tokens.ids == [1, 2, 3, 9, 4]
    assert record.tokens.logprobs == [None, None, -0.5, None, -0.5]


TRAJECTORY = {
    "rollout_id": "ro-1",
    "reward": 1.0,
    "prompt": "<|im_start|>user\n2+2?<|im_end|>\n",
    "response": "4<|im_end|>",
}


@pytest.mark.parametrize(("split", "expected"), [("train", "train"), ("validation", "validation")])
def test_trajectories_say_step_and_split_by_their_path(log: Log, split: str, expected: str) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as written:
        written.writestr(
            f"{split}_trajectories.jsonl", json.dumps(TRAJECTORY) + "\n" + json.dumps(TRAJECTORY | {"reward": None})
        )
    path = log(stream.getvalue(), f"run/step_12/{split}_trajectories.jsonl.zip")
    first, second = gs.read(str(path))
    assert isinstance(first, gs.Rollout)
    assert isinstance(second, gs.Rollout)
    assert (first.step, first.split, first.run) == (12, expected, str(path.parent.parent))
    assert (first.prompt, first.output, first.reward) == (TRAJECTORY["prompt"], "4<|im_end|>", 1.0)
    assert (second.reward, second.notes) == (None, ["only_the_last_turn"])


def test_trajectories_may_be_unpacked(log: Log) -> None:
    (record,) = gs.read(str(log([TRAJECTORY], "step_3/train_trajectories.jsonl")))
    assert isinstance(record, gs.Rollout)
    assert (record.step, record.split) == (3, "train")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (span(1) | {"sequence_id": "x"}, "a span lacks its"),
        (span(1) | {"name": None}, "a span lacks its"),
        (span(1) | {"attributes": []}, "a span lacks its"),
        (span(1), "ro-1: none of its spans or events holds the messages of a model"),
        (event("reward", 1.0, value=1.0), "ro-1: none of its spans or events holds the messages of a model"),
        (event("reward", 1.0) | {"data": 3}, "`data` of the event 'reward' is 3, expected an object"),
        (TRAJECTORY | {"reward": "good"}, "`reward` is 'good', expected a number"),
        (TRAJECTORY | {"response": 3}, "`response` is int, expected text"),
    ],
)
def test_a_row_that_is_none_is_refused(read: Callable[..., Any], row: dict[str, Any], reason: str) -> None:
    assert read(row).reason.startswith(reason)


def test_no_other_format_claims_its_rows_and_it_claims_no_other() -> None:
    for row in (span(1), event("reward", 1.0), TRAJECTORY, TRAJECTORY | {"later": 1}):
        assert [parser.name for parser in PARSERS if parser.claims(row)] == ["agent-lightning"]
    others = (
        {key: value for key, value in TRAJECTORY.items() if key != "rollout_id"},
        TRAJECTORY | {"rollout_id": 7},
        TRAJECTORY | {"messages": []},
        {"rollout_id": "x", "attributes": {}},
    )
    assert not any(map(agent_lightning.claims, others))


def test_empty_and_truncated_files(log: Log) -> None:
    with pytest.raises(gs.InputError, match="an empty file"):
        list(gs.read(str(log(b"", "spans.jsonl"))))
    line = json.dumps(chat(1)).encode()
    record, refused = gs.read(str(log(line + b"\n" + line[:-9], "spans.jsonl")))
    assert isinstance(record, gs.Rollout)
    assert isinstance(refused, gs.Refused)
