"""The metrics. A new one is one file here and one entry in METRICS, in the order in which they are measured."""

from gapscope.errors import UnknownName
from gapscope.metrics import (
    accuracy,
    all_wrong,
    axpo_budget,
    boundary_entropy,
    call_diversity,
    call_outcomes,
    call_stages,
    census,
    confidence_calibration,
    continuations,
    endings,
    group_signal,
    groups,
    lengths,
    logprob_mismatch,
    pass_at_k,
    per_tool,
    proposition,
    recovery,
    recovery_confidence,
    resampling_yield,
    rows,
    size_matched_null,
    think_confidence,
    token_coverage,
    tool_attempts,
    tool_confidence,
    tool_signal,
    trends,
    triggers,
    waste,
)
from gapscope.metrics.base import Context, Evidence, Example, Metric

METRICS: tuple[Metric, ...] = (
    tool_attempts.METRIC,
    all_wrong.METRIC,
    size_matched_null.METRIC,
    census.METRIC,
    triggers.METRIC,
    accuracy.METRIC,
    group_signal.METRIC,
    tool_signal.METRIC,
    waste.METRIC,
    pass_at_k.METRIC,
    call_stages.METRIC,
    call_outcomes.METRIC,
    per_tool.METRIC,
    lengths.METRIC,
    endings.METRIC,
    tool_confidence.METRIC,
    confidence_calibration.METRIC,
    call_diversity.METRIC,
    logprob_mismatch.METRIC,
    think_confidence.METRIC,
    boundary_entropy.METRIC,
    token_coverage.METRIC,
    groups.METRIC,
    rows.METRIC,
    axpo_budget.METRIC,
    recovery.METRIC,
    continuations.METRIC,
    recovery_confidence.METRIC,
    proposition.METRIC,
    resampling_yield.METRIC,
    trends.METRIC,
)
"""Every metric. `trends` comes last, because it looks at what the others measured."""

__all__ = ["METRICS", "Context", "Evidence", "Example", "Metric", "known_keys", "metric_named"]


def known_keys() -> list[str]:
    """Names of all measurements; a family stands as `pass_at_k[]`."""
    return [key for metric in METRICS for key in metric.keys]


def family(key: str) -> str:
    """`pass_at_k[4]` belongs to `pass_at_k[]`; any other name stands for itself."""
    return f"{key.split('[', 1)[0]}[]" if key.endswith("]") else key


def metric_named(name: str) -> Metric:
    """The metric of that name, or the one that measures a key of that name.

    Raises:
        UnknownName: there is none.

    """
    for metric in METRICS:
        if name == metric.name or name in metric.keys or family(name) in metric.keys or f"{name}[]" in metric.keys:
            return metric
    raise UnknownName("metric", name, [*(metric.name for metric in METRICS), *known_keys()])
