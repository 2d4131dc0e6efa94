"""How long rollouts are, in turns, tokens and characters.

**What it measures.** Mean, median, 90th percentile and maximum over rollouts of model turns (`turns_mean`, `turns_p50`,
…), of tokens (`response_tokens_…`) and of characters (`response_chars_…`).

**Why it matters.** Falling turns are falling tool use; growing lengths are where truncation and cost come from.

**How to read it.** Turns are model generations, not chat messages. Tokens and characters count what the policy wrote
and leave tool results out; where a log has tokens but no mask, they count the whole response and `basis` says so.

**Reference.** metrics section 5.6. Intervals of quantiles invert the cluster-robust interval of the share below
the quantile (Woodruff 1952).
"""

from collections.abc import Iterator
from typing import NamedTuple

from gapscope.metrics.base import (
    Context,
    Example,
    Metric,
    Ratio,
    Requirement,
    judge_evidence,
    measure_ratios,
    unobserved,
)
from gapscope.report import Measurement, Unit
from gapscope.rollouts import Need
from gapscope.statistics import Moments, cluster_interval


class Length(NamedTuple):
    """A quantity per rollout: its column in `attempts`, and the sum and number of it in a group."""

    name: str
    column: str
    total: str
    rows: str
    unit: Unit
    empty: str = "nothing was written"
    need: Need | None = None
    basis: str | None = None


TURNS = Length("turns", "turns", "turns", "n", "ratio")
CHARACTERS = Length("response_chars", "sampled_chars", "sampled_chars", "n", "characters")
MODEL_TOKENS = Length(
    "response_tokens", "sampled_tokens", "sampled_tokens", "sampled_token_rows", "tokens",
    empty="the log has no token counts", need="token_ids", basis="model",
)  # fmt: skip
ALL_TOKENS = MODEL_TOKENS._replace(
    column="output_tokens", total="output_tokens", rows="output_token_rows", basis="response",
)  # fmt: skip
QUANTILES = (("p50", 0.5), ("p90", 0.9))

_QUANTILE = "SELECT quantile_disc(value, $q) FROM ({values})"
_VALUES = """
SELECT {column} AS value FROM attempts
WHERE {column} IS NOT NULL AND in_scope
"""
_BELOW = """
SELECT count(*), sum(x)::HUGEINT, sum(m)::HUGEINT, sum(x * x)::HUGEINT, sum(x * m)::HUGEINT, sum(m * m)::HUGEINT
FROM (
    SELECT count(*) FILTER ({column} <= $value) AS x, count(*) AS m
    FROM attempts
    WHERE {column} IS NOT NULL AND in_scope
    GROUP BY cluster
)
"""


def measure(context: Context) -> Iterator[Measurement]:
    """Turns, then tokens on the best basis that every rollout has, then characters."""
    (rollouts, model) = context.store.rows("SELECT count(*), count(sampled_tokens) FROM attempts WHERE in_scope")[0]
    for length in (TURNS, MODEL_TOKENS if model == rollouts else ALL_TOKENS, CHARACTERS):
        yield from _lengths(context, length)


def _lengths(context: Context, length: Length) -> Iterator[Measurement]:
    ratio = Ratio(
        f"{length.name}_mean",
        x=length.total,
        m=length.rows,
        source="clusters",
        of="rollouts",
        interval="cluster",
        level="rollouts",
        unit=length.unit,
        empty=length.empty,
        need=length.need,
    )
    (mean,) = measure_ratios(context, [ratio])
    if mean.value is not None and length.basis:
        mean = mean.model_copy(update={"details": {**mean.details, "basis": length.basis}})
    yield mean
    for label, q in QUANTILES:
        yield _quantile(context, length, mean, f"{length.name}_{label}", q)
    yield _largest(context, length, mean)


def _quantile(context: Context, length: Length, mean: Measurement, name: str, q: float) -> Measurement:
    if mean.value is None:
        return unobserved(name, "rollouts", mean.reason or "", mean.setting, unit=length.unit)
    values = _VALUES.format(column=length.column)
    query = _QUANTILE.format(values=values)
    (value,) = context.store.rows(query, q=q)[0]
    moments = Moments(*context.store.rows(_BELOW.format(column=length.column), value=value)[0])
    share, _ = cluster_interval(moments, proportion=True)
    interval = None
    if share is not None and moments.ratio is not None:
        # The share at or below the quantile overshoots q where values are tied: only its spread is used.
        low, high = (min(1.0, max(0.0, q + bound - moments.ratio)) for bound in share)
        interval = tuple(float(context.store.rows(query, q=bound)[0][0]) for bound in (low, high))
    status, reason = judge_evidence(context, mean.n, "rollouts")
    return Measurement(
        name=name, value=float(value), n=mean.n, of="rollouts", interval=interval, interval_method="woodruff_cluster",
        status=status, reason=reason, unit=length.unit,
    )  # fmt: skip


def _largest(context: Context, length: Length, mean: Measurement) -> Measurement:
    name = f"{length.name}_max"
    if mean.value is None:
        return unobserved(name, "rollouts", mean.reason or "", mean.setting, unit=length.unit)
    (value,) = context.store.rows(f"SELECT max(value) FROM ({_VALUES.format(column=length.column)})")[0]  # noqa: S608
    return Measurement(
        name=name, value=float(value), n=mean.n, of="rollouts", interval_method="none", unit=length.unit,
    )  # fmt: skip


METRIC = Metric(
    name="lengths",
    question="How long are rollouts?",
    keys=tuple(
        f"{length.name}_{what}"
        for length in (TURNS, MODEL_TOKENS, CHARACTERS)
        for what in ("mean", "p50", "p90", "max")
    ),
    measure=measure,
    doc=__doc__ or "",
    requires=(
        Requirement(
            tuple(f"{length.name}_{what}" for length in (TURNS, CHARACTERS) for what in ("mean", "p50", "p90", "max")),
            ("turns",),
        ),
        Requirement(
            tuple(f"{MODEL_TOKENS.name}_{what}" for what in ("mean", "p50", "p90", "max")), ("token_ids", "logprobs")
        ),
    ),
    example=Example(
        """
        q1 tool wrong tokens=150 chars=500
        q1 -    right tokens=100 chars=400
        q2 tool right tokens=150 chars=500
        q2 -    wrong tokens=100 chars=400
        q3 -    wrong tokens=100 chars=300
        q3 -    right tokens=300 chars=900
        """,
        {
            "turns_mean": 8 / 6,
            "turns_max": 2.0,
            "response_tokens_mean": 900 / 6,
            "response_tokens_p50": 100.0,
            "response_tokens_p90": 300.0,
            "response_chars_mean": 3000 / 6,
        },
    ),
)
