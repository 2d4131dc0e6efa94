"""Intervals from resampled groups, and how often one value is above another, against scipy and by brute force."""

from __future__ import annotations

import math
import runpy
import sys
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from gapscope import bootstraps
from gapscope.bootstraps import (
    area_interval,
    area_under_curve,
    bootstrap_area,
    bootstrap_mean,
    bootstrap_ratio_difference,
    cluster_area,
)

if TYPE_CHECKING:
    from random import Random

Rated = list[tuple[float, bool, int]]

rated = st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.booleans(), st.integers(-3, 3)), max_size=15)


def test_bootstraps_can_be_imported_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert "bootstrap_mean" in runpy.run_path(bootstraps.__file__)


def test_bootstrap_mean_is_the_binomial_percentile_interval_for_zeros_and_ones() -> None:
    low, high = bootstrap_mean([0.0, 1.0], [60, 40], resamples=20_000)
    assert low == pytest.approx(scipy.stats.binom.ppf(0.025, 100, 0.4) / 100, abs=0.011)
    assert high == pytest.approx(scipy.stats.binom.ppf(0.975, 100, 0.4) / 100, abs=0.011)
    million = bootstrap_mean([0.0, 1.0], [600_000, 400_000])
    assert million == pytest.approx((0.4 - 0.00096, 0.4 + 0.00096), abs=1e-4)


def test_bootstrap_of_fewer_than_two_groups_is_none() -> None:
    assert bootstrap_mean([], []) is None
    assert bootstrap_mean([0.5, 0.7], [1, 0]) is None
    assert bootstrap_ratio_difference([(1, 1, 0, 1, 1)]) is None


def test_bootstrap_of_equal_values_is_that_value_exactly() -> None:
    assert bootstrap_mean([0.1], [3]) == (0.1, 0.1)  # In floats 0.1 · 3 / 3 exceeds 0.1.


def test_bootstrap_moves_with_the_seed_and_not_with_the_size_of_its_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values, counts = [float(index) for index in range(40)], [1] * 40
    cells = [(index % 2, 1, index % 3, 3, 2) for index in range(40)]
    assert bootstrap_mean(values, counts, seed=1) != bootstrap_mean(values, counts, seed=2)
    whole = bootstrap_mean(values, counts), bootstrap_ratio_difference(cells)
    monkeypatch.setattr(bootstraps, "_BLOCK_CELLS", 1000)
    assert (bootstrap_mean(values, counts), bootstrap_ratio_difference(cells)) == whole


@given(st.dictionaries(st.floats(-1e6, 1e6), st.integers(0, 5), max_size=10), st.randoms())
def test_bootstrap_does_not_depend_on_order_or_on_how_counts_are_split(
    weights: dict[float, int], random: Random
) -> None:
    values, counts = list(weights), list(weights.values())
    split = [value for value in weights for _ in range(weights[value])]
    random.shuffle(split)
    ones = [1] * len(split)
    assert bootstrap_mean(values, counts, resamples=50) == bootstrap_mean(split, ones, resamples=50)


def test_bootstrap_ratio_difference_has_the_spread_of_two_independent_proportions() -> None:
    cells = [(1, 1, 0, 0, 300), (0, 1, 0, 0, 700), (0, 0, 1, 1, 500), (0, 0, 0, 1, 500)]
    half = 1.96 * math.sqrt(0.3 * 0.7 / 1000 + 0.25 / 1000)
    assert bootstrap_ratio_difference(cells) == pytest.approx((-0.2 - half, -0.2 + half), abs=0.005)
    assert bootstrap_ratio_difference(cells[::-1]) == bootstrap_ratio_difference(cells)


def test_bootstrap_ratio_difference_leaves_out_resamples_without_a_denominator() -> None:
    # Half of the resamples miss one of the two groups altogether; the rest agree.
    assert bootstrap_ratio_difference([(1, 1, 0, 0, 1), (0, 0, 0, 1, 1)]) == (1.0, 1.0)
    assert bootstrap_ratio_difference([(1, 1, 0, 0, 5)]) is None


# --- How often a positive value is above a negative one ---------------------------------------------------


def columns(rollouts: Rated) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, verdicts and groups."""
    values, positive, groups = zip(*rollouts, strict=True) if rollouts else ((), (), ())
    return np.array(values, dtype=float), np.array(positive, dtype=bool), np.array(groups, dtype=np.int64)


def random_rollouts(groups: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Four rollouts per group, of which values and verdicts go with the group and with one another; some values tie."""
    rng = np.random.default_rng(seed)
    easy = np.repeat(rng.random(groups), 4)
    values = np.round((easy + rng.random(4 * groups)) / 2, 2)
    return values, rng.random(4 * groups) < (easy + values) / 2, np.repeat(np.arange(groups), 4)


