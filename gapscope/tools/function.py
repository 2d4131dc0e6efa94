"""A Python function as a tool: `Function` calls one in a process of its own, `Callable` one that is at hand.

What the function returns is the answer: a text as it is, nothing for None, anything else as JSON. A mapping whose
`error` says something is an answer that failed. What it raises is an answer too: `Error: ValueError: …`.
"""

import asyncio
import contextvars
import inspect
import json
import threading
from collections.abc import Awaitable
from collections.abc import Callable as AnyCallable
from contextlib import suppress
from typing import Any, Self

from gapscope.processes import CallFailed, Processes
from gapscope.rollouts import Json
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
        called = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return f"{self.name}: {called} in this process, {self.seconds:g} s a call"

    def session(self) -> Self:
        """The tool itself: whatever calls share is the function's own affair."""
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def call(self, call: Call) -> ToolResult:
        """What the function answers, or what became of it."""
        given = dict(call.arguments)
        try:
            async with asyncio.timeout(self.seconds) as deadline:
                value = self.function(**given) if _is_async(self.function) else await _in_thread(self.function, given)
                if inspect.isawaitable(value):
                    value = await value
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


def _is_async(function: AnyCallable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _in_thread(function: AnyCallable[..., Any], arguments: dict[str, Json]) -> Awaitable[Any]:
    """Run a function in a thread of its own, which the end of this process does not wait for as it would for a pool."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def settle(value: Any, error: Exception | None) -> None:  # noqa: ANN401 (what a function returns)
        if done.done():
            return
        if error is None:
            done.set_result(value)
        else:
            done.set_exception(error)

    def run() -> None:
        value: Any = None
        error: Exception | None = None
        try:
            value = context.run(function, **arguments)
        except (StopIteration, KeyboardInterrupt, SystemExit) as raised:  # A future takes none of them.
            error = RuntimeError(f"{type(raised).__name__}: {raised}")
        except Exception as raised:  # noqa: BLE001 (it is raised again where the call is awaited)
            error = raised
        with suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=run, name=f"tool {function!r:.40}", daemon=True).start()
    return done
