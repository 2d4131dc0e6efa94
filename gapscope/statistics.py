"""Intervals, exact nulls and pass@k: pure functions of counts, undefined is None and never NaN.

numpy is imported by the functions that need it, so that commands which compute nothing start fast.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy import float64
    from numpy.typing import NDArray

Z95 = 1.959963984540054
_EXACT_GROUPS = 20_000  # Above this many informative groups the null is the normal approximation only.
_LARGE = 100  # From here on the series for ln B(a, 1/2) is exact to 1e-13.
_CONVERGED = 1e-15

Key = TypeVar("Key", float, tuple[int, int, int, int])


def wilson(successes: int, n: int) -> tuple[float, float] | None:
    """95 % score interval of the proportion successes / n (Wilson 1927); None when n = 0."""
    return _wilson(successes / n, n) if n > 0 else None


def _wilson(p: float, n: int) -> tuple[float, float]:
    shrink = Z95 * Z95 / n
    centre = (p + shrink / 2) / (1 + shrink)
    half = Z95 / (1 + shrink) * math.sqrt(p * (1 - p) / n + shrink / (4 * n))
    # The interval holds p in exact arithmetic; min and max keep that, and 0 and 1 exact, after rounding.
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


@functools.cache
def student_t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t (Student 1908), relative error below 1e-10 up to 10^6 degrees of freedom.

    Newton's method on the logarithm of an area, in w = ln(t²/degrees): the density of w is log-concave, so
    that the iteration converges from below. Raises ValueError unless 0 < probability < 1 and degrees ≥ 1.
    """
    if not 0 < probability < 1 or degrees < 1:
        message = f"no t quantile at probability {probability} with {degrees} degrees of freedom"
        raise ValueError(message)
    tails = 2 * min(probability, 1 - probability)
    core = 1 - tails
    if not core:
        return 0.0
    a = degrees / 2
    log_beta = _log_beta_half(a)
    u = NormalDist().inv_cdf(tails / 2) ** 2 / degrees
    w = u + math.log(-math.expm1(-u))  # t² ≥ degrees·(exp(z²/degrees) - 1), and close to it (Wallace 1959).
    for _ in range(100):
        log_x, log_y = (min(v, 0.0) - math.log1p(math.exp(-abs(w))) for v in (-w, w))
        density = math.exp(a * log_x + log_y / 2 - log_beta)
        x, y = math.exp(log_x), math.exp(log_y)
        if x < (a + 1) / (a + 2.5):
            outside = density * _beta_fraction(a, 0.5, x) / a
            inside = 1 - outside
        else:
            inside = density * _beta_fraction(0.5, a, y) / 0.5
            outside = 1 - inside
        # The smaller area is the one known to full relative accuracy.
        area, target, sign = (outside, tails, 1) if tails < core else (inside, core, -1)
        step = sign * math.log(area / target) * area / density
        w += step
        if abs(step) < 10 * _CONVERGED * max(1, abs(w)):
            break
    return math.copysign(math.exp((w + math.log(degrees)) / 2), probability - 0.5)


def _log_beta_half(a: float) -> float:
    """Ln B(a, 1/2); for large a, where the difference of two ln Γ would cancel, by its series (DLMF 5.11)."""
    if a < _LARGE:
        return math.lgamma(a) + math.lgamma(0.5) - math.lgamma(a + 0.5)
    return (math.log(math.pi) - math.log(a)) / 2 + 1 / (8 * a) - 1 / (192 * a**3)


def _beta_fraction(a: float, b: float, x: float) -> float:
    """Continued fraction of the incomplete beta function (DLMF 8.17.22), by the modified Lentz method."""
    c, d, value = 1.0, 0.0, 1.0
    for i in range(1, 100_000):
        m = i // 2
        term = -(a + m) * (a + b + m) if i % 2 else m * (b - m)
        term *= x / ((a + i - 1) * (a + i))
        c, d = 1 + term / c, 1 / (1 + term * d)
        value *= c * d
        if abs(c * d - 1) < _CONVERGED:
            break
    return 1 / value


@dataclass(frozen=True, slots=True)
class Moments:
    """What a cluster-robust ratio needs: integer sums over the clusters with m > 0 (metrics, section 4)."""

    clusters: int
    x: int
    m: int
    xx: int
    xm: int
    mm: int

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, int]]) -> Moments:
        """Sum (x, m) pairs, one per cluster: x counted events out of m."""
        kept = [(x, m) for x, m in pairs if m > 0]
        xs, ms = [x for x, _ in kept], [m for _, m in kept]
        squares = sum(x * x for x in xs), sum(x * m for x, m in kept), sum(m * m for m in ms)
        return cls(len(kept), sum(xs), sum(ms), *squares)

    @property
    def ratio(self) -> float | None:
        """Σx / Σm, None when Σm = 0."""
        return self.x / self.m if self.m else None


