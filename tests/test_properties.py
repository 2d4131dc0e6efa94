"""What holds for every log, tried on many: order, splits, repeats and damage do not change the numbers."""

import gzip
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

import gapscope as gs
from gapscope.rollouts import to_json
from gapscope.statistics import size_matched_null

pytestmark = pytest.mark.slow

SAMPLES = Path(__file__).parent.parent / "sample_logs"
LOGS = {
    "gapscope-rollout": SAMPLES / "gapscope-rollout" / "rollouts.jsonl",
    "verl-v1": SAMPLES / "verl-v1" / "6.jsonl",
    "verl-legacy": SAMPLES / "verl-legacy" / "6.jsonl",
    "trl": SAMPLES / "trl" / "completions_00006.parquet",
}
LOW = gs.Settings(min_groups=1, min_rollouts=1, min_informative=1, min_steps=2)


def tried(times: int) -> Callable[[Any], Any]:
    """The same examples in every run; an audit takes a quarter of a second: they are few, and never shrunk."""
    unhurried = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(
        max_examples=times,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=unhurried,
    )


# --- Logs ------------------------------------------------------------------------------------------------

CALL = '<tool_call>\n{"name": "calc", "arguments": {"expr": "2+2"}}\n</tool_call>'
FAILED = "<tool_response>\nError: no\n</tool_response>"
OUTPUTS = (
    "It is 4.",
    "<think>\nTwo and two.\n</think>\n\nIt is 4.",
    f"<think>\nLet me see.\n</think>\n\n{CALL}\nuser\n<tool_response>\n4\n</tool_response>\nassistant\nIt is 4.",
    f"{CALL}\nuser\n{FAILED}\nassistant\n{CALL}\nuser\n<tool_response>\n4\n</tool_response>\nassistant\nIt is 5.",
    '<tool_call>\n{"name": "calc", "argu',
    "<tool_call>\nnothing\n</tool_call>",
    f"<think>\nI could write {CALL}.\n</think>\n\nIt is 4.",
    "",
)
Rows = list[dict[str, Any]]


@st.composite
def v1_logs(draw: st.DrawFn, *, most: int = 5) -> Rows:
    """A few groups of verl's V1 trainer, of any sizes and at any of three steps."""
    rows: Rows = []
    for group in range(draw(st.integers(1, most))):
        step = draw(st.integers(1, 3))
        for session in range(draw(st.integers(1, 6))):
            rows.append(
                {
                    "input": f"user\nQuestion {group}\nassistant\n",
                    "output": draw(st.sampled_from(OUTPUTS)),
                    "gts": "4",
                    "score": float(draw(st.booleans())),
                    "step": step,
                    "uid": f"q{group}_{session}_0",
                },
            )
    return rows


def lines(rows: Rows) -> list[bytes]:
    return [json.dumps(row).encode() + b"\n" for row in rows]


def as_legacy(rows: Rows) -> Rows:
    return [{key: value for key, value in row.items() if key != "uid"} for row in rows]


@contextmanager
def folder(**files: bytes) -> Iterator[Path]:
    """A folder with these files, whose names get the ending of their format."""
    with TemporaryDirectory() as path:
        for name, content in files.items():
            (Path(path) / f"{name}.jsonl").write_bytes(content)
        yield Path(path)


def audited(path: Path, *, jobs: int = 1, correct: str | None = None) -> gs.Report:
    return gs.audit(str(path), settings=LOW, jobs=jobs, correct=correct)


def report_on(**files: bytes) -> gs.Report:
    with folder(**files) as path:
        return audited(path)


def into(store: Path, *logs: Path, jobs: int = 1) -> None:
    gs.ingest([str(log) for log in logs], gs.ReadOptions(jobs=jobs), into=store).close()


# --- The same rollouts in other places -------------------------------------------------------------------


@tried(6)
@given(rows=v1_logs(), seed=st.integers(0, 99), with_uid=st.booleans())
def test_the_order_of_the_rows_does_not_matter(rows: Rows, seed: int, with_uid: bool) -> None:
    shuffled = random.Random(seed).sample(rows, len(rows))
    if not with_uid:
        rows, shuffled = as_legacy(rows), as_legacy(shuffled)
    one, other = report_on(a=b"".join(lines(rows))), report_on(a=b"".join(lines(shuffled)))
    assert one.metrics == other.metrics
    assert (one.rows, one.groups) == (other.rows, other.groups)


