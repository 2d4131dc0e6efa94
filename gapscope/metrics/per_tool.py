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

from gapscope.metrics.base import Context, Example, Metric, Ratio, counted, measure_ratio, unobserved
from gapscope.report import Measurement

MOST_TOOLS = 20
"""Tools beyond the most called ones are counted in `tool_call_share[other]` alone: names can be made up."""

# One row per rollout and tool, with the columns of its group that slices need.
CALLS = """
CREATE OR REPLACE TEMP TABLE tool_use AS
SELECT
    g.split, g.run, g.step, g.data_source, g.in_scope, a.group_key, a.id, a.correct, c.name,
    count(*)::INTEGER AS calls,
    count(*) FILTER (c.outcome IN ('unknown_tool', 'bad_arguments', 'no_result', 'timeout', 'executed_error'))
        ::INTEGER AS failed
FROM calls AS c JOIN attempts AS a USING (id) JOIN all_groups AS g ON
    g.group_key = a.group_key AND g.split = a.split AND g.step IS NOT DISTINCT FROM a.step
    AND g.run IS NOT DISTINCT FROM a.run
WHERE NOT c.in_think AND c.name IS NOT NULL
GROUP BY ALL
"""
_BY_GROUP = """
SELECT split, run, step, data_source, in_scope, group_key, {x} AS x, {m} AS m FROM tool_use {where} GROUP BY ALL
"""


def measure(context: Context) -> Iterator[Measurement]:
    """The overall failure rate, then every tool from the most to the least called, then unused ones."""
    context.store.execute(CALLS)
    tools = context.store.rows("SELECT name, sum(calls) FROM tool_use WHERE in_scope GROUP BY name ORDER BY 2 DESC, 1")
    total = sum(calls for _, calls in tools)
    yield _failures(context, "tool_failure_rate", "", "calls with a readable name")
    for name, calls in tools[:MOST_TOOLS]:
        yield counted(f"tool_calls[{name}]", int(calls), "calls with a readable name", n=int(total))
        literal = _literal(name)
        yield _ratio(
            context,
            f"tool_call_share[{name}]",
            _query(f"sum(calls) FILTER (name = {literal})", "sum(calls)"),
            "calls with a readable name",
        )
        yield _failures(context, f"tool_failure_rate[{name}]", f"WHERE name = {literal}", f"calls of {name}")
        yield _accuracy(context, name, f"WHERE name = {literal} AND correct IS NOT NULL")
    if len(tools) > MOST_TOOLS:
        rest = sum(calls for _, calls in tools[MOST_TOOLS:])
        yield counted("tool_calls[other]", int(rest), "calls with a readable name", n=int(total))
    yield _unused(context, {name for name, _ in tools})


def _literal(name: str) -> str:
    """A tool's name as an SQL literal: the queries of ratios are composed, and names are what models write."""
    return "'" + name.replace("'", "''").replace("\0", "") + "'"


def _query(x: str, m: str, where: str = "") -> str:
    return _BY_GROUP.format(x=f"coalesce({x}, 0)::BIGINT", m=f"{m}::BIGINT", where=where)


def _ratio(context: Context, name: str, query: str, of: str) -> Measurement:
    return measure_ratio(context, Ratio(name, query, of=of, interval="cluster", level="rollouts", empty="no calls"))


def _failures(context: Context, name: str, where: str, of: str) -> Measurement:
    if not context.has_markers:
        return unobserved(name, of, "no error markers are set, so failures look like successes", better="lower")
    ratio = Ratio(
        name,
        _query("sum(failed)", "sum(calls)", where),
        of=of,
        interval="cluster",
        level="rollouts",
        better="lower",
        empty="no call has a readable name",
        need="tool_calls",
    )
    return measure_ratio(context, ratio)


def _accuracy(context: Context, tool: str, where: str) -> Measurement:
    ratio = Ratio(
        f"tool_accuracy[{tool}]",
        _query("count(*) FILTER (correct)", "count(*)", where),
        of=f"rollouts that call {tool}",
        interval="cluster",
        level="rollouts",
        better="higher",
        needs_verdicts=True,
        empty="no such rollout has a verdict",
    )
    return measure_ratio(context, ratio)


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
