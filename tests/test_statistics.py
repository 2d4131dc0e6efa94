"""Worked examples of metrics section 13, comparison with scipy, and properties."""

from __future__ import annotations

import itertools
import math
import runpy
import sys
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from gapscope import statistics
from gapscope.statistics import (
    Moments,
    all_wrong_probability,
    benjamini_hochberg,
    cluster_interval,
    cluster_standard_error,
    pass_at_k,
    poisson_binomial,
    size_matched_null,
    student_t_quantile,
    topk_entropy_bounds,
    wilson,
    within_group_delta,
)

if TYPE_CHECKING:
    from random import Random

# FIX8 of metrics 13.1: (t, c, a) of groups of four.
FIX8 = [(1, 2, 0), (2, 1, 0), (1, 3, 0), (3, 0, 0), (2, 4, 2), (0, 2, 0), (4, 2, 2), (2, 1, 1)]
TOOL_SIDE = [(4, c, t, a, 1) for t, c, a in FIX8 if t]
NOTOOL_SIDE = [(4, c, 4 - t, c - a, 1) for t, c, a in FIX8 if t < 4]
SIX_DECIMALS = 5.1e-7

small_groups = st.integers(2, 10).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n), st.integers(1, 3))
)


def close(expected: object) -> object:
    """Equal to the six decimals that the definitions print."""
    return pytest.approx(expected, abs=SIX_DECIMALS, rel=0)


def test_statistics_can_be_imported_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert "wilson" in runpy.run_path(statistics.__file__)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 20, 0, 0.161125), (20, 20, 0.838875, 1), (3, 25, 0.041668, 0.299558), (4, 7, 0.250458, 0.841780)],
)
def test_wilson_gives_the_worked_examples(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == close((low, high))


@given(st.integers(1, 10**9).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_the_point_and_ends_at_zero_and_one_only_when_certain(
    counts: tuple[int, int],
) -> None:
    successes, n = counts
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    assert (low == 0, high == 1) == (successes == 0, successes == n)
    assert wilson(0, 0) is None


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 30, 199, 200, 201, 1000, 10**4, 10**5, 10**6])
def test_student_t_quantile_agrees_with_scipy(degrees: int) -> None:
    for probability in (1e-20, 1e-6, 0.025, 0.2, 0.2499, 0.25, 0.26, 0.4, 0.6, 0.9, 0.975, 0.995, 1 - 1e-9):
        expected = scipy.stats.t.ppf(probability, degrees)
        assert student_t_quantile(probability, degrees) == pytest.approx(expected, rel=1e-10)


def test_student_t_quantile_of_the_95_percent_interval_agrees_with_scipy_for_many_degrees() -> None:
    degrees = [*range(1, 500), *range(500, 10**6, 9973)]
    ours = np.array([student_t_quantile(0.975, v) for v in degrees])
    assert np.max(np.abs(ours / scipy.stats.t.ppf(0.975, degrees) - 1)) < 1e-10


@pytest.mark.parametrize("probability", [1e-300, 1e-9, 0.49, 0.4999, 0.5000001, 0.51])
def test_student_t_quantile_has_its_closed_forms_for_one_and_two_degrees(probability: float) -> None:
    centred = probability - 0.5
    cauchy = math.tan(math.pi * centred) if abs(centred) < 0.25 else -1 / math.tan(math.pi * probability)
    two = 2 * centred / math.sqrt(2 * probability * (1 - probability))
    assert student_t_quantile(probability, 1) == pytest.approx(cauchy, rel=1e-12)
    assert student_t_quantile(probability, 2) == pytest.approx(two, rel=1e-12)


def test_student_t_quantile_is_zero_at_one_half_reaches_far_tails_and_refuses_the_rest() -> None:
    assert student_t_quantile(0.5, 3) == 0.0
    assert scipy.stats.t.cdf(student_t_quantile(1e-290, 200), 200) == pytest.approx(1e-290, rel=1e-9)
    for probability, degrees in ((0.0, 3), (1.0, 3), (math.nan, 3), (0.9, 0)):
        with pytest.raises(ValueError, match="no t quantile"):
            student_t_quantile(probability, degrees)


