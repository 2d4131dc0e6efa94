"""Functions as tools: whatever one does is an answer, and the next call has its tool."""

import asyncio
import time
from typing import Any

import pytest
import tools_functions

from gapscope.errors import SettingsError
from gapscope.outcomes import ErrorMarkers
from gapscope.rollouts import Outcome
from gapscope.tools.base import Call, ToolResult, failed
from gapscope.tools.function import Callable, Function, answer

judge = ErrorMarkers().judge


async def called(tool: Function | Callable, **arguments: Any) -> ToolResult:
    async with tool:
        session = tool.session()
        try:
            return await session.call(Call(tool.names[0], arguments))
        finally:
            await session.close()


def outcome(tool: Function | Callable, **arguments: Any) -> Outcome:
    result = asyncio.run(called(tool, **arguments))
    found = judge(tool.names[0], result.text)
    assert result.error == (found != "executed_ok")
    return found


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        (None, ""),
        (3, "3"),
        (True, "true"),
        (["é", 1.5], '["é", 1.5]'),
        ({"city": None, "error": None}, '{"city": null, "error": null}'),
    ],
)
def test_a_text_is_the_answer_and_anything_else_is_json(value: Any, text: str) -> None:
    assert answer(value) == ToolResult(text)


def test_a_mapping_whose_error_says_something_has_failed_and_begins_so() -> None:
    found = answer({"city": "Oslo", "error": "closed"})
    assert found == ToolResult('{"error": "closed", "city": "Oslo"}', error=True)
    assert judge("weather", found.text) == "executed_error"


def test_a_function_answers_raises_hangs_dies_and_talks_nonsense_each_at_the_cost_of_its_call() -> None:
    cases: list[tuple[str, dict[str, Any], Outcome]] = [
        ("add", {"a": 1, "b": 2}, "executed_ok"),
        ("later", {"what": "x"}, "executed_ok"),
        ("raises", {}, "executed_error"),
        ("add", {"a": 1}, "bad_arguments"),
        ("add", {"a": 1, "b": 2, "c": 3}, "bad_arguments"),
        ("hangs", {}, "timeout"),
        ("dies", {}, "executed_error"),
        ("leaves", {}, "executed_error"),
        ("answers_without_end", {}, "executed_error"),
        ("prints_without_end", {}, "executed_ok"),
        ("unserialisable", {}, "executed_error"),
    ]

    async def run() -> None:
        for name, arguments, expected in cases:
            tool = Function(name, f"tools_functions:{name}", seconds=0.4 if name == "hangs" else 30)
            async with tool:
                result = await tool.call(Call(name, arguments))
            assert judge(name, result.text) == expected, (name, result)
            assert result.error == (expected != "executed_ok")

    asyncio.run(run())


def test_what_a_function_raised_and_how_it_died_are_said() -> None:
    async def run() -> None:
        async with Function("f", "tools_functions:raises") as tool:
            assert await tool.call(Call("f", {})) == failed("ValueError: there is no such city")
        async with Function("f", "tools_functions:dies") as tool:
            assert await tool.call(Call("f", {})) == failed("f died: exit code 3: out of memory")
            assert (await tool.call(Call("f", {}))).error
        assert tool.about == "f: tools_functions:dies in a process of its own, 30 s a call"

    asyncio.run(run())


@pytest.mark.parametrize("target", ["tools_functions:no_such", "no_such_module:f", "nonsense"])
def test_a_function_that_is_not_there_is_known_before_the_first_call(target: str) -> None:
    with pytest.raises(SettingsError, match=target):
        asyncio.run(called(Function("f", target)))


def test_a_function_at_hand_is_called_in_a_thread_or_awaited() -> None:
    assert asyncio.run(called(Callable("add", tools_functions.add), a=1, b=2)) == ToolResult("3")
    assert asyncio.run(called(Callable("later", tools_functions.later), what="x")) == ToolResult("x")
    seen = ToolResult("a picture", (b"pixels",))
    assert asyncio.run(called(Callable("look", lambda: seen))) == seen


def test_a_function_at_hand_that_goes_wrong_is_an_answer() -> None:
    assert outcome(Callable("f", tools_functions.raises)) == "executed_error"
    assert outcome(Callable("f", tools_functions.leaves)) == "executed_error"
    assert outcome(Callable("f", tools_functions.unserialisable)) == "executed_error"
    assert outcome(Callable("f", tools_functions.add), a=1) == "bad_arguments"
    assert outcome(Callable("f", tools_functions.add), a=1, b=2, c=3) == "bad_arguments"
    assert outcome(Callable("f", lambda: next(iter([])))) == "executed_error"

    async def own_timeout() -> None:
        raise TimeoutError

    own = asyncio.run(called(Callable("f", own_timeout)))
    assert own == failed("TimeoutError")


def test_a_function_at_hand_that_hangs_is_left_behind_and_nobody_waits_for_it() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    began = time.monotonic()
    for function in (tools_functions.hangs, forever):
        found = asyncio.run(called(Callable("f", function, seconds=0.1)))
        assert found == failed("TimeoutError: f did not answer within 0.1 s")
    assert time.monotonic() - began < 5
