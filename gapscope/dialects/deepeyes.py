"""DeepEyes v3: `{"function": …}` with the arguments beside the name, tagged as in Hermes or in a fence of JSON.

Its other versions write Hermes.
"""

import re

from gapscope.cutting.call_bodies import NOT_JSON, call_of, decode_json, json_tools
from gapscope.cutting.delimiters import CallSyntax, Tags, one
from gapscope.dialects.base import Frame, TaggedDialect
from gapscope.outcomes import CallBody


def read_function(body: str) -> CallBody | None:
    """The tool that `function` names; every other key is an argument."""
    try:
        value = decode_json(body.strip())
    except NOT_JSON:
        return None
    name = value.get("function") if isinstance(value, dict) else None
    if not isinstance(name, str) or not name:
        return None
    return CallBody(name, {key: value[key] for key in value if key != "function"}, arguments_valid=True)


def read_fenced(body: str) -> CallBody | None:
    """The same in a fence, where the form of Hermes is written too."""
    try:
        return read_function(body) or call_of(decode_json(body.strip()))
    except NOT_JSON:
        return None


DIALECT = TaggedDialect(
    name="deepeyes",
    tags=Tags(
        calls=(
            CallSyntax("<tool_call>", "</tool_call>", one(read_function)),
            CallSyntax(re.compile(r'```json\s*(?=\{\s*"(?:function|name)"\s*:)'), "```", one(read_fenced)),
        )
    ),
    read_tools=json_tools,
    frame=Frame(
        "\n<|im_start|>user\n<tool_response>", "</tool_response><|im_end|>\n<|im_start|>assistant\n", ended_by="turn"
    ),
)
