"""What the spans of models and tools say, whatever dialect their attributes are in, as conversations.

Three ways of writing down the messages of a call are read: the GenAI conventions (`gen_ai.input.messages` and its kin,
as JSON in a string or as structure, on the span or on an event of it), the flattened `gen_ai.prompt.0.role` of
Traceloop and AgentOps, and OpenInference's `llm.input_messages.0.message.role`. All become messages of the chat API.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from gapscope.rollouts import Json, Outcome, RewardPart, Tokens
from gapscope.rows import Reading
from gapscope.shapes.conversations import Message, Told, json_text, tell
from gapscope.shapes.model_calls import (
    BROKEN_TOKENS,
    ModelCall,
    conversations_in,
    has_tokens,
    logprobs_in,
    tokens_of,
    transcript_of,
    whole_numbers,
)
from gapscope.shapes.spans import Span, either, objects, structured, unflattened


class ToolRun(NamedTuple):
    """What the span of a tool says about one call."""

    result: str | None
    fault: Outcome | None


def model_call(span: Span) -> ModelCall | None:
    """The call of a model that a span is about; None where it is about something else, or has no content.

    Raises:
        RowError: its log-probs are something else.

    """
    attributes = span.attributes
    asked, said = _conventional(attributes) or _flattened(attributes) or _openinference(attributes) or ([], [])
    if not said:
        return None
    prompt, ids = whole_numbers(attributes.get("prompt_token_ids")), whole_numbers(attributes.get("response_token_ids"))
    call = ModelCall(asked, said[0], prompt, ids, finish_reason=_finish_reason(attributes, said[0]))
    return call.with_said(structured(attributes.get("logprobs.content")))


Messages = list[dict[str, Json]]


def _conventional(attributes: Mapping[str, Json]) -> tuple[Messages, Messages] | None:
    said = structured(attributes.get("gen_ai.output.messages"))
    if said is None:
        return None
    system = structured(attributes.get("gen_ai.system_instructions"))
    before = [{"role": "system", "parts": system if isinstance(system, list) else [system]}] if system else []
    asked = [*before, *objects(structured(attributes.get("gen_ai.input.messages")))]
    return (
        [message for item in asked for message in _of_parts(item)],
        [message for item in objects(said) for message in _of_parts(item)],
    )


def _of_parts(item: Mapping[str, Json]) -> Messages:
    """A message of the GenAI conventions: answers of tools in it are messages of their own."""
    role, parts = item.get("role"), item.get("parts")
    if not isinstance(parts, list):
        return [{"role": str(role), "content": item.get("content") if parts is None else parts}]
    content: list[Json] = []
    thoughts: list[str] = []
    calls: list[Json] = []
    answers: Messages = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(part, dict):
            content.append({"type": "text", "text": part if isinstance(part, str) else json_text(part)})
        elif kind == "tool_call":
            function = {"name": part.get("name"), "arguments": part.get("arguments")}
            calls.append({"id": part.get("id"), "function": function})
        elif kind == "tool_call_response":
            answer = either(part, "response", "result")
            answers.append({"role": "tool", "tool_call_id": part.get("id"), "content": _as_text(answer)})
        elif kind in ("reasoning", "thinking"):
            thoughts.append(_as_text(part.get("content")))
        else:
            content.append(_part(part))
    if answers and not (content or thoughts or calls):
        return answers
    message: dict[str, Json] = {"role": str(role), "content": content}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return [message, *answers]


def _part(part: Mapping[str, Json]) -> Json:
    if part.get("type") == "text":
        return {"type": "text", "text": _as_text(part.get("content"))}
    if part.get("modality") == "image":
        media_type, encoded = part.get("mime_type"), part.get("content")
        uri = f"data:{media_type or ''};base64,{encoded}" if isinstance(encoded, str) else part.get("uri")
        return {"type": "image_url", "image_url": {"url": uri}}
    return part


def _as_text(value: Json) -> str:
    return value if isinstance(value, str) else "" if value is None else json_text(value)


def _flattened(attributes: Mapping[str, Json]) -> tuple[Messages, Messages] | None:
    """What Traceloop and AgentOps write, and Agent Lightning's own operations."""
    said = unflattened(attributes, "gen_ai.completion")
    asked = unflattened(attributes, "gen_ai.prompt")
    if said is None:
        choices = objects(unflattened(attributes, "agentlightning.operation.output.choices"))
        said = [choice.get("message") for choice in choices] or None
        asked = unflattened(attributes, "agentlightning.operation.input.messages")
    if said is None:
        return None
    return [_plain(item) for item in objects(asked)], [_plain(item, "assistant") for item in objects(said)]


