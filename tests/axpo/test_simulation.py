"""What the theory says of a policy of which everything is known, and what gapscope finds in its rollouts.

A question x is answered with a tool with probability q. A tool prefix t₁ leads to a correct answer with probability
p(t₁), which is drawn for the question or for each prefix anew; p_tool is its mean. Seeds are fixed. A share is as
expected if it is within four of its standard errors, each of which would fail one seed in 16,000.
"""

import math
import random
from pathlib import Path
from statistics import fmean
from typing import Literal, NamedTuple

import numpy as np
import pytest
from axpo_logs import Made, resampled, rollout, written
from few_metrics import measure_only

import gapscope as gs
from gapscope.axpo.plan import plan
from gapscope.metrics import all_wrong, continuations, groups, proposition, recovery, recovery_confidence, triggers
from gapscope.plan_options import PlanOptions
from gapscope.plans import Plan, PlannedPrefix

A, B = 0.47, 0.53
"""The Beta law of p under which the published table of failures was computed (axpo, sections 4 and 7)."""
N, Q, K = 8, 0.27, 4
ERRORS = 4
LOW = gs.Settings(min_groups=1, min_rollouts=1, min_informative=1, min_steps=2)


def near(share: float, expected: float, n: float) -> bool:
    return abs(share - expected) <= ERRORS * math.sqrt(expected * (1 - expected) / n)


def all_fail(m: int, a: float = A, b: float = B) -> float:
    """E[(1 − p)^m] for p ~ Beta(a, b): B(a, b + m) / B(a, b)."""
    return math.exp(math.lgamma(b + m) + math.lgamma(a + b) - math.lgamma(a + b + m) - math.lgamma(b))


def at_least_one(p: float, n: int) -> float:
    return 1 - (1 - p) ** n


# --- The theory, simulated -------------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "mean", "recovers"), [(1, 0.2350, 0.4842), (2, 0.1567, 0.3785), (3, 0.1175, 0.3126)])
def test_after_failures_a_question_is_worth_what_was_published(t: int, mean: float, recovers: float) -> None:
    assert A / (A + B + t) == pytest.approx(mean, abs=5e-5)
    assert 1 - all_fail(K, A, B + t) == pytest.approx(recovers, abs=5e-5)
    rng = np.random.default_rng(t)
    p = rng.beta(A, B, 400_000)
    failed = p[rng.binomial(t, p) == 0]
    assert near(len(failed) / len(p), all_fail(t), len(p))
    assert abs(failed.mean() - mean) < ERRORS * failed.std() / math.sqrt(len(failed)) + 5e-5
    recovered = rng.binomial(K, failed) > 0
    assert near(recovered.mean(), recovers, len(failed))


def test_the_same_law_in_both_subgroups_gives_the_published_gap_by_their_sizes_alone() -> None:
    rng = np.random.default_rng(5)
    p, t = rng.beta(A, B, 400_000), rng.binomial(N, Q, 400_000)
    tool, other = rng.binomial(t, p) == 0, rng.binomial(N - t, p) == 0
    for wrong, size, published in ((tool, t, 0.404), (other, N - t, 0.259)):
        there = size > 0
        weights = np.bincount(size[there], minlength=N + 1) / there.sum()
        expected = sum(weight * all_fail(m) for m, weight in enumerate(weights))
        assert near(wrong[there].mean(), expected, there.sum())
        assert wrong[there].mean() == pytest.approx(published, abs=0.004)


@pytest.mark.parametrize("n", [1, 2, 4, 8])
@pytest.mark.parametrize("share", [0.25, 0.6, 1.0, 1.5, 3.0])
def test_proposition_1_holds_where_its_condition_does_and_fails_where_it_does_not(n: int, share: float) -> None:
    p_tool, trials = 0.47, 100_000
    threshold = Q * p_tool
    source = share * threshold
    rng = np.random.default_rng(round(100 * share) + n)
    branched = (rng.random((trials, n)) < source).any(axis=1).mean()
    calls = rng.random((trials, n)) < Q
    right = rng.random((trials, n)) < rng.beta(A, B, (trials, n))
    fresh = (calls & right).any(axis=1).mean()
    assert near(branched, at_least_one(source, n), trials)
    assert near(fresh, at_least_one(threshold, n), trials)
    # Both are within their errors of what they should be; the gap between them is far more than both errors.
    error = ERRORS * math.sqrt(2 * 0.25 / trials)
    if share == 1:
        assert abs(branched - fresh) <= error
    else:
        assert (branched - fresh > error) if share > 1 else (fresh - branched > error)


# --- Logs of such a policy -------------------------------------------------------------------------------


