"""How the terms of a batch weigh, from the numbers of their tokens alone: `token_weights`, with no mask at hand."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from gapscope.axpo.advantages import Term, Weighting


class Weighed(NamedTuple):
    """One row: which term it is of, of which question of `n` rollouts, and on how many of its tokens it is trained."""

    term: Term
    key: int
    question: int
    n: int
    tokens: int


def term_weights(rows: Sequence[Weighed], weighting: Weighting) -> list[float]:
    """The weight of each trained token of each row; the weightings are those of `token_weights`.

    Rows of one key are one term. A question counts if it has a row, and its rollouts weigh 1/n each, `n` counting those
    that have no row as well. A weight is 0.0 where there are no tokens.
    """
    counts: Counter[int] = Counter()
    for row in rows:
        counts[row.key] += row.tokens
    if weighting == "question_sum":
        total = len({row.question for row in rows})
    elif weighting == "token_mean":
        total = sum(counts.values())
    else:
        total = sum(count > 0 for count in counts.values())
    return [_share(row, counts[row.key], weighting) / max(1, total * counts[row.key]) for row in rows]


def _share(row: Weighed, count: int, weighting: Weighting) -> float:
    if not count:
        return 0.0
    if weighting == "token_mean":
        return float(count)
    return 1 / row.n if weighting == "question_sum" and row.term == "rollout" else 1.0
