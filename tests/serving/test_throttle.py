"""How many requests are in flight: fewer when the server turns some away, more again when it keeps up."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from vllm_double import MODEL, Body, Double, encoded, error, qwen_double
from vllm_tokens import QWEN

from gapscope.errors import SettingsError
from gapscope.serving.throttle import Throttle
from gapscope.serving.vllm import Endpoint


class Clock:
    """A clock that moves when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def pause(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


def throttled(most: int, steps: Callable[[Throttle, Clock], Awaitable[Any]]) -> Any:
    clock = Clock()

    async def run() -> Any:
        return await steps(Throttle(most, clock=clock, pause=clock.pause), clock)

    return asyncio.run(run())


async def entered(throttle: Throttle, n: int) -> list[int]:
    return [await throttle.enter() for _ in range(n)]


def test_a_failure_halves_the_limit_down_to_one() -> None:
    async def steps(throttle: Throttle, _: Clock) -> list[int]:
        limits = []
        for _round in range(5):
            throttle.leave(await throttle.enter(), well=False)
            limits.append(throttle.limit)
        return limits

    assert throttled(10, steps) == [5, 2, 1, 1, 1]


def test_failures_of_one_round_trip_halve_it_once() -> None:
    async def steps(throttle: Throttle, _: Clock) -> int:
        for ticket in await entered(throttle, 8):
            throttle.leave(ticket, well=False)
        return throttle.limit

    assert throttled(8, steps) == 4


def test_a_round_of_successes_adds_one_up_to_the_most() -> None:
    async def steps(throttle: Throttle, _: Clock) -> list[int]:
        throttle.leave(await throttle.enter(), well=False)
        limits = [throttle.limit]
        # From 2.0: 2.5, 2.9, 3.24…; each success adds 1/limit.
        for _success in range(9):
            throttle.leave(await throttle.enter(), well=True)
            limits.append(throttle.limit)
        return limits

    assert throttled(4, steps) == [2, 2, 2, 3, 3, 3, 4, 4, 4, 4]


def test_what_was_sent_before_the_last_halving_raises_nothing() -> None:
    async def steps(throttle: Throttle, _: Clock) -> int:
        first, *others = await entered(throttle, 4)
        throttle.leave(first, well=False)
        for ticket in others:
            throttle.leave(ticket, well=True)
        # Four successes from 2.0 would have made 3.
        return throttle.limit

    assert throttled(4, steps) == 2


def test_places_go_to_those_who_came_first_and_never_to_more_than_the_limit() -> None:
    async def steps(throttle: Throttle, _: Clock) -> tuple[list[int], int]:
        order: list[int] = []
        most = 0

        async def one(number: int) -> None:
            nonlocal most
            ticket = await throttle.enter()
            order.append(number)
            most = max(most, throttle.in_flight)
            await asyncio.sleep(0)
            throttle.leave(ticket, well=None)

        await asyncio.gather(*(one(number) for number in range(10)))
        return order, most

    assert throttled(3, steps) == (list(range(10)), 3)


@pytest.mark.parametrize("given", [False, True])
def test_a_place_is_not_lost_with_one_who_gives_up_waiting(*, given: bool) -> None:
    async def steps(throttle: Throttle, _: Clock) -> int:
        ticket = await throttle.enter()
        waiting = asyncio.ensure_future(throttle.enter())
        await asyncio.sleep(0)
        if given:
            # The place is his already, and he has not heard of it yet.
            throttle.leave(ticket, well=None)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()
        if not given:
            throttle.leave(ticket, well=None)
        async with asyncio.timeout(0.5):
            await throttle.enter()
        return throttle.in_flight

    assert throttled(1, steps) == 1


def test_a_quiet_that_the_server_asks_for_holds_for_everybody() -> None:
    async def steps(throttle: Throttle, clock: Clock) -> list[float]:
        ticket = await throttle.enter()
        throttle.hold(7.0)
        throttle.hold(3.0)
        throttle.leave(ticket, well=False)
        begun = []
        for _ in range(3):
            throttle.leave(await throttle.enter(), well=None)
            begun.append(clock.now)
        return begun

    assert throttled(4, steps) == [7.0, 7.0, 7.0]


def test_a_quiet_that_grows_while_it_is_waited_for_is_waited_for_to_its_end() -> None:
    async def steps(throttle: Throttle, clock: Clock) -> float:
        throttle.hold(2.0)
        waiting = asyncio.ensure_future(throttle.enter())
        await asyncio.sleep(0)
        throttle.hold(2.0)
        await waiting
        return clock.now

    assert throttled(4, steps) == 4.0


def test_one_who_gives_up_in_a_quiet_leaves_his_place() -> None:
    async def steps() -> int:
        throttle = Throttle(2)
        throttle.hold(60)
        waiting = asyncio.ensure_future(throttle.enter())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return throttle.in_flight

    assert asyncio.run(steps()) == 0


class Crowd:
    """A double that answers `most` requests at a time, and turns away the others."""

    def __init__(self, most: int, status: int = 429, headers: dict[str, str] | None = None) -> None:
        self.double = Double()
        self.most = most
        self.status = status
        self.headers = headers or {}
        self.in_flight = self.peak = self.refused = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            await asyncio.sleep(0)
            if self.in_flight <= self.most:
                return self.double(request)
            self.refused += 1
            answer = error(self.status, "too many")
            answer.headers.update(self.headers)
            return answer
        finally:
            self.in_flight -= 1


def crowded(crowd: Any, *, concurrency: int | None, n: int, pauses: list[float] | None = None) -> Endpoint:
    async def pause(seconds: float) -> None:
        if pauses is not None:
            pauses.append(seconds)
        await asyncio.sleep(0)

    async def run() -> Endpoint:
        transport = httpx.MockTransport(crowd)
        async with Endpoint(
            "http://host", MODEL, transport=transport, concurrency=concurrency, pause=pause, timeout=5
        ) as server:
            await asyncio.gather(*(server.score(encoded("Hi")) for _ in range(n)))
        return server

    return asyncio.run(run())


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_turns_requests_away_gets_fewer(status: int) -> None:
    crowd = Crowd(4, status)
    server = crowded(crowd, concurrency=16, n=200)
    assert server.answered == 200
    assert crowd.peak == 16
    assert server.limit is not None
    assert server.limit < 16
    # 200 requests, sixteen at a time, would be turned away for three in four tries.
    assert crowd.refused < 60


def test_without_a_concurrency_nothing_limits_requests() -> None:
    crowd = Crowd(99)
    server = crowded(crowd, concurrency=None, n=30)
    assert (server.limit, crowd.peak) == (None, 30)


def test_all_wait_for_what_the_server_told_one_of_them() -> None:
    refusals = iter([error(429, "later")])

    def once(request: httpx.Request) -> httpx.Response:
        if (answer := next(refusals, None)) is None:
            return Double()(request)
        answer.headers["Retry-After"] = "7"
        return answer

    pauses: list[float] = []
    crowded(once, concurrency=1, n=3, pauses=pauses)
    # The one that was told waits for its own next try; those behind it for the rest of the quiet.
    assert pauses[0] == 7.0
    assert len(pauses) > 1
    assert all(6.5 < pause <= 7.0 for pause in pauses)


def test_ids_that_no_tokenizer_knows_are_no_sign_of_a_server_that_cannot_keep_up() -> None:
    def fault(request: httpx.Request, body: Body) -> httpx.Response | None:
        beyond = request.url.path == "/detokenize" and max(body["tokens"]) >= QWEN.tokens.known
        return error(500, "piece id is out of range") if beyond else None

    async def run() -> int | None:
        transport = httpx.MockTransport(qwen_double(fault))
        async with Endpoint("http://host", MODEL, transport=transport, concurrency=8) as server:
            assert await server.tokenizer_size() == QWEN.tokens.known
        return server.limit

    assert asyncio.run(run()) == 8


def test_a_time_out_halves_the_limit() -> None:
    async def hangs(request: httpx.Request) -> httpx.Response:
        first, hangs.begun = not hasattr(hangs, "begun"), True  # type: ignore[attr-defined]
        await asyncio.sleep(1.0 if first else 0.0)
        return Double()(request)

    async def run() -> int | None:
        transport = httpx.MockTransport(hangs)
        async with Endpoint("http://host", MODEL, transport=transport, concurrency=8, timeout=0.05) as server:
            server._http._pause = lambda _: asyncio.sleep(0)
            await server.score(encoded("Hi"))
        return server.limit

    assert asyncio.run(run()) == 4


def test_a_request_that_meets_an_unknown_model_under_a_limit_of_one_does_not_wait_for_itself() -> None:
    def unknown(request: httpx.Request) -> httpx.Response:
        body: Body = {"data": [{"id": "other"}]}
        return httpx.Response(200, json=body) if request.method == "GET" else error(404, "The model does not exist.")

    async def run() -> None:
        async with Endpoint("http://host", MODEL, transport=httpx.MockTransport(unknown), concurrency=1) as server:
            async with asyncio.timeout(2):
                await server.score(encoded("Hi"))

    with pytest.raises(Exception, match="Known: other"):
        asyncio.run(run())


def test_no_request_in_flight_is_no_concurrency() -> None:
    with pytest.raises(SettingsError, match="0 requests"):
        Endpoint("http://host", MODEL, concurrency=0)
