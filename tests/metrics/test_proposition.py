"""Whether a continuation is worth a fresh rollout, by draws and by tokens."""

import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from call_logs import cluster_bounds
from example_notation import log_of
from resampled_logs import Drawn, drawn
from token_logs import close, written

import gapscope as gs
from gapscope.metrics import continuations, groups, proposition, resampling_yield

Audit = Callable[..., gs.Report]
MEASURED = (continuations, groups, proposition, resampling_yield)
LEAST = 12


@pytest.fixture(scope="module", params=range(2))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Drawn, gs.Report]:
    found = drawn(request.param)
    settings = gs.Settings(min_groups=1, min_rollouts=LEAST, min_informative=1, min_steps=2)
    log = written(tmp_path_factory.mktemp("drawn") / "drawn.jsonl", found.rollouts)
    return found, gs.audit([str(log)], settings=settings, jobs=1)


def eligible(log: Drawn) -> list[list[gs.Rollout]]:
    return [own for own in log.in_scope() if all(r.correct is not None for r in own)]


def wins(rollouts: list[gs.Rollout]) -> int:
    return sum(bool(r.correct and r.calls) for r in rollouts)


def test_the_condition_is_judged_on_all_groups_as_a_plain_script_does(case: tuple[Drawn, gs.Report]) -> None:
    log, report = case
    fresh = [(wins(own), len(own)) for own in eligible(log)]
    continued = [(sum(r.correct for r in p.judged), len(p.judged)) for p in log.prefixes()]
    (p, n), (q, m) = ([sum(column) for column in zip(*pairs, strict=True)] for pairs in (continued, fresh))
    margin = report["proposition_margin"]
    assert (margin.value, margin.n) == (close(p / n - q / m), n)
    (low, high), (least, most) = (cluster_bounds(pairs, share=True) for pairs in (continued, fresh))
    assert margin.interval == pytest.approx((low - most, high - least), rel=0, abs=1e-9)
    verdict = "supported" if low > most else "contradicted" if high < least else "inconclusive"
    assert margin.details["verdict"] == verdict


