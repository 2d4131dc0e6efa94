"""How sure the policy was of its tool calls.

**What it measures.** Per tool-using rollout the mean probability that the sampling policy gave the tokens of its first
call, tags included: `tool_confidence_mean` is the mean of it over rollouts, `tool_confidence_geometric` that of the
geometric mean, `tool_confidence_body` that without the tags, `tool_surprisal_mean` that of the mean −ln p in nats.
`tool_confidence_correct` and `…_wrong` are of correct and of wrong rollouts, `tool_confidence_mean[T]` of calls of tool
T, `outcome_confidence[class]` of calls that ended so.

**Why it matters.** AXPO resamples the prefixes whose calls the policy was least sure of: by this number it ranks them.

**How to read it.** Low means that other calls were likely, too, and 1 that no other was. Where `coverage` is below 1,
tool-using rollouts without log-probs, or of which it is not known which tokens are the call, are left out.

**Reference.** axpo section 2.4; metrics section 7; arXiv:2605.28774, section 3.2 and appendix B.9.
"""

from collections.abc import Iterator
from typing import NamedTuple

from gapscope.metrics.base import (
    VERDICTS,
    Context,
    Example,
    Metric,
    Ratio,
    Requirement,
    covered,
    measure_ratios,
    nothing_counted,
)
from gapscope.outcomes import OUTCOMES
from gapscope.report import Measurement, Unit

MOST_TOOLS = 20
"""Tools beyond the most called ones have no number of their own: names can be made up."""

# The numbers of each first call, and the rank of its tool: names that models write never become part of a query.
CALLS = """
CREATE OR REPLACE TEMP TABLE scored_calls AS
WITH tools AS (
    SELECT name, row_number() OVER (ORDER BY count(*) DESC, name) - 1 AS rank FROM first_calls
    WHERE scored > 0 AND in_scope AND name IS NOT NULL GROUP BY name
)
SELECT
    cluster, in_scope, correct, outcome, t.rank, t.name, prob_sum / scored AS arithmetic,
    exp(logprob_sum / scored) AS geometric, body_prob_sum / nullif(body_scored, 0) AS body,
    -logprob_sum / scored AS surprisal
FROM first_calls AS f LEFT JOIN tools AS t USING (name)
WHERE scored > 0
"""
# One row per group.
BY_GROUP = """
CREATE OR REPLACE TEMP TABLE call_confidence AS
SELECT split, run, step, data_source, in_scope, sums.* EXCLUDE (cluster)
FROM (SELECT cluster, {columns} FROM scored_calls GROUP BY cluster) AS sums JOIN all_groups USING (cluster)
"""


class Part(NamedTuple):
    """One of the means: its name, the number it is of, and which first calls it is over, as SQL."""

    name: str
    value: str
    where: str
    unit: Unit = "probability"
    by_verdict: bool = False


OVERALL = (
    Part("tool_confidence_mean", "arithmetic", "TRUE"),
    Part("tool_confidence_geometric", "geometric", "TRUE"),
    Part("tool_confidence_body", "body", "TRUE"),
    Part("tool_surprisal_mean", "surprisal", "TRUE", "nats"),
    Part("tool_confidence_correct", "arithmetic", "correct", by_verdict=True),
    Part("tool_confidence_wrong", "arithmetic", "NOT correct", by_verdict=True),
)
BY_OUTCOME = tuple(
    Part(f"outcome_confidence[{outcome}]", "arithmetic", f"outcome = '{outcome}'")
    for outcome in OUTCOMES
    if outcome != "in_think"
)


def measure(context: Context) -> Iterator[Measurement]:
    """Over all first calls, then by verdict, by tool and by outcome."""
    store = context.store
    if not context.spelled:
        for index, part in enumerate((*OVERALL, *BY_OUTCOME)):
            yield covered(context, nothing_counted(context, _mean(context, part, index)), 0, context.tool_using)
        return
    store.execute(CALLS)
    query = "SELECT DISTINCT rank, name FROM scored_calls WHERE in_scope AND rank < $most ORDER BY rank"
    tools = store.rows(query, most=MOST_TOOLS)
    by_tool = (Part(f"tool_confidence_mean[{name}]", "arithmetic", f"rank = {rank}") for rank, name in tools)
    parts = [*OVERALL, *by_tool, *BY_OUTCOME]
    columns = [
        f"coalesce(sum({part.value}) FILTER ({part.where}), 0) AS x{index}, "
        f"count({part.value}) FILTER ({part.where}) AS m{index}"
        for index, part in enumerate(parts)
    ]
    store.execute(BY_GROUP.format(columns=", ".join(columns)))
    ratios = [_mean(context, part, index) for index, part in enumerate(parts)]
    ((usable,),) = store.rows("SELECT count(*) FROM scored_calls WHERE in_scope")
    for measured in measure_ratios(context, ratios):
        yield covered(context, measured, usable, context.tool_using)


def _mean(context: Context, part: Part, index: int) -> Ratio:
    reason, setting = context.unscored
    return Ratio(
        part.name,
        x=f"x{index}",
        m=f"m{index}",
        source="call_confidence",
        of="tool-using rollouts with log-probs",
        interval="cluster",
        level="rollouts",
        unit=part.unit,
        needs_verdicts=part.by_verdict,
        empty=reason,
        setting=setting,
        real=True,
    )


KEYS = (
    "tool_confidence_mean", "tool_confidence_geometric", "tool_confidence_body", "tool_surprisal_mean",
    "tool_confidence_correct", "tool_confidence_wrong", "tool_confidence_mean[]", "outcome_confidence[]",
)  # fmt: skip

METRIC = Metric(
    name="tool_confidence",
    question="How sure was the policy of its tool calls?",
    keys=KEYS,
    measure=measure,
    doc=__doc__ or "",
    requires=(
        Requirement(KEYS, ("logprobs",)),
        Requirement(KEYS, ("tool_calls",)),
        Requirement(("tool_confidence_correct", "tool_confidence_wrong"), VERDICTS),
    ),
    example=Example(
        """
        q1 tool wrong name=search probs=0.9,0.5,0.1
        q1 tool right name=search probs=0.9,0.9,0.9
        q1 -    wrong after=0.2,0.2
        q2 tool wrong name=python probs=0.6,0.6,0.6 call=error
        q2 tool wrong name=python
        q2 -    right
        """,
        {
            "tool_confidence_mean": (0.5 + 0.9 + 0.6) / 3,
            "tool_confidence_geometric": ((0.9 * 0.5 * 0.1) ** (1 / 3) + 0.9 + 0.6) / 3,
            "tool_confidence_body": (0.5 + 0.9 + 0.6) / 3,
            "tool_confidence_correct": 0.9,
            "tool_confidence_wrong": (0.5 + 0.6) / 2,
            "tool_confidence_mean[search]": (0.5 + 0.9) / 2,
            "outcome_confidence[executed_error]": 0.6,
        },
    ),
)
