"""The numbers of the sample logs are those of `independent.py`, which shares no code with gapscope."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gapscope as gs

SAMPLES = Path(__file__).parent.parent / "sample_logs"
LOGS = {
    "verl-legacy": ["verl-legacy/6.jsonl"],
    "verl-v1": ["verl-v1/6.jsonl"],
    "trl": ["trl/completions_00006.parquet"],
    "collapse": [f"collapse/{step}.jsonl" for step in range(1, 21)],
}
measure: Callable[[list[str]], dict[str, Any]] = runpy.run_path(str(Path(__file__).with_name("independent.py")))[
    "measure"
]


@pytest.fixture(scope="module", params=LOGS)
def both(request: pytest.FixtureRequest, audit: Callable[..., gs.Report]) -> tuple[gs.Report, dict[str, Any]]:
    paths = [str(SAMPLES / name) for name in LOGS[request.param]]
    rule = "accuracy_reward>0.5" if request.param == "trl" else None
    return audit(*paths, correct=rule), measure(paths)


def test_rows_and_rollouts_are_the_same(both: tuple[gs.Report, dict[str, Any]]) -> None:
    report, independent = both
    assert (report.rows.read, report.rollouts) == (independent["rows"], independent["rollouts"])


def test_every_rate_is_the_same(both: tuple[gs.Report, dict[str, Any]]) -> None:
    report, independent = both
    values = {name: report[name].value for name in independent["rates"]}
    assert values == pytest.approx(independent["rates"], rel=0, abs=1e-12)


def test_every_rate_of_every_step_is_the_same(both: tuple[gs.Report, dict[str, Any]]) -> None:
    report, independent = both
    checked = 0
    for name in independent["rates"]:
        table = report[name].table
        if not table:
            continue
        checked += 1
        expected = {step: rates[name] for step, rates in independent["steps"].items() if rates[name] is not None}
        assert {row["step"]: row["value"] for row in table} == pytest.approx(expected, rel=0, abs=1e-12), name
    assert checked >= 15


def test_the_sums_of_the_first_three_samples_are_those_of_their_readme(audit: Callable[..., gs.Report]) -> None:
    """16 rollouts with a structured call and one more attempt, 6 of 32 correct, 5 of them with a tool."""
    report = audit(SAMPLES / "trl", correct="accuracy_reward>0.5")
    assert report["tool_attempt_rate"].value == 17 / 32
    assert report["tool_parsed_rate"].value == 16 / 32
    assert report["accuracy"].value == 6 / 32
    assert report["tool_accuracy"].value == 5 / 17
