"""Which tools are called, how often they fail, and how rollouts that call them end.

**What it measures.** Per tool T: attempted calls (`tool_calls[T]`), their share of all calls with a readable name
(`tool_call_share[T]`), the share that failed (`tool_failure_rate[T]`; `tool_failure_rate` over all tools is TRL's
`tools/failure_frequency`), and the accuracy of rollouts that call T (`tool_accuracy[T]`). `tool_unused` counts
tools that prompts offer and nobody calls.

**Why it matters.** A rate over all tools hides the one that is broken.

**How to read it.** Failed are the outcome classes from `unknown_tool` to `executed_error`. A rollout that calls two
tools counts for both. Calls that cannot be parsed have no name and appear only in the overall row.

**Reference.** metrics section 5.5.
"""

from collections.abc import Iterator

from gapscope.metrics.base import (
    VERDICTS,
    Better,
    Context,
    Example,
    Metric,
    Ratio,
    Requirement,
    counted,
    measure_ratios,
    unobserved,
)
from gapscope.report import Measurement

MOST_TOOLS = 20
"""Tools beyond the most called ones are counted together, as `tool_calls[other]`: names can be made up."""

# The tools by their rank among the called ones; names that models write never become part of a query.
RANKS = """
CREATE OR REPLACE TEMP TABLE tool_ranks AS
SELECT name, row_number() OVER (ORDER BY count(*) DESC, name) - 1 AS rank, count(*)::BIGINT AS calls
FROM calls JOIN outputs AS o USING (id) JOIN attempts AS a ON a.id = o.attempt
WHERE NOT in_think AND name IS NOT NULL AND a.in_scope
GROUP BY name
"""
# One row per rollout and tool, with the columns of its group that slices need.
USES = """
CREATE OR REPLACE TEMP TABLE tool_uses AS
SELECT
    g.split, g.run, g.step, g.data_source, g.in_scope, cluster, a.id, a.correct, r.rank,
    count(*)::INTEGER AS calls,
    count(*) FILTER (c.outcome IN ('unknown_tool', 'bad_arguments', 'no_result', 'timeout', 'executed_error'))
        ::INTEGER AS failed
FROM calls AS c JOIN tool_ranks AS r USING (name) JOIN outputs AS o USING (id) JOIN attempts AS a ON a.id = o.attempt
    JOIN all_groups AS g USING (cluster)
WHERE NOT c.in_think
GROUP BY ALL
"""
# One row per group, with columns for each of the most called tools.
BY_GROUP = """
CREATE OR REPLACE TEMP TABLE tool_use AS
SELECT split, run, step, data_source, in_scope, sum(calls)::BIGINT AS calls, sum(failed)::BIGINT AS failed {columns}
FROM tool_uses
GROUP BY split, run, step, data_source, in_scope, cluster
"""
_COLUMNS = """,
    coalesce(sum(calls) FILTER (rank = {rank}), 0)::BIGINT AS calls_{rank},
    coalesce(sum(failed) FILTER (rank = {rank}), 0)::BIGINT AS failed_{rank},
    count(correct) FILTER (rank = {rank}) AS judged_{rank},
    count(*) FILTER (rank = {rank} AND correct) AS correct_{rank}
"""
_NAMED = "calls with a readable name"


def measure(context: Context) -> Iterator[Measurement]:
    """The overall failure rate, then every tool from the most to the least called, then unused ones."""
    store = context.store
    store.execute(RANKS)
    tools: list[tuple[str, int]] = store.rows("SELECT name, calls FROM tool_ranks ORDER BY rank")
    shown = tools[:MOST_TOOLS]
    store.execute(USES)
    store.execute(BY_GROUP.format(columns="".join(_COLUMNS.format(rank=rank) for rank in range(len(shown)))))
    total = sum(calls for _, calls in tools)
    ratios = [_share("tool_failure_rate", "failed", "calls", _NAMED, better="lower")]
    for rank, (name, _) in enumerate(shown):
        accuracy = _share(f"tool_accuracy[{name}]", f"correct_{rank}", f"judged_{rank}", f"rollouts that call {name}")
        ratios += [
            _share(f"tool_call_share[{name}]", f"calls_{rank}", "calls", _NAMED),
            _share(f"tool_failure_rate[{name}]", f"failed_{rank}", f"calls_{rank}", f"calls of {name}", better="lower"),
            accuracy._replace(better="higher", needs_verdicts=True, empty="no such rollout has a verdict"),
        ]
    for measured in measure_ratios(context, ratios):
        yield measured if context.has_markers else _without_markers(measured)
    for name, calls in shown:
        yield counted(f"tool_calls[{name}]", calls, _NAMED, n=total)
    if len(tools) > MOST_TOOLS:
        yield counted("tool_calls[other]", sum(calls for _, calls in tools[MOST_TOOLS:]), _NAMED, n=total)
    yield _unused(context, {name for name, _ in tools})


def _share(name: str, x: str, m: str, of: str, *, better: Better = None) -> Ratio:
    return Ratio(
        name,
        x=x,
        m=m,
        source="tool_use",
        of=of,
        interval="cluster",
        level="rollouts",
        better=better,
        empty="no call has a readable name",
        need="tool_calls",
    )


def _without_markers(measured: Measurement) -> Measurement:
    if not measured.name.startswith("tool_failure_rate"):
        return measured
    reason = "no error markers are set, so failures look like successes"
    return unobserved(measured.name, measured.of, reason, better="lower")


def _unused(context: Context, called: set[str]) -> Measurement:
    declared = {name for (name,) in context.store.rows("SELECT DISTINCT name FROM declared_tools")}
    if not declared:
        reason, setting = "the log does not say which tools were offered", context.advice.get("declared_tools")
        return unobserved("tool_unused", "offered tools", reason, setting, unit="count", better="lower")
    unused = sorted(declared - called)
    measured = counted("tool_unused", len(unused), "offered tools", n=len(declared), better="lower")
    return measured.model_copy(update={"table": [{"tool": name} for name in unused]})


METRIC = Metric(
    name="per_tool",
    question="Which tools are called, and how do they fare?",
    keys=(
        "tool_failure_rate", "tool_calls[]", "tool_call_share[]", "tool_failure_rate[]", "tool_accuracy[]",
        "tool_unused",
    ),
    measure=measure,
    doc=__doc__ or "",
    requires=(
        Requirement(("tool_failure_rate", "tool_calls[]", "tool_call_share[]", "tool_failure_rate[]"), ("tool_calls",)),
        Requirement(("tool_accuracy[]",), VERDICTS),
        Requirement(("tool_unused",), ("declared_tools",)),
    ),
    example=Example(
        """
        q1 tool wrong name=search
        q1 tool right name=search
        q1 tool wrong name=python call=error
        q2 tool right name=python
        q2 tool wrong name=search call=unanswered
        q2 -    right
        """,
        {
            "tool_failure_rate": 2 / 5,
            "tool_calls[search]": 3.0,
            "tool_call_share[search]": 3 / 5,
            "tool_failure_rate[python]": 1 / 2,
            "tool_accuracy[search]": 1 / 3,
        },
    ),
)  # fmt: skip
