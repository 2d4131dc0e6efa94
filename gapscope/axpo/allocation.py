"""Which prefixes a budget buys: breadth first, and never rounded up (axpo, sections 2.5 and 9)."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import count

from gapscope.plan_options import Order


def slots(r: Decimal | Fraction | int, sizes: Iterable[int], k: int) -> int:
    """How many prefixes of `k` continuations each a step may resample: floor(floor(r · Σ n) / k), exactly.

    `sizes` are the numbers of rollouts of all groups of the step, whether they trigger or not.
    """
    return int(Fraction(r) * sum(sizes)) // k


def allocate(candidates: Sequence[Sequence[float]], slots: int, order: Order = "batch") -> list[tuple[int, int]]:
    """The prefixes that get a slot, as (question, place among its candidates), in the order in which they get it.

    `candidates` holds, for each triggered question in the order of the batch, the confidences of its candidates, the
    lowest first. Each question gets its first prefix before any gets a second.
    """
    chosen: list[tuple[int, int]] = []
    for depth in count():
        due = [question for question, own in enumerate(candidates) if len(own) > depth]
        if not due or len(chosen) >= slots:
            return chosen
        if order == "global_confidence":
            due.sort(key=lambda question: candidates[question][depth])
        chosen += [(question, depth) for question in due[: slots - len(chosen)]]
    return chosen
