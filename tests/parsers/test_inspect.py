"""Inspect's logs: archives and documents of one evaluation each."""

import base64
import io
import json
import math
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from samples import rollouts

import gapscope as gs
from gapscope.parsers import PARSERS, inspect

Log = Callable[..., Path]
SPEC = {"task": "arithmetic", "model": "openai/tiny", "created": "2026-11-22T10:00:00+00:00"}
CALL = {"id": "c1", "function": "calc", "arguments": {"expr": "2+2"}, "type": "function"}


def assistant(content: Any = "", *calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, "source": "generate", **more}
    return {**message, "tool_calls": list(calls)} if calls else message


def result(content: str, **error: str) -> dict[str, Any]:
    message = {"role": "tool", "content": content, "tool_call_id": "c1", "function": "calc"}
    return {**message, "error": error} if error else message


def sample(*messages: dict[str, Any], **changes: Any) -> dict[str, Any]:
    whole = {
        "id": "q7",
        "epoch": 1,
        "input": "2+2?",
        "target": "4",
        "messages": [{"role": "user", "content": "2+2?", "source": "input"}, *messages],
        "output": {"choices": [{"stop_reason": "stop"}]},
        "scores": {"match": {"value": "C", "answer": "4"}},
    } | changes
    return {key: value for key, value in whole.items() if value is not ...}


def document(*samples: Any, **changes: Any) -> dict[str, Any]:
    return {"version": 2, "status": "success", "eval": SPEC, "samples": list(samples)} | changes


def archive(**members: Any) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as written:
        for name, content in members.items():
            written.writestr(name + ".json", json.dumps(content))
    return stream.getvalue()


@pytest.fixture
def read(log: Log) -> Callable[..., Any]:
    """What becomes of the samples of a document: the one record, if there is one."""

    def records(*samples: Any, **changes: Any) -> Any:
        path = log(json.dumps(document(*samples, **changes), indent=2).encode(), "task.json")
        found = list(gs.read(str(path)))
        return found[0] if len(found) == 1 else found

    return records


def calls(rollout: gs.Rollout) -> list[tuple[str | None, str]]:
    return [(call.name, call.outcome) for call in rollout.calls]


def test_the_sample_tells_the_same_story_as_that_of_verl() -> None:
    """The first two groups of the step that the samples of verl hold."""
    told = {
        (rollout.group_id, rollout.sample_index): (rollout.reward, [call.outcome for call in rollout.calls])
        for rollout in rollouts("inspect")
        if rollout.data_source == "arithmetic"
    }
    expected = [(rollout.reward, [call.outcome for call in rollout.calls]) for rollout in rollouts("verl-v1")[:16]]
    # Inspect gives an answer to what it cannot parse, where verl's rollout just ends.
    expected[7] = (0.0, ["unparseable"])
    assert [told[f"q{place // 8}", place % 8 + 1] for place in range(16)] == expected


def test_an_evaluation_is_a_run_a_sample_a_group_and_an_epoch_its_place(log: Log) -> None:
    samples = {f"samples/{name}_epoch_{epoch}": sample(id=name, epoch=epoch) for name in (7, "x/y") for epoch in (1, 2)}
    path = log(archive(**{"_journal/start": {"eval": SPEC}, **samples, "header": document()}), "a_task.eval")
    found = [record for record in gs.read(str(path)) if isinstance(record, gs.Rollout)]
    assert [(record.group_id, record.group_origin, record.sample_index) for record in found] == [
        ("7", "logged", 1),
        ("7", "logged", 2),
        ("x/y", "logged", 1),
        ("x/y", "logged", 2),
    ]
    assert {record.run for record in found} == {str(path).removesuffix(".eval")}
    assert [record.rollout_id for record in found[:2]] == ["7_epoch_1", "7_epoch_2"]
    assert {(record.data_source, record.extra["model"]) for record in found} == {("arithmetic", "openai/tiny")}


def test_shards_belong_to_the_run_that_they_are_of(log: Log) -> None:
    content = archive(**{"_journal/start": {"eval": SPEC}, "samples/q_epoch_1": sample()})
    path = log(content, "logs/big.shards/3/part.eval")
    (record,) = gs.read(str(path))
    assert isinstance(record, gs.Rollout)
    assert record.run == str(path.parent.parent.parent / "big")


