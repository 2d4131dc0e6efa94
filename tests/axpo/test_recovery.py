"""What `gapscope recovery` says of a resampled log, checked by hand and against the report of an audit."""

import json
from pathlib import Path

import jsonschema
import pytest
from axpo_logs import Made, resampled, rollout, written
from command_line import gapscope

import gapscope as gs
from gapscope.axpo.plan_file import write_plan
from gapscope.axpo.recovery import ABOUT
from gapscope.axpo.recovery_page import render
from gapscope.metrics import metric_named
from gapscope.plans import Plan
from gapscope.schemas import SCHEMAS

SURE, UNSURE = [-0.1] * 20, [-1.0] * 20
NO_LIMIT = "0.5"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recovery")


@pytest.fixture(scope="module")
def log(folder: Path) -> Path:
    """Two groups of four that trigger, one with a correct rollout that used no tool, and one that does not trigger."""
    called = [Made(logprobs=SURE), Made(logprobs=UNSURE)]
    rollouts = [
        rollout([called[0]], group_id="a", sample_index=0, correct=False),
        rollout([called[1]], group_id="a", sample_index=1, correct=False),
        rollout(group_id="a", sample_index=2, correct=True),
        rollout(group_id="a", sample_index=3, correct=False),
        rollout([called[1]], group_id="b", sample_index=0, correct=False),
        *(rollout(group_id="b", sample_index=index, correct=False) for index in (1, 2, 3)),
        rollout([called[0]], group_id="c", sample_index=0, correct=True),
        *(rollout(group_id="c", sample_index=index, correct=True) for index in (1, 2, 3)),
    ]
    for number, each in enumerate(rollouts):
        each.step, each.rollout_id = 7, f"r{number}"
    return written(folder / "log.jsonl", rollouts)


@pytest.fixture(scope="module")
def plan(log: Path) -> Plan:
    """Three slots: floor(floor(12 · 0.5) / 2)."""
    return gs.plan(log, gs.PlanOptions(k=2, r=NO_LIMIT))


@pytest.fixture(scope="module")
def outcome(plan: Plan, folder: Path) -> Path:
    """The least sure prefix of `a` recovers and nothing else does."""
    first = min(plan.prefixes, key=lambda prefix: (prefix.group_id, prefix.confidence))
    return resampled(folder / "resampled.jsonl", plan, lambda prefix: float(prefix.id == first.id))


@pytest.fixture(scope="module")
def found(outcome: Path) -> gs.Recovery:
    return gs.recovery(outcome)


def test_the_plan_of_the_log_is_what_it_should_be(plan: Plan) -> None:
    assert [(prefix.group_id, prefix.rollout_id) for prefix in plan.prefixes] == [("a", "r1"), ("b", "r4"), ("a", "r0")]


def test_every_number_is_that_of_the_audit(found: gs.Recovery, outcome: Path) -> None:
    report = gs.audit(outcome)
    expected = {name: each for name, each in report.metrics.items() if metric_named(name).name in ABOUT}
    assert found.measurements == expected
    assert found.measurements["recovery_rate_prefix"].value == 1 / 3
    assert found.measurements["recovery_rate_selected"].value == 1 / 2
    assert found.measurements["all_wrong_tool_group_rate_pre"].value == 2 / 3
    assert found.measurements["all_wrong_tool_group_rate_post"].value == 1 / 3


def test_what_is_counted_is_what_is_in_the_log(found: gs.Recovery) -> None:
    assert (found.rollouts, found.groups, found.continuations, found.steps) == (12, 3, 6, [7])
    assert found.plan is None


def test_each_prefix_has_its_credit_and_its_advantage_beside_its_success(found: gs.Recovery) -> None:
    rows = {row["rollout"]: row for row in found.prefixes}
    assert {key: rows["r1"][key] for key in ("correct", "k", "success", "credit")} == {
        "correct": 2, "k": 2, "success": 1.0, "credit": 1.0,
    }  # fmt: skip
    # Of [0, 1, 1, 0] and [0, 0, 1, 0], population deviation 1/2 and √3/4, epsilon 1e-6.
    assert rows["r1"]["advantage"] == pytest.approx(0.5 / (0.5 + 1e-6), abs=1e-12)
    assert rows["r0"]["advantage"] == pytest.approx(-0.25 / (3**0.5 / 4 + 1e-6), abs=1e-12)
    assert (rows["r4"]["credit"], rows["r4"]["advantage"]) == (0.0, 0.0)


def test_the_options_of_the_plan_are_those_of_the_advantages(log: Path, tmp_path: Path) -> None:
    plan = gs.plan(log, gs.PlanOptions(k=2, r=NO_LIMIT, substitution="joint", advantage={"preset": "trl"}))
    path = tmp_path / "joint.jsonl"
    write_plan(path, plan.header, plan.prefixes)
    outcome = resampled(tmp_path / "joint.resampled.jsonl", plan, 1.0)
    rows = {row["rollout"]: row for row in gs.recovery(outcome, plan=path).prefixes}
    # Both sources of `a` recover: [1, 1, 1, 0] for each, sample deviation 1/2.
    assert rows["r0"]["advantage"] == rows["r1"]["advantage"] == pytest.approx(0.25 / (0.5 + 1e-4), abs=1e-12)


