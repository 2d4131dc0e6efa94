"""Whether the calls that the policy was sure of are those of correct rollouts.

**What it measures.** `tool_confidence_auc`: the chance that a correct tool-using rollout was surer of its first call
than a wrong one, ties counting half; confidence is the mean probability of the tokens of that call, tags included. Its
table cuts the rollouts by confidence into fifths and says how many of each are correct.
`tool_confidence_auc_within` asks the same of pairs from one group alone; each pair counts once.

**Why it matters.** AXPO takes the call of a group that the policy was least sure of. That is a choice among siblings,
and of use only if confidence says something about them.

**How to read it.** 0.5 means that confidence says nothing about correctness; below, the surer call is the worse one.
On easy questions the policy is both sure and correct, which alone lifts the first number above 0.5. The siblings of a
group have their question in common, so the second is free of that, and the one to go by. Neither asks whether a
confidence of 0.9 is right nine times in ten: the probability of a call is none of success.

**Reference.** Mann and Whitney 1947; axpo section 2.4; metrics sections 4 and 7. Beyond 20,000 rollouts groups are not
resampled: the interval is then cluster-robust (Obuchowski 1997), as that of pairs always is.
"""

from collections.abc import Iterator

from gapscope.bootstraps import area_interval, area_under_curve
from gapscope.metrics.base import (
    VERDICTS,
    Context,
    Example,
    Metric,
    Ratio,
    Requirement,
    covered,
    judge_evidence,
    measure_ratios,
    unobserved,
)
from gapscope.report import Measurement, TableRow
from gapscope.statistics import Moments, cluster_interval

AREA = "tool_confidence_auc"
WITHIN = "tool_confidence_auc_within"
LEAST = 5
"""Rollouts of each verdict without which there is nothing to compare (metrics section 7)."""
BINS = 5

# One row per tool-using rollout.
CONFIDENCES = """
CREATE OR REPLACE TEMP TABLE confidences AS
SELECT cluster, in_scope, correct, prob_sum / scored AS confidence FROM first_calls
"""
COUNTS = """
SELECT
    count(*), count(confidence), count(*) FILTER (correct AND confidence IS NOT NULL),
    count(*) FILTER (NOT correct AND confidence IS NOT NULL)
FROM confidences WHERE in_scope
"""
USABLE = """
SELECT confidence, correct, cluster FROM confidences
WHERE in_scope AND confidence IS NOT NULL AND correct IS NOT NULL
"""
# Equal confidences fall into one bin, and so do rollouts of one group: sums over groups, for a cluster interval.
RELIABILITY = f"""
WITH binned AS (
    SELECT *, (rank() OVER (ORDER BY confidence) - 1) * {BINS} // count(*) OVER () AS bin FROM ({USABLE})
),
parts AS (
    SELECT
        bin, min(confidence) AS low, max(confidence) AS high,
        count(*) FILTER (correct) AS x, count(*) AS m
    FROM binned GROUP BY bin, cluster
)
SELECT min(low), max(high), count(*), sum(x)::HUGEINT, sum(m)::HUGEINT, sum(x * x)::HUGEINT, sum(x * m)::HUGEINT,
    sum(m * m)::HUGEINT
FROM parts GROUP BY bin ORDER BY bin
"""  # noqa: S608 (constants of ours)
# One row per group with both verdicts. Twice the number of pairs that the correct one wins follows from twice the ranks
# of the correct ones, less those that they have among themselves; ties share the mean of their ranks.
PAIRS = """
CREATE OR REPLACE TEMP TABLE confidence_pairs AS
WITH ranked AS (
    SELECT
        cluster, correct,
        2 * rank() OVER (PARTITION BY cluster ORDER BY confidence)
            + count(*) OVER (PARTITION BY cluster, confidence) - 1 AS twice_rank
    FROM confidences SEMI JOIN valid USING (cluster)
    WHERE confidence IS NOT NULL AND correct IS NOT NULL
),
summed AS (
    SELECT
        cluster, count(*) FILTER (correct) AS good, count(*) FILTER (NOT correct) AS bad,
        sum(twice_rank) FILTER (correct) AS twice_ranks
    FROM ranked GROUP BY cluster
)
SELECT
    g.split, g.run, g.step, g.data_source, g.in_scope, good * bad AS pairs,
    (twice_ranks - good * (good + 1)) / 2 AS wins
FROM summed JOIN all_groups AS g USING (cluster)
WHERE good > 0 AND bad > 0
"""
_OF = "tool-using rollouts with a verdict and log-probs"
_PAIRS = Ratio(
    WITHIN,
    x="wins",
    m="pairs",
    source="confidence_pairs",
    of="pairs of a correct and a wrong tool-using rollout of one group",
    interval="cluster",
    level="rollouts",
    better="higher",
    real=True,
    empty="no group has both a correct and a wrong tool-using rollout with log-probs",
)


