"""Numerators and denominators of all groups as arrays, and their sums by step and by slice.

Sums of counts are whole numbers and stay exact: a cluster-robust interval has to know whether all groups agree.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gapscope.statistics import Moments, RealMoments

if TYPE_CHECKING:
    import numpy as np

    from gapscope.store.store import Store

_SAFE = 2**62


class Fraction(NamedTuple):
    """SQL expressions for a numerator and a denominator, and the condition under which a group counts.

    A numerator that is `real` is a sum of measured values, any other a count.
    """

    x: str
    m: str
    where: str
    real: bool = False


class GroupSums:
    """Sums over the groups of one table or view, for several fractions read in one go.

    `slices` are the columns by which sums will be asked for, beside `step`.
    """

    def __init__(self, store: "Store", source: str, fractions: Sequence[Fraction], slices: Sequence[str]) -> None:
        columns = ["step", "in_scope", *slices]
        for index, (x, m, where, real) in enumerate(fractions):
            counts = f"CASE WHEN ({where}) AND ({m}) > 0 THEN"
            columns.append(f"coalesce({counts} {x} END, 0)::{'DOUBLE' if real else 'BIGINT'} AS x{index}")
            columns.append(f"coalesce({counts} {m} END, 0)::BIGINT AS m{index}")
        self._arrays = store.arrays(f"SELECT {', '.join(columns)} FROM {source}")  # noqa: S608 (expressions of ours)
        self._labels: dict[str, tuple[list[Any], np.ndarray, np.ndarray]] = {}

    def total(self, index: int) -> Moments | RealMoments:
        """The sums over all groups in scope."""
        inside = self._arrays["in_scope"]
        return _moments(self._arrays[f"x{index}"][inside], self._arrays[f"m{index}"][inside])

    def by(self, index: int, column: str) -> list[tuple[Any, Moments | RealMoments]]:
        """The sums by the values of a column, those without one left out; only what is in scope.

        Slicing by `split` is the exception: there every split is its own scope.
        """
        import numpy as np

        if column not in self._labels:
            self._labels[column] = self._sorted(column)
        values, order, starts = self._labels[column]
        if not values:
            return []
        x, m = self._arrays[f"x{index}"][order], self._arrays[f"m{index}"][order]
        if x.dtype.kind == "f":
            stops = [*starts[1:], len(x)]
            found = [_moments(x[start:stop], m[start:stop]) for start, stop in zip(starts, stops, strict=True)]
            return [(value, moments) for value, moments in zip(values, found, strict=True) if moments.m > 0]
        if not _fits(x, m):
            x, m = x.astype(object), m.astype(object)
        summands = ((m > 0).astype(np.int64), x, m, x * x, x * m, m * m)
        sums = [np.add.reduceat(array, starts).tolist() for array in summands]
        return [
            (value, Moments(*(int(part) for part in parts)))
            for value, parts in zip(values, zip(*sums, strict=True), strict=True)
            if parts[2] > 0
        ]

    def _sorted(self, column: str) -> "tuple[list[Any], np.ndarray, np.ndarray]":
        """The values of a column in order, the groups sorted by them, and where each value begins."""
        import numpy as np

        labels = self._arrays[column]
        kept = ~np.ma.getmaskarray(labels)
        if column != "split":
            kept &= self._arrays["in_scope"]
        places = np.flatnonzero(kept)
        found = np.ma.getdata(labels)[places]
        values, inverse = np.unique(found, return_inverse=True)
        order = np.argsort(inverse, kind="stable")
        starts = np.searchsorted(inverse[order], np.arange(len(values)))
        return values.tolist(), places[order], starts


def _fits(x: "np.ndarray", m: "np.ndarray") -> bool:
    """Whether sums of squares stay within 64 bits."""
    largest = max(int(abs(x).max(initial=0)), int(abs(m).max(initial=0)))
    return largest * largest * max(len(x), 1) < _SAFE


def _moments(x: "np.ndarray", m: "np.ndarray") -> Moments | RealMoments:
    if x.dtype.kind == "f":
        total, rows = float(x.sum()), int(m.sum())
        ratio = total / rows if rows else 0.0
        return RealMoments(int((m > 0).sum()), total, rows, float(((x - ratio * m) ** 2).sum()))
    if not _fits(x, m):
        x, m = x.astype(object), m.astype(object)
    return Moments(*(int(array.sum()) for array in (m > 0, x, m, x * x, x * m, m * m)))
