"""The tools of an MCP server, over standard input and output or over streamable HTTP.

All continuations share one connection. A call has a deadline, and a server that died or hangs is connected again.
"""

import asyncio
import base64
import binascii
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from gapscope.errors import SettingsError, UnknownName
from gapscope.mcp_servers import Connection, HttpTransport, ProcessTransport, Transport
from gapscope.outcomes import ErrorMarkers
from gapscope.tools.base import Call, ToolFailure, ToolResult, failed

if TYPE_CHECKING:
    from mcp_types import CallToolResult, ContentBlock

SECONDS = 30.0
"""How long a call may take, unless it is said otherwise."""

STARTING_SECONDS = 60.0
"""How long a server may take until its tools are known: `npx` and `uvx` download it first."""

_PROBE_SECONDS = 5.0
_LEAST_SECRET = 6  # Shorter values are words that answers may hold by chance.
_VARIABLE = re.compile(r"\$\{(\w+)\}")


class McpServer:
    """All tools of one MCP server, or those named in `only`; `rename` says what the policy calls them instead.

    Give `command`, with `env`, or `url`, with `headers`. A process sees HOME, LOGNAME, PATH, SHELL, TERM and USER of
    the environment, and what `env` adds. Values in `env`, `headers` and `url` may say `${NAME}`, which is filled from
    the environment when the server is connected, and kept out of errors and answers. A call that takes more than
    `seconds` is an answer; a server that does not even list its tools after one is ended and started anew. Calls that
    were under way in a connection that broke are sent once more.
    """

    def __init__(
        self,
        name: str = "MCP",
        *,
        command: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        url: str | None = None,
        headers: Mapping[str, str] | None = None,
        only: Sequence[str] | None = None,
        rename: Mapping[str, str] | None = None,
        seconds: float = SECONDS,
        starting: float = STARTING_SECONDS,
    ) -> None:
        if bool(command) == bool(url):
            message = f"{name}: an MCP server has either a command or a url"
            raise SettingsError(message)
        self._name = name
        self._command, self._env = tuple(command), dict(env or {})
        self._url, self._headers = url, dict(headers or {})
        self._only, self._rename = only, dict(rename or {})
        self._seconds = seconds
        self._starting = starting
        self._hidden: dict[str, str] = {}
        self._own_names: dict[str, str] = {}
        self._opening: asyncio.Task[Connection]

    @property
    def names(self) -> tuple[str, ...]:
        """What the server offers; nothing until it is connected."""
        return tuple(self._own_names)

    @property
    def about(self) -> str:
        """Which server, and what it offers once it is connected."""
        offered = f" ({', '.join(self.names)})" if self.names else ""
        return f"{self._name}: MCP server {self._where}{offered}, {self._seconds:g} s a call"

    @property
    def _where(self) -> str:
        if not self._url:
            return " ".join(self._command)
        parts = urlsplit(self._url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def session(self) -> Self:
        """The server itself, which all continuations share."""
        return self

    async def __aenter__(self) -> Self:
        """Connect, and learn the tools.

        Raises:
            SettingsError: it cannot be started or reached, a variable is not set, or it has no tools.
            UnknownName: it has not the tools that are named.

        """
        try:
            from mcp import Client
        except ImportError as error:
            message = f"MCP servers need the library mcp: {error}"
            raise SettingsError(message, hint="pip install 'gapscope[mcp]'") from None
        # It logs each line that is no message with a traceback, which Python prints where no logging is set up.
        logging.getLogger(Client.__module__.partition(".")[0]).addHandler(logging.NullHandler())
        transport = self._transport()
        self._opening = asyncio.create_task(self._open(transport))
        try:
            self._own_names = self._offered((await self._opening).tools)
        except _NotConnected as why:
            message = f"{self._name}: the MCP server {self._where} cannot be used: {why}"
            raise SettingsError(message, hint=why.last_words or None) from None
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._opening.cancel()
        await asyncio.wait([self._opening])
        if not self._opening.cancelled() and self._opening.exception() is None:
            await self._opening.result().close()

    async def call(self, call: Call) -> ToolResult:
        """What the server answers; an error, nonsense and no answer in time are answers too.

        Raises:
            ToolFailure: the server is gone, or refuses every request.

        """
        from mcp import MCPError

        name = self._own_names[call.name]
        for _ in range(2):
            connection = await self._connected()
            try:
                async with asyncio.timeout(self._seconds):
                    result = await connection.client.call_tool(name, dict(call.arguments))
                return self._answer(result)
            except TimeoutError:
                await connection.probe(min(self._seconds, _PROBE_SECONDS))
                return failed(f"TimeoutError: {call.name} did not answer within {self._seconds:g} s")
            except MCPError as error:
                if connection.is_refused(error):
                    raise _gone("refuses", f"HTTP status {connection.transport.status}") from error
                if not connection.is_lost(error):
                    return failed(self._without_secrets(_words(error)))
            except (RuntimeError, ValueError) as error:
                # The library says so of what is not as the protocol or the tool's own schema declares it.
                if not connection.gone:
                    return failed(f"{call.name} gave no usable answer: {self._without_secrets(str(error))}")
        raise _gone("ended", f"twice during {call.name}\n{self._without_secrets(connection.transport.last_words)}")

    async def close(self) -> None:
        """Nothing: the connection is the run's."""

    async def _connected(self) -> Connection:
        """The connection, a new one if it broke; whoever needs one at the same moment waits for the same.

        Raises:
            ToolFailure: there is none to be had.

        """
        if self._opening.done() and (self._opening.exception() or self._opening.result().gone):
            self._opening = asyncio.create_task(self._open(self._transport(), self._opening))
        try:
            return await asyncio.shield(self._opening)
        except _NotConnected as why:
            raise _gone("lost", f"{why}\n{why.last_words}") from why

    def _transport(self) -> Transport:
        if self._url:
            headers = {name: self._filled(value) for name, value in self._headers.items()}
            # The library would say so only when it sends them, and with the value.
            for name in (name for name, value in headers.items() if not (value.isascii() and value.isprintable())):
                message = f"{self._name}: the header {name} holds a character that no header can hold"
                raise SettingsError(message, hint="Line ends and letters other than those of ASCII are none.")
            return HttpTransport(self._filled(self._url), headers, self._seconds)
        return ProcessTransport(self._command, {name: self._filled(value) for name, value in self._env.items()})

    async def _open(self, transport: Transport, previous: asyncio.Task[Connection] | None = None) -> Connection:
        if previous and previous.exception() is None:
            await previous.result().close()
        connection = Connection(transport)
        try:
            async with asyncio.timeout(self._starting):
                await connection.open()
        except Exception as error:  # noqa: BLE001 (the library lets through whatever its parts raise)
            await connection.close()
            why = f"it answers with HTTP status {transport.status}" if transport.status else _words(error)
            late = f"no answer within {self._starting:g} s"
            last_words = self._without_secrets(transport.last_words)
            raise _NotConnected(self._without_secrets(why) or late, last_words) from None
        except BaseException:
            await connection.close()
            raise
        return connection

    def _offered(self, tools: list[str]) -> dict[str, str]:
        """The server's own names by what the policy calls them."""
        for name in (*(self._only or ()), *self._rename):
            if name not in tools:
                kind = f"tool of the MCP server {self._where}"
                raise UnknownName(kind, name, tools)
        wanted = [name for name in tools if self._only is None or name in self._only]
        own = {self._rename.get(name, name): name for name in wanted}
        if len(own) < len(wanted):
            message = f"{self._name}: two tools of the MCP server {self._where} would have the same name"
            raise SettingsError(message, hint=f"It offers {', '.join(wanted)}; change `only` or `rename`.")
        if not own:
            message = f"{self._name}: the MCP server {self._where} offers no tools"
            raise SettingsError(message)
        return own

    def _filled(self, value: str) -> str:
        for name in _VARIABLE.findall(value):
            if name not in os.environ:
                message = f"{self._name}: the environment variable {name} is not set"
                raise SettingsError(message, hint=f"It is named in the settings of the MCP server as ${{{name}}}.")
            self._hidden[os.environ[name].strip()] = f"${{{name}}}"
        return _VARIABLE.sub(lambda match: os.environ[match[1]].strip(), value)

    def _without_secrets(self, text: str) -> str:
        for value in sorted(self._hidden, key=len, reverse=True):
            if len(value) >= _LEAST_SECRET:
                text = text.replace(value, self._hidden[value])
        return text

    def _answer(self, result: "CallToolResult") -> ToolResult:
        texts: list[str] = []
        images: list[bytes] = []
        for block in result.content:
            found = _content(block)
            if isinstance(found, str):
                texts.append(found)
            else:
                images.append(found)
        text = "\n".join(texts)
        if not text and result.structured_content is not None:
            text = json.dumps(result.structured_content, ensure_ascii=False)
        text = self._without_secrets(text)
        if result.is_error and ErrorMarkers().judge("", text) == "executed_ok":
            text = f"Error: {text}"
        return ToolResult(text, tuple(images), error=result.is_error)


class _NotConnected(Exception):
    """A server that cannot be started or reached, and the end of what it wrote to its standard error."""

    def __init__(self, why: str, last_words: str) -> None:
        super().__init__(why)
        self.last_words = last_words


def _gone(what: str, detail: str) -> ToolFailure:
    return ToolFailure(f"MCP server {what}", detail.strip())


def _content(block: "ContentBlock") -> str | bytes:
    """A text, or an encoded image."""
    match block.type:
        case "text":
            return block.text
        case "image":
            return _image(block.data, block.mime_type)
        case "audio":
            return f"[audio: {block.mime_type}]"
        case "resource_link":
            return f"[{block.name}: {block.uri}]"
        case "resource":
            resource = block.resource
            text, mime = getattr(resource, "text", None), resource.mime_type or ""
            if text is None and mime.startswith("image/"):
                return _image(getattr(resource, "blob", ""), mime)
            return text if isinstance(text, str) else f"[{resource.uri}: {mime or 'binary'}]"


def _image(data: str, mime: str) -> str | bytes:
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        return f"[{mime} that cannot be decoded: {error}]"


def _words(error: BaseException) -> str:
    """What an error says, or the first of several; nothing where it only says that time is over."""
    from mcp import MCPError
    from mcp_types import INVALID_PARAMS

    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, TimeoutError):
        return ""
    if isinstance(error, MCPError) and error.code == INVALID_PARAMS:
        return f"invalid arguments: {error.message}"
    return str(error) or type(error).__name__
