"""`gapscope export` as a user meets it: what it prints and where, which file it writes, and with which exit code."""

from decimal import Decimal
from pathlib import Path

import axpo_logs
import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import gapscope

import gapscope as gs
from gapscope.axpo.plan import plan
from gapscope.axpo.plan_file import write_plan
from gapscope.plan_options import PlanOptions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan of two of six steps' worth of rollouts, and the log that it leads to."""
    folder = tmp_path_factory.mktemp("export")
    log = axpo_logs.written(folder / "log.jsonl", axpo_logs.drawn(3, steps=6))
    options = PlanOptions(step="all", r=Decimal("0.5"), k=2, weighting="token_mean")
    made = plan([log], options, settings=gs.Settings())
    write_plan(folder / "plan.jsonl", made.header, made.prefixes)
    axpo_logs.resampled(folder / "resampled.jsonl", made, 0.5)
    return folder


def test_a_batch_is_written_and_what_is_in_it_is_said_on_the_other_stream(folder: Path) -> None:
    done = gapscope("export", "resampled.jsonl", "--for", "parquet", "-o", "batch", "--plan", "plan.jsonl", cwd=folder)
    assert (done.returncode, done.stdout) == (0, "")
    rows = pq.read_table(folder / "batch.parquet").to_pylist()
    lines = done.stderr.splitlines()
    terms = [sum(row["term"] == term for row in rows) for term in ("rollout", "prefix", "continuation")]
    assert all(terms)
    counted = f"{terms[0]:,} rollouts, {terms[1]:,} prefixes, {terms[2]:,} continuations"
    assert lines[0] == f"batch.parquet: {len(rows):,} rows: {counted}"
    trained = sum(sum(row["response_mask"]) for row in rows)
    assert lines[2].startswith(f"{trained:,} tokens are trained on: ")
    assert any("left out: " in line for line in lines[3:])
    assert lines[-1].startswith("note: the rows are of 6 steps")


@pytest.mark.parametrize("trainer", ["verl", "trl"])
def test_arrays_for_a_trainer_are_read_without_pickle(folder: Path, trainer: str) -> None:
    done = gapscope("export", "resampled.jsonl", "--for", trainer, "-o", trainer, cwd=folder)
    assert done.returncode == 0
    with np.load(folder / f"{trainer}.npz", allow_pickle=False) as arrays:
        assert {len(arrays[name]) for name in arrays.files if arrays[name].ndim} == {len(arrays["term"])}


def test_an_option_beside_a_plan_that_has_another_is_refused(folder: Path) -> None:
    arguments = ("export", "resampled.jsonl", "--for", "verl", "-o", "refused", "--plan", "plan.jsonl")
    done = gapscope(*arguments, "--weighting", "question_sum", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "gapscope: weighting is question_sum, and the plan has token_mean",
        "  → Leave it out, or resample a plan that was made with it.",
    ]
    assert not (folder / "refused.npz").exists()


def test_every_option_of_the_advantages_arrives(folder: Path) -> None:
    options = {
        "--advantage.preset": "trl",
        "--advantage.ddof": "0",
        "--advantage.eps": "0.5",
        "--substitution": "joint",
        "--weighting": "question_sum",
        "--correct": "correct",
    }
    given = [word for pair in options.items() for word in pair if pair[0] != "--correct"]
    done = gapscope(
        "export", "resampled.jsonl", "--for", "parquet", "-o", "all", *given, "--recovery.require-executed", cwd=folder
    )
    assert done.returncode == 0
    assert "note: not AXPO: recovered only if the call was executed" in done.stderr
    about = pq.read_schema(folder / "all.parquet").metadata[b"gapscope.batch"].decode()
    for said in ('"trl"', '"advantage.ddof": 0', '"advantage.eps": 0.5', '"joint"', '"question_sum"', "true"):
        assert said in about


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("resampled.jsonl", "--for", "nemo", "-o", "b"), "'nemo' is not one of"),
        (("nothing.jsonl", "--for", "verl", "-o", "b"), "nothing.jsonl"),
        (("-", "--for", "verl", "-o", "b"), "standard input cannot be"),
        (("resampled.jsonl", "--for", "verl", "-o", "resampled.jsonl"), "is the log that is read"),
        (("resampled.jsonl", "--for", "verl", "-o", "b", "--plan", "log.jsonl"), "is no plan"),
        (("resampled.jsonl", "--for", "verl", "-o", "b", "--correct", "acc"), "unknown field 'acc'"),
        (("resampled.jsonl", "--for", "verl", "-o", "b", "--advantage.eps", "nan"), "--advantage.eps"),
    ],
)
def test_what_cannot_be_exported_is_said_with_exit_code_two(
    folder: Path, arguments: tuple[str, ...], said: str
) -> None:
    before = (folder / "resampled.jsonl").read_bytes()
    done = gapscope("export", *arguments, cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert (folder / "resampled.jsonl").read_bytes() == before