def _openinference(attributes: Mapping[str, Json]) -> tuple[Messages, Messages] | None:
    said = unflattened(attributes, "llm.output_messages")
    if said is None:
        return None
    asked = unflattened(attributes, "llm.input_messages")
    return (
        [_plain(_inner(item, "message")) for item in objects(asked)],
        [_plain(_inner(item, "message"), "assistant") for item in objects(said)],
    )


def _inner(item: Mapping[str, Json], key: str) -> Mapping[str, Json]:
    inner = item.get(key)
    return inner if isinstance(inner, dict) else item


def _plain(item: Mapping[str, Json], role: str | None = None) -> dict[str, Json]:
    """A flattened message as the chat API has it."""
    content = item.get("content")
    contents = [_inner(part, "message_content") for part in objects(item.get("contents"))]
    decoded = structured(content)
    if contents:
        content = [_content_part(part) for part in contents]
    elif isinstance(decoded, list) and decoded and all(isinstance(part, dict) and "type" in part for part in decoded):
        content = decoded
    stated = item.get("role")
    message: dict[str, Json] = {"role": stated if isinstance(stated, str) else role or "user", "content": content}
    calls = []
    for entry in objects(item.get("tool_calls")):
        call = _inner(entry, "tool_call")
        function = _inner(call, "function")
        calls.append(
            {"id": call.get("id"), "function": {"name": function.get("name"), "arguments": function.get("arguments")}},
        )
    if calls:
        message["tool_calls"] = calls
    for key in ("tool_call_id", "reasoning_content", "reasoning"):
        if isinstance(item.get(key), str):
            message[key] = item[key]
    return message


def _content_part(part: Mapping[str, Json]) -> Json:
    if part.get("type") != "image":
        return part
    image = part.get("image")
    inner = _inner(image, "image") if isinstance(image, dict) else {}
    return {"type": "image_url", "image_url": {"url": inner.get("url")}}


_REASONS = {"tool_call": "tool_calls", "max_tokens": "length", "end_turn": "stop"}


def _finish_reason(attributes: Mapping[str, Json], said: Mapping[str, Json]) -> str | None:
    """Why the generation ended, as the response or its first message says."""
    reasons = structured(attributes.get("gen_ai.response.finish_reasons"))
    first = reasons[0] if isinstance(reasons, list) and reasons else reasons
    outputs = structured(attributes.get("gen_ai.output.messages"))
    stated = [
        first,
        *(item.get("finish_reason") for item in objects(outputs)[:1]),
        attributes.get("gen_ai.completion.0.finish_reason"),
        said.get("finish_reason"),
    ]
    reason = next((item for item in stated if isinstance(item, str) and item), None)
    return None if reason is None else _REASONS.get(reason, reason)


# --- Tools, scores and rewards ---------------------------------------------------------------------------


def tool_runs(spans: Iterable[Span]) -> dict[str, ToolRun]:
    """What tools answered, by the id of the call."""
    found = {}
    for span in spans:
        attributes = span.attributes
        identity = either(attributes, "gen_ai.tool.call.id", "tool_call.id")
        is_tool = attributes.get("gen_ai.operation.name") == "execute_tool" or (
            attributes.get("openinference.span.kind") == "TOOL"
        )
        if is_tool and isinstance(identity, str):
            result = either(attributes, "gen_ai.tool.call.result", "output.value")
            error = attributes.get("error.type")
            found[identity] = ToolRun(
                None if result is None else _as_text(result),
                _fault(error) if span.failed or error is not None else None,
            )
    return found


