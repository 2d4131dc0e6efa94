"""How often resampling a failed prefix leads to a correct rollout.

**What it measures.** A prefix is recovered if any of its continuations is correct. `recovery_rate_prefix`: the share of
resampled prefixes that are; `…_executed`: by a correct continuation whose first call was executed. `…_prefix[T]` is of
prefixes whose source called tool T there, and `…_prefix_resampled[T]` of those of which a continuation called T: the
share in which such a continuation is correct. `recovery_rate_selected` is the share of resampled groups with a
recovered prefix, `recovery_rate_triggered` of all groups that AXPO would act on. `all_wrong_tool_group_rate_pre` and
`…_post` are `all_wrong_tool_group_rate` before resampling and after it, when a recovered group is no longer all wrong.

**Why it matters.** It is what resampling is paid for. The paper reports that 12 % of all-wrong subgroups are flipped at
a step, and that 15 % recovered in a probe with an unknown number of draws.

**How to read it.** Only prefixes of failed rollouts count, in groups whose tool-using rollouts are all wrong. The last
three rates are over the steps in which anything was resampled. Recovery also pays a branch that opens the tag, never
closes it and guesses right: the gap to `…_executed` is that. Prefixes whose call has no readable name have no T.

**Reference.** arXiv:2605.28774, section 4.5 and appendix D; axpo sections 3.6 and 7; metrics section 9.
"""

from collections.abc import Iterator
from typing import NamedTuple

from gapscope.metrics.base import (
    VERDICTS,
    Context,
    Example,
    Interval,
    Metric,
    Ratio,
    Requirement,
    measure_ratios,
    nothing_counted,
)
from gapscope.report import Measurement

MOST_TOOLS = 20
"""Tools beyond the most called ones have no rate of their own: names can be made up."""

# Per group and tool: of which prefixes it was called by the source, or by a continuation, and which it recovered. The
# tools by their rank among the called ones; names that models write never become part of a query.
TOOLS = """
CREATE OR REPLACE TEMP TABLE recovery_tools AS
WITH called AS (
    SELECT 'source' AS side, cluster, in_scope, tool, wins > 0 AS recovered
    FROM resampled_prefixes WHERE failed AND k > 0 AND tool IS NOT NULL
    UNION ALL BY NAME
    SELECT 'resampled' AS side, cluster, in_scope, tool, bool_or(correct) AS recovered
    FROM continuations WHERE failed AND correct IS NOT NULL AND tool IS NOT NULL
    GROUP BY source, prefix, cluster, in_scope, tool
),
ranks AS (
    SELECT side, tool, row_number() OVER (PARTITION BY side ORDER BY count(*) DESC, tool) - 1 AS rank
    FROM called WHERE in_scope GROUP BY side, tool
)
SELECT side, rank, tool, cluster, count(*) FILTER (recovered) AS recovered, count(*) AS prefixes
FROM called JOIN ranks USING (side, tool) WHERE rank < $most
GROUP BY side, rank, tool, cluster
"""
# One row per group of a step in which anything was resampled.
BY_GROUP = """
CREATE OR REPLACE TEMP TABLE recovery AS
WITH found AS (
    SELECT
        cluster, count(*) AS prefixes, count(*) FILTER (wins > 0) AS recovered,
        count(*) FILTER (executed_wins > 0) AS executed
    FROM resampled_prefixes WHERE failed AND k > 0 GROUP BY cluster
),
by_tool AS (
    SELECT cluster {columns} FROM recovery_tools GROUP BY cluster
)
SELECT
    g.split, g.run, g.step, g.data_source, g.in_scope, g.standing = 'eligible' AND g.t > 0 AS acting,
    g.a = 0 AS all_wrong, coalesce(f.prefixes, 0) AS prefixes, coalesce(f.recovered, 0) AS recovered,
    coalesce(f.executed, 0) AS executed, by_tool.* EXCLUDE (cluster)
FROM all_groups AS g
    SEMI JOIN (SELECT DISTINCT split, run, step FROM continuations) AS s
        ON s.split = g.split AND s.run IS NOT DISTINCT FROM g.run AND s.step IS NOT DISTINCT FROM g.step
    LEFT JOIN found AS f USING (cluster) LEFT JOIN by_tool USING (cluster)
"""
_COLUMNS = """,
    coalesce(sum(recovered) FILTER (side = '{side}' AND rank = {rank}), 0)::BIGINT AS {side}_recovered_{rank},
    coalesce(sum(prefixes) FILTER (side = '{side}' AND rank = {rank}), 0)::BIGINT AS {side}_prefixes_{rank}
"""
LEFT_OUT = """
SELECT count(*) FILTER (NOT failed), count(*) FILTER (failed AND k = 0) FROM resampled_prefixes WHERE in_scope
"""

