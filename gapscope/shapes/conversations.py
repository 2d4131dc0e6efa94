"""Messages joined into one text, with spans over it and the calls in it: for logs that hold a conversation.

What the policy wrote is read again by the dialect, because a call that the trainer could not parse stands in
the content as plain text. Calls that are structured in the log are written into the text as one JSON object.
"""

import hashlib
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec

from gapscope.outcomes import CallBody, FoundCall, judge_calls
from gapscope.rollouts import Image, Json, Outcome, Span, SpanKind, ToolCall, Turn
from gapscope.rows import Reading, RowError

_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder().decode


class Call(NamedTuple):
    """A structured call of a message; `fault` is what the log itself says was wrong with it."""

    name: str | None
    arguments: Json
    valid: bool
    raw: str
    id: str | None = None
    fault: Outcome | None = None


class Message(NamedTuple):
    """One message of a conversation; `fault` is set on a result that the log says is a failure."""

    role: str
    content: str
    reasoning: str = ""
    calls: tuple[Call, ...] = ()
    call_id: str | None = None
    images: tuple[Image, ...] = ()
    fault: Outcome | None = None


class Joined(NamedTuple):
    """A conversation as the fields of a `Rollout` that follow from it."""

    output: str
    turns: list[Turn]
    spans: list[Span]
    calls: list[ToolCall]


class Conversation:
    """What was said after the prompt, message by message."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._pieces: list[str] = []
        self._position = 0
        self._turns = 0
        self._spans: list[Span] = []
        self._calls: list[FoundCall] = []
        self._unanswered: list[tuple[str | None, FoundCall]] = []

    def add(self, message: Message, *, sampled: bool | None = None) -> None:
        """Take the next message; `sampled` says whether the policy wrote it, by default by its role."""
        if message.role in RESULT_ROLES:
            self.result(message.content, call_id=message.call_id, fault=message.fault)
        elif sampled if sampled is not None else message.role == "assistant":
            self.model(message)
        else:
            self.environment(message.content)

    def model(self, message: Message) -> None:
        """Take one generation of the policy."""
        turn = self._turns
        self._unanswered = []
        if message.reasoning:
            self._add("think", message.reasoning, sampled=True)
        if message.content:
            first = len(self._calls)
            self.text(message.content + "\n")
            if not message.calls:
                # Some trainers leave the calls in the text, and answer them with messages.
                self._unanswered += [(None, call) for call in self._calls[first:] if _may_be_answered(call)]
        self._turns = max(self._turns, turn + 1)
        for call in message.calls:
            body = CallBody(call.name, call.arguments, call.valid) if call.name else None
            found = FoundCall(turn, len(self._spans), call.raw, body, closed=True, in_think=False, fault=call.fault)
            found.body_start = self._position
            self._add("tool_call", call.raw, sampled=True, turn=turn)
            self._calls.append(found)
            self._unanswered.append((call.id, found))

    def result(self, text: str, *, call_id: str | None = None, fault: Outcome | None = None) -> None:
        """Take a tool's answer, to the call of that id, or to the first that has none yet."""
        self._add("tool_result", text, sampled=False)
        waiting = self._unanswered
        named = next(
            (index for index, (name, _) in enumerate(waiting) if call_id is not None and name == call_id), None
        )
        if named is None and waiting and (call_id is None or all(name is None for name, _ in waiting)):
            named = 0
        if named is not None:
            _, call = waiting.pop(named)
            call.result, call.result_span = text, len(self._spans) - 1
            call.fault = call.fault or fault

    def environment(self, text: str) -> None:
        """Take what somebody else said in between."""
        self._add("prompt", text, sampled=False)

    def exchange(self, text: str, answer: str | None, *, before: str = "") -> None:
        """Take one generation and what the environment wrote after it, both cut out of one text.

        `before` is what stood in front of the generation. The results are what the dialect finds in the answer; where
        it finds none, the whole answer is the result of each call that can have one.
        """
        dialect, first = self._reading.dialect, len(self._calls)
        opens_in_thinking = dialect.opens_thinking(before)
        self.text(text, opens_in_thinking=opens_in_thinking)
        if not answer:
            return
        waiting = [call for call in self._calls[first:] if _may_be_answered(call)]
        start = self._position
        kind: SpanKind = "tool_result" if waiting else "prompt"
        self._spans.append(Span(kind, max(0, self._turns - 1), start, start + len(answer), sampled=False))
        self._pieces.append(answer)
        self._position += len(answer)
        if not waiting:
            return
        whole = dialect.segment(text + answer, opens_in_thinking=opens_in_thinking).calls
        for index, call in enumerate(self._calls[first:]):
            if _may_be_answered(call):
                told = whole[index].result if index < len(whole) and whole[index].raw == call.raw else None
                call.result = answer if told is None else told
                call.result_span = len(self._spans) - 1

    def text(self, text: str, *, opens_in_thinking: bool = False) -> None:
        """Take text as the policy wrote it: it may hold thinking, calls, and the results of a flattened run."""
        found = self._reading.dialect.segment(text, opens_in_thinking=opens_in_thinking)
        first_span = len(self._spans)
        for span in found.spans:
            turn = None if span.turn is None else span.turn + self._turns
            start, end = span.start + self._position, span.end + self._position
            self._spans.append(Span(span.kind, turn, start, end, span.sampled))
        for call in found.calls:
            call.turn += self._turns
            call.span = None if call.span is None else call.span + first_span
            call.body_start = None if call.body_start is None else call.body_start + self._position
            call.result_span = None if call.result_span is None else call.result_span + first_span
            self._calls.append(call)
        self._turns += found.turns
        self._pieces.append(text)
        self._position += len(text)

    def joined(
        self,
        *,
        declared_tools: list[str] | None = None,
        finish_reason: str | None = None,
        policy_version: str | None = None,
    ) -> Joined:
        """All that was taken, with the outcomes of the calls; turns have the finish reason of the last one."""
        calls = judge_calls(
            self._calls,
            declared_tools=declared_tools,
            markers=self._reading.markers,
            finish_reason=finish_reason,
        )
        last = self._turns - 1
        turns = [Turn(index, finish_reason if index == last else None, policy_version) for index in range(self._turns)]
        return Joined("".join(self._pieces), turns, self._spans, calls)

    def _add(self, kind: SpanKind, text: str, *, sampled: bool, turn: int | None = None) -> None:
        piece = text + "\n"
        # A result belongs to the turn that asked for it.
        owner = turn if turn is not None else self._turns if sampled else max(0, self._turns - 1)
        self._spans.append(Span(kind, owner, self._position, self._position + len(piece), sampled))
        self._pieces.append(piece)
        self._position += len(piece)


