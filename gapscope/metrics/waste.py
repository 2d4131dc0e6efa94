"""What was sampled in groups that teach nothing.

**What it measures.** Of all that the policy wrote in eligible groups, the share that it wrote in groups without
signal, by tokens (`wasted_token_share`) and by characters (`wasted_char_share`).

**Why it matters.** Generation is most of the cost of a step; this share of it bought no gradient.

**How to read it.** Tokens are what is paid for; characters are there because most logs hold only text. They are
two metrics, never substituted for one another.

**Reference.** metrics section 5.3.
"""

from collections.abc import Iterator

from gapscope.metrics.base import VERDICTS, Context, Example, Metric, Ratio, Requirement, measure_ratios
from gapscope.report import Measurement

TOKENS = Ratio(
    "wasted_token_share",
    x="CASE WHEN c = 0 OR c = n THEN sampled_tokens ELSE 0 END",
    m="sampled_tokens",
    source="eligible",
    where="sampled_token_rows = n",
    of="tokens that the policy wrote in eligible groups",
    interval="cluster",
    level="rollouts",
    better="lower",
    needs_verdicts=True,
    empty="the log has no token counts",
    need="token_ids",
)
CHARACTERS = TOKENS._replace(
    name="wasted_char_share",
    x="CASE WHEN c = 0 OR c = n THEN sampled_chars ELSE 0 END",
    m="sampled_chars",
    where="TRUE",
    of="characters that the policy wrote in eligible groups",
    empty="no text in eligible groups",
    need=None,
)


def measure(context: Context) -> Iterator[Measurement]:
    """By tokens, then by characters."""
    yield from measure_ratios(context, [TOKENS, CHARACTERS])


METRIC = Metric(
    name="waste",
    question="How much was sampled in groups that teach nothing?",
    keys=("wasted_token_share", "wasted_char_share"),
    measure=measure,
    doc=__doc__ or "",
    requires=(
        Requirement(("wasted_char_share",), ("turns",)),
        Requirement(("wasted_token_share",), ("token_ids", "logprobs")),
        Requirement(("wasted_token_share", "wasted_char_share"), VERDICTS),
    ),
    survivors=True,
    example=Example(
        """
        q1 -    wrong tokens=100 chars=400
        q1 tool wrong tokens=150 chars=500
        q2 -    right tokens=100 chars=400
        q2 tool wrong tokens=150 chars=500
        q3 -    right tokens=100 chars=300
        q3 -    right tokens=100 chars=300
        """,
        {"wasted_token_share": 450 / 700, "wasted_char_share": 1500 / 2400},
    ),
)
