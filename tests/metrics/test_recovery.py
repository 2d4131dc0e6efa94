"""What is said of continuations: how many recover a prefix, and what they called."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path

import pytest
from call_logs import cluster_bounds
from example_notation import log_of
from resampled_logs import Drawn, Prefix, drawn
from token_logs import close, written

import gapscope as gs
from gapscope.metrics import (
    METRICS,
    accuracy,
    all_wrong,
    axpo_budget,
    continuations,
    groups,
    proposition,
    recovery,
    recovery_confidence,
    resampling_yield,
    rows,
    triggers,
)
from gapscope.statistics import wilson

Audit = Callable[..., gs.Report]
MEASURED = (
    accuracy, all_wrong, axpo_budget, continuations, groups, proposition, recovery, recovery_confidence,
    resampling_yield, rows, triggers,
)  # fmt: skip
NEW = ("recovery", "continuations", "recovery_confidence", "proposition", "resampling_yield")
OF_CONTINUATIONS = [key for metric in METRICS if metric.name in NEW for key in metric.keys if "[]" not in key]
OF_GROUPS = ("recovery_rate_triggered", "all_wrong_tool_group_rate_pre", "all_wrong_tool_group_rate_post")
INVALID = {"opened_not_closed", "unparseable", "unknown_tool", "bad_arguments"}


@pytest.fixture(scope="module", params=range(3))
def case(
    request: pytest.FixtureRequest, audit: Audit, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Drawn, gs.Report]:
    found = drawn(request.param)
    return found, audit(written(tmp_path_factory.mktemp("drawn") / "drawn.jsonl", found.rollouts))


def by_group(prefixes: Iterable[Prefix], recovered: Callable[[Prefix], bool]) -> list[tuple[float, float]]:
    groups = groupby(prefixes, key=lambda prefix: prefix.source.group_id)
    return [(sum(map(recovered, own)), len(own)) for own in (list(own) for _, own in groups)]


def recovers(prefix: Prefix) -> bool:
    return any(rollout.correct for rollout in prefix.judged)


def agrees(found: gs.Measurement, pairs: list[tuple[float, float]]) -> None:
    """The ratio of the sums; Wilson's interval where each cluster is one of what is counted, and else clustered."""
    x, m = (sum(column) for column in zip(*pairs, strict=True))
    assert (found.value, found.n) == (close(x / m), m)
    bounds = wilson(int(x), int(m))
    if any(of > 1 for _, of in pairs):
        bounds = cluster_bounds(pairs, share=True)
    assert found.interval == pytest.approx(bounds, rel=0, abs=1e-9)


def test_prefixes_recover_as_often_as_a_plain_script_finds(case: tuple[Drawn, gs.Report]) -> None:
    log, report = case
    failed = [prefix for prefix in log.prefixes() if prefix.failed and prefix.judged]
    agrees(report["recovery_rate_prefix"], by_group(failed, recovers))
    ran = {"executed_ok", "executed_error"}
    agrees(
        report["recovery_rate_prefix_executed"],
        by_group(failed, lambda p: any(r.correct and r.calls and r.calls[0].outcome in ran for r in p.judged)),
    )
    agrees(report["recovery_rate_selected"], [(x > 0, 1) for x, _ in by_group(failed, recovers)])
    others = [prefix for prefix in log.prefixes() if not prefix.failed]
    assert report["recovery_rate_prefix"].excluded["not of an all-wrong group"] == len(others)
    for tool in ("search", "python"):
        own = [prefix for prefix in failed if prefix.source.calls[0].name == tool]
        agrees(report[f"recovery_rate_prefix[{tool}]"], by_group(own, recovers))
        called = [
            prefix._replace(continuations=chosen)
            for prefix in failed
            if (chosen := [r for r in prefix.judged if r.calls and r.calls[0].name == tool])
        ]
        agrees(report[f"recovery_rate_prefix_resampled[{tool}]"], by_group(called, recovers))