def test_an_interrupted_run_has_its_samples_and_no_header(log: Log) -> None:
    content = archive(
        **{
            "_journal/start": {"version": 2, "eval": SPEC, "plan": {}},
            "samples/q_epoch_1": sample(),
            "_journal/summaries/1": [{"id": "q7", "epoch": 1}],
            "_journal/config_updates/1": [{}],
        },
    )
    (record,) = gs.read(str(log(content, "task.eval")))
    assert isinstance(record, gs.Rollout)
    assert record.data_source == "arithmetic"


def chunks(name: str, **parts: Any) -> dict[str, Any]:
    """The members of a chunked sample; double underscores stand for slashes."""
    return {f"samples/{name}/{part.replace('__', '/')}": content for part, content in parts.items()}


def test_a_sample_in_many_members_is_put_together(log: Log) -> None:
    asked = {"role": "user", "content": [{"type": "image", "image": "attachment://1"}]}
    shell = {**sample(messages=...), "message_refs": [[0, 1], [2, 4]]}
    tools = [{"event": "model", "tools": [{"name": "calc", "parameters": {}}]}, {"event": "tool"}]
    whole = chunks(
        "q/7_epoch_1",
        sample=shell,
        metadata={"level": 1},
        skeleton={"version": 1},
        messages__2=[assistant("", CALL), result("4")],
        messages__0=[asked, assistant("compacted away")],
        events__stats={"version": 1},
        events__uuids=["a"],
        events__0=tools,
        events__2=[{"event": "compaction"}],
        calls__0=[{}],
        attachments__0=["other", "data:image/png;base64,AAAA"],
    )
    content = archive(**{"header": document(), **whole, "samples/b_epoch_1": sample(id="b")})
    first, second = gs.read(str(log(content, "task.eval")))
    assert isinstance(first, gs.Rollout)
    assert isinstance(second, gs.Rollout)
    assert (first.group_id, calls(first), len(first.images)) == ("q7", [("calc", "executed_ok")], 1)
    assert (first.declared_tools, first.notes) == (["calc"], ["messages_were_compacted"])
    assert first.tools == [{"name": "calc", "parameters": {}}]
    assert (first.prompt, first.extra["metadata"], first.correct) == ("user\n<image>\n", {"level": 1}, True)
    assert second.group_id == "b"


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"messages__0": []}, "its sample.json is missing, or no object"),
        ({"sample": {**sample(), "message_refs": [[0, 2]]}, "messages__0": [result("")]}, "its messages [0, 2] are"),
        ({"sample": {**sample(), "message_refs": [3]}}, "its messages 3 are missing: there are 0"),
        ({"sample": sample(), "messages__0": [result("")], "messages__2": []}, "its messages from 1 on are missing"),
    ],
)
def test_a_sample_whose_members_are_missing_is_refused(log: Log, parts: dict[str, Any], reason: str) -> None:
    content = archive(**{"header": document(), **chunks("q_epoch_1", **parts), "samples/b_epoch_1": sample()})
    refused, after = gs.read(str(log(content, "task.eval")))
    assert isinstance(refused, gs.Refused)
    assert refused.reason.startswith(f"samples/q_epoch_1: {reason}")
    assert isinstance(after, gs.Rollout)


def test_members_that_are_of_no_evaluation_are_refused(log: Log) -> None:
    content = archive(
        **{"header": document(), "other": {"x": 1}, "samples/a_epoch_1": [1], "samples/b_epoch_1": {"epoch": 1}}
    )
    reasons = [record.reason for record in gs.read(str(log(content, "task.eval"))) if isinstance(record, gs.Refused)]
    assert reasons == [
        "`member` is 'other.json', expected samples/… of an Inspect log",
        "samples/a_epoch_1.json: list, expected an object",
        "samples/b_epoch_1.json: `id` is None, expected the id of a sample",
    ]


