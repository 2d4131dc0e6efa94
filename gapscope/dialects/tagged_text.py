"""Syntaxes of plain text, in which a tag or a fence names the tool and what stands between is its argument."""

import re

from gapscope.cutting.call_bodies import NOT_JSON, Bodies, decode_json, json_call, text_argument, unfenced
from gapscope.cutting.delimiters import ANSWER, CallSyntax, Delimiter, Pair, Tags, one
from gapscope.dialects.base import Frame, TaggedDialect
from gapscope.outcomes import CallBody

_FENCE_END = "```"
_OUTPUT_FENCE = Pair("```output", re.compile(r"```(?!\w)"))
_OUTPUT = Pair("<output>", "</output>")
_RESULT = Pair("<result>", "</result>")

LANGUAGES = (
    *("python", "py", "cpp", "c", "java", "javascript", "js", "typescript", "ts", "nodejs", "go", "rust", "bash", "sh"),
    *("shell", "sql", "php", "csharp", "ruby", "lua", "r", "perl", "scala", "julia", "kotlin", "swift"),
)


def _tag(tool: str, argument: str) -> CallSyntax:
    return CallSyntax(f"<{tool}>", f"</{tool}>", text_argument(tool, argument), free=True)


def _fence(language: str, tool: str, argument: str) -> CallSyntax:
    opening: Delimiter = re.compile(rf"```\s?(?:{language})\b[ \t]*")
    return CallSyntax(opening, _FENCE_END, text_argument(tool, argument), free=True)


def read_code(body: str) -> Bodies:
    """The code between `<code>` tags, with or without a fence."""
    code = unfenced(body, "python", "py", "")
    return (CallBody("code", {"code": body.strip("\n") if code is None else code}, arguments_valid=True),)


def read_tagged_code(body: str) -> Bodies | None:
    """The call of ReTool between `<tool_call>` tags: as in Hermes, or only the code."""
    call = json_call(body)
    if call is not None:
        return (call,)
    try:
        value = decode_json(body.strip())
    except NOT_JSON:
        return None
    code = value.get("code") if isinstance(value, dict) else None
    return (CallBody("code", {"code": code}, arguments_valid=True),) if isinstance(code, str) else None


def read_actions(body: str) -> Bodies:
    """The actions of RAGEN, which `||` parts and which are taken one after another."""
    actions = [action.strip() for action in body.split("||")]
    return (CallBody("act", {"actions": actions}, arguments_valid=True),)


DIALECTS: tuple[TaggedDialect, ...] = (
    TaggedDialect(
        name="search-r1",
        tags=Tags(
            calls=(_tag("search", "query"),),
            results=(
                Pair("<information>", "</information>"),
                # What the environment says to a turn without a valid action; no tags.
                Pair("My previous action is invalid. If I want to search", re.compile(r"Let me try again\.\n?")),
            ),
        ),
        own_tools=("search",),
        frame=Frame("\n\n<information>", "</information>\n\n"),
    ),
    TaggedDialect(
        name="retool",
        tags=Tags(
            calls=(
                CallSyntax("<code>", "</code>", read_code, free=True),
                CallSyntax("<tool_call>", "</tool_call>", read_tagged_code),
            ),
            results=(Pair("<interpreter>", "</interpreter>"),),
        ),
        shown_by="answer",
        own_tools=("code",),
        frame=Frame("\n\n<interpreter>\n", "\n</interpreter>\n\n"),
    ),
    TaggedDialect(
        name="torl",
        tags=Tags(
            calls=(_tag("python", "code"), _fence("python|py", "python", "code")),
            results=(_OUTPUT_FENCE, _OUTPUT),
        ),
        shown_by="answer",
        own_tools=("python",),
        frame=Frame("\n```output\n", "\n```\n"),
    ),
    TaggedDialect(
        name="verltool-bash",
        tags=Tags(
            calls=(_tag("bash", "command"), _fence("bash|sh|shell|terminal", "bash", "command")),
            results=(_OUTPUT_FENCE, Pair("<o>", "</o>"), _OUTPUT),
        ),
        shown_by="answer",
        own_tools=("bash",),
    ),
    TaggedDialect(
        name="verltool-search",
        tags=Tags(
            calls=(
                _fence("search", "search", "query"),
                CallSyntax(
                    re.compile(r"^search:[ \t]*", re.MULTILINE | re.IGNORECASE),
                    re.compile(r"(?=\n)|\Z"),
                    text_argument("search", "query"),
                    free=True,
                ),
            ),
            results=(_RESULT,),
        ),
        shown_by="answer",
        own_tools=("search",),
    ),
    TaggedDialect(
        name="verltool-mcp",
        tags=Tags(
            calls=(
                CallSyntax("<mcp_call>", "</mcp_call>", one(json_call)),
                CallSyntax("<tool_call>", "</tool_call>", one(json_call)),
            ),
            results=(
                Pair(re.compile(r"<mcp_response>(?:\s*```result\n)?"), re.compile(r"(?:\n```\n)?</mcp_response>")),
            ),
        ),
        shown_by="answer",
    ),
    TaggedDialect(
        name="sandbox-fusion",
        tags=Tags(
            calls=tuple(_tag(language, "code") for language in LANGUAGES),
            results=(Pair("Execution results:\n", re.compile(r"\n(?=<|```)|\Z")), _OUTPUT_FENCE, _OUTPUT),
        ),
        shown_by="answer",
        own_tools=LANGUAGES,
    ),
    TaggedDialect(
        name="arpo",
        tags=Tags(calls=(_tag("search", "query"), _tag("python", "code")), results=(_RESULT,)),
        shown_by="answer",
        own_tools=("search", "python"),
        frame=Frame(" <result>\n", "\n</result>"),
    ),
    TaggedDialect(
        name="skyrl-sql",
        tags=Tags(
            calls=(_tag("sql", "query"),),
            results=(Pair("<observation>", "</observation>"),),
            answers=(Pair("<solution>", "</solution>"), ANSWER),
        ),
        own_tools=("sql",),
        frame=Frame("\n\n<observation>", "</observation>\n\n"),
    ),
    TaggedDialect(
        name="verl-agent",
        tags=Tags(calls=(_tag("action", "action"),), results=()),
        shown_by="answer",
        own_tools=("action",),
    ),
    TaggedDialect(
        name="ragen",
        tags=Tags(calls=(CallSyntax("<answer>", "</answer>", read_actions, free=True),), results=(), answers=()),
        shown_by="name",
        own_tools=("act",),
    ),
)