def test_groups_are_all_wrong_before_and_fewer_after(case: tuple[Drawn, gs.Report]) -> None:
    log, report = case
    steps = {(prefix.source.run, prefix.source.step) for prefix in log.prefixes()}
    eligible = [
        own
        for own in log.in_scope()
        if (own[0].run, own[0].step) in steps and all(r.correct is not None for r in own) and any(r.calls for r in own)
    ]
    dead = [own for own in eligible if not any(r.correct for r in own if r.calls)]
    again = {prefix.source.group_id for prefix in log.prefixes() if prefix.failed and recovers(prefix)}
    recovered = [own for own in dead if own[0].group_id in again]
    triggered, pre, post = (report[name] for name in OF_GROUPS)
    assert (triggered.numerator, triggered.n) == (len(recovered), len(dead))
    assert (pre.numerator, pre.n) == (len(dead), len(eligible))
    assert (post.numerator, post.n) == (len(dead) - len(recovered), len(eligible))
    assert post.interval == wilson(len(dead) - len(recovered), len(eligible))
    assert {row["step"] for row in pre.table} == {step for _, step in steps}


def test_what_continuations_called_is_what_a_plain_script_finds(case: tuple[Drawn, gs.Report]) -> None:
    log, report = case
    pairs: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for prefix in log.prefixes():
        calls = [rollout.calls[0] for rollout in prefix.continuations if rollout.calls]
        pairs["continuation_success"].append((sum(r.correct for r in prefix.judged), len(prefix.judged)))
        repeats = len(calls) - len({(call.raw, call.name) for call in calls})
        shares = {
            "continuation_invalid_rate": sum(call.outcome in INVALID for call in calls),
            "continuation_closed_rate": sum(call.closed for call in calls),
            "continuation_parsed_rate": sum(call.parsed for call in calls),
            "continuation_executed_rate": sum(call.executed for call in calls),
            "duplicate_call_rate": repeats,
        }
        for name, x in shares.items():
            pairs[name].append((x, len(calls)))
    for name, own in pairs.items():
        agrees(report[name], own)
    judged = [prefix for prefix in log.prefixes() if prefix.judged]
    success, mixed = report["continuation_success"], report["continuation_mixed_rate"]
    assert success.details["prefix_credit"] == close(sum(map(recovers, judged)) / len(judged))
    both = [{r.correct for r in prefix.judged} == {True, False} for prefix in judged]
    assert (mixed.numerator, mixed.n, mixed.interval) == (sum(both), len(both), wilson(sum(both), len(both)))
    cells = {(row["k"], row["correct"]): row["prefixes"] for row in report["recovered_k_histogram"].table}
    for (k, wins), count in cells.items():
        assert count == sum(len(p.judged) == k and sum(r.correct for r in p.judged) == wins for p in judged)
    assert sum(cells.values()) == len(judged)


def test_recovery_is_put_beside_confidence_as_a_plain_script_does(case: tuple[Drawn, gs.Report]) -> None:
    log, report = case
    failed = [prefix for prefix in log.prefixes() if prefix.failed and prefix.judged]
    known = [(prefix.source.tokens.logprobs[-1], recovers(prefix)) for prefix in failed if prefix.source.tokens]
    good, bad = ([c for c, recovered in known if recovered is side] for side in (True, False))
    duels = [0.5 if low == high else float(low < high) for low in good for high in bad]
    area, table = report["confidence_recovery_auc"], report["recovery_by_confidence"]
    assert (area.value, area.n) == (close(sum(duels) / len(duels)), len(known))
    assert area.details["coverage"] == close(len(known) / len(failed))
    assert [row["n"] for row in table.table] != []
    assert sum(row["n"] for row in table.table) == table.value == len(known)
    for row in table.table:
        assert (row["lo"], row["hi"]) == wilson(row["recovered"], row["n"])


def test_the_order_of_the_rows_changes_no_number(audit: Audit, tmp_path: Path) -> None:
    log = drawn(7)
    reports = [
        audit(written(tmp_path / f"{name}.jsonl", rows))
        for name, rows in (("one", log.rollouts), ("other", log.rollouts[::-1]))
    ]
    about = re.compile("yield|recover|continuation|proposition|axpo")
    one, other = ({name: m for name, m in report.metrics.items() if about.search(name)} for report in reports)
    assert len(one) > 30
    for name, measured in one.items():
        assert measured.value == close(other[name].value), name
        assert measured.n == other[name].n, name
        assert (measured.interval is None) == (other[name].interval is None), name
        if measured.interval is not None:
            assert measured.interval == pytest.approx(other[name].interval, rel=0, abs=1e-9), name


