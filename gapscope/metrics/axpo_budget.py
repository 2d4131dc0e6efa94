"""What AXPO's own budget would buy at each step, if every step were planned for.

**What it measures.** At AXPO's defaults, a share r = 1/4 of a step's rollouts for K = 4 continuations per prefix:
`axpo_slots` prefixes may be resampled, floor(floor(r · rollouts) / K) for each step of each run, with nothing carried
over. `axpo_need_first` would give each triggered group one, and `axpo_need_all` resample all candidates: tool-using
rollouts of triggered groups that can be ranked and branched from. `axpo_budget_cover` is the share of triggered groups
that get one, as each gets its first before any gets a second; `axpo_extra_share` is the continuations sampled, as a
share of all rollouts. `axpo_noncandidates[reason]` counts those that are none, by the first reason that applies.

**Why it matters.** It says before anything is paid for whether the budget meets the demand.

**How to read it.** The budget counts the rollouts of all groups of a step, triggered or not. In a log that does not say
its steps, all of a run is one step. A group without candidates is never reached: the last token of the opening
delimiter is also text of the call (`boundary_token_mixed`), the call was not closed (`unclosed`), its tokens are not
known (`calls_unaligned`), or have no log-probs (`no_logprobs`).

**Reference.** arXiv:2605.28774, section 3.2 and appendix A.1; axpo sections 2.5 and 9; metrics section 9.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from gapscope.metrics.base import (
    VERDICTS,
    Better,
    Context,
    Example,
    Metric,
    Requirement,
    counted,
    covered,
    judge_evidence,
    unobserved,
)
from gapscope.report import Measurement, TableRow, Unit
from gapscope.statistics import wilson

K = 4
ROLLOUTS_PER_CONTINUATION = 4
"""The share r = 1/4 of the paper, as a whole number: continuations may be a quarter of the rollouts."""

REASONS = ("boundary_token_mixed", "unclosed", "calls_unaligned", "no_logprobs")

# One row per step of each run.
STEPS = """
WITH acting AS (
    SELECT
        cluster, scored > 0 AS scored,
        CASE
            WHEN mixed THEN 'boundary_token_mixed'
            WHEN NOT closed THEN 'unclosed'
            WHEN token_start IS NULL AND logprob_tokens > 0 THEN 'calls_unaligned'
            WHEN coalesce(scored, 0) = 0 THEN 'no_logprobs'
            ELSE 'candidate'
        END AS standing
    FROM first_calls SEMI JOIN (SELECT cluster FROM eligible WHERE in_scope AND t > 0 AND a = 0) USING (cluster)
),
sources AS (
    SELECT
        cluster, count(*) AS acting, count(*) FILTER (scored) AS scored,
        count(*) FILTER (standing = 'candidate') AS candidates,
        count(*) FILTER (standing = 'boundary_token_mixed') AS boundary,
        count(*) FILTER (standing = 'unclosed') AS unclosed,
        count(*) FILTER (standing = 'calls_unaligned') AS unaligned,
        count(*) FILTER (standing = 'no_logprobs') AS unscored
    FROM acting GROUP BY cluster
)
SELECT
    run, step, sum(n)::BIGINT, count(*) FILTER (standing = 'eligible'),
    count(*) FILTER (standing = 'eligible' AND t > 0 AND a = 0), count(*) FILTER (candidates > 0),
    coalesce(sum(candidates), 0)::BIGINT, coalesce(sum(acting), 0)::BIGINT, coalesce(sum(scored), 0)::BIGINT,
    coalesce(sum(boundary), 0)::BIGINT, coalesce(sum(unclosed), 0)::BIGINT, coalesce(sum(unaligned), 0)::BIGINT,
    coalesce(sum(unscored), 0)::BIGINT
