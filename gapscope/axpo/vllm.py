"""A vLLM server spoken to over HTTP: what it says about tokens, and what is done when it does not answer.

A request is tried again where that can help, and otherwise fails in one of two ways: `RequestRefused` is about this
one request, and others may go on; `EndpointError` is about the server, and nothing goes on.
"""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

import msgspec

from gapscope.errors import EndpointError, SettingsError, UnknownName
from gapscope.rollouts import Json

if TYPE_CHECKING:
    import httpx

KEY_VARIABLES = ("VLLM_API_KEY", "OPENAI_API_KEY")
"""Environment variables that may hold the server's key; the first that is set is sent, and never shown."""

TOO_LONG = "longer than the model's context"
UNKNOWN_ID = "token ids beyond the model's vocabulary"
OTHER_TOKENS = "the server answered about other tokens than those sent"
IMPOSSIBLE = "the server gave a log-prob that is none"
TOO_MANY = "more alternatives than the server lists"
REFUSED = "refused by the server"
NO_ANSWER = "no answer, while other requests got theirs"

FIRST_WAITS = (0.5, 1.0, 2.0)
"""Seconds before each new try of the first request: a wrong address should be known soon."""
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0, 15.0)
"""The same in the middle of the work: a server that is started again takes about a minute."""

_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT = 60.0
_MOST_LATE = 2
_CONNECT_SECONDS = 10.0
_IDLE_SECONDS = 2.0
"""After which a connection is not used again: the server closes it at five, and may do so as we write to it."""
_ROUNDING = 1e-6
_NO_CHANCE = -9999.0
"""What vLLM writes for minus infinity."""

T = TypeVar("T")


class RequestRefused(Exception):
    """One request that cannot be answered; `reason` is the same for all of its kind, `detail` the server's words."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class Candidate(msgspec.Struct, gc=False):
    """A token that could stand at a position: its log-prob there, and its rank from 1."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


class ModelCard(msgspec.Struct):
    """A model that the server has; `max_model_len` counts tokens, None where the server does not say."""

    id: str
    max_model_len: int | None = None


class PromptScore(NamedTuple):
    """What a server says about each token of a prompt, given those before it; nothing about the first.

    `strings` are the tokens as the server spells them. `alternatives` are the log-probs of the k likeliest tokens at
    each position, None unless they were asked for.
    """

    logprobs: list[float | None]
    strings: list[str]
    alternatives: list[list[float]] | None


class _Choice(msgspec.Struct):
    prompt_logprobs: list[dict[int, Candidate] | None] | None = None
    prompt_token_ids: list[int] | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]


class _Models(msgspec.Struct):
    data: list[ModelCard]


class _Tokenized(msgspec.Struct):
    tokens: list[int]


class _Fault(msgspec.Struct):
    message: str = ""
    param: str | None = None


class _FaultBody(msgspec.Struct):
    error: _Fault | str | None = None
    message: str | None = None
    detail: Json = None


class _Failure(NamedTuple):
    """A try that may succeed later: after how many seconds the server wants it, and whether time was up."""

    what: str
    wait: float = 0.0
    late: bool = False


_COMPLETION = msgspec.json.Decoder(_Completion)
_MODELS = msgspec.json.Decoder(_Models)
_TOKENIZED = msgspec.json.Decoder(_Tokenized)
_FAULT = msgspec.json.Decoder(_FaultBody)


