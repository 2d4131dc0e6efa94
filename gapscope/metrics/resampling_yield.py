"""What a token buys: correct tool-using rollouts from resampling, against as many tokens of fresh rollouts.

**What it measures.** `resampling_yield`: correct continuations per 1,000 tokens that the policy sampled for them, the
frozen prefix not counted. `fresh_yield`: correct tool-using rollouts per 1,000 sampled tokens in the eligible groups of
the steps in which anything was resampled. `resampling_yield_ratio` is the first over the second. The details say what
was gained, how many the same tokens would have bought as fresh rollouts, and what a draw of either kind costs and is
worth. `…_chars` are the same per 1,000 characters, for logs without tokens.

**Why it matters.** Resampling is extra work. Spent on more rollouts per question, the same work finds correct
tool-using rollouts, too.

**How to read it.** A ratio of 2 means that a token of resampling bought twice as many. It is estimated from the log:
fresh rollouts would be of all questions alike, and on the questions that failed they would find less. A continuation is
the cheaper draw, because the thinking before its call is there already, but nearly always runs a tool, and no time of
tools is counted. Only prefixes that end in the first turn count, for which it is known how much of a continuation is
new.

**Reference.** axpo sections 4 (caveat 4), 7 and 11; metrics section 4 for the intervals; that of the ratio is
cluster-robust on its logarithm.
"""

import math
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
    judge_evidence,
    measure_ratios,
    nothing_counted,
    unobserved,
)
from gapscope.report import Measurement
from gapscope.rollouts import Need
from gapscope.statistics import student_t_quantile

PER = 1000

# One row per prefix. Only what has a verdict counts, on either side.
CONTINUED = """
CREATE OR REPLACE TEMP TABLE yields AS
SELECT
    split, run, step, data_source, in_scope, cluster, source, prefix,
    count(new_tokens) AS by_tokens, count(*) FILTER (correct AND new_tokens IS NOT NULL) AS token_wins,
    coalesce(sum(new_tokens), 0)::BIGINT AS tokens,
    count(new_chars) AS by_chars, count(*) FILTER (correct AND new_chars IS NOT NULL) AS char_wins,
    coalesce(sum(new_chars), 0)::BIGINT AS chars
FROM continuations WHERE correct IS NOT NULL
GROUP BY split, run, step, data_source, in_scope, cluster, source, prefix
"""
# One row per eligible group of a step in which anything was resampled.
FRESH = """
CREATE OR REPLACE TEMP TABLE fresh_yields AS
SELECT
    split, run, step, data_source, in_scope, cluster, n, a, sampled_token_rows = n AS counted,
    coalesce(sampled_tokens, 0) AS tokens, sampled_chars AS chars
FROM eligible AS g SEMI JOIN (SELECT DISTINCT split, run, step FROM continuations) AS s
    ON s.split = g.split AND s.run IS NOT DISTINCT FROM g.run AND s.step IS NOT DISTINCT FROM g.step
"""
# What either side has of each group: successes, cost, draws.
BOTH = """
SELECT
    coalesce(c.wins, 0)::BIGINT AS wins, coalesce(c.cost, 0)::BIGINT AS new, coalesce(c.draws, 0)::BIGINT AS draws,
    coalesce(f.a, 0)::BIGINT AS a, coalesce(f.cost, 0)::BIGINT AS cost, coalesce(f.n, 0)::BIGINT AS n
FROM (
    SELECT cluster, sum({wins}) AS wins, sum({cost}) AS cost, sum({draws}) AS draws FROM yields
    WHERE in_scope GROUP BY cluster
) AS c FULL JOIN (
    SELECT cluster, a, {cost} AS cost, n FROM fresh_yields WHERE in_scope AND {counted}
) AS f USING (cluster)
"""
DRAWN = """
SELECT
    (SELECT count(*) FROM continuations WHERE in_scope AND correct IS NOT NULL),
    (SELECT coalesce(sum(n), 0)::BIGINT FROM fresh_yields WHERE in_scope)
"""


class Basis(NamedTuple):
    """In what cost is counted: columns of both tables, and what it is called."""

    suffix: str
    what: str
    cost: str
    wins: str
    draws: str
    counted: str
    empty: str
    need: Need | None


BASES = (
    Basis("", "tokens", "tokens", "token_wins", "by_tokens", "counted", "the log has no token counts", "token_ids"),
    Basis("_chars", "characters", "chars", "char_wins", "by_chars", "TRUE", "no text", None),
)
_UNPLACED = "of no continuation it is known which of its {what} are new"


def measure(context: Context) -> Iterator[Measurement]:
    """By tokens, then by characters."""
    if context.no_continuations is None:
        context.store.execute(CONTINUED)
        context.store.execute(FRESH)
    for basis in BASES:
        yield from _yields(context, basis)


