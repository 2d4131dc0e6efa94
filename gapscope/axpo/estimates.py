"""What running a plan would cost, by what rollouts of the planned steps did from their branch points on.

Nothing is assumed: each expectation is a mean over the log, and there is none where the log does not tell. Tool-using
rollouts are averaged whether they are correct or not, and whether their groups trigger or not.
"""

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple

from gapscope.axpo.candidates import Candidate
from gapscope.axpo.plan import Draft

if TYPE_CHECKING:
    from gapscope.store.store import Store

Unit = Literal["tokens", "characters"]

FEWEST = 20
"""A tool with fewer rollouts than this gets the mean of all tools together."""


class Mean(NamedTuple):
    """A mean over `n` tool-using rollouts."""

    value: float
    n: int


class Behind(NamedTuple):
    """What rollouts with a branch point did behind it: `sampled`, of the plan's unit, and calls that were `executed`.

    None where no rollout tells.
    """

    sampled: Mean | None
    executed: Mean | None


class Cost(NamedTuple):
    """What prefixes would cost: `prefill` once for each, and what is expected of all their continuations together.

    `prefill` and `sampled` are in the unit of the estimates: tokens of prompt and output, or characters of the output
    alone. `executed` counts tool calls. None where it is not known for each of them.
    """

    prefill: int | None
    sampled: float | None
    executed: float | None


class Estimates(NamedTuple):
    """What is expected of continuations, `k` for each prefix.

    `tools` holds the means of tools with at least 20 rollouts, and `pooled` those of all. `logged` is what all
    `rollouts` of the planned steps sampled, in the same unit; None where it is not known of each.
    """

    unit: Unit
    k: int
    tools: dict[str | None, Behind]
    pooled: Behind
    logged: int | None
    rollouts: int

    def behind(self, tool: str | None) -> Behind:
        """The means that hold for a prefix that ends in a call of this tool."""
        return self.tools.get(tool, self.pooled)

    def cost(self, prefixes: Collection[Candidate]) -> Cost:
        """What these prefixes would cost."""
        behind = [self.behind(prefix.tool) for prefix in prefixes]
        known = _known(prefix.tokens if self.unit == "tokens" else prefix.characters for prefix in prefixes)
        sampled = _known(each.sampled and each.sampled.value for each in behind)
        executed = _known(each.executed and each.executed.value for each in behind)
        return Cost(
            prefill=None if known is None else int(sum(known)),
            sampled=None if sampled is None else self.k * sum(sampled),
            executed=None if executed is None else self.k * sum(executed),
        )

    def share(self, cost: Cost) -> float | None:
        """What is expected to be sampled, as a share of what the planned steps sampled."""
        return cost.sampled / self.logged if cost.sampled is not None and self.logged else None


def _known(values: Iterable[float | None]) -> list[float] | None:
    """The values if there is none missing."""
    listed = list(values)
    found = [value for value in listed if value is not None]
    return found if len(found) == len(listed) else None


class _Row(NamedTuple):
    """Rollouts by the tool that they branch at, and sums over those of which something is known."""

    tool: str | None
    n: int
    token_rows: int
    tokens: int
    character_rows: int
    characters: int
    executed: int


def estimated(store: "Store", draft: Draft) -> Estimates:
    """What continuations are expected to cost; the draft was made of this store."""
    options = draft.header.options
    uses = {"attempted": "calls", "parsed": "parsed_calls", "executed": "executed_calls"}[options.tool_using]
    number = 1 if options.branch_call == "first" else options.branch_call
    rows = [_Row(*row) for row in store.rows(_BEHIND.format(uses=uses), number=number)]
    in_tokens = all(each.candidate.tokens is not None for each in draft.chosen)
    unit: Unit = "tokens" if in_tokens else "characters"
    ((rollouts, told, tokens, characters),) = store.rows(_LOGGED)
    return Estimates(
        unit=unit,
        k=options.k,
        tools={row.tool: _behind([row], unit) for row in rows if row.n >= FEWEST},
        pooled=_behind(rows, unit),
        logged=characters if not in_tokens else tokens if told == rollouts else None,
        rollouts=rollouts,
    )


def _behind(rows: list[_Row], unit: Unit) -> Behind:
    if unit == "tokens":
        known, sampled = sum(row.token_rows for row in rows), sum(row.tokens for row in rows)
    else:
        known, sampled = sum(row.character_rows for row in rows), sum(row.characters for row in rows)
    n, executed = sum(row.n for row in rows), sum(row.executed for row in rows)
    return Behind(_mean(sampled, known), _mean(executed, n))


def _mean(total: int, n: int) -> Mean | None:
    return Mean(total / n, n) if n else None


# A session's rows are one rollout: what comes after the row with the branch point is behind it as well.
_BEHIND = """
WITH members AS (
    SELECT o.attempt, o.id, o.output_index, r.sampled_tokens, r.sampled_chars, r.{uses} AS uses
    FROM planned_groups JOIN attempts AS a USING (cluster) JOIN outputs AS o ON o.attempt = a.id
        JOIN rollouts AS r ON r.id = o.id
),
attempted AS (
    SELECT
        m.attempt, m.output_index, c.id, c.call, c.turn, c.name, c.outcome, c.body_start,
        row_number() OVER (PARTITION BY m.attempt ORDER BY m.output_index, c.call) AS number
    FROM members AS m SEMI JOIN (SELECT attempt FROM members GROUP BY attempt HAVING sum(uses) > 0) USING (attempt)
        JOIN calls AS c USING (id)
    WHERE NOT c.in_think
),
branches AS (
    SELECT * FROM attempted WHERE number = $number
),
executed AS (
    SELECT
        attempt,
        count(*) FILTER (outcome IN ('executed_ok', 'executed_error', 'executed_unknown', 'timeout')) AS executed
    FROM attempted WHERE number >= $number GROUP BY attempt
),
before AS (
    SELECT b.attempt, sum(least(s.token_end, t.branch) - s.token_start) AS tokens
    FROM branches AS b JOIN call_tokens AS t ON t.id = b.id AND t.call = b.call
        JOIN span_tokens AS s ON s.id = b.id AND s.token_start < t.branch
    GROUP BY b.attempt
),
whole AS (
    SELECT
        b.attempt, CASE WHEN count(m.sampled_tokens) = count(*) THEN sum(m.sampled_tokens) END AS tokens,
        CASE WHEN count(m.sampled_chars) = count(*) THEN sum(m.sampled_chars) END AS characters
    FROM branches AS b JOIN members AS m ON m.attempt = b.attempt AND m.output_index >= b.output_index
    GROUP BY b.attempt
),
behind AS (
    SELECT
        b.name, e.executed, CASE WHEN w.tokens >= p.tokens THEN w.tokens - p.tokens END AS tokens,
        -- All of the first turn before its call was sampled; of later ones, results were not.
        CASE WHEN b.turn = 0 AND w.characters >= b.body_start THEN w.characters - b.body_start END AS characters
    FROM branches AS b JOIN executed AS e USING (attempt) JOIN whole AS w USING (attempt)
        LEFT JOIN before AS p USING (attempt)
)
SELECT
    name, count(*), count(tokens), coalesce(sum(tokens), 0)::BIGINT, count(characters),
    coalesce(sum(characters), 0)::BIGINT, sum(executed)::BIGINT
FROM behind GROUP BY name ORDER BY name
"""
_LOGGED = """
SELECT
    count(*), count(sampled_tokens), coalesce(sum(sampled_tokens), 0)::BIGINT,
    coalesce(sum(sampled_chars), 0)::BIGINT
FROM planned_groups JOIN attempts USING (cluster)
"""
