"""The journal of a resampling run: nothing is lost whenever it is killed, and nothing is taken that is not whole."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from double_logs import groups, planned, write

from gapscope.axpo.continuations import continuation
from gapscope.errors import RecordError, SettingsError
from gapscope.plans import PlannedPrefix
from gapscope.resampler.journal import Begun, Entry, Journal, read_journal

BEGUN = Begun(plan="p", model="m", tools=["calc"], malformed="trainer")


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> PlannedPrefix:
    return planned(write(tmp_path_factory.mktemp("journal") / "log.jsonl", groups(1))).prefixes[0]


def begun(path: Path, how: Begun = BEGUN, *, rule: str = "exact_match") -> Journal:
    """A journal in which a run has begun, closed again where it is another run's."""
    journal = Journal(path)
    try:
        journal.begin(how, rule)
    except SettingsError:
        journal.__exit__(None, None, None)
        raise
    return journal


def entry(prefix: PlannedPrefix, index: int, text: str = "x", *, correct: bool | None = True, **fields: Any) -> Entry:
    return Entry(
        prefix=prefix.id,
        index=index,
        rollout=continuation(prefix, index, text, correct=correct, rule="exact_match"),
        **fields,
    )


def test_what_was_written_is_there_for_the_next_run(prefix: PlannedPrefix, tmp_path: Path) -> None:
    path = tmp_path / "new" / "journal"
    with begun(path) as journal:
        journal.write(entry(prefix, 0, "first", sampled=3))
        journal.write(entry(prefix, 1, "second", correct=None, unjudged=("raised", "ValueError")))
    with begun(path) as journal:
        assert list(journal.done) == [(prefix.id, 0), (prefix.id, 1)]
        assert (journal.done[prefix.id, 0].correct, journal.done[prefix.id, 0].sampled) == (True, 3)
        assert journal.done[prefix.id, 1].unjudged == ("raised", "ValueError")
        assert journal.entry((prefix.id, 1)).rollout.output.endswith("second")


def test_the_last_entry_of_a_continuation_counts(prefix: PlannedPrefix, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with begun(path) as journal:
        journal.write(entry(prefix, 0, "", correct=None, lost=("aborted", "")))
        journal.write(entry(prefix, 0, "again"))
        assert journal.entry((prefix.id, 0)).rollout.output.endswith("again")
    assert read_journal(path).done[prefix.id, 0].lost is None


def test_it_is_whole_wherever_it_was_cut_off(prefix: PlannedPrefix, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with begun(path) as journal:
        ends = [path.stat().st_size]
        for index in range(3):
            journal.write(entry(prefix, index))
            ends.append(path.stat().st_size)
    whole = path.read_bytes()
    for size in {*range(0, len(whole), 97), *ends, *(end - 1 for end in ends), *(end + 1 for end in ends[:-1])}:
        path.write_bytes(whole[:size])
        finished = sum(end <= size for end in ends[1:])
        with begun(path) as journal:
            assert [index for _, index in journal.done] == list(range(finished))
            journal.write(entry(prefix, 3, "after"))
        assert [index for _, index in read_journal(path).done] == [*range(finished), 3]
        assert path.read_bytes().startswith(whole[: ends[finished]])


def test_two_runs_cannot_write_one_journal(prefix: PlannedPrefix, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with begun(path) as journal:
        journal.write(entry(prefix, 0))
        with pytest.raises(RecordError, match="another run is writing"):
            Journal(path)
        journal.write(entry(prefix, 1))
    assert len(read_journal(path).done) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"plan": "q"}, "another plan: p, and now q"),
        ({"model": "n"}, "another model: m, and now n"),
        ({"tools": []}, "another set of tools: calc, and now none"),
        ({"malformed": "ends"}, "another treatment of malformed calls: trainer, and now ends"),
    ],
)
def test_another_run_is_refused_and_changes_nothing(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with begun(path):
        before = path.read_bytes()
    given = {name: getattr(BEGUN, name) for name in ("plan", "model", "tools", "malformed")} | change
    with pytest.raises(SettingsError, match=said):
        begun(path, Begun(**given))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"not a journal\n", b"not a line", b'{"kind":"continuation"}\n', b"{}\n", b"{}", b"\xff\n"]
)
def test_another_file_is_refused_and_stays(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match="is no journal"):
        Journal(path)
    assert path.read_bytes() == content


def test_a_full_disk_leaves_what_was_whole(
    prefix: PlannedPrefix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    real = os.write
    with begun(path) as journal:
        journal.write(entry(prefix, 0))
        size = path.stat().st_size
        room = [100]

        def full(file: int, data: memoryview) -> int:
            if not room[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = real(file, data[: room[0]])
            room[0] -= written
            return written

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(RecordError, match="No space left on device") as raised:
            journal.write(entry(prefix, 1))
        assert raised.value.hint is not None
        assert "--resume" in raised.value.hint
        assert path.stat().st_size == size
        monkeypatch.undo()
        journal.write(entry(prefix, 1))
    assert [index for _, index in read_journal(path).done] == [0, 1]


def test_the_lock_goes_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom gapscope.resampler.journal import Begun, Journal\n"
        f"Journal(Path({str(path)!r})).begin(Begun(plan='p', model='m', tools=['calc'], malformed='trainer'), 'r')\n"
        "os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    with begun(path) as journal:
        assert not journal.done


def test_a_journal_in_which_nothing_was_begun_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path), pytest.raises(RecordError, match="another run is writing"):
        Journal(path)
    assert not path.exists()
    with begun(path):
        pass
    with Journal(path):
        pass
    assert path.exists()


def test_a_file_that_was_taken_away_while_it_was_opened_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "journal", os.open
    opened: list[int] = []

    def opening(*given: Any) -> int:
        opened.append(real(*given))
        if len(opened) == 1:
            path.unlink()
        return opened[-1]

    monkeypatch.setattr(os, "open", opening)
    with begun(path):
        assert path.exists()
    assert len(opened) == 2


def test_a_verdict_by_another_rule_is_forgotten_and_its_sample_is_not(prefix: PlannedPrefix, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with begun(path) as journal:
        for index, rule in enumerate(("exact_match", "math")):
            made = entry(prefix, index)
            made.rollout.correct_rule = rule
            journal.write(made)
    with begun(path) as journal:
        assert [done.correct for done in journal.done.values()] == [True, None]
        assert [journal.rollout(key).correct for key in journal.done] == [True, None]
        row = journal.rollout((prefix.id, 1))
        assert (row.reward, row.correct_rule, row.notes) == (
            None,
            None,
            ["no verdict: the run ended before it was judged"],
        )
        assert journal.entry((prefix.id, 1)).rollout.correct_rule == "math"


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def lockless(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", lockless)
    with pytest.raises(RecordError, match="No locks available"):
        Journal(tmp_path / "journal")
