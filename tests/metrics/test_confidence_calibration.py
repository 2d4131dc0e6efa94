"""Whether confidence goes with correctness, over all rollouts and within groups."""

import math
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path

import pytest
from call_logs import cluster_bounds, drawn, first_call, groups_of, in_scope, of_one_prompt
from token_logs import close, written

import gapscope as gs
from gapscope.metrics import confidence_calibration, groups
from gapscope.rollouts import CallTokens, Source, Span, Tokens, ToolCall, Turn

Audit = Callable[..., gs.Report]
MEASURED = (confidence_calibration, groups)
AREA, WITHIN = "tool_confidence_auc", "tool_confidence_auc_within"


def confidence(rollout: gs.Rollout) -> float | None:
    call, tokens = first_call(rollout), rollout.tokens
    if call is None or call.tokens is None or tokens is None or tokens.logprobs is None:
        return None
    values = [p for p in tokens.logprobs[call.tokens.start : call.tokens.end] if p is not None]
    return sum(map(math.exp, values)) / len(values)


def duels(rollouts: list[gs.Rollout]) -> list[float]:
    """Of each pair of a correct and a wrong rollout, whether the correct one was the surer; half if neither."""
    known = [(rollout.correct, c) for rollout in rollouts if (c := confidence(rollout)) is not None]
    good, bad = ([c for correct, c in known if correct is verdict] for verdict in (True, False))
    return [float(own > other) if own != other else 0.5 for own, other in product(good, bad)]


@pytest.mark.parametrize("seed", range(3))
def test_on_a_log_drawn_at_random_both_areas_are_those_of_a_plain_script(
    seed: int, audit: Audit, tmp_path: Path
) -> None:
    rollouts = drawn(seed)
    report = audit(written(tmp_path / "drawn.jsonl", rollouts))
    scope = in_scope(rollouts)
    area, within = report[AREA], report[WITHIN]
    known = [r for r in scope if confidence(r) is not None and r.correct is not None]
    assert (area.value, area.n) == (close(sum(duels(scope)) / len(duels(scope))), len(known))
    assert area.interval_method == "bootstrap_groups"
    assert area.interval is not None
    assert area.interval[0] < area.value < area.interval[1]
    groups = [duels(group) for group in of_one_prompt(groups_of(scope))]
    pairs = [(sum(group), float(len(group))) for group in groups]
    x, m = (sum(column) for column in zip(*pairs, strict=True))
    assert (within.value, within.n, within.unit) == (close(x / m), m, "probability")
    assert within.interval == pytest.approx(cluster_bounds(pairs, share=True), rel=0, abs=1e-9)
    acting = sum(first_call(rollout) is not None for rollout in scope)
    assert area.details["coverage"] == within.details["coverage"] == close(len(known) / acting)
    assert sum(area.excluded.values()) == acting - len(known)
    of_steps = [of_one_prompt(groups_of([r for r in scope if r.step == step])) for step in range(3)]
    by_step = {step: [duel for group in groups for duel in duels(group)] for step, groups in enumerate(of_steps)}
    assert {row["step"]: (row["value"], row["n"]) for row in within.table} == {
        step: (close(sum(found) / len(found)), len(found)) for step, found in by_step.items() if found
    }


def test_the_table_cuts_rollouts_into_fifths_and_keeps_equal_confidences_together(audit: Audit, tmp_path: Path) -> None:
    rollouts = drawn(5)
    table = audit(written(tmp_path / "drawn.jsonl", rollouts))[AREA].table
    known = [r for r in in_scope(rollouts) if confidence(r) is not None and r.correct is not None]
    assert sum(row["n"] for row in table) == len(known)
    for row in table:
        inside = [r for r in known if row["from"] - 1e-9 <= confidence(r) <= row["to"] + 1e-9]
        assert (row["n"], row["correct"]) == (len(inside), sum(r.correct for r in inside))
        assert row["value"] == close(row["correct"] / row["n"])
        assert row["lo"] <= row["value"] <= row["hi"]
    assert all(before["to"] < after["from"] for before, after in pairwise(table))


def calling(number: int, group: str, p: float | None, *, correct: bool) -> gs.Rollout:
    """A rollout that is a call of three tokens, each of probability p; without one, it has no tokens."""
    place = CallTokens(0, 1, 2, 3)
    call = ToolCall(
        0, 0, 0, "", "find", {}, opened=True, closed=True, parsed=True, executed=True, in_think=False,
        outcome="executed_ok", tokens=place if p else None,
    )  # fmt: skip
    return gs.Rollout(
        format="made",
        source=Source("made", number),
        group_id=group,
        correct=correct,
        correct_rule="made",
        output="xxx",
        turns=[Turn(0)],
        spans=[Span("tool_call", 0, 0, 3, True, 0, 3) if p else Span("tool_call", 0, 0, 3, True)],
        calls=[call],
        tokens=Tokens([1, 2, 3], logprobs=[math.log(p)] * 3, logprob_source="rollout", sampled=[True] * 3)
        if p
        else None,
    )


def test_easy_questions_lift_the_first_number_and_not_the_second(audit: Audit, tmp_path: Path) -> None:
    """In each of two groups confidence says nothing; but the easy one has more correct rollouts, and all sure ones."""
    easy = [(0.9, True)] * 8 + [(0.9, False)] * 2
    hard = [(0.3, True)] * 2 + [(0.3, False)] * 8
    made = [("easy", *each) for each in easy] + [("hard", *each) for each in hard]
    rollouts = [calling(number, group, p, correct=right) for number, (group, p, right) in enumerate(made)]
    report = audit(written(tmp_path / "made.jsonl", rollouts))
    # Of 100 pairs, the 8 · 8 of an easy correct and a hard wrong one are won, the 2 · 2 the other way round lost.
    assert report[AREA].value == (64 + 32 / 2) / 100
    assert report[WITHIN].value == 0.5
    assert (report[WITHIN].n, report[WITHIN].details["clusters"]) == (32, 2)


def test_fewer_than_five_of_a_verdict_are_not_compared_and_their_numbers_are_said(audit: Audit, tmp_path: Path) -> None:
    rollouts = [calling(number, "q", 0.5 if number != 9 else None, correct=number < 4) for number in range(12)]
    report = audit(written(tmp_path / "made.jsonl", rollouts))
    for key in (AREA, WITHIN):
        assert (report[key].value, report[key].status) == (None, "unobserved")
        assert report[key].reason == (
            "4 correct and 7 wrong tool-using rollouts have log-probs, and it takes 5 of each"
        )
        assert report[key].details["coverage"] == 11 / 12


def test_groups_of_one_verdict_have_no_pairs(audit: Audit, tmp_path: Path) -> None:
    rollouts = [calling(n, f"q{n % 2}", 0.5 + n % 2 / 10, correct=n % 2 == 0) for n in range(12)]
    report = audit(written(tmp_path / "made.jsonl", rollouts))
    assert report[AREA].value == 0.0
    assert report[WITHIN].reason == "no group has both a correct and a wrong tool-using rollout with log-probs"


def test_without_log_probs_it_is_said_what_is_missing(audit: Audit, tmp_path: Path) -> None:
    rollouts = [calling(n, "q", None, correct=n % 2 == 0) for n in range(12)]
    report = audit(written(tmp_path / "made.jsonl", rollouts))
    assert report[AREA].reason == report[WITHIN].reason == "the log has no log-probs of its calls"