def test_a_plan_says_what_is_missing(plan: Plan, outcome: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.jsonl"
    write_plan(path, plan.header, plan.prefixes)
    lines = outcome.read_bytes().splitlines(keepends=True)
    cut = tmp_path / "resampled.jsonl"
    cut.write_bytes(b"".join(lines[:-3]))
    found = gs.recovery(cut, plan=path)
    check = found.plan
    assert check is not None
    assert (check.prefixes, check.resampled, check.wanted, check.found) == (3, 2, 6, 3)
    assert "3 of 6 planned continuations have no verdict here, and 1 of 3 prefixes have none at all." in (found.notes)


def test_a_plan_of_other_rollouts_is_refused(plan: Plan, outcome: Path, log: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.jsonl"
    write_plan(path, plan.header, plan.prefixes)
    lines = outcome.read_bytes().splitlines(keepends=True)
    cut = tmp_path / "resampled.jsonl"
    cut.write_bytes(b"".join(lines[1:]))
    with pytest.raises(gs.PlanError, match=r"is a plan of another log: the rollouts are not those that were planned"):
        gs.recovery(cut, plan=path)


def test_another_plan_of_the_same_log_is_refused(log: Path, outcome: Path, tmp_path: Path) -> None:
    other = gs.plan(log, gs.PlanOptions(k=2, r=NO_LIMIT, seed=5))
    path = tmp_path / "other.jsonl"
    write_plan(path, other.header, other.prefixes)
    with pytest.raises(gs.PlanError, match=r"is another plan: 3 of 3 prefixes in the log are not in it"):
        gs.recovery(outcome, plan=path)


def test_a_log_without_continuations_is_refused(log: Path) -> None:
    with pytest.raises(gs.PlanError, match=r"no continuation in .*log\.jsonl"):
        gs.recovery(log)


def test_continuations_alone_are_refused_and_together_with_their_log_they_are_not(
    log: Path, plan: Plan, tmp_path: Path
) -> None:
    alone = resampled(tmp_path / "alone.jsonl", plan, 1.0, whole=False)
    with pytest.raises(gs.PlanError, match="holds continuations alone"):
        gs.recovery(alone)
    assert gs.recovery([log, alone]).measurements["recovery_rate_prefix"].value == 1.0


def test_without_correctness_nothing_is_said(outcome: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) | {"correct": None, "reward": 0.5} for line in outcome.read_text().splitlines()]
    unsaid = tmp_path / "resampled.jsonl"
    unsaid.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(gs.CorrectnessError, match="what is correct is not defined"):
        gs.recovery(unsaid)
    assert gs.recovery(unsaid, correct="reward>=0.7").measurements["recovery_rate_prefix"].value == 0.0


def test_it_is_valid_by_its_published_schema(found: gs.Recovery) -> None:
    published = json.loads(found.to_json())
    jsonschema.validate(published, SCHEMAS["gapscope.recovery/1"](), jsonschema.Draft202012Validator)
    assert published["schema"] == "gapscope.recovery/1"


def test_the_command_says_the_same_as_the_function(outcome: Path) -> None:
    found = gs.recovery(str(outcome))
    shown, as_json = gapscope("recovery", outcome), gapscope("recovery", outcome, "--format", "json")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == render(found)
    assert as_json.stdout == found.to_json()
    assert "1 of 3 resampled prefixes recovered: 33.3 %" in shown.stdout


def test_the_command_ends_with_2_when_nothing_can_be_said(log: Path) -> None:
    ended = gapscope("recovery", log)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Name the log that came of resampling a plan." in ended.stderr


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal(found: gs.Recovery, width: int) -> None:
    from rich.cells import cell_len

    from gapscope.axpo.recovery_page import compose
    from gapscope.reporters.base.page import plain

    lines = [plain(line) for line in compose(found, width=width)]
    assert max(map(cell_len, lines)) <= width
    assert "Prefixes by correct continuations" in "\n".join(lines)


def test_a_real_run_is_shown_with_the_bins_of_its_confidences(samples: Path) -> None:
    text = render(gs.recovery(samples / "resampled" / "resampled.jsonl"))
    assert "5 of 6 resampled prefixes recovered: 83.3 % (95 % 43.6–97.0 %)." in text
    assert (
        "By confidence of the first call\n  0.893–0.938                 100 %  34.2–100 %      of 2 prefixes\n" in text
    )
    assert "Prefixes by correct continuations  none or all: no gradient for these\n  0 of 4 " in text
    assert "per 1,000 sampled characters" not in text
