"""Functions that are tools: those that answer, and those that no tool should be."""

import os
import sys
import time
from typing import Any


def add(a: int, b: int) -> int:
    return a + b


def say(what: str) -> str:
    return what


def give(value: Any) -> Any:
    return value


async def later(what: str) -> str:
    return what


def raises() -> None:
    message = "there is no such city"
    raise ValueError(message)


def hangs() -> None:
    time.sleep(60)


def dies() -> None:
    print("out of memory", file=sys.stderr)
    os._exit(3)


def leaves() -> None:
    sys.exit(3)


def answers_without_end() -> str:
    return "x" * 50_000_000


def prints_without_end() -> str:
    for _ in range(50):
        sys.stdout.write("x" * 1_000_000)
    return "done"


def unserialisable() -> object:
    return object()