def measure(context: Context) -> Iterator[Measurement]:
    """Over all tool-using rollouts, then within groups."""
    context.store.execute(CONFIDENCES)
    tool_using, scored, good, bad = context.store.rows(COUNTS)[0]
    missing = context.no_verdicts() or (None if scored else context.unscored)
    if missing is None and min(good, bad) < LEAST:
        reason = f"{good:,} correct and {bad:,} wrong tool-using rollouts have log-probs, and it takes {LEAST} of each"
        missing = reason, None
    if missing is not None:
        found = [
            unobserved(name, of, *missing, unit="probability", better="higher")
            for name, of in ((AREA, _OF), (WITHIN, _PAIRS.of))
        ]
    else:
        found = [_area(context, tool_using - scored, scored - good - bad), _within(context)]
    context.store.execute("DROP TABLE confidences")
    for measured in found:
        yield covered(context, measured, good + bad, tool_using)


def _area(context: Context, unscored: int, unjudged: int) -> Measurement:
    rollouts = context.store.arrays(USABLE)
    values, correct = rollouts["confidence"], rollouts["correct"]
    interval, method = area_interval(values, correct, rollouts["cluster"])
    status, reason = judge_evidence(context, len(values), "rollouts")
    excluded = {"without log-probs": unscored, "without a verdict": unjudged}
    return Measurement(
        name=AREA,
        value=area_under_curve(values, correct),
        n=len(values),
        of=_OF,
        interval=interval,
        interval_method=method,
        status=status,
        reason=reason,
        unit="probability",
        better="higher",
        excluded={why: count for why, count in excluded.items() if count},
        details={"correct": int(correct.sum()), "wrong": int((~correct).sum())},
        table=[_bin(*row) for row in context.store.rows(RELIABILITY)],
    )


def _bin(low: float, high: float, *sums: int) -> TableRow:
    moments = Moments(*sums)
    least, most = cluster_interval(moments, proportion=True)[0] or (None, None)
    return {
        "from": low,
        "to": high,
        "n": moments.m,
        "correct": moments.x,
        "value": moments.ratio,
        "lo": least,
        "hi": most,
    }


def _within(context: Context) -> Measurement:
    context.store.execute(PAIRS)
    (measured,) = measure_ratios(context, [_PAIRS])
    changes: dict[str, object] = {"unit": "probability"}
    if measured.value is not None:
        # Pairs are many where groups are large: what counts is in how many groups there are any.
        status, reason = judge_evidence(context, int(measured.details["clusters"] or 0), "groups")
        changes |= {"status": status, "reason": reason}
    return measured.model_copy(update=changes)


METRIC = Metric(
    name="confidence_calibration",
    question="Does the policy's confidence in a call say whether it leads anywhere?",
    keys=(AREA, WITHIN),
    measure=measure,
    doc=__doc__ or "",
    requires=(
        Requirement((AREA, WITHIN), ("logprobs",)),
        Requirement((AREA, WITHIN), VERDICTS),
    ),
    # q1, an easy question, has all of the large confidences, and q2 the small ones.
    example=Example(
        """
        q1 tool right probs=0.9,0.9
        q1 tool right probs=0.8,0.8
        q1 tool right probs=0.7,0.7
        q1 tool wrong probs=0.8,0.8
        q2 tool right probs=0.3,0.3
        q2 tool right probs=0.1,0.1
        q2 tool wrong probs=0.4,0.4
        q2 tool wrong probs=0.2,0.2
        q3 tool wrong probs=0.5,0.5
        q3 tool wrong probs=0.6,0.6
        """,
        # Of the five wrong ones the correct ones beat 5, 4½, 4, 1 and 0; within q1 they beat 1½ of 1, within q2 1 of 2.
        {AREA: (5 + 4.5 + 4 + 1 + 0) / 25, WITHIN: (1.5 + 1) / (3 * 1 + 2 * 2)},
    ),
)
