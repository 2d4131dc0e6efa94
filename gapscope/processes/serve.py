"""The loop inside a process that calls functions: requests in, answers out, over the socket that is its standard input.

This file is run as a script and imports nothing of gapscope: a process starts in tens of milliseconds, and what the
called function imports is up to that function. A message is eight bytes of length and as many of JSON.
"""

import asyncio
import faulthandler
import importlib
import importlib.util
import inspect
import json
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import cache, reduce
from typing import IO, Any, NoReturn

_GRACE_SECONDS = 5.0
_DAY_SECONDS = 86_400.0
_LONGEST_WORDS = 2_000


def main() -> NoReturn:
    """Answer requests until the caller is gone; the arguments are directories to import from."""
    connection = _connection()
    faulthandler.enable(all_threads=False)
    sys.path[:] = sys.argv[1:]
    del sys.argv[1:]
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection.makefile("rb"), requests), daemon=True).start()
    with asyncio.Runner() as runner:
        while True:
            request = json.loads(requests.get())
            # The caller sees to the time; this is for when it is gone and C code lets no thread notice.
            faulthandler.dump_traceback_later(min(request["seconds"], _DAY_SECONDS) + _GRACE_SECONDS, exit=True)
            answer = _answer(request, runner)
            faulthandler.cancel_dump_traceback_later()
            try:
                connection.sendall(len(answer).to_bytes(8) + answer)
            except OSError:
                _end()


def _connection() -> socket.socket:
    """The socket, moved away from where the called functions look for their standard input."""
    connection = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.register_at_fork(after_in_child=lambda: _forget(connection))
    return connection


def _forget(connection: socket.socket) -> None:
    """A forked child that kept it open would hide from the caller that this process has died."""
    if connection.fileno() >= 0:
        os.close(connection.detach())


def _receive(stream: IO[bytes], requests: "queue.SimpleQueue[bytes]") -> None:
    """Pass requests on to the main thread, where a function may use signals; an end means that the caller is gone."""
    while length := stream.read(8):
        requests.put(stream.read(int.from_bytes(length)))
    _end()


def _end() -> NoReturn:
    """End this process, and all that its functions started."""
    os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _answer(request: dict[str, Any], runner: asyncio.Runner) -> bytes:
    try:
        function = _find(request["target"])
        if request["what"] == "load":
            value = parameters(function)
        else:
            result = function(**request["arguments"])
            value = runner.run(_awaited(result)) if inspect.isawaitable(result) else result
    except BaseException as error:  # noqa: BLE001 (whatever a function raises, SystemExit too, is its answer)
        return json.dumps({"raised": _words(error)}).encode()
    try:
        return json.dumps({"value": value}, allow_nan=False, default=_plain).encode()
    except Exception as error:  # noqa: BLE001 (what a function returned may raise anything while it is written)
        return json.dumps({"nonsense": _words(error)}).encode()


async def _awaited(result: Any) -> Any:  # noqa: ANN401 (whatever the function gives)
    return await result


@cache
def _find(target: str) -> Callable[..., Any]:
    """The function `module:name` or `path/to/file.py:name`; names may be dotted."""
    place, _, name = target.rpartition(":")
    module = _module_of_file(place) if place.endswith(".py") else importlib.import_module(place)
    found = reduce(getattr, name.split("."), module)
    if not callable(found):
        message = f"{name} is no function but {type(found).__name__}"
        raise TypeError(message)
    return found


@cache
def _module_of_file(path: str) -> object:
    """The module in a file, under a name that no installed one has."""
    name = f"called_{abs(hash(path)):x}_" + "".join(c if c.isalnum() else "_" for c in os.path.basename(path)[:-3])
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        message = f"no module can be made of {path}"
        raise ImportError(message)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickle look a class's module up by its name.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def parameters(function: Callable[..., Any]) -> list[str]:
    """The names of a function's parameters, and `**` if it takes any other."""
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            found.append("**")
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            found.append(name)
    return found


def _plain(value: Any) -> Any:  # noqa: ANN401 (of whatever library)
    """Numbers and arrays of NumPy and torch as Python's own."""
    if hasattr(value, "tolist"):
        return value.tolist()
    message = f"{type(value).__name__} is not JSON"
    raise TypeError(message)


def _words(error: BaseException) -> str:
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 (an error that cannot even say what it is)
        said = ""
    return f"{type(error).__name__}: {said}"[:_LONGEST_WORDS] if said else type(error).__name__


if __name__ == "__main__":
    main()
