"""What a metric is, and the two ways in which most of them are computed.

A rate over groups is a proportion with Wilson's interval; a ratio over rollouts is a ratio of sums with a
cluster-robust interval, because the rollouts of one group are not independent. For both a metric's query
yields one row per group with a numerator `x` and a denominator `m`, as whole numbers, and everything else
follows from six sums over them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gapscope.report import Correctness, Measurement, MeasureStatus, Scalar, TableRow, Unit
from gapscope.rollouts import Need
from gapscope.statistics import Moments, cluster_interval, wilson

if TYPE_CHECKING:
    from gapscope.store.store import Store

CORRECTNESS_UNDEFINED = "correctness_undefined"

Better = Literal["higher", "lower"] | None
Interval = Literal["wilson", "cluster", "none"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """How much there must be before a number may be judged by (metrics section 1, rule 6)."""

    groups: int = 20
    rollouts: int = 50
    informative: int = 10
    steps: int = 8


Counts = tuple[int, int, int, int, int]
"""(n, c, t, a) and the number of groups that share them."""


class Cell(NamedTuple):
    """Groups that share these counts: in metrics they differ only in how many of them there are."""

    step: int | None
    data_source: str | None
    n: int
    c: int
    t: int
    a: int
    groups: int


@dataclass
class Context:
    """What a metric may look at: the store, and what is known about the log as a whole.

    `measured` holds what the metrics before this one have found. `advice` says per need which trainer
    setting would supply what is missing.
    """

    store: "Store"
    correctness: Correctness
    evidence: Evidence = field(default_factory=Evidence)
    advice: Mapping[Need, str] = field(default_factory=dict)
    measured: dict[str, Measurement] = field(default_factory=dict)
    has_markers: bool = True

    @cached_property
    def slices(self) -> tuple[str, ...]:
        """The columns by which this log can be sliced: those with more than one value."""
        counts = self.store.rows("""
            SELECT count(DISTINCT split), count(DISTINCT data_source) FILTER (in_scope),
                count(DISTINCT run) FILTER (in_scope)
            FROM all_groups
        """)[0]
        names = ("split", "data_source", "run")
        return tuple(name for name, count in zip(names, counts, strict=True) if count > 1)

    @cached_property
    def cells(self) -> list[Cell]:
        """Eligible groups in scope, counted by step, data source and (n, c, t, a)."""
        rows = self.store.rows("""
            SELECT step, data_source, n, c, t, a, count(*) FROM eligible WHERE in_scope
            GROUP BY ALL ORDER BY step, data_source, n, c, t, a
        """)
        return [Cell(*row) for row in rows]

    @cached_property
    def counts(self) -> list[Counts]:
        """Eligible groups in scope, counted by (n, c, t, a) alone."""
        groups: dict[tuple[int, int, int, int], int] = defaultdict(int)
        for cell in self.cells:
            groups[cell.n, cell.c, cell.t, cell.a] += cell.groups
        return [(*key, count) for key, count in sorted(groups.items())]

    @cached_property
    def excluded_groups(self) -> dict[str, int]:
        """Groups in scope that are not eligible, by reason."""
        return dict(
            self.store.rows("""
                SELECT standing, count(*) FROM all_groups WHERE in_scope AND standing <> 'eligible'
                GROUP BY standing ORDER BY standing
            """),
        )

    @cached_property
    def eligible(self) -> int:
        """The number of eligible groups in scope."""
        return sum(cell.groups for cell in self.cells)

    def no_verdicts(self) -> tuple[str, str | None] | None:
        """Why nothing can be said that needs correctness, and the way out; None when it can."""
        if self.correctness.chosen != "undefined":
            return None
        hint = self.correctness.hint or self.advice.get("correctness")
        return CORRECTNESS_UNDEFINED, hint


@dataclass(frozen=True, slots=True)
class Example:
    """A log small enough to check by hand, and the exact numbers; the suite runs it.

    Each line is one rollout: its group, `tool` or `-`, `right` or `wrong`, and any `field=value`.
    """

    rollouts: str
    expected: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Metric:
    """One question, the measurements that answer it, and a worked example.

    `keys` are the names of the measurements; one that ends in `[]` stands for a family such as
    `pass_at_k[4]`. `survivors` is set where groups that never reached the log would change the answer.
    """

    name: str
    question: str
    keys: tuple[str, ...]
    measure: Callable[[Context], Iterable[Measurement]]
    doc: str
    example: Example
    survivors: bool = False


class Ratio(NamedTuple):
    """The declaration of one ratio: Σx / Σm over the rows of `query`, which must keep the columns of a group."""

    name: str
    query: str
    of: str
    interval: Interval
    level: Literal["groups", "rollouts"]
    unit: Unit = "share"
    better: Better = None
    needs_verdicts: bool = False
    empty: str = "nothing to count"
    need: Need | None = None


_SUMS = """
SELECT
    {column}, count(*), coalesce(sum(x), 0)::HUGEINT, coalesce(sum(m), 0)::HUGEINT,
    coalesce(sum(x::BIGINT * x), 0)::HUGEINT, coalesce(sum(x::BIGINT * m), 0)::HUGEINT,
    coalesce(sum(m::BIGINT * m), 0)::HUGEINT
