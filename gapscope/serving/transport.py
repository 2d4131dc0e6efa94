"""Requests to a model server over HTTP, and what is done when it does not answer.

A request is tried again where that can help, and otherwise fails in one of two ways: `RequestRefused` is about this
one request, and others may go on; `EndpointError` is about the server, and nothing goes on.
"""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from gapscope.errors import EndpointError, SettingsError
from gapscope.failures import Failure
from gapscope.rollouts import Json
from gapscope.serving.credentials import Credentials
from gapscope.serving.throttle import Throttle

if TYPE_CHECKING:
    import httpx

TOO_LONG = "longer than the model's context"
UNKNOWN_ID = "token ids beyond the model's vocabulary"
OTHER_TOKENS = "the server answered about other tokens than those sent"
IMPOSSIBLE = "the server gave a log-prob that is none"
TOO_MANY = "more alternatives than the server lists"
REFUSED = "refused by the server"
NO_TEXT = "half a character, which cannot be sent"
NO_ANSWER = "no answer, while other requests got theirs"
MISSING = "the server has no such route, or has it closed"

FIRST_WAITS = (0.5, 1.0, 2.0)
"""Seconds before each new try of the first request: a wrong address should be known soon."""
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0, 15.0)
"""The same in the middle of the work: a server that is started again takes about a minute."""

_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_NOT_THERE = frozenset({403, 404, 405, 501})
_KEYED = frozenset({"/v1/models", "/v1/completions", "/v1/chat/completions"})
"""What no server closes but to those without its key."""
_LONGEST_WAIT = 60.0
_MOST_LATE = 2
_CONNECT_SECONDS = 10.0
_IDLE_SECONDS = 2.0
"""After which a connection is not used again: the server closes it at five, and may do so as we write to it."""
_MOST_SAID = 300
_MOST_READ = 4_000
"""Characters of an error that are shown, and that are kept."""

T = TypeVar("T")


class RequestRefused(Failure):
    """One request that cannot be answered; `detail` is the server's words."""


