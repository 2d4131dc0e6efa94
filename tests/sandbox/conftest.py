"""Every level that this machine has, with an interpreter that works in it."""

import asyncio
import shutil
import sys
from collections.abc import Callable

import pytest

from gapscope.sandbox import LEVELS, Level, Limits, Ran, start
from gapscope.sandbox.isolation import why_not
from gapscope.sandbox.readable import Interpreter, interpreter

# As root, the weaker levels run as another user, who often cannot read the interpreter that runs the tests.
PYTHONS = (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3")


class Holder:
    """A level at which tests run hostile code."""

    def __init__(self, level: Level, python: Interpreter) -> None:
        self.level = level
        self.python = python

    def run(self, *codes: str, between: Callable[[], object] = lambda: None, **limits: float) -> list[Ran]:
        """What becomes of one call after another in one sandbox."""
        return asyncio.run(self._run(codes, between, limits))

    async def _run(self, codes: tuple[str, ...], between: Callable[[], object], limits: dict[str, float]) -> list[Ran]:
        sandboxed = await start(self.level, Limits(**{"seconds": 10.0, **limits}), self.python)  # type: ignore[arg-type]
        answers = []
        try:
            for code in codes:
                answers.append(await sandboxed.run(code))
                between()
        finally:
            await sandboxed.close()
        return answers

    def output(self, code: str, **limits: float) -> str:
        """What a call prints that ends well."""
        (ran,) = self.run(code, **limits)
        assert ran == Ran(ran.output), ran
        return ran.output


_known: dict[str, "Holder | str"] = {}


async def _holder(level: Level) -> "Holder | str":
    reasons = []
    for python in PYTHONS:
        if shutil.which(python):
            known = await interpreter(python)
            reason = await why_not(level, known)
            if reason is None:
                return Holder(level, known)
            reasons.append(f"{python}: {reason}")
    return f"{level.name} does not work here: {'; '.join(reasons)}"


def hold(level: Level) -> Holder:
    if level.name not in _known:
        _known[level.name] = asyncio.run(_holder(level))
    holder = _known[level.name]
    if isinstance(holder, str):
        pytest.skip(holder)
    return holder


@pytest.fixture(params=LEVELS, ids=lambda level: level.name)
def every_level(request: pytest.FixtureRequest) -> Holder:
    return hold(request.param)


# The last level is the one before it without Landlock, and is tried where that matters.
@pytest.fixture(params=[level for level in LEVELS if level.name != "limits"], ids=lambda level: level.name)
def any_level(request: pytest.FixtureRequest) -> Holder:
    return hold(request.param)


@pytest.fixture(params=[level for level in LEVELS if level.complete], ids=lambda level: level.name)
def complete_level(request: pytest.FixtureRequest) -> Holder:
    return hold(request.param)


@pytest.fixture(params=[level for level in LEVELS if not level.complete], ids=lambda level: level.name)
def incomplete_level(request: pytest.FixtureRequest) -> Holder:
    return hold(request.param)
