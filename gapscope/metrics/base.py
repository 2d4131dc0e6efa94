"""What a metric is, and the two ways in which most of them are computed.

A rate over groups is a proportion with Wilson's interval; a ratio over rollouts is a ratio of sums with a
cluster-robust interval, because the rollouts of one group are not independent. For both a metric declares a
numerator `x` and a denominator `m` per group, as SQL over the columns of a view, and everything else follows
from six sums over them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

from gapscope.alignment import ALIGNED
from gapscope.group_sums import Fraction, GroupSums
from gapscope.report import Correctness, Measurement, MeasureStatus, Scalar, TableRow, Unit
from gapscope.rollouts import Need
from gapscope.statistics import Moments, RealMoments, cluster_interval, wilson

if TYPE_CHECKING:
    from gapscope.store.store import Store

CORRECTNESS_UNDEFINED = "correctness_undefined"

Better = Literal["higher", "lower"] | None
Interval = Literal["wilson", "cluster", "none"]
Level = Literal["groups", "rollouts", "prefixes", "continuations"]
"""What is counted. A judgement takes as many prefixes as groups, and as many continuations as rollouts."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """How much there must be before a number may be judged by (metrics section 1, rule 6)."""

    groups: int = 20
    rollouts: int = 50
    informative: int = 10
    steps: int = 8
    coverage: float = 0.8


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

    @cached_property
    def textless(self) -> bool:
        """Whether no rollout has a text, though some have tokens: what was called cannot be seen then."""
        ((turns, tokens),) = self.store.rows("SELECT count(*) FILTER (turns > 0), count(output_tokens) FROM attempts")
        return bool(turns == 0 and tokens > 0)

    @cached_property
    def spelled(self) -> bool:
        """Whether of any rollout it is known which tokens its spans are made of."""
        return bool(self.store.rows("SELECT 1 FROM span_tokens LIMIT 1"))

    @cached_property
    def tool_using(self) -> int:
        """The number of tool-using rollouts in scope."""
        ((number,),) = self.store.rows("SELECT coalesce(sum(t), 0)::BIGINT FROM all_groups WHERE in_scope")
        return int(number)

    @cached_property
    def unscored(self) -> tuple[str, str | None]:
        """Why calls have no numbers of their tokens, where they have none, and the way out."""
        reasons = self.store.rows(
            """
            SELECT CASE WHEN logprob_tokens > 0 OR entropy_tokens > 0 THEN alignment ELSE 'no_logprobs' END AS reason,
                count(*)
            FROM rollouts JOIN outputs AS o USING (id) JOIN attempts AS a ON a.id = o.attempt
            WHERE a.in_scope AND calls > 0 AND alignment NOT IN $aligned
            GROUP BY reason ORDER BY 2 DESC, reason LIMIT 1
            """,
            aligned=ALIGNED,
        )
        if not self.tool_using:
            return "no rollout used a tool", None
        reason = reasons[0][0] if reasons else "no_logprobs"
        if reason in {"no_logprobs", "no_tokens"}:
            return "the log has no log-probs of its calls", self.advice.get("logprobs")
        return _UNALIGNED[reason]

    @cached_property
    def no_continuations(self) -> tuple[str, str | None] | None:
        """Why nothing can be said about resampling, and the way out; None when it can."""
        if self.store.rows("SELECT 1 FROM continuations WHERE in_scope LIMIT 1"):
            return None
        if self.store.rows("SELECT 1 FROM continuations LIMIT 1"):
            return "all continuations are of validation rollouts, which are not in scope here", None
        ((made,),) = self.store.rows("SELECT count(*) FROM rollouts WHERE parent_id IS NOT NULL")
        if made:
            setting = "audit them together with the log that they were resampled from"
            return f"none of the {made:,} continuations has its source in the log", setting
        return "the log holds no continuation: `gapscope resample` makes them from a plan", None

    def no_verdicts(self) -> tuple[str, str | None] | None:
        """Why nothing can be said that needs correctness, and the way out; None when it can."""
        if self.correctness.chosen != "undefined":
            return None
        hint = self.correctness.hint or self.advice.get("correctness")
        return CORRECTNESS_UNDEFINED, hint


_UNALIGNED: Mapping[str, tuple[str, str | None]] = {
    "no_tokenizer": (
        "the log has token ids, and nothing says what they spell",
        "name the policy's tokenizer: --tokenizer FOLDER",
    ),
    "unknown_ids": ("the log has token ids that the tokenizer does not have", "name the tokenizer of the policy"),
    "other_text": (
        "the tokens spell another text than the one that was logged",
        "name the tokenizer of the policy; if it is, the trainer has changed the text before it was logged",
    ),
    "other_turns": ("the log has not as many stretches of sampled tokens as turns", None),
    "other_calls": (
        "the tokens spell other calls than the messages hold",
        "name the tokenizer of the policy; if it is, its tool-call syntax is none that gapscope knows",
    ),
}
"""Per reason of `Alignment` what it means, and what to do."""


@dataclass(frozen=True, slots=True)
class Example:
    """A log small enough to check by hand, and the exact numbers; the suite runs it.

    Each line is one rollout: its group, `tool` or `-`, `right` or `wrong`, and any `field=value`. `times=N` makes N of
    it, each with its number for `{}`, and `parent=ID` a continuation of that rollout, whose group is its prefix.
    """

    rollouts: str
    expected: Mapping[str, float]


class Requirement(NamedTuple):
    """What a log must carry, any one of several, so that these keys of a metric can be computed."""

    keys: tuple[str, ...]
    any_of: tuple[Need, ...]


VERDICTS: tuple[Need, ...] = ("correctness", "reward", "reward_parts")
"""What a rule of correctness can be made of."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One question, the measurements that answer it, and a worked example.

    `keys` are the names of the measurements; one that ends in `[]` stands for a family such as
    `pass_at_k[4]`. `requires` names what a log may lack without which some of them cannot be computed.
    `survivors` is set where groups that never reached the log would change the answer.
    """

    name: str
    question: str
    keys: tuple[str, ...]
    measure: Callable[[Context], Iterable[Measurement]]
    doc: str
    example: Example
    survivors: bool = False
    requires: tuple[Requirement, ...] = ()

    def keys_that_need(self, needs: AbstractSet[Need]) -> frozenset[str]:
        """The keys that nothing but these needs would do for."""
        return frozenset(key for keys, any_of in self.requires if needs >= set(any_of) for key in keys)


class Ratio(NamedTuple):
    """The declaration of one ratio, Σx / Σm over groups: SQL expressions over the columns of a table or view.

    `source` has one row per group, with the columns `step`, `split`, `run`, `data_source` and `in_scope`; rows
    for which `where` does not hold count for nothing. `real` says that `x` adds up measured values, where it is
    otherwise a count. Where there is nothing to count, `empty` says so, and `setting` or else the advice on `need` what
    to do.
    """

    name: str
    x: str
    m: str
    source: str
    of: str
    interval: Interval
    level: Level
    where: str = "TRUE"
    unit: Unit = "share"
    better: Better = None
    needs_verdicts: bool = False
    empty: str = "nothing to count"
    need: Need | None = None
    real: bool = False
    setting: str | None = None


def measure_ratios(
    context: Context,
    ratios: Sequence[Ratio],
    *,
    excluded: Mapping[str, int] | None = None,
) -> Iterator[Measurement]:
    """Ratios over one source with their intervals, by step, and by every slice that the log has.

    They are read together: the sums over a hundred thousand groups cost less than the asking.
    """
    fractions = [Fraction(ratio.x, ratio.m, ratio.where, ratio.real) for ratio in ratios]
    groups = GroupSums(context.store, ratios[0].source, fractions, context.slices)
    for index, ratio in enumerate(ratios):
        if ratio.needs_verdicts and context.no_verdicts():
            yield nothing_counted(context, ratio)
        else:
            yield _measure(context, ratio, groups, index, excluded)


def _measure(
    context: Context,
    ratio: Ratio,
    groups: GroupSums,
    index: int,
    excluded: Mapping[str, int] | None,
) -> Measurement:
    moments = groups.total(index)
    if moments.m == 0:
        return nothing_counted(context, ratio)
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
        table=[_row("step", step, part, ratio) for step, part in groups.by(index, "step")],
        by={
            column: [_row(column, value, part, ratio) for value, part in groups.by(index, column)]
            for column in context.slices
        },
    )


def nothing_counted(context: Context, ratio: Ratio) -> Measurement:
    """A ratio that has nothing to count, and why."""
    if ratio.needs_verdicts and (missing := context.no_verdicts()):
        return unobserved(ratio.name, ratio.of, *missing, unit=ratio.unit, better=ratio.better)
    setting = ratio.setting or (context.advice.get(ratio.need) if ratio.need else None)
    return unobserved(ratio.name, ratio.of, ratio.empty, setting, unit=ratio.unit, better=ratio.better)


def interval_of(moments: Moments | RealMoments, ratio: Ratio) -> tuple[tuple[float, float] | None, str]:
    """The 95 % interval of a ratio, by the method that its declaration names."""
    if ratio.interval == "wilson" and isinstance(moments, Moments):
        return wilson(moments.x, moments.m), "wilson"
    if ratio.interval == "cluster":
        return cluster_interval(moments, proportion=ratio.unit in {"share", "probability"})
    return None, "none"


def _row(column: str, value: Scalar, moments: Moments | RealMoments, ratio: Ratio) -> TableRow:
    interval, _ = interval_of(moments, ratio)
    low, high = interval or (None, None)
    return {column: value, "value": moments.ratio, "n": moments.m, "lo": low, "hi": high}


def covered(
    context: Context, measured: Measurement, usable: int, total: int, *, of: str = "tool-using rollouts"
) -> Measurement:
    """The same with its coverage: the share of the rollouts it is about that have what it is made of.

    Below the least coverage it is annotated (metrics section 7): what has no numbers may be another kind of rollout.
    """
    share = usable / total if total else None
    details = {**measured.details, "coverage": share, "covered_of": total}
    changes: dict[str, object] = {"details": details}
    if measured.status == "observed" and share is not None and share < context.evidence.coverage:
        changes["status"] = "annotated"
        changes["reason"] = f"only {usable:,} of {total:,} {of} have the numbers for it"
    return measured.model_copy(update=changes)


def judge_evidence(
    context: Context,
    n: int,
    level: Level,
) -> tuple[MeasureStatus, str | None]:
    """Whether there is enough to judge by; too little is still shown, with its interval."""
    least = context.evidence.groups if level in {"groups", "prefixes"} else context.evidence.rollouts
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
