"""Where the policy could have gone on otherwise: entropy as a tool call begins.

**What it measures.** Means over tool-using rollouts, in nats, of the entropy of the distribution that gave a token of
the first call: `tool_entropy_at_tag` at the first token of its opening delimiter, `tool_entropy_after_tag` at the first
token behind it, `tool_entropy_call_mean` on average over all tokens of the call. Where only the likeliest tokens are
known, `…_lower` and `…_upper` are the means of the bounds between which the entropy lies.

**Why it matters.** At the tag the policy decides whether to call; behind it, where AXPO branches, how. Where this
entropy is near 0, a prefix sampled again gives the same call again.

**How to read it.** Compare only what is of one `kind`; the details say which. `full` is over the whole vocabulary; of
calls that have it the value is made, if there are any. `nll` is −ln p of the one token that was sampled: right in the
mean alone, and only where nothing was cut off by top-p or top-k. Kinds are never mixed; the details count the calls of
each, who gave the log-probs, and the share of calls whose tokens were made from text again. Of bounds no value is made.

**Reference.** metrics section 7; arXiv:2605.28774, appendix B.9 (entropy and confidence go together).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from gapscope.metrics.base import Context, Example, Metric, Ratio, Requirement, covered, measure_ratios, nothing_counted
from gapscope.report import Measurement, Scalar

Kind = Literal["full", "topk", "nll"]

# One row per tool-using rollout: its first call's numbers of each kind, NULL where there are none.
CALLS = """
CREATE OR REPLACE TEMP TABLE call_entropies AS
WITH known AS (
    SELECT f.*, r.logprob_source, r.scored_by, f.entropy_sum / nullif(f.entropies, 0) AS entropy_mean
    FROM first_calls AS f JOIN rollouts AS r USING (id)
)
SELECT
    split, run, step, data_source, in_scope, cluster, logprob_source, scored_by, coalesce(retokenised, false) AS remade,
    CASE WHEN entropy_kind = 'full' THEN tag_entropy END AS full_tag,
    CASE WHEN entropy_kind = 'full' THEN after_entropy END AS full_after,
    CASE WHEN entropy_kind = 'full' THEN entropy_mean END AS full_call,
    coalesce(-tag_logprob, CASE WHEN entropy_kind = 'nll' THEN tag_entropy END) AS nll_tag,
    coalesce(-after_logprob, CASE WHEN entropy_kind = 'nll' THEN after_entropy END) AS nll_after,
    coalesce(-logprob_sum / nullif(scored, 0), CASE WHEN entropy_kind = 'nll' THEN entropy_mean END) AS nll_call,
    CASE WHEN entropy_kind = 'topk' THEN tag_entropy END AS topk_tag,
    CASE WHEN entropy_kind = 'topk' THEN after_entropy END AS topk_after,
    CASE WHEN entropy_kind = 'topk' AND tag_entropy IS NOT NULL THEN tag_upper END AS topk_tag_upper,
    CASE WHEN entropy_kind = 'topk' AND after_entropy IS NOT NULL THEN after_upper END AS topk_after_upper,
    coalesce(full_tag, full_after, full_call) IS NOT NULL AS is_full,
    coalesce(nll_tag, nll_after, nll_call) IS NOT NULL AS is_nll,
    coalesce(topk_tag, topk_after) IS NOT NULL AS is_topk
FROM known
"""
VALUES = (
    "full_tag", "full_after", "full_call", "nll_tag", "nll_after", "nll_call",
    "topk_tag", "topk_after", "topk_tag_upper", "topk_after_upper",
)  # fmt: skip
# One row per group.
BY_GROUP = """
CREATE OR REPLACE TEMP TABLE boundary_entropy AS
SELECT split, run, step, data_source, in_scope, {columns}
FROM call_entropies
GROUP BY split, run, step, data_source, in_scope, cluster
""".format(columns=", ".join(f"sum({value}) AS {value}, count({value}) AS n_{value}" for value in VALUES))
COUNTS = """
SELECT
    count(*) FILTER (is_full), count(*) FILTER (is_topk), count(*) FILTER (is_nll), count(*),
    count(topk_tag) - count(topk_tag_upper), count(topk_after) - count(topk_after_upper)