@pytest.mark.parametrize(
    ("scores", "reward", "parts", "correct"),
    [
        ({"match": {"value": "C"}}, 1.0, [("match", 1.0)], True),
        ({"match": {"value": "I"}}, 0.0, [("match", 0.0)], False),
        ({"match": {"value": "P"}}, 0.5, [("match", 0.5)], None),
        ({"match": {"value": "N"}}, 0.0, [("match", 0.0)], None),
        ({"f1": {"value": 0.25}}, 0.25, [("f1", 0.25)], None),
        ({"ok": {"value": True}}, 1.0, [("ok", 1.0)], None),
        ({"model_graded": {"value": "good"}}, None, [("model_graded", None)], None),
        ({"judge": {"value": {"a": "C", "b": 2}}}, None, [("judge.a", 1.0), ("judge.b", 2.0)], None),
        ({"a": {"value": "C"}, "b": {"value": "I"}}, None, [("a", 1.0), ("b", 0.0)], None),
        ({"a": {"value": None}}, None, [("a", None)], None),
        ({}, None, [], None),
        (None, None, [], None),
    ],
)
def test_scores_are_parts_and_correctness_is_what_one_scorer_says(
    read: Callable[..., Any], scores: Any, reward: float | None, parts: list[Any], correct: bool | None
) -> None:
    record = read(sample(scores=scores))
    assert (record.reward, [(part.name, part.value) for part in record.reward_parts]) == (reward, parts)
    assert record.correct is correct
    assert record.correct_rule == (None if correct is None else "`match` is C, as the scorer says")


def test_the_one_score_of_older_logs_is_read(read: Callable[..., Any]) -> None:
    record = read(sample(scores=..., score={"value": "C", "answer": "4"}))
    assert (record.correct, record.reward_parts[0].name) == (True, "score")


def test_a_score_that_is_not_a_number_is_none(log: Log) -> None:
    text = json.dumps(document(sample()), indent=2).replace('"C"', "NaN").encode()
    (record,) = gs.read(str(log(text, "task.json")))
    assert isinstance(record, gs.Rollout)
    assert (record.reward, record.correct, record.notes) == (None, None, ["not_finite"])


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (result("4"), "executed_ok"),
        (result("", type="timeout", message="Command timed out before completing."), "timeout"),
        (result("", type="parsing", message="Tool calc not found"), "unknown_tool"),
        (result("", type="parsing", message="Required parameter expr not provided to tool call."), "bad_arguments"),
        (result("partial", type="permission", message="no"), "executed_error"),
        (result("", type="a_later_type", message="no"), "executed_error"),
    ],
)
def test_a_tool_that_failed_is_known_by_the_type_of_its_error(
    read: Callable[..., Any], answer: dict[str, Any], outcome: str
) -> None:
    record = read(sample(assistant("", CALL), answer, assistant("4")))
    assert calls(record) == [("calc", outcome)]
    assert record.calls[0].result == (answer["content"] or answer["error"]["message"])
    assert len(record.turns) == 2


def test_a_call_that_could_not_be_parsed_is_an_attempt(read: Callable[..., Any]) -> None:
    broken = {**CALL, "arguments": {}, "parse_error": "Error parsing: {2+2"}
    record = read(sample(assistant("", broken, CALL), result("", type="parsing", message="Error parsing: {2+2")))
    assert calls(record) == [(None, "unparseable"), ("calc", "no_result")]
    assert "{2+2" in record.calls[0].raw
    assert record.calls[0].result == "Error parsing: {2+2"


def test_tools_that_the_provider_ran_are_calls_in_the_order_of_the_content(read: Callable[..., Any]) -> None:
    used = {"type": "tool_use", "tool_type": "web_search", "id": "w", "name": "web_search", "arguments": '{"q":"4"}'}
    content = [
        {"type": "reasoning", "reasoning": "Search."},
        {**used, "result": "four"},
        {**used, "result": "", "error": "rate limited"},
        {"type": "text", "text": "It is 4."},
    ]
    record = read(sample(assistant(content)))
    assert [(call.name, call.arguments, call.outcome, call.result) for call in record.calls] == [
        ("web_search", {"q": "4"}, "executed_ok", "four"),
        ("web_search", {"q": "4"}, "executed_error", "rate limited"),
    ]
    assert [span.kind for span in record.spans] == [
        *("think", "tool_call", "tool_result", "tool_call", "tool_result", "text"),
    ]