def _may_be_answered(call: FoundCall) -> bool:
    """Whether a call that was found in text is one that a tool can have been asked by."""
    return call.closed and call.body is not None and not call.in_think and call.result is None


class Told(NamedTuple):
    """A whole conversation as the fields of a `Rollout` that follow from it."""

    prompt: str
    output: str
    turns: list[Turn]
    spans: list[Span]
    calls: list[ToolCall]
    images: list[Image]


def tell(
    messages: Sequence[Message],
    reading: Reading,
    *,
    sampled: Sequence[bool] | None = None,
    declared_tools: list[str] | None = None,
    finish_reason: str | None = None,
    policy_version: str | None = None,
) -> Told:
    """Prompt and output of a conversation: the output begins with the first message that the policy wrote.

    `sampled` says of each message whether the policy wrote it; without it, the assistant's are taken for that.
    """
    wrote = sampled if sampled is not None else [message.role == "assistant" for message in messages]
    begin = next((index for index, own in enumerate(wrote) if own), len(messages))
    said = Conversation(reading)
    for message, own in zip(messages[begin:], wrote[begin:], strict=True):
        said.add(message, sampled=own)
    joined = said.joined(declared_tools=declared_tools, finish_reason=finish_reason, policy_version=policy_version)
    images = list(dict.fromkeys(image for message in messages for image in message.images))
    return Told(prompt_text(messages[:begin]), *joined, images)


RESULT_ROLES = frozenset({"tool", "function", "ipython", "tool_response", "observation"})


def structured_call(name: Json, arguments: Json, *, id: Json = None, fault: Outcome | None = None) -> Call:  # noqa: A002
    """A call as logs hold it: a name, and arguments as an object or as a string that should hold one."""
    if isinstance(arguments, str):
        raw = f'{{"name":{_encode(name).decode()},"arguments":{arguments}}}'
        with suppress(msgspec.DecodeError, RecursionError, UnicodeEncodeError):
            arguments = _decode(arguments) if arguments.strip() else {}
    else:
        raw = json_text({"name": name, "arguments": arguments})
    named = name if isinstance(name, str) and name else None
    arguments = {} if arguments is None else arguments
    return Call(named, arguments, isinstance(arguments, dict), raw, id if isinstance(id, str) else None, fault)


def message_of(item: Json) -> Message:
    """A message in the shape of OpenAI's chat API, as most trainers write it; unset fields may be null.

    Raises:
        RowError: it is no object with a role, or its calls are no list.

    """
    role = item.get("role") if isinstance(item, dict) else None
    if not isinstance(item, dict) or not isinstance(role, str):
        message = f"a message is {item!r:.60}, expected an object with a role"
        raise RowError(message)
    content, images, reasoning = _content(item.get("content"))
    stated = item.get("reasoning_content") or item.get("reasoning") or item.get("thinking")
    call_id = item.get("tool_call_id")
    return Message(
        role,
        content,
        stated if isinstance(stated, str) else reasoning,
        _calls(item),
        call_id if isinstance(call_id, str) else None,
        images,
    )


