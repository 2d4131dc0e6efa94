"""Python code that the policy wrote, run in a sandbox; variables live from call to call of one continuation.

The answer is what a terminal would show: what the code prints, the value of an expression that it ends with, and a
traceback where it raises.
"""

import sys
from collections.abc import Mapping
from typing import Self

from gapscope.errors import SettingsError
from gapscope.rollouts import Json
from gapscope.sandbox import Isolation, Limits, NotStarted, Ran, Sandboxed, start, strongest
from gapscope.tools.base import Call, ToolFailure, ToolResult, failed

CODE = "code"
_FENCES = ("`", "~")
_NOT_OPEN = "python is not open"
_NO_SANDBOX = "no sandbox can be started any more"
_GONE = "the interpreter was started again and its variables are gone"


class Python:
    """The tool `python`, under any name that the policy has for it."""

    def __init__(
        self,
        names: tuple[str, ...] = ("python",),
        *,
        limits: Limits | None = None,
        strict: bool = False,
        python: str | None = None,
    ) -> None:
        self._names = names
        self._limits = limits or Limits()
        self._strict = strict
        self._python = python or sys.executable
        self._isolation: Isolation | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What the policy calls it."""
        return self._names

    @property
    def about(self) -> str:
        """Where code runs, what that holds and what it does not; known once the tool is open."""
        where = self._isolation.about if self._isolation else "a sandbox"
        limits = self._limits
        return (
            f"{self._names[0]} runs in {where}; {limits.seconds:g} s a call, {limits.memory_mb} MB, "
            f"{limits.processes} processes, {limits.output_chars} characters"
        )

    def session(self) -> "PythonSession":
        """An interpreter for one continuation; it starts with the first call."""
        return PythonSession(self._isolation, self._limits)

    async def __aenter__(self) -> Self:
        """Find out what this machine can hold.

        Raises:
            SettingsError: no sandbox works here, or none that holds everything where it must be `strict`.

        """
        self._isolation = await strongest(strict=self._strict, python=self._python)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is left to give back: sessions end their own interpreters."""


class PythonSession:
    """One interpreter, replaced by a fresh one after a call that it did not survive."""

    def __init__(self, isolation: Isolation | None, limits: Limits) -> None:
        self._isolation = isolation
        self._limits = limits
        self._sandboxed: Sandboxed | None = None

    async def call(self, call: Call) -> ToolResult:
        """Run `code`, or else the only text there is among the arguments.

        Raises:
            ToolFailure: no sandbox can be started any more.

        """
        code = code_of(call.arguments)
        if code is None:
            return failed(f"missing required argument {CODE!r}, a text")
        if self._sandboxed is None or not self._sandboxed.alive:
            await self.close()
            self._sandboxed = await self._started()
        return _answer(await self._sandboxed.run(code), self._limits)

    async def close(self) -> None:
        """End the interpreter and all that it started."""
        if self._sandboxed is not None:
            await self._sandboxed.close()
            self._sandboxed = None

    async def _started(self) -> Sandboxed:
        if self._isolation is None:
            raise ToolFailure(_NOT_OPEN)
        try:
            return await start(self._isolation.level, self._limits, self._isolation.interpreter)
        except (NotStarted, SettingsError) as error:
            raise ToolFailure(_NO_SANDBOX, str(error)) from None


def code_of(arguments: Mapping[str, Json]) -> str | None:
    """The code among the arguments, without a Markdown fence round it; None where there is none."""
    texts: list[Json] = [value for value in arguments.values() if isinstance(value, str)]
    code = arguments.get(CODE, texts[0] if len(texts) == 1 else None)
    return _without_fence(code) if isinstance(code, str) else None


def _without_fence(code: str) -> str:
    first, *lines = code.strip().split("\n")
    sign = first[:1]
    fence = first[: len(first) - len(first.lstrip(sign))]
    if sign not in _FENCES or len(fence) < 3 or not lines:
        return code
    if lines[-1].strip() == fence:
        lines.pop()
    return "\n".join(lines)


def _answer(ran: Ran, limits: Limits) -> ToolResult:
    printed = f"\n{ran.output}" if ran.output else ""
    if ran.timed_out:
        return failed(f"TimeoutError: the code ran longer than {limits.seconds:g} s; {_GONE}{printed}")
    if ran.died is not None:
        return failed(f"the interpreter died: {ran.died}; {_GONE}{printed}")
    return ToolResult(ran.output, error=ran.raised)
