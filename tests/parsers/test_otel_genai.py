"""OpenTelemetry spans of models and tools, in every dialect that they are written in."""

import base64
import json
import random
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from samples import SAMPLE_OF, rollouts

import gapscope as gs
from gapscope.parsers import PARSERS, otel_genai

Log = Callable[..., Path]


def typed(value: Any) -> dict[str, Any]:
    """A value as OTLP's JSON has it."""
    if isinstance(value, list):
        return {"arrayValue": {"values": [typed(item) for item in value]}}
    if isinstance(value, dict):
        return {"kvlistValue": {"values": listed(value)}}
    if isinstance(value, bool):
        return {"boolValue": value}
    return (
        {"intValue": str(value)}
        if isinstance(value, int)
        else {"doubleValue" if isinstance(value, float) else "stringValue": value}
    )


def listed(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": typed(value)} for key, value in attributes.items()]


def span(at: int = 0, trace: str = "0a" * 16, parent: str | None = "0b" * 8, **attributes: Any) -> dict[str, Any]:
    """One OTLP span; double underscores stand for dots."""
    named = {key.replace("__", "."): value for key, value in attributes.items()}
    whole = {"traceId": trace, "spanId": f"{at:016x}", "name": "a", "startTimeUnixNano": str(10**18 + at)}
    return {**whole, "attributes": listed(named), **({"parentSpanId": parent} if parent else {})}


def batch(*spans: dict[str, Any], **resource: Any) -> dict[str, Any]:
    attributes = listed({key.replace("__", "."): value for key, value in resource.items()})
    return {"resourceSpans": [{"resource": {"attributes": attributes}, "scopeSpans": [{"spans": list(spans)}]}]}


def said(text: str, role: str = "assistant", **more: Any) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": text}], **more}


def called(id: str = "c", **arguments: Any) -> dict[str, Any]:  # noqa: A002
    return {"role": "assistant", "parts": [{"type": "tool_call", "id": id, "name": "calc", "arguments": arguments}]}


def answered(text: Any, id: str = "c") -> dict[str, Any]:  # noqa: A002
    return {"role": "tool", "parts": [{"type": "tool_call_response", "id": id, "response": text}]}


def chat(at: int, asked: list[Any], answer: Any, *, text: bool = True, **more: Any) -> dict[str, Any]:
    """A call of a model with the current conventions, its messages as JSON in strings or as structure."""
    encode = json.dumps if text else (lambda value: value)
    messages = {"gen_ai__input__messages": encode(asked), "gen_ai__output__messages": encode([answer])}
    return span(at, **messages, **more)


ASKED = [said("2+2?", "user")]


@pytest.fixture
def read(log: Log) -> Callable[..., Any]:
    """What becomes of rows: the one record, if there is one."""

    def records(*rows: Any) -> Any:
        found = list(gs.read(str(log(rows, "traces.jsonl"))))
        return found[0] if len(found) == 1 else found

    return records


def calls(rollout: gs.Rollout) -> list[tuple[str | None, str, str | None]]:
    return [(call.name, call.outcome, call.result) for call in rollout.calls]


def test_the_sample_tells_the_same_story_as_that_of_verl() -> None:
    told = [record for record in rollouts("otel-genai") if str(record.rollout_id).startswith("conversation-")]
    expected = rollouts("verl-v1")[:16]
    assert [[(c.name, c.arguments, c.outcome) for c in record.calls] for record in told] == [
        [(c.name, c.arguments, c.outcome) for c in record.calls] for record in expected
    ]
    assert [record.reward_parts[0].value for record in told] == [record.reward for record in expected]


def test_the_order_of_spans_does_not_matter(log: Log) -> None:
    rows = [json.loads(line) for line in (SAMPLE_OF["otel-genai"] / "traces.jsonl").read_text().splitlines()]
    spans = [
        s for row in rows for group in row["resourceSpans"] for scope in group["scopeSpans"] for s in scope["spans"]
    ]
    random.Random(3).shuffle(spans)
    found = [r for r in gs.read(str(log([batch(s) for s in spans], "t.jsonl"))) if isinstance(r, gs.Rollout)]
    expected = {r.rollout_id: r.output for r in rollouts("otel-genai") if r.source.file == "traces.jsonl"}
    assert {record.rollout_id: record.output for record in found} == expected


@pytest.mark.parametrize("text", [True, False])
def test_messages_may_be_text_or_structure(read: Callable[..., Any], text: bool) -> None:
    first, second = called(x=4), said("4", finish_reason="stop")
    record = read(
        batch(
            chat(1, ASKED, first, text=text),
            chat(2, [*ASKED, first, answered({"value": 4})], second, text=text),
        )
    )
    assert record.rollout_id == "0a" * 16
    assert calls(record) == [("calc", "executed_ok", '{"value":4}')]
    assert (record.prompt, record.finish_reason, len(record.turns)) == ("user\n2+2?\n", "stop", 2)
    assert record.output == '{"arguments":{"x":4},"name":"calc"}\n{"value":4}\n4\n'


def test_messages_may_be_on_an_event_of_the_span(read: Callable[..., Any]) -> None:
    details = {"gen_ai.input.messages": ASKED, "gen_ai.output.messages": [said("4")]}
    event = {"name": "gen_ai.client.inference.operation.details", "attributes": listed(details)}
    record = read(batch({**span(1, gen_ai__request__model="m"), "events": [event]}))
    assert (record.output, record.extra["gen_ai.request.model"]) == ("4\n", "m")


def test_spans_of_tools_give_the_answers_that_no_call_repeats(read: Callable[..., Any]) -> None:
    tool = {"gen_ai__operation__name": "execute_tool", "gen_ai__tool__call__id": "c"}
    record = read(batch(chat(1, ASKED, called()), span(2, gen_ai__tool__call__result="4", **tool)))
    assert calls(record) == [("calc", "executed_ok", "4")]
    failed = read(batch(chat(1, ASKED, called()), span(2, error__type="TimeoutError", **tool)))
    assert calls(failed) == [("calc", "timeout", "")]
    repeated = read(
        batch(
            chat(1, ASKED, called()),
            {**span(2, **tool), "status": {"code": 2}},
            chat(3, [*ASKED, called(), answered("odd")], said("4")),
        )
    )
    assert calls(repeated) == [("calc", "executed_error", "odd")]
    assert calls(read(batch(chat(1, ASKED, called()), span(2, **tool)))) == [("calc", "no_result", None)]


def test_evaluations_are_reward_parts_and_the_last_of_a_name_counts(read: Callable[..., Any]) -> None:
    def event(name: str, value: Any) -> dict[str, Any]:
        score = {"gen_ai.evaluation.name": name, "gen_ai.evaluation.score.value": value}
        return {"name": "gen_ai.evaluation.result", "attributes": listed(score)}

    scored = {**chat(1, ASKED, said("4")), "events": [event("a", 0.5), event("b", 1)]}
    later = span(2, gen_ai__evaluation__name="a", gen_ai__evaluation__score__value=0.75)
    labelled = span(3, gen_ai__evaluation__name="c", gen_ai__evaluation__score__label="pass")
    record = read(batch(scored, later, labelled))
    assert [(part.name, part.value) for part in record.reward_parts] == [("a", 0.75), ("b", 1.0), ("c", None)]
    assert (record.reward, record.correct, record.extra["labels"]) == (None, None, {"c": "pass"})


def test_a_conversation_may_be_of_several_traces(read: Callable[..., Any]) -> None:
    one = chat(1, ASKED, said("4"), gen_ai__conversation__id="x")
    tool = span(2, gen_ai__operation__name="execute_tool")
    other = {**chat(3, [*ASKED, said("4"), said("Sure?", "user")], said("Yes."), gen_ai__conversation__id="x")}
    other["traceId"] = "0c" * 16
    record = read(batch(one), batch(tool, other))
    assert (record.rollout_id, record.output) == ("x", "4\nSure?\nYes.\n")
    assert [span.kind for span in record.spans] == ["text", "prompt", "text"]


def test_calls_that_do_not_continue_one_another_are_outputs_of_one_rollout(read: Callable[..., Any]) -> None:
    found = read(batch(chat(1, ASKED, said("4")), chat(2, [said("Other?", "user")], said("No."))))
    assert [(record.rollout_id, record.output_index, record.output) for record in found] == [
        ("0a" * 16, 0, "4\n"),
        ("0a" * 16, 1, "No.\n"),
    ]


def test_ids_are_the_same_in_hex_in_base64_and_with_a_prefix(read: Callable[..., Any]) -> None:
    identity = bytes(range(200, 216))
    encoded = base64.b64encode(identity).decode()
    spans = [chat(1, ASKED, called()), chat(2, [*ASKED, called(), answered("4")], said("4"))]
    for item, trace in zip(spans, (encoded, "0x" + identity.hex().upper()), strict=True):
        item["traceId"] = trace
    record = read(batch(*spans))
    assert (record.rollout_id, len(record.turns)) == (identity.hex(), 2)


def test_reasoning_system_instructions_images_and_tools_are_read(read: Callable[..., Any]) -> None:
    png = base64.b64encode(b"png").decode()
    shown = {
        "role": "user",
        "parts": [
            {"type": "text", "content": "What?"},
            {"type": "blob", "modality": "image", "mime_type": "image/png", "content": png},
            {"type": "uri", "modality": "image", "uri": "https://example.org/x.png"},
        ],
    }
    answer = {"role": "assistant", "parts": [{"type": "reasoning", "content": "Hm."}, {"type": "text", "content": "4"}]}
    definitions = json.dumps([{"type": "function", "name": "calc"}])
    system = json.dumps([{"type": "text", "content": "Be brief."}])
    more = {"gen_ai__tool__definitions": definitions, "gen_ai__system_instructions": system}
    record = read(batch(chat(1, [shown], answer, **more)))
    assert record.prompt == "system\nBe brief.\nuser\nWhat?<image><image>\n"
    assert [span.kind for span in record.spans] == ["think", "text"]
    assert [image.sha256 for image in record.images] == [sha256(b"png").hexdigest()]
    assert record.declared_tools == ["calc"]


def test_definitions_of_all_calls_are_there_once_and_as_they_were_written(read: Callable[..., Any]) -> None:
    calc = {"type": "function", "name": "calc", "parameters": {"type": "object"}}
    look = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    first = chat(1, ASKED, called(), gen_ai__tool__definitions=json.dumps([calc]))
    second = chat(2, [*ASKED, called(), answered("4")], said("4"), gen_ai__tool__definitions=json.dumps([calc, look]))
    record = read(batch(first, second))
    assert (record.declared_tools, record.tools) == (["calc", "look"], [calc, look])


def test_messages_are_those_before_the_first_call(read: Callable[..., Any]) -> None:
    record = read(batch(chat(1, ASKED, called()), chat(2, [*ASKED, called(), answered("4")], said("4"))))
    assert record.messages == [{"role": "user", "content": [{"type": "text", "text": "2+2?"}]}]


def test_traceloop_and_openinference_are_read_from_the_console(read: Callable[..., Any]) -> None:
    def printed(at: int, **attributes: Any) -> dict[str, Any]:
        return {
            "name": "chat",
            "context": {"trace_id": "0x01", "span_id": f"0x{at:02}"},
            "parent_id": None,
            "start_time": f"2026-11-22T10:00:0{at}.000000Z",
            "status": {"status_code": "UNSET"},
            "attributes": {key.replace("__", "."): value for key, value in attributes.items()},
            "resource": {"attributes": {"service.name": "s"}},
        }

    parts = json.dumps([{"type": "text", "text": "2+2?"}, {"type": "image_url", "image_url": {"url": "data:,x"}}])
    traceloop = printed(
        1,
        gen_ai__prompt__0__role="user",
        gen_ai__prompt__0__content=parts,
        gen_ai__prompt__10__role="user",
        gen_ai__prompt__10__content="last",
        gen_ai__prompt__2__role="user",
        gen_ai__prompt__2__content="middle",
        gen_ai__completion__0__content="",
        gen_ai__completion__0__finish_reason="length",
        gen_ai__completion__0__tool_calls__0__name="calc",
        gen_ai__completion__0__tool_calls__0__arguments='{"x": ',
        llm__request__functions__0__name="calc",
    )
    record = read(traceloop)
    assert record.prompt == "user\n2+2?<image>\nuser\nmiddle\nuser\nlast\n"
    assert calls(record) == [("calc", "bad_arguments", None)]
    assert (record.status, record.finish_reason, len(record.images)) == ("truncated", "length", 1)
    message = "llm__output_messages__0__message__"
    openinference = printed(
        1,
        llm__input_messages__0__message__role="user",
        llm__input_messages__0__message__contents__0__message_content__type="text",
        llm__input_messages__0__message__contents__0__message_content__text="2+2?",
        llm__input_messages__0__message__contents__1__message_content__type="image",
        llm__input_messages__0__message__contents__1__message_content__image__image__url="data:,x",
        **{
            message + "content": "I call.",
            message + "tool_calls__0__tool_call__id": "c",
            message + "tool_calls__0__tool_call__function__name": "calc",
            message + "tool_calls__0__tool_call__function__arguments": "{}",
        },
    )
    tool = printed(2, openinference__span__kind="TOOL", tool_call__id="c", output__value="4")
    record = read(tool, openinference)
    assert record.prompt == "user\n2+2?<image>\n"
    assert calls(record) == [("calc", "executed_ok", "4")]
    assert record.extra["resource"] == {"service.name": "s"}


def test_the_console_exporter_prints_one_document_after_another(log: Log) -> None:
    lines = (SAMPLE_OF["otel-genai"] / "console.jsonl").read_text().splitlines()
    printed = "\n".join(json.dumps(json.loads(line), indent=4) for line in lines)
    expected = [r.output for r in rollouts("otel-genai") if r.source.file == "console.jsonl"]
    found = list(gs.read(str(log(printed.encode(), "console.json"))))
    assert [getattr(record, "output", None) for record in found] == expected
    cut = list(gs.read(str(log(printed.encode()[:-99], "cut.json"))))
    assert isinstance(cut[-1], gs.Refused)
    assert cut[-1].reason.startswith("document 6 is not JSON")


def test_a_rollout_whose_root_failed_is_an_error(read: Callable[..., Any]) -> None:
    root = {**span(0, parent=None), "status": {"code": "STATUS_CODE_ERROR"}}
    record = read(batch(root, chat(1, ASKED, said("4", finish_reason="stop"))))
    assert (record.status, record.finish_reason) == ("error", "stop")


def test_spans_without_content_say_what_to_do(read: Callable[..., Any]) -> None:
    found = read(batch(span(1, gen_ai__operation__name="chat")))
    assert found.reason.startswith("0a" * 16 + ": its spans hold no messages; content is only captured where")
    assert read(batch(span(1, http__method="GET"))).reason == "none of the spans is about a language model"
    assert read(batch()).reason == "no span with a trace and a name, in OTLP's JSON or the SDK's"


def test_other_traces_are_passed_over_beside_those_of_models(read: Callable[..., Any]) -> None:
    record = read(batch(span(1, trace="0d" * 16, http__method="GET"), chat(2, ASKED, said("4"))))
    assert record.output == "4\n"


@pytest.mark.parametrize(
    "attributes",
    [
        {"gen_ai.prompt.999999999999999999.role": "user", "gen_ai.completion.0.content": "4"},
        {"gen_ai.prompt." + "0." * 5000 + "role": "user", "gen_ai.completion.0.content": "4"},
        {"gen_ai.prompt.0": 3, "gen_ai.prompt.0.role": 3, "gen_ai.completion.0.content": "4"},
        {"gen_ai.completion.0.content": "4", "gen_ai.completion.0.tool_calls": 3, "gen_ai.prompt": "x"},
    ],
)
def test_strange_keys_do_no_harm(read: Callable[..., Any], attributes: dict[str, Any]) -> None:
    assert read(batch({**span(1), "attributes": listed(attributes)})).output == "4\n"


def test_rewards_of_agent_lightning_are_read_from_otlp_as_well(read: Callable[..., Any]) -> None:
    reward = {"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": 0.5}
    annotation = {**span(2), "name": "agentlightning.annotation", "attributes": listed(reward)}
    record = read(batch(chat(1, ASKED, said("4")), annotation, agentlightning__rollout_id="ro-1"))
    assert (record.rollout_id, record.reward) == ("ro-1", 0.5)


def test_no_other_format_claims_spans_and_it_claims_no_other() -> None:
    printed = {"name": "a", "context": {"trace_id": "0x1"}, "attributes": {}}
    for row in (batch(span()), printed):
        assert [parser.name for parser in PARSERS if parser.claims(row)] == ["otel-genai"]
    for row in ({"resourceSpans": 3}, {"context": "x", "attributes": {}}, {"context": {}, "attributes": {}}):
        assert not otel_genai.claims(row)


def test_a_truncated_file_has_the_spans_before_the_end(log: Log) -> None:
    lines = json.dumps(batch(chat(1, ASKED, said("4")))).encode()
    record, refused = gs.read(str(log(lines + b"\n" + lines[:-40], "t.jsonl")))
    assert isinstance(record, gs.Rollout)
    assert isinstance(refused, gs.Refused)
    with pytest.raises(gs.InputError, match="an empty file"):
        list(gs.read(str(log(b"", "e.jsonl"))))