class Simulated(NamedTuple):
    rollouts: list[gs.Rollout]
    quality: dict[str, float]
    """p(t₁) of each tool-using rollout."""


def simulated(
    seed: int, *, law: Literal["question", "prefix"], q: float = Q, tie: float = 0.0, questions: int = 150,
    a: float = A, b: float = B,
) -> Simulated:  # fmt: skip
    """One step of 8 rollouts to a question; `tie`, in [−1, 1], is how much the least sure calls are the best ones."""
    rng = random.Random(seed)
    rollouts, quality = [], {}
    for question in range(questions):
        shared = rng.betavariate(a, b)
        for place in range(N):
            name = f"{question}.{place}"
            p = shared if law == "question" else rng.betavariate(a, b)
            calls = []
            if rng.random() < q:
                quality[name] = p
                calls = [Made(logprobs=[math.log(_confidence(rng, p, tie))])]
            rollouts.append(
                rollout(
                    calls, prompt=f"Question {question}?", group_id=f"q{question}", sample_index=place,
                    rollout_id=name, step=1, correct=rng.random() < p,
                )
            )  # fmt: skip
    return Simulated(rollouts, quality)


def _confidence(rng: random.Random, p: float, tie: float) -> float:
    return 0.5 + 0.45 * (tie * (1 - 2 * p) + (1 - abs(tie)) * rng.uniform(-1, 1))


def planned(folder: Path, made: Simulated, **options: object) -> Plan:
    return plan(written(folder / "log.jsonl", made.rollouts), PlanOptions.model_validate(options))


