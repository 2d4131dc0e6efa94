"""What a resampling run has done so far: a file that is only ever appended to, one line for each continuation.

The first line says what is run. A process that is killed while it writes leaves half a line, which the next run cuts
off: that continuation had not been finished. Each line is one write to the operating system, so that whatever happens
to this process, what was finished stays. Of several lines about one continuation the last counts.
"""

import errno
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, NoReturn, Self

import msgspec

from gapscope.errors import RecordError, SettingsError
from gapscope.resampler.sampling import Guarantee
from gapscope.resampler.turns import Finish
from gapscope.rollouts import Rollout

SCHEMA: Literal["gapscope.journal/1"] = "gapscope.journal/1"

UNFINISHED = "the run ended before it was judged"

_SYNC_SECONDS = 1.0
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


Key = tuple[str, int]
"""A continuation: the prefix, and its number there."""


class Begun(msgspec.Struct, tag_field="kind", tag="begun", frozen=True, kw_only=True):
    """What is sampled: a journal is continued with the same plan, model and tools, and with no others."""

    schema: Literal["gapscope.journal/1"] = SCHEMA
    plan: str
    model: str
    tools: list[str]
    malformed: str


class Entry(msgspec.Struct, tag_field="kind", tag="continuation", kw_only=True):
    """One continuation that came to its end, as number `index` (from 0) of the prefix.

    It has a verdict, or `lost` says why there is no sample, or `unjudged` why a sample has no verdict: a reason that is
    the same for all of its kind, and what is known of this one.
    """

    prefix: str
    index: int
    rollout: Rollout
    guarantee: Guarantee | None = None
    finish: Finish | None = None
    turns: int = 0
    sampled: int = 0
    calls: int = 0
    failures: int = 0
    seconds: float = 0.0
    lost: tuple[str, str] | None = None
    unjudged: tuple[str, str] | None = None

    @property
    def key(self) -> Key:
        """Which continuation it is."""
        return self.prefix, self.index


class Done(NamedTuple):
    """What is kept in memory of an entry, whose line is `size` bytes from `start` on."""

    start: int
    size: int
    correct: bool | None
    rule: str | None
    guarantee: Guarantee | None
    sampled: int
    calls: int
    failures: int
    lost: tuple[str, str] | None
    unjudged: tuple[str, str] | None


class Read(NamedTuple):
    """A journal that is there: what it was begun with, the last entry of each continuation, and where it ends."""

    begun: Begun | None
    done: dict[Key, Done]
    end: int


_decoder = msgspec.json.Decoder(Begun | Entry)
_entry = msgspec.json.Decoder(Entry).decode
_encode = msgspec.json.Encoder().encode
_HEAD = f'{{"kind":"begun","schema":"{SCHEMA}",'.encode()


def read_journal(path: Path) -> Read:
    """What a journal holds, without a last line that was not finished; nothing where there is no such file.

    Raises:
        SettingsError: the file is no journal, or was damaged in the middle.

    """
    begun: Begun | None = None
    done: dict[Key, Done] = {}
    end = 0
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.endswith(b"\n"):
                    if begun is None and line[: len(_HEAD)] != _HEAD[: len(line)]:
                        _foreign(path, "it does not begin like one")
                    break
                try:
                    record = _decoder.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    _foreign(path, f"line {number:,} cannot be read: {error}")
                if isinstance(record, Begun) is (begun is not None):
                    _foreign(path, f"line {number:,} is not one that stands there")
                if isinstance(record, Begun):
                    begun = record
                else:
                    done[record.key] = _done(record, end, len(line))
                end += len(line)
    except FileNotFoundError:
        pass
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise SettingsError(message) from None
    return Read(begun, done, end)


