"""A server that is a process of ours.

The pipes are ours and not the library's, whose reader takes time in m² for a line of m bytes (30 MB: 7 s), in which
nothing else in this process goes on.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
    from mcp.client._transport import TransportStreams
    from mcp.shared.message import SessionMessage


LONGEST_MESSAGE = 32_000_000
"""Bytes of one message; a longer one is passed over, and the call that waits for it runs out of time."""

_GRACE_SECONDS = 2.0  # To end by itself once its input is closed, as the protocol has it.
_TERMINATION_SECONDS = 1.0
_TAIL_SECONDS = 0.2
_POLL_SECONDS = 0.01
_LONGEST_TAIL = 1_000
_CHUNK = 65_536


class ProcessTransport:
    """A process that is started with it and ended with it: messages are lines on its standard input and output.

    It sees HOME, LOGNAME, PATH, SHELL, TERM and USER of the environment, and `env`. What it prints that is no message
    is passed over.
    """

    def __init__(self, command: tuple[str, ...], env: Mapping[str, str]) -> None:
        self.status: int | None = None
        self.last_words = ""
        self.grace = _GRACE_SECONDS
        self._command = command
        self._env = env
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "TransportStreams":
        import anyio
        from mcp.client.stdio import get_default_environment
        from mcp.shared.message import SessionMessage

        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**get_default_environment(), **self._env},
            limit=LONGEST_MESSAGE,
            start_new_session=True,
        )
        came, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        # With room in it a call is never stuck in sending, where the library would wait before it gives up.
        outgoing, goes = anyio.create_memory_object_stream[SessionMessage](1_000)
        self._tasks = [asyncio.create_task(part) for part in (self._read(came), self._write(goes), self._listen())]
        return incoming, outgoing

    async def __aexit__(self, *_: object) -> None:
        process = self._process
        if process.stdin:
            process.stdin.close()
        if not await self._ended(self.grace):
            self._kill(signal.SIGTERM)
            await self._ended(min(self.grace, _TERMINATION_SECONDS))
        self._kill(signal.SIGKILL)
        await self._ended(_TERMINATION_SECONDS)
        await asyncio.wait(self._tasks, timeout=_TAIL_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # A process of another group may hold the pipes open; nothing public closes our ends of them.
        process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001

    async def _ended(self, seconds: float) -> bool:
        # Waiting for the process as asyncio does is waiting for its pipes too, which what it started may hold open.
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._process.returncode is None:  # noqa: ASYNC110 (there is no event for the exit alone)
                    await asyncio.sleep(_POLL_SECONDS)
        return self._process.returncode is not None

    def _kill(self, sign: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, sign)

    async def _read(self, came: "MemoryObjectSendStream[SessionMessage | Exception]") -> None:
        import anyio
        from mcp.shared.message import SessionMessage
        from mcp_types import jsonrpc_message_adapter

        stdout = self._process.stdout
        assert stdout  # noqa: S101 (it is a pipe)
        async with came:  # Its end tells the library that the connection is over.
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                async for line in _lines(stdout):
                    try:
                        message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                    except ValueError:
                        continue  # Something that was printed.
                    await came.send(SessionMessage(message))
        while await stdout.read(_CHUNK):  # What it still has to say must not keep it from ending.
            pass

    async def _write(self, goes: "MemoryObjectReceiveStream[SessionMessage]") -> None:
        stdin = self._process.stdin
        assert stdin  # noqa: S101 (it is a pipe)
        async with goes:
            with suppress(OSError):
                async for item in goes:
                    stdin.write(item.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
                    await stdin.drain()

    async def _listen(self) -> None:
        stderr = self._process.stderr
        assert stderr  # noqa: S101 (it is a pipe)
        while chunk := await stderr.read(_CHUNK):
            self.last_words = (self.last_words + chunk.decode(errors="replace"))[-_LONGEST_TAIL:]


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The lines of a stream, without those that are longer than it holds."""
    whole = True
    while True:
        try:
            line = await stream.readuntil()
        except asyncio.LimitOverrunError as error:
            await stream.readexactly(error.consumed)
            whole = False
        except asyncio.IncompleteReadError:
            return
        else:
            if whole:
                yield line
            whole = True
