"""Intervals from resampled groups (Efron 1979), and how often one value is above another.

numpy is imported by the functions that need it, so that commands which compute nothing start fast.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gapscope.statistics import merged, student_t_quantile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy import bool_, float64, int64, intp
    from numpy.typing import NDArray

    from gapscope.statistics import Key

    _Estimate = Callable[[NDArray[float64], NDArray[int64]], NDArray[float64]]

_BLOCK_CELLS = 2_000_000  # Resampled counts held at once: 16 MB, whatever the number of distinct values.
_MOST_RESAMPLED = 20_000
"""Rollouts up to which the interval of an area is bootstrapped; beyond, it is the same to three digits by formula."""


def area_under_curve(values: NDArray[float64], positive: NDArray[bool_]) -> float | None:
    """P(a positive value > a negative one), ties counting half (Mann and Whitney 1947); None without both.

    One value and whether it is positive for each rollout.
    """
    import numpy as np

    distinct, places = np.unique(values, return_inverse=True)
    return _area(*(_counts(places, side, len(distinct)) for side in (positive, ~positive)))


def _counts(places: NDArray[intp], weights: NDArray[bool_ | int64], size: int) -> NDArray[float64]:
    """The sum of weights at each of `size` places; whole numbers, and exact up to 2^53."""
    import numpy as np

    return np.bincount(places, weights, minlength=size).astype(np.float64, copy=False)


def _area(wins: NDArray[float64], losses: NDArray[float64]) -> float | None:
    """The same from the numbers of positive and negative ones at each distinct value, in ascending order."""
    pairs = float(wins.sum() * losses.sum())
    return float((wins * (losses.cumsum() - losses / 2)).sum()) / pairs if pairs else None


def area_interval(
    values: NDArray[float64], positive: NDArray[bool_], groups: NDArray[int64]
) -> tuple[tuple[float, float] | None, str]:
    """95 % interval of the area under the curve, and the method: "bootstrap_groups", "cluster" or "none".

    One value, verdict and group for each rollout; the groups are what is independent.
    """
    if len(values) <= _MOST_RESAMPLED:
        interval, method = bootstrap_area(values, positive, groups), "bootstrap_groups"
    else:
        interval, method = cluster_area(values, positive, groups), "cluster"
    return interval, "none" if interval is None else method


def bootstrap_area(
    values: NDArray[float64], positive: NDArray[bool_], groups: NDArray[int64], *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float] | None:
    """95 % percentile interval of the area under the curve when groups are resampled.

    Resamples without both verdicts are left out; None for fewer than two groups, or when no resample is left. The
    same for any order of the rollouts.
    """
    import numpy as np

    labels, members = np.unique(groups, return_inverse=True)
    number = len(labels)
    if number <= 1:
        return None
    distinct, places = np.unique(values, return_inverse=True)
    sides = [(places[side], members[side]) for side in (positive, ~positive)]
    generator = np.random.default_rng(seed)
    areas = []
    for _ in range(resamples):
        drawn = np.bincount(generator.integers(number, size=number), minlength=number)
        wins, losses = (_counts(place, drawn[member], len(distinct)) for place, member in sides)
        area = _area(wins, losses)
        if area is not None:
            areas.append(area)
    return _percentiles(areas)


def _percentiles(estimates: Sequence[float] | NDArray[float64]) -> tuple[float, float] | None:
    """The 2.5 % and 97.5 % percentiles; None without any estimate."""
    import numpy as np

    if not len(estimates):
        return None
    low, high = np.quantile(estimates, (0.025, 0.975), method="inverted_cdf")
    return float(low), float(high)


def cluster_area(
    values: NDArray[float64], positive: NDArray[bool_], groups: NDArray[int64]
) -> tuple[float, float] | None:
    """95 % cluster-robust interval of the area under the curve, clipped to [0, 1] (Obuchowski 1997).

    None for fewer than two groups, or without both verdicts.
    """
    import numpy as np

    distinct, places = np.unique(values, return_inverse=True)
    wins, losses = (_counts(places, side, len(distinct)) for side in (positive, ~positive))
    area = _area(wins, losses)
    labels, members = np.unique(groups, return_inverse=True)
    number = len(labels)
    if area is None or number <= 1:
        return None
    # What each rollout adds: the share of the other verdict's rollouts that it wins against, or loses to.
    below = (losses.cumsum() - losses / 2) / losses.sum()
    above = (wins.sum() - wins.cumsum() + wins / 2) / wins.sum()
    added = np.where(positive, (below[places] - area) / wins.sum(), (above[places] - area) / losses.sum())
    error = math.sqrt(number / (number - 1) * float((np.bincount(members, added) ** 2).sum()))
    half = error * student_t_quantile(0.975, number - 1)
    return max(0.0, area - half), min(1.0, area + half)


def _bootstrap(
    pairs: Iterable[tuple[Key, int]], estimate: _Estimate, resamples: int, seed: int
) -> tuple[float, float] | None:
    """2.5 % and 97.5 % percentiles of an estimate over resamples of all groups (Efron 1979).

    `estimate` takes distinct keys, (keys,) or (keys, 4), and resampled counts, (resamples, keys), and gives
    one number per resample, or fewer if undefined. A draw costs the same for ten groups and a million.
    """
    import numpy as np

    distinct = merged(pairs)
    keys, counts = np.array([key for key, _ in distinct], dtype=np.float64), [count for _, count in distinct]
    total = sum(counts)
    if total <= 1:
        return None
    generator = np.random.default_rng(seed)
    rows = max(1, _BLOCK_CELLS // len(counts))
    sizes = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    draws = (generator.multinomial(total, np.array(counts) / total, size=size) for size in sizes)
    return _percentiles(np.concatenate([estimate(keys, block) for block in draws]))


def bootstrap_mean(
    values: Sequence[float], counts: Sequence[int], *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float] | None:
    """95 % percentile interval of the mean over groups, in the unit of the values (metrics, section 4).

    `counts[i]` groups share `values[i]`. None for fewer than two groups. The same for any order of the pairs.
    """

    def means(keys: NDArray[float64], draws: NDArray[int64]) -> NDArray[float64]:
        sums: NDArray[float64] = draws @ keys
        total = int(draws[0].sum())
        return (sums / total).clip(keys[0], keys[-1])  # Rounding must not carry a mean out of the range.

    return _bootstrap(zip(values, counts, strict=True), means, resamples, seed)


def bootstrap_ratio_difference(
    cells: Sequence[tuple[int, int, int, int, int]], *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float] | None:
    """95 % percentile interval of Σx1/Σm1 - Σx2/Σm2 when groups are resampled (metrics, section 4).

    Each cell is (x1, m1, x2, m2, number of such groups). Resamples with a zero denominator are left out; None
    for fewer than two groups, or when no resample is left.
    """

    def differences(keys: NDArray[float64], draws: NDArray[int64]) -> NDArray[float64]:
        sums: NDArray[float64] = draws @ keys
        sums = sums[(sums[:, 1] > 0) & (sums[:, 3] > 0)]
        return sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3]

    return _bootstrap(((cell[:4], cell[4]) for cell in cells), differences, resamples, seed)