class RouteMissing(RequestRefused):
    """The server does not offer what was asked for, to anybody."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(MISSING, detail)
        self.status = status


class _Detail(msgspec.Struct):
    """One of the faults that a server finds in a body, and where."""

    loc: list[str | int] = []
    msg: str = ""

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.loc))}: {self.msg}"


class _Fault(msgspec.Struct):
    message: str = ""
    param: str | None = None


class _FaultBody(msgspec.Struct):
    error: _Fault | str | None = None
    message: str | None = None
    detail: list[_Detail] | str | None = None


class _Failure(NamedTuple):
    """A try that may succeed later, after how many seconds if the server says so; `late` where time was up."""

    what: str
    status: int | None = None
    wait: float = 0.0
    late: bool = False


_FAULT = msgspec.json.Decoder(_FaultBody)


class Transport:
    """The way to one server. `url` is as the server printed it, with or without `/v1`, and keeps no password.

    `answered` counts the requests that were. See `gapscope.serving.vllm.Endpoint` for the arguments.

    Raises:
        SettingsError: `url` is no http address, or the key cannot be read or sent.

    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        key_file: Path | None,
        concurrency: int | None,
        transport: "httpx.AsyncBaseTransport | None",
        pause: Callable[[float], Awaitable[object]],
    ) -> None:
        import httpx

        try:
            address = httpx.URL(url.rstrip("/").removesuffix("/v1").rstrip("/"))
        except httpx.InvalidURL:
            address = httpx.URL("")
        if address.scheme not in {"http", "https"} or not address.host:
            shown = url.rpartition("@")[2]
            message = f"--endpoint {shown!r:.200} is no http address"
            raise SettingsError(message, hint="Give what the server printed, such as http://localhost:8000.")
        if concurrency is not None and concurrency < 1:
            message = f"{concurrency} requests in flight are none"
            raise SettingsError(message, hint="It takes at least one.")
        self.url = str(address.copy_with(userinfo=b""))
        self.answered = 0
        self.throttle = None if concurrency is None else Throttle(concurrency, pause=pause)
        self._timeout = timeout
        self._pause = pause
        self._credentials = Credentials(key_file, address.username, address.password)
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        headers |= self._credentials.headers
        # A client would put the same headers and address together for each request, which takes half of all its time.
        # The password is in the headers alone: httpx logs addresses.
        self._address = address.copy_with(userinfo=b"")
        self._headers = httpx.Headers(headers | {"User-Agent": "gapscope"})
        self._extensions = {"timeout": httpx.Timeout(None, connect=_CONNECT_SECONDS).as_dict()}
        self._urls: dict[str, httpx.URL] = {}
        # At an http address there is nothing to verify, and certificates are slow to load.
        verify = httpx.create_ssl_context() if address.scheme == "https" else False
        self._new_client = partial(
            httpx.AsyncClient,
            limits=httpx.Limits(max_connections=1, keepalive_expiry=_IDLE_SECONDS),
            verify=verify,
            transport=transport,
        )
        # One client for each request in flight: a pool that they share looks at every connection for every request,
        # which costs more than all else that we do.
        self._clients: list[httpx.AsyncClient] = []
        self._idle: list[httpx.AsyncClient] = []

    async def close(self) -> None:
        """Close every connection."""
        for client in self._clients:
            await client.aclose()

    async def ask(
        self,
        method: str,
        path: str,
        body: Json,
        decoder: "msgspec.json.Decoder[T]",
        *,
        waits: tuple[float, ...] = WAITS,
        optional: bool = False,
        probe: bool = False,
    ) -> T:
        """Send a request until it is answered or there is no hope.

        A route that is `optional` may be closed to everybody. To a `probe`, 500 is an answer too: no.

        Raises:
            EndpointError: the server is not there, lets us not in, or is no model server.
            RouteMissing: the server has no such route.
            RequestRefused: it does not answer this request.

        """
        try:
            content = None if body is None else msgspec.json.encode(body)
        except UnicodeEncodeError as error:
            raise RequestRefused(NO_TEXT, f"{error.object[error.start : error.end]!a}") from None
        tries = late = 0
        answered = before = self.answered
        while True:
            before, answered = answered, self.answered
            response = await self._try(method, path, content, probe=probe)
            if not isinstance(response, _Failure):
                return self._read(response, path, decoder, optional=optional)
            if probe and response.status == 500:
                raise RequestRefused(REFUSED, response.what)
            late += response.late
            if tries == len(waits) or late == _MOST_LATE:
                break
            # So that requests that failed together do not come back together.
            spread = waits[tries] * (0.75 + random.random() / 2)  # noqa: S311 (it keeps no secret)
            await self._pause(max(spread, response.wait))
            tries += 1
        own = response.late or response.status == 500
        if self.answered > before or (own and await self._is_well()):
            raise RequestRefused(NO_ANSWER, response.what)
        message = f"{self.url} {response.what}" + (f", {tries + 1} times in a row" if tries else "")
        raise EndpointError(message, hint="Check the address, and that the server runs; what is done is kept.")

    async def _is_well(self) -> bool:
        """Whether the server says so: then it was the request that it could not answer, and others may go on."""
        response = await self._send("GET", "/health", None)
        return not isinstance(response, _Failure) and response.status_code == 200

    async def _try(self, method: str, path: str, content: bytes | None, *, probe: bool) -> "httpx.Response | _Failure":
        if self.throttle is None:
            return await self._send(method, path, content)
        ticket = await self.throttle.enter()
        well = None
        try:
            response = await self._send(method, path, content)
            if not isinstance(response, _Failure):
                well = True
            elif response.late or response.status is not None:
                well = None if probe else False
                if response.wait:
                    self.throttle.hold(response.wait)
        finally:
            self.throttle.leave(ticket, well=well)
        return response

    async def _send(self, method: str, path: str, content: bytes | None) -> "httpx.Response | _Failure":
        import httpx

        if not self._idle:
            self._idle.append(self._new_client())
            self._clients.append(self._idle[-1])
        if path not in self._urls:
            raw = self._address.raw_path.rstrip(b"/") + path.encode("ascii")
            self._urls[path] = self._address.copy_with(raw_path=raw)
        request = httpx.Request(
            method, self._urls[path], headers=self._headers, content=content, extensions=self._extensions
        )
        client = self._idle.pop()
        try:
            async with asyncio.timeout(self._timeout):
                response = await client.send(request)
        except TimeoutError:
            return _Failure(f"gives no answer within {self._timeout:g} s", late=True)
        except httpx.ConnectError as error:
            return _Failure(f"cannot be reached ({self._credentials.hidden(str(error)) or 'no connection'})")
        except httpx.TransportError as error:
            return _Failure(f"breaks off the connection ({type(error).__name__})")
        finally:
            self._idle.append(client)
        if response.status_code not in _TRY_AGAIN:
            return response
        what = f"answers HTTP {response.status_code}{_said(self._fault(response.content))}"
        return _Failure(what, response.status_code, _seconds(response.headers.get("Retry-After")))

    def _read(self, response: "httpx.Response", path: str, decoder: "msgspec.json.Decoder[T]", *, optional: bool) -> T:
        """The answer, or the end of this request or of all."""
        if response.status_code != 200:
            raise self._refusal(response, path, closed=optional and path not in _KEYED)
        try:
            answer = _decoded(decoder, response.content)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if self.answered:
                raise RequestRefused(OTHER_TOKENS, str(error)) from error
            message = f"{self.url}{path} answers something else than a vLLM server: {error}"
            raise EndpointError(
                message, hint="Give the address of the server, such as http://localhost:8000."
            ) from None
        self.answered += 1
        return answer

    def _refusal(self, response: "httpx.Response", path: str, *, closed: bool) -> RequestRefused | EndpointError:
        """What a status other than 200 means; `closed` is what 403 does, and not that we have the wrong key."""
        status, fault = response.status_code, self._fault(response.content)
        said = _said(fault)
        if status == 401 or (status == 403 and not closed):
            message = f"{self.url} does not let us in (HTTP {status}){said}"
            return EndpointError(message, hint=self._credentials.hint)
        if status in _NOT_THERE:
            return RouteMissing(status, fault.message[:_MOST_SAID])
        if status in {400, 413, 422}:
            return _refused(fault)
        moved = self._credentials.hidden(response.headers.get("Location", ""))[:_MOST_SAID]
        to = f", and sends us on to {moved}" if moved else ""
        message = f"{self.url}{path} answers HTTP {status}{to}{said}"
        return EndpointError(message, hint="Give the address of a vLLM server, such as http://localhost:8000.")

    def _fault(self, content: bytes) -> _Fault:
        """What an error says, in the shapes that vLLM and gateways give it, without what we keep to ourselves."""
        fault = _fault(content)
        return _Fault(self._credentials.hidden(fault.message)[:_MOST_READ], fault.param)