def _yields(context: Context, basis: Basis) -> Iterator[Measurement]:
    continued = Ratio(
        f"resampling_yield{basis.suffix}",
        x=f"{PER} * {basis.wins}",
        m=basis.cost,
        source="yields",
        of=f"{basis.what} that continuations sampled anew",
        interval="cluster",
        level="continuations",
        unit="ratio",
        better="higher",
        needs_verdicts=True,
        empty=_UNPLACED.format(what=basis.what),
    )
    fresh = continued._replace(
        name=f"fresh_yield{basis.suffix}",
        x=f"{PER} * a",
        source="fresh_yields",
        where=basis.counted,
        of=f"{basis.what} that the policy wrote in eligible groups of these steps",
        level="rollouts",
        empty=basis.empty,
        need=basis.need,
    )
    ratio = f"resampling_yield_ratio{basis.suffix}"
    if missing := context.no_verdicts() or context.no_continuations:
        for each in (continued, fresh):
            yield nothing_counted(context, each._replace(empty=missing[0], setting=missing[1]))
        yield unobserved(ratio, "continuations", *missing, unit="ratio", better="higher")
        return
    drawn, rollouts = context.store.rows(DRAWN)[0]
    sides = Sides(context, basis)
    (own,) = measure_ratios(context, [continued])
    own = covered(context, _judged(context, own, sides.draws), sides.draws, drawn, of="continuations")
    (other,) = measure_ratios(context, [fresh])
    other = covered(context, _judged(context, other, sides.rollouts), sides.rollouts, rollouts, of="rollouts")
    yield own
    yield other
    yield _ratio(ratio, sides, own, other)


def _judged(context: Context, measured: Measurement, draws: int) -> Measurement:
    """Tokens are always many: what counts is how many draws they are of."""
    if measured.value is None:
        return measured
    status, reason = judge_evidence(context, draws, "continuations")
    return measured.model_copy(update={"status": status, "reason": reason})


class Sides:
    """Of each group what was gained and spent by continuations, and by its own rollouts."""

    def __init__(self, context: Context, basis: Basis) -> None:
        query = BOTH.format(wins=basis.wins, cost=basis.cost, draws=basis.draws, counted=basis.counted)
        self._arrays = context.store.arrays(query)
        self.wins, self.spent, self.draws, self.correct, self.cost, self.rollouts = (
            int(self._arrays[name].sum()) for name in ("wins", "new", "draws", "a", "cost", "n")
        )

    @property
    def ratio(self) -> float:
        """Gain over cost of continuations, over that of rollouts."""
        return self.wins * self.cost / (self.spent * self.correct)

    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the ratio, cluster-robust on its logarithm.

        The degrees of freedom are those of the side with fewer groups; None where that is one, or nothing was gained.
        """
        own, other = self._arrays["new"], self._arrays["cost"]
        groups = min(int((own > 0).sum()), int((other > 0).sum()))
        if groups <= 1 or not self.wins:
            return None
        # By how much each group moves the logarithm of the ratio.
        gained = self._arrays["wins"] / self.wins - own / self.spent
        lost = self._arrays["a"] / self.correct - other / self.cost
        error = math.sqrt(groups / (groups - 1) * math.fsum((gained - lost) ** 2))
        half = error * student_t_quantile(0.975, groups - 1)
        return self.ratio * math.exp(-half), self.ratio * math.exp(half)


def _ratio(name: str, sides: Sides, own: Measurement, other: Measurement) -> Measurement:
    of = "continuations"
    if own.value is None or other.value is None:
        lacking = own if own.value is None else other
        return unobserved(name, of, lacking.reason or "", lacking.setting, unit="ratio", better="higher")
    if not sides.correct:
        reason = "no rollout of these steps used a tool and was correct"
        return unobserved(name, of, reason, unit="ratio", better="higher")
    weaker = next((side for side in (own, other) if side.status != "observed"), own)
    interval = sides.interval()
    return Measurement(
        name=name,
        value=sides.ratio,
        n=sides.draws,
        of=of,
        interval=interval,
        interval_method="cluster_log" if interval else "none",
        status=weaker.status,
        reason=weaker.reason,
        unit="ratio",
        better="higher",
        details={
            "gained": sides.wins,
            "spent": sides.spent,
            "fresh_would_gain": sides.correct * sides.spent / sides.cost,
            "cost_per_continuation": sides.spent / sides.draws,
            "cost_per_rollout": sides.cost / sides.rollouts,
            "gain_per_continuation": sides.wins / sides.draws,
            "gain_per_rollout": sides.correct / sides.rollouts,
        },
    )


TOKENS, CHARACTERS = (
    tuple(f"{name}{basis.suffix}" for name in ("resampling_yield", "fresh_yield", "resampling_yield_ratio"))
    for basis in BASES
)

METRIC = Metric(
    name="resampling_yield",
    question="What does a token buy when it is spent on resampling?",
    keys=(*TOKENS, *CHARACTERS),
    measure=measure,
    doc=__doc__ or "",
    requires=(
        Requirement(TOKENS, ("token_ids", "logprobs")),
        Requirement((*TOKENS, *CHARACTERS), ("tool_calls",)),
        Requirement((*TOKENS, *CHARACTERS), VERDICTS),
    ),
    # A continuation repeats three tokens of thinking and the tag, and samples three or five of its own.
    example=Example(
        """
        q1 tool wrong rollout_id=a think=0.5,0.5,0.5 probs=0.5,0.5,0.5 after=0.5
        q1 -    right after=0.5,0.5,0.5
        q2 tool right probs=0.5,0.5,0.5 after=0.5,0.5
        q2 -    wrong after=0.5,0.5,0.5,0.5,0.5
        p1 tool right parent=a think=0.5,0.5,0.5 probs=0.5,0.5,0.5 after=0.5
        p1 tool wrong parent=a think=0.5,0.5,0.5 probs=0.5,0.5,0.5 after=0.5,0.5,0.5
        """,
        {
            "resampling_yield": 1000 * 1 / (3 + 5),
            "fresh_yield": 1000 * 1 / (7 + 3 + 5 + 5),
            "resampling_yield_ratio": (1 / 8) / (1 / 20),
        },
    ),
)
