"""What AXPO's budget buys, step by step."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from example_notation import log_of
from resampled_logs import drawn
from token_logs import close, written

import gapscope as gs
from gapscope.metrics import axpo_budget, groups
from gapscope.statistics import wilson

Audit = Callable[..., gs.Report]
MEASURED = (axpo_budget, groups)
RANKED = ("axpo_need_all", "axpo_budget_cover", "axpo_extra_share")
SLOTS = """
8 8 8 8 8 8 8 8,4
8 8 8,1
8,0
8 8 7 6,1
8 8 8 8 8,2
"""


@pytest.mark.parametrize("case", SLOTS.split("\n")[1:-1])
def test_slots_are_those_of_the_reference(case: str, audit: Audit, tmp_path: Path) -> None:
    sizes, slots = case.split(",")
    text = "\n".join(f"q{number} - right times={size}" for number, size in enumerate(sizes.split()))
    found = audit(log_of(text, tmp_path / "log.jsonl"))["axpo_slots"]
    assert (found.value, found.n) == (int(slots), sum(map(int, sizes.split())))


def test_nothing_is_carried_over_from_one_step_to_the_next(audit: Audit, tmp_path: Path) -> None:
    """Twice 24 rollouts are twice one slot, though 48 at one step are three."""
    text = "\n".join(f"q{number} tool wrong probs=0.5,0.5 step={number // 2} times=12" for number in range(4))
    report = audit(log_of(text, tmp_path / "log.jsonl"))
    assert [(row["step"], row["value"], row["n"]) for row in report["axpo_slots"].table] == [(0, 1, 24), (1, 1, 24)]
    assert (report["axpo_need_first"].value, report["axpo_need_all"].value) == (4, 48)
    cover, extra = report["axpo_budget_cover"], report["axpo_extra_share"]
    assert (cover.numerator, cover.n, cover.interval) == (2, 4, wilson(2, 4))
    assert (extra.numerator, extra.n, extra.interval) == (8, 48, None)


def test_a_slot_that_no_candidate_wants_is_left_over(audit: Audit, tmp_path: Path) -> None:
    text = "q1 tool wrong probs=0.5,0.5\nq1 - right times=15\nq2 - right times=32"
    report = audit(log_of(text, tmp_path / "log.jsonl"))
    assert report["axpo_slots"].value == 3
    assert (report["axpo_extra_share"].value, report["axpo_budget_cover"].value) == (4 / 48, 1.0)


def test_without_log_probs_only_what_hangs_on_the_rank_is_unknown(audit: Audit, tmp_path: Path) -> None:
    report = audit(log_of("q1 tool wrong times=8\nq1 - right times=24", tmp_path / "log.jsonl"))
    assert (report["axpo_slots"].value, report["axpo_need_first"].value) == (2, 1)
    assert {report[name].reason for name in RANKED} == {"the log has no log-probs of its calls"}
    assert report["axpo_noncandidates[no_logprobs]"].value == 8


def test_without_verdicts_the_slots_are_known_all_the_same(audit: Audit, tmp_path: Path) -> None:
    log = drawn(1)
    for rollout in log.rollouts:
        rollout.correct = rollout.correct_rule = None
    report = audit(written(tmp_path / "log.jsonl", log.rollouts))
    assert report["axpo_slots"].value
    assert {report[name].reason for name in ("axpo_need_first", *RANKED)} == {"correctness_undefined"}


def test_where_no_group_triggers_nothing_is_needed_and_nothing_is_to_be_covered(audit: Audit, tmp_path: Path) -> None:
    report = audit(log_of("q1 tool right probs=0.5,0.5,0.5\nq1 - wrong times=15", tmp_path / "log.jsonl"))
    assert [report[name].value for name in ("axpo_slots", "axpo_need_first", "axpo_need_all")] == [1, 0, 0]
    assert report["axpo_extra_share"].value == 0
    assert report["axpo_budget_cover"].status == "unobserved"


def test_a_log_without_groups_has_no_slots(audit: Audit, tmp_path: Path) -> None:
    report = audit(log_of("q{} tool wrong times=20", tmp_path / "log.jsonl"))
    assert {report[name].status for name in ("axpo_slots", "axpo_need_first", *RANKED)} == {"unobserved"}


def test_few_log_probs_annotate_what_hangs_on_them(audit: Audit, tmp_path: Path) -> None:
    text = "q{} tool wrong probs=0.5,0.5 times=30\nq{} tool wrong times=30"
    found = audit(log_of(text, tmp_path / "log.jsonl"))["axpo_need_all"]
    assert (found.value, found.details["coverage"]) == (30, 0.5)


@pytest.mark.parametrize("seed", range(2))
def test_on_a_log_drawn_at_random_the_budget_is_that_of_a_plain_script(seed: int, audit: Audit, tmp_path: Path) -> None:
    log = drawn(seed)
    report = audit(written(tmp_path / "drawn.jsonl", log.rollouts))
    total: Counter[str] = Counter()
    for place in {(own[0].run, own[0].step) for own in log.in_scope()}:
        groups = [own for own in log.in_scope() if (own[0].run, own[0].step) == place]
        known = [own for own in groups if all(r.correct is not None for r in own)]
        acting = [[r for r in own if r.calls] for own in known]
        triggered = [own for own in acting if own and not any(r.correct for r in own)]
        usable = [count for own in triggered if (count := sum(r.tokens is not None for r in own))]
        slots = sum(map(len, groups)) // 16
        total["rollouts"] += sum(map(len, groups))
        total["axpo_slots"] += slots
        total["axpo_need_first"] += len(triggered)
        total["axpo_need_all"] += sum(usable)
        total["axpo_noncandidates[no_logprobs]"] += sum(map(len, triggered)) - sum(usable)
        total["covered"] += min(slots, len(usable))
        total["extra"] += 4 * min(slots, sum(usable))
    assert total["axpo_slots"] > 0
    for name, count in total.items():
        if name.startswith("axpo"):
            assert report[name].value == count, name
    assert report["axpo_budget_cover"].value == close(total["covered"] / total["axpo_need_first"])
    assert report["axpo_extra_share"].value == close(total["extra"] / total["rollouts"])
