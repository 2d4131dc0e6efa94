"""Hermes and Qwen 2.5 / Qwen 3: one JSON object between `<tool_call>` and `</tool_call>`."""

from functools import lru_cache

import msgspec

from gapscope.dialects.base import TaggedDialect
from gapscope.outcomes import CallBody
from gapscope.rollouts import Json
from gapscope.segmentation import Tags

PROMPTS_REMEMBERED = 1024
"""The rollouts of one question have one prompt; those of a step come in any order."""

_decode = msgspec.json.Decoder().decode


def read_body(body: str) -> CallBody | None:
    """The call in a body, or None when it is not JSON or names no tool.

    `parameters` stands for `arguments` in some templates, and arguments may be a string that holds JSON.
    """
    try:
        call: Json = _decode(body.strip())
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return None
    if not isinstance(call, dict):
        return None
    name = call.get("name")
    if not isinstance(name, str) or not name:
        return None
    arguments: Json = call.get("arguments", call.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = _decode(arguments)
        except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
            return CallBody(name, arguments, arguments_valid=False)
    return CallBody(name, arguments, arguments_valid=isinstance(arguments, dict))


@lru_cache(maxsize=PROMPTS_REMEMBERED)
def read_tools(prompt: str) -> list[str] | None:
    """Names in the `<tools>` list of a prompt; None where there is no list or it cannot be read."""
    start = prompt.find("<tools>")
    while start >= 0:
        start += len("<tools>")
        end = prompt.find("</tools>", start)
        # The sentence before the list names the tags too, with nothing between them.
        if end > start:
            return _names(prompt[start:end])
        start = prompt.find("<tools>", start)
    return None


def _names(block: str) -> list[str] | None:
    try:
        block = block.strip()
        items = _decode(block) if block.startswith("[") else [_decode(line) for line in block.split("\n")]
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return None
    names = []
    for item in items:
        function = item.get("function", item) if isinstance(item, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if isinstance(name, str):
            names.append(name)
    return names or None


DIALECT = TaggedDialect(
    name="hermes",
    tags=Tags(call_open="<tool_call>", call_close="</tool_call>", read_body=read_body),
    read_tools=read_tools,
)
