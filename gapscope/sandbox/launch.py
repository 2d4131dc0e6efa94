"""The command that starts a sandbox at each level."""

import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterable
from typing import NamedTuple

from gapscope.sandbox.inside.agreed import DEVICES
from gapscope.sandbox.levels import Level
from gapscope.sandbox.limits import Limits
from gapscope.sandbox.readable import Interpreter

OWN_SCRATCH = "/tmp"  # noqa: S108 (of a root of its own)
MOST_FILES = 20_000

_PACKAGE = os.path.dirname(os.path.abspath(__file__))
_MOVED_PACKAGE = "/sandbox"
_PROGRAM = (
    "import sys; sys.path.insert(0, {folder!r}); import inside.main; del sys.path[0]; "
    "inside.main.main(enter={enter!r}, rules={rules!r}, bounds={bounds!r}, path={path!r})"
)
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "USER": "nobody",
    "LOGNAME": "nobody",
    "TERM": "dumb",
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "POLARS_MAX_THREADS": "1",
}
_BUBBLEWRAP = (
    "--die-with-parent",
    "--new-session",
    "--as-pid-1",
    "--unshare-ipc",
    "--unshare-pid",
    "--unshare-net",
    "--unshare-uts",
    "--unshare-cgroup-try",
    "--hostname",
    "sandbox",
    "--cap-drop",
    "ALL",
)
# For the supervisor alone: to give its worker another user, and then to signal and to look at it.
_ROOT_KEEPS = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_KILL", "CAP_SYS_PTRACE")

_FIRST_SPARE, _SPARE = 1_800_000_000, 200_000_000
_FIRST_ORDINARY = 20_000


class Launch(NamedTuple):
    """A command with its whole environment."""

    command: list[str]
    environment: dict[str, str]


def spare_user() -> int | None:
    """A user id that nobody has, where this process is root and may give one; its own for each sandbox.

    The kernel does not count the processes of root, and root reads everyone's files.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        return None
    with open("/proc/self/uid_map", encoding="ascii") as ranges:
        mapped = [(int(first), int(count)) for first, _, count in (line.split() for line in ranges)]
    first, count = max(mapped, key=lambda one: one[1])
    if first + count >= _FIRST_SPARE + _SPARE:
        return _FIRST_SPARE + secrets.randbelow(_SPARE)
    lowest = max(first, _FIRST_ORDINARY)
    return lowest + secrets.randbelow(first + count - lowest) if first + count > lowest else None


def launch(level: Level, interpreter: Interpreter, limits: Limits, *, user: int | None, scratch: str) -> Launch:
    """What starts a sandbox.

    `user` is the id for hostile code where this process is root; `scratch` a folder of the machine, or OWN_SCRATCH.
    """
    rules = {
        "user": user,
        "alone": scratch == OWN_SCRATCH,
        "read": list(interpreter.read) if level.name == "landlock" else None,
        "scratch": scratch,
        "memory": limits.memory_mb << 20,
        "tasks": limits.processes,
        "file_bytes": limits.file_mb << 20,
    }
    bounds = {
        "seconds": limits.seconds,
        "output": limits.output_chars,
        "memory": limits.memory_mb << 20,
        "tasks": limits.processes,
        "files": MOST_FILES,
    }
    enter = {
        "host": os.getpid(),
        "user": user,
        "read": [(os.path.realpath(path), path) for path in interpreter.read],
        "scratch_bytes": limits.scratch_mb << 20,
        "files": MOST_FILES,
    }
    bubblewrap = level.name == "bubblewrap"
    program = _PROGRAM.format(
        folder=_MOVED_PACKAGE if bubblewrap else _PACKAGE,
        enter=enter if level.name == "namespaces" else None,
        rules=rules,
        bounds=bounds,
        path=list(interpreter.path),
    )
    python = [interpreter.executable, "-I", "-X", "utf8", "-c", program]
    environment = {**_ENVIRONMENT, "HOME": scratch, "TMPDIR": scratch}
    before = list(_bubblewrap(interpreter.read, limits, root=user is not None)) if bubblewrap else []
    return Launch([*before, *python], environment)


def unavailable(level: Level, interpreter: Interpreter, user: int | None) -> str | None:
    """Why a level need not be tried at all."""
    if sys.platform != "linux":
        return f"it needs Linux, and this is {sys.platform}"
    if level.name == "bubblewrap" and shutil.which("bwrap") is None:
        return "there is no `bwrap` on PATH"
    if level.name in {"landlock", "limits"} and user is not None:
        hidden = next((path for path in interpreter.needs if not _everyone_can_reach(path)), None)
        return hidden and f"it runs as another user than root, who cannot read {hidden}"
    return None


def _everyone_can_reach(path: str) -> bool:
    while True:
        if not os.stat(path).st_mode & (stat.S_IXOTH if os.path.isdir(path) else stat.S_IROTH):
            return False
        if path == "/":
            return True
        path = os.path.dirname(path)


def _parents(paths: Iterable[str]) -> list[str]:
    """The folders above these paths, outermost first; bubblewrap would make them for their owner alone."""
    found = set()
    for path in paths:
        while (path := os.path.dirname(path)) != "/":
            found.add(path)
    return sorted(found - {OWN_SCRATCH})


def _bubblewrap(read: tuple[str, ...], limits: Limits, *, root: bool) -> Iterable[str]:
    yield shutil.which("bwrap") or "bwrap"
    yield from _BUBBLEWRAP
    if root:
        for capability in _ROOT_KEEPS:
            yield from ("--cap-add", capability)
    else:
        yield "--unshare-user"
    yield from ("--perms", "1777", "--size", str(limits.scratch_mb << 20), "--tmpfs", OWN_SCRATCH)
    for folder in _parents((*read, *DEVICES, _MOVED_PACKAGE + "/inside")):
        yield from ("--perms", "0755", "--dir", folder)
    yield from ("--proc", "/proc")
    for device in DEVICES:
        yield from ("--dev-bind", device, device)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        yield from ("--symlink", f"/proc/self/fd/{number}", f"/dev/{name}")
    yield from ("--symlink", "/proc/self/fd", "/dev/fd", "--symlink", OWN_SCRATCH, "/dev/shm")  # noqa: S108
    for path in read:
        yield from ("--ro-bind", path, path)
    yield from ("--ro-bind", f"{_PACKAGE}/inside", f"{_MOVED_PACKAGE}/inside")
    yield from ("--remount-ro", "/", "--chdir", OWN_SCRATCH, "--")