@pytest.fixture
def few_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure no more than is looked at, which is quicker."""
    measure_only(monkeypatch, groups, all_wrong, triggers, continuations, recovery, recovery_confidence, proposition)


def report_on(path: Path, found: Plan, made: Simulated, *, seed: int = 0) -> gs.Report:
    def chance(prefix: PlannedPrefix) -> float:
        return made.quality[prefix.rollout_id]

    path.unlink(missing_ok=True)
    return gs.audit(resampled(path, found, chance, seed=seed), settings=LOW, jobs=1)


def test_questions_trigger_as_often_as_their_failures_say(tmp_path: Path) -> None:
    expected, variance, triggered, total = 0.0, 0.0, 0, 0
    for seed in range(4):
        made = simulated(seed, law="question")
        header = planned(tmp_path, made).header
        failed = []
        for question in range(150):
            own = [each for each in made.rollouts if each.group_id == f"q{question}" and each.calls]
            if own:
                share = all_fail(len(own))
                expected, variance = expected + share, variance + share * (1 - share)
                failed.append(not any(each.correct for each in own))
        assert header.counts.triggered == sum(failed)
        assert header.counts.groups == 150
        triggered, total = triggered + header.counts.triggered, total + len(failed)
    assert abs(triggered - expected) <= ERRORS * math.sqrt(variance)
    assert triggered / total == pytest.approx(0.40, abs=0.08)


@pytest.mark.parametrize("order", ["batch", "global_confidence"])
def test_the_least_sure_prefixes_are_taken_first(tmp_path: Path, order: str) -> None:
    made = simulated(11, law="prefix", q=0.5, a=0.2, b=1.8)
    found = planned(tmp_path, made, r="0.25", allocation={"order": order})
    own: dict[str, list[float]] = {}
    for each in made.rollouts:
        assert each.tokens is not None
        assert each.tokens.logprobs is not None
        for call in each.calls:
            assert call.tokens is not None
            assert each.group_id is not None
            own.setdefault(each.group_id, []).append(math.exp(each.tokens.logprobs[call.tokens.start] or 0))
    assert found.header.counts.selected == 75 < found.header.counts.triggered
    for prefix in found.prefixes:
        assert prefix.rank == 1
        assert prefix.confidence == pytest.approx(min(own[prefix.group_id]), abs=1e-12)
    if order == "global_confidence":
        chosen = [prefix.confidence or 0 for prefix in found.prefixes]
        right = {each.group_id for each in made.rollouts if each.calls and each.correct}
        firsts = sorted(min(values) for group, values in own.items() if group not in right)
        assert chosen == pytest.approx(firsts[:75], abs=1e-12)


@pytest.mark.parametrize(("tie", "sign"), [(1.0, 1), (-1.0, -1), (0.0, 0)])
def test_ranking_by_confidence_is_worth_what_it_has_to_do_with_quality(tmp_path: Path, tie: float, sign: int) -> None:
    gains = []
    for seed in range(3):
        made = simulated(20 + seed, law="prefix", q=0.5, tie=tie, a=0.4, b=1.6)
        store = tmp_path / f"{seed}.duckdb"
        gs.ingest(written(tmp_path / "log.jsonl", made.rollouts), into=store).close()
        ranked = PlanOptions(allocation={"order": "global_confidence"})
        plans = [plan(store, each) for each in (ranked, ranked.model_copy(update={"rank": "random", "seed": seed}))]
        gains += [fmean(made.quality[prefix.rollout_id] for prefix in each.prefixes) for each in plans]
    gain = fmean(gains[0::2]) - fmean(gains[1::2])
    # The standard deviation of p is about 0.2, and there are three times some 70 prefixes in both means.
    error = ERRORS * 0.2 * math.sqrt(2 / 200)
    assert (abs(gain) < error) if sign == 0 else (sign * gain > 0.05)


@pytest.mark.usefixtures("few_metrics")
def test_prefixes_recover_as_often_as_their_quality_says(tmp_path: Path) -> None:
    expected = variance = recovered = 0.0
    inside, wins, draws, mean_wins = 0, 0.0, 0, 0.0
    for seed in range(5):
        made = simulated(40 + seed, law="prefix", q=0.5, a=0.4, b=1.6)
        found = planned(tmp_path, made, r="0.5")
        report = report_on(tmp_path / "resampled.jsonl", found, made, seed=seed)
        chances = [at_least_one(made.quality[prefix.rollout_id], K) for prefix in found.prefixes]
        rate, success = report["recovery_rate_prefix"], report["continuation_success"]
        assert (rate.n, success.n) == (len(found.prefixes), K * len(found.prefixes))
        assert rate.value is not None
        assert rate.interval is not None
        assert success.value is not None
        low, high = rate.interval
        inside += low <= fmean(chances) <= high
        recovered, expected = recovered + rate.value * rate.n, expected + sum(chances)
        variance += sum(chance * (1 - chance) for chance in chances)
        wins, draws = wins + success.value * success.n, draws + success.n
        mean_wins += K * sum(made.quality[prefix.rollout_id] for prefix in found.prefixes)
    assert abs(recovered - expected) <= ERRORS * math.sqrt(variance)
    assert near(wins / draws, mean_wins / draws, draws)
    assert inside >= 4
    # 1 − (1 − p̄)^K of the mean is more than the mean of 1 − (1 − p)^K: prefixes are not alike.
    assert expected / (draws / K) < at_least_one(mean_wins / draws, K) - 0.05


@pytest.mark.usefixtures("few_metrics")
def test_inside_the_groups_that_trigger_fresh_rollouts_are_worth_nothing_by_construction(tmp_path: Path) -> None:
    made = simulated(60, law="question")
    found = planned(tmp_path, made, r="2")
    triggered = {prefix.group_id for prefix in found.prefixes}
    inside = [each for each in made.rollouts if each.group_id in triggered]
    assert sum(bool(each.correct and each.calls) for each in inside) == 0
    report = report_on(tmp_path / "resampled.jsonl", found, made)
    right = sum(bool(each.correct and each.calls) for each in made.rollouts)
    pooled = report["proposition_q_p_tool"]
    assert (pooled.value, pooled.n) == (right / len(made.rollouts), len(made.rollouts))
    assert near(right / len(made.rollouts), Q * A, len(made.rollouts) / N)


@pytest.mark.usefixtures("few_metrics")
@pytest.mark.parametrize(("a", "b", "q", "verdict"), [(1.0, 2.0, 0.2, "supported"), (0.1, 0.9, 0.9, "contradicted")])
def test_the_verdict_on_proposition_1_is_that_of_the_simulated_policy(
    tmp_path: Path, a: float, b: float, q: float, verdict: str
) -> None:
    made = simulated(70, law="question", q=q, a=a, b=b)
    found = planned(tmp_path, made, r="1")
    success = fmean(made.quality[prefix.rollout_id] for prefix in found.prefixes)
    threshold = q * a / (a + b)
    assert (success > threshold) == (verdict == "supported")
    margin = report_on(tmp_path / "resampled.jsonl", found, made)["proposition_margin"]
    assert margin.details["verdict"] == verdict
    assert margin.value == pytest.approx(success - threshold, abs=0.06)


@pytest.mark.usefixtures("few_metrics")
@pytest.mark.parametrize(("tie", "least", "most"), [(1.0, 0.6, 1.0), (-1.0, 0.0, 0.4)])
def test_the_area_says_whether_the_least_sure_prefixes_are_those_that_recover(
    tmp_path: Path, tie: float, least: float, most: float
) -> None:
    made = simulated(80, law="prefix", q=0.5, tie=tie, a=0.4, b=1.6)
    found = planned(tmp_path, made, r="2")
    area = report_on(tmp_path / "resampled.jsonl", found, made)["confidence_recovery_auc"]
    assert area.value is not None
    assert least < area.value < most
