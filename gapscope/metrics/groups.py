"""Whether the groups are what they should be, before anything is measured on them.

**What it measures.** Smallest, commonest and largest group (`group_size_min`, `group_size_mode`, `group_size_max`), and
the shares of groups with a single rollout, with more than one prompt, that look like several groups merged into
one, and that have fewer rollouts than the commonest size.

**Why it matters.** A wrong group key degrades every group metric without an error.

**How to read it.** All groups should have one size. Near-all singletons: the prompt differs from rollout to rollout.
Sizes that are multiples of the commonest one: a prompt comes twice, or images were stripped from it.

**Reference.** metrics section 2.
"""

from collections.abc import Iterator

from gapscope.metrics.base import Context, Example, Metric, Ratio, counted, measure_ratios, unobserved
from gapscope.report import Measurement

SIZES = """
SELECT min(n), arg_max(n, (times, -n)), max(n), coalesce(sum(times), 0)::BIGINT
FROM (
    SELECT n, count(*) AS times FROM all_groups
    WHERE in_scope AND standing IN ('eligible', 'correctness_undefined', 'partial_correctness')
    GROUP BY n
)
"""


def _share(name: str, condition: str, of: str = "groups", where: str = "origin <> 'none'") -> Ratio:
    return Ratio(
        name,
        x=f"({condition})::INTEGER",
        m="1",
        source="all_groups",
        where=where,
        of=of,
        interval="none",
        level="groups",
        better="lower",
        empty="the log has no group key",
        need="group_id",
    )


RATIOS = (
    _share("group_singleton_rate", "n = 1"),
    _share("group_mixed_prompt_rate", "standing = 'mixed_prompt'"),
    _share("group_merged_suspect_rate", "standing = 'merged'"),
    _share(
        "group_short_rate",
        "n < expected_size",
        "groups of two or more",
        "standing IN ('eligible', 'correctness_undefined', 'partial_correctness')",
    ),
)


def measure(context: Context) -> Iterator[Measurement]:
    """Sizes, then the shares of groups with something wrong."""
    smallest, mode, largest, groups = context.store.rows(SIZES)[0]
    for what, size in (("min", smallest), ("mode", mode), ("max", largest)):
        name = f"group_size_{what}"
        if groups:
            yield counted(name, size, "groups of two or more", n=groups)
        else:
            setting = context.advice.get("group_id")
            yield unobserved(name, "groups of two or more", "no group of two or more", setting, unit="count")
    yield from measure_ratios(context, RATIOS, excluded={})


METRIC = Metric(
    name="groups",
    question="Are the groups what they should be?",
    keys=("group_size_min", "group_size_mode", "group_size_max", *(ratio.name for ratio in RATIOS)),
    measure=measure,
    doc=__doc__ or "",
    example=Example(
        """
        q1 tool wrong
        q1 -    right
        q1 -    right
        q2 tool wrong
        q2 -    right
        q2 -    right
        q3 -    right
        q4 -    wrong
        q4 -    wrong
        """,
        {
            "group_size_min": 2.0,
            "group_size_mode": 3.0,
            "group_size_max": 3.0,
            "group_singleton_rate": 1 / 4,
            "group_mixed_prompt_rate": 0.0,
            "group_short_rate": 1 / 3,
        },
    ),
)
