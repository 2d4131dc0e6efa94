"""Ctrl-C in a command that talks to a server: the first one finishes what is in flight, the second one drops it."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def first_interrupt_sets(stop: asyncio.Event) -> Iterator[None]:
    """Ctrl-C ends the reading; the second one ends the program."""
    loop = asyncio.get_running_loop()

    def ask_to_stop() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        print("finishing what is in flight; Ctrl-C again to drop it", file=sys.stderr)
        stop.set()

    # Windows has no such handlers: there the first Ctrl-C ends the program, and what is written stays.
    with suppress(NotImplementedError):
        loop.add_signal_handler(signal.SIGINT, ask_to_stop)
    try:
        yield
    finally:
        with suppress(NotImplementedError):
            loop.remove_signal_handler(signal.SIGINT)