@dataclass(frozen=True, slots=True)
class RealMoments:
    """The same for a real-valued x, with `residuals`, Σ(x − R·m)² over the clusters and R = Σx / Σm."""

    clusters: int
    x: float
    m: int
    residuals: float

    @property
    def ratio(self) -> float | None:
        """Σx / Σm, None when Σm = 0."""
        return self.x / self.m if self.m else None


def cluster_standard_error(moments: Moments | RealMoments) -> float | None:
    """Cluster-robust standard error of Σx / Σm (metrics, section 4); 0.0 only if exact."""
    g, m = moments.clusters, moments.m
    if g <= 1 or m <= 0:
        return None
    if isinstance(moments, RealMoments):
        return math.sqrt(g * moments.residuals / (g - 1)) / m
    # Σ(x - R·m)²·M² as an integer; Python divides integers of any size with one rounding.
    squares = moments.xx * m * m - 2 * moments.x * m * moments.xm + moments.x * moments.x * moments.mm
    return math.sqrt(g * squares / ((g - 1) * m**4))


def cluster_interval(moments: Moments | RealMoments, *, proportion: bool) -> tuple[tuple[float, float] | None, str]:
    """95 % interval of Σx / Σm and the method: "cluster", "wilson_groups" or "none" (metrics, section 4).

    A proportion is clipped to [0, 1]; if all clusters agree, Wilson with one trial per cluster stands in.
    """
    ratio, error = moments.ratio, cluster_standard_error(moments)
    if ratio is None or error is None:
        return None, "none"
    if proportion and error == 0:
        return _wilson(ratio, moments.clusters), "wilson_groups"
    half = error * student_t_quantile(0.975, moments.clusters - 1)
    low, high = ratio - half, ratio + half
    return ((max(0.0, low), min(1.0, high)) if proportion else (low, high)), "cluster"


def pass_at_k(n: int, correct: int, k: int) -> float | None:
    """Chance that k of n rollouts, drawn without replacement, hold a correct one; None when k > n.

    The unbiased estimator 1 - C(n-c, k)/C(n, k) of arXiv:2107.03374, section 2.1.
    """
    return (math.perm(n, k) - math.perm(n - correct, k)) / math.perm(n, k) if k <= n else None


def all_wrong_probability(n: int, correct: int, size: int) -> float:
    """Chance C(n-c, size)/C(n, size) that `size` of n rollouts, drawn without replacement, are all wrong.

    Metrics, section 6. The products are of integers, so that there is a single rounding.
    """
    few, many = sorted((correct, size))  # C(n-c, s)/C(n, s) = C(n-s, c)/C(n, c): take the shorter product.
    return math.perm(n - many, few) / math.perm(n, few) if size <= n - correct else 0.0


@dataclass(frozen=True, slots=True)
class NullTest:
    """Observed all-wrong subgroups against a random subset of each group (metrics, section 6).

    `observed` and `expected` are numbers of groups out of `groups`. The p-values test the `informative` ones
    (0 < size < n and 0 < correct < n): the others equal their expectation. `z` and `p_normal` are upper-tail
    with continuity correction. `method` is "exact", "normal" (p_upper is p_normal) or "none" (no variance).
    """

    groups: int
    informative: int
    observed: int
    expected: float
    variance: float
    p_upper: float | None
    p_lower: float | None
    p_two: float | None
    z: float | None
    p_normal: float | None
    method: str
    observed_informative: int
    expected_informative: float


def size_matched_null(groups: Iterable[tuple[int, int, int, int, int]]) -> NullTest:
    """Test whether subgroups are all-wrong more often than size and difficulty imply (metrics, section 6).

    Each tuple is (n, correct, size, correct in subgroup, number of such groups); size 0 is left out.
    """
    everything, tested = Counter[float](), Counter[float]()
    observed = observed_informative = 0
    for n, correct, size, correct_in_subgroup, multiplicity in groups:
        if size < 1:
            continue
        p = all_wrong_probability(n, correct, size)
        all_wrong = multiplicity if correct_in_subgroup == 0 else 0
        everything[p] += multiplicity
        observed += all_wrong
        if 0 < size < n and 0 < correct < n:
            tested[p] += multiplicity
            observed_informative += all_wrong
    informative = tested.total()
    mean = math.fsum(p * count for p, count in tested.items())
    variance = math.fsum(p * (1 - p) * count for p, count in tested.items())
    p_upper = p_lower = p_two = z = p_normal = None
    method = "none"
    if variance > 0:
        method = "normal"
        above, below = observed_informative - 0.5 - mean, mean - 0.5 - observed_informative
        z = above / math.sqrt(variance)
        p_upper = p_normal = math.erfc(above / math.sqrt(2 * variance)) / 2
        p_lower = math.erfc(below / math.sqrt(2 * variance)) / 2
        if informative <= _EXACT_GROUPS:
            method = "exact"
            pmf = poisson_binomial(list(tested.items()))
            p_upper = min(1.0, float(pmf[observed_informative:].sum()))
            p_lower = min(1.0, float(pmf[: observed_informative + 1].sum()))
        p_two = min(1.0, 2 * min(p_upper, p_lower))
    return NullTest(
        groups=everything.total(),
        informative=informative,
        observed=observed,
        expected=math.fsum(p * count for p, count in everything.items()),
        variance=variance,
        p_upper=p_upper,
        p_lower=p_lower,
        p_two=p_two,
        z=z,
        p_normal=p_normal,
        method=method,
        observed_informative=observed_informative,
        expected_informative=mean,
    )


