"""What became of the calls, and whose fault it was.

**What it measures.** `tool_outcome[class]`: the share of attempted calls in each outcome class (`in_think`: of all
opened delimiters). `tool_model_fault_rate` sums the classes that the model caused (not closed, unparseable,
unknown tool, bad arguments), `tool_env_fault_rate` those of the environment (no result, timeout, error).

**Why it matters.** A malformed call is cured by training, a broken tool is not.

**How to read it.** Each call has exactly one class, the first that applies. Failures inside a tool are recognised by
markers, which the report lists; a tool that reports them in other words counts as `executed_ok`.

**Reference.** metrics section 3; the split of faults follows verl-project/verl pull 7697.
"""

from collections.abc import Iterator

from gapscope.metrics.base import Context, Example, Metric, Ratio, Requirement, measure_ratios, unobserved
from gapscope.outcomes import ENVIRONMENT_FAULTS, MODEL_FAULTS, OUTCOMES
from gapscope.report import Measurement

# Calls of each class, one row per group and one column per class.
OUTCOME_COUNTS = """
CREATE OR REPLACE TEMP TABLE call_outcomes AS
SELECT
    g.split, g.run, g.step, g.data_source, g.in_scope, {columns},
    count(*) FILTER (c.outcome <> 'in_think')::INTEGER AS attempted, count(*)::INTEGER AS opened
FROM calls AS c JOIN outputs AS o USING (id) JOIN attempts AS a ON a.id = o.attempt JOIN all_groups AS g USING (cluster)
GROUP BY g.split, g.run, g.step, g.data_source, g.in_scope, cluster
""".format(columns=", ".join(f"count(*) FILTER (c.outcome = '{name}')::INTEGER AS {name}" for name in OUTCOMES))


def _ratio(name: str, classes: tuple[str, ...], *, of: str = "attempted calls", total: str = "attempted") -> Ratio:
    return Ratio(
        name,
        x=" + ".join(classes),
        m=total,
        source="call_outcomes",
        of=of,
        interval="cluster",
        level="rollouts",
        better="higher" if classes == ("executed_ok",) else None if "executed_unknown" in classes else "lower",
        empty="no call was attempted",
        need="tool_calls",
    )


RATIOS = (
    _ratio("tool_model_fault_rate", MODEL_FAULTS),
    _ratio("tool_env_fault_rate", ENVIRONMENT_FAULTS),
    _ratio("tool_outcome[in_think]", ("in_think",), of="opened delimiters", total="opened"),
    *(_ratio(f"tool_outcome[{outcome}]", (outcome,)) for outcome in OUTCOMES if outcome != "in_think"),
)
_NEED_MARKERS = frozenset(
    ("tool_env_fault_rate", "tool_outcome[timeout]", "tool_outcome[executed_error]", "tool_outcome[executed_ok]"),
)


def measure(context: Context) -> Iterator[Measurement]:
    """Faults of the model and of the environment, then every class."""
    context.store.execute(OUTCOME_COUNTS)
    for measured in measure_ratios(context, RATIOS):
        if context.has_markers or measured.name not in _NEED_MARKERS:
            yield measured
        else:
            reason = "no error markers are set, so failures look like successes"
            yield unobserved(measured.name, measured.of, reason, better=measured.better)


METRIC = Metric(
    name="call_outcomes",
    question="What became of the calls, and whose fault was it?",
    keys=("tool_model_fault_rate", "tool_env_fault_rate", "tool_outcome[]"),
    measure=measure,
    doc=__doc__ or "",
    requires=(Requirement(("tool_model_fault_rate", "tool_env_fault_rate", "tool_outcome[]"), ("tool_calls",)),),
    example=Example(
        """
        q1 tool wrong
        q1 tool right
        q1 tool wrong call=unclosed
        q1 -    wrong
        q2 tool wrong call=unparseable
        q2 -    right call=in_think
        q2 tool wrong call=unanswered
        q2 tool right call=error
        """,
        {
            "tool_model_fault_rate": 2 / 6,
            "tool_env_fault_rate": 2 / 6,
            "tool_outcome[executed_ok]": 2 / 6,
            "tool_outcome[opened_not_closed]": 1 / 6,
            "tool_outcome[in_think]": 1 / 7,
        },
    ),
)
