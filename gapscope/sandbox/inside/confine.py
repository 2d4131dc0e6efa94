"""What a worker gives up before it runs a line of hostile code, in an order that leaves no way back."""

import contextlib
import fcntl
import os
import resource

from . import file_rules, kernel, system_calls
from .agreed import DEVICES

TYPE_CHECKING = False  # as in `typing`, which takes longer to import than a sandbox to make
if TYPE_CHECKING:
    from typing import NoReturn

_MOST_DESCRIPTORS = 256
_CANNOT_BE_SEEN = 10_000  # the supervisor counts too
_FACTS = ("/proc/cpuinfo", "/proc/meminfo", "/proc/stat")


class Rules:
    """What holds for the worker.

    `user` is the id it gets where the supervisor is root. `alone`: its PID and network
    namespaces hold nothing else. `read` is what Landlock lets it open besides its scratch folder; None where Landlock
    is not used. `memory` and `file_bytes` are in bytes, for one process and for one file.
    """

    def __init__(
        self,
        *,
        user: int | None,
        alone: bool,
        read: list[str] | None,
        scratch: str,
        memory: int,
        tasks: int,
        file_bytes: int,
    ) -> None:
        self.user = user
        self.alone = alone
        self.read = read
        self.scratch = scratch
        self.memory = memory
        self.tasks = tasks
        self.file_bytes = file_bytes


def take_pipes(calls: int, done: int, output: int) -> tuple[int, int]:
    """Standard streams of its own, nothing of the supervisor's, and where `calls` and `done` are then."""
    null = os.open(os.devnull, os.O_RDWR)
    calls, done, output, null = (_far(one) for one in (calls, done, output, null))
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(calls, 3, inheritable=False)
    os.dup2(done, 4, inheritable=False)
    os.closerange(5, 1024)
    return 3, 4


def _far(descriptor: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 16)


def confine(rules: Rules) -> None:
    """Give up everything; from here on only what is hostile runs.

    Raises:
        OSError: the machine does not let go of something, and nothing may run.

    """
    os.setsid()
    _set_limits(rules)
    if rules.user is not None and not os.getuid():
        kernel.keep_capabilities(kernel.CAP_SETUID, kernel.CAP_SETGID)
        kernel.become(rules.user)
    kernel.keep_capabilities()
    kernel.set_readable_by_peers(readable=True)
    kernel.no_new_privileges()
    kernel.die_with_parent()
    os.chdir(rules.scratch)
    signals = rules.alone or rules.user is not None
    if rules.read is not None:
        file_rules.allow_only(read=rules.read, use=DEVICES + _FACTS, write=rules.scratch)
        signals = signals or file_rules.signals_stay_inside()
    system_calls.refuse_system_calls(sockets=rules.alone, signals=signals)


def remove_scratch(rules: Rules) -> "NoReturn":
    """End this process with the removal of the folder, as the user who filled it."""
    if rules.user is not None:
        kernel.become(rules.user)
    os.chdir("/")
    os.execv("/bin/rm", ["rm", "-rf", "--", rules.scratch])  # noqa: S606 (folders may be too deep for Python)


def _set_limits(rules: Rules) -> None:
    tasks = rules.tasks + _tasks_counted_with_ours(rules)
    for which, most in (
        (resource.RLIMIT_DATA, rules.memory),
        (resource.RLIMIT_FSIZE, rules.file_bytes),
        (resource.RLIMIT_NPROC, tasks),
        (resource.RLIMIT_NOFILE, _MOST_DESCRIPTORS),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        _, hard = resource.getrlimit(which)
        lower = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (lower, lower))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as first_to_go:
        first_to_go.write("1000")


def _tasks_counted_with_ours(rules: Rules) -> int:
    """How many other tasks the kernel counts with those of the worker: those of the same user.

    Since Linux 5.14 it counts those of a user namespace by themselves.
    """
    if rules.user is not None:
        return 0
    if rules.alone:
        release = os.uname().release.split(".")
        return 0 if (int(release[0]), int(release[1].partition("-")[0])) >= (5, 14) else _CANNOT_BE_SEEN
    own, total = os.getuid(), 0
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            if os.stat(f"/proc/{name}").st_uid == own:
                total += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue
    return total


def keep_what_a_supervisor_needs(rules: Rules) -> None:
    """Only to signal and to look at processes of another user, and to become that user where its files must go."""
    kernel.set_readable_by_peers(readable=False)
    if kernel.effective_capabilities():
        to_remove = () if rules.alone else (kernel.CAP_SETUID, kernel.CAP_SETGID)
        kernel.keep_capabilities(kernel.CAP_KILL, kernel.CAP_SYS_PTRACE, *to_remove)
    kernel.no_new_privileges()
