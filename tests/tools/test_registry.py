"""Tools by what the command line and a tools.toml say, and what is said of those that mean nothing."""

import asyncio
from pathlib import Path

import pytest

from gapscope.errors import SettingsError, UnknownName
from gapscope.sandbox import Limits
from gapscope.tools import KINDS, function, image_zoom, mcp_, python, tools_from
from gapscope.tools.base import Call

EVERY_KIND = """
[python]
seconds = 3
memory_mb = 200

[code_interpreter]
kind = "python"

[image_zoom]

[zoom]
kind = "image_zoom"
smallest = 28

[eyes]
kind = "image_zoom"
names = ["look", "see"]

[calc]
kind = "function"
function = "tools_functions:add"
seconds = 5

[search]
kind = "mcp"
url = "http://localhost:9/mcp"
headers = {Authorization = "Bearer ${SEARCH_KEY}"}

[files]
kind = "mcp"
command = "python server.py"
args = ["--all"]
env = {KEY = "${FILES_KEY}"}
only = ["read"]
rename = {read = "open"}
"""


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return tmp_path / "tools.toml"


def refused(file: Path, text: str) -> tuple[str, str | None]:
    file.write_text(text)
    with pytest.raises((SettingsError, UnknownName)) as error:
        tools_from([str(file)])
    return error.value.message.replace(str(file.parent) + "/", ""), error.value.hint


def test_the_command_line_names_tools_in_six_ways() -> None:
    specs = ["python", "code=python", "image_zoom", "zoom.in=image_zoom", "pkg.mod:Class.calc", "calc-2=dir/my.py:f"]
    found = tools_from([*specs, "https://u:p@example.org/mcp?key=abc"])
    assert [tool.names for tool in found] == [
        ("python",),
        ("code",),
        image_zoom.NAMES,
        ("zoom.in",),
        ("calc",),
        ("calc-2",),
        (),
    ]
    assert isinstance(found[4], function.Function)
    assert (found[4].target, found[4].seconds) == ("pkg.mod:Class.calc", 30)
    assert found[6].about == "example.org: MCP server https://example.org/mcp, 30 s a call"


def test_a_file_names_tools_of_every_kind(written: Path) -> None:
    written.write_text(EVERY_KIND)
    found = tools_from([str(written)])
    assert [tool.names for tool in found] == [
        ("python",),
        ("code_interpreter",),
        image_zoom.NAMES,
        ("zoom",),
        ("look", "see"),
        ("calc",),
        (),
        (),
    ]
    kinds = (python.Python, image_zoom.ImageZoom, function.Function, mcp_.McpServer)
    assert {type(tool) for tool in found} == set(kinds)
    assert len(KINDS) == len(kinds)
    assert "SEARCH_KEY" not in found[6].about
    assert found[7].about == "files: MCP server python server.py --all, 30 s a call"
    assert asyncio.run(_added(found[5])) == "3"


async def _added(tool: object) -> str:
    assert isinstance(tool, function.Function)
    async with tool:
        return (await tool.call(Call("calc", {"a": 1, "b": 2}))).text


def test_limits_that_a_file_does_not_set_are_those_of_the_sandbox(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[tuple[str, ...], Limits, bool]] = []

    class Noted:
        def __init__(self, names: tuple[str, ...], *, limits: Limits, strict: bool) -> None:
            seen.append((names, limits, strict))

    monkeypatch.setattr("gapscope.tools.python.Python", Noted)
    written.write_text("[python]\nseconds = 3\nmemory_mb = 200\n[code]\nkind = 'python'\nprocesses = 2")
    tools_from([str(written), "python"], strict=True)
    assert seen == [
        (("python",), Limits(seconds=3, memory_mb=200), True),
        (("code",), Limits(processes=2), True),
        (("python",), Limits(), True),
    ]


def test_every_limit_of_the_sandbox_can_be_set() -> None:
    assert set(KINDS[0].model_fields) == {"kind", "names", *Limits.__struct_fields__}


@pytest.mark.parametrize(
    "spec", ["", "pithon", "mcp", "function", "x=y", "=python", "x=http://localhost/mcp", "a:", ":b"]
)
def test_what_names_no_tool_is_refused_and_what_does_is_shown(spec: str) -> None:
    with pytest.raises((SettingsError, UnknownName)) as error:
        tools_from([spec])
    assert repr(spec) in error.value.message
    assert "python" in (error.value.hint or "")


def test_a_file_that_is_no_toml_or_not_there_is_said_with_its_line(written: Path) -> None:
    message, _ = refused(written, "[python]\nseconds = \n")
    assert message.startswith("tools.toml cannot be read as TOML: ")
    assert "line 2" in message
    assert refused(written, "")[0] == "tools.toml names no tool"
    with pytest.raises(SettingsError, match=r"missing.toml cannot be read: No such file"):
        tools_from(["missing.toml"])
    written.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="cannot be read as TOML"):
        tools_from([str(written)])


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[x]\nkind = 'pyton'", "unknown kind of [x] in tools.toml 'pyton'", "Did you mean python?"),
        ("[x]\nkind = 3", "unknown kind of [x] in tools.toml '3'", "Known: function, image_zoom, mcp, python."),
        ("[x]\nkind = ['python']", "unknown kind of [x] in tools.toml \"['python']\"", None),
        ("[x]\nfunction = 'a:b'", "[x] in tools.toml does not say of which kind it is", None),
        ("[python]\nsecond = 1", "unknown key of [python] in tools.toml 'second'", "Did you mean seconds?"),
        ("seconds = 1", "[seconds] in tools.toml is a value, not a table", None),
        ("[python]\nseconds = -1", "[python] in tools.toml: seconds: Input should be greater than 0", None),
        ("[python]\nseconds = inf", "[python] in tools.toml: seconds: Input should be a finite number", None),
        ("[x]\nkind = 'function'", "[x] in tools.toml: function: Field required", None),
        ("[x]\nkind = 'mcp'", "[x] in tools.toml: an MCP server has either a `command` or a `url`", None),
        ("[x]\nkind = 'mcp'\ncommand = 'a \"b'", "[x] in tools.toml: command: No closing quotation", None),
        ("[python]\nnames = []", "[python] in tools.toml: names: Tuple should have at least 1 item", None),
        ("[x]\nkind = 'mcp'\nurl = 'http://a'\nargs = ['b']", "`args` and `env` are for a `command`", None),
        ("[x]\nkind = 'mcp'\ncommand = 'a'\nheaders = {A = 'b'}", "`headers` are for a `url`", None),
    ],
)
def test_a_line_without_a_meaning_is_said_with_its_table(
    written: Path, text: str, message: str, hint: str | None
) -> None:
    found, hinted = refused(written, text)
    assert message in found
    assert hint is None or hint == hinted


def test_a_key_that_stands_in_the_file_is_in_no_error(written: Path) -> None:
    said = refused(written, "[x]\nkind = 'mcp'\nurl = 'http://a'\nheaders = {Authorization = 12345678}")
    assert "headers.Authorization" in said[0]
    assert "12345678" not in str(said)