def poisson_binomial(probabilities: Sequence[tuple[float, int]]) -> NDArray[float64]:
    """Distribution of the number of successes in independent trials, given as (probability, trials) pairs.

    Shape (trials + 1,). Every sum is of positive terms, so that small tails keep their relative accuracy; a
    Fourier transform would lose it (Hong 2013 compares the methods).
    """
    import numpy as np

    pmf = np.ones(1)
    for p, count in merged(probabilities):
        pmf = np.convolve(pmf, _binomial(p, count))
    return pmf


def _binomial(p: float, trials: int) -> NDArray[float64]:
    """Binomial distribution by the ratios of neighbours, outward from the mode, so that nothing overflows."""
    import numpy as np

    mode = min(trials, int((trials + 1) * p))
    up, down = np.arange(mode, trials), np.arange(mode, 0, -1)
    above = np.cumprod((trials - up) * p / ((up + 1) * (1 - p)))
    below = np.cumprod(down * (1 - p) / ((trials - down + 1) * p))
    pmf = np.concatenate([below[::-1], np.ones(1), above])
    pmf /= pmf.sum()
    return pmf


def merged(pairs: Iterable[tuple[Key, int]]) -> list[tuple[Key, int]]:
    """Distinct keys in ascending order with total counts, which makes a result independent of row order."""
    totals: dict[Key, int] = {}
    for key, count in pairs:
        if count > 0:
            totals[key] = totals.get(key, 0) + count
    return sorted(totals.items())


def within_group_delta(
    groups: Iterable[tuple[int, int, int, int, int]],
) -> tuple[float, float | None, int] | None:
    """Accuracy of tool-using rollouts minus what their own groups predict, its z, and the number of groups.

    Metrics, section 5.1. Each tuple is (n, correct, tool-using, correct tool-using, number of such groups);
    only groups with both kinds of rollouts count, None without any. z is None when its variance is 0.
    """
    number = tool_using = 0
    surplus, variance = Fraction(0), Fraction(0)
    for n, c, t, a, multiplicity in groups:
        if 0 < t < n and multiplicity > 0:
            number += multiplicity
            tool_using += multiplicity * t
            surplus += Fraction(multiplicity * (a * n - t * c), n)
            variance += Fraction(multiplicity * t * (n - t) * c * (n - c), n * n * (n - 1))
    if not number:
        return None
    return float(surplus / tool_using), float(surplus) / math.sqrt(variance) if variance else None, number


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """P-values adjusted for the false discovery rate (Benjamini and Hochberg 1995), in the order given."""
    adjusted = [1.0] * len(p)
    smallest = 1.0
    descending = sorted(range(len(p)), key=p.__getitem__, reverse=True)
    for rank, index in zip(range(len(p), 0, -1), descending, strict=True):
        smallest = min(smallest, p[index] * len(p) / rank)
        adjusted[index] = smallest
    return adjusted


def topk_entropy_bounds(logprobs: Sequence[float], vocabulary: int | None) -> tuple[float, float | None]:
    """Lower and upper bound, in nats, of the entropy of a distribution of which k log-probs are known.

    Metrics, section 7: entropy is least where one token has all of the rest, and largest where the rest is spread
    evenly over the other tokens of the vocabulary. The upper bound is None where the size of that is not known.
    """
    known = [p for p in map(math.exp, logprobs) if p > 0]
    partial = sum(-p * math.log(p) for p in known)
    rest = max(0.0, 1.0 - sum(known))
    lower = partial - rest * math.log(rest) if rest else partial
    if vocabulary is None:
        return lower, None
    others = vocabulary - len(logprobs)
    return lower, lower + rest * math.log(others) if others > 1 else lower
