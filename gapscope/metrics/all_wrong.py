"""How often acting is a dead end: groups whose tool-using rollouts are all wrong.

**What it measures.** `all_wrong_tool_group_rate`: among the groups in which a tool was tried, the share in which
every tool-using rollout is wrong. `all_wrong_notool_group_rate`: the same for the other rollouts, among the
groups that have any. `all_wrong_gap`: the difference of the two.

**Why it matters.** In such a group the tool call gets no positive signal: a negative one where thinking
succeeded, none at all where everything failed. These are the groups that AXPO resamples.

**How to read it.** The denominator is groups with at least one tool-using rollout: neither all groups nor
rollouts. The paper reports about 40 % against 25 %. Small subgroups are all wrong more often by chance alone,
so read it beside `all_wrong_tool_expected`, never without.

**Reference.** arXiv:2605.28774, section 2.2 and Fig. 3b.
"""

from collections.abc import Iterator

from gapscope.bootstraps import bootstrap_ratio_difference
from gapscope.metrics.base import (
    VERDICTS,
    Context,
    Example,
    Metric,
    Ratio,
    Requirement,
    judge_evidence,
    measure_ratios,
    unobserved,
)
from gapscope.report import Measurement

TOOL = Ratio(
    "all_wrong_tool_group_rate",
    x="(a = 0)::INTEGER",
    m="1",
    source="eligible",
    where="t > 0",
    of="groups with a tool-using rollout",
    interval="wilson",
    level="groups",
    better="lower",
    needs_verdicts=True,
    empty="no eligible group has a tool-using rollout",
    need="tool_calls",
)
NOTOOL = TOOL._replace(
    name="all_wrong_notool_group_rate",
    x="(b = 0)::INTEGER",
    where="u > 0",
    of="groups with a rollout that used no tool",
    empty="no eligible group has a rollout without a call",
    need=None,
)
GAP = "all_wrong_gap"


def measure(context: Context) -> Iterator[Measurement]:
    """Both rates, then their difference."""
    tool, notool = measure_ratios(context, [TOOL, NOTOOL])
    yield tool
    yield notool
    yield _gap(context, tool, notool)


def _gap(context: Context, tool: Measurement, notool: Measurement) -> Measurement:
    of = "groups that count for either rate"
    if tool.value is None or notool.value is None:
        missing = tool if tool.value is None else notool
        return unobserved(GAP, of, missing.reason or "", missing.setting, unit="difference", better="lower")
    sides = [
        (int(t > 0 and a == 0), int(t > 0), int(n > t and c == a), int(n > t), groups)
        for n, c, t, a, groups in context.counts
    ]
    both = [side for side in sides if side[1] and side[3]]
    shared = sum(side[4] for side in both)
    status, reason = judge_evidence(context, min(tool.n, notool.n), "groups")
    return Measurement(
        name=GAP,
        value=tool.value - notool.value,
        n=context.eligible,
        of=of,
        interval=bootstrap_ratio_difference(sides),
        interval_method="bootstrap_groups",
        status=status,
        reason=reason,
        unit="difference",
        better="lower",
        details={
            "groups_with_both": shared,
            "gap_in_groups_with_both": sum((side[0] - side[2]) * side[4] for side in both) / shared if shared else None,
        },
    )


METRIC = Metric(
    name="all_wrong",
    question="In how many groups is every tool-using rollout wrong?",
    keys=("all_wrong_tool_group_rate", "all_wrong_notool_group_rate", GAP),
    measure=measure,
    doc=__doc__ or "",
    requires=(
        Requirement(("all_wrong_notool_group_rate",), ("tool_calls",)),
        Requirement(("all_wrong_tool_group_rate", "all_wrong_notool_group_rate", GAP), VERDICTS),
        Requirement(("all_wrong_tool_group_rate", GAP), ("tool_calls",)),
    ),
    survivors=True,
    example=Example(
        """
        q1 tool wrong
        q1 tool wrong
        q1 -    right
        q2 tool wrong
        q2 tool right
        q2 -    wrong
        q3 tool wrong
        q3 -    wrong
        q4 -    right
        q4 -    wrong
        """,
        # Tool side: q1 and q3 of q1, q2, q3. Other side: q2 and q3 of all four.
        {"all_wrong_tool_group_rate": 2 / 3, "all_wrong_notool_group_rate": 2 / 4, GAP: 2 / 3 - 2 / 4},
    ),
)
