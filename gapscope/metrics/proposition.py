"""Whether continuing a failed prefix is at least as good as a fresh rollout: the condition of Proposition 1.

**What it measures.** `proposition_q_p_tool` is the chance that a rollout uses a tool and is correct, over all rollouts
of eligible groups. `proposition_margin` is `continuation_success` less that. `verdict` in its details is `supported`
where the interval of the former lies above that of the latter, `contradicted` where it lies below, and else
`inconclusive`. `proposition_margin_same_question` compares the continuations of a question with the rollouts of its
groups at other steps, where those are many enough, each question with the weight of its continuations.

**Why it matters.** If p ≥ q · p_tool, then of equally many draws the prefix gives at least one correct tool-using
rollout at least as often as the question does. The paper argues that this holds on average over all tool prefixes, but
those that are resampled have failed, and lead to less.

**How to read it.** The interval of a margin goes from the least to the most that those of its two sides allow: above 0
it is supported, below 0 contradicted. Inside the resampled groups q · p_tool is 0 because of how they were chosen, so
that comparing with them would always support it. The groups of all questions are easier than those that failed: a
question at its own other steps is the fairer comparison. Equally many draws are not equally many tokens; for those see
`resampling_yield_ratio`.

**Reference.** arXiv:2605.28774, Proposition 1 (section 3.1) and appendix D; axpo section 4; metrics section 9.
"""

from collections.abc import Iterator

from gapscope.metrics.base import (
    VERDICTS,
    Context,
    Example,
    Metric,
    Ratio,
    Requirement,
    measure_ratios,
    nothing_counted,
    unobserved,
)
from gapscope.report import Measurement

MARGIN = "proposition_margin"
SAME_QUESTION = "proposition_margin_same_question"
SUCCESS = "continuation_success"
_OF = "continuations"

Q_P_TOOL = Ratio(
    "proposition_q_p_tool",
    x="a",
    m="n",
    source="eligible",
    of="rollouts of eligible groups",
    interval="cluster",
    level="rollouts",
    better="higher",
    needs_verdicts=True,
    empty="no eligible group: none of two or more rollouts with a verdict on each",
)

# One row per question that was resampled and has enough rollouts at other steps of the run: the same prompt, ground
# truth and images. `expected` is what its k continuations would have won as rollouts of those steps.
QUESTIONS = """
CREATE OR REPLACE TEMP TABLE same_questions AS
WITH asked AS (
    SELECT cluster, count(correct) AS k, count(*) FILTER (correct) AS wins FROM continuations
    WHERE in_scope AND correct IS NOT NULL GROUP BY cluster
),
groups AS (
    SELECT
        g.cluster, g.step, g.standing, g.n, g.a,
        hash(g.split, g.run, r.prompt_hash, r.truth_hash, r.image_hash) AS question
    FROM all_groups AS g JOIN rollouts AS r ON r.id = g.first_id
    WHERE g.in_scope AND g.step IS NOT NULL AND r.prompt_hash IS NOT NULL
),
resampled AS (SELECT * FROM groups JOIN asked USING (cluster)),
by_step AS (
    SELECT question, step, sum(n) AS n, sum(a) AS a
    FROM groups SEMI JOIN resampled USING (question)
    WHERE standing = 'eligible' GROUP BY question, step
),
elsewhere AS (
    SELECT r.question, r.cluster, r.k, r.wins, sum(o.n) AS n, sum(o.a) AS a
    FROM resampled AS r JOIN by_step AS o ON o.question = r.question AND o.step <> r.step
    GROUP BY r.question, r.cluster, r.k, r.wins
)
SELECT
    true AS in_scope, NULL::BIGINT AS step, NULL::VARCHAR AS split, NULL::VARCHAR AS run, NULL::VARCHAR AS data_source,
    sum(k)::BIGINT AS k, sum(wins)::BIGINT AS wins, sum(k * a / n ORDER BY cluster) AS expected
FROM elsewhere WHERE n >= $least
GROUP BY question
"""
_CONTINUED = Q_P_TOOL._replace(
    name=SAME_QUESTION,
    x="wins",
    m="k",
    source="same_questions",
    of=_OF,
    level="continuations",
)
_FRESH = _CONTINUED._replace(x="expected", real=True)


