"""Finding logs, recognising them, and taking them in: all at once or bit by bit, the result is the same."""

import gzip
import io
import json
import os
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

import gapscope as gs
from gapscope.containers import head
from gapscope.detect import Detected, detect, dialects_in
from gapscope.parsers import PARSERS
from gapscope.sources import find

Audit = Callable[..., gs.Report]
Row = Callable[..., dict[str, Any]]
Log = Callable[..., Path]
SAMPLES = Path(__file__).parent.parent / "sample_logs"
ONE_OF_EACH = {
    "gapscope-rollout": SAMPLES / "gapscope-rollout" / "rollouts.jsonl",
    "verl-v1": SAMPLES / "verl-v1" / "6.jsonl",
    "verl-legacy": SAMPLES / "verl-legacy" / "6.jsonl",
    "trl": SAMPLES / "trl" / "completions_00006.parquet",
}
COLLAPSE = SAMPLES / "collapse"
every_format = pytest.mark.parametrize("name", ONE_OF_EACH)


def into(store: Path, *logs: Path | str, jobs: int = 1, **options: Any) -> None:
    gs.ingest([str(log) for log in logs], gs.ReadOptions(jobs=jobs, **options), into=store).close()


def in_store(store: Path, query: str) -> list[tuple[Any, ...]]:
    with gs.open_store(store) as opened:
        return opened.rows(query)


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


# --- Recognising -----------------------------------------------------------------------------------------


@every_format
def test_exactly_one_parser_claims_every_row_of_a_sample(name: str) -> None:
    ((file,), _) = find([str(ONE_OF_EACH[name])])
    for row in head(file):
        assert [p.name for p in PARSERS if file.container in p.containers and p.claims(row.value)] == [name]


@every_format
def test_a_format_is_recognised_whatever_the_file_is_called(name: str, tmp_path: Path) -> None:
    renamed = tmp_path / "some notes.txt"
    shutil.copyfile(ONE_OF_EACH[name], renamed)
    ((file,), _) = find([str(renamed)])
    detected = detect(file)
    assert isinstance(detected, Detected)
    assert detected.parser.name == name
    assert dialects_in([file], detected.parser).dialect.name == "hermes"
    assert detected.claimed == detected.sampled


def test_a_trainer_can_be_named_in_any_case_and_its_formats_are_still_told_apart(audit: Audit) -> None:
    assert audit(ONE_OF_EACH["verl-v1"], trainer="VERL").formats[0].format == "verl-v1"
    assert audit(ONE_OF_EACH["verl-legacy"], trainer="verl").formats[0].format == "verl-legacy"


def test_formats_can_be_mixed_in_one_audit(audit: Audit) -> None:
    report = audit(ONE_OF_EACH["verl-v1"], ONE_OF_EACH["verl-legacy"], ONE_OF_EACH["trl"], correct="score>=1")
    assert {(reading.format, reading.rows) for reading in report.formats} == {
        ("verl-v1", 32), ("verl-legacy", 32), ("trl", 32),
    }  # fmt: skip
    assert (report.rows.read, report.rows.kept, report.groups.groups) == (96, 96, 12)
    assert (report.correctness.known, report.correctness.unknown) == (64, 32)


# --- Opening ---------------------------------------------------------------------------------------------


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content)


