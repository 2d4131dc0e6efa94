"""Messages as Inspect logs them, with what it says itself about calls and tools that failed."""

import re
from collections.abc import Mapping
from itertools import repeat, takewhile

from gapscope.rollouts import Json, Outcome
from gapscope.rows import RowError
from gapscope.shapes.conversations import Call, Message, json_text, message_of, structured_call

_FAULTS: dict[str, Outcome] = {"timeout": "timeout", "parsing": "bad_arguments"}
_ATTACHMENT = "attachment://"


def told_messages(items: Json, attachments: Mapping[str, Json]) -> tuple[list[Message], list[bool]]:
    """The conversation, and which messages the policy wrote: examples in the input are an assistant's, too."""
    if items is not None and not isinstance(items, list):
        message = f"`messages` is {type(items).__name__}, expected a list of messages"
        raise RowError(message)
    messages: list[Message] = []
    own: list[bool] = []
    for item in items or []:
        found = _message(item, attachments)
        wrote = is_generated(item)
        messages += found
        own += [wrote and message.role == "assistant" for message in found]
    return messages, own


def asked_messages(items: Json, attachments: Mapping[str, Json]) -> list[Json] | None:
    """The messages before the policy's first one as they were logged, with what their references stand for.

    None where there are none: the input of a sample may be a text.
    """
    asked = list(takewhile(lambda item: not is_generated(item), items)) if isinstance(items, list) else []
    return (list(map(_filled, asked, repeat(attachments))) if attachments else asked) or None


def _filled(item: Json, attachments: Mapping[str, Json]) -> Json:
    content = item.get("content") if isinstance(item, dict) else None
    if isinstance(content, list):
        return {**item, "content": [_part_filled(part, attachments) for part in content]}
    return {**item, "content": _attached(content, attachments)} if isinstance(content, str) else item


def _part_filled(part: Json, attachments: Mapping[str, Json]) -> Json:
    return {key: _attached(value, attachments) for key, value in part.items()} if isinstance(part, dict) else part


def is_generated(item: Json) -> bool:
    """Whether the policy wrote a message."""
    return (
        isinstance(item, dict) and item.get("role") == "assistant" and item.get("source") not in ("input", "operator")
    )


def _message(item: Json, attachments: Mapping[str, Json]) -> list[Message]:
    """One message, or several where the provider ran tools while it was generated."""
    if not isinstance(item, dict):
        message = f"a message is {item!r:.60}, expected an object with a role"
        raise RowError(message)
    content = item.get("content")
    if isinstance(content, str):
        content = _attached(content, attachments)
    pieces: list[list[Json]] = [[]]
    used: list[Mapping[str, Json]] = []
    for part in content if isinstance(content, list) else []:
        if isinstance(part, dict) and part.get("type") == "tool_use":
            used.append(part)
            pieces.append([])
        else:
            pieces[-1].append(_part(part, attachments))
    if not used:
        return [_single(item, pieces[0] if isinstance(content, list) else content)]
    plain = {key: value for key, value in item.items() if key not in {"content", "tool_calls"}}
    messages: list[Message] = []
    for piece, part in zip(pieces, used, strict=False):
        call = structured_call(part.get("name"), part.get("arguments"), id=part.get("id"))
        messages.append(message_of({**plain, "content": piece})._replace(calls=(call,)))
        error, result = part.get("error"), part.get("result")
        text = error if isinstance(error, str) and error else result if isinstance(result, str) else json_text(result)
        messages.append(Message("tool", text, call_id=call.id, fault="executed_error" if error else None))
    if pieces[-1] or item.get("tool_calls"):
        messages.append(_single(item, pieces[-1]))
    return messages


def _single(item: Mapping[str, Json], content: Json) -> Message:
    message = message_of({**item, "content": content})
    calls = item.get("tool_calls")
    if isinstance(calls, list):
        message = message._replace(calls=tuple(map(_call, calls, message.calls)))
    error = item.get("error")
    if message.role == "tool" and isinstance(error, dict):
        # The model was shown the error in place of a content.
        text = error.get("message")
        content = message.content or (text if isinstance(text, str) else "")
        return message._replace(content=content, fault=_fault(error, text))
    return message


def _call(entry: Json, call: Call) -> Call:
    """The call again, unless it could not be parsed: its arguments stand in the error alone."""
    error = entry.get("parse_error") if isinstance(entry, dict) else None
    if not error:
        return call
    raw = json_text({"name": call.name, "parse_error": error})
    return Call(None, None, valid=False, raw=raw, id=call.id, fault="unparseable")


def _fault(error: Mapping[str, Json], text: Json) -> Outcome:
    kind = error.get("type")
    if kind == "parsing" and isinstance(text, str) and re.fullmatch(r"Tool \S+ not found", text):
        return "unknown_tool"
    return _FAULTS.get(kind, "executed_error") if isinstance(kind, str) else "executed_error"


def _part(part: Json, attachments: Mapping[str, Json]) -> Json:
    if not isinstance(part, dict):
        return part
    if part.get("type") == "reasoning":
        # What is redacted is encrypted: the policy's words are in the summary, if anywhere.
        key = "summary" if part.get("redacted") is True else "reasoning"
        return {"type": "reasoning", "reasoning": _attached(part.get(key), attachments)}
    for key in ("text", "image"):
        if part.get("type") == key:
            return {"type": key, key: _attached(part.get(key), attachments)}
    return part


def _attached(value: Json, attachments: Mapping[str, Json]) -> Json:
    """What a reference stands for; the reference itself where the log does not hold it."""
    if isinstance(value, str) and value.startswith(_ATTACHMENT):
        found = attachments.get(value.removeprefix(_ATTACHMENT))
        return found if isinstance(found, str) else value
    return value
