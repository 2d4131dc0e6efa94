"""How many requests may be in flight: fewer where the server cannot keep up, more again once it can."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable


class Throttle:
    """Places for at most `most` requests, and for fewer once the server has turned some away.

    A request that fared ill halves the limit, one that fared well raises it by 1/limit, so that a round of successes
    raises it by one: additive increase, multiplicative decrease. Those that were sent before the last halving tell
    nothing about the limit after it, and leave it as it is. `clock` and `pause` are in seconds.
    """

    def __init__(
        self,
        most: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.in_flight = 0
        self._most = most
        self._allowed = float(most)
        self._halvings = 0
        self._quiet_until = 0.0
        self._clock = clock
        self._pause = pause
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        """How many may be in flight now, from 1 to `most`."""
        return int(self._allowed)

    async def enter(self) -> int:
        """Wait for a place, first come first served, and for the end of a quiet; the ticket is for `leave`."""
        if self._waiting or self.in_flight >= self.limit:
            await self._turn()
        else:
            self.in_flight += 1
        if self._quiet_until > 0.0:
            try:
                await self._quiet()
            except BaseException:
                self.leave(self._halvings, well=None)
                raise
        return self._halvings

    def leave(self, ticket: int, *, well: bool | None) -> None:
        """Give the place back; `well` is None where nothing was learnt about the server."""
        self.in_flight -= 1
        if well is not None and ticket == self._halvings:
            if well:
                self._allowed = min(self._most, self._allowed + 1 / self._allowed)
            else:
                self._allowed = max(1.0, self._allowed / 2)
                self._halvings += 1
        self._call()

    def hold(self, seconds: float) -> None:
        """Let nothing begin for so long: the server has asked for it."""
        self._quiet_until = max(self._quiet_until, self._clock() + seconds)

    async def _turn(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif not turn.cancelled():
                # The place was given just before, and goes to the next.
                self.leave(self._halvings, well=None)
            raise

    def _call(self) -> None:
        while self._waiting and self.in_flight < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)

    async def _quiet(self) -> None:
        until = self._quiet_until
        while (left := until - self._clock()) > 0:
            await self._pause(left)
            if self._quiet_until == until:
                break
            until = self._quiet_until