@pytest.mark.parametrize(
    ("pairs", "ratio", "error", "interval"),
    [
        ([(t, 4) for t, _, _ in FIX8], 15 / 32, 0.110169, (0.208241, 0.729259)),
        ([(c, 4) for _, c, _ in FIX8], 15 / 32, 0.110169, (0.208241, 0.729259)),
        ([(a, t) for t, _, a in FIX8], 5 / 15, 0.144016, (0.0, 0.685729)),
        ([(c - a, 4 - t) for t, c, a in FIX8], 10 / 17, 0.129361, (0.271700, 0.904771)),
        ([(t - a if 0 < c < 4 else 0, t) for t, c, a in FIX8], 7 / 15, 0.153768, (0.090411, 0.842922)),
    ],
    ids=["tool_attempt_rate", "accuracy", "tool_accuracy", "notool_accuracy", "tool_signal_negative_share"],
)
def test_cluster_intervals_of_fix8_are_the_worked_examples(
    pairs: list[tuple[int, int]], ratio: float, error: float, interval: tuple[float, float]
) -> None:
    moments = Moments.of(pairs)
    assert moments.ratio == ratio
    assert cluster_standard_error(moments) == close(error)
    assert cluster_interval(moments, proportion=True) == (close(interval), "cluster")


def test_only_a_proportion_is_clipped() -> None:
    interval, method = cluster_interval(Moments.of((a, t) for t, _, a in FIX8), proportion=False)
    assert interval == close((-0.019062, 0.685729))
    assert method == "cluster"


def test_clusters_that_agree_use_wilson_for_proportions_and_a_point_otherwise() -> None:
    third = Moments.of([(1, 3), (2, 6), (7, 21)])
    assert cluster_standard_error(third) == 0.0
    # x = R·G = 1 of 3.
    assert cluster_interval(third, proportion=True) == (pytest.approx(wilson(1, 3)), "wilson_groups")
    assert cluster_interval(third, proportion=False) == ((1 / 3, 1 / 3), "cluster")
    assert cluster_interval(Moments.of([(0, 3)] * 20), proportion=True) == (wilson(0, 20), "wilson_groups")


def test_fewer_than_two_clusters_have_no_interval() -> None:
    for pairs in ([], [(1, 2)], [(1, 2), (0, 0)]):
        assert cluster_interval(Moments.of(pairs), proportion=True) == (None, "none")


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=12), st.randoms())
def test_moments_do_not_depend_on_order_or_on_empty_clusters(pairs: list[tuple[int, int]], random: Random) -> None:
    shuffled = [*pairs, (0, 0)]
    random.shuffle(shuffled)
    assert Moments.of(shuffled) == Moments.of(pairs)
    assert Moments.of([(1, 2), (3, 4)]) == Moments(clusters=2, x=4, m=6, xx=10, xm=14, mm=20)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), min_size=2, max_size=12))
def test_cluster_standard_error_is_its_definition_in_exact_fractions(pairs: list[tuple[int, int]]) -> None:
    g, total = len(pairs), sum(m for _, m in pairs)
    ratio = Fraction(sum(x for x, _ in pairs), total)
    variance = Fraction(g, g - 1) * sum((x - ratio * m) ** 2 for x, m in pairs) / total**2
    assert cluster_standard_error(Moments.of(pairs)) == pytest.approx(math.sqrt(variance), rel=1e-14)


@pytest.mark.parametrize(
    ("n", "correct", "k", "value"),
    [(8, 3, 1, 3 / 8), (8, 3, 2, 9 / 14), (8, 3, 4, 13 / 14), (8, 3, 6, 1), (4, 1, 2, 0.5), (4, 0, 4, 0)],
)
def test_pass_at_k_gives_the_worked_examples_exactly(n: int, correct: int, k: int, value: float) -> None:
    assert pass_at_k(n, correct, k) == value
    assert pass_at_k(n, correct, n + 1) is None


def mean_pass_at_k(pairs: list[tuple[int, int]], k: int) -> float:
    values = [value for n, correct in pairs if (value := pass_at_k(n, correct, k)) is not None]
    return sum(values) / len(values)


def test_pass_at_k_of_fix8_is_the_worked_example() -> None:
    whole = [(4, c) for _, c, _ in FIX8]
    assert [mean_pass_at_k(whole, k) for k in (1, 2, 4)] == pytest.approx([15 / 32, 11 / 16, 7 / 8])
    assert mean_pass_at_k([(t, a) for t, _, a in FIX8], 2) == close(0.566667)
    assert mean_pass_at_k([(4 - t, c - a) for t, c, a in FIX8], 2) == close(0.805556)
    paired = [(t, c, a) for t, c, a in FIX8 if t == 2]
    assert mean_pass_at_k([(2, a) for _, _, a in paired], 2) == close(0.666667)
    assert mean_pass_at_k([(2, c - a) for _, c, a in paired], 2) == close(0.666667)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))))