def measure(context: Context) -> Iterator[Measurement]:
    """What a rollout is worth, then how much more or less a continuation is."""
    if missing := context.no_continuations:
        reason, setting = missing
        yield nothing_counted(context, Q_P_TOOL._replace(empty=reason, setting=setting))
        for name in (MARGIN, SAME_QUESTION):
            why = context.no_verdicts() or missing
            yield unobserved(name, _OF, *why, unit="difference", better="higher")
        return
    (fresh,) = measure_ratios(context, [Q_P_TOOL])
    yield fresh
    success = context.measured.get(SUCCESS)
    if success is None:
        yield unobserved(MARGIN, _OF, f"{SUCCESS} was not measured", unit="difference", better="higher")
    else:
        yield _margin(MARGIN, "pooled", success, fresh)
    yield _same_question(context)


def _same_question(context: Context) -> Measurement:
    least = max(1, context.evidence.rollouts)
    context.store.execute(QUESTIONS, least=least)
    reason = f"no resampled question has {least:,} rollouts or more at other steps"
    continued, fresh = measure_ratios(
        context, [_CONTINUED._replace(empty=reason), _FRESH._replace(empty=reason)], excluded={}
    )
    measured = _margin(SAME_QUESTION, "same_question", continued, fresh)
    details = {**measured.details, "questions": continued.details.get("clusters")} if measured.details else {}
    return measured.model_copy(update={"details": details})


def _margin(name: str, source: str, continued: Measurement, fresh: Measurement) -> Measurement:
    """The difference, and what the intervals of both sides say about it."""
    if continued.value is None or fresh.value is None:
        lacking = continued if continued.value is None else fresh
        return unobserved(name, _OF, lacking.reason or "", lacking.setting, unit="difference", better="higher")
    interval = None
    verdict = "inconclusive"
    if continued.interval is not None and fresh.interval is not None:
        interval = continued.interval[0] - fresh.interval[1], continued.interval[1] - fresh.interval[0]
        verdict = "supported" if interval[0] > 0 else "contradicted" if interval[1] < 0 else "inconclusive"
    weaker = next((side for side in (continued, fresh) if side.status != "observed"), continued)
    low, high = continued.interval or (None, None)
    least, most = fresh.interval or (None, None)
    return Measurement(
        name=name,
        value=continued.value - fresh.value,
        n=continued.n,
        of=_OF,
        interval=interval,
        interval_method="bounds_of_both" if interval else "none",
        status=weaker.status,
        reason=weaker.reason,
        unit="difference",
        better="higher",
        details={
            "verdict": verdict,
            "compared_with": source,
            "p": continued.value,
            "p_lo": low,
            "p_hi": high,
            "q_p_tool": fresh.value,
            "q_p_tool_lo": least,
            "q_p_tool_hi": most,
        },
    )


KEYS = (Q_P_TOOL.name, MARGIN, SAME_QUESTION)

METRIC = Metric(
    name="proposition",
    question="Is a continuation of a failed prefix worth at least a fresh rollout?",
    keys=KEYS,
    measure=measure,
    doc=__doc__ or "",
    requires=(
        Requirement((SAME_QUESTION,), ("step",)),
        Requirement(KEYS, ("tool_calls",)),
        Requirement(KEYS, VERDICTS),
    ),
    # Of six rollouts two used a tool and were correct, and so were three of four continuations.
    example=Example(
        """
        q1 tool wrong rollout_id=a
        q1 -    right
        q2 tool right
        q2 tool right
        q3 tool wrong rollout_id=b
        q3 -    wrong
        p1 tool right parent=a
        p1 tool right parent=a
        p2 tool right parent=b
        p2 tool wrong parent=b
        """,
        {"proposition_q_p_tool": 2 / 6, MARGIN: 3 / 4 - 2 / 6},
    ),
)
