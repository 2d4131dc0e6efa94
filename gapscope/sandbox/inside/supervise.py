"""The first process of a sandbox: hands code to the worker, collects what it prints, and ends what goes too far.

Between calls everything is stopped, so nothing that a call leaves behind runs on while the policy thinks.
"""

import contextlib
import os
import select
import signal
import struct
import time

from . import confine, kernel, processes, work
from .agreed import DIED, HEADER, RAISED, RAN, READY, TIMED_OUT
from .kept_output import KeptOutput

TYPE_CHECKING = False  # as in `typing`, which takes longer to import than a sandbox to make
if TYPE_CHECKING:
    from typing import NoReturn

_CHUNK = 1 << 16
_LONGEST_PIPE = 1 << 21
_SELDOM, _OFTEN = 0.1, 0.02


Answer = tuple[bytes, str, str]
"""How a call ended, why, and what it printed; after TIMED_OUT and DIED it was the last one."""


class Bounds:
    """The limits that the supervisor watches, in seconds, characters, bytes, tasks (threads count) and files."""

    def __init__(self, *, seconds: float, output: int, memory: int, tasks: int, files: int) -> None:
        self.seconds = seconds
        self.output = output
        self.memory = memory
        self.tasks = tasks
        self.files = files


class _Worker:
    """The process that hostile code runs in, with this end of its pipes."""

    def __init__(self, rules: confine.Rules) -> None:
        calls, self.calls = os.pipe()
        self.done, done = os.pipe()
        self.output, output = os.pipe()
        self.woken, wake = os.pipe()
        for one in (self.calls, self.output, self.woken, wake):
            os.set_blocking(one, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.pid = os.fork()
        if not self.pid:
            signal.set_wakeup_fd(-1)
            _become_worker(calls, done, output, rules)
        for one in (calls, done, output):
            os.close(one)


def _become_worker(calls: int, done: int, output: int, rules: confine.Rules) -> "NoReturn":
    try:
        calls, done = confine.take_pipes(calls, done, output)
        confine.confine(rules)
        os.write(done, READY)
        work.serve(calls, done)
    except BaseException as error:  # noqa: BLE001 (the supervisor says it, where no call has begun)
        with contextlib.suppress(OSError):
            os.write(done, f"{type(error).__name__}: {error}".encode()[:_CHUNK])
    finally:
        os._exit(1)


def supervise(rules: confine.Rules, bounds: Bounds) -> "NoReturn":
    """Answer the calls that come in on standard input until it ends, or until one goes too far."""
    if rules.alone:
        kernel.die_with_parent()
    else:
        kernel.adopt_orphans()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    worker = _Worker(rules)
    confine.keep_what_a_supervisor_needs(rules)
    try:
        _answer_calls(worker, bounds)
    finally:
        processes.kill_all()
        if not rules.alone:
            confine.remove_scratch(rules)
        os._exit(0)


def _answer_calls(worker: _Worker, bounds: Bounds) -> None:
    began = os.read(worker.done, _CHUNK)
    if began != READY:
        _send((DIED, began.decode("utf-8", "replace") or "the worker ended before its first call", ""))
        return
    processes.signal_all(signal.SIGSTOP)
    _send((READY, "", ""))
    while (call := _read_call()) is not None:
        processes.signal_all(signal.SIGCONT)
        answer = _Call(worker, bounds, call).watch()
        if answer is not None:
            _send(answer)
        if answer is None or answer[0] in {TIMED_OUT, DIED}:
            return


def _read_call() -> bytes | None:
    """The next call, with the length that goes before it; None where the host is gone."""
    call = b""
    wanted = 4
    while len(call) < wanted:
        more = os.read(0, wanted - len(call))
        if not more:
            return None
        call += more
        if len(call) == 4:
            wanted += struct.unpack(">I", call)[0]
    return call


def _send(answer: Answer) -> None:
    kind, *texts = answer
    reason, output = (text.encode("utf-8", "replace") for text in texts)
    data = memoryview(struct.pack(HEADER, kind, len(reason), len(output)) + reason + output)
    while data:
        data = data[os.write(1, data) :]


class _Call:
    """One call under way."""

    def __init__(self, worker: _Worker, bounds: Bounds, call: bytes) -> None:
        self._worker = worker
        self._bounds = bounds
        self._unsent = memoryview(call)
        self._kept = KeptOutput(bounds.output)
        self._reading = [0, worker.done, worker.output, worker.woken]
        now = time.monotonic()
        self._deadline = now + bounds.seconds
        self._look_at = now + _OFTEN

    def watch(self) -> Answer | None:
        """How it ended; None where the host is gone."""
        while True:
            now = time.monotonic()
            if now >= self._deadline:
                return self._last(TIMED_OUT, f"{self._bounds.seconds:g} s")
            if now >= self._look_at and (excess := self._excess(now)):
                return self._last(DIED, excess)
            wait = max(0.0, min(self._deadline, self._look_at) - now)
            writing = [self._worker.calls] if self._unsent else []
            readable, writable, _ = select.select(self._reading, writing, [], wait)
            if 0 in readable:
                return None
            if writable:
                self._hand_over()
            if self._worker.output in readable and not self._collect(_CHUNK):
                self._reading.remove(self._worker.output)
            if self._worker.done in readable:
                return self._ended(os.read(self._worker.done, 1))
            if self._worker.woken in readable and (reason := self._death()):
                return self._last(DIED, reason)

    def _hand_over(self) -> None:
        try:
            self._unsent = self._unsent[os.write(self._worker.calls, self._unsent) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it has closed its own end; what becomes of it is seen otherwise
            self._unsent = memoryview(b"")

    def _collect(self, most: int) -> int:
        """Take what was printed; the number of bytes, none at the end of the output or where there is no more."""
        try:
            data = os.read(self._worker.output, most)
        except BlockingIOError:
            return 0
        self._kept.add(data)
        return len(data)

    def _collect_rest(self) -> None:
        left = _LONGEST_PIPE
        while left > 0 and (taken := self._collect(_CHUNK)):
            left -= taken

    def _ended(self, mark: bytes) -> Answer:
        if mark not in {RAN, RAISED}:
            time.sleep(_OFTEN)
            return self._last(DIED, self._death() or "it broke off the connection")
        processes.signal_all(signal.SIGSTOP)
        self._collect_rest()
        return RAN if mark == RAN else RAISED, "", self._kept.text()

    def _last(self, kind: bytes, reason: str) -> Answer:
        processes.kill_all()
        self._collect_rest()
        return kind, reason, self._kept.text()

    def _death(self) -> str | None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._worker.woken, _CHUNK)
        status = processes.reap().get(self._worker.pid)
        if status is None:
            return None
        if os.WIFSIGNALED(status):
            return f"it was ended by {signal.Signals(os.WTERMSIG(status)).name}"
        return f"it ended itself with exit code {os.WEXITSTATUS(status)}"

    def _excess(self, now: float) -> str | None:
        """What is used beyond the limits, in words."""
        bounds = self._bounds
        memory, tasks = processes.usage()
        if memory > bounds.memory:
            with contextlib.suppress(PermissionError):
                memory = min(memory, processes.memory_without_doubles())
        if memory > bounds.memory:
            return f"it used more than {bounds.memory >> 20} MB of memory"
        # A few more than the kernel allows it: where that count holds, this one is never reached.
        if tasks > bounds.tasks + 8:
            return f"it had more than {bounds.tasks} processes"
        if os.getpid() == 1:
            scratch = os.statvfs("/tmp")  # noqa: S108 (its own)
            if scratch.f_files - scratch.f_ffree > bounds.files:
                return f"it made more than {bounds.files} files"
        quiet = tasks <= 2 and memory < bounds.memory // 2
        self._look_at = now + (_SELDOM if quiet else _OFTEN)
        return None
