"""How many different calls the policy tries, in a group and after the same prefix.

**What it measures.** The first attempted call of each tool-using rollout, whether it was closed or not; one that cannot
be read counts by its text. `distinct_first_calls` is the mean number of different ones in groups with two or more, as
they were written; `…_normalised` takes calls for the same that differ only in the order of keys, case, blanks or 1 for
1.0. `distinct_call_share` and `…_normalised` divide by the number of tool-using rollouts of those groups, and
`single_call_group_share` is the share of the groups in which all make the same normalised call.
`distinct_calls_per_prefix` and `single_call_prefix_share` ask this of tool-using rollouts of one group that begin their
call after the same prefix: the same token ids, or the same text where those are not known. `shared_prefix_share` is the
share of tool-using rollouts that have such a sibling.

**Why it matters.** Where a prefix leads to one call only, resampling it is wasted. The paper counts clusters of calls
by what they are meant for, with a model as judge: 2.9 to 3.4 over 16 continuations, and about 30 % of prefixes with a
single one. These are the counts that need no judge.

**How to read it.** Different calls can be meant for the same, so there are more of them than clusters; what is a single
call is a single cluster. The number grows and the share falls with the number of rollouts that are compared: compare
only where `tool_using_mean` in the details, the mean size of the subgroups, is alike (`sharing_mean` for prefixes).
A call that was cut off is hardly ever the same as another; `unclosed_share` says how many are.

**Reference.** axpo section 1; arXiv:2605.28774, sections 2.2 and 3.2, Fig. 3c.
"""

from collections.abc import Iterator, Sequence

from gapscope.metrics.base import (
    Context,
    Example,
    Metric,
    Ratio,
    Requirement,
    covered,
    judge_evidence,
    measure_ratios,
)
from gapscope.report import Measurement, Scalar

# The first call of each tool-using rollout of a group, as numbers that are the same for the same call or prefix.
CALLS = """
CREATE OR REPLACE TEMP TABLE first_call_kinds AS
WITH seen AS (SELECT *, CASE WHEN NOT coalesce(retokenised, false) THEN prefix_hash END AS ids FROM first_calls)
SELECT
    cluster, hash(raw_hash, call_hash) AS written, call_hash AS meant, coalesce(ids, text_prefix_hash) AS prefix,
    ids IS NOT NULL AS by_ids, closed
FROM seen SEMI JOIN valid USING (cluster)
"""
# Two or more tool-using rollouts of a group behind one prefix, and the different calls among them.
PREFIXES_SHARED = """
CREATE OR REPLACE TEMP TABLE shared_prefixes AS
WITH kinds AS (
    SELECT cluster, prefix, meant, count(*) AS calls FROM first_call_kinds WHERE prefix IS NOT NULL
    GROUP BY cluster, prefix, meant
),
prefixes AS (SELECT cluster, sum(calls) AS calls, count(*) AS kinds FROM kinds GROUP BY cluster, prefix)
SELECT
    cluster, count(*) AS prefixes, sum(calls)::BIGINT AS sharing, sum(kinds)::BIGINT AS prefix_meant,
    count(*) FILTER (kinds = 1) AS single
FROM prefixes WHERE calls > 1 GROUP BY cluster
"""
# One row per group with a tool-using rollout. Grouping twice takes less memory than counting distinct values.
BY_GROUP = """
CREATE OR REPLACE TEMP TABLE call_diversity AS
WITH spellings AS (
    SELECT
        cluster, meant, count(*) AS calls, count(prefix) AS placed, count(*) FILTER (by_ids) AS by_ids,
        count(*) FILTER (NOT closed) AS unclosed
    FROM first_call_kinds GROUP BY cluster, meant, written
),
kinds AS (
    SELECT
        cluster, count(*) AS written, sum(calls) AS calls, sum(placed) AS placed, sum(by_ids) AS by_ids,
        sum(unclosed) AS unclosed
    FROM spellings GROUP BY cluster, meant
),
counted AS (
    SELECT
        cluster, sum(calls)::BIGINT AS tool_using, sum(written)::BIGINT AS written, count(*) AS meant,
        sum(placed)::BIGINT AS placed, sum(by_ids)::BIGINT AS by_ids, sum(unclosed)::BIGINT AS unclosed
    FROM kinds GROUP BY cluster
)
SELECT
    g.split, g.run, g.step, g.data_source, g.in_scope, counted.*,
    coalesce(prefixes, 0) AS prefixes, coalesce(sharing, 0) AS sharing, coalesce(prefix_meant, 0) AS prefix_meant,
    coalesce(single, 0) AS single
FROM counted JOIN all_groups AS g USING (cluster) LEFT JOIN shared_prefixes USING (cluster)
"""
TOTALS = """
SELECT
    coalesce(sum(tool_using), 0)::BIGINT, coalesce(sum(placed), 0)::BIGINT, coalesce(sum(by_ids), 0)::BIGINT,
    sum(tool_using) FILTER (tool_using > 1) / count(*) FILTER (tool_using > 1),
    sum(unclosed) FILTER (tool_using > 1) / sum(tool_using) FILTER (tool_using > 1),
    sum(sharing) / nullif(sum(prefixes), 0),
    (SELECT coalesce(sum(calls), 0)::BIGINT FROM all_groups WHERE in_scope)
FROM call_diversity WHERE in_scope
"""
FEWER = """
SELECT count(*) FROM valid ANTI JOIN (SELECT cluster FROM call_diversity WHERE tool_using > 1) USING (cluster)
WHERE in_scope
"""
_STILL_GROUPS = frozenset({"correctness_undefined", "partial_correctness"})
"""Groups that are not eligible for want of verdicts, which are not needed here."""