def fought(rollouts: Rated) -> float | None:
    """Every positive one against every negative one."""
    wins = [
        1.0 if own > other else 0.5 if own == other else 0.0
        for (own, good, _), (other, bad, _) in product(rollouts, rollouts)
        if good and not bad
    ]
    return sum(wins) / len(wins) if wins else None


def test_the_area_is_the_share_of_pairs_that_the_positive_one_wins() -> None:
    values, positive, _ = columns([(0.9, True, 0), (0.5, True, 0), (0.5, False, 0), (0.1, False, 0)])
    # 0.9 wins twice, 0.5 wins once and ties once.
    assert area_under_curve(values, positive) == 3.5 / 4
    assert area_under_curve(values, ~positive) == 0.5 / 4


@given(rated)
def test_the_area_is_that_of_all_pairs_fought_out_one_by_one(rollouts: Rated) -> None:
    expected = fought(rollouts)
    area = area_under_curve(*columns(rollouts)[:2])
    assert area == (expected if expected is None else pytest.approx(expected, abs=1e-15))


def test_the_area_agrees_with_scipy() -> None:
    values, positive, _ = random_rollouts(500, seed=1)
    test = scipy.stats.mannwhitneyu(values[positive], values[~positive])
    pairs = int(positive.sum()) * int((~positive).sum())
    assert area_under_curve(values, positive) == pytest.approx(test.statistic / pairs, rel=1e-14)


def test_the_bootstrap_of_an_area_is_that_of_groups_drawn_and_fought_out_one_by_one() -> None:
    values, positive, groups = random_rollouts(8, seed=2)
    rollouts = list(zip(values.tolist(), positive.tolist(), groups.tolist(), strict=True))
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(200):
        drawn = rng.integers(8, size=8)
        area = fought([rollout for group in drawn for rollout in rollouts if rollout[2] == group])
        assert area is not None
        areas.append(area)
    expected = np.quantile(areas, (0.025, 0.975), method="inverted_cdf")
    assert bootstrap_area(values, positive, groups, resamples=200) == pytest.approx(tuple(expected), rel=1e-14)


@given(rated.filter(bool), st.randoms())
def test_the_interval_of_an_area_does_not_depend_on_the_order_of_rollouts(rollouts: Rated, random: Random) -> None:
    shuffled = list(rollouts)
    random.shuffle(shuffled)
    for interval in (lambda *rows: bootstrap_area(*rows, resamples=20), cluster_area):
        expected = interval(*columns(rollouts))
        assert interval(*columns(shuffled)) == (expected if expected is None else pytest.approx(expected, abs=1e-14))


def test_an_interval_of_an_area_needs_two_groups_and_both_verdicts() -> None:
    one_group = columns([(0.9, True, 4), (0.1, False, 4)])
    one_verdict = columns([(0.9, True, 0), (0.1, True, 1)])
    for rows in (columns([]), one_group, one_verdict):
        assert bootstrap_area(*rows, resamples=20) is None
        assert cluster_area(*rows) is None
        assert area_interval(*rows) == (None, "none")


def test_resamples_without_both_verdicts_are_left_out() -> None:
    # Half of the resamples hold one of the two groups only; in the rest the positive one wins.
    assert bootstrap_area(*columns([(0.9, True, 0), (0.1, False, 1)]), resamples=50) == (1.0, 1.0)


def test_the_cluster_robust_interval_is_its_formula_written_out() -> None:
    values, positive, groups = random_rollouts(6, seed=3)
    rollouts = list(zip(values.tolist(), positive.tolist(), groups.tolist(), strict=True))
    area = fought(rollouts)
    good, bad = [r for r in rollouts if r[1]], [r for r in rollouts if not r[1]]
    added = dict.fromkeys(range(6), 0.0)
    for own in good:
        added[own[2]] += (fought([own, *bad]) - area) / len(good)
    for other in bad:
        added[other[2]] += (fought([*good, other]) - area) / len(bad)
    half = scipy.stats.t.ppf(0.975, 5) * math.sqrt(6 / 5 * sum(part**2 for part in added.values()))
    expected = (max(0.0, area - half), min(1.0, area + half))
    assert cluster_area(values, positive, groups) == pytest.approx(expected, rel=1e-9)


def test_the_two_intervals_of_an_area_agree_where_groups_are_many() -> None:
    rows = random_rollouts(4000, seed=4)
    area = area_under_curve(*rows[:2])
    resampled, robust = bootstrap_area(*rows, resamples=1000), cluster_area(*rows)
    assert resampled == pytest.approx(robust, abs=0.1 * (robust[1] - robust[0]))
    assert robust[0] < area < robust[1]


def test_an_area_of_many_rollouts_is_not_resampled(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_rollouts(20, seed=5)
    assert area_interval(*rows) == (bootstrap_area(*rows), "bootstrap_groups")
    monkeypatch.setattr(bootstraps, "_MOST_RESAMPLED", 79)
    assert area_interval(*rows) == (cluster_area(*rows), "cluster")