def test_references_are_resolved_where_the_log_holds_what_they_stand_for(read: Callable[..., Any]) -> None:
    image = base64.b64encode(b"png").decode()
    shown = [{"type": "text", "text": "attachment://t"}, {"type": "image", "image": "attachment://i"}]
    messages = [{"role": "user", "content": shown}, assistant("attachment://t"), assistant("attachment://gone")]
    attachments = {"t": "a long text", "i": f"data:image/png;base64,{image}"}
    record = read(sample(messages=messages, attachments=attachments))
    assert record.prompt == "user\na long text<image>\n"
    shown = [{"type": "text", "text": "a long text"}, {"type": "image", "image": attachments["i"]}]
    assert record.messages == [{"role": "user", "content": shown}]
    assert record.output == "a long text\nattachment://gone\n"
    assert record.images == [type(record.images[0])(sha256(b"png").hexdigest(), "image/png")]


def test_redacted_reasoning_is_no_thinking_but_its_summary_is(read: Callable[..., Any]) -> None:
    secret = {"type": "reasoning", "reasoning": "gAAAA=", "redacted": True}
    record = read(sample(assistant([secret, {"type": "text", "text": "4"}])))
    assert (record.output, [span.kind for span in record.spans]) == ("4\n", ["text"])
    record = read(sample(assistant([{**secret, "summary": "Adding."}])))
    assert (record.output, [span.kind for span in record.spans]) == ("Adding.\n", ["think"])


def test_examples_in_the_input_were_not_written_by_the_policy(read: Callable[..., Any]) -> None:
    example = {"role": "assistant", "content": "1+1 is 2.", "source": "input"}
    record = read(sample(example, assistant("It is 4.")))
    assert record.prompt == "user\n2+2?\nassistant\n1+1 is 2.\n"
    assert record.messages == [{"role": "user", "content": "2+2?", "source": "input"}, example]
    assert record.output == "It is 4.\n"


def test_messages_that_were_compacted_are_noted_and_tools_are_those_offered(read: Callable[..., Any]) -> None:
    events = [
        {"event": "model", "input": [], "input_refs": [[0, 1]], "tools": [{"name": "calc"}]},
        {"event": "model", "tools": [{"name": "calc"}, {"name": "bash"}]},
        {"event": "compaction"},
        "odd",
    ]
    record = read(sample(events=events))
    assert (record.declared_tools, record.notes) == (["calc", "bash"], ["messages_were_compacted"])
    assert read(sample(events=[{"event": "model", "tools": []}])).declared_tools is None


def test_definitions_of_all_tools_that_were_offered_are_there_as_they_were_written(read: Callable[..., Any]) -> None:
    calc, bash = {"name": "calc", "parameters": {"type": "object"}}, {"name": "bash", "description": "Run."}
    events = [{"event": "model", "tools": [calc]}, {"event": "model", "tools": [calc, bash]}]
    assert read(sample(events=events)).tools == [calc, bash]
    assert read(sample()).tools is None


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({}, "ok", "stop"),
        ({"output": {"choices": [{"stop_reason": "max_tokens"}]}}, "truncated", "length"),
        ({"output": {"choices": [{"stop_reason": "content_filter"}]}}, "ok", "content_filter"),
        ({"output": {"choices": [{"stop_reason": "unknown"}]}}, "ok", None),
        ({"output": {"choices": []}}, "ok", None),
        ({"limit": {"type": "message", "limit": 6}}, "truncated", "turn_limit"),
        ({"limit": {"type": "token", "limit": 6}}, "truncated", "length"),
        ({"limit": {"type": "time", "limit": 6}}, "truncated", "time"),
        ({"limit": {"type": "operator", "limit": 1}}, "truncated", "abort"),
        ({"error": {"message": "RuntimeError('x')", "traceback": "…"}}, "error", "error"),
        ({"error": {"message": "CancelledError()", "traceback": "…"}}, "error", "abort"),
        ({"invalidation": {"author": "me"}}, "excluded", "stop"),
    ],
)
def test_how_a_sample_ended(read: Callable[..., Any], changes: dict[str, Any], status: str, reason: str | None) -> None:
    record = read(sample(**changes))
    assert (record.status, record.finish_reason) == (status, reason)


def test_a_sample_that_ended_before_it_began_has_its_question(read: Callable[..., Any]) -> None:
    record = read(sample(messages=[], scores=None, error={"message": "no"}))
    assert (record.prompt, record.output, record.extra["error"]) == ("2+2?", "", "no")
    assert record.messages is None
    record = read(sample(messages=..., input=[{"role": "user", "content": "2+2?"}]))
    assert (record.prompt, record.messages) == ("user\n2+2?\n", [{"role": "user", "content": "2+2?"}])