GROUPS = Ratio(
    "distinct_first_calls",
    x="written",
    m="1",
    source="call_diversity",
    where="tool_using > 1",
    of="groups with two tool-using rollouts or more",
    interval="cluster",
    level="groups",
    unit="ratio",
)
SHARES = GROUPS._replace(
    name="distinct_call_share",
    m="tool_using",
    of="tool-using rollouts of groups with two or more",
    level="rollouts",
    unit="share",
)
PREFIXES = GROUPS._replace(
    name="distinct_calls_per_prefix",
    x="prefix_meant",
    m="prefixes",
    where="TRUE",
    of="prefixes that two tool-using rollouts or more share",
    level="rollouts",
)
IN_GROUPS = (
    GROUPS,
    GROUPS._replace(name="distinct_first_calls_normalised", x="meant"),
    SHARES,
    SHARES._replace(name="distinct_call_share_normalised", x="meant"),
    GROUPS._replace(name="single_call_group_share", x="(meant = 1)::INTEGER", interval="wilson", unit="share"),
)
AFTER_PREFIXES = (
    PREFIXES,
    PREFIXES._replace(name="single_call_prefix_share", x="single", unit="share"),
    PREFIXES._replace(
        name="shared_prefix_share",
        x="sharing",
        m="placed",
        of="tool-using rollouts whose prefix is known",
        unit="share",
    ),
)


def measure(context: Context) -> Iterator[Measurement]:
    """In groups, then after prefixes."""
    for statement in (CALLS, PREFIXES_SHARED, BY_GROUP, "DROP TABLE first_call_kinds"):
        context.store.execute(statement)
    tool_using, placed, by_ids, subgroup, unclosed, sharing, attempts = context.store.rows(TOTALS)[0]
    details: dict[str, Scalar] = {"tool_using_mean": subgroup, "unclosed_share": unclosed}
    ratios = _unless(IN_GROUPS, attempts, "no group has two tool-using rollouts")
    for measured in measure_ratios(context, ratios, excluded=_left_out(context)):
        yield _with_details(measured, details)
    details = {"sharing_mean": sharing, "by_token_ids_share": by_ids / placed if placed else None}
    alone = "no two tool-using rollouts of a group share their prefix"
    unplaced = "the log has neither the text nor the tokens before a call"
    ratios = _unless(AFTER_PREFIXES, attempts, alone if placed or not tool_using else unplaced)
    for measured in measure_ratios(context, ratios, excluded={}):
        yield covered(context, _judged(context, _with_details(measured, details)), placed, tool_using)


def _unless(ratios: Sequence[Ratio], attempts: int, empty: str) -> list[Ratio]:
    """The ratios with what is to be said where there is nothing to count."""
    if attempts:
        return [ratio._replace(empty=empty) for ratio in ratios]
    return [ratio._replace(empty="no call was attempted", need="tool_calls") for ratio in ratios]


def _left_out(context: Context) -> dict[str, int]:
    """Groups that count for nothing here, by reason."""
    found = {why: groups for why, groups in context.excluded_groups.items() if why not in _STILL_GROUPS}
    ((fewer,),) = context.store.rows(FEWER)
    return {**found, "fewer than two tool-using": fewer} if fewer else found


def _with_details(measured: Measurement, details: dict[str, Scalar]) -> Measurement:
    if measured.value is None:
        return measured
    return measured.model_copy(update={"details": {**measured.details, **details}})


def _judged(context: Context, measured: Measurement) -> Measurement:
    """Prefixes of one group are alike: what counts is how many groups they are of."""
    if measured.of != PREFIXES.of or measured.value is None:
        return measured
    status, reason = judge_evidence(context, int(measured.details["clusters"] or 0), "groups")
    return measured.model_copy(update={"status": status, "reason": reason})


_KEYS = tuple(ratio.name for ratio in (*IN_GROUPS, *AFTER_PREFIXES))

METRIC = Metric(
    name="call_diversity",
    question="How many different calls does the policy try?",
    keys=_KEYS,
    measure=measure,
    doc=__doc__ or "",
    requires=(Requirement(_KEYS, ("tool_calls",)),),
    # In q1 three spellings of two calls; in q2 two calls and in q3 one, of which "look" leads to two and "ask" to one.
    example=Example(
        """
        q1 tool wrong raw=Rome
        q1 tool right raw=ROME
        q1 tool wrong raw=Paris
        q1 -    right
        q2 tool wrong name=search prefix=look
        q2 tool right name=search prefix=look
        q2 tool wrong name=python prefix=look
        q3 tool right name=search prefix=ask
        q3 tool wrong name=search prefix=ask
        q3 tool right name=search prefix=try
        """,
        {
            "distinct_first_calls": (3 + 2 + 1) / 3,
            "distinct_first_calls_normalised": (2 + 2 + 1) / 3,
            "distinct_call_share": (3 + 2 + 1) / 9,
            "distinct_call_share_normalised": (2 + 2 + 1) / 9,
            "single_call_group_share": 1 / 3,
            "distinct_calls_per_prefix": (2 + 1) / 2,
            "single_call_prefix_share": 1 / 2,
            "shared_prefix_share": (3 + 2) / 6,
        },
    ),
)