def zstandard(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gapscope-rollout", "verl-v1", "verl-legacy"])
def test_a_compressed_log_is_the_same_log(name: str, audit: Audit, tmp_path: Path) -> None:
    """By its first bytes, not by its name; also when it was compressed in several goes."""
    lines = lines_of(ONE_OF_EACH[name])
    plain, packed = tmp_path / "plain" / "6.jsonl", tmp_path / "packed" / "6.jsonl"
    for path in (plain, packed):
        path.parent.mkdir()
    plain.write_bytes(b"".join(lines))
    expected = audit(plain).metrics
    for compress in (gzipped, zstandard):
        packed.write_bytes(compress(b"".join(lines[:10])) + compress(b"".join(lines[10:])))
        assert audit(packed).metrics == expected


def test_a_folder_a_glob_and_a_list_of_files_are_the_same_log(audit: Audit) -> None:
    files = [COLLAPSE / f"{step}.jsonl" for step in range(1, 21)]
    whole = audit(COLLAPSE)
    assert audit(*reversed(files)).metrics == whole.metrics
    assert audit(COLLAPSE / "*.jsonl").metrics == whole.metrics
    assert audit(COLLAPSE, files[3], COLLAPSE / "1?.jsonl").rows == whole.rows


def test_folders_are_searched_to_the_bottom_and_hidden_files_are_not_read(
    audit: Audit, log: Log, legacy: Row, tmp_path: Path
) -> None:
    log([legacy()], "run/a/b/3.jsonl")
    log([legacy(output="Other.")], "run/a/4.jsonl")
    log([legacy()], "run/.cache/5.jsonl")
    log([legacy()], "run/a/.6.jsonl.tmp")
    report = audit(tmp_path / "run")
    assert (report.rows.read, report.steps, report.passed_over) == (2, [3], [])


def test_files_come_in_the_order_in_which_people_count(tmp_path: Path) -> None:
    for name in ("10.jsonl", "2.jsonl", "1.jsonl"):
        (tmp_path / name).write_text("{}\n")
    assert [Path(file.path).name for file in find([str(tmp_path)])[0]] == ["1.jsonl", "2.jsonl", "10.jsonl"]


@pytest.mark.parametrize("compress", [bytes, gzipped])
def test_standard_input_is_a_log(compress: Callable[[bytes], bytes], audit: Audit, monkeypatch: Any) -> None:
    content = compress(ONE_OF_EACH["verl-v1"].read_bytes())
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    report = audit("-")
    assert (report.rows.kept, report.sources, report.runs) == (32, ["-"], [])
    assert report["accuracy"].value == 6 / 32
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert len(list(gs.read("-"))) == 32


# --- Runs and groups -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["3.jsonl", "rollouts.jsonl"])
def test_two_folders_are_two_runs_and_their_groups_are_not_merged(
    name: str, audit: Audit, log: Log, legacy: Row, tmp_path: Path
) -> None:
    log([legacy(output="Four."), legacy(output="Five.", score=0.0)], f"a/{name}")
    log([legacy(output="Six.", score=0.0), legacy(output="Seven.", score=0.0)], f"b/{name}")
    report = audit(tmp_path / "a", tmp_path / "b")
    assert report.groups.sizes == {"2": 2}
    assert report.runs == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert [(row["value"], row["n"]) for row in report["accuracy"].by["run"]] == [(0.5, 2), (0.0, 2)]


def test_one_folder_is_one_run_however_it_is_spelled(
    audit: Audit, log: Log, legacy: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log([legacy(step=...)], "a/3.jsonl")
    log([legacy(step=...)], "a/4.jsonl")
    monkeypatch.chdir(tmp_path)
    assert audit("a/3.jsonl", "./a/../a/4.jsonl").runs == ["a"]


def test_training_and_validation_are_never_pooled(audit: Audit, log: Log, v1: Row, tmp_path: Path) -> None:
    """verl writes `reward` beside `score` in validation only."""
    log([v1("a_0_0"), v1("a_1_0", score=0.0)], "run/train/3.jsonl")
    log([v1(f"b_{n}_0", reward=1.0) for n in range(4)], "run/val/3.jsonl")
    report = audit(tmp_path / "run")
    assert (report.scope, report.rollouts, report.rows.kept) == ("train", 2, 6)
    assert (report["accuracy"].value, report["accuracy"].n) == (0.5, 2)
    assert [(row["split"], row["value"], row["n"]) for row in report["accuracy"].by["split"]] == [
        ("train", 0.5, 2), ("validation", 1.0, 4),
    ]  # fmt: skip
    alone = audit(tmp_path / "run" / "val")
    assert (alone.scope, alone["accuracy"].value, alone["accuracy"].n) == ("validation", 1.0, 4)


def test_two_generation_batches_of_one_step_are_not_taken_for_one(audit: Audit, tmp_path: Path) -> None:
    """Positions in a file name TRL's groups, and two files have the same positions."""
    import pyarrow.parquet as pq

    table = pq.read_table(ONE_OF_EACH["trl"])
    pq.write_table(table, tmp_path / "a_00006.parquet")
    column = table.column_names.index("answer")
    pq.write_table(table.set_column(column, "answer", pa.array(["x"] * 32)), tmp_path / "b_00006.parquet")
    report = audit(tmp_path, correct="accuracy_reward>0.5")
    assert (report.rows.kept, report.rows.duplicate, report.groups.sizes) == (64, 0, {"8": 8})


def test_a_batch_that_trl_wrote_again_under_a_later_step_counts_once(audit: Audit, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(ONE_OF_EACH["trl"])
    pq.write_table(table, tmp_path / "completions_00006.parquet")
    pq.write_table(table.set_column(0, "step", pa.array([8] * 32)), tmp_path / "completions_00008.parquet")
    os.utime(tmp_path / "completions_00006.parquet", ns=(1, 1))
    report = audit(tmp_path, correct="accuracy_reward>0.5")
    assert (report.rows.kept, report.rows.duplicate, report.steps) == (32, 32, [8])


def test_groups_can_be_made_from_any_field(audit: Audit, log: Log, legacy: Row) -> None:
    """An extra of the log, a text or a number, or what the format itself calls a field."""
    rows = [legacy(question=f"q{n % 3}", number=n % 2, gts=str(n % 6), output=str(n)) for n in range(12)]
    path = log(rows)
    for field, sizes in (("question", {"4": 3}), ("number", {"6": 2}), ("gts", {"2": 6}), ("input", {"12": 1})):
        report = audit(path, group=field)
        assert (report.groups.sizes, report.groups.key) == (sizes, "the field given with --group"), field


def test_rows_without_the_field_keep_their_own_group_and_the_report_says_so(
    audit: Audit, log: Log, legacy: Row
) -> None:
    path = log([legacy(question="q"), legacy(question="q"), legacy(), legacy()])
    report = audit(path, group="question")
    assert report.groups.sizes == {"2": 2}
    assert report.groups.key == "the field given with --group, step, prompt and ground truth (fallback)"


def test_a_field_to_group_by_that_the_log_does_not_have_is_an_error(
    audit: Audit, log: Log, legacy: Row, tmp_path: Path
) -> None:
    path = log([legacy(question_id="q")])
    with pytest.raises(gs.UnknownName, match=r"unknown field.*'question'\n.*question_id"):
        audit(path, group="question")
    with pytest.raises(gs.UnknownName, match="question_id"):
        into(tmp_path / "run.duckdb", path, group="question")


# --- Stores ----------------------------------------------------------------------------------------------


def test_a_store_gives_the_same_numbers_as_the_logs(audit: Audit, tmp_path: Path) -> None:
    into(tmp_path / "run.duckdb", COLLAPSE)
    stored, direct = audit(tmp_path / "run.duckdb"), audit(COLLAPSE)
    assert stored.metrics == direct.metrics
    assert (stored.rows, stored.groups, stored.correctness) == (direct.rows, direct.groups, direct.correctness)


def test_ingesting_twice_is_ingesting_once(tmp_path: Path) -> None:
    store = tmp_path / "run.duckdb"
    everything = "SELECT * FROM rollouts ORDER BY id"
    into(store, COLLAPSE)
    before = in_store(store, everything)
    into(store, COLLAPSE)
    into(store, COLLAPSE / "4.jsonl", COLLAPSE)
    assert in_store(store, everything) == before


def test_of_a_grown_file_only_the_new_lines_are_read(audit: Audit, log: Log, tmp_path: Path) -> None:
    lines = lines_of(ONE_OF_EACH["verl-v1"])
    store = tmp_path / "run.duckdb"
    path = log(b"".join(lines[:20]), "6.jsonl")
    into(store, path)
    before = in_store(store, "SELECT id, line, byte_offset FROM rollouts ORDER BY id")
    log(b"".join(lines), "6.jsonl")
    into(store, path)
    after = in_store(store, "SELECT id, line, byte_offset FROM rollouts ORDER BY id")
    assert after[:20] == before
    assert [line for _, line, _ in after] == list(range(1, 33))
    assert audit(store).metrics == audit(path).metrics


@pytest.mark.parametrize("left", [7, -1])
def test_a_last_line_that_was_cut_off_is_read_again_once_it_is_whole(
    left: int, audit: Audit, log: Log, tmp_path: Path
) -> None:
    """`left` bytes of line 21 were there; -1 is all of it but the newline, which makes it a row already."""
    lines = lines_of(ONE_OF_EACH["verl-v1"])
    store = tmp_path / "run.duckdb"
    path = log(b"".join(lines[:20]) + lines[20][:left], "7.jsonl")
    into(store, path)
    log(b"".join(lines), "7.jsonl")
    into(store, path)
    grown, fresh = audit(store), audit(path)
    assert (grown.metrics, grown.rows, grown.refused) == (fresh.metrics, fresh.rows, [])
    assert grown.repairs == fresh.repairs == {"step_differs_from_file_name": 32}


def test_a_changed_file_is_read_again(audit: Audit, log: Log, v1: Row, tmp_path: Path) -> None:
    store = tmp_path / "run.duckdb"
    path = log([v1(f"g_{n}_0", score=0.0) for n in range(6)])
    into(store, path)
    log([v1(f"h_{n}_0") for n in range(4)])
    into(store, path)
    report = audit(store)
    assert (report.rows.read, report.rows.kept, report["accuracy"].value) == (4, 4, 1.0)


def test_a_change_in_the_middle_of_a_long_file_is_noticed(audit: Audit, log: Log, legacy: Row, tmp_path: Path) -> None:
    """Beyond what the checksum of a file's beginning covers."""
    store = tmp_path / "run.duckdb"
    rows = [legacy(output="x" * 1000, score=0.0) for _ in range(400)]
    path = log(rows)
    into(store, path)
    rows[200] = legacy(output="x" * 1000, score=1.0)
    log(rows)
    into(store, path)
    assert audit(store)["accuracy"].value == 1 / 400


def test_a_compressed_file_that_has_grown_is_read_again_as_a_whole(audit: Audit, log: Log, tmp_path: Path) -> None:
    lines = lines_of(ONE_OF_EACH["verl-v1"])
    store = tmp_path / "run.duckdb"
    for count in (20, 32):
        into(store, log(gzipped(b"".join(lines[:count])), "6.jsonl.gz"))
        assert audit(store).rows.kept == count


def test_a_store_knows_a_file_by_its_place_and_not_by_its_spelling(
    audit: Audit, log: Log, legacy: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, path = tmp_path / "run.duckdb", log([legacy(), legacy()], "a/3.jsonl")
    monkeypatch.chdir(tmp_path)
    into(store, "a/3.jsonl")
    into(store, "./a/3.jsonl")
    monkeypatch.chdir(tmp_path / "a")
    into(store, "3.jsonl", path)
    report = audit(store)
    assert (report.rows.read, report.rows.kept, report.groups.sizes) == (2, 2, {"2": 1})


def test_a_copy_counts_once_whenever_it_comes(audit: Audit, log: Log, legacy: Row, tmp_path: Path) -> None:
    rows = [legacy(), legacy(score=0.0)]
    first, copy, store = log(rows, "3.jsonl"), log(rows, "copy of 3.jsonl"), tmp_path / "run.duckdb"
    assert audit(first, copy).rows.model_dump() == {
        "read": 4,
        "kept": 2,
        "refused": 0,
        "padding": 0,
        "excluded": 0,
        "duplicate": 2,
        "continuations": 0,
    }
    into(store, first)
    into(store, first, copy)
    assert audit(store).rows.model_dump() == {
        "read": 4,
        "kept": 2,
        "refused": 0,
        "padding": 0,
        "excluded": 0,
        "duplicate": 2,
        "continuations": 0,
    }
    log([legacy(score=0.0), legacy(score=0.0), legacy(score=0.0)], "3.jsonl")
    into(store, first)
    report = audit(store)
    assert (report.rows.kept, report["accuracy"].value) == (5, 1 / 5)


def test_what_comes_from_standard_input_is_added_unless_it_came_before(
    audit: Audit, legacy: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "run.duckdb"
    kept = []
    for step in (1, 2, 2):
        content = b"".join(json.dumps(legacy(step=step)).encode() + b"\n" for _ in range(step))
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        into(store, "-")
        kept.append(audit(store).rows.kept)
    assert kept == [1, 3, 3]


def test_an_error_leaves_the_store_as_it_was(audit: Audit, log: Log, legacy: Row, tmp_path: Path) -> None:
    store, path = tmp_path / "run.duckdb", log([legacy(), legacy()])
    into(store, path)
    before = store.read_bytes()
    for logs, options in (([tmp_path / "missing"], {}), ([path], {"group": "score"}), ([path], {"trainer": "nobody"})):
        with pytest.raises(gs.GapscopeError):
            into(store, *logs, **options)
    assert audit(store).rows.kept == 2
    assert in_store(store, "SELECT count(*) FROM rollouts") == [(2,)]
    assert store.read_bytes() == before


def test_a_failed_first_ingest_does_not_stand_in_the_way_of_the_next(
    audit: Audit, log: Log, legacy: Row, tmp_path: Path
) -> None:
    store, path = tmp_path / "run.duckdb", log([legacy(), legacy()])
    with pytest.raises(gs.UnknownName):
        into(store, path, group="nothing")
    into(store, path)
    report = audit(store)
    assert (report.rows.kept, report.groups.key) == (2, "step, prompt and ground truth (fallback)")


# --- Pieces ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("piece_bytes", [500, 4_000])
def test_lines_and_offsets_point_to_the_row_whatever_the_pieces(
    jobs: int, piece_bytes: int, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Across blank lines, Windows line ends, a row that is refused and rows longer than a piece."""
    monkeypatch.setattr(import_module("gapscope.ingest"), "PIECE_BYTES", piece_bytes)
    lines = [line for step in (1, 2) for line in lines_of(COLLAPSE / f"{step}.jsonl")]
    lines[5] = lines[5].replace(b"\n", b"\r\n")
    lines[17:17] = [b"\n", b"  \r\n", b"not a row\n", b"\n"]
    path, store = log(b"".join(lines), "mixed.jsonl"), tmp_path / "run.duckdb"
    into(store, path, jobs=jobs)
    offsets = [0]
    for line in lines:
        offsets.append(offsets[-1] + len(line))
    found = in_store(store, "SELECT line, byte_offset, rollout_id, output_index FROM rollouts ORDER BY line")
    assert len(found) == len(lines) - 4
    for number, offset, rollout_id, output_index in found:
        assert offset == offsets[number - 1]
        assert json.loads(lines[number - 1])["uid"] == f"{rollout_id}_{output_index}"
    read = [record for record in gs.read(path) if isinstance(record, gs.Rollout)]
    assert [(r.source.line, r.source.offset) for r in read] == [(number, offset) for number, offset, *_ in found]
    assert in_store(store, "SELECT line, byte_offset, excerpt FROM refused") == [(20, offsets[19], "not a row·")]
    assert in_store(store, "SELECT lines, whole_until FROM files") == [(len(lines), offsets[-1])]