FROM valid LEFT JOIN sources USING (cluster)
WHERE in_scope
GROUP BY split, run, step
ORDER BY run, step, split
"""


class Batch(NamedTuple):
    """One step of one run: rollouts of all its groups, groups with a verdict on each rollout, triggered ones.

    `reachable` groups have one of the `candidates`; of the `acting` rollouts of triggered groups, which used a tool,
    `scored` ones have log-probs, and the last four are no candidates.
    """

    run: str | None
    step: int | None
    rollouts: int
    groups: int
    triggered: int
    reachable: int
    candidates: int
    acting: int
    scored: int
    boundary: int
    unclosed: int
    unaligned: int
    unscored: int

    @property
    def slots(self) -> int:
        """Prefixes that may be resampled."""
        return self.rollouts // ROLLOUTS_PER_CONTINUATION // K

    @property
    def reached(self) -> int:
        """Triggered groups that get a slot: breadth first."""
        return min(self.slots, self.reachable)

    @property
    def extra(self) -> int:
        """Continuations that are sampled."""
        return K * min(self.slots, self.candidates)


class Number(NamedTuple):
    """One of the numbers, by the names of what is summed over steps: a count `x` of `m`, or their ratio."""

    name: str
    x: str
    m: str
    of: str


SLOTS = Number("axpo_slots", "slots", "rollouts", "rollouts of groups of two or more")
FIRST = Number("axpo_need_first", "triggered", "groups", "eligible groups")
ALL = Number("axpo_need_all", "candidates", "acting", "tool-using rollouts of triggered groups")
COVER = Number("axpo_budget_cover", "reached", "triggered", "triggered groups")
EXTRA = Number("axpo_extra_share", "extra", "rollouts", SLOTS.of)
NONCANDIDATES = tuple(
    Number(f"axpo_noncandidates[{reason}]", column, "acting", ALL.of)
    for reason, column in zip(REASONS, ("boundary", "unclosed", "unaligned", "unscored"), strict=True)
)
_NO_TRIGGER = "no group triggers: in none are all tool-using rollouts wrong"


ANY_LOGPROBS = "SELECT 1 FROM rollouts WHERE logprob_tokens > 0 LIMIT 1"


def measure(context: Context) -> Iterator[Measurement]:
    """What there is to spend, what is needed, and how far the one goes towards the other."""
    batches = [Batch(*row) for row in context.store.rows(STEPS)]
    if not batches:
        missing = "no group of two or more rollouts", context.advice.get("group_id")
        yield unobserved(SLOTS.name, SLOTS.of, *missing, unit="count")
    else:
        yield _count(context, SLOTS, batches)
    missing_verdicts = context.no_verdicts()
    if missing_verdicts is None and not sum(batch.groups for batch in batches):
        missing_verdicts = "no eligible group: none of two or more rollouts with a verdict on each", None
    acting, scored = (sum(getattr(batch, name) for batch in batches) for name in ("acting", "scored"))
    rankable = bool(scored) if acting else bool(context.store.rows(ANY_LOGPROBS))
    for number in (FIRST, ALL, COVER, EXTRA, *NONCANDIDATES):
        unit: Unit = "share" if number in {COVER, EXTRA} else "count"
        why = missing_verdicts
        if why is None and number not in {FIRST, ALL, EXTRA} and not acting:
            why = _NO_TRIGGER, None
        if why is None and number in {ALL, COVER, EXTRA} and not rankable:
            why = context.unscored
        if why is not None:
            yield unobserved(number.name, number.of, *why, unit=unit)
        elif number in {COVER, EXTRA}:
            yield covered(context, _share(context, number, batches), scored, acting, of=ALL.of)
        else:
            measured = _count(context, number, batches)
            yield covered(context, measured, scored, acting, of=ALL.of) if number is ALL else measured


def _sums(number: Number, batches: Iterable[Batch]) -> tuple[int, int]:
    """The count, and what it is of."""
    pairs = [(getattr(batch, number.x), getattr(batch, number.m)) for batch in batches]
    return sum(x for x, _ in pairs), sum(m for _, m in pairs)


def _tables(
    context: Context, batches: list[Batch], row: Callable[[list[Batch]], TableRow]
) -> dict[str, list[TableRow] | dict[str, list[TableRow]]]:
    """The rows by step, and by run where the log has several."""
    found: dict[str, list[TableRow]] = {}
    for column in ("step", *(name for name in ("run",) if name in context.slices)):
        values = sorted({value for batch in batches if (value := getattr(batch, column)) is not None})
        found[column] = [
            {column: value} | row([batch for batch in batches if getattr(batch, column) == value]) for value in values
        ]
    steps = found.pop("step")
    return {"table": steps, "by": found}


def _count(context: Context, number: Number, batches: list[Batch]) -> Measurement:
    x, m = _sums(number, batches)

    def row(own: list[Batch]) -> TableRow:
        count, of = _sums(number, own)
        return {"value": count, "n": of}

    better: Better = "lower" if number in {FIRST, *NONCANDIDATES} else None
    return counted(number.name, x, number.of, n=m, better=better).model_copy(update=_tables(context, batches, row))


def _share(context: Context, number: Number, batches: list[Batch]) -> Measurement:
    """Groups are independent and get an interval; what the budget is spent on is no sample of anything."""
    x, m = _sums(number, batches)

    def bounds(x: int, m: int) -> tuple[float, float] | None:
        return wilson(x, m) if number is COVER else None

    def row(own: list[Batch]) -> TableRow:
        x, m = _sums(number, own)
        low, high = bounds(x, m) or (None, None)
        return {"value": x / m if m else None, "n": m, "lo": low, "hi": high}

    status, reason = judge_evidence(context, m, "groups" if number is COVER else "rollouts")
    measured = Measurement(
        name=number.name,
        value=x / m,
        n=m,
        of=number.of,
        interval=bounds(x, m),
        interval_method="wilson" if number is COVER else "none",
        status=status,
        reason=reason,
        better="higher" if number is COVER else None,
        numerator=float(x),
    )
    return measured.model_copy(update=_tables(context, batches, row))


RANKED = (ALL.name, COVER.name, EXTRA.name)
DEMAND = (FIRST.name, *RANKED, "axpo_noncandidates[]")

METRIC = Metric(
    name="axpo_budget",
    question="What would AXPO's budget buy at each step?",
    keys=(SLOTS.name, *DEMAND),
    measure=measure,
    doc=__doc__ or "",
    requires=(
        Requirement(RANKED, ("logprobs",)),
        Requirement(DEMAND, ("tool_calls",)),
        Requirement(DEMAND, VERDICTS),
    ),
    survivors=True,
    # 16 rollouts buy 4 continuations, which is one prefix: that of q1 or of q2.
    example=Example(
        """
        q1 tool wrong probs=0.9,0.5,0.1
        q1 tool wrong probs=0.9,0.9,0.9
        q1 -    right times=2
        q2 tool wrong probs=0.6,0.6,0.6
        q2 tool wrong
        q2 tool wrong call=unclosed
        q2 -    wrong
        q3 tool right probs=0.8,0.8,0.8
        q3 -    wrong times=7
        """,
        {
            "axpo_slots": 1.0,
            "axpo_need_first": 2.0,
            "axpo_need_all": 3.0,
            "axpo_budget_cover": 1 / 2,
            "axpo_extra_share": 4 / 16,
            "axpo_noncandidates[unclosed]": 1.0,
            "axpo_noncandidates[no_logprobs]": 1.0,
            "axpo_noncandidates[boundary_token_mixed]": 0.0,
        },
    ),
)