class Endpoint:
    """One model of one server; use it as an asynchronous context manager.

    `url` is what the server printed, with or without `/v1`. `timeout` is in seconds, for one try of one request.
    The key is taken from the environment. `transport` and `pause` stand in for the network and the clock.

    Raises:
        SettingsError: `url` is no http address.

    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        timeout: float = 600.0,
        transport: "httpx.AsyncBaseTransport | None" = None,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        import httpx

        root = url.rstrip("/").removesuffix("/v1").rstrip("/")
        try:
            address = httpx.URL(root)
        except httpx.InvalidURL:
            address = httpx.URL("")
        if address.scheme not in {"http", "https"} or not address.host:
            message = f"--endpoint {url!r:.200} is no http address"
            raise SettingsError(message, hint="Give what the server printed, such as http://localhost:8000.")
        self.model = model
        self.url = str(address.copy_with(userinfo=b""))
        self.answered = 0
        self._timeout = timeout
        self._pause = pause
        key = next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), None)
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        # At an http address there is nothing to verify, and certificates are slow to load.
        verify = httpx.create_ssl_context() if address.scheme == "https" else False
        self._new_client = partial(
            httpx.AsyncClient,
            base_url=address,
            headers=headers | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=1, keepalive_expiry=_IDLE_SECONDS),
            verify=verify,
            transport=transport,
        )
        # One client for each request in flight: a pool that they share looks at every connection for every request,
        # which costs more than all else that we do.
        self._clients: list[httpx.AsyncClient] = []
        self._idle: list[httpx.AsyncClient] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            await client.aclose()

    async def card(self) -> ModelCard:
        """What the server says about the model; the first thing to ask.

        Raises:
            EndpointError: there is no such server, or it wants another key.
            UnknownName: the server has no such model.

        """
        models = (await self._ask("GET", "/v1/models", None, _MODELS, waits=FIRST_WAITS)).data
        card = next((model for model in models if model.id == self.model), None)
        if card is None:
            raise UnknownName("model", self.model, [model.id for model in models])
        return card

    async def score(self, ids: Sequence[int], *, top_k: int = 0) -> PromptScore:
        """The log-prob that the model gives each of these tokens, given those before it.

        Raises:
            EndpointError: the server cannot do this, or is not there any more.
            RequestRefused: it cannot be done for these tokens.

        """
        body = {
            "model": self.model,
            "prompt": ids,
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": top_k,
            "return_token_ids": True,
        }
        try:
            choices = (await self._ask("POST", "/v1/completions", body, _COMPLETION)).choices
        except RequestRefused as refusal:
            if refusal.reason != TOO_MANY:
                raise
            message = f"{self.url} does not list so many tokens: {refusal.detail}"
            raise EndpointError(message, hint="Lower --top-k, or start it with a higher --max-logprobs.") from None
        if not choices or choices[0].prompt_logprobs is None:
            message = f"{self.url} gives no log-probs of prompts"
            raise EndpointError(message, hint="It takes a vLLM server, and no gateway that drops `prompt_logprobs`.")
        return _checked(choices[0], ids, top_k)

    async def tokenize(self, text: str | None = None, *, messages: Json = None, answered: bool = False) -> list[int]:
        """The ids of a text as it is, or of messages as the model's template writes them.

        That is up to where an answer begins, or if they are `answered` already to where the last one ends.

        Raises:
            EndpointError: the server has no /tokenize, or is not there any more.
            RequestRefused: the server cannot tokenise this.

        """
        asked: dict[str, Json] = {"model": self.model, "add_special_tokens": False}
        asked |= {"prompt": text} if messages is None else {"messages": messages, "add_generation_prompt": not answered}
        return (await self._ask("POST", "/tokenize", asked, _TOKENIZED)).tokens

    async def vocabulary_size(self) -> int | None:
        """How many tokens the model chooses from, None where the server does not say.

        A server says it in refusing to list them all, or by listing them.

        Raises:
            EndpointError: the server is not there any more.

        """
        body = {"model": self.model, "prompt": [0, 0], "max_tokens": 1, "temperature": 0, "prompt_logprobs": -1}
        try:
            choices = (await self._ask("POST", "/v1/completions", body, _COMPLETION)).choices
        except RequestRefused as refusal:
            words = refusal.detail.replace(",", " ").split()
            return next((int(word) for word in words if word.isdecimal()), None)
        listed = choices[0].prompt_logprobs if choices else None
        return len(listed[-1]) if listed and listed[-1] else None

    async def _ask(
        self,
        method: str,
        path: str,
        body: Json,
        decoder: "msgspec.json.Decoder[T]",
        *,
        waits: tuple[float, ...] = WAITS,
    ) -> T:
        """Send a request until it is answered or there is no hope."""
        content = None if body is None else msgspec.json.encode(body)
        tries = late = 0
        answered = before = self.answered
        while True:
            before, answered = answered, self.answered
            answer = await self._try(method, path, content, decoder)
            if not isinstance(answer, _Failure):
                return answer
            late += answer.late
            if tries == len(waits) or late == _MOST_LATE:
                break
            # So that requests that failed together do not come back together.
            spread = waits[tries] * (0.75 + random.random() / 2)  # noqa: S311 (it keeps no secret)
            await self._pause(max(spread, answer.wait))
            tries += 1
        if self.answered > before:
            raise RequestRefused(NO_ANSWER, answer.what)
        message = f"{self.url} {answer.what}" + (f", {tries + 1} times in a row" if tries else "")
        raise EndpointError(message, hint="Check the address, and that the server runs; what is done is kept.")

    async def _try(
        self, method: str, path: str, content: bytes | None, decoder: "msgspec.json.Decoder[T]"
    ) -> T | _Failure:
        import httpx

        if not self._idle:
            self._idle.append(self._new_client())
            self._clients.append(self._idle[-1])
        client = self._idle.pop()
        try:
            async with asyncio.timeout(self._timeout):
                response = await client.request(method, path, content=content)
        except TimeoutError:
            return _Failure(f"gives no answer within {self._timeout:g} s", late=True)
        except httpx.ConnectError as error:
            return _Failure(f"cannot be reached ({error or 'no connection'})")
        except httpx.TransportError as error:
            return _Failure(f"breaks off the connection ({type(error).__name__})")
        finally:
            self._idle.append(client)
        if response.status_code != httpx.codes.OK:
            return await self._failed(response, path)
        try:
            answer = decoder.decode(response.content)
        except msgspec.DecodeError as error:
            if self.answered:
                raise RequestRefused(OTHER_TOKENS, str(error)) from error
            message = f"{self.url}{path} answers something else than a vLLM server: {error}"
            raise EndpointError(
                message, hint="Give the address of the server, such as http://localhost:8000."
            ) from None
        self.answered += 1
        return answer

    async def _failed(self, response: "httpx.Response", path: str) -> _Failure:
        """A status other than 200: something to try again, or the end of this request or of all."""
        status, fault = response.status_code, _fault(response.content)
        said = f": {fault.message[:300]}" if fault.message else ""
        if status in _TRY_AGAIN:
            return _Failure(f"answers HTTP {status}{said}", _seconds(response.headers.get("Retry-After")))
        if status in {401, 403}:
            message = f"{self.url} does not let us in (HTTP {status}){said}"
            raise EndpointError(message, hint=f"Set the variable {' or '.join(KEY_VARIABLES)} to the server's key.")
        if status in {400, 413, 422}:
            raise _refusal(fault)
        if status == 404 and "model" in fault.message:
            await self.card()
        message = f"{self.url}{path} answers HTTP {status}{said}"
        raise EndpointError(message, hint="Give the address of a vLLM server, such as http://localhost:8000.")


def _checked(choice: _Choice, ids: Sequence[int], top_k: int) -> PromptScore:
    """The answer position by position, if it is about the tokens that were sent."""
    entries = choice.prompt_logprobs or []
    if len(entries) != len(ids):
        raise RequestRefused(OTHER_TOKENS, f"{len(entries):,} positions for {len(ids):,} tokens")
    if choice.prompt_token_ids is not None and choice.prompt_token_ids != list(ids):
        raise RequestRefused(OTHER_TOKENS, "other `prompt_token_ids`")
    try:
        own = [entry[token] for token, entry in zip(ids[1:], entries[1:], strict=True)]  # type: ignore[index]
    except (KeyError, TypeError):
        raise RequestRefused(OTHER_TOKENS, "a token without a log-prob") from None
    values = [candidate.logprob for candidate in own]
    if values and not _NO_CHANCE < min(values) <= max(values) <= 0.0:
        odd = next((value for value in values if not _NO_CHANCE < value <= _ROUNDING), 0.0)
        if odd:
            raise RequestRefused(IMPOSSIBLE, f"{odd}")
        values = [min(value, 0.0) for value in values]
    logprobs: list[float | None] = [None, *values]
    strings = ["", *(candidate.decoded_token or "" for candidate in own)]
    if not top_k:
        return PromptScore(logprobs, strings, None)
    likeliest = [
        [candidate.logprob for candidate in (entry or {}).values() if candidate.rank and candidate.rank <= top_k]
        for entry in entries
    ]
    return PromptScore(logprobs, strings, likeliest)


def _fault(content: bytes) -> _Fault:
    """What an error says, in the shapes that vLLM and gateways give it."""
    try:
        body = _FAULT.decode(content)
    except msgspec.DecodeError:
        return _Fault(content[:200].decode("utf-8", "replace"))
    if isinstance(body.error, _Fault):
        return body.error
    return _Fault(body.error or body.message or (body.detail if isinstance(body.detail, str) else ""))


def _refusal(fault: _Fault) -> RequestRefused:
    said = fault.message
    if fault.param == "input_tokens" or "maximum context length" in said or "max_tokens must be at least 1" in said:
        return RequestRefused(TOO_LONG, said)
    if "out of vocabulary" in said:
        return RequestRefused(UNKNOWN_ID, said)
    if fault.param == "prompt_logprobs":
        return RequestRefused(TOO_MANY, said)
    return RequestRefused(REFUSED, said)


def _seconds(retry_after: str | None) -> float:
    """What `Retry-After` asks for; a date there is no number and is passed over."""
    if retry_after is None or not retry_after.isdecimal():
        return 0.0
    return min(float(retry_after), _LONGEST_WAIT)
