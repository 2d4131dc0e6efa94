"""One connection to an MCP server."""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from mcp import Client, MCPError
    from mcp.client._transport import TransportStreams

_CLOSING_SECONDS = 6.0  # A process needs half of it at most; a server that cannot be reached might never answer.


class Transport(Protocol):
    """What messages go over, as the library wants it: entering gives the streams to read and to write.

    `status` is that of the last HTTP response that was an error, `last_words` the end of what a process wrote to its
    standard error, and `grace` the seconds it has to end by itself.
    """

    status: int | None
    last_words: str
    grace: float

    async def __aenter__(self) -> "TransportStreams": ...

    async def __aexit__(self, *raised: Any) -> bool | None: ...  # noqa: ANN401, PYI036 (as in the library)


class Connection:
    """One connection, for any number of calls at a time.

    A task of its own enters the library's context managers and leaves them, as they demand.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.tools: list[str] = []
        self.client: Client
        self.gone = False
        self._probing = False
        self._leave = asyncio.Event()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._own())

    async def open(self) -> None:
        """Wait until the tools are known; raises whatever stands in the way."""
        await self._ready

    async def close(self) -> None:
        """Leave, and wait until nothing of it is left."""
        self._leave.set()
        if self._ready.done() and not self._ready.cancelled():
            await asyncio.wait([self._task], timeout=_CLOSING_SECONDS)
        self._task.cancel()
        await asyncio.wait([self._task])

    async def probe(self, seconds: float) -> None:
        """Give the connection up if the server does not even list its tools within so many seconds."""
        from mcp import MCPError

        if self.gone or self._probing:
            return
        self._probing = True
        with suppress(MCPError, RuntimeError, ValueError):
            try:
                async with asyncio.timeout(seconds):
                    await self.client.list_tools()
            except TimeoutError:
                self.gone = True
                self.transport.grace = 0.0
        self._probing = False

    def is_lost(self, error: "MCPError") -> bool:
        """Whether an error says that the connection is over, in the library's own words: servers use its codes too."""
        lost = ("Connection closed", "SSE stream ended", "Session terminated")
        self.gone = self.gone or str(error).startswith(lost)
        return self.gone

    def is_refused(self, error: "MCPError") -> bool:
        """Whether the server refused the request as such, as it does without a valid key."""
        return self.transport.status is not None and str(error) == "Server returned an error response"

    async def _own(self) -> None:
        from mcp import Client

        try:
            async with Client(self.transport, cache=None) as self.client:
                cursor = None
                while True:
                    page = await self.client.list_tools(cursor=cursor)
                    self.tools += [tool.name for tool in page.tools]
                    if not (cursor := page.next_cursor):
                        break
                self._ready.set_result(None)
                await self._leave.wait()
        except Exception as error:  # noqa: BLE001 (the library lets through whatever its parts raise)
            if not self._ready.done():
                self._ready.set_exception(error)
        finally:
            self.gone = True