def _decoded(decoder: "msgspec.json.Decoder[T]", content: bytes) -> T:
    """An answer; NaN and infinities, which are no JSON and which some servers write, are missing numbers."""
    try:
        return decoder.decode(content)
    except msgspec.DecodeError:
        if b"NaN" not in content and b"Infinity" not in content:
            raise
        loose = json.loads(content, parse_constant=lambda _: None)
        return msgspec.convert(loose, decoder.type, str_keys=True)


def _fault(content: bytes) -> _Fault:
    try:
        body = _FAULT.decode(content)
    except msgspec.DecodeError:
        return _Fault(content.decode("utf-8", "replace"))
    if isinstance(body.error, _Fault):
        return body.error
    detail = "; ".join(map(str, body.detail)) if isinstance(body.detail, list) else body.detail
    return _Fault(body.error or body.message or detail or "")


def _said(fault: _Fault) -> str:
    return f": {fault.message[:_MOST_SAID]}" if fault.message else ""


def _refused(fault: _Fault) -> RequestRefused:
    said = fault.message
    if fault.param == "input_tokens" or any(
        words in said for words in ("maximum context length", "maximum model length", "max_tokens must be at least 1")
    ):
        return RequestRefused(TOO_LONG, said)
    if "out of vocabulary" in said:
        return RequestRefused(UNKNOWN_ID, said)
    if fault.param == "prompt_logprobs":
        return RequestRefused(TOO_MANY, said)
    return RequestRefused(REFUSED, said)


def _seconds(retry_after: str | None) -> float:
    """How long `Retry-After` asks to wait, which is a number of seconds or a date; anything else is passed over."""
    if retry_after is None:
        return 0.0
    if retry_after.isdecimal():
        wait = float(retry_after)
    else:
        try:
            wait = (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return min(max(wait, 0.0), _LONGEST_WAIT)
