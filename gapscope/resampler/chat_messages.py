"""Logged messages and definitions of tools in the one shape that chat servers take, OpenAI's."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence

from gapscope.rollouts import Json
from gapscope.rows import RowError
from gapscope.serving.transport import RequestRefused
from gapscope.shapes.conversations import json_text, message_of

NO_MESSAGE = "a message of the prompt has a shape that no chat server takes"
NO_CALL = "a call in the messages of the prompt has no name"
NO_DEFINITION = "a definition of a tool has no name"

_SHOWN = "<image>"
"""How an image stands in a text, in the data of trainers and in the texts that readers of logs make of messages."""


def chat_messages(items: Sequence[Json], images: Sequence[bytes] = ()) -> list[dict[str, Json]]:
    """The messages, with these images in the places where images are, in their order.

    Without images nothing is looked for in their texts.

    Raises:
        RequestRefused: a message is none, a call has no name, or there are more places than images.

    """
    left = iter([_image(image) for image in images]) if images else None
    try:
        return [_written(item, left) for item in items]
    except RowError as error:
        raise RequestRefused(NO_MESSAGE, str(error)) from None


def chat_tools(definitions: Json) -> list[dict[str, Json]] | None:
    """The definitions of tools, of which logs also have OpenAI's later, flat shape and Anthropic's.

    Raises:
        RequestRefused: one has no name.

    """
    if not isinstance(definitions, list) or not definitions:
        return None
    return [_tool(each) for each in definitions]


def _written(item: Json, images: Iterator[Json] | None) -> dict[str, Json]:
    message = message_of(item)
    written: dict[str, Json] = {"role": message.role, "content": _content(item, message.content, images)}
    if message.reasoning:
        # The name that /tokenize knows; it drops `reasoning_content`.
        written["reasoning"] = message.reasoning
    if message.calls:
        written["tool_calls"] = list(_calls(item))
    if message.call_id is not None:
        written["tool_call_id"] = message.call_id
    if isinstance(item.get("name"), str):
        written["name"] = item["name"]
    return written


def _content(item: Mapping[str, Json], text: str, images: Iterator[Json] | None) -> Json:
    parts = item.get("content")
    if isinstance(parts, list):
        for part in parts:
            _require_readable(part, has_images=images is not None)
    elif parts is not None and not isinstance(parts, str):
        raise RequestRefused(NO_MESSAGE, f"`content` is {type(parts).__name__}")
    if images is None or _SHOWN not in text:
        return text
    found: list[Json] = []
    for number, piece in enumerate(text.split(_SHOWN)):
        if number:
            image = next(images, None)
            if image is None:
                raise RequestRefused(NO_MESSAGE, "more places for images than the plan has images")
            found.append(image)
        if piece:
            found.append({"type": "text", "text": piece})
    return found


def _require_readable(part: Json, *, has_images: bool) -> None:
    """Nothing is written as JSON, or as the word for it, that the model has seen as something else."""
    if not isinstance(part, Mapping):
        return
    shown = message_of({"role": "", "content": [part]}).content
    if shown == json_text(part) or (shown == _SHOWN and "text" not in part and not has_images):
        raise RequestRefused(NO_MESSAGE, f"a part of the type {part.get('type')!r}, which is not in the plan")


def _calls(item: Mapping[str, Json]) -> Iterator[dict[str, Json]]:
    listed = item.get("tool_calls") or [item.get("function_call")]
    for number, (entry, call) in enumerate(zip(listed, message_of(item).calls, strict=True)):
        if call.name is None:
            raise RequestRefused(NO_CALL)
        function = entry.get("function") if isinstance(entry, Mapping) else None
        arguments = (function if isinstance(function, Mapping) else entry).get("arguments")
        said = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
        yield {
            "id": call.id or f"call_{number}",
            "type": "function",
            "function": {"name": call.name, "arguments": said},
        }


def _tool(definition: Json) -> dict[str, Json]:
    own = definition.get("function") if isinstance(definition, Mapping) else None
    function = own if isinstance(own, Mapping) else definition
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RequestRefused(NO_DEFINITION, f"{definition!r:.80}")
    if function is own:
        return {"type": "function", "function": own}
    schema = next((function[key] for key in ("parameters", "input_schema", "inputSchema") if key in function), None)
    said = {key: function[key] for key in ("name", "description", "strict") if function.get(key) is not None}
    return {"type": "function", "function": said | ({} if schema is None else {"parameters": schema})}


def data_url(image: bytes) -> str:
    """An encoded image as a text."""
    kind = next((name for start, name in _SIGNATURES if image.startswith(start)), "png")
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


_SIGNATURES = ((b"\xff\xd8", "jpeg"), (b"GIF8", "gif"), (b"RIFF", "webp"), (b"BM", "bmp"))


def _image(image: bytes) -> Json:
    return {"type": "image_url", "image_url": {"url": data_url(image)}}


def images_in(items: Json) -> Iterator[bytes]:
    """The images whose bytes are in messages, in order; others have only an address there."""
    for item in items if isinstance(items, list) else ():
        parts = item.get("content") if isinstance(item, Mapping) else None
        for part in parts if isinstance(parts, list) else ():
            source = _source(part) if isinstance(part, Mapping) else None
            if source is not None:
                try:
                    yield base64.b64decode(source, validate=True)
                except ValueError:
                    continue


def _source(part: Mapping[str, Json]) -> str | None:
    """The base64 of an image's part, whichever API it is of."""
    value = next((part[key] for key in ("image_url", "image", "url", "source") if part.get(key)), None)
    if isinstance(value, Mapping):
        value = value.get("url") or value.get("data")
    if not isinstance(value, str):
        return None
    header, comma, encoded = value.partition(",")
    if comma:
        return encoded if header.startswith("data:") and header.endswith(";base64") else None
    return None if "://" in value else value