FROM ({query})
WHERE m > 0 {scope}
GROUP BY {column}
ORDER BY {column}
"""


def sums(store: "Store", query: str, column: str) -> list[tuple[Any, Moments]]:
    """Moments of a query by the values of one column, null among them; only what is in scope.

    Slicing by `split` is the exception: there every split is its own scope.
    """
    scope = "" if column == "split" else "AND in_scope"
    rows = store.rows(_SUMS.format(column=column, query=query, scope=scope))
    return [(row[0], Moments(*row[1:])) for row in rows]


def added(parts: Iterable[Moments]) -> Moments:
    """The moments of disjoint sets of groups taken together."""
    total = [0, 0, 0, 0, 0, 0]
    for p in parts:
        for index, value in enumerate((p.clusters, p.x, p.m, p.xx, p.xm, p.mm)):
            total[index] += value
    return Moments(*total)


def interval_of(moments: Moments, ratio: Ratio) -> tuple[tuple[float, float] | None, str]:
    """The 95 % interval of a ratio, by the method that its declaration names."""
    if ratio.interval == "wilson":
        return wilson(moments.x, moments.m), "wilson"
    if ratio.interval == "cluster":
        return cluster_interval(moments, proportion=ratio.unit == "share")
    return None, "none"


def measure_ratio(context: Context, ratio: Ratio, *, excluded: Mapping[str, int] | None = None) -> Measurement:
    """A ratio with its interval, by step, and by every slice that the log has."""
    if ratio.needs_verdicts and (missing := context.no_verdicts()):
        return unobserved(ratio.name, ratio.of, *missing, unit=ratio.unit, better=ratio.better)
    steps = sums(context.store, ratio.query, "step")
    moments = added(part for _, part in steps)
    if moments.m == 0:
        setting = context.advice.get(ratio.need) if ratio.need else None
        return unobserved(ratio.name, ratio.of, ratio.empty, setting, unit=ratio.unit, better=ratio.better)
    interval, method = interval_of(moments, ratio)
    status, reason = judge_evidence(context, moments.m, ratio.level)
    if excluded is None:
        excluded = context.excluded_groups if ratio.level == "groups" else {}
    return Measurement(
        name=ratio.name,
        value=moments.ratio,
        n=moments.m,
        of=ratio.of,
        interval=interval,
        interval_method=method,
        status=status,
        reason=reason,
        unit=ratio.unit,
        better=ratio.better,
        numerator=float(moments.x),
        excluded=dict(excluded),
        details={} if ratio.level == "groups" else {"clusters": moments.clusters},
        table=[_row("step", step, part, ratio) for step, part in steps if step is not None],
        by={
            column: [_row(column, value, part, ratio) for value, part in sums(context.store, ratio.query, column)]
            for column in context.slices
        },
    )


def _row(column: str, value: Scalar, moments: Moments, ratio: Ratio) -> TableRow:
    interval, _ = interval_of(moments, ratio)
    low, high = interval or (None, None)
    return {column: value, "value": moments.ratio, "n": moments.m, "lo": low, "hi": high}


def judge_evidence(
    context: Context,
    n: int,
    level: Literal["groups", "rollouts"],
) -> tuple[MeasureStatus, str | None]:
    """Whether there is enough to judge by; too little is still shown, with its interval."""
    least = context.evidence.groups if level == "groups" else context.evidence.rollouts
    if n < least:
        return "thin", f"only {n:,} {level}, fewer than {least:,}"
    return "observed", None


def unobserved(
    name: str,
    of: str,
    reason: str,
    setting: str | None = None,
    *,
    unit: Unit = "share",
    better: Better = None,
) -> Measurement:
    """A number that this log cannot give, and what would make it do so."""
    return Measurement(
        name=name, value=None, n=0, of=of, status="unobserved", reason=reason, setting=setting,
        unit=unit, better=better,
    )  # fmt: skip


def counted(name: str, value: int | None, of: str, *, n: int, better: Better = None) -> Measurement:
    """A plain count: exact, so without an interval."""
    return Measurement(
        name=name, value=None if value is None else float(value), n=n, of=of, unit="count", better=better,
        interval_method="none", status="observed" if value is not None else "unobserved",
        reason=None if value is not None else "nothing to count",
    )  # fmt: skip
