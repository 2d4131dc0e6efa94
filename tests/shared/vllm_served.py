"""A double behind a socket of this machine: slow, broken off, down for a while."""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from typing import Self

import httpx


class Served:
    """A double behind a socket of this machine, in a thread; `delay` is in seconds, per request.

    `breaking` says of a request, by its number from 1, whether the connection is closed instead of an answer. A fault
    that raises httpx's ReadError resets the connection in the middle of an answer, RemoteProtocolError ends it there,
    ReadTimeout never answers, and any other of its errors closes the connection. `down` and `up` are a server that is
    started anew, on the same port.
    """

    def __init__(
        self,
        double: Callable[[httpx.Request], httpx.Response],
        *,
        delay: float = 0.0,
        breaking: Callable[[int], bool] = lambda *_: False,
    ) -> None:
        self.double = double
        self.delay = delay
        self.breaking = breaking
        self.url = ""
        self.most_in_flight = 0
        self.connected = 0
        self._port = 0
        self._in_flight = 0
        self._number = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def down(self) -> None:
        """Break every connection and take no more."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)

    def up(self) -> None:
        """Listen again."""
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)

    def _serve(self) -> None:
        self._loop.run_until_complete(self._listen())
        self._loop.close()

    async def _listen(self) -> None:
        self._stop = asyncio.Event()
        await self._open()
        self._ready.set()
        await self._stop.wait()
        await self._close()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", self._port, backlog=512)
        self._port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected += 1
        task = asyncio.ensure_future(self._talk(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().split("\r\n")
                method, path, _ = first.split(" ")
                headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
                content = await reader.readexactly(int(headers.get("content-length", "0")))
                self._number += 1
                if self.breaking(self._number):
                    return
                self._in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self._in_flight)
                try:
                    await asyncio.sleep(self.delay)
                    answer = self.double(httpx.Request(method, self.url + path, headers=headers, content=content))
                    await asyncio.sleep(answer.extensions.get("seconds", 0.0))
                finally:
                    self._in_flight -= 1
                writer.write(_sent(answer))
                await writer.drain()
        except (httpx.ReadError, httpx.RemoteProtocolError) as broken:
            writer.write(b'HTTP/1.1 200 .\r\nContent-Length: 4096\r\n\r\n{"id":"cmpl-')
            await writer.drain()
            if isinstance(broken, httpx.ReadError):
                socket_ = writer.get_extra_info("socket")
                socket_.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except httpx.ReadTimeout:
            await self._stop.wait()
        except (asyncio.IncompleteReadError, ConnectionError, httpx.TransportError):
            return
        finally:
            writer.close()


def _sent(answer: httpx.Response) -> bytes:
    """An answer as it goes over the wire."""
    own = {name: value for name, value in answer.headers.items() if name not in {"content-length", "connection"}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in own.items())
    head = f"HTTP/1.1 {answer.status_code} .\r\nContent-Length: {len(answer.content)}\r\n{lines}\r\n"
    return head.encode() + answer.content
