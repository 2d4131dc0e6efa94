"""The worked example of metrics section 13.8, comparison with scipy, and the edges of collapse."""

from __future__ import annotations

import math
import runpy
import sys
from statistics import median

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from gapscope import trends
from gapscope.trends import Collapse, MannKendall, collapse, mann_kendall, theil_sen

VALUES = [0.30, 0.31, 0.28, 0.29, 0.24, 0.22, 0.18, 0.19, 0.13, 0.12]
POINTS = [(10.0 * index, value) for index, value in enumerate(VALUES)]

series = st.lists(st.tuples(st.integers(0, 12), st.integers(-5, 5)), max_size=12)


def test_trends_can_be_imported_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert "collapse" in runpy.run_path(trends.__file__)


def test_theil_sen_gives_the_worked_example() -> None:
    assert theil_sen(POINTS) == pytest.approx(-0.002285714, abs=5.1e-10)


def test_theil_sen_without_two_distinct_steps_is_none() -> None:
    assert theil_sen([]) is None
    assert theil_sen([(1, 2)]) is None
    assert theil_sen([(1, 2), (1, 3)]) is None
    assert theil_sen([(3, 2), (1, 3), (1, 4)]) == -0.75


@given(series)
def test_theil_sen_is_the_median_slope_even_from_too_narrow_a_first_bracket(
    points: list[tuple[int, int]],
) -> None:
    slopes = [(y - v) / (x - u) for u, v in points for x, y in points if x > u]
    expected = pytest.approx(median(slopes), abs=1e-15) if slopes else None
    assert theil_sen(points) == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trends, "_HELD_SLOPES", 0)
        patch.setattr("math.isqrt", lambda _: 0)
        assert theil_sen(points) == expected


@pytest.mark.parametrize("decimals", [0, 6])
def test_theil_sen_of_a_long_series_agrees_with_scipy(decimals: int) -> None:
    steps = np.arange(2200)
    values = np.round(np.random.default_rng(3).normal(size=2200) - 0.001 * steps, decimals)
    points = list(zip(steps.tolist(), values.tolist(), strict=True))
    assert theil_sen(points) == scipy.stats.theilslopes(values, steps)[0]


def test_mann_kendall_gives_the_worked_example() -> None:
    test = mann_kendall(VALUES)
    assert (test.s, test.variance) == (-39, 125.0)
    assert test.z == pytest.approx(-3.398823, abs=5.1e-7)
    assert test.p_two == pytest.approx(0.000677, abs=5.1e-7)
    assert test.p_falling == pytest.approx(0.000338, abs=5.1e-7)


def test_mann_kendall_of_a_rising_series_mirrors_the_falling_one() -> None:
    rising, falling = mann_kendall(VALUES[::-1]), mann_kendall(VALUES)
    assert (rising.s, rising.z, rising.p_two) == (39, -falling.z, falling.p_two)
    assert rising.p_falling == pytest.approx(1 - falling.p_falling)


def test_mann_kendall_without_variance_has_no_p_value() -> None:
    for values in ([], [1.0], [2.0, 2.0, 2.0]):
        assert mann_kendall(values) == MannKendall(s=0, variance=0.0, z=None, p_two=None, p_falling=None)


def test_mann_kendall_corrects_the_variance_for_ties() -> None:
    # m = 4 gives 4·3·13 = 156; a pair of ties takes 2·1·9 = 18: 138 / 18.
    assert mann_kendall([1, 2, 2, 3]) == MannKendall(
        s=5,
        variance=138 / 18,
        z=pytest.approx(4 / math.sqrt(138 / 18)),
        p_two=pytest.approx(2 * scipy.stats.norm.sf(4 / math.sqrt(138 / 18))),
        p_falling=pytest.approx(scipy.stats.norm.cdf(4 / math.sqrt(138 / 18))),
    )


@given(st.lists(st.integers(0, 5), max_size=12))
def test_mann_kendall_counts_rising_minus_falling_pairs(values: list[int]) -> None:
    signs = [np.sign(later - earlier) for i, earlier in enumerate(values) for later in values[i + 1 :]]
    assert mann_kendall(values).s == sum(signs)


def test_collapse_gives_the_worked_example() -> None:
    assert collapse(POINTS) == Collapse(
        collapsed=True,
        reference=0.30,
        recent=0.13,
        onset=90.0,
        slope=pytest.approx(-0.002285714, abs=5.1e-10),
        p_falling=pytest.approx(0.000338, abs=5.1e-7),
    )
    assert collapse(POINTS[::-1]) == collapse(POINTS)


def test_collapse_finds_the_first_step_from_which_the_series_stays_low() -> None:
    # Low once at step 3 and 4, back up, then low for good: the trailing median of three is low from step 9.
    values = [0.9, 0.8, 0.85, 0.1, 0.1, 0.7, 0.6, 0.5, 0.1, 0.1, 0.05, 0.0]
    result = collapse(list(enumerate(values)))
    assert result.collapsed
    assert result.onset == 9


def test_collapse_needs_a_reference_a_halving_and_a_falling_trend() -> None:
    low = collapse([(step, value / 10) for step, value in POINTS])
    assert (low.collapsed, low.onset, low.reference) == (False, None, pytest.approx(0.03))
    held = collapse([(step, value + 0.2) for step, value in POINTS])
    assert not held.collapsed
    noise = collapse(list(enumerate([1.0, 1.0, 1.0, 0.1, 3.0, 2.0, 4.0, 0.1, 0.1])))
    assert noise.recent <= 0.5 * noise.reference
    assert (noise.collapsed, noise.p_falling > 0.05) == (False, True)


def test_an_abrupt_collapse_counts_although_most_pairs_of_steps_are_equal_and_the_slope_is_zero() -> None:
    # As defined: 39 of 66 pairs are equal, so that the median slope is 0 although the fall is significant.
    result = collapse(list(enumerate([0.5] * 3 + [0.0] * 9)))
    assert (result.slope, result.recent, result.collapsed) == (0.0, 0.0, True)
    assert result.p_falling < 0.01


def test_collapse_of_exactly_one_half_at_the_least_reference_counts() -> None:
    result = collapse(list(enumerate([0.05, 0.05, 0.05, 0.04, 0.03, 0.025, 0.025, 0.025])))
    assert (result.reference, result.recent, result.collapsed, result.onset) == (0.05, 0.025, True, 6)


def test_a_constant_series_has_not_collapsed() -> None:
    assert collapse([(step, 0.4) for step in range(9)]) == Collapse(
        collapsed=False, reference=0.4, recent=0.4, onset=None, slope=0.0, p_falling=1.0
    )


def test_collapse_is_none_when_its_windows_overlap_or_the_steps_do_not_differ() -> None:
    assert collapse(POINTS[:5]) is None
    assert collapse(POINTS[:6]) is not None
    assert collapse([(1, value) for value in VALUES]) is None


def test_the_window_is_a_tenth_of_the_steps_rounded_up() -> None:
    # Four ones are the majority of a window of 7 and half of a window of 8.
    values = [1.0] * 4 + [3.0] * 66
    assert collapse(list(enumerate(values))).reference == 1.0
    assert collapse(list(enumerate([*values, 3.0]))).reference == 2.0