def messages_of(items: Json, *, name: str = "messages") -> list[Message]:
    """A list of them.

    Raises:
        RowError: it is no list, or one of them is no message.

    """
    if not isinstance(items, list):
        message = f"`{name}` is {type(items).__name__}, expected a list of messages"
        raise RowError(message)
    return [message_of(item) for item in items]


def _calls(item: Mapping[str, Json]) -> tuple[Call, ...]:
    entries = item.get("tool_calls") or []
    if isinstance(legacy := item.get("function_call"), dict):
        entries = entries or [legacy]
    if not isinstance(entries, list):
        fault = f"`tool_calls` is {type(entries).__name__}, expected a list"
        raise RowError(fault)
    calls = []
    for listed in entries:
        entry = listed if isinstance(listed, dict) else {}
        function = entry.get("function")
        body = function if isinstance(function, dict) else entry
        # Some writers have the name there, and the arguments beside it.
        name = function if isinstance(function, str) and "arguments" in entry else body.get("name")
        calls.append(structured_call(name, body.get("arguments"), id=entry.get("id")))
    return tuple(calls)


def _content(content: Json) -> tuple[str, tuple[Image, ...], str]:
    """Text, images and reasoning of a message's content, which is a string, null, or a list of parts."""
    if content is None:
        return "", (), ""
    if isinstance(content, str):
        return content, (), ""
    if not isinstance(content, list):
        return json_text(content), (), ""
    texts: list[str] = []
    images: list[Image] = []
    thoughts: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        kind = kind if isinstance(kind, str) else None
        if isinstance(part, str):
            texts.append(part)
        elif kind in _TEXT_PARTS:
            texts.append(str(part.get("text") or part.get(kind) or part.get("content") or ""))
        elif kind in _THINKING_PARTS:
            thoughts.append(str(part.get(kind) or part.get("text") or part.get("content") or ""))
        elif kind in _IMAGE_PARTS:
            texts.append("<image>")
            images += image_of(part.get("image_url") or part.get("image") or part.get("url"))
        else:
            texts.append(json_text(part))
    return "".join(texts), tuple(images), "".join(thoughts)


_TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal"})
_THINKING_PARTS = frozenset({"reasoning", "thinking"})
_IMAGE_PARTS = frozenset({"image", "image_url", "input_image"})


def image_of(source: Json) -> list[Image]:
    """The image in a `data:` URI; none for one that is elsewhere, whose bytes the log does not hold."""
    uri = source.get("url") if isinstance(source, dict) else source
    if not isinstance(uri, str) or not uri.startswith("data:"):
        return []
    header, _, encoded = uri.partition(",")
    try:
        content = b64decode(encoded) if header.endswith(";base64") else encoded.encode()
    except (Base64Error, ValueError):
        return []
    media_type = header.removeprefix("data:").split(";")[0]
    return [Image(hashlib.sha256(content).hexdigest(), media_type or None)]


def prompt_text(messages: Sequence[Message]) -> str:
    """The messages before the policy's first one, as one text."""
    return "".join(f"{message.role}\n{message.content}\n" for message in messages)


def tool_names(tools: Json) -> list[str] | None:
    """The names in a list of tool definitions, in OpenAI's shape or flat; None where there is no list."""
    if not isinstance(tools, list):
        return None
    functions = [tool.get("function", tool) for tool in tools if isinstance(tool, dict)]
    return [f["name"] for f in functions if isinstance(f, dict) and isinstance(f.get("name"), str)]


def tool_definitions(tools: Json) -> list[Json] | None:
    """The list of tool definitions itself, as it was logged; None where there is none, or anything else is in it."""
    return tools if isinstance(tools, list) and tools and all(isinstance(tool, dict) for tool in tools) else None


def asked_of(items: list[Json], sampled: Sequence[bool]) -> list[Json] | None:
    """The messages before the policy's first one, as they were logged; None where there are none."""
    return (items[: sampled.index(True)] if True in sampled else items) or None


def json_text(value: Json) -> str:
    """A value as compact JSON with sorted keys.

    Raises:
        RowError: it is nested too deeply, or holds half a character.

    """
    try:
        return _encode(value).decode()
    except RecursionError as error:
        message = "nested too deeply"
        raise RowError(message) from error
    except UnicodeEncodeError as error:
        message = f"not to be written as text: {error}"
        raise RowError(message) from error


def without_nulls(item: Json) -> Json:
    """Without the keys that exist only because parquet gives every struct of a column the same fields."""
    if isinstance(item, dict):
        return {key: without_nulls(inner) for key, inner in item.items() if inner is not None}
    if isinstance(item, list):
        return [without_nulls(inner) for inner in item]
    return item