def test_all_wrong_probability_is_the_ratio_of_binomials_and_one_minus_pass_at_k(
    group: tuple[int, int, int],
) -> None:
    n, correct, size = group
    exact = Fraction(math.comb(n - correct, size), math.comb(n, size))
    assert all_wrong_probability(n, correct, size) == float(exact)
    assert pass_at_k(n, correct, size) == float(1 - exact)


def test_all_wrong_probability_of_fix8_is_the_worked_example() -> None:
    assert [all_wrong_probability(*group[:3]) for group in TOOL_SIDE] == [0.5, 0.5, 0.25, 1, 0, 0, 0.5]
    assert [all_wrong_probability(*group[:3]) for group in NOTOOL_SIDE] == [0, 0.5, 0, 1, 0, 0, 0.5]


def test_size_matched_null_of_the_tool_side_of_fix8_is_the_worked_example() -> None:
    test = size_matched_null(TOOL_SIDE)
    assert (test.groups, test.informative, test.method) == (7, 4, "exact")
    assert (test.observed, test.expected) == (4, 11 / 4)
    assert test.expected / test.groups == close(0.392857)
    assert (test.observed - test.expected) / test.groups == close(0.178571)
    assert (test.observed_informative, test.expected_informative) == (3, 7 / 4)
    assert (test.observed_informative - test.expected_informative) / test.informative == 0.3125
    assert test.variance == 15 / 16
    assert test.p_upper == pytest.approx(7 / 32, rel=1e-15)
    assert test.p_lower == pytest.approx(31 / 32, rel=1e-15)
    assert test.p_two == pytest.approx(0.4375, rel=1e-15)
    assert test.z == close(0.774597)
    assert test.p_normal == close(0.219289)


def test_size_matched_null_of_the_no_tool_side_of_fix8_is_the_worked_example() -> None:
    test = size_matched_null(NOTOOL_SIDE)
    assert (test.groups, test.observed, test.expected) == (7, 2, 2.0)
    assert test.p_upper == pytest.approx(0.75, rel=1e-15)
    # G1 and G3 are informative by definition although p is 0: three correct ones cannot all be missed.
    assert (test.informative, test.observed_informative, test.expected_informative) == (4, 1, 1.0)


def test_size_matched_null_of_the_larger_case_is_the_worked_example() -> None:
    test = size_matched_null([(8, 3, 2, 0, 20), (8, 3, 2, 1, 20)])
    assert (test.groups, test.informative, test.observed) == (40, 40, 20)
    assert test.expected == close(14.285714)
    assert test.variance == close(9.183673)
    assert test.p_upper == close(0.044727)
    assert test.z == close(1.720627)
    assert test.p_normal == close(0.042659)


def test_size_matched_null_without_variance_has_no_p_value() -> None:
    for groups in ([], [(4, 0, 2, 0, 9), (4, 2, 4, 2, 9)], [(4, 3, 2, 1, 30)], [(4, 2, 0, 0, 30)]):
        test = size_matched_null(groups)
        assert test.method == "none"
        assert (test.p_upper, test.p_lower, test.p_two, test.z, test.p_normal) == (None,) * 5
    assert size_matched_null([(4, 2, 0, 0, 30)]).groups == 0
    assert size_matched_null([(4, 3, 2, 1, 30)]).informative == 30


def test_size_matched_null_is_normal_only_above_twenty_thousand_informative_groups() -> None:
    exact = size_matched_null([(8, 3, 2, 0, 7250), (8, 3, 2, 1, 12750)])
    normal = size_matched_null([(8, 3, 2, 0, 7251), (8, 3, 2, 1, 12750)])
    assert (exact.method, normal.method) == ("exact", "normal")
    assert exact.p_upper == pytest.approx(scipy.stats.binom.sf(7249, 20_000, 10 / 28), rel=1e-9)
    assert normal.p_upper == normal.p_normal
    overlap = normal.p_lower + normal.p_upper - 1
    assert overlap == pytest.approx(scipy.stats.binom.pmf(7251, 20_001, 10 / 28), rel=0.01)
    assert normal.p_two == pytest.approx(2 * normal.p_upper)


@given(st.lists(small_groups, max_size=8), st.randoms())
def test_size_matched_null_tails_overlap_and_do_not_depend_on_order(
    groups: list[tuple[int, int, int, int]], random: Random
) -> None:
    rows = []
    for n, correct, size, multiplicity in groups:
        least, most = max(0, size - (n - correct)), min(size, correct)
        rows.append((n, correct, size, random.randint(least, most), multiplicity))
    test = size_matched_null(rows)
    random.shuffle(rows)
    assert size_matched_null(rows) == test
    assert test.observed - test.expected == pytest.approx(test.observed_informative - test.expected_informative)
    if test.p_upper is not None:
        assert test.p_upper + test.p_lower >= 1 - 1e-12
        assert 0 < test.p_two <= 1


