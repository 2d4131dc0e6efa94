"""Where tool calls branch off: the frozen beginning of each call, and how sure the policy was of what followed.

The branch point is behind the opening delimiter of a call (axpo, section 2.2; arXiv:2605.28774, section 3.1). The first
attempted call is the one that AXPO branches at; later ones are listed and marked. A prefix is `token_exact` where its
token ids were logged and it is known which of them are the prefix; any other would have to be made from text.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

from gapscope.config import Settings
from gapscope.correctness import decide
from gapscope.ingest import Logs, paths_of, store_of
from gapscope.plan_options import Mean, Span
from gapscope.planning import ReadOptions
from gapscope.plans import Unusable

if TYPE_CHECKING:
    import polars as pl

    from gapscope.store.store import Store

Exactness = Literal["token_exact", "text_retokenised"]


class Confidence(NamedTuple):
    """Which confidence ranks prefixes (axpo, section 2.4); the defaults are the reading closest to the paper."""

    span: Span = "first_call_with_tags"
    mean: Mean = "arithmetic"
    require_closed: bool = True


LITERAL = Confidence()
"""The reading that is closest to the paper."""


class Prefix(NamedTuple):
    """The beginning of one rollout up to and with the opening delimiter of one of its calls.

    `id` is the rollout's row in the store, `cluster` its group inside run, split and step, `file` and `line` where it
    was read. `number` counts the calls of a rollout outside thinking, from 1, and `first` marks the branch point that
    AXPO uses. `characters` of the output and `tokens` of the whole come before the branch point. `hash` is of the token
    ids of a `token_exact` prefix and else of its text, and `siblings` counts the other rollouts of the group that have
    the same one, as branched rollouts do.

    `confidence` is the mean probability of the call's tokens, in [0, 1]. `entropy` (nats) is that of the distribution
    behind the delimiter: for kind `topk` the lower bound of [`entropy`, `entropy_upper`], for kind `nll` only −ln p of
    what was sampled. `unusable` says why the prefix cannot be ranked or branched from; null if it can.
    """

    id: int
    cluster: int
    run: str | None
    step: int | None
    group_id: str | None
    rollout_id: str | None
    sample_index: int | None
    file: str
    line: int
    call: int
    number: int
    first: bool
    tool: str | None
    outcome: str
    correct: bool | None
    exactness: Exactness
    hash: int | None
    siblings: int
    characters: int | None
    tokens: int | None
    confidence: float | None
    entropy: float | None
    entropy_upper: float | None
    entropy_kind: str | None
    unusable: Unusable | None


# In the order of the calls, so that the sum has the same last bit whatever the order of the rows.
_ALL = "OVER (PARTITION BY c.id ORDER BY c.call ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)"
_SUMS = {
    "first_call_with_tags": ("t.prob_sum", "t.logprob_sum", "t.scored"),
    "first_call_no_tags": ("t.body_prob_sum", "t.body_logprob_sum", "t.body_scored"),
    "all_calls": (f"sum(t.prob_sum) {_ALL}", f"sum(t.logprob_sum) {_ALL}", f"sum(t.scored) {_ALL}"),
}
_MEANS = {"arithmetic": "{probs} / nullif({scored}, 0)", "geometric": "exp({logprobs} / nullif({scored}, 0))"}

_PREFIXES = """
WITH attempted AS (
    SELECT
        c.id, g.cluster, g.run, g.step, r.group_id, r.rollout_id, r.sample_index, f.path, r.line, c.call,
        row_number() OVER (PARTITION BY a.id ORDER BY o.output_index, c.call) AS number, c.name, c.outcome,
        a.correct, t.prefix_hash IS NOT NULL AND NOT coalesce(r.retokenised, false) AS exact,
        t.prefix_hash, c.text_prefix_hash, c.body_start, t.branch, {confidence} AS confidence,
        CASE WHEN t.after_entropy IS NOT NULL THEN r.entropy_kind WHEN t.after_logprob IS NOT NULL THEN 'nll' END
            AS kind,
        coalesce(t.after_entropy, -t.after_logprob) AS entropy, t.after_upper, t.mixed, c.closed,
        t.id IS NULL AND r.logprob_tokens > 0 AS unknown
    FROM calls AS c JOIN outputs AS o USING (id) JOIN attempts AS a ON a.id = o.attempt
        JOIN all_groups AS g USING (cluster) JOIN rollouts AS r ON r.id = c.id JOIN files AS f USING (file)
        LEFT JOIN call_tokens AS t ON t.id = c.id AND t.call = c.call
    WHERE NOT c.in_think AND g.in_scope
),
named AS (
    SELECT *, CASE WHEN exact THEN prefix_hash ELSE text_prefix_hash END AS hash FROM attempted
)
SELECT
    id, cluster, run, step, group_id, rollout_id, sample_index, path, line, call, number, number = 1 AS first,
    name AS tool, outcome, correct, CASE WHEN exact THEN 'token_exact' ELSE 'text_retokenised' END AS exactness, hash,
    CASE WHEN hash IS NULL THEN 0 ELSE (count(*) OVER (PARTITION BY cluster, exact, hash)) - 1 END AS siblings,
    body_start AS characters, branch AS tokens, confidence, entropy, after_upper, kind,
    CASE
        WHEN mixed THEN 'boundary_token_mixed'
        WHEN NOT closed AND $require_closed THEN 'unclosed'
        WHEN unknown THEN 'calls_unaligned'
        WHEN confidence IS NULL THEN 'no_logprobs'
    END AS unusable
FROM named
"""


def prefix_query(confidence: Confidence) -> str:
    """The query for all prefixes, in no order; it takes the value `require_closed`."""
    probs, logprobs, scored = _SUMS[confidence.span]
    return _PREFIXES.format(confidence=_MEANS[confidence.mean].format(probs=probs, logprobs=logprobs, scored=scored))


def prefixes_in(store: "Store", confidence: Confidence = LITERAL) -> Iterator[Prefix]:
    """The prefixes of all tool-using rollouts of a store, in the order of the log; `store.prepare` was called."""
    query = f"{prefix_query(confidence)} ORDER BY step, path, line, id, call"
    for row in store.rows(query, require_closed=confidence.require_closed):
        yield Prefix(*row)


def prefixes(
    logs: Logs,
    *,
    confidence: Confidence = LITERAL,
    correct: str | None = None,
    tokenizer: str | None = None,
    settings: Settings | None = None,
) -> "pl.DataFrame":
    """The prefixes of all tool-using rollouts of logs or of a store, one row each, with the columns of `Prefix`.

    `correct` is a rule and `tokenizer` a file or folder, both as `audit` takes them.

    Raises:
        GapscopeError: as `audit` does.

    """
    import polars as pl

    settings = settings or Settings.load()
    options = ReadOptions.under(settings, tokenizer=tokenizer)
    with store_of(paths_of(logs), options, tokenizer=tokenizer) as store:
        decide(store, correct if correct is not None else settings.correct)
        store.prepare()
        types = {"cluster": pl.UInt64, "confidence": pl.Float64, "entropy": pl.Float64, "entropy_upper": pl.Float64}
        return pl.DataFrame(
            prefixes_in(store, confidence),
            schema=list(Prefix._fields),
            schema_overrides=types,
            orient="row",
            infer_schema_length=None,
        )