PREFIX = Ratio(
    "recovery_rate_prefix",
    x="recovered",
    m="prefixes",
    source="recovery",
    of="resampled prefixes",
    interval="wilson",
    level="prefixes",
    better="higher",
    needs_verdicts=True,
    empty="no continuation with a verdict is of a group whose tool-using rollouts are all wrong",
)
EXECUTED = PREFIX._replace(name="recovery_rate_prefix_executed", x="executed")
SELECTED = PREFIX._replace(
    name="recovery_rate_selected",
    x="(recovered > 0)::INTEGER",
    m="1",
    where="prefixes > 0",
    of="resampled groups",
    level="groups",
)
TRIGGERED = SELECTED._replace(
    name="recovery_rate_triggered",
    where="acting AND all_wrong",
    of="triggered groups of the steps in which any was resampled",
    empty="no group triggers at a step in which any was resampled",
)
PRE = TRIGGERED._replace(
    name="all_wrong_tool_group_rate_pre",
    x="all_wrong::INTEGER",
    where="acting",
    of="groups with a tool-using rollout, of the steps in which any was resampled",
    better="lower",
    empty="no eligible group of these steps has a tool-using rollout",
)
POST = PRE._replace(name="all_wrong_tool_group_rate_post", x="(all_wrong AND recovered = 0)::INTEGER")


class Tool(NamedTuple):
    """A tool by its rank among those that sources called, or continuations."""

    side: str
    rank: int
    name: str


def measure(context: Context) -> Iterator[Measurement]:
    """By prefix, then by group, then by tool."""
    if missing := context.no_verdicts() or context.no_continuations:
        for ratio in (PREFIX, EXECUTED, SELECTED, TRIGGERED, PRE, POST):
            reason, setting = missing
            yield nothing_counted(context, ratio._replace(empty=reason, setting=setting))
        return
    store = context.store
    store.execute(TOOLS, most=MOST_TOOLS)
    query = "SELECT DISTINCT side, rank, tool FROM recovery_tools ORDER BY side DESC, rank"
    tools = [Tool(*row) for row in store.rows(query)]
    columns = "".join(_COLUMNS.format(side=tool.side, rank=tool.rank) for tool in tools)
    store.execute(BY_GROUP.format(columns=columns))
    other, unjudged = store.rows(LEFT_OUT)[0]
    excluded = {"not of an all-wrong group": other, "without a verdict": unjudged}
    excluded = {why: count for why, count in excluded.items() if count}
    by_prefix = _with_intervals(context, [PREFIX, EXECUTED, *map(_of_tool, tools)])
    overall, executed, *by_tool = measure_ratios(context, by_prefix)
    for measured in (overall, executed):
        yield measured.model_copy(update={"excluded": excluded})
    yield from measure_ratios(context, [SELECTED], excluded={})
    yield from measure_ratios(context, [TRIGGERED, PRE, POST], excluded={})
    yield from by_tool


def _of_tool(tool: Tool) -> Ratio:
    resampled = tool.side == "resampled"
    return PREFIX._replace(
        name=f"recovery_rate_prefix{'_resampled' if resampled else ''}[{tool.name}]",
        x=f"{tool.side}_recovered_{tool.rank}",
        m=f"{tool.side}_prefixes_{tool.rank}",
        of=f"resampled prefixes {'with a continuation' if resampled else 'of a rollout'} that called {tool.name}",
    )


def _with_intervals(context: Context, ratios: list[Ratio]) -> list[Ratio]:
    """Prefixes of one group are not independent: where a group has several, the interval is clustered by group."""
    columns = ", ".join(f"coalesce(max({ratio.m}), 0) > 1" for ratio in ratios)
    several = context.store.rows(f"SELECT {columns} FROM recovery WHERE in_scope")[0]  # noqa: S608 (names of ours)
    methods: dict[bool, Interval] = {True: "cluster", False: "wilson"}
    return [ratio._replace(interval=methods[more]) for ratio, more in zip(ratios, several, strict=True)]


OF_GROUPS = (TRIGGERED.name, PRE.name, POST.name)
KEYS = (
    PREFIX.name, EXECUTED.name, SELECTED.name, *OF_GROUPS, "recovery_rate_prefix[]", "recovery_rate_prefix_resampled[]",
)  # fmt: skip

METRIC = Metric(
    name="recovery",
    question="How often does resampling a failed prefix lead to a correct rollout?",
    keys=KEYS,
    measure=measure,
    doc=__doc__ or "",
    requires=(
        Requirement((EXECUTED.name, *OF_GROUPS, *KEYS[-2:]), ("tool_calls",)),
        Requirement(KEYS, VERDICTS),
    ),
    survivors=True,
    # q1 and q2 are triggered and resampled; q1 is recovered by a continuation that called another tool.
    example=Example(
        """
        q1 tool wrong rollout_id=a name=search
        q1 -    right
        q2 tool wrong rollout_id=b name=search
        q2 -    wrong
        q3 tool right
        q3 -    wrong
        p1 tool wrong parent=a name=search
        p1 tool right parent=a name=python
        p2 tool wrong parent=b name=search
        p2 tool right parent=b call=unclosed
        """,
        {
            "recovery_rate_prefix": 2 / 2,
            "recovery_rate_prefix_executed": 1 / 2,
            "recovery_rate_selected": 2 / 2,
            "recovery_rate_triggered": 2 / 2,
            "recovery_rate_prefix[search]": 2 / 2,
            "recovery_rate_prefix_resampled[search]": 0 / 2,
            "recovery_rate_prefix_resampled[python]": 1 / 1,
            "all_wrong_tool_group_rate_pre": 2 / 3,
            "all_wrong_tool_group_rate_post": 0 / 3,
        },
    ),
)