FROM call_entropies WHERE in_scope
"""
SOURCES = """
SELECT coalesce(logprob_source, 'unknown'), scored_by, count(*), count(*) FILTER (remade)
FROM call_entropies WHERE in_scope AND {known}
GROUP BY ALL ORDER BY ALL
"""


class Found(NamedTuple):
    """First calls with numbers of each kind, all of them, and those of kind `topk` without an upper bound."""

    full: int
    topk: int
    nll: int
    tool_using: int
    unbounded_tag: int
    unbounded_after: int

    @property
    def kind(self) -> Kind:
        """The kind that values are made of."""
        return "full" if self.full else "nll"

    @property
    def counts(self) -> dict[str, Scalar]:
        """How many calls have numbers of each kind; one may have several."""
        return {"calls_full": self.full, "calls_topk": self.topk, "calls_nll": self.nll}


def measure(context: Context) -> Iterator[Measurement]:
    """Values of the best kind that there is, then the bounds."""
    store = context.store
    found = Found(0, 0, 0, context.tool_using, 0, 0)
    if context.spelled:
        store.execute(CALLS)
        store.execute(BY_GROUP)
        found = Found(*store.rows(COUNTS)[0])
    kinds: tuple[Kind, ...] = (found.kind, "topk")
    sources = {kind: store.rows(SOURCES.format(known=f"is_{kind}")) if context.spelled else [] for kind in kinds}
    origins = {kind: _Origin.of(kind, rows) for kind, rows in sources.items()}
    reason, setting = _why_no_value(context, found)
    ratios = [
        _mean("tool_entropy_at_tag", f"{found.kind}_tag", reason, setting),
        _mean("tool_entropy_after_tag", f"{found.kind}_after", reason, setting),
        _mean("tool_entropy_call_mean", f"{found.kind}_call", reason, setting),
    ]
    ratios += [ratio for place in ("tag", "after") for ratio in _bounds(context, found, place)]
    nothing = (nothing_counted(context, ratio) for ratio in ratios)
    for ratio, measured in zip(ratios, measure_ratios(context, ratios) if context.spelled else nothing, strict=True):
        kind: Kind = "topk" if ratio.x.startswith("topk") else found.kind
        details = {**measured.details, "kind": kind if measured.n else None, **found.counts}
        if measured.n:
            details |= origins[kind].details
        measured = measured.model_copy(update={"details": details})  # noqa: PLW2901
        yield origins[kind].annotated(covered(context, measured, measured.n, found.tool_using))


def _why_no_value(context: Context, found: Found) -> tuple[str, str | None]:
    if not found.tool_using:
        return "no rollout used a tool", None
    if found.full or found.nll:
        return "no call has a number at this place", None
    if found.topk:
        return "only the likeliest tokens are known: there are bounds, and no value", context.advice.get("logprobs")
    return context.unscored


def _bounds(context: Context, found: Found, place: Literal["tag", "after"]) -> Iterator[Ratio]:
    name = f"tool_entropy_{'at' if place == 'tag' else 'after'}_tag"
    reason, setting = "the log has no entropies of kind topk", context.advice.get("entropies")
    if not found.tool_using:
        reason, setting = "no rollout used a tool", None
    elif found.full and not found.topk:
        reason, setting = f"entropies are over the whole vocabulary: see {name}", None
    yield _mean(f"{name}_lower", f"topk_{place}", reason, setting)
    unbounded = found.unbounded_tag if place == "tag" else found.unbounded_after
    if unbounded:
        # A mean over some of the calls would be no bound of the mean over all.
        calls = "1 call of kind topk has" if unbounded == 1 else f"{unbounded:,} calls of kind topk have"
        reason, setting = f"{calls} no upper bound: the vocabulary's size is not known", None
    upper = _mean(f"{name}_upper", f"topk_{place}_upper", reason, setting)
    yield upper._replace(where="FALSE") if unbounded else upper


def _mean(name: str, value: str, reason: str, setting: str | None) -> Ratio:
    return Ratio(
        name,
        x=value,
        m=f"n_{value}",
        source="boundary_entropy",
        of="tool-using rollouts with entropies",
        interval="cluster",
        level="rollouts",
        unit="nats",
        empty=reason,
        setting=setting,
        real=True,
    )


class _Origin(NamedTuple):
    """Who gave the numbers of one kind: calls by the source of their log-probs, and what else there is to say."""

    sources: Mapping[str, int]
    details: dict[str, Scalar]

    @classmethod
    def of(cls, kind: Kind, rows: Sequence[tuple[str, str | None, int, int]]) -> "_Origin":
        calls = sum(count for *_, count, _ in rows)
        details: dict[str, Scalar] = {"retokenised_share": sum(row[3] for row in rows) / calls if calls else None}
        sources: dict[str, int] = {}
        if kind != "full":
            # Entropies over the whole vocabulary are the trainer's own, whoever gave the log-probs.
            for source, _, count, _ in rows:
                sources[source] = sources.get(source, 0) + count
            details |= {f"calls_{source}": count for source, count in sources.items()}
            models = sorted({model for _, model, _, _ in rows if model is not None})
            details["scored_by"] = ", ".join(models) or None
        return cls(sources, details)

    def annotated(self, measured: Measurement) -> Measurement:
        """The same, marked where log-probs of the engine and of a model that scored afterwards are put together."""
        if measured.status != "observed" or len(self.sources) < 2:
            return measured
        parts = " and ".join(f"{source} ({count:,})" for source, count in self.sources.items())
        return measured.model_copy(update={"status": "annotated", "reason": f"log-probs of several sources: {parts}"})


POINTS = ("tool_entropy_at_tag", "tool_entropy_after_tag", "tool_entropy_call_mean")
BOUNDS = (
    "tool_entropy_at_tag_lower", "tool_entropy_at_tag_upper", "tool_entropy_after_tag_lower",
    "tool_entropy_after_tag_upper",
)  # fmt: skip
METRIC = Metric(
    name="boundary_entropy",
    question="Could the policy have gone on otherwise where its tool call begins?",
    keys=(*POINTS, *BOUNDS),
    measure=measure,
    doc=__doc__ or "",
    requires=(
        Requirement(POINTS, ("entropies", "logprobs")),
        Requirement(BOUNDS, ("entropies",)),
        Requirement((*POINTS, *BOUNDS), ("tool_calls",)),
    ),
    example=Example(
        """
        q1 tool wrong probs=0.5,0.5,0.5 entropies=0.2,1.0,0.6
        q1 tool right think=0.9 probs=0.5,0.5,0.5 entropies=2.0,0.4,0.4,0.1
        q1 -    wrong after=0.5 entropies=3.0
        q2 tool wrong probs=0.5,0.25,0.5
        q2 tool wrong probs=0.5,0.5,0.5 entropies=0.6,0.3,0.1 uppers=1.0,0.5,0.2 kind=topk
        q2 tool right probs=0.5,0.5,0.5 entropies=0.8,0.1,0.1 uppers=1.4,0.3,0.2 kind=topk
        q2 tool right
        """,
        {
            "tool_entropy_at_tag": (0.2 + 0.4) / 2,
            "tool_entropy_after_tag": (1.0 + 0.4) / 2,
            "tool_entropy_call_mean": (0.6 + 0.3) / 2,
            "tool_entropy_at_tag_lower": (0.6 + 0.8) / 2,
            "tool_entropy_at_tag_upper": (1.0 + 1.4) / 2,
            "tool_entropy_after_tag_lower": (0.3 + 0.1) / 2,
            "tool_entropy_after_tag_upper": (0.5 + 0.3) / 2,
        },
    ),
)
