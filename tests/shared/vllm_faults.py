"""What can go wrong with a vLLM server, as faults for the double; the first functions say when, the others what.

Double(on("/v1/completions", first(3, busy(503))))
Double(either(every(10, reset), every(7, aborted())))
"""

import json
from collections.abc import Callable, Container
from typing import Any

import httpx
from vllm_double import Body, Fault, Twist, error

Change = Callable[[Body], None]


def on(path: str, fault: Fault) -> Fault:
    """The fault on one route alone."""
    return lambda request, body: fault(request, body) if request.url.path == path else None


def where(chosen: Callable[[Body], bool], fault: Fault) -> Fault:
    """The fault for the requests whose body is so."""
    return lambda request, body: fault(request, body) if chosen(body) else None


def during(numbers: Container[int], fault: Fault) -> Fault:
    """The fault for requests by their number, from 1, of those that come to it: a range is an outage."""
    met = 0

    def sometimes(request: httpx.Request, body: Body) -> httpx.Response | Twist | None:
        nonlocal met
        met += 1
        return fault(request, body) if met in numbers else None

    return sometimes


def first(times: int, fault: Fault) -> Fault:
    """A fault that goes away after so many times."""
    return during(range(1, times + 1), fault)


def every(number: int, fault: Fault) -> Fault:
    """The fault for each request whose number divides by this one."""
    return during(_Multiples(number), fault)


class _Multiples(Container[int]):
    def __init__(self, number: int) -> None:
        self.number = number

    def __contains__(self, other: object) -> bool:
        return isinstance(other, int) and other % self.number == 0


def either(*faults: Fault) -> Fault:
    """The first of these faults that has something against a request; each of them sees every request before it."""

    def one(request: httpx.Request, body: Body) -> httpx.Response | Twist | None:
        return next((met for fault in faults if (met := fault(request, body)) is not None), None)

    return one


def busy(status: int = 429, *, retry_after: str | None = None, message: str = "try later") -> Fault:
    """An error that may be over soon: 429, 500, 502, 503, 504."""
    headers = {} if retry_after is None else {"Retry-After": retry_after}

    def fault(request: httpx.Request, body: Body) -> httpx.Response:
        kind = "RateLimitError" if status == 429 else "InternalServerError"
        answer = error(status, message, kind)
        answer.headers.update(headers)
        return answer

    return fault


def denied(request: httpx.Request, body: Body) -> httpx.Response:
    """401, as vLLM says it."""
    return httpx.Response(401, json={"error": "Unauthorized"})


def page(status: int = 200, *, html: str = "<html><h1>It works!</h1></html>") -> Fault:
    """Some other server's page."""
    return lambda *_: httpx.Response(status, html=html)


def reset(request: httpx.Request, body: Body) -> None:
    """A connection that is reset in the middle of an answer."""
    raise httpx.ReadError("", request=request)


def cut_off(request: httpx.Request, body: Body) -> None:
    """A connection that is closed in the middle of an answer."""
    said = "peer closed connection without sending complete message body"
    raise httpx.RemoteProtocolError(said, request=request)


def unreachable(request: httpx.Request, body: Body) -> None:
    """A server that is down."""
    said = "All connection attempts failed"
    raise httpx.ConnectError(said, request=request)


def hanging(request: httpx.Request, body: Body) -> None:
    """A server that never answers; without a socket the time is over at once."""
    raise httpx.ReadTimeout("", request=request)


def twisted(twist: Twist) -> Fault:
    """A fault that is made of the good answer."""
    return lambda *_: twist


def slow(seconds: float) -> Fault:
    """An answer that takes its time: `Served` and `Double.paced` wait."""

    def twist(answer: httpx.Response) -> httpx.Response:
        answer.extensions["seconds"] = seconds
        return answer

    return twisted(twist)


def truncated(share: float = 0.5) -> Fault:
    """The beginning of the JSON, as if it were all."""

    def twist(answer: httpx.Response) -> httpx.Response:
        content = answer.content[: int(len(answer.content) * share)]
        return httpx.Response(answer.status_code, content=content, headers={"Content-Type": "application/json"})

    return twisted(twist)


def changed(change: Change) -> Fault:
    """A good answer whose JSON is changed in place; NaN can be written, as some servers do."""

    def twist(answer: httpx.Response) -> httpx.Response:
        if answer.status_code != 200:
            return answer
        body = answer.json()
        change(body)
        headers = {"Content-Type": "application/json"}
        return httpx.Response(200, content=json.dumps(body).encode(), headers=headers)

    return twisted(twist)


def aborted(tokens: int = 1) -> Fault:
    """A turn that the server gave up after so many tokens: 200, partial text, and no sample."""

    def change(body: Body) -> None:
        for choice in body.get("choices", ()):
            choice |= {"finish_reason": "abort", "stop_reason": None}
            if choice.get("token_ids") is not None:
                choice["token_ids"] = choice["token_ids"][:tokens]
            if "text" in choice:
                choice["text"] = choice["text"][:tokens]
            if "message" in choice:
                choice["message"]["content"] = (choice["message"]["content"] or "")[:tokens]
            entries = choice.get("logprobs")
            for name, listed in (entries or {}).items():
                entries[name] = listed[:tokens]

    return changed(change)


def finishing(reason: str | None) -> Fault:
    """Another `finish_reason` than the true one."""
    return _of_choices(lambda choice: choice.update(finish_reason=reason))


def other_tokens(token: int = 0) -> Fault:
    """An answer about a prompt whose last token is another."""

    def change(body: Body) -> None:
        for holder in (body, *body.get("choices", ())):
            if holder.get("prompt_token_ids"):
                holder["prompt_token_ids"][-1] = token

    return changed(change)


def without(*names: str) -> Fault:
    """An answer that lacks these, at its top and in its choices, as older servers do."""

    def change(body: Body) -> None:
        for holder in (body, *body.get("choices", ())):
            for name in names:
                holder.pop(name, None)

    return changed(change)


def logprob(value: Any, place: int = 0) -> Fault:
    """One log-prob of each choice that is another: NaN, -9999.0 (vLLM's minus infinity), 0.5, None, a text."""

    def change(choice: Body) -> None:
        entries = choice.get("logprobs") or {}
        if entries.get("token_logprobs"):
            entries["token_logprobs"][place] = value
        if entries.get("content"):
            entries["content"][place]["logprob"] = value

    return _of_choices(change)


def fewer_logprobs() -> Fault:
    """One log-prob less than there are tokens."""

    def change(choice: Body) -> None:
        entries = choice.get("logprobs") or {}
        for name, listed in entries.items():
            entries[name] = listed[:-1]

    return _of_choices(change)


def sampled_ids(change: Callable[[list[int]], list[int]]) -> Fault:
    """Other ids than those that were sampled, under the same text."""

    def apply(choice: Body) -> None:
        if choice.get("token_ids") is not None:
            choice["token_ids"] = change(choice["token_ids"])

    return _of_choices(apply)


def fewer_choices() -> Fault:
    """An answer that lacks its last choice."""
    return changed(lambda body: body.update(choices=body.get("choices", [])[:-1]))


def _of_choices(change: Callable[[Body], None]) -> Fault:
    def apply(body: Body) -> None:
        for choice in body.get("choices", ()):
            change(choice)

    return changed(apply)
