"""Whether a per-step series falls, how fast, and whether it has collapsed (metrics, section 8).

Serial correlation between steps makes the p-values optimistic. numpy is imported late, as in `statistics`.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy import float64
    from numpy.typing import NDArray

_HELD_SLOPES = 2_000_000  # Up to this many pairs of steps, all their slopes are held at once: 16 MB.
_LEAST_REFERENCE = 0.05  # A series that began lower has nothing to collapse from.
_SIGNIFICANT = 0.05


def theil_sen(points: Sequence[tuple[float, float]]) -> float | None:
    """Median slope, value per step, over all pairs of (step, value) points (Theil 1950, Sen 1968).

    Pairs with equal steps are left out; None when no pair remains. Takes time in m² and memory in m^1.5.
    """
    import numpy as np

    x, y = np.array(sorted(points), dtype=np.float64).reshape(-1, 2).T
    m = len(points)
    pairs = math.comb(m, 2) - sum(math.comb(count, 2) for count in Counter(x.tolist()).values())
    if not pairs:
        return None
    sample = np.empty(0)
    if pairs > _HELD_SLOPES:
        i, j = np.random.default_rng(0).integers(m, size=(2, 16 * m))
        i, j = i[x[i] != x[j]], j[x[i] != x[j]]
        sample = np.sort((y[j] - y[i]) / (x[j] - x[i]))
    # Four standard errors of a rank in the sample; should the median still lie outside, the margin grows.
    middle, margin = len(sample) // 2, 2 * math.isqrt(len(sample)) + 1
    while True:
        low = float(sample[middle - margin]) if margin <= middle else -math.inf
        high = float(sample[middle + margin]) if middle + margin < len(sample) else math.inf
        central = _slopes_at(((pairs - 1) // 2, pairs // 2), x, y, low=low, high=high)
        if central:
            return sum(central) / 2
        margin *= 2


def _slopes_at(
    ranks: tuple[int, int], x: NDArray[float64], y: NDArray[float64], *, low: float, high: float
) -> tuple[float, ...]:
    """Slopes with these ranks, from 0, or () if not in [low, high]; equals of a bound are only counted."""
    import numpy as np

    below = to_low = before_high = to_high = 0
    between = []
    for i in range(len(x) - 1):
        run, rise = x[i + 1 :] - x[i], y[i + 1 :] - y[i]
        slopes = rise[run > 0] / run[run > 0]
        below += int(np.count_nonzero(slopes < low))
        to_low += int(np.count_nonzero(slopes <= low))
        before_high += int(np.count_nonzero(slopes < high))
        to_high += int(np.count_nonzero(slopes <= high))
        between.append(slopes[(slopes > low) & (slopes < high)])
    if ranks[0] < below or ranks[-1] >= to_high:
        return ()
    held = np.sort(np.concatenate(between))
    return tuple(low if rank < to_low else float(held[rank - to_low]) if rank < before_high else high for rank in ranks)


@dataclass(frozen=True, slots=True)
class MannKendall:
    """Mann-Kendall test: S, its variance under no trend, z, two-sided p and p of a falling series.

    z and both p-values are None when the variance is 0: fewer than two values, or all of them equal.
    """

    s: int
    variance: float
    z: float | None
    p_two: float | None
    p_falling: float | None


def mann_kendall(values: Sequence[float]) -> MannKendall:
    """Test values in step order for a trend, with tie-corrected variance and continuity correction.

    Mann 1945, Kendall 1975: variance = (m(m-1)(2m+5) - Σ t(t-1)(2t+5)) / 18, summed over sets of t ties.
    """
    s = 0
    earlier: list[float] = []
    for value in values:
        s += bisect_left(earlier, value) - (len(earlier) - bisect_right(earlier, value))
        insort(earlier, value)
    m = len(values)
    ties = sum(t * (t - 1) * (2 * t + 5) for t in Counter(values).values())
    variance = (m * (m - 1) * (2 * m + 5) - ties) / 18
    if not variance:
        return MannKendall(s, variance, None, None, None)
    z = math.copysign(max(0, abs(s) - 1), s) / math.sqrt(variance)
    return MannKendall(s, variance, z, math.erfc(abs(z) / math.sqrt(2)), math.erfc(-z / math.sqrt(2)) / 2)


@dataclass(frozen=True, slots=True)
class Collapse:
    """Whether a series fell to half of where it began; levels in its unit, slope per step, onset a step."""

    collapsed: bool
    reference: float
    recent: float
    onset: float | None
    slope: float
    p_falling: float


def collapse(points: Sequence[tuple[float, float]]) -> Collapse | None:
    """Compare the medians of the first and the last w = max(3, ⌈m/10⌉) of m (step, value) points.

    Collapsed: reference ≥ 0.05, recent ≤ reference / 2, Theil-Sen slope ≤ 0, one-sided Mann-Kendall p ≤ 0.05.
    Onset, of a collapsed series only: the first step from which the median of the trailing w values stays at
    or below half the reference. None when the two windows would overlap (m < 6) or the steps do not differ.
    """
    ordered = sorted(points)
    steps, values = [step for step, _ in ordered], [value for _, value in ordered]
    window = max(3, -(-len(values) // 10))
    slope = theil_sen(ordered)
    if len(values) < 2 * window or slope is None:
        return None
    reference, recent = median(values[:window]), median(values[-window:])
    p_falling = mann_kendall(values).p_falling
    p_falling = 1.0 if p_falling is None else p_falling  # A constant series: S ≤ 0 is certain.
    falling = slope <= 0 and p_falling <= _SIGNIFICANT
    collapsed = falling and reference >= _LEAST_REFERENCE and recent <= reference / 2
    onset = None
    for end in range(len(values), window - 1, -1) if collapsed else ():
        if median(values[end - window : end]) > reference / 2:
            break
        onset = steps[end - 1]
    return Collapse(collapsed, reference, recent, onset, slope, p_falling)
