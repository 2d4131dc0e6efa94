"""Whether the prefixes that the policy was least sure of are those that recover.

**What it measures.** `confidence_recovery_auc`: the chance that of a recovered and an unrecovered prefix the recovered
one has the *lower* confidence, ties counting half. Confidence is the mean probability of the tokens of the source's
call, tags included. `recovery_by_confidence` counts the prefixes with a confidence; its table cuts them by
it into fifths and says how many of each recovered.

**Why it matters.** AXPO spends its budget on the lowest confidence first. The paper shows that this goes with entropy,
over averages of steps, and not that it goes with recovery, among the prefixes of one step.

**How to read it.** Above 0.5, low confidence goes with recovery, and the order is the right one; at 0.5 any other order
would do as well; below, the prefixes that the policy was sure of recover more often. A budget that reaches only the
lowest confidences leaves little to compare: the ends of the fifths say how far they are apart. Only prefixes of failed
rollouts count, in groups whose tool-using rollouts are all wrong.

**Reference.** Mann and Whitney 1947; axpo section 2.4; metrics section 7; arXiv:2605.28774, section 3.2 and appendix
B.9. Groups are what is resampled for the interval.
"""

from collections.abc import Iterator

from gapscope.bootstraps import area_interval, area_under_curve
from gapscope.metrics.base import (
    VERDICTS,
    Context,
    Example,
    Metric,
    Requirement,
    covered,
    judge_evidence,
    unobserved,
)
from gapscope.report import Measurement, TableRow
from gapscope.statistics import wilson

AREA = "confidence_recovery_auc"
TABLE = "recovery_by_confidence"
LEAST = 5
"""Prefixes of either outcome without which there is nothing to compare (metrics section 7)."""
BINS = 5

# One row per resampled prefix.
CONFIDENCES = """
CREATE OR REPLACE TEMP TABLE recovery_confidences AS
SELECT cluster, confidence, wins > 0 AS recovered FROM resampled_prefixes WHERE in_scope AND failed AND k > 0
"""
COUNTS = """
SELECT
    count(*), count(confidence), count(*) FILTER (recovered AND confidence IS NOT NULL),
    count(*) FILTER (NOT recovered AND confidence IS NOT NULL)
FROM recovery_confidences
"""
USABLE = "SELECT confidence, recovered, cluster FROM recovery_confidences WHERE confidence IS NOT NULL"
# Equal confidences fall into one bin.
FIFTHS = f"""
WITH binned AS (
    SELECT *, (rank() OVER (ORDER BY confidence) - 1) * {BINS} // count(*) OVER () AS bin FROM ({USABLE})
)
SELECT min(confidence), max(confidence), count(*) FILTER (recovered), count(*) FROM binned GROUP BY bin ORDER BY bin
"""  # noqa: S608 (constants of ours)
_OF = "resampled prefixes with log-probs"


def measure(context: Context) -> Iterator[Measurement]:
    """The area, then the fifths."""
    missing = context.no_verdicts() or context.no_continuations
    total = scored = recovered = others = 0
    if missing is None:
        context.store.execute(CONFIDENCES)
        total, scored, recovered, others = context.store.rows(COUNTS)[0]
    if missing is None and not total:
        missing = "no continuation with a verdict is of a group whose tool-using rollouts are all wrong", None
    if missing is None and not scored:
        missing = context.unscored
    too_few = missing
    if missing is None and min(recovered, others) < LEAST:
        reason = f"{recovered:,} recovered and {others:,} other prefixes have log-probs, and it takes {LEAST} of each"
        too_few = reason, None
    if too_few is not None:
        area = unobserved(AREA, _OF, *too_few, unit="probability", better="higher")
    else:
        area = _area(context)
    fifths = unobserved(TABLE, _OF, *missing, unit="count") if missing is not None else _fifths(context, scored)
    for measured in (area, fifths):
        yield covered(context, measured, scored, total, of="resampled prefixes")


def _area(context: Context) -> Measurement:
    prefixes = context.store.arrays(USABLE)
    # Negated: the positive side of the area is to win by being the less sure one.
    values, recovered = -prefixes["confidence"], prefixes["recovered"]
    interval, method = area_interval(values, recovered, prefixes["cluster"])
    status, reason = judge_evidence(context, len(values), "prefixes")
    return Measurement(
        name=AREA,
        value=area_under_curve(values, recovered),
        n=len(values),
        of=_OF,
        interval=interval,
        interval_method=method,
        status=status,
        reason=reason,
        unit="probability",
        better="higher",
        details={
            "recovered": int(recovered.sum()),
            "not_recovered": int((~recovered).sum()),
            "recovery_goes_with": _direction(interval),
        },
    )


def _direction(interval: tuple[float, float] | None) -> str:
    low, high = interval or (0.0, 1.0)
    return "low confidence" if low > 0.5 else "high confidence" if high < 0.5 else "neither"


def _fifths(context: Context, n: int) -> Measurement:
    status, reason = judge_evidence(context, n, "prefixes")
    return Measurement(
        name=TABLE,
        value=float(n),
        n=n,
        of=_OF,
        interval_method="none",
        status=status,
        reason=reason,
        unit="count",
        table=[_bin(*row) for row in context.store.rows(FIFTHS)],
    )


def _bin(least: float, most: float, recovered: int, n: int) -> TableRow:
    low, high = wilson(recovered, n) or (None, None)
    return {"from": least, "to": most, "recovered": recovered, "value": recovered / n, "n": n, "lo": low, "hi": high}


METRIC = Metric(
    name="recovery_confidence",
    question="Are the prefixes that the policy was least sure of those that recover?",
    keys=(AREA, TABLE),
    measure=measure,
    doc=__doc__ or "",
    requires=(
        Requirement((AREA, TABLE), ("logprobs",)),
        Requirement((AREA, TABLE), ("tool_calls",)),
        Requirement((AREA, TABLE), VERDICTS),
    ),
    # Each line stands for five groups of one rollout, and each of those is resampled once.
    example=Example(
        """
        q{} tool wrong rollout_id=a{} probs=0.2,0.2 times=5
        q{} tool wrong rollout_id=b{} probs=0.4,0.4 times=5
        q{} tool wrong rollout_id=c{} probs=0.6,0.6 times=5
        p{} tool right parent=a{} times=5
        p{} tool wrong parent=b{} times=5
        p{} tool wrong parent=c{} times=5
        """,
        # Each of the five recovered prefixes is surer than none of the ten others.
        {AREA: 50 / 50, TABLE: 15.0},
    ),
)
