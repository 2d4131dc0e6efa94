"""What became of the rows of the log.

**What it measures.** Rows read (`rows_total`), refused (`rows_malformed`), left out as padding (`rows_padding`),
because the log itself says that they count for nothing (`rows_excluded`), as duplicates (`rows_duplicate`), or as
continuations that were resampled from others (`rows_continuations`), and rollouts whose text another one of their group
has as well (`rows_same_text`).

**Why it matters.** Padding rows look like one more all-wrong group a step; duplicates of a resumed run count twice.

**How to read it.** read = kept + refused + padding + excluded + duplicate + continuations. Rollouts with the same text
are kept: at a low temperature that is legitimate.

**Reference.** metrics sections 1 and 2.
"""

from collections.abc import Iterator

from gapscope.metrics.base import Context, Example, Metric, Requirement, counted
from gapscope.report import Measurement

ROWS = """
SELECT
    (SELECT count(*) FROM rollouts) + (SELECT count(*) FROM refused),
    (SELECT count(*) FROM refused),
    (SELECT count(*) FROM rollouts WHERE status = 'padding'),
    (SELECT count(*) FROM rollouts WHERE status = 'excluded'),
    (SELECT count(*) FROM duplicates),
    (SELECT count(*) FROM left_out_continuations),
    (SELECT coalesce(sum(same_text), 0) FROM all_groups)
"""
KEYS = (
    "rows_total", "rows_malformed", "rows_padding", "rows_excluded", "rows_duplicate", "rows_continuations",
    "rows_same_text",
)  # fmt: skip

_NEITHER = {"rows_total", "rows_continuations"}
"""Of which neither many nor few are good."""


def measure(context: Context) -> Iterator[Measurement]:
    """The counts, over all rows of all splits."""
    counts = [int(count) for count in context.store.rows(ROWS)[0]]
    for name, count in zip(KEYS, counts, strict=True):
        yield counted(name, count, "rows", n=counts[0], better=None if name in _NEITHER else "lower")


METRIC = Metric(
    name="rows",
    question="What became of the rows of the log?",
    keys=KEYS,
    measure=measure,
    doc=__doc__ or "",
    requires=(Requirement(("rows_same_text",), ("turns",)),),
    example=Example(
        """
        q1 tool wrong
        q1 -    right
        q1 -    right rollout_id=twice
        q1 -    right rollout_id=twice
        q1 -    wrong status=padding
        q1 tool right status=excluded
        q2 -    wrong
        """,
        {"rows_total": 7.0, "rows_malformed": 0.0, "rows_padding": 1.0, "rows_excluded": 1.0, "rows_duplicate": 1.0},
    ),
)
