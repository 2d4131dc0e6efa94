"""A stand-in for a vLLM server: the answers of version 0.32 to the requests that gapscope makes, faults included.

`Double` answers one request; it serves `httpx.MockTransport` as it is, and `Served` puts it behind a real socket, for
what only a socket can do: break off, be slow, be down. Its tokens are the characters of ASCII. Token t after token s
has the probability 1 / (2 + (s + t) % 7), and all others share the rest evenly, so that numbers follow by hand.
"""

import asyncio
import json
import math
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Self

import httpx

MODEL = "tiny"
CONTEXT = 200
VOCABULARY = 256
MOST_LOGPROBS = 20
BEGIN = 1
"""The token that the chat template writes before a message; others are the code points of ASCII."""

Body = dict[str, Any]
Fault = Callable[[httpx.Request, Body], httpx.Response | None]


def probability(before: int, token: int) -> float:
    """What the model gives `token` after `before`."""
    return 1 / (2 + (before + token) % 7)


def expected(ids: list[int]) -> list[float | None]:
    """The log-probs of a prompt."""
    return [None] + [math.log(probability(a, b)) for a, b in pairwise(ids)]


def encoded(text: str) -> list[int]:
    return [ord(character) for character in text]


def written(message: Body) -> str:
    """A message as the chat template writes it behind its BEGIN."""
    # /tokenize of a real server drops `reasoning_content`.
    thought = f"<think>{message['reasoning']}</think>" if "reasoning" in message else ""
    functions = [call["function"] for call in message.get("tool_calls", ()) if call["id"]]
    calls = (json.dumps(each | {"arguments": json.loads(each["arguments"])}) for each in functions)
    return thought + message["content"] + "".join(f"<tool_call>{call}</tool_call>" for call in calls)


def error(status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> httpx.Response:
    """An error in vLLM's shape."""
    return httpx.Response(status, json={"error": {"message": message, "type": kind, "param": param, "code": status}})


class Double:
    """Answers requests; `fault` may answer in its place, `key` is demanded where it is given."""

    def __init__(self, fault: Fault | None = None, *, key: str | None = None, context: int | None = CONTEXT) -> None:
        self.fault = fault
        self.key = key
        self.context = context
        self.requests: list[tuple[str, Body]] = []
        self.keys: set[str | None] = set()

    @property
    def prompts(self) -> list[list[int]]:
        """The prompts that were scored, in the order in which they came."""
        return [body["prompt"] for path, body in self.requests if path == "/v1/completions"]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else {}
        self.requests.append((request.url.path, body))
        self.keys.add(request.headers.get("Authorization"))
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return httpx.Response(401, json={"error": "Unauthorized"})
        if self.fault is not None and (answer := self.fault(request, body)) is not None:
            return answer
        routes = {"/v1/models": self.models, "/tokenize": self.tokenize, "/v1/completions": self.complete}
        route = routes.get(request.url.path)
        return route(body) if route else httpx.Response(404, json={"detail": "Not Found"})

    def models(self, _: Body) -> httpx.Response:
        card = {"id": MODEL, "object": "model", "owned_by": "vllm", "max_model_len": self.context}
        return httpx.Response(200, json={"object": "list", "data": [card]})

    def tokenize(self, body: Body) -> httpx.Response:
        if "messages" in body:
            tokens = [token for each in body["messages"] for token in [BEGIN, *encoded(written(each))]]
            tokens += [BEGIN] * body["add_generation_prompt"]
        else:
            tokens = encoded(body["prompt"])
        return httpx.Response(200, json={"count": len(tokens), "max_model_len": self.context, "tokens": tokens})

    def complete(self, body: Body) -> httpx.Response:
        ids, wanted = body["prompt"], body["prompt_logprobs"]
        if body["model"] != MODEL:
            return error(404, f"The model `{body['model']}` does not exist.", "NotFoundError", "model")
        if wanted == -1 or wanted > MOST_LOGPROBS:
            asked = VOCABULARY if wanted == -1 else wanted
            said = f"Requested prompt logprobs of {asked}, which is greater than max allowed: {MOST_LOGPROBS}"
            return error(400, said, param="prompt_logprobs")
        if max(ids) >= VOCABULARY:
            return error(400, f"Token id {max(ids)} is out of vocabulary")
        context = self.context or CONTEXT
        if len(ids) > context:
            said = f"This model's maximum context length is {context} tokens. However, your prompt contains {len(ids)}"
            return error(400, said, param="input_tokens")
        if len(ids) == context:
            return error(400, "max_tokens must be at least 1, got 0.", param="max_tokens")
        choice = {
            "index": 0,
            "text": "!",
            "finish_reason": "length",
            "token_ids": [33],
            "prompt_logprobs": [None, *(self.entry(a, b, wanted) for a, b in pairwise(ids))],
            "prompt_token_ids": ids if body.get("return_token_ids") else None,
        }
        return httpx.Response(200, json={"object": "text_completion", "model": MODEL, "choices": [choice]})

    def entry(self, before: int, token: int, wanted: int) -> dict[str, Body]:
        """The token itself, which is the likeliest, and as many of the others as are wanted."""
        own = {"logprob": math.log(probability(before, token)), "rank": 1, "decoded_token": chr(token)}
        rest = (1 - probability(before, token)) / (VOCABULARY - 1)
        others = {
            str((token + rank) % VOCABULARY): {"logprob": math.log(rest), "rank": rank + 1, "decoded_token": "?"}
            for rank in range(1, wanted)
        }
        return {str(token): own} | others


class Served:
    """A double behind a socket of this machine, in a thread; `delay` is in seconds, per request.

    `breaking` says of a request, by its number from 1, whether the connection is closed instead of an answer.
    """

    def __init__(
        self, double: Double, *, delay: float = 0.0, breaking: Callable[[int], bool] = lambda *_: False
    ) -> None:
        self.double = double
        self.delay = delay
        self.breaking = breaking
        self.url = ""
        self.most_in_flight = 0
        self._in_flight = 0
        self._number = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _serve(self) -> None:
        self._loop.run_until_complete(self._listen())
        self._loop.close()

    async def _listen(self) -> None:
        self._stop = asyncio.Event()
        connections: set[asyncio.Task[None]] = set()

        def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._talk(reader, writer))
            connections.add(task)
            task.add_done_callback(connections.discard)

        server = await asyncio.start_server(connect, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

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
                await asyncio.sleep(self.delay)
                self._in_flight -= 1
                answer = self.double(httpx.Request(method, self.url + path, headers=headers, content=content))
                writer.write(
                    f"HTTP/1.1 {answer.status_code} .\r\nContent-Length: {len(answer.content)}\r\n\r\n".encode()
                    + answer.content
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()
