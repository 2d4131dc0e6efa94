"""A file of rollouts stays readable whoever writes to it, and however they end."""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gapscope.errors import RecordError
from gapscope.ingest import read
from gapscope.recorders import RolloutWriter, recorded
from gapscope.rollouts import Refused, Rollout, to_json


def rollout(name: str, text: str = "It is 4 €.") -> Rollout:
    return recorded("2+2?", text, step=1, group="g", rollout_id=name)


def ids_in(path: Path) -> list[str | None]:
    return [record.rollout_id for record in read([path]) if isinstance(record, Rollout)]


def refused_in(path: Path) -> int:
    return sum(isinstance(record, Refused) for record in read([path]))


def test_what_was_written_is_read_again_and_what_was_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "rollouts.jsonl"
    with RolloutWriter(path) as writer:
        writer.write(rollout("a"), rollout("b"))
        writer.write()
    RolloutWriter(str(path)).write(rollout("c"))
    assert ids_in(path) == ["a", "b", "c"]
    assert next(iter(read([path]))).output == "It is 4 €."  # type: ignore[union-attr]


def test_threads_that_share_a_writer_lose_nothing(tmp_path: Path) -> None:
    writer = RolloutWriter(tmp_path / "rollouts.jsonl")

    def write(thread: int) -> None:
        for row in range(20):
            writer.write(rollout(f"{thread}-{row}"))

    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ids_in(Path(writer.path))) == sorted(f"{thread}-{row}" for thread in range(8) for row in range(20))
    assert refused_in(Path(writer.path)) == 0


_FORKS = """
import os, sys, threading
from gapscope.recorders import RolloutWriter, recorded
writer = RolloutWriter(sys.argv[1])

def write(name):
    for row in range(10):
        writer.write(recorded("2+2?", "4" * 3000, rollout_id=f"{name}-{row}"))

def fork(child):
    if os.fork() == 0:
        threads = [threading.Thread(target=write, args=(f"{sys.argv[2]}-{child}-{thread}",)) for thread in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os._exit(0)

for child in range(3):
    fork(child)
write(f"{sys.argv[2]}-parent")
while True:
    try:
        if os.wait()[1]:
            sys.exit(1)
    except ChildProcessError:
        break
"""


def test_processes_their_forks_and_the_threads_of_those_may_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    running = [subprocess.Popen([sys.executable, "-c", _FORKS, str(path), name]) for name in ("x", "y")]
    assert [process.wait() for process in running] == [0, 0]
    # Of each: three forks of three threads, and itself, ten rows each.
    assert len(ids_in(path)) == len(set(ids_in(path))) == 2 * (3 * 3 + 1) * 10
    assert refused_in(path) == 0


_ENDLESS = """
import itertools, sys
from gapscope.recorders import RolloutWriter, recorded
writer = RolloutWriter(sys.argv[1])
for row in itertools.count():
    writer.write(recorded("2+2?", "4" * 4_000_000, rollout_id=str(row), dialect="hermes"))
    print(row, flush=True)
"""


def test_a_process_that_is_killed_loses_the_row_it_was_writing_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    command = [sys.executable, "-c", _ENDLESS, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        said = [int(running.stdout.readline()) for _ in range(5)]
        running.send_signal(signal.SIGKILL)
        sure = max(said + [int(line) for line in running.stdout.read().split()])
    RolloutWriter(path).write(rollout("after"))
    written = ids_in(path)
    assert written[: sure + 1] == [str(row) for row in range(sure + 1)]
    # A row may have been written whole before the process could say so.
    assert written[sure + 1 :] in (["after"], [str(sure + 1), "after"])
    assert refused_in(path) <= 1


def test_a_file_that_was_cut_anywhere_loses_the_row_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    row = to_json(rollout("a"))
    whole = row + b"\n" + row.replace(b'"a"', b'"b"') + b"\n"
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        RolloutWriter(path).write(rollout("after"))
        kept = (cut >= len(row)) + (cut >= len(whole) - 1)
        torn = cut not in {0, len(row), len(row) + 1, len(whole) - 1, len(whole)}
        lines = path.read_bytes().split(b"\n")
        assert len(lines) == kept + torn + 2
        assert lines[-1] == b""
        if cut % 60 == 0 or not torn:
            assert ids_in(path) == [*["a", "b"][:kept], "after"]
            assert refused_in(path) == torn


@contextmanager
def no_room_beyond(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_without_room_nothing_of_the_row_is_left_and_writing_goes_on_when_there_is_some(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    writer = RolloutWriter(path)
    writer.write(rollout("a"))
    before = path.read_bytes()
    with no_room_beyond(len(before) + 100), pytest.raises(RecordError, match=r"cannot write rollouts to .*too large"):
        writer.write(rollout("b"), rollout("c"))
    assert path.read_bytes() == before
    writer.write(rollout("d"))
    assert ids_in(path) == ["a", "d"]


@pytest.mark.parametrize(
    ("number", "said"), [("ENOSPC", "No space left on device\nFree some space"), ("ENOLCK", "knows no locks")]
)
def test_a_full_disk_and_a_disk_without_locks_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str, said: str
) -> None:
    writer = RolloutWriter(tmp_path / "rollouts.jsonl")

    def fail(*_: object) -> int:
        code = getattr(errno, number)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(RecordError, match=said):
        writer.write(rollout("a"))


def test_a_write_that_the_system_takes_in_parts_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rollouts.jsonl"
    writer, whole = RolloutWriter(path), os.write
    monkeypatch.setattr(os, "write", lambda file, content: whole(file, content[:100]))
    writer.write(rollout("a"), rollout("b"))
    assert ids_in(path) == ["a", "b"]


def test_half_a_character_is_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    RolloutWriter(path).write(rollout("a", "half: \ud83d"))
    assert ids_in(path) == ["a"]
    assert refused_in(path) == 0


def test_a_value_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    writer = RolloutWriter(tmp_path / "rollouts.jsonl")
    with pytest.raises(RecordError, match="rollout b holds a value that JSON cannot"):
        writer.write(rollout("a"), recorded("2+2?", "4", rollout_id="b", extra={"image": object()}))
    assert Path(writer.path).read_bytes() == b""


def test_a_closed_writer_takes_no_more(tmp_path: Path) -> None:
    with RolloutWriter(tmp_path / "rollouts.jsonl") as writer:
        pass
    with pytest.raises(RecordError, match="is closed"):
        writer.write(rollout("a"))


def test_a_file_that_cannot_be_made_is_refused_before_the_run_begins(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot write rollouts to"):
        RolloutWriter(tmp_path / "file" / "rollouts.jsonl")
