"""Slots and who gets them: the worked numbers, and a second implementation."""

import random
from decimal import Decimal
from fractions import Fraction
from itertools import count

import pytest

from gapscope.axpo.allocation import allocate, slots
from gapscope.plan_options import Order

QUARTER = Decimal("0.25")
QUESTIONS = [[0.60, 0.70], [0.55], [0.40, 0.45, 0.90]]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([8] * 8, 4), ([8] * 3, 1), ([8], 0), ([8, 8, 7, 6], 1), ([8] * 5, 2), ([8] * 256, 128), ([], 0)],
)
def test_slots_are_the_published_ones(sizes: list[int], expected: int) -> None:
    assert slots(QUARTER, sizes, 4) == expected


def test_the_budget_is_a_decimal_and_not_a_binary_float() -> None:
    assert int(0.29 * 100) == 28
    assert slots(Decimal("0.29"), [100], 1) == 29
    assert slots(Decimal("0.29"), [100], 29) == 1


@pytest.mark.parametrize("r", ["0", "0.001", "0.1", "0.29", "0.57", "1", "1.1", "3"])
def test_no_budget_is_exceeded_or_left_unused(r: str) -> None:
    for k in range(2, 9):
        for n in range(200):
            bought = slots(Decimal(r), [n], k)
            assert bought * k <= Fraction(r) * n < (bought + 1) * k


@pytest.mark.parametrize(
    ("order", "given", "expected"),
    [
        ("batch", 4, [(0, 0), (1, 0), (2, 0), (0, 1)]),
        ("global_confidence", 4, [(2, 0), (1, 0), (0, 0), (2, 1)]),
        ("batch", 2, [(0, 0), (1, 0)]),
        ("global_confidence", 2, [(2, 0), (1, 0)]),
        ("batch", 0, []),
        ("global_confidence", 9, [(2, 0), (1, 0), (0, 0), (2, 1), (0, 1), (2, 2)]),
    ],
)
def test_the_worked_questions_get_their_slots_in_the_published_order(
    order: Order, given: int, expected: list[tuple[int, int]]
) -> None:
    assert allocate(QUESTIONS, given, order) == expected


def test_without_candidates_nobody_gets_a_slot() -> None:
    assert allocate([], 5) == []
    assert allocate([[], []], 5) == []
    assert allocate([[], [0.1], []], 5) == [(1, 0)]


@pytest.mark.parametrize("order", ["batch", "global_confidence"])
def test_two_questions_that_are_as_sure_come_in_the_order_of_the_batch(order: Order) -> None:
    assert allocate([[0.5], [0.5], [0.5]], 2, order) == [(0, 0), (1, 0)]


@pytest.mark.parametrize("order", ["batch", "global_confidence"])
def test_a_second_implementation_gives_slots_to_the_same_prefixes_in_the_same_order(order: Order) -> None:
    for seed in range(2000):
        rng = random.Random(seed)
        questions = [sorted(rng.choice([0.1, 0.2, rng.random()]) for _ in range(rng.randrange(5))) for _ in range(6)]
        given = rng.randrange(14)
        assert allocate(questions, given, order) == _one_by_one(questions, given, order)


def _one_by_one(questions: list[list[float]], given: int, order: Order) -> list[tuple[int, int]]:
    """Each slot for itself: to a question that has had the fewest, the first or the least sure of them."""
    had = [0] * len(questions)
    found: list[tuple[int, int]] = []
    for _ in range(given):
        due = [q for q, own in enumerate(questions) if len(own) > had[q]]
        if not due:
            break
        fewest = min(had[q] for q in due)
        due = [q for q in due if had[q] == fewest]
        numbered = zip(due, count(), strict=False)
        chosen, _ = min(numbered, key=lambda at: (questions[at[0]][fewest] if order != "batch" else 0, at[1]))
        found.append((chosen, fewest))
        had[chosen] += 1
    return found
