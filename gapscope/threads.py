"""Functions of this process, called so that the event loop goes on whatever they do."""

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gapscope.rollouts import Json


async def called(function: Callable[..., Any], arguments: dict[str, Json]) -> Any:  # noqa: ANN401 (what it returns)
    """Await a function that is asynchronous, and run any other in a thread of its own.

    The end of this process does not wait for such a thread, as it would for one of the event loop's: one that hangs is
    left alone. What the function raises is raised here, SystemExit too; KeyboardInterrupt as RuntimeError.
    """
    asynchronous = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
    result = function(**arguments) if asynchronous else await _in_thread(function, arguments)
    return await result if inspect.isawaitable(result) else result


async def _in_thread(function: Callable[..., Any], arguments: dict[str, Json]) -> Any:  # noqa: ANN401 (what it returns)
    loop = asyncio.get_running_loop()
    # A pair, because a future takes neither StopIteration nor SystemExit as its exception.
    done: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def settle(value: Any, error: BaseException | None) -> None:  # noqa: ANN401 (what a function returns)
        if not done.done():
            done.set_result((value, error))

    def run() -> None:
        value: Any = None
        error: BaseException | None = None
        try:
            value = context.run(function, **arguments)
        except KeyboardInterrupt as raised:
            error = RuntimeError(f"KeyboardInterrupt: {raised}")
        except (Exception, SystemExit) as raised:  # noqa: BLE001 (raised again where the call is awaited)
            error = raised
        with suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=run, name=f"call of {function!r:.40}", daemon=True).start()
    value, error = await done
    if error is not None:
        raise error
    return value
