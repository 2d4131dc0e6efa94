"""The interpreter that hostile code runs in: one call after another, in one namespace of variables.

It shares its memory with that code, so nothing rests on it: it is the supervisor that measures, ends and answers.
"""

import builtins
import contextlib
import io
import os
import struct
import sys
from types import CodeType, ModuleType, TracebackType

from .agreed import RAISED, RAN

_ONLY_AST = 0x400


def serve(calls: int, done: int) -> None:
    """Execute what comes in on `calls`, a length and a text at a time, and say on `done` how each ended."""
    output, errors = _stream(1), _stream(2)
    vars(sys).update(__stdout__=output, __stderr__=errors)
    main = ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main
    sys.argv, sys.path = [""], ["", *sys.path]
    own = os.getpid()
    sources: dict[str, str] = {}
    while True:
        (length,) = struct.unpack(">I", _read(calls, 4))
        name = f"<call {len(sources) + 1}>"
        sources[name] = _read(calls, length).decode("utf-8", "surrogatepass")
        sys.stdout, sys.stderr = output, errors  # what the call before may have replaced
        sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115 (exit() closes it)
        ended = _execute(name, sources, main.__dict__)
        _flush()
        if os.getpid() != own:  # a fork of its own that got as far as here
            os._exit(0)
        os.write(done, ended)


def _stream(descriptor: int) -> io.TextIOWrapper:
    buffered = io.BufferedWriter(io.FileIO(descriptor, "wb", closefd=False))
    return io.TextIOWrapper(buffered, encoding="utf-8", errors="backslashreplace", line_buffering=True)


def _read(descriptor: int, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = os.read(descriptor, length - len(data))
        if not more:
            os._exit(0)
        data += more
    return data


def _execute(name: str, sources: dict[str, str], variables: dict[str, object]) -> bytes:
    try:
        body, last = _compiled(sources[name], name)
        if body is not None:
            exec(body, variables)  # noqa: S102 (what a sandbox is for)
        if last is not None:
            sys.displayhook(eval(last, variables))  # noqa: S307 (likewise)
    except SystemExit as ended:
        if ended.code is not None and not isinstance(ended.code, int):
            _print_to_stderr(_shown(ended.code, sources))
    except BaseException as error:  # noqa: BLE001 (whatever it raises is shown to it)
        _print_to_stderr(_shown(error, sources))
        return RAISED
    return RAN


def _compiled(code: str, name: str) -> tuple[CodeType | None, CodeType | None]:
    """The statements, and the expression that they end with, whose value is shown as an interactive one is."""
    import _ast

    tree = compile(code, name, "exec", _ONLY_AST, dont_inherit=True)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], _ast.Expr) else None
    shown = last and compile(_ast.Expression(last.value), name, "eval", dont_inherit=True)
    return (compile(tree, name, "exec", dont_inherit=True) if tree.body else None), shown


def _shown(value: object, sources: dict[str, str]) -> str:
    try:
        if not isinstance(value, BaseException):
            return str(value)
        import linecache
        import traceback

        for name, code in sources.items():
            linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        text = "".join(traceback.format_exception(type(value), value, _below_ours(value.__traceback__)))
    except BaseException:  # noqa: BLE001 (its own classes may raise while they are shown)
        text = type(value).__name__
    header = "Traceback (most recent call last):\n"  # which an error of syntax has not by itself
    return (text if header in text else header + text).removesuffix("\n")


def _below_ours(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename == _execute.__code__.co_filename:
        trace = trace.tb_next
    return trace


def _print_to_stderr(text: str) -> None:
    _flush()
    data = memoryview(f"{text}\n".encode("utf-8", "backslashreplace"))
    try:
        while data:
            data = data[os.write(2, data) :]
    except OSError:  # it has closed its own output
        return


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):  # it may have replaced or closed them
            stream.flush()