def test_poisson_binomial_of_fix8_is_the_worked_example() -> None:
    pmf = poisson_binomial([(0.5, 3), (0.25, 1), (1.0, 1), (0.0, 2)])
    assert pmf * 32 == pytest.approx([0, 3, 10, 12, 6, 1, 0, 0], abs=1e-14)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 3)), max_size=4))
def test_poisson_binomial_agrees_with_enumeration(probabilities: list[tuple[float, int]]) -> None:
    trials = [p for p, count in probabilities for _ in range(count)]
    expected = [0.0] * (len(trials) + 1)
    for outcome in itertools.product((0, 1), repeat=len(trials)):
        expected[sum(outcome)] += math.prod(p if hit else 1 - p for p, hit in zip(trials, outcome, strict=True))
    assert poisson_binomial(probabilities) == pytest.approx(expected, rel=1e-11, abs=1e-300)


@pytest.mark.parametrize(("p", "trials"), [(0.357, 2000), (0.001, 20_000), (0.999, 5000), (0.5, 1), (1e-12, 50)])
def test_poisson_binomial_keeps_relative_accuracy_in_the_tails_of_a_binomial(p: float, trials: int) -> None:
    ours = poisson_binomial([(p, trials // 2), (math.nextafter(p, 1), trials - trials // 2)])
    logarithms = scipy.stats.binom.logpmf(np.arange(trials + 1), trials, p)
    kept = logarithms > -650
    assert np.log(ours[kept]) == pytest.approx(logarithms[kept], abs=1e-7)


def test_within_group_delta_of_fix8_has_the_worked_z() -> None:
    delta, z, groups = within_group_delta((4, c, t, a, 1) for t, c, a in FIX8)
    assert groups == 6
    assert z == close(-1.290994)
    # Σ(a - E) = -1.25 over the 11 tool-using rollouts of the six groups that have both kinds.
    assert delta == -1.25 / 11


def test_within_group_delta_needs_both_kinds_of_rollouts_and_a_varying_group() -> None:
    assert within_group_delta([(4, 2, 0, 0, 3), (4, 2, 4, 2, 3)]) is None
    assert within_group_delta([(4, 4, 2, 2, 3), (4, 0, 1, 0, 2)]) == (0.0, None, 5)
    assert within_group_delta([(4, 2, 2, 2, 8)]) == within_group_delta([(4, 2, 2, 2, 1)] * 8)


@given(st.lists(st.floats(0, 1), max_size=20))
def test_benjamini_hochberg_agrees_with_scipy(p: list[float]) -> None:
    expected = scipy.stats.false_discovery_control(p) if p else []
    assert benjamini_hochberg(p) == pytest.approx(list(expected), rel=1e-12)


def test_the_three_likeliest_of_a_thousand_bound_the_entropy_as_worked_out() -> None:
    """Metrics 13.7."""
    lower, upper = topk_entropy_bounds([math.log(p) for p in (0.5, 0.3, 0.1)], 1000)
    assert (round(lower, 6), round(upper or 0, 6)) == (1.168282, 1.858758)
    assert topk_entropy_bounds([math.log(p) for p in (0.5, 0.3, 0.1)], None) == (lower, None)


def test_what_is_known_of_nothing_bounds_the_entropy_by_that_of_equal_chances() -> None:
    assert topk_entropy_bounds([], 8) == (0.0, math.log(8))


def test_log_probs_that_sum_to_more_than_one_by_rounding_leave_no_rest() -> None:
    lower, upper = topk_entropy_bounds([math.log(0.5), math.log(0.5) + 1e-9], 1000)
    assert lower == upper == close(math.log(2))


def test_a_token_that_is_all_but_impossible_has_no_share_in_the_entropy() -> None:
    assert topk_entropy_bounds([0.0, -9999.0, -math.inf], 1000) == (0.0, 0.0)


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=12), st.integers(0, 12))
def test_the_entropy_of_a_whole_distribution_lies_between_the_bounds_of_any_part(weights: list[float], k: int) -> None:
    chances = [weight / sum(weights) for weight in weights]
    entropy = -sum(p * math.log(p) for p in chances)
    lower, upper = topk_entropy_bounds([math.log(p) for p in chances[:k]], len(chances))
    assert upper is not None
    assert lower - 1e-9 <= entropy <= upper + 1e-9