class Journal:
    """A journal that one run has for itself; `done` is what is finished, as far as it is kept in memory.

    A journal in which nothing was begun leaves no file.

    Raises:
        RecordError: it cannot be written, or another run is writing it.
        SettingsError: the file is no journal, or was damaged in the middle.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _locked(path)
        except OSError as error:
            raise unwritten(path, error) from None
        try:
            self._begun, self.done, self._size = read_journal(path)
            os.ftruncate(self._file, self._size)
            os.lseek(self._file, self._size, os.SEEK_SET)
        except BaseException:
            os.close(self._file)
            raise
        self._synced = time.monotonic()

    def begin(self, begun: Begun, rule: str) -> None:
        """Say what is run. What was judged by another rule has no verdict any more: its sample is judged anew.

        Raises:
            RecordError: it cannot be written.
            SettingsError: the journal is of another plan, model or other tools.

        """
        if self._begun is None:
            self._append(begun)
            self._begun = begun
        elif self._begun != begun:
            _require_same(self.path, self._begun, begun)
        for key, done in self.done.items():
            if done.correct is not None and done.rule != rule:
                self.done[key] = done._replace(correct=None, unjudged=(UNFINISHED, ""))

    def write(self, entry: Entry) -> None:
        """Append one continuation, wholly or, when it raises, not at all.

        Raises:
            RecordError: it cannot be written, such as on a full disk; what was written before stays.

        """
        start = self._size
        self._append(entry)
        self.done[entry.key] = _done(entry, start, self._size - start)

    def entry(self, key: Key) -> Entry:
        """An entry as it was written."""
        done = self.done[key]
        return _entry(os.pread(self._file, done.size, done.start))

    def rollout(self, key: Key) -> Rollout:
        """A continuation as a row of a log, which says why it has no verdict."""
        rollout, done = self.entry(key).rollout, self.done[key]
        if done.unjudged is not None:
            rollout.correct = rollout.correct_rule = rollout.reward = None
            rollout.reward_parts = []
            rollout.notes.append(f"no verdict: {done.unjudged[0]}")
        return rollout

    def _append(self, record: Begun | Entry) -> None:
        left = memoryview(_encode(record) + b"\n")
        size = self._size + len(left)
        try:
            while left:
                left = left[os.write(self._file, left) :]
            # A crash of the machine costs a second of work at most; one of this process costs none.
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                os.fsync(self._file)
                self._synced = time.monotonic()
        except OSError as error:
            os.ftruncate(self._file, self._size)
            os.lseek(self._file, self._size, os.SEEK_SET)
            raise unwritten(self.path, error) from None
        self._size = size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._begun is None:
            self.path.unlink()
        os.close(self._file)


def _locked(path: Path) -> int:
    """The file, opened, and closed to every other run as long as this process has it.

    Raises:
        OSError: it cannot be opened.
        RecordError: another run has it.

    """
    import fcntl  # not on Windows, where the rest of gapscope works

    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A run in which nothing was begun may have taken the file away since it was opened.
            if os.fstat(file).st_nlink:
                return file
        except BlockingIOError:
            os.close(file)
            message = f"another run is writing {path}"
            raise RecordError(message, hint="Wait until it has ended, or name another output with -o.") from None
        except OSError:
            os.close(file)
            raise
        os.close(file)


def _done(entry: Entry, start: int, size: int) -> Done:
    rollout, told = entry.rollout, (entry.sampled, entry.calls, entry.failures)
    rule = None if rollout.correct_rule is None else sys.intern(rollout.correct_rule)
    return Done(start, size, rollout.correct, rule, entry.guarantee, *told, entry.lost, entry.unjudged)


def _foreign(path: Path, why: str) -> NoReturn:
    message = f"{path} is no journal of a resampling run: {why}"
    raise SettingsError(message, hint="Name another output with -o, or remove this file.")


def _require_same(path: Path, was: Begun, now: Begun) -> NoReturn:
    names = (name for name in was.__struct_fields__ if getattr(was, name) != getattr(now, name))
    name = next(names)
    message = f"{path} is of a run with another {_SAID.get(name, name)}: {_of(was, name)}, and now {_of(now, name)}"
    raise SettingsError(message, hint="Run it as before, or name another output with -o.")


_SAID = {"malformed": "treatment of malformed calls", "tools": "set of tools"}


def _of(begun: Begun, name: str) -> str:
    value = getattr(begun, name)
    return (", ".join(value) or "none") if isinstance(value, list) else str(value)


def unwritten(path: Path, error: OSError) -> RecordError:
    """What to say of a file that a run could not write."""
    hint = "Make room and run the same command with --resume; what is finished is kept."
    return RecordError(f"cannot write {path}: {error.strerror or error}", hint=hint if error.errno in _FULL else None)
