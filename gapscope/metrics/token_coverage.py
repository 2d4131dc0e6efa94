"""How much of what the numbers about tokens need is there.

**What it measures.** Shares of the tool-using rollouts, by their first call. `logprob_coverage`: it has log-probs.
`entropy_coverage`: it has entropies over the whole vocabulary, or bounds of them from the likeliest tokens.
`alignment_coverage`: of those with tokens, it is known which tokens are the call. `prefix_exact_share`: the tokens up
to its branch point are known as they were sampled, so that it can be sampled again from exactly there.

**Why it matters.** What is left out need not be like the rest: a confidence over half of the calls may be that of the
short ones. And AXPO continues tokens: a prefix that is made of text again may be another one for the model.

**How to read it.** The details count what is missing by its reason. `no_tokenizer`, `unknown_ids`, `other_text`,
`other_turns` and `other_calls` say why tokens and text could not be brought together, `call_not_in_tokens` that this
was possible but for the call, `boundary_token_mixed` that the last token of the opening delimiter is also text of the
call, `no_token_ids` that its tokens or those of the prompt are not logged as ids, `retokenised` that their ids were
made from text.

**Reference.** metrics section 7 (coverage, kinds of entropy); axpo section 2.2 (branch point, exact prefixes).
"""

from collections.abc import Iterator

from gapscope.alignment import ALIGNED
from gapscope.metrics.base import Context, Example, Metric, Ratio, Requirement, measure_ratios
from gapscope.report import Measurement

KEYS = ("logprob_coverage", "alignment_coverage", "entropy_coverage", "prefix_exact_share")

# Per tool-using rollout and key why it does not count, NULL where it does; those of a group that lack the same as one.
LACKING = """
CREATE OR REPLACE TEMP TABLE lacking AS
WITH first AS (
    SELECT
        cluster, logprob_tokens, entropy_tokens, scored, entropies, entropy_kind, mixed, prefix_hash, retokenised,
        alignment = 'no_tokens' AS tokenless,
        CASE
            WHEN alignment NOT IN $aligned THEN alignment
            WHEN token_start IS NULL THEN 'call_not_in_tokens'
        END AS unplaced
    FROM first_calls
)
SELECT
    cluster, tokenless,
    CASE
        WHEN tokenless THEN 'no_tokens'
        WHEN coalesce(logprob_tokens, 0) = 0 THEN 'no_logprobs'
        WHEN unplaced IS NOT NULL THEN unplaced
        WHEN scored = 0 THEN 'no_logprobs_of_the_call'
    END AS logprob_coverage,
    unplaced AS alignment_coverage,
    CASE
        WHEN tokenless THEN 'no_tokens'
        WHEN coalesce(entropy_tokens, 0) = 0 THEN 'no_entropies'
        WHEN entropy_kind NOT IN ('full', 'topk') THEN 'one_sample_estimates'
        WHEN unplaced IS NOT NULL THEN unplaced
        WHEN entropies = 0 THEN 'no_entropies_of_the_call'
    END AS entropy_coverage,
    CASE
        WHEN unplaced IS NOT NULL THEN unplaced
        WHEN mixed THEN 'boundary_token_mixed'
        WHEN prefix_hash IS NULL THEN 'no_token_ids'
        WHEN retokenised THEN 'retokenised'
    END AS prefix_exact_share,
    count(*) AS rollouts
FROM first
GROUP BY ALL
"""
# One row per group.
BY_GROUP = """
CREATE OR REPLACE TEMP TABLE token_coverage AS
SELECT
    split, run, step, data_source, in_scope, {columns}, sum(rollouts) AS tool_using,
    coalesce(sum(rollouts) FILTER (NOT tokenless), 0) AS with_tokens
FROM lacking JOIN all_groups USING (cluster)
GROUP BY split, run, step, data_source, in_scope, cluster
""".format(columns=", ".join(f"coalesce(sum(rollouts) FILTER ({key} IS NULL), 0) AS {key}" for key in KEYS))


def _ratio(key: str) -> Ratio:
    aligned = key == "alignment_coverage"
    return Ratio(
        key,
        x=key,
        m="with_tokens" if aligned else "tool_using",
        source="token_coverage",
        of="tool-using rollouts with tokens" if aligned else "tool-using rollouts",
        interval="cluster",
        level="rollouts",
        better="higher",
        empty="no tool-using rollout has tokens" if aligned else "no rollout used a tool",
        need="token_ids" if aligned else None,
    )


RATIOS = tuple(_ratio(key) for key in KEYS)


def measure(context: Context) -> Iterator[Measurement]:
    """Each share, with what is missing by its reason."""
    context.store.execute(LACKING, aligned=ALIGNED)
    context.store.execute(BY_GROUP)
    for measured in measure_ratios(context, RATIOS):
        reasons = dict(context.store.rows(_reasons(measured.name)))
        excluded = {}
        if measured.name == "alignment_coverage" and (tokenless := reasons.pop("no_tokens", 0)):
            excluded["no_tokens"] = tokenless
        yield measured.model_copy(update={"details": {**measured.details, **reasons}, "excluded": excluded})


def _reasons(key: str) -> str:
    return f"""
        SELECT {key}, sum(rollouts)::BIGINT FROM lacking JOIN all_groups USING (cluster)
        WHERE in_scope AND {key} IS NOT NULL GROUP BY {key} ORDER BY {key}
    """  # noqa: S608


METRIC = Metric(
    name="token_coverage",
    question="How much of what numbers about tokens need is there?",
    keys=KEYS,
    measure=measure,
    doc=__doc__ or "",
    requires=(Requirement(KEYS, ("tool_calls",)), Requirement(("alignment_coverage",), ("token_ids", "logprobs"))),
    example=Example(
        """
        q1 tool wrong probs=0.9,0.5,0.1 entropies=0.2,0.5,0.9
        q1 tool right probs=0.9,0.9,0.9
        q1 -    wrong after=0.2,0.2 entropies=0.3,0.3
        q2 tool wrong probs=0.6,0.6,0.6 entropies=0.5,0.5,0.5 kind=nll
        q2 tool wrong tokens=5
        q2 tool wrong
        q2 -    right
        """,
        {
            "logprob_coverage": 3 / 5,
            "alignment_coverage": 3 / 4,
            "entropy_coverage": 1 / 5,
            "prefix_exact_share": 3 / 5,
        },
    ),
)
