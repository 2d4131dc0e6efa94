"""What cannot be planned from, and plans that are empty: each says why."""

import re
from pathlib import Path
from typing import Any

import pytest
from axpo_logs import Made, rollout, written
from pydantic import ValidationError

import gapscope as gs
from gapscope.axpo.plan import plan
from gapscope.errors import CorrectnessError, PlanError, SettingsError
from gapscope.plan_options import PlanOptions


def failed(count: int, **fields: Any) -> list[gs.Rollout]:
    usual: dict[str, Any] = {"calls": [Made()], "group_id": "g", "step": 1, "correct": False} | fields
    return [rollout(sample_index=place, **usual) for place in range(count)]


@pytest.mark.parametrize(
    ("rollouts", "options", "error", "message"),
    [
        (failed(4, correct=None), {}, CorrectnessError, "the log has no reward"),
        (failed(4, correct=None, reward=0.3), {}, CorrectnessError, "it may be shaped"),
        (failed(1), {}, PlanError, "1 of 1 have one rollout each"),
        (failed(4), {"step": "7"}, SettingsError, "--step 7 names none of the log, which has the steps 1 to 1"),
        (failed(4), {"step": "3:1"}, SettingsError, "--step 3:1 names none of the log"),
        (failed(4), {"step": "first"}, SettingsError, "--step 'first' is no step"),
    ],
)
def test_a_log_that_cannot_be_planned_from_is_an_error_that_says_why(
    tmp_path: Path, rollouts: list[gs.Rollout], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        plan(written(tmp_path / "log.jsonl", rollouts), PlanOptions(**options))


@pytest.mark.parametrize(
    ("rollouts", "r"),
    [(failed(4), "0"), (failed(4), "0.99"), (failed(4, correct=True), "1"), (failed(4, calls=[]), "1")],
)
def test_a_plan_without_prefixes_says_why_it_is_empty(tmp_path: Path, rollouts: list[gs.Rollout], r: str) -> None:
    found = plan(written(tmp_path / "log.jsonl", rollouts), PlanOptions(r=r))
    assert found.prefixes == ()
    assert found.header.notes[0].startswith("empty: ")


def test_graded_rewards_are_planned_from_by_a_rule(tmp_path: Path) -> None:
    log = written(tmp_path / "log.jsonl", failed(4, correct=None, reward=0.3))
    found = plan(log, PlanOptions(r="1", correctness="reward>=0.5"))
    assert (found.header.counts.triggered, len(found.prefixes)) == (1, 1)
    assert plan(log, PlanOptions(r="1", correctness="reward>=0.2")).header.counts.triggered == 0


@pytest.mark.parametrize("wrong", [{"k": 1}, {"r": "-0.1"}, {"r": "nan"}, {"rank": "random"}, {"branch_call": 0}])
def test_options_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PlanOptions(**wrong)