@tried(5)
@given(rows=v1_logs(), deal=st.randoms(use_true_random=False), with_uid=st.booleans())
def test_it_does_not_matter_into_how_many_files_a_log_is_split(rows: Rows, deal: random.Random, with_uid: bool) -> None:
    rows = rows if with_uid else as_legacy(rows)
    hands: dict[str, bytes] = {}
    for line in lines(rows):
        name = deal.choice("abc")
        hands[name] = hands.get(name, b"") + line
    whole, split = report_on(a=b"".join(lines(rows))), report_on(**hands)
    # Files that happen to be equal byte for byte are copies of one another.
    if split.rows.duplicate == 0:
        assert whole.metrics == split.metrics
        assert (whole.rows, whole.groups) == (split.rows, split.groups)


@tried(4)
@given(rows=v1_logs())
def test_a_store_ingested_twice_gives_the_numbers_of_the_log(rows: Rows) -> None:
    with folder(a=b"".join(lines(rows))) as path, folder() as elsewhere:
        store = elsewhere / "run.duckdb"
        into(store, path)
        once = audited(store)
        into(store, path)
        assert audited(store) == once
        assert audited(path).metrics == once.metrics


@tried(5)
@given(rows=v1_logs(), cuts=st.lists(st.floats(0, 1), min_size=1, max_size=2))
def test_a_file_that_grows_in_any_steps_gives_what_it_gives_when_read_at_once(rows: Rows, cuts: list[float]) -> None:
    """Each step may end in the middle of a line, which is a refused row until the rest of it is there."""
    content = b"".join(lines(rows))
    with folder() as path:
        for cut in (*sorted(cuts), 1.0):
            part = content[: round(cut * len(content))]
            (path / "5.jsonl").write_bytes(part)
            if part.count(b"\n"):
                into(path / "run.duckdb", path / "5.jsonl")
        grown, fresh = audited(path / "run.duckdb"), audited(path / "5.jsonl")
    assert grown.metrics == fresh.metrics
    assert (grown.rows, grown.refused, grown.repairs) == (fresh.rows, [], fresh.repairs)


