"""The toolbox: each call goes to its tool, and what one tool does is no other's misfortune."""

import asyncio
from typing import Any, Self

import pytest
import tools_functions

from gapscope.errors import SettingsError
from gapscope.outcomes import ErrorMarkers
from gapscope.tools.base import Call, ToolFailure, ToolResult
from gapscope.tools.function import Callable, Function
from gapscope.tools.toolbox import Toolbox

judge = ErrorMarkers().judge


class Notebook:
    """A tool with a memory, which notes what becomes of it; `close` fails if it is told to."""

    def __init__(self, name: str, *, fails: BaseException | None = None) -> None:
        self.names: tuple[str, ...] = (name, f"{name}_again")
        self.about = f"a notebook {name}"
        self.noted: list[str] = []
        self._fails = fails

    def session(self) -> "Page":
        self.noted.append("begun")
        return Page(self.noted, self._fails)

    async def __aenter__(self) -> Self:
        self.noted.append("open")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.noted.append("shut")


class Page:
    def __init__(self, noted: list[str], fails: BaseException | None) -> None:
        self._lines: list[str] = []
        self._noted = noted
        self._fails = fails

    async def call(self, call: Call) -> ToolResult:
        if "raise" in call.arguments:
            raise ToolFailure(str(call.arguments["raise"]))
        if "bug" in call.arguments:
            raise KeyError("bug")
        self._lines.append(str(call.arguments.get("line")))
        return ToolResult(",".join(self._lines))

    async def close(self) -> None:
        self._noted.append("closed")
        if self._fails is not None:
            raise self._fails


def test_sessions_begin_with_their_first_call_and_share_nothing() -> None:
    used, unused = Notebook("used"), Notebook("unused")

    async def run() -> None:
        async with Toolbox([used, unused]) as box:
            assert box.names == ("used", "used_again", "unused", "unused_again")
            assert box.about == ["a notebook used", "a notebook unused"]
            one, other = box.session(), box.session()
            await one.call(Call("used", {"line": 1}))
            assert (await one.call(Call("used_again", {"line": 2}))).text == "1,2"
            assert (await other.call(Call("used", {"line": 3}))).text == "3"
            await one.close()
            await other.close()

    asyncio.run(run())
    assert used.noted == ["open", "begun", "begun", "closed", "closed", "shut"]
    assert unused.noted == ["open", "shut"]


@pytest.mark.parametrize("error", [ToolFailure("gone"), OSError("a full disk")])
def test_all_sessions_are_closed_also_when_one_cannot_be(error: Exception) -> None:
    books = [Notebook("a"), Notebook("b", fails=error), Notebook("c")]

    async def run() -> None:
        async with Toolbox(books) as box:
            session = box.session()
            for book in books:
                await session.call(Call(book.names[0], {}))
            await session.close()

    asyncio.run(run())
    assert [book.noted for book in books] == [["open", "begun", "closed", "shut"]] * 3


def test_what_the_model_did_wrong_is_an_answer_that_an_audit_knows() -> None:
    async def run(name: str, arguments: Any) -> ToolResult:
        async with Toolbox([Notebook("note")]) as box:
            return await box.session().call(Call(name, arguments))

    unknown = asyncio.run(run("note_pad", {}))
    assert unknown == ToolResult("Error: Tool note_pad not found. Known: note, note_again", error=True)
    assert judge("note_pad", unknown.text) == "unknown_tool"
    for arguments in ([1], "x", None, 3):
        wrong = asyncio.run(run("note", arguments))
        assert wrong.error
        assert judge("note", wrong.text) == "bad_arguments"


def test_a_tool_that_failed_says_so_and_one_that_raises_is_taken_for_failed() -> None:
    async def run(**arguments: Any) -> ToolResult:
        async with Toolbox([Notebook("note")]) as box:
            return await box.session().call(Call("note", arguments))

    with pytest.raises(ToolFailure, match="a dead server"):
        asyncio.run(run(**{"raise": "a dead server"}))
    with pytest.raises(ToolFailure, match="tool raised") as failure:
        asyncio.run(run(bug=True))
    assert failure.value.detail == "note: KeyError: 'bug'"


def test_a_long_answer_is_cut_and_says_so_and_half_a_character_is_none() -> None:
    async def run(what: str) -> str:
        async with Toolbox([Callable("say", tools_functions.say)], longest=10) as box:
            return (await box.session().call(Call("say", {"what": what}))).text

    assert asyncio.run(run("0123456789")) == "0123456789"
    assert asyncio.run(run("0123456789abcd")) == "0123456789\n[4 of 14 characters are left out]"
    assert asyncio.run(run("a\ud800b")) == "a?b"


def test_two_tools_of_one_name_are_refused_and_shut_again() -> None:
    books = [Notebook("note"), Notebook("note")]

    async def run() -> None:
        await Toolbox(books).__aenter__()

    with pytest.raises(SettingsError, match="two tools are called 'note'"):
        asyncio.run(run())
    assert [book.noted for book in books] == [["open", "shut"]] * 2


def test_a_tool_that_hangs_or_dies_does_not_disturb_the_session_beside_it() -> None:
    async def run() -> None:
        tools = [
            Function("hangs", "tools_functions:hangs", seconds=0.3),
            Function("dies", "tools_functions:dies"),
            Function("floods", "tools_functions:answers_without_end"),
            Function("add", "tools_functions:add"),
        ]
        async with Toolbox(tools) as box:
            sessions = [box.session() for _ in tools]
            calls = [session.call(Call(name, {})) for session, name in zip(sessions, box.names[:3], strict=False)]
            *bad, good = await asyncio.gather(*calls, sessions[3].call(Call("add", {"a": 1, "b": 2})))
            assert [result.error for result in bad] == [True] * 3
            assert good == ToolResult("3")
            for session in sessions:
                await session.close()

    asyncio.run(run())
