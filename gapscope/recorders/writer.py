"""A file that rollouts are appended to, by as many threads and processes as like.

Each write opens the file for itself and holds an exclusive lock on it, so that neither threads nor forked children
share anything. A process that is killed while it writes leaves half a line: the next write closes it with a newline,
and the reader refuses that one row and counts it.
"""

import errno
import json
import os
from os import PathLike
from types import TracebackType
from typing import Self

import msgspec

from gapscope.errors import RecordError
from gapscope.rollouts import Rollout, to_json

_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK})


class RolloutWriter:
    """Appends rollouts to a file of `gapscope.rollout/1`, one line of JSON each.

    The file and its folder are made where they are missing; what is there stays. The same file may be written to by
    any number of writers, threads, processes and forked children at once.

    Raises:
        RecordError: the file cannot be written.

    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = os.path.abspath(path)
        self._closed = False
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            os.close(_opened(self.path))
        except OSError as error:
            raise _unwritten(self.path, error) from error

    def write(self, *rollouts: Rollout) -> None:
        """Append rollouts as whole lines, all of them or, when it raises, none.

        Raises:
            RecordError: the disk is full, the file system knows no locks, the writer is closed, or a rollout holds
                a value that JSON cannot.

        """
        if self._closed:
            message = f"the writer of {self.path} is closed"
            raise RecordError(message, hint="Write before it is closed, or make a new RolloutWriter of the same path")
        lines = b"".join(_line(rollout) for rollout in rollouts)
        if not lines:
            return
        try:
            file = _opened(self.path)
            try:
                _append(file, lines)
            finally:
                os.close(file)
        except OSError as error:
            raise _unwritten(self.path, error) from error

    def close(self) -> None:
        """Take no more rollouts; what was written is in the file already."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _opened(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)


def _append(file: int, lines: bytes) -> None:
    import fcntl  # not on Windows, where the rest of gapscope works

    fcntl.flock(file, fcntl.LOCK_EX)
    # Unlocked by name: a child that another thread forks meanwhile would hold the lock on with its copy of the file.
    try:
        size = os.fstat(file).st_size
        torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        left = memoryview(b"\n" + lines if torn else lines)
        try:
            while left:
                left = left[os.write(file, left) :]
        finally:
            if left:
                os.ftruncate(file, size)
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _line(rollout: Rollout) -> bytes:
    try:
        return to_json(rollout) + b"\n"
    except UnicodeEncodeError:
        # Half a surrogate pair cannot be UTF-8; escaped it is JSON, and the reader takes it.
        return json.dumps(msgspec.to_builtins(rollout), separators=(",", ":")).encode() + b"\n"
    except (TypeError, msgspec.MsgspecError, OverflowError, RecursionError) as error:
        message = f"rollout {rollout.rollout_id or '(without an id)'} holds a value that JSON cannot: {error}"
        hint = "Pass numbers, texts, lists and dictionaries; turn arrays and tensors into lists first"
        raise RecordError(message, hint=hint) from error


def _unwritten(path: str, error: OSError) -> RecordError:
    hint = None
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        hint = "Free some space: the file ends with the last whole rollout, and may be appended to"
    elif error.errno in _NO_LOCKS:
        hint = "The file system knows no locks: write to a local disk"
    return RecordError(f"cannot write rollouts to {path}: {error.strerror or error}", hint=hint)