def generated(message: dict[str, Any], *tokens: str) -> dict[str, Any]:
    """What a sample says of its last generation, with the log-probs of its tokens."""
    top = [{"token": token, "logprob": math.log(0.5), "bytes": None} for token in ("4", "5")]
    content = [{"token": token, "logprob": math.log(0.5), "bytes": None, "top_logprobs": top} for token in tokens]
    return {"choices": [{"message": message, "stop_reason": "stop", "logprobs": {"content": content}}]}


def test_the_one_generation_of_a_sample_has_the_texts_of_its_tokens(read: Callable[..., Any]) -> None:
    answer = assistant("4")
    tokens = read(sample(answer, output=generated(answer, "4", "5"))).tokens
    assert (tokens.strings, tokens.ids, tokens.n_prompt, tokens.sampled) == (["4", "5"], None, 0, [True, True])
    assert (tokens.logprobs, tokens.logprob_source) == ([math.log(0.5)] * 2, "rollout")
    assert (tokens.entropies, tokens.entropy_kind) == ([pytest.approx(math.log(2))] * 2, "topk")


def test_log_probs_of_the_last_of_several_generations_are_not_all(read: Callable[..., Any]) -> None:
    called, answer = assistant("", CALL), assistant("4")
    record = read(sample(called, result("4"), answer, output=generated(answer, "4")))
    assert (record.tokens, record.notes) == (None, ["tokens_are_not_one_sequence"])
    shown = read(sample({**answer, "source": "input"}, answer, output=generated(answer, "4")))
    assert shown.tokens is not None
    edited = read(sample(assistant("four"), output=generated(answer, "4")))
    assert (edited.tokens, edited.notes) == (None, ["tokens_are_not_one_sequence"])


def test_each_sample_of_a_document_is_read_or_refused(read: Callable[..., Any]) -> None:
    found = read(sample(), 7, sample(messages="x"), sample(epoch=None), sample(epoch=2))
    assert [getattr(record, "reason", None) for record in found] == [
        None,
        "samples[1]: int, expected an object",
        "samples[2]: `messages` is str, expected a list of messages",
        "samples[3]: `epoch` is None, expected the epoch of a sample",
        None,
    ]


@pytest.mark.parametrize("samples", [None, [], {}])
def test_a_document_without_samples_says_why(read: Callable[..., Any], samples: Any) -> None:
    assert "`--no-log-samples`" in read(samples=samples).reason


def test_unknown_keys_are_kept(read: Callable[..., Any]) -> None:
    record = read(sample(later={"x": 1}, metadata={"level": 3}, store={}), later_still=2)
    assert record.extra["later"] == {"x": 1}
    assert record.extra["later_still"] == 2
    assert record.extra["metadata"] == {"level": 3}
    assert "store" not in record.extra


@pytest.mark.parametrize(
    "row",
    [
        {"eval": "x", "status": "success"},
        {"eval": {"task": "x"}, "status": "success"},
        {"eval": SPEC},
        {"member": "samples/x.json", "content": {"id": 1}},
        {"member": 3, "content": {"id": 1, "epoch": 1}},
        {"member": "step_1/train.json", "content": {"id": 1, "epoch": 1}},
        {"member": "header.json", "content": {"eval": 3}},
        {"samples": [], "summary": {}},
    ],
)
def test_rows_of_something_else_are_not_claimed(row: dict[str, Any]) -> None:
    assert not inspect.claims(row)


def test_no_other_format_claims_its_rows() -> None:
    rows = [document(sample()), {"member": "samples/q_epoch_1.json", "content": sample()}]
    assert [[parser.name for parser in PARSERS if parser.claims(row)] for row in rows] == [["inspect"], ["inspect"]]


def test_empty_and_truncated_logs_are_no_rollouts(log: Log) -> None:
    whole = archive(**{"_journal/start": {"eval": SPEC}, "samples/q_epoch_1": sample()})
    for content, name, word in (
        (b"", "a.eval", "an empty file"),
        (whole[:-30], "b.eval", "cut off"),
        (json.dumps(document(sample()), indent=2).encode()[:-30], "c.json", "not JSON"),
    ):
        with pytest.raises(gs.InputError, match=word):
            list(gs.read(str(log(content, name))))
