"""A server at an address."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx2
    from mcp.client._transport import TransportStreams


LONGEST_MESSAGE = 32_000_000
"""Bytes of one answer; the call that waits for a longer one fails."""


class HttpTransport:
    """The library's transport, whose answers are bounded; `seconds` are for connecting and sending."""

    def __init__(self, url: str, headers: Mapping[str, str], seconds: float) -> None:
        self.status: int | None = None
        self.last_words = ""
        self.grace = 0.0
        self._url = url
        self._headers = headers
        self._seconds = seconds
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "TransportStreams":
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        # A read has no time limit of its own: one that runs out breaks the connection, and calls have their deadline.
        timeout = httpx2.Timeout(self._seconds, read=None)
        client = httpx2.AsyncClient(headers=self._headers, timeout=timeout, event_hooks={"response": [self._look]})
        streams = streamable_http_client(self._url, http_client=client, max_sse_event_size=LONGEST_MESSAGE)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(client)
            both = await stack.enter_async_context(streams)
            self._stack = stack.pop_all()
        return both

    async def __aexit__(self, *raised: Any) -> bool | None:  # noqa: ANN401, PYI036 (as in the library)
        return await self._stack.__aexit__(*raised)

    async def _look(self, response: "httpx2.Response") -> None:
        import httpx2

        if response.status_code >= HTTPStatus.BAD_REQUEST:
            self.status = response.status_code
        is_json = response.headers.get("content-type", "").lower().startswith("application/json")
        if is_json and isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _bounded(response.stream)


def _bounded(stream: "httpx2.AsyncByteStream") -> "httpx2.AsyncByteStream":
    import httpx2

    class Bounded(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            read = 0
            async for chunk in stream:
                read += len(chunk)
                if read > LONGEST_MESSAGE:
                    message = f"an answer of more than {LONGEST_MESSAGE:,} bytes"
                    raise httpx2.StreamError(message)
                yield chunk

        async def aclose(self) -> None:
            await stream.aclose()

    return Bounded()