def test_without_a_continuation_every_number_of_them_says_where_they_come_from(audit: Audit, tmp_path: Path) -> None:
    report = audit(log_of("q1 tool wrong\nq1 - right", tmp_path / "log.jsonl"))
    found = {name: report[name] for name in OF_CONTINUATIONS}
    assert {measured.status for measured in found.values()} == {"unobserved"}
    reason = "the log holds no continuation: `gapscope resample` makes them from a plan"
    assert {measured.reason for measured in found.values()} == {reason}


def test_continuations_without_their_sources_are_said_to_lack_them(audit: Audit, tmp_path: Path) -> None:
    report = audit(log_of("p1 tool wrong parent=a\np1 tool right parent=a", tmp_path / "log.jsonl"))
    for name in OF_CONTINUATIONS:
        assert report[name].reason == "none of the 2 continuations has its source in the log", name
    assert report["accuracy"].n == 2


def test_a_continuation_whose_source_is_missing_is_counted_as_left_out(audit: Audit, tmp_path: Path) -> None:
    text = "q1 tool wrong rollout_id=a\np1 tool right parent=a\np2 tool right parent=gone\np1 tool wrong parent=a"
    success = audit(log_of(text, tmp_path / "log.jsonl"))["continuation_success"]
    assert (success.value, success.n, success.excluded) == (1 / 2, 2, {"source not in the log": 1})


def test_a_prefix_of_a_group_with_a_correct_tool_using_rollout_is_none_to_recover(audit: Audit, tmp_path: Path) -> None:
    text = "q1 tool wrong rollout_id=a\nq1 tool right\np1 tool right parent=a"
    report = audit(log_of(text, tmp_path / "log.jsonl"))
    assert report["recovery_rate_prefix"].value is None
    assert report["recovery_rate_prefix"].reason.endswith("of a group whose tool-using rollouts are all wrong")
    assert report["continuation_success"].value == 1.0


def test_steps_without_a_continuation_do_not_dilute_recovery(audit: Audit, tmp_path: Path) -> None:
    text = """
    q1 tool wrong rollout_id=a step=1
    q1 -    wrong step=1
    q2 tool wrong step=2
    q2 -    wrong step=2
    p1 tool right parent=a step=1
    """
    report = audit(log_of(text, tmp_path / "log.jsonl"))
    assert (report["recovery_rate_triggered"].value, report["recovery_rate_triggered"].n) == (1.0, 1)
    assert (report["all_wrong_tool_group_rate"].value, report["all_wrong_tool_group_rate"].n) == (1.0, 2)


def test_prefixes_are_thin_like_groups_and_continuations_like_rollouts(tmp_path: Path) -> None:
    text = (
        "q{} tool wrong rollout_id=a{} times=10\np{} tool right parent=a{} times=10\np{} tool wrong parent=a{} times=10"
    )
    log = log_of(text, tmp_path / "log.jsonl")
    for least, status in (((10, 20), "observed"), ((11, 21), "thin")):
        settings = gs.Settings(min_groups=least[0], min_rollouts=least[1])
        report = gs.audit([str(log)], settings=settings, jobs=1)
        assert report["recovery_rate_prefix"].status == status
        assert report["continuation_success"].status == status
    assert report["recovery_rate_prefix"].reason == "only 10 prefixes, fewer than 11"
    assert report["continuation_success"].reason == "only 20 continuations, fewer than 21"


def test_continuations_of_validation_alone_are_not_in_scope(audit: Audit, tmp_path: Path) -> None:
    rollouts = [r for r in drawn(3).rollouts if r.parent is None or r.split == "validation"]
    report = audit(written(tmp_path / "log.jsonl", rollouts))
    reason = "all continuations are of validation rollouts, which are not in scope here"
    assert {report[name].reason for name in OF_CONTINUATIONS} == {reason}


def test_only_the_tools_called_most_have_a_rate_of_their_own(audit: Audit, tmp_path: Path) -> None:
    text = "q{} tool wrong rollout_id=a{} name=t{} times=25\np{} tool right parent=a{} name=t{} times=25"
    names = audit(log_of(text, tmp_path / "log.jsonl")).metrics
    for family in ("recovery_rate_prefix[", "recovery_rate_prefix_resampled["):
        assert sum(name.startswith(family) for name in names) == 20
