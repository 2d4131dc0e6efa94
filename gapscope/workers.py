"""Processes that parse pieces.

`multiprocessing` would import the caller's `__main__` again in every worker, which breaks scripts and
notebooks that call gapscope at their top level, and forking a process that runs Polars or DuckDB threads
is unsafe. So a worker is a plain interpreter that reads pieces from its standard input and writes batches
to its standard output, both pickled.
"""

import gc
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Self

from gapscope.errors import InputError
from gapscope.pieces import Piece, parse_piece
from gapscope.store.batch import Batch

_PACKAGE = str(Path(__file__).resolve().parent)

# The package stands in without its public names: a worker needs none of them, and they take time to import.
_WORKER = """
import sys, types
package = types.ModuleType("gapscope")
package.__path__ = [sys.argv[1]]
sys.modules["gapscope"] = package
from gapscope.workers import serve
serve()
"""

Answer = tuple[Piece, Batch | InputError, bool]
"""A piece, a batch of it (or why there is none), and whether it was the last one."""


def parse_here(pieces: Iterable[Piece]) -> Iterator[Answer]:
    """Batches of all pieces, parsed one after another in this process."""
    for piece in pieces:
        yield from _answers(piece)


def _answers(piece: Piece) -> Iterator[Answer]:
    try:
        batches = parse_piece(piece)
        batch = next(batches)
        for following in batches:
            yield piece, batch, False
            batch = following
    except InputError as error:
        yield piece, error, True
    else:
        yield piece, batch, True


class Workers:
    """Worker processes at work on a stream of pieces; iterate to get their batches.

    The processes start at once; pieces are taken from the iterable only as workers become free, and
    finished batches wait in a short queue, so memory stays flat.
    """

    def __init__(self, pieces: Iterable[Piece], jobs: int) -> None:
        self._pieces = iter(pieces)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._ready: queue.Queue[Answer | BaseException | None] = queue.Queue(maxsize=4 * jobs)
        self._processes = [
            subprocess.Popen(  # noqa: S603 (our own interpreter, our own module)
                [sys.executable, "-c", _WORKER, _PACKAGE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for _ in range(jobs)
        ]
        self._threads = [threading.Thread(target=self._feed, args=(p,), daemon=True) for p in self._processes]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for process in self._processes:
            process.kill()
        while any(thread.is_alive() for thread in self._threads):
            try:
                self._ready.get(timeout=0.01)
            except queue.Empty:
                continue
        for process in self._processes:
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()
            process.wait()

    def __iter__(self) -> Iterator[Answer]:
        working = len(self._threads)
        while working:
            answer = self._ready.get()
            if answer is None:
                working -= 1
            elif isinstance(answer, BaseException):
                raise answer
            else:
                yield answer

    def _next_piece(self) -> Piece | None:
        with self._lock:
            return None if self._stopped.is_set() else next(self._pieces, None)

    def _feed(self, process: "subprocess.Popen[bytes]") -> None:
        try:
            while piece := self._next_piece():
                self._run(process, piece)
        except (OSError, ValueError, InputError) as error:
            # Raised again in the thread that iterates; a reader that has left is not told.
            if not self._stopped.is_set():
                self._ready.put(error)
        finally:
            self._ready.put(None)

    def _run(self, process: "subprocess.Popen[bytes]", piece: Piece) -> None:
        if process.stdin is None or process.stdout is None:
            return
        try:
            pickle.dump(piece, process.stdin)
            process.stdin.flush()
            last = False
            while not last:
                result, last = pickle.load(process.stdout)  # noqa: S301 (written by our own worker)
                self._ready.put((piece, result, last))
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            code = process.wait()
            message = f"a worker process ended with exit code {code} while it read {piece.file.path}"
            hint = "If the machine ran out of memory, use fewer processes: --jobs 1."
            raise InputError(message, hint=hint) from error


def serve() -> None:
    """The worker's loop: pieces in, batches out, until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGPIPE"):
        # A parent that was killed wants no answer, and its terminal no traceback.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    # Records are acyclic: the collector would only walk over them again and again.
    gc.disable()
    output: IO[bytes] = sys.stdout.buffer
    # Whatever prints must not corrupt the answers.
    sys.stdout = sys.stderr
    while True:
        try:
            piece = pickle.load(sys.stdin.buffer)  # noqa: S301 (written by our own parent)
        except EOFError:
            return
        for _, result, last in _answers(piece):
            pickle.dump((result, last), output, protocol=pickle.HIGHEST_PROTOCOL)
            output.flush()