def test_a_question_is_compared_with_its_own_groups_at_other_steps(case: tuple[Drawn, gs.Report]) -> None:
    log, report = case
    sums: dict[tuple[str | None, str | None], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for prefix in log.prefixes():
        asked = prefix.source
        elsewhere = [
            r
            for own in eligible(log)
            for r in own
            if (r.run, r.prompt) == (asked.run, asked.prompt) and r.step != asked.step
        ]
        if len(elsewhere) >= LEAST and prefix.judged:
            of_question = sums[asked.run, asked.prompt]
            of_question[0] += sum(r.correct for r in prefix.judged)
            of_question[1] += len(prefix.judged)
            of_question[2] += len(prefix.judged) * wins(elsewhere) / len(elsewhere)
    assert len(sums) > 5
    right, drawn_, expected = (sum(column) for column in zip(*sums.values(), strict=True))
    margin = report["proposition_margin_same_question"]
    assert (margin.value, margin.n) == (close((right - expected) / drawn_), drawn_)
    assert margin.details["questions"] == len(sums)
    low, high = cluster_bounds([(x, m) for x, m, _ in sums.values()], share=True)
    least, most = cluster_bounds([(e, m) for _, m, e in sums.values()], share=True)
    assert margin.interval == pytest.approx((low - most, high - least), rel=0, abs=1e-9)


@pytest.mark.parametrize(("wins_of_four", "verdict"), [(4, "supported"), (1, "inconclusive"), (0, "contradicted")])
def test_the_verdict_follows_from_the_two_intervals(
    wins_of_four: int, verdict: str, audit: Audit, tmp_path: Path
) -> None:
    lines = ["q{} tool right times=80", "q{} - wrong times=80", "q{} - wrong times=80", "q{} - wrong times=80"]
    lines += [f"d{number} tool wrong rollout_id=a{number}" for number in range(40)]
    for number in range(40):
        # Of a quarter of the prefixes' continuations one more is correct, so that they do not all agree.
        right = wins_of_four + (number % 4 == 0 and wins_of_four == 1)
        lines += [f"p{number} tool {'right' if k < right else 'wrong'} parent=a{number}" for k in range(4)]
    margin = audit(log_of("\n".join(lines), tmp_path / "log.jsonl"))["proposition_margin"]
    assert margin.details["verdict"] == verdict
    assert margin.interval is not None
    assert (margin.interval[0] > 0, margin.interval[1] < 0) == (verdict == "supported", verdict == "contradicted")


def test_the_groups_own_step_is_never_what_a_question_is_compared_with(audit: Audit, tmp_path: Path) -> None:
    text = """
    q1 tool wrong rollout_id=a step=1 prompt=Why?
    q1 tool wrong step=1 prompt=Why?
    q2 tool right step=2 prompt=Why?
    q2 -    right step=2 prompt=Why?
    q3 tool right step=2 prompt=How?
    q3 tool right step=2 prompt=How?
    p1 tool right parent=a step=1
    p1 tool wrong parent=a step=1
    """
    margin = audit(log_of(text, tmp_path / "log.jsonl"))["proposition_margin_same_question"]
    assert (margin.details["p"], margin.details["q_p_tool"], margin.value) == (1 / 2, 1 / 2, 0.0)


@pytest.mark.parametrize(("suffix", "tokens"), [("", True), ("_chars", False)])
def test_what_a_token_buys_is_what_a_plain_script_finds(
    suffix: str, *, tokens: bool, case: tuple[Drawn, gs.Report]
) -> None:
    log, report = case
    steps = {(prefix.source.run, prefix.source.step) for prefix in log.prefixes()}

    def cost(rollout: gs.Rollout) -> int | None:
        if tokens:
            return None if rollout.tokens is None else sum(rollout.tokens.sampled)
        return len(rollout.output)

    own: dict[str | None, list[list[int]]] = defaultdict(list)
    for prefix in log.prefixes():
        frozen = prefix.source.spans[0].end + 1
        new = [(bool(r.correct), paid - frozen) for r in prefix.judged if r.calls and (paid := cost(r)) is not None]
        own[prefix.source.group_id].append([sum(x for x, _ in new), sum(m for _, m in new), len(new)])
    others = {
        group[0].group_id: (wins(group), sum(map(cost, group)), len(group))
        for group in eligible(log)
        if (group[0].run, group[0].step) in steps and all(cost(r) is not None for r in group)
    }
    pairs = [(1000 * x, m) for group in own.values() for x, m, _ in group]
    gained, spent, draws = (sum(column) for column in zip(*(p for group in own.values() for p in group), strict=True))
    correct, paid, rollouts = (sum(column) for column in zip(*others.values(), strict=True))
    resampled, fresh, ratio = (
        report[f"{name}{suffix}"] for name in ("resampling_yield", "fresh_yield", "resampling_yield_ratio")
    )
    assert (resampled.value, resampled.n) == (close(1000 * gained / spent), spent)
    assert resampled.interval == pytest.approx(cluster_bounds(pairs, share=False), rel=0, abs=1e-9)
    assert (fresh.value, fresh.n) == (close(1000 * correct / paid), paid)
    assert (ratio.value, ratio.n) == (close(gained / spent / (correct / paid)), draws)
    assert ratio.details["fresh_would_gain"] == close(spent * correct / paid)
    assert ratio.details["cost_per_rollout"] == close(paid / rollouts)
    moved = []
    for name in {*own, *others}:
        x, m, _ = np.sum(own.get(name, [[0, 0, 0]]), axis=0)
        a, c, _ = others.get(name, (0, 0, 0))
        moved.append(x / gained - m / spent - (a / correct - c / paid))
    number = min(sum(any(m for _, m, _ in group) for group in own.values()), len(others))
    error = math.sqrt(number / (number - 1) * sum(e**2 for e in moved))
    half = scipy.stats.t.ppf(0.975, number - 1) * error
    bounds = (ratio.value * math.exp(-half), ratio.value * math.exp(half))
    assert ratio.interval == pytest.approx(bounds, rel=1e-9)


def test_without_tokens_the_yield_is_known_by_characters_alone(audit: Audit, tmp_path: Path) -> None:
    text = """
    q1 tool wrong rollout_id=a prefix=abcd raw=wxyz
    q1 tool right prefix=abcd raw=wxyz
    p1 tool right parent=a branch=4 prefix=abcd raw=zy
    p1 tool wrong parent=a branch=4 prefix=abcd raw=uvwxyz
    """
    report = audit(log_of(text, tmp_path / "log.jsonl"))
    assert report["resampling_yield_chars"].value == close(1000 * 1 / (2 + 6))
    assert report["fresh_yield_chars"].value == close(1000 * 1 / 16)
    assert report["resampling_yield"].reason == "of no continuation it is known which of its tokens are new"
    assert report["fresh_yield"].reason == "the log has no token counts"
    assert report["resampling_yield_ratio"].status == "unobserved"


def test_where_no_rollout_used_a_tool_and_was_correct_there_is_no_ratio(audit: Audit, tmp_path: Path) -> None:
    text = "q1 tool wrong rollout_id=a prefix=ab raw=wx\nq1 - right chars=4\np1 tool right parent=a prefix=ab raw=zy"
    report = audit(log_of(text, tmp_path / "log.jsonl"))
    assert report["fresh_yield_chars"].value == 0
    assert report["resampling_yield_ratio_chars"].reason == "no rollout of these steps used a tool and was correct"
