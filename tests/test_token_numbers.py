"""Statistics of tokens against numbers worked out by hand, and bad numbers that are not used."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapscope.rollouts import CallTokens, Tokens
from gapscope.token_numbers import Sums, TokenNumbers, call_numbers

NAN = float("nan")


def logs(*probabilities: float) -> list[float | None]:
    return [math.log(p) for p in probabilities]


def tokens(logprobs: list[float | None], **changes: object) -> Tokens:
    return Tokens(ids=list(range(len(logprobs))), logprobs=logprobs, **changes)  # type: ignore[arg-type]


def test_the_sums_of_a_span_are_those_worked_out_by_hand() -> None:
    sums = TokenNumbers(tokens(logs(0.9, 0.5, 0.1, 0.6))).sums(0, 3)
    assert sums.tokens == sums.scored == 3
    assert sums.prob_sum == pytest.approx(1.5, abs=1e-12)
    assert sums.logprob_sum == pytest.approx(-3.101093, abs=1e-6)
    assert sums.logprob_min == pytest.approx(math.log(0.1), abs=1e-12)


def test_a_call_has_numbers_with_and_without_its_delimiters_and_at_its_beginning() -> None:
    place = CallTokens(start=1, branch=2, body_end=4, end=5)
    found = call_numbers(TokenNumbers(tokens(logs(0.3, 0.9, 0.5, 0.1, 0.8, 0.2))), place)
    assert found.whole.prob_sum == pytest.approx(2.3, abs=1e-12)
    assert found.body.prob_sum == pytest.approx(0.6, abs=1e-12)
    assert found.tag.logprob == pytest.approx(math.log(0.9), abs=1e-12)
    assert found.after.logprob == pytest.approx(math.log(0.5), abs=1e-12)
    assert found.entropies == 0
    assert found.entropy_sum is None


def test_entropies_are_taken_at_the_tag_behind_it_and_over_the_call() -> None:
    given = tokens(logs(0.5, 0.5, 0.5), entropies=[0.5, 1.5, 2.0], entropy_kind="full")
    found = call_numbers(TokenNumbers(given), CallTokens(start=0, branch=1, body_end=2, end=3))
    assert (found.tag.entropy, found.after.entropy, found.after.upper) == (0.5, 1.5, 1.5)
    assert (found.entropies, found.entropy_sum) == (3, 4.0)


def test_a_top_k_entropy_is_a_pair_of_bounds() -> None:
    given = tokens(logs(0.5, 0.5), entropies=[1.0, 1.2], entropy_uppers=[1.8, None], entropy_kind="topk")
    numbers = TokenNumbers(given)
    assert numbers.at(0)[:2] == (1.0, 1.8)
    assert numbers.at(1)[:2] == (1.2, None)


def test_a_zero_where_nothing_was_sampled_is_absence() -> None:
    given = tokens([math.log(0.5), 0.0, math.log(0.25)], sampled=[True, False, True])
    sums = TokenNumbers(given).sums(0, 3)
    assert (sums.tokens, sums.scored) == (3, 2)
    assert sums.prob_sum == pytest.approx(0.75, abs=1e-12)


def test_beyond_the_last_token_there_is_nothing() -> None:
    assert TokenNumbers(tokens(logs(0.5))).at(1) == (None, None, None)
    assert TokenNumbers(tokens(logs(0.5))).sums(1, 1) == Sums(0, 0, None, None, None)


def test_single_precision_may_round_above_zero() -> None:
    numbers = TokenNumbers(tokens([1e-7, math.log(0.5)]))
    assert numbers.faults == []
    assert numbers.sums(0, 2).prob_sum == 1.5


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (tokens([0.1, -1.0]), "logprobs_above_zero"),
        (Tokens(ids=[1, 2], logprobs=[-1.0]), "logprobs_of_another_length"),
        (Tokens(ids=[1, 2], entropies=[1.0], entropy_kind="full"), "entropies_of_another_length"),
        (tokens([-1.0], sampled=[True, False]), "token_mask_of_another_length"),
        (tokens([-1.0, -1.0], sampled=[False, False]), "token_mask_covers_nothing"),
        (tokens([-1.0, NAN], sampled=[True, True]), "logprobs_missing_at_sampled_tokens"),
        (tokens([-1.0, None], sampled=[True, True]), "logprobs_missing_at_sampled_tokens"),
        (tokens([-1.0, -math.inf]), "logprobs_infinite"),
        (Tokens(ids=[1], entropies=[1.0]), "entropies_of_no_kind"),
        (Tokens(ids=[1], trainer_logprobs=[2.0]), "trainer_logprobs_above_zero"),
    ],
)
def test_what_is_wrong_with_numbers_is_named(given: Tokens, fault: str) -> None:
    assert fault in TokenNumbers(given).faults


def test_log_probs_that_cannot_be_some_are_not_used() -> None:
    assert TokenNumbers(tokens([0.1, -1.0])).logprobs is None
    assert TokenNumbers(tokens([-1.0, NAN])).sums(0, 2).scored == 1
    assert TokenNumbers(tokens([-1.0, -1.0], sampled=[False, False])).logprobs is None


def test_engine_and_trainer_are_compared_token_by_token() -> None:
    given = tokens([-1.0, -1.0, -1.0, -1.0, 0.0], trainer_logprobs=[-1.0, -1.05, -1.5, -3.0, -9.0])
    masked = Tokens(ids=given.ids, logprobs=given.logprobs, trainer_logprobs=given.trainer_logprobs,
                    sampled=[True] * 4 + [False])  # fmt: skip
    mismatch = TokenNumbers(masked).mismatch()
    assert mismatch is not None
    assert (mismatch.tokens, mismatch.over, mismatch.largest) == (4, (3, 2, 1), 2.0)
    assert TokenNumbers(tokens([-1.0])).mismatch() is None


@given(
    values=st.lists(st.floats(-30, 0), min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=8),
)
def test_spans_add_up_to_the_same_however_the_tokens_are_cut_into_them(values: list[float], cuts: list[int]) -> None:
    numbers = TokenNumbers(tokens(list(values)))
    bounds = sorted({0, len(values), *(cut for cut in cuts if cut < len(values))})
    parts = [numbers.sums(start, end) for start, end in itertools.pairwise(bounds)]
    whole = numbers.sums(0, len(values))
    assert sum(part.tokens for part in parts) == whole.tokens
    assert sum(part.scored for part in parts) == whole.scored
    assert sum(part.prob_sum or 0.0 for part in parts) == pytest.approx(whole.prob_sum, rel=1e-12)
    assert sum(part.logprob_sum or 0.0 for part in parts) == pytest.approx(whole.logprob_sum, rel=1e-12, abs=1e-12)
    assert min(part.logprob_min for part in parts if part.logprob_min is not None) == whole.logprob_min
    assert whole.logprob_sum == pytest.approx(float(np.sum(values)), rel=1e-12, abs=1e-12)
