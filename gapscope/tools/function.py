"""A Python function as a tool: `Function` calls one in a process of its own, `Callable` one that is at hand.

What the function returns is the answer: a text as it is, nothing for None, anything else as JSON. A mapping whose
`error` says something is an answer that failed. What it raises is an answer too: `Error: ValueError: …`.
"""

import asyncio
import json
from collections.abc import Callable as AnyCallable
from typing import Any, Self

from gapscope.processes import CallFailed, Processes
from gapscope.rollouts import Json
from gapscope.threads import called
from gapscope.tools.base import Call, ToolResult, failed

SECONDS = 30.0
"""How long a call may take, unless it is said otherwise."""


class Function:
    """A function named `module:function` or `path/to/file.py:function`, which gets the arguments as keywords.

    It runs in a process of its own. One that hangs is killed after `seconds`; one that dies, or answers without end or
    with something that is not JSON, costs its call. It is trusted not to be hostile: it may read files, reach the
    network and see the environment.
    """

    def __init__(self, name: str, target: str, *, seconds: float = SECONDS) -> None:
        self.name = name
        self.target = target
        self.seconds = seconds
        self._processes = Processes()

    @property
    def names(self) -> tuple[str, ...]:
        """The one name."""
        return (self.name,)

    @property
    def about(self) -> str:
        """What is called, and where."""
        return f"{self.name}: {self.target} in a process of its own, {self.seconds:g} s a call"

    def session(self) -> Self:
        """The tool itself: calls share nothing that they are promised."""
        return self

    async def __aenter__(self) -> Self:
        """Import the function once, so that one that is not there is known before anything is sampled.

        Raises:
            SettingsError: it cannot be found, imported or called.

        """
        await self._processes.__aenter__()
        try:
            await self._processes.check(self.target)
        except BaseException:
            await self._processes.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._processes.__aexit__()

    async def call(self, call: Call) -> ToolResult:
        """What the function answers, or what became of it."""
        try:
            value = await self._processes.call(self.target, dict(call.arguments), seconds=self.seconds)
        except CallFailed as failure:
            match failure.reason:
                case "raised":
                    return failed(failure.detail)
                case "timed out":
                    return failed(_timed_out(self.name, self.seconds))
                case "died":
                    return failed(f"{self.name} died: {failure.detail}")
                case "nonsense":
                    return failed(f"{self.name} gave no usable answer: {failure.detail}")
        return answer(value)

    async def close(self) -> None:
        """Nothing: no call outlives its answer."""


class Callable:
    """A function of this process, for the Python interface: what it returns may also be a ToolResult, with images.

    A coroutine function is awaited in the event loop; any other runs in a thread. Both have `seconds`; a thread cannot
    be ended, so that a function that hangs keeps its thread until this process is over. `Function` has no such flaw.
    """

    def __init__(self, name: str, function: AnyCallable[..., Any], *, seconds: float = SECONDS) -> None:
        self.name = name
        self.function = function
        self.seconds = seconds

    @property
    def names(self) -> tuple[str, ...]:
        """The one name."""
        return (self.name,)

    @property
    def about(self) -> str:
        """What is called, and where."""
        function = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return f"{self.name}: {function} in this process, {self.seconds:g} s a call"

    def session(self) -> Self:
        """The tool itself: whatever calls share is the function's own affair."""
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def call(self, call: Call) -> ToolResult:
        """What the function answers, or what became of it."""
        try:
            async with asyncio.timeout(self.seconds) as deadline:
                value = await called(self.function, dict(call.arguments))
            return value if isinstance(value, ToolResult) else answer(value)
        except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever a function raises is its answer)
            if isinstance(error, TimeoutError) and deadline.expired():
                return failed(_timed_out(self.name, self.seconds))
            return failed(f"{type(error).__name__}: {error}".removesuffix(": "))

    async def close(self) -> None:
        """Nothing: calls leave nothing behind that could be given back."""


def answer(value: Json) -> ToolResult:
    """What the policy is told of a value that a function returned.

    Raises:
        TypeError, ValueError: the value is not JSON.

    """
    if value is None:
        return ToolResult("")
    if isinstance(value, str):
        return ToolResult(value)
    error = isinstance(value, dict) and bool(value.get("error"))
    if isinstance(value, dict) and error:
        # An audit knows a failed call by how its answer begins.
        value = {"error": value["error"], **value}
    return ToolResult(json.dumps(value, ensure_ascii=False), error=error)


def _timed_out(name: str, seconds: float) -> str:
    return f"TimeoutError: {name} did not answer within {seconds:g} s"
