"""One sandbox from the outside: started, given code, and ended."""

import asyncio
import contextlib
import os
import shutil
import struct
import sys
import tempfile
from asyncio import StreamReader, StreamWriter
from typing import NamedTuple

from gapscope.sandbox.inside import supervise
from gapscope.sandbox.launch import OWN_SCRATCH, launch, spare_user, unavailable
from gapscope.sandbox.levels import Level
from gapscope.sandbox.limits import Limits
from gapscope.sandbox.readable import Interpreter, interpreter

_SECONDS_TO_START = 20.0
_SECONDS_LATE = 5.0
"""How long beyond its limit a supervisor may take to say that a call has ended, on a machine that is busy."""
_SECONDS_TO_END = 10.0
_LONGEST_REASON = 1000
_WITHOUT_PIPES = "it was started without pipes"


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

    def __init__(self, process: asyncio.subprocess.Process, level: Level, limits: Limits, scratch: str) -> None:
        self.level = level
        self.limits = limits
        self.alive = True
        self._process = process
        self._streams = _streams(process)
        self._scratch = scratch

    async def run(self, code: str) -> Ran:
        """Execute code; one call at a time."""
        if not self.alive:
            return Ran("", died="it had ended before")
        self.alive = False
        text = code.encode("utf-8", "surrogatepass")
        try:
            async with asyncio.timeout(self.limits.seconds + _SECONDS_LATE):
                stdin = self._streams[0]
                stdin.write(struct.pack(">I", len(text)) + text)
                await stdin.drain()
                ran = await self._answer()
        except TimeoutError:
            ran = Ran("", timed_out=True)
        except (_Broken, OSError) as error:
            ran = Ran("", died=f"its sandbox broke: {error}" if str(error) else "its sandbox broke")
        self.alive = not ran.timed_out and ran.died is None
        if not self.alive:
            await self.close()
        return ran

    async def begin(self) -> None:
        """Wait until the interpreter is ready.

        Raises:
            NotStarted: it is not going to be.

        """
        said = ""
        try:
            async with asyncio.timeout(_SECONDS_TO_START):
                said = (await self._answer(starting=True)).died or ""
        except TimeoutError:
            said = f"it was not ready after {_SECONDS_TO_START:g} s"
        except (_Broken, OSError):
            said = await self._complaint()
        if said:
            raise NotStarted(said)

    async def close(self) -> None:
        """End everything in it, and wait until it is gone.

        The supervisor ends by itself when it can read no more calls, so this may be cancelled.
        """
        self.alive = False
        stdin, stdout, stderr = self._streams
        stdin.close()
        try:
            async with asyncio.timeout(_SECONDS_TO_END):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SECONDS_TO_END):
                for stream in (stdout, stderr):
                    while await stream.read(1 << 16):
                        pass
        if self._scratch != OWN_SCRATCH:  # where the supervisor could not remove it
            with contextlib.suppress(RecursionError):
                shutil.rmtree(self._scratch, ignore_errors=True)

    async def _answer(self, *, starting: bool = False) -> Ran:
        stdout = self._streams[1]
        try:
            header = await stdout.readexactly(struct.calcsize(supervise.HEADER))
            kind, reason_length, output_length = struct.unpack(supervise.HEADER, header)
            if reason_length > _LONGEST_REASON or output_length > 4 * self.limits.output_chars + _LONGEST_REASON:
                raise _Broken
            reason = (await stdout.readexactly(reason_length)).decode("utf-8", "replace")
            output = (await stdout.readexactly(output_length)).decode("utf-8", "replace")
        except asyncio.IncompleteReadError:
            raise _Broken from None
        if (kind == supervise.READY) is not starting and kind != supervise.DIED:
            raise _Broken
        match kind:
            case supervise.READY | supervise.RAN:
                return Ran(output)
            case supervise.RAISED:
                return Ran(output, raised=True)
            case supervise.TIMED_OUT:
                return Ran(output, timed_out=True)
            case supervise.DIED:
                return Ran(output, died=reason)
            case _:
                raise _Broken

    async def _complaint(self) -> str:
        stderr = self._streams[2]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SECONDS_TO_END):
                lines = (await stderr.read(1 << 14)).decode("utf-8", "replace").strip().splitlines()
                if lines:
                    return lines[-1][:_LONGEST_REASON]
        return "it ended without a word"


def _streams(process: asyncio.subprocess.Process) -> tuple[StreamWriter, StreamReader, StreamReader]:
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise NotStarted(_WITHOUT_PIPES)
    return process.stdin, process.stdout, process.stderr


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
    what = launch(level, known, limits, user=user, scratch=scratch)
    try:
        process = await asyncio.create_subprocess_exec(
            *what.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=what.environment,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        if scratch != OWN_SCRATCH:
            os.rmdir(scratch)
        raise NotStarted(str(error)) from None
    sandboxed = Sandboxed(process, level, limits, scratch)
    try:
        await sandboxed.begin()
    except BaseException:
        await sandboxed.close()
        raise
    return sandboxed