@tried(5)
@given(piece_bytes=st.integers(100, 20_000), jobs=st.sampled_from([1, 2]), blank=st.booleans())
@example(piece_bytes=20, jobs=2, blank=True)
def test_neither_pieces_nor_processes_change_the_report(
    piece_bytes: int, jobs: int, blank: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = LOGS["verl-legacy"].read_bytes()
    content = content[:9_000].replace(b"\n", b"\n\n") if blank else content
    with folder(a=content) as path:
        whole = audited(path)
        with monkeypatch.context() as patch:
            patch.setattr(import_module("gapscope.ingest"), "PIECE_BYTES", piece_bytes)
            patch.setattr(import_module("gapscope.ingest"), "SMALL", 0)
            assert audited(path, jobs=jobs) == whole


def test_two_processes_give_the_report_of_one_on_a_run_of_many_files() -> None:
    assert audited(SAMPLES / "collapse", jobs=2) == audited(SAMPLES / "collapse", jobs=1)


@tried(5)
@given(rows=v1_logs(), seed=st.integers(0, 99), padding=st.integers(0, 3), twice=st.integers(0, 3))
def test_padding_and_duplicates_change_no_number(rows: Rows, seed: int, padding: int, twice: int) -> None:
    rng = random.Random(seed)
    pad = {"input": "", "output": "", "gts": "4", "score": 0.0, "step": 2}
    added = [{**pad, "uid": f"pad{number}_0_0"} for number in range(padding)]
    added += rng.sample(rows, min(twice, len(rows)))
    more = list(rows)
    for row in added:
        more.insert(rng.randint(0, len(more)), row)
    plain, filled = report_on(a=b"".join(lines(rows))), report_on(a=b"".join(lines(more)))
    assert (filled.rows.padding, filled.rows.duplicate) == (padding, min(twice, len(rows)))
    assert filled.rows.read - padding - min(twice, len(rows)) == filled.rows.kept == plain.rows.kept
    untouched = {name for name in plain.metrics if not name.startswith("rows_")}
    assert {name: filled[name] for name in untouched} == {name: plain[name] for name in untouched}
    assert (filled.groups, filled.correctness) == (plain.groups, plain.correctness)


# --- Damage ----------------------------------------------------------------------------------------------

edits = st.lists(
    st.tuples(
        st.sampled_from(["flip", "delete", "insert", "cut off", "value"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=6),
        st.sampled_from([b"null", b"NaN", b"1e999", b"-1", b"9" * 25, b'"\\ud800"', b"[]", b"true", b'""', b"0.5"]),
    ),
    min_size=1,
    max_size=4,
)
Edits = list[tuple[str, float, bytes, bytes]]


def damaged(content: bytes, edits: Edits) -> bytes:
    """The bytes with some flipped, deleted, inserted or cut off, or with another value after a colon."""
    for what, place, data, value in edits:
        at = int(place * len(content))
        if what == "flip" and content:
            content = content[:at] + bytes([content[at] ^ data[0]]) + content[at + 1 :]
        elif what == "delete":
            content = content[:at] + content[at + len(data) ** 3 :]
        elif what == "insert":
            content = content[:at] + data + content[at:]
        elif what == "cut off":
            content = content[: max(at, len(content) // 3)]
        elif (start := content.find(b":", at)) >= 0:
            ends = [end for end in (content.find(b",", start), content.find(b"}", start)) if end >= 0]
            content = content[: start + 1] + value + content[min(ends, default=len(content)) :]
    return content


def ledger_adds_up(content: bytes, name: str, *, is_lines: bool) -> None:
    with TemporaryDirectory() as path:
        file = Path(path) / name
        file.write_bytes(content)
        try:
            rows = audited(file).rows
        except gs.GapscopeError:
            return
    assert rows.read == rows.kept + rows.refused + rows.padding + rows.excluded + rows.duplicate
    assert rows.kept > 0
    if is_lines:
        assert rows.read == sum(1 for line in content.split(b"\n") if line.strip())


@pytest.mark.parametrize("name", LOGS)
@tried(15)
@given(edits=edits)
def test_of_a_damaged_log_every_row_is_accounted_for(name: str, edits: Edits, few_metrics: None) -> None:
    content = damaged(LOGS[name].read_bytes(), edits)
    ledger_adds_up(content, LOGS[name].name, is_lines=name != "trl")


@tried(10)
@given(edits=edits)
def test_of_a_damaged_compressed_log_every_row_is_accounted_for(edits: Edits, few_metrics: None) -> None:
    ledger_adds_up(damaged(gzip.compress(LOGS["verl-v1"].read_bytes()), edits), "6.jsonl.gz", is_lines=False)


@pytest.mark.parametrize("name", ["verl-v1", "verl-legacy", "gapscope-rollout"])
@tried(3)
@given(edits=edits)
def test_a_damaged_log_is_measured_to_the_end(name: str, edits: Edits) -> None:
    ledger_adds_up(damaged(LOGS[name].read_bytes(), edits), LOGS[name].name, is_lines=True)


# --- The null --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["tool", "notool"])
def test_without_a_gap_a_small_p_is_no_more_frequent_than_it_says(side: str) -> None:
    """Who uses a tool is drawn anew in each group, 400 times over: P(p ≤ level) stays below the level."""
    rng = random.Random(11)
    # Groups of n with so many correct ones, and so many who use a tool.
    shapes = [(n, rng.randint(0, n // 2), rng.randint(0, n)) for n in (4, 8, 16) for _ in range(20)]
    found = []
    for _ in range(400):
        tested = []
        for n, correct, tools in shapes:
            size = tools if side == "tool" else n - tools
            right = sum(member < correct for member in rng.sample(range(n), size))
            tested.append((n, correct, size, right, 1))
        p = size_matched_null(tested).p_upper
        assert p is not None
        found.append(p)
    for level in (0.05, 0.1, 0.25, 0.5):
        share = sum(p <= level for p in found) / len(found)
        assert share <= level + 3 * (level * (1 - level) / len(found)) ** 0.5, level
    # Nor is it of no use: where the level is large, it comes close to it.
    assert sum(p <= 0.5 for p in found) / len(found) > 0.3


# --- The wire form ---------------------------------------------------------------------------------------


def records_of(path: Path) -> list[gs.Rollout]:
    records = list(gs.read([str(path)]))
    assert all(isinstance(record, gs.Rollout) for record in records)
    return [record for record in records if isinstance(record, gs.Rollout)]


def without_its_place(record: gs.Rollout) -> dict[str, Any]:
    fields = json.loads(to_json(record))
    return {key: value for key, value in fields.items() if key not in {"source", "origin"}}


@pytest.mark.parametrize("name", LOGS)
def test_a_record_survives_being_written_and_read(name: str) -> None:
    records = records_of(LOGS[name])
    with folder(rollouts=b"".join(to_json(record) + b"\n" for record in records)) as path:
        again = records_of(path)
    assert list(map(without_its_place, again)) == list(map(without_its_place, records))
    assert [record.origin for record in again] == [record.origin or record.source for record in records]


@pytest.mark.parametrize("name", LOGS)
def test_a_converted_log_gives_the_same_numbers(name: str) -> None:
    rule = "accuracy_reward>0.5" if name == "trl" else None
    with folder(rollouts=b"".join(to_json(record) + b"\n" for record in records_of(LOGS[name]))) as path:
        converted, original = audited(path, correct=rule), audited(LOGS[name], correct=rule)
    # What the trainer would have to be told is another matter in every format.
    for report in (converted, original):
        for key, measured in report.metrics.items():
            report.metrics[key] = measured.model_copy(update={"setting": None})
    assert converted.metrics == original.metrics
