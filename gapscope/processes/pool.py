"""A few processes, each calling one function at a time."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from gapscope.errors import SettingsError
from gapscope.processes.process import CallFailed, Process
from gapscope.rollouts import Json


class Processes:
    """Interpreters that call functions named `module:function` or `path/to/file.py:function`; names may be dotted.

    An asynchronous context manager. A process starts when a call needs one, and at most `most` run; further calls
    wait. The current directory is imported from first, then what this process imports from. Standard output of
    the functions goes nowhere. A process that runs out of time, dies or answers more than `longest_answer` bytes is
    killed with all that it started, and the next call gets a new one.
    """

    def __init__(self, *, most: int = 4, longest_answer: int = 10_000_000) -> None:
        self._turns = asyncio.Semaphore(most)
        self._longest_answer = longest_answer
        self._idle: list[Process] = []
        self._folder = os.getcwd()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._idle:
            self._idle.pop().close()
        # Transports close their files when the loop comes round.
        await asyncio.sleep(0)

    async def call(self, target: str, arguments: dict[str, Json], *, seconds: float) -> Json:
        """What a function answers to keyword arguments; one that is asynchronous is awaited there.

        `seconds` are the call's alone: waiting for a process and importing the function are not counted.

        Raises:
            CallFailed: it raised, timed out, died or answered nonsense.

        """
        async with self._process(target) as process:
            await process.load(target)
            return await process.call(target, arguments, seconds)

    async def check(self, target: str) -> list[str]:
        """Import a function now; the names of its parameters, and `**` if it takes any other.

        Raises:
            SettingsError: it cannot be found, imported or called.

        """
        place, _, name = target.rpartition(":")
        if not place or not name:
            message = f"{target!r} names no function"
            raise SettingsError(message, hint="Write module:function or path/to/file.py:function.")
        try:
            async with self._process(target) as process:
                return await process.load(target)
        except CallFailed as failure:
            message = f"{target!r} cannot be called: {failure.detail}"
            hint = f"It is imported from {self._folder} first, then from where Python finds its modules."
            raise SettingsError(message, hint=hint) from failure

    @asynccontextmanager
    async def _process(self, target: str) -> AsyncIterator[Process]:
        """One process for one call."""
        async with self._turns:
            process = self._take(target) or await Process.start(self._folder, self._longest_answer)
            try:
                yield process
            finally:
                if process.closed:
                    # Its files are closed when the loop comes round.
                    await asyncio.sleep(0)
                else:
                    self._idle.append(process)

    def _take(self, target: str) -> Process | None:
        """An idle process, rather one that has the function; those that died while they were idle are cleared away."""
        for process in [process for process in self._idle if process.ended]:
            self._idle.remove(process)
            process.close()
        if not self._idle:
            return None
        known = [process for process in self._idle if target in process.loaded]
        chosen = (known or self._idle)[-1]
        self._idle.remove(chosen)
        return chosen
