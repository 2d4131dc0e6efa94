"""One process that calls functions, as its owner sees it."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal, Self

from gapscope.rollouts import Json

Reason = Literal["raised", "timed out", "died", "nonsense"]

IMPORT_SECONDS = 120.0
"""How long a module may take to be imported, which is no part of a call's own time: some import torch."""

_LATE: Reason = "timed out"
_SERVE = str(Path(__file__).with_name("serve.py"))
_LONGEST_TAIL = 2_000
_TAIL_SECONDS = 0.2
_END_SECONDS = 0.5


class CallFailed(Exception):
    """A call without an answer.

    `reason`: `raised` (`detail` is the exception's type and message), `timed out`, `died` (how, and its last words on
    standard error) or `nonsense` (an answer that is not JSON, or too long).
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


class _Tail(asyncio.Protocol):
    """The end of what a process writes to its standard error."""

    def __init__(self) -> None:
        self.text = b""
        self.ended = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.text = (self.text + data)[-_LONGEST_TAIL:]

    def connection_lost(self, _: Exception | None) -> None:
        self.ended.set()


class Process:
    """A running interpreter, until it is `closed`; `loaded` are the targets it has imported, and their parameters."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        errors: tuple[asyncio.ReadTransport, _Tail],
        longest_answer: int,
    ) -> None:
        self._process = process
        self._reader, self._writer = streams
        self._errors, self._tail = errors
        self._longest_answer = longest_answer
        self.closed = False
        self.loaded: dict[str, list[str]] = {}

    @classmethod
    async def start(cls, folder: str, longest_answer: int) -> Self:
        """A new one, which works in that folder and imports from it first.

        Raises:
            CallFailed: none can be started.

        """
        ours, theirs = socket.socketpair()
        paths = [folder, *(os.path.join(folder, path) for path in sys.path)]
        try:
            process = subprocess.Popen(  # noqa: ASYNC220, S603 (our own interpreter; it returns at once)
                [sys.executable, "-P", _SERVE, *paths],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd=folder,
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise CallFailed("died", f"no process can be started: {error}") from error
        finally:
            theirs.close()
        # From here on it must not be left behind, whatever comes.
        with ExitStack() as undo:
            undo.callback(process.stderr.close if process.stderr else ours.close)
            undo.callback(ours.close)
            undo.callback(_kill, process)
            streams = await asyncio.open_connection(sock=ours)
            undo.callback(streams[1].transport.abort)
            errors = await asyncio.get_running_loop().connect_read_pipe(_Tail, process.stderr)
            undo.pop_all()
        return cls(process, streams, errors, longest_answer)

    @property
    def ended(self) -> bool:
        """Whether it is known to have died since its last answer."""
        return self._reader.at_eof()

    async def load(self, target: str) -> list[str]:
        """Import what a target names, if it is not yet; the names of its parameters, `**` for any other.

        Raises:
            CallFailed: the import raised, took too long or killed the process.

        """
        if target not in self.loaded:
            self.loaded[target] = await self._ask({"what": "load", "target": target}, IMPORT_SECONDS)
        return self.loaded[target]

    async def call(self, target: str, arguments: dict[str, Json], seconds: float) -> Json:
        """Call a function that is loaded.

        Raises:
            CallFailed: there is no answer.

        """
        return await self._ask({"what": "call", "target": target, "arguments": arguments}, seconds)

    async def _ask(self, request: dict[str, Json], seconds: float) -> Json:
        message = json.dumps({**request, "seconds": seconds}).encode()
        self._tail.text = b""
        try:
            async with asyncio.timeout(seconds):
                self._writer.write(len(message).to_bytes(8) + message)
                await self._writer.drain()
                length = int.from_bytes(await self._reader.readexactly(8))
                if length <= self._longest_answer:
                    answer = await self._reader.readexactly(length)
        except TimeoutError:
            self.close()
            raise CallFailed(_LATE, f"no answer after {seconds:g} s") from None
        except (asyncio.IncompleteReadError, ConnectionError):
            raise CallFailed("died", await self._last_words()) from None
        except BaseException:
            self.close()
            raise
        if length > self._longest_answer:
            self.close()
            raise CallFailed(
                "nonsense", f"the answer has {length:,} bytes, and at most {self._longest_answer:,} are read"
            )
        try:
            found = json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise CallFailed("nonsense", f"the answer cannot be read: {error}") from None
        if "value" in found:
            return found["value"]
        if "raised" in found:
            raise CallFailed("raised", found["raised"])
        raise CallFailed("nonsense", found["nonsense"])

    async def _last_words(self) -> str:
        """How it died, and the end of what it wrote to standard error."""
        code = _kill(self._process)
        with suppress(TimeoutError):
            async with asyncio.timeout(_TAIL_SECONDS):
                await self._tail.ended.wait()
        self.close()
        words = self._tail.text.decode(errors="replace").strip()
        return f"{_ending(code)}: {words}" if words else _ending(code)

    def close(self) -> None:
        """End it, and all that it started."""
        self.closed = True
        _kill(self._process)
        self._writer.transport.abort()
        self._errors.close()


def _kill(process: "subprocess.Popen[bytes]") -> int | None:
    """Kill a process and its group; its exit code, that of an earlier end if it had ended."""
    if process.returncode is None:
        # Before it is reaped its number cannot be anybody else's.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    try:
        return process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        # A driver or a network file system can hold on to a killed process; nobody shall wait for that.
        threading.Thread(target=process.wait, daemon=True).start()
        return None


def _ending(code: int | None) -> str:
    if code is None:
        return "it ended its connection"
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