def _fault(error: Json) -> Outcome:
    return "timeout" if isinstance(error, str) and "timeout" in error.lower() else "executed_error"


def offered_tools(spans: Iterable[Span]) -> dict[str, Json]:
    """The definitions of the tools that the model was offered in any of the calls, by their names."""
    offered: dict[str, Json] = {}
    for span in spans:
        attributes = span.attributes
        definitions = [
            *objects(structured(attributes.get("gen_ai.tool.definitions"))),
            *objects(unflattened(attributes, "llm.request.functions")),
            *objects(unflattened(attributes, "gen_ai.request.functions")),
            *(
                schema
                for item in objects(unflattened(attributes, "llm.tools"))
                if isinstance(schema := structured(_inner(item, "tool").get("json_schema")), dict)
            ),
        ]
        for definition in definitions:
            name = _inner(definition, "function").get("name")
            if isinstance(name, str):
                offered.setdefault(name, definition)
    return offered


def scores_of(span: Span) -> list[RewardPart]:
    """The evaluations that a span or its events tell, each by its name."""
    own = span.attributes if "gen_ai.evaluation.name" in span.attributes else {}
    return [
        RewardPart(name, _number(either(score, "gen_ai.evaluation.score.value", "gen_ai.evaluation.score")))
        for score in (own, *span.scores)
        if isinstance(name := score.get("gen_ai.evaluation.name"), str)
    ]


def rewards_of(span: Span) -> list[RewardPart]:
    """The rewards that Agent Lightning's emitters wrote down in a span, the primary one first."""
    rewards = objects(unflattened(span.attributes, "agentlightning.reward"))
    if rewards:
        return [RewardPart(_as_text(item.get("name")), _number(item.get("value"))) for item in rewards]
    for key in ("agentops.task.output", "agentops.entity.output"):
        output = structured(span.attributes.get(key))
        if isinstance(output, dict) and output.get("type") == "reward":
            return [RewardPart("primary", _number(output.get("value")))]
    if span.name == "agentlightning.annotation" and "reward" in span.attributes:
        return [RewardPart("primary", _number(span.attributes["reward"]))]
    return []


def _number(value: Json) -> float | None:
    found = logprobs_in([value])
    return None if isinstance(value, bool) or found is None else found[0]


class Conversed(NamedTuple):
    """One of the conversations of a rollout; `messages` are those of its prompt."""

    messages: list[Json]
    told: Told
    tokens: Tokens | None
    finish_reason: str | None
    notes: list[str]


def conversed(
    calls: Sequence[ModelCall],
    reading: Reading,
    *,
    declared: list[str] | None = None,
    runs: Mapping[str, ToolRun] | None = None,
) -> list[Conversed]:
    """The conversations that calls of a model make up, with the answers of tools whose spans alone have them.

    Raises:
        RowError: something is no message, or a call has more or fewer log-probs than tokens.

    """
    found = []
    for conversation in conversations_in(calls):
        messages, sampled = transcript_of(conversation)
        completed = list(_completed(messages, sampled, runs or {}))
        reason = conversation[-1].finish_reason
        told = tell(
            [message for message, _ in completed],
            reading,
            sampled=[own for _, own in completed],
            declared_tools=declared,
            finish_reason=reason,
        )
        tokens = tokens_of(conversation, source="rollout")
        lost = tokens is None and any(map(has_tokens, conversation))
        found.append(Conversed(list(conversation[0].messages), told, tokens, reason, [BROKEN_TOKENS] if lost else []))
    return found


def _completed(
    messages: Sequence[Message],
    sampled: Sequence[bool],
    runs: Mapping[str, ToolRun],
) -> Iterator[tuple[Message, bool]]:
    answered = {message.call_id for message in messages if message.role == "tool"}
    for message, own in zip(messages, sampled, strict=True):
        run = runs.get(message.call_id) if message.role == "tool" and message.call_id else None
        yield (message if run is None else message._replace(fault=run.fault)), own
        for call in message.calls:
            run = runs.get(call.id) if call.id and call.id not in answered else None
            if run is not None and (run.result is not None or run.fault is not None):
                yield Message("tool", run.result or "", call_id=call.id, fault=run.fault), False
