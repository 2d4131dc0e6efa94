"""How far the engine that sampled and the trainer disagree about the tokens that were sampled.

**What it measures.** Both give a log-prob to the same sampled tokens. `logprob_mismatch_share[d]` is the share of these
at which the two are more than d nats apart, `logprob_mismatch_max` the largest difference in nats, and
`logprob_mismatch_rollout_share` the share of rollouts with any token more than 1 nat apart.

**Why it matters.** The trainer weighs each token by the ratio of the two probabilities, which is e^d. A mean over a
million tokens near 0 hides the few at which that ratio explodes, and the images or the tool result that one of the two
did not see; in tails they show. Trainers watch the largest (TRL's `sampling/sampling_logp_difference/max`) or correct
for them (verl's rollout correction).

**How to read it.** Kernels of lower precision differ by hundredths of a nat. A token 1 nat apart is weighed 2.7 times
too much or too little; many such rollouts mean that engine and trainer do not run the same model, template or weights.
The largest difference grows with the number of tokens. Tokens that the policy did not write count for nothing, and
rollouts that a model has re-scored neither: theirs are not the log-probs of the engine.

**Reference.** metrics sections 7 and 12; huggingface/trl issue 6789; verl-project/verl pull 5229.
"""

from collections.abc import Iterator
from math import log

from gapscope.metrics.base import (
    Context,
    Example,
    Metric,
    Ratio,
    Requirement,
    judge_evidence,
    measure_ratios,
    unobserved,
)
from gapscope.report import Measurement, Scalar

SETTING = (
    "prime-rl with `trainer.enable_token_export=true`, SkyRL with `trainer.dump_data_batch=true` and "
    "`generator.sampling_params.logprobs`, and NeMo-RL in `train_data_step*.jsonl` log both"
)
"""The trainers whose logs hold both; which one wrote this log does not matter, because no other says it."""

# One row per group in which some rollout has tokens with both.
BY_GROUP = """
CREATE OR REPLACE TEMP TABLE mismatches AS
SELECT
    g.split, g.run, g.step, g.data_source, g.in_scope, sum(m.tokens)::BIGINT AS tokens,
    sum(over_0_01)::BIGINT AS over_0_01, sum(over_0_1)::BIGINT AS over_0_1, sum(over_1)::BIGINT AS over_1,
    max(largest) AS largest, count(*) AS rollouts, count(*) FILTER (over_1 > 0) AS far_rollouts
FROM logprob_mismatch AS m JOIN rollouts AS r USING (id) JOIN outputs AS o USING (id)
    JOIN attempts AS a ON a.id = o.attempt JOIN all_groups AS g USING (cluster)
WHERE r.logprob_source IS DISTINCT FROM 'rescored'
GROUP BY g.split, g.run, g.step, g.data_source, g.in_scope, cluster
"""
TOTALS = """
SELECT
    coalesce(sum(tokens), 0)::BIGINT, coalesce(sum(rollouts), 0)::BIGINT, max(largest),
    (SELECT count(*) FROM attempts WHERE in_scope)
FROM mismatches WHERE in_scope
"""
LARGEST = """
SELECT step, max(largest), sum(tokens)::BIGINT FROM mismatches
WHERE in_scope AND step IS NOT NULL GROUP BY step ORDER BY step
"""

TOKENS = Ratio(
    "logprob_mismatch_share[1]",
    x="over_1",
    m="tokens",
    source="mismatches",
    of="sampled tokens with both log-probs",
    interval="cluster",
    level="rollouts",
    better="lower",
    empty="the log does not hold the log-probs of both the engine and the trainer",
    setting=SETTING,
)
RATIOS = (
    TOKENS._replace(name="logprob_mismatch_share[0.01]", x="over_0_01"),
    TOKENS._replace(name="logprob_mismatch_share[0.1]", x="over_0_1"),
    TOKENS,
    TOKENS._replace(
        name="logprob_mismatch_rollout_share", x="far_rollouts", m="rollouts", of="rollouts with both log-probs"
    ),
)
LARGEST_KEY = "logprob_mismatch_max"


def measure(context: Context) -> Iterator[Measurement]:
    """The tails, from the nearest to the farthest, then the largest."""
    context.store.execute(BY_GROUP)
    tokens, rollouts, largest, everything = context.store.rows(TOTALS)[0]
    for measured in measure_ratios(context, RATIOS):
        yield _judged(context, measured, rollouts, everything)
    if not tokens:
        yield unobserved(LARGEST_KEY, TOKENS.of, TOKENS.empty, SETTING, unit="nats", better="lower")
        return
    steps = context.store.rows(LARGEST)
    found = Measurement(
        name=LARGEST_KEY,
        value=largest,
        n=tokens,
        of=TOKENS.of,
        interval_method="none",
        unit="nats",
        better="lower",
        table=[{"step": step, "value": value, "n": n, "lo": None, "hi": None} for step, value, n in steps],
    )
    yield _judged(context, found, rollouts, everything)


def _judged(context: Context, measured: Measurement, rollouts: int, everything: int) -> Measurement:
    """Tokens of one rollout are alike: what counts is how many rollouts they are of, and of how many they are not."""
    if measured.value is None:
        return measured
    status, reason = judge_evidence(context, rollouts, "rollouts")
    coverage = rollouts / everything
    if status == "observed" and coverage < context.evidence.coverage:
        status, reason = "annotated", f"only {rollouts:,} of {everything:,} rollouts have both log-probs"
    details: dict[str, Scalar] = {**measured.details, "rollouts": rollouts, "coverage": coverage}
    return measured.model_copy(update={"status": status, "reason": reason, "details": details})


_KEYS = ("logprob_mismatch_share[]", LARGEST_KEY, "logprob_mismatch_rollout_share")

METRIC = Metric(
    name="logprob_mismatch",
    question="Do engine and trainer agree about the tokens that were sampled?",
    keys=_KEYS,
    measure=measure,
    doc=__doc__ or "",
    requires=(Requirement(_KEYS, ("logprobs",)),),
    # In nats: 0, 0.051 and 0; 0, 1.61 and 0; 0.0202, 0 and 0; 0, 0.105 and 0.105.
    example=Example(
        """
        q1 tool wrong probs=0.5,0.4,0.9 trainer=0.5,0.38,0.9
        q1 tool right probs=0.5,0.5,0.9 trainer=0.5,0.1,0.9
        q1 tool right probs=0.9,0.9,0.9
        q2 tool wrong probs=0.5,0.4,0.9 trainer=0.49,0.4,0.9
        q2 -    right after=0.5,0.9,0.9 trainer=0.5,0.81,0.81
        q2 -    wrong
        """,
        {
            "logprob_mismatch_share[0.01]": 5 / 12,
            "logprob_mismatch_share[0.1]": 3 / 12,
            "logprob_mismatch_share[1]": 1 / 12,
            LARGEST_KEY: log(5),
            "logprob_mismatch_rollout_share": 1 / 4,
        },
    ),
)
