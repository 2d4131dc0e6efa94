"""The processes of a sandbox, as its supervisor sees them: who they are, what they use, and how they are stopped."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator

_KIBIBYTE = 1024
_A_MOMENT = 0.001


def others() -> Iterator[int]:
    """The process ids of the sandbox, without the supervisor: all there are, or all that descend from it."""
    own = os.getpid()
    running = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    if own == 1:
        yield from (one for one in running if one != own)
        return
    children: dict[int, list[int]] = {}
    for child in running:
        with contextlib.suppress(OSError, ValueError), open(f"/proc/{child}/stat", "rb") as stat:
            state, parent = stat.read().rpartition(b")")[2].split()[:2]
            if state != b"Z":
                children.setdefault(int(parent), []).append(child)
    found = [own]
    for one in found:
        found += children.get(one, ())
    yield from found[1:]


def signal_all(number: int) -> None:
    """Send a signal to all processes but this one."""
    if os.getpid() == 1:
        with contextlib.suppress(OSError):
            os.kill(-1, number)
        return
    for one in others():
        with contextlib.suppress(OSError):
            os.kill(one, number)


def kill_all() -> None:
    """End all processes but this one, and return when they are gone."""
    while True:
        signal_all(signal.SIGKILL)
        reap(wait=os.getpid() == 1)
        if not any(others()):
            return
        time.sleep(_A_MOMENT)


def reap(*, wait: bool = False) -> dict[int, int]:
    """The children that have ended, with their status; `wait` until none is left."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            child, status = os.waitpid(-1, 0 if wait else os.WNOHANG)
            if not child:
                break
            ended[child] = status
    return ended


def usage() -> tuple[int, int]:
    """Bytes of memory that they use now, shared pages counted for each, and tasks (threads count)."""
    memory = tasks = 0
    for one in others():
        with contextlib.suppress(OSError), open(f"/proc/{one}/status", "rb") as status:
            fields = dict(line.split(b":", 1) for line in status.read().splitlines())
            tasks += int(fields.get(b"Threads", b"0"))
            memory += sum(int(fields.get(name, b"0").split()[0]) for name in (b"RssAnon", b"RssShmem"))
    return memory * _KIBIBYTE, tasks


def memory_without_doubles() -> int:
    """The same memory in bytes, with each page that processes share counted once; slower."""
    total = 0
    for one in others():
        with (
            contextlib.suppress(FileNotFoundError, ProcessLookupError),
            open(f"/proc/{one}/smaps_rollup", "rb") as sums,
        ):
            total += sum(int(line.split()[1]) for line in sums if line.startswith(b"Pss:"))
    return total * _KIBIBYTE
