"""One sandbox from the outside: started, given code, and ended."""

import asyncio
import contextlib
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from typing import IO, NamedTuple

from gapscope.sandbox.inside import agreed
from gapscope.sandbox.launch import OWN_SCRATCH, Launch, launch, spare_user, unavailable
from gapscope.sandbox.levels import Level
from gapscope.sandbox.limits import Limits
from gapscope.sandbox.readable import Interpreter, interpreter

_SECONDS_TO_START = 20.0
_SECONDS_LATE = 5.0
"""How long beyond its limit a supervisor may take to say that a call has ended, on a machine that is busy."""
_SECONDS_TO_END = 10.0
_LONGEST_REASON = 1000
_LONGEST_COMPLAINT = 1 << 14
_CHUNK = 1 << 16
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05


class NotStarted(Exception):
    """A sandbox that did not come up, with what it said."""


class Ran(NamedTuple):
    """What became of one call.

    `output` is what was printed, standard error included, with a traceback where the code `raised`. After `timed_out`
    and `died` (why, in words) the sandbox is gone, and with it all variables.
    """

    output: str
    raised: bool = False
    timed_out: bool = False
    died: str | None = None


class _Broken(Exception):
    """The supervisor is gone, or says what it cannot say."""


class Sandboxed:
    """An interpreter in a sandbox, whose variables live from call to call. Made by `start`."""

    def __init__(self, started: "_Started", level: Level, limits: Limits, scratch: str) -> None:
        self.level = level
        self.limits = limits
        self.alive = True
        self._process, self._socket, self._complaints = started
        self._scratch = scratch

    async def run(self, code: str) -> Ran:
        """Execute code; one call at a time."""
        if not self.alive:
            return Ran("", died="it had ended before")
        self.alive = False
        text = code.encode("utf-8", "surrogatepass")
        try:
            async with asyncio.timeout(self.limits.seconds + _SECONDS_LATE):
                with contextlib.suppress(ConnectionError):  # what was said before it ended can still be read
                    await asyncio.get_running_loop().sock_sendall(self._socket, struct.pack(">I", len(text)) + text)
                ran = await self._answer()
        except TimeoutError:
            ran = Ran("", timed_out=True)
        except (_Broken, OSError):
            ran = Ran("", died="its sandbox broke")
        self.alive = not ran.timed_out and ran.died is None
        if not self.alive:
            await self.close()
        return ran

    async def begin(self) -> None:
        """Wait until the interpreter is ready.

        Raises:
            NotStarted: it is not going to be.

        """
        with self._complaints:
            try:
                async with asyncio.timeout(_SECONDS_TO_START):
                    said = (await self._answer(starting=True)).died
            except TimeoutError:
                said = f"it was not ready after {_SECONDS_TO_START:g} s"
            except (_Broken, OSError):
                await self.close()
                self._complaints.seek(0)
                lines = self._complaints.read(_LONGEST_COMPLAINT).decode("utf-8", "replace").strip().splitlines()
                said = lines[-1][:_LONGEST_REASON] if lines else "it ended without a word"
        if said is not None:
            raise NotStarted(said)

    async def close(self) -> None:
        """End everything in it, and wait until it is gone."""
        self.alive = False
        self._socket.close()  # at which its supervisor ends all
        pause, waited = _SHORTEST_PAUSE, 0.0
        try:
            while self._process.poll() is None and waited < _SECONDS_TO_END:
                await asyncio.sleep(pause)
                waited += pause
                pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            self.close_now()

    def close_now(self) -> None:
        """The same without giving way to anything else, for where it must be done at once."""
        self.alive = False
        self._socket.close()
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._scratch != OWN_SCRATCH:  # where the supervisor could not remove it
            with contextlib.suppress(RecursionError):
                shutil.rmtree(self._scratch, ignore_errors=True)

    async def _answer(self, *, starting: bool = False) -> Ran:
        header = await self._read(struct.calcsize(agreed.HEADER))
        kind, reason_length, output_length = struct.unpack(agreed.HEADER, header)
        if reason_length > _LONGEST_REASON or output_length > 4 * self.limits.output_chars + _LONGEST_REASON:
            raise _Broken
        reason = (await self._read(reason_length)).decode("utf-8", "replace")
        output = (await self._read(output_length)).decode("utf-8", "replace")
        if (kind == agreed.READY) is not starting and kind != agreed.DIED:
            raise _Broken
        match kind:
            case agreed.READY | agreed.RAN:
                return Ran(output)
            case agreed.RAISED:
                return Ran(output, raised=True)
            case agreed.TIMED_OUT:
                return Ran(output, timed_out=True)
            case agreed.DIED:
                return Ran(output, died=reason)
            case _:
                raise _Broken

    async def _read(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            more = await asyncio.get_running_loop().sock_recv(self._socket, min(length - len(data), _CHUNK))
            if not more:
                raise _Broken
            data += more
        return bytes(data)


async def start(level: Level, limits: Limits | None = None, python: str | Interpreter = sys.executable) -> Sandboxed:
    """A sandbox at that level, ready for its first call; close it when done.

    Raises:
        NotStarted: it does not come up on this machine, with what it said.
        SettingsError: `python` is no interpreter.

    """
    limits = limits or Limits()
    known = await interpreter(python) if isinstance(python, str) else python
    user = spare_user()
    if reason := unavailable(level, known, user):
        raise NotStarted(reason)
    scratch = OWN_SCRATCH
    if level.name in {"landlock", "limits"}:
        scratch = tempfile.mkdtemp(prefix="gapscope-sandbox-")
        if user is not None:
            os.chown(scratch, user, user)
    try:
        started = _spawn(launch(level, known, limits, user=user, scratch=scratch))
    except OSError as error:
        if scratch != OWN_SCRATCH:
            os.rmdir(scratch)
        raise NotStarted(str(error)) from None
    sandboxed = Sandboxed(started, level, limits, scratch)
    try:
        await sandboxed.begin()
    except BaseException:
        sandboxed.close_now()
        raise
    return sandboxed


class _Started(NamedTuple):
    process: "subprocess.Popen[bytes]"
    connection: socket.socket
    complaints: IO[bytes]


def _spawn(what: Launch) -> _Started:
    """Start it; not as asyncio would, which kills at once what it is cancelled over.

    Of bubblewrap, a half would stay that waits for the other.
    """
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    complaints = tempfile.TemporaryFile()  # noqa: SIM115 (closed when it has begun)
    with theirs:
        try:
            process = subprocess.Popen(  # noqa: S603 (an interpreter, in a sandbox)
                what.command,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=complaints,
                env=what.environment,
                cwd="/",
                start_new_session=True,
            )
        except OSError:
            ours.close()
            complaints.close()
            raise
    return _Started(process, ours, complaints)
