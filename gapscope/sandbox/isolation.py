"""The strongest level that works on this machine, found by trying each for real."""

import os
import sys
import tempfile
from typing import NamedTuple

from gapscope.errors import SettingsError
from gapscope.sandbox.levels import LEVELS, Level
from gapscope.sandbox.limits import Limits
from gapscope.sandbox.readable import Interpreter, interpreter
from gapscope.sandbox.sandboxed import NotStarted, start

_TRIAL = """
import os, socket
def it_can(what, attempt):
    try:
        attempt()
    except OSError:
        return
    print(what)
it_can("reach the network", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("192.0.2.1", 9)))
it_can("reach the hypervisor", lambda: socket.socket(40, socket.SOCK_STREAM))
it_can("signal other processes", lambda: os.kill({host}, 0))
it_can("become root", lambda: os.setuid(0))
it_can("hide memory", lambda: os.memfd_create("hidden"))
it_can("read files", lambda: open({file!r}).read())
"""
_READS_FILES = "read files"
_HINT = (
    "install bubblewrap (`apt-get install bubblewrap`, `dnf install bubblewrap`), or allow user namespaces "
    "(kernel.unprivileged_userns_clone = 1, kernel.apparmor_restrict_unprivileged_userns = 0), or give a container "
    "the capability SYS_ADMIN, or name a Python that every user can read"
)

_found: dict[str, "Isolation"] = {}


class Isolation(NamedTuple):
    """A level with the interpreter that works in it, and why each stronger one did not."""

    level: Level
    interpreter: Interpreter
    refused: dict[str, str]

    @property
    def about(self) -> str:
        """What is in force, what it does not hold, and why it is not more; one line."""
        return f"{self.level.about} ({_listed(self.refused)})" if self.refused else self.level.about


async def strongest(*, strict: bool = False, python: str = sys.executable) -> Isolation:
    """The first of LEVELS that works with this interpreter; tried once in a process.

    Raises:
        SettingsError: none works, none that is `complete` where it is `strict`, or `python` is no interpreter.

    """
    found = _found.get(python) or await _first_that_works(await interpreter(python))
    _found[python] = found
    if strict and not found.level.complete:
        message = f"nothing on this machine holds hostile code in every respect ({_listed(found.refused)})"
        raise SettingsError(message, hint=f"{_HINT}; or run without `strict`, which takes {found.level.about}")
    return found


async def _first_that_works(known: Interpreter) -> Isolation:
    refused: dict[str, str] = {}
    for level in LEVELS:
        reason = await why_not(level, known)
        if reason is None:
            return Isolation(level, known, refused)
        refused[level.name] = reason
    message = f"no sandbox works on this machine ({_listed(refused)})"
    raise SettingsError(message, hint=_HINT)


def _listed(refused: dict[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in refused.items())


async def why_not(level: Level, python: Interpreter) -> str | None:
    """Why code cannot be held at that level, or what it could do there that it must not; None where it works."""
    # A file that every user may read, so that nothing but the sandbox keeps it from being read.
    with tempfile.NamedTemporaryFile(prefix="gapscope-") as secret:
        os.chmod(secret.name, 0o644)
        try:
            sandboxed = await start(level, Limits(), python)
        except NotStarted as error:
            return str(error)
        try:
            ran = await sandboxed.run(_TRIAL.format(host=os.getpid(), file=secret.name))
        finally:
            await sandboxed.close()
    if ran.raised or ran.timed_out or ran.died is not None:
        said = ran.died or ran.output.strip().rpartition("\n")[2] or "it does not answer"
        return f"a program does not run in it: {said}"
    could = [line for line in ran.output.splitlines() if line != _READS_FILES or level.name != "limits"]
    return f"code in it can {' and '.join(could)}" if could else None
