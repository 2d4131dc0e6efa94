"""The benchmark compares like with like: what its contenders count is the same, and right."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent / "benchmarks"


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(FOLDER / script), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """A log of 3 MB, and what its writer says is in it."""
    path = tmp_path_factory.mktemp("benchmark") / "run.jsonl"
    return path, json.loads(run("generate.py", str(path), "--megabytes", "3"))


def test_the_log_is_as_large_as_asked_for_and_looks_like_verl(log: tuple[Path, dict[str, int]]) -> None:
    path, written = log
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert 3.0 <= path.stat().st_size / 1e6 < 3.2
    assert {tuple(row) for row in rows} == {("input", "output", "gts", "score", "step", "acc")}
    assert len(rows) == written["rollouts"]
    assert sum("<tool_call>" in row["output"] for row in rows) == written["attempts"]
    assert not any("<tool_call>" in row["output"].partition("</think>")[0] for row in rows)
    assert 6_000 < sum(len(row["output"]) for row in rows) / len(rows) < 10_000
    assert 0.2 < written["attempts"] / written["rollouts"] < 0.4


def test_a_larger_log_has_several_steps_and_one_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one.jsonl", "two.jsonl")]
    for path in paths:
        run("generate.py", str(path), "--megabytes", "8")
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert {json.loads(line)["step"] for line in paths[0].read_bytes().splitlines()} == {1, 2}


@pytest.mark.parametrize("name", ["plain-loop", "duckdb", "pandas"])
def test_a_contender_counts_what_was_written(log: tuple[Path, dict[str, int]], name: str) -> None:
    path, written = log
    counts = json.loads(run("contenders.py", name, str(path)))
    assert counts == {key: written[key] for key in counts}
    assert "attempts" in counts


def test_the_benchmark_runs_all_contenders_and_finds_that_they_agree() -> None:
    printed = run("audit.py", "--megabytes", "1", "--repeat", "1")
    assert "agreed" in printed
    assert all(name in printed for name in ("msgspec loop", "DuckDB", "pandas", "gapscope audit"))
    assert sum(line.startswith(("met ", "missed ")) for line in printed.splitlines()) == 4


def test_the_benchmark_of_formats_finds_in_every_log_what_was_written() -> None:
    command = [sys.executable, "-m", "tests.benchmarks.formats", "--megabytes", "1", "--repeat", "1"]
    result = subprocess.run(command, cwd=FOLDER.parent.parent, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert "every rollout that was written" in result.stdout
    assert all(name in result.stdout for name in ("verl", "TRL", "verifiers", "NeMo-Gym", "slime"))
