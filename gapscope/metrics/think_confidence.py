"""How sure the policy was of its tool calls, against its thinking.

**What it measures.** `think_confidence_mean`: the mean over rollouts of the mean probability that the sampling policy
gave the tokens of their thinking; `think_surprisal_mean`: the same of −ln p, in nats. `tool_think_surprisal_gap`: the
mean over tool-using rollouts of the mean −ln p of the first call minus that of the thinking before it.

**Why it matters.** A policy may be sure of its calls merely because it is sure of every token. The gap takes the
rollout's own thinking as the measure: it is made of pairs, so that hard questions do not count for one side alone.

**How to read it.** Above 0 the calls surprise more than the thinking that led to them. Most tokens of a call are syntax
and hardly surprise, so that below 0 is usual, and a gap that rises from step to step says more than its sign. Rollouts
without thinking, or without any before their first call, are left out. `coverage` of the means is the share of all
rollouts whose thinking, if there is any, has log-probs; that of the gap is the share of tool-using ones whose call has.

**Reference.** metrics section 7, set against spans of thinking; axpo section 2.4 (thinking is not what is ranked by).
"""

from collections.abc import Iterator
from math import log

from gapscope.alignment import ALIGNED
from gapscope.metrics.base import (
    Context,
    Example,
    Metric,
    Ratio,
    Requirement,
    covered,
    measure_ratios,
    nothing_counted,
)
from gapscope.report import Measurement, Unit

# One row per group: over its rollouts with thinking, and over those of them that call a tool after it.
THINKING = """
CREATE OR REPLACE TEMP TABLE thinking AS
WITH thoughts AS (
    SELECT
        a.id, a.cluster, sum(s.prob_sum) AS prob_sum, sum(s.logprob_sum) AS logprob_sum, sum(s.scored) AS scored,
        sum(s.logprob_sum) FILTER (s.id = f.output AND s.token_end <= f.token_start) AS logprob_sum_before,
        sum(s.scored) FILTER (s.id = f.output AND s.token_end <= f.token_start) AS scored_before,
        any_value(-f.logprob_sum / f.scored) AS call_surprisal
    FROM span_tokens AS s JOIN outputs AS o USING (id) JOIN attempts AS a ON a.id = o.attempt
        LEFT JOIN first_calls AS f ON f.id = a.id AND f.scored > 0
    WHERE s.kind = 'think' AND s.scored > 0
    GROUP BY a.id, a.cluster
),
means AS (
    SELECT
        cluster, prob_sum / scored AS confidence, -logprob_sum / scored AS surprisal,
        call_surprisal + logprob_sum_before / scored_before AS gap
    FROM thoughts
)
SELECT
    g.split, g.run, g.step, g.data_source, g.in_scope, sum(m.confidence) AS confidence, sum(m.surprisal) AS surprisal,
    count(*) AS rollouts, sum(m.gap) AS gap, count(m.gap) AS pairs
FROM means AS m JOIN all_groups AS g USING (cluster)
GROUP BY g.split, g.run, g.step, g.data_source, g.in_scope, cluster
"""
# Rollouts whose thinking would be known, and all; tool-using ones whose call is known, and all; any log-probs.
KNOWN = """
SELECT
    count(*) FILTER (r.alignment IN $aligned AND r.logprob_tokens > 0), count(*), count(*) FILTER (f.scored > 0),
    count(f.id), count(*) FILTER (r.logprob_tokens > 0)
FROM attempts AS a JOIN rollouts AS r USING (id) LEFT JOIN first_calls AS f ON f.id = a.id
WHERE a.in_scope
"""


def measure(context: Context) -> Iterator[Measurement]:
    """The means over thinking, then the gap between the call and the thinking before it."""
    known, rollouts, calls, tool_using, scored = context.store.rows(KNOWN, aligned=ALIGNED)[0]
    reason, setting = ("no thinking has log-probs", None) if known else context.unscored
    if not scored:
        reason, setting = "the log has no log-probs", context.advice.get("logprobs")
    unpaired, remedy = ("no call with log-probs has thinking before it", None) if calls else context.unscored
    if not tool_using:
        unpaired, remedy = "no rollout used a tool", None
    ratios = [
        _mean("think_confidence_mean", "confidence", "probability", reason, setting),
        _mean("think_surprisal_mean", "surprisal", "nats", reason, setting),
        _mean("tool_think_surprisal_gap", "gap", "nats", unpaired, remedy),
    ]
    if context.spelled:
        context.store.execute(THINKING)
        confidence, surprisal, gap = measure_ratios(context, ratios)
    else:
        confidence, surprisal, gap = (nothing_counted(context, ratio) for ratio in ratios)
    for measured in (confidence, surprisal):
        yield covered(context, measured, known, rollouts, of="rollouts")
    left_out = {"no_thinking_before": calls - gap.n} if calls > gap.n else {}
    yield covered(context, gap.model_copy(update={"excluded": left_out}), calls, tool_using)


def _mean(name: str, value: str, unit: Unit, reason: str, setting: str | None) -> Ratio:
    paired = value == "gap"
    return Ratio(
        name,
        x=value,
        m="pairs" if paired else "rollouts",
        source="thinking",
        of="tool-using rollouts with thinking before the call" if paired else "rollouts with thinking",
        interval="cluster",
        level="rollouts",
        unit=unit,
        empty=reason,
        setting=setting,
        real=True,
    )


METRIC = Metric(
    name="think_confidence",
    question="How sure was the policy of its tool calls, against its thinking?",
    keys=("think_confidence_mean", "think_surprisal_mean", "tool_think_surprisal_gap"),
    measure=measure,
    doc=__doc__ or "",
    requires=(
        Requirement(("think_confidence_mean", "think_surprisal_mean", "tool_think_surprisal_gap"), ("logprobs",)),
        Requirement(("think_confidence_mean", "think_surprisal_mean"), ("turns",)),
        Requirement(("tool_think_surprisal_gap",), ("tool_calls",)),
    ),
    example=Example(
        """
        q1 tool wrong think=0.5,0.5 probs=0.25,0.25,0.25
        q1 tool right think=0.5,0.25 probs=0.5,0.5,0.5,0.5
        q1 -    wrong think=0.125,0.125 after=0.5
        q2 tool wrong probs=0.5,0.5,0.5
        q2 tool wrong
        q2 -    right after=0.5,0.5
        """,
        {
            "think_confidence_mean": (0.5 + (0.5 + 0.25) / 2 + 0.125) / 3,
            "think_surprisal_mean": (1 + 1.5 + 3) / 3 * log(2),
            "tool_think_surprisal_gap": ((2 - 1) + (1 - 1.5)) / 2 * log(2),
        },
    ),
)
