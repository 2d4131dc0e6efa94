"""The rewards that have a name."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapscope.errors import CorrectnessError, SettingsError, UnknownName
from gapscope.rewards import REWARDS, RewardFailure, Solution, Verdict, reward_from
from gapscope.rewards.f1 import token_f1

CITIES = {"choices": ["London", "Paris", "Rome", "Oslo"]}


def solution(final: str, ground_truth: object, **extra: Any) -> Solution:
    return Solution(output=f"<think>{ground_truth}</think>{final}", final=final, ground_truth=ground_truth, extra=extra)


def verdicts(name: str, solutions: Sequence[Solution], **options: Any) -> list[Verdict | str]:
    """What the reward says of each, or why it says nothing."""

    async def use() -> list[Verdict | str]:
        found: list[Verdict | str] = []
        async with reward_from(name, **options) as reward:
            for one in solutions:
                try:
                    found.append(await reward.judge(one))
                except RewardFailure as failure:
                    found.append(failure.reason)
        return found

    return asyncio.run(use())


def verdict(name: str, final: str, ground_truth: object, rule: str | None = None, **extra: Any) -> Verdict | str:
    return verdicts(name, [solution(final, ground_truth, **extra)], rule=rule)[0]


RIGHT, WRONG = Verdict(1.0, True), Verdict(0.0, False)


def test_every_reward_says_what_it_is_and_is_found_by_its_name() -> None:
    assert [reward.name for reward in REWARDS] == ["exact_match", "math", "multiple_choice", "f1"]
    assert all(reward.about and reward.__doc__ for reward in REWARDS)
    with pytest.raises(UnknownName, match="Did you mean exact_match"):
        reward_from("exactmatch")


def test_an_exact_match_is_of_any_of_the_accepted_answers_and_of_nothing_else() -> None:
    assert verdict("exact_match", "So: <answer> The  Hague. </answer>", ["Den Haag", "the hague"]) == RIGHT
    assert verdict("exact_match", "1,000", 1000) == RIGHT
    assert verdict("exact_match", "The Hague, I think", "the hague") == WRONG
    assert verdict("exact_match", "", "42") == WRONG
    assert verdict("exact_match", "42", None) == "no ground truth in the plan"


@given(st.text(alphabet="ab 1.", max_size=6), st.text(alphabet="ab 1.", min_size=1, max_size=6))
def test_an_exact_match_of_plain_words_is_what_splitting_them_says(answer: str, truth: str) -> None:
    if re.search(r"\d|^[ .]*$", answer + truth) or not truth.strip(" ."):
        return

    def same(text: str) -> list[str]:
        return text.strip().rstrip(". ").split()

    found = verdict("exact_match", answer, truth)
    assert found == (RIGHT if same(answer) == same(truth) else WRONG)


def test_a_rule_decides_over_the_reward_and_is_said_with_it() -> None:
    assert verdict("exact_match", "a", "a", rule="score<1") == Verdict(1.0, False)
    assert verdict("exact_match", "a", "a", rule="reward") == RIGHT
    assert reward_from("exact_match").rule == "exact_match"
    assert reward_from("f1", rule="reward >= 0.8").rule == "f1: reward>=0.8"
    with pytest.raises(CorrectnessError, match="has no field 'acc'"):
        reward_from("exact_match", rule="acc")


def test_f1_needs_to_be_told_what_is_correct() -> None:
    with pytest.raises(CorrectnessError, match=r"--correct 'reward>=0\.8'"):
        reward_from("f1")
    # Of 3 and 2 words two are common: 2 * 2 / 5.
    assert verdict("f1", "the big red dog", ["cat", "Red dog!"], rule="reward>=0.8") == Verdict(0.8, True)
    assert verdict("f1", "the big red dog", "Red dog!", rule="reward>0.8") == Verdict(0.8, False)
    with pytest.raises(CorrectnessError, match=r"`reward` of f1 is 0\.8, which is neither 0 nor 1"):
        verdict("f1", "big red dog", "red dog", rule="reward")


@pytest.mark.parametrize(
    ("one", "other", "f1"),
    [
        ("a cat", "the cat", 1.0),
        ("cat cat dog", "cat", 0.5),
        ("cat", "dog", 0.0),
        ("the", "", 1.0),
        ("the", "cat", 0.0),
        ("1,000", "1000", 1.0),
        ("U.S.", "us", 1.0),
    ],
)
def test_f1_by_hand(one: str, other: str, f1: float) -> None:
    assert token_f1(one, other) == f1


@given(st.lists(st.sampled_from("bcd"), max_size=6), st.lists(st.sampled_from("bcd"), max_size=6))
def test_f1_is_the_harmonic_mean_of_precision_and_recall_both_ways(one: list[str], other: list[str]) -> None:
    found = token_f1(" ".join(one), " ".join(other))
    assert 0 <= found <= 1
    assert found == token_f1(" ".join(other), " ".join(one))
    left, common = list(other), 0
    for word in one:
        if word in left:
            left.remove(word)
            common += 1
    if common:
        precision, recall = common / len(one), common / len(other)
        assert found == pytest.approx(2 * precision * recall / (precision + recall))
    else:
        assert found == float(one == other)


@pytest.mark.parametrize(
    "final",
    [
        *("B", "b", "(B)", "[b]", "B.", "B)", "**B**", r"\boxed{B}", r"<answer>\text{(B)}</answer>", "Option B"),
        *("Answer: B", "**Answer:** b", "Final answer: (B).", "The answer is B", "the correct option is **B**."),
        *("Rome is far. The answer is B because of that.", "option A is wrong, so the answer is B", "So it is\n\nB"),
        *("answer is B, and I am sure", "answer is B, A is in England", "B<|im_end|>"),
        *("B) Paris", "Paris", "paris.", "The answer is Paris", "<answer>B: Paris</answer>"),
    ],
)
def test_b_is_chosen(final: str) -> None:
    assert verdict("multiple_choice", final, "B", **CITIES) == RIGHT
    assert verdict("multiple_choice", final, "A", **CITIES) == WRONG


@pytest.mark.parametrize(
    "final",
    [
        *(
            "",
            "E",
            "BC",
            "B and C",
            "It could be B",
            "The answer is not B",
            "The answer is B or C",
            "The answer is B, C",
        ),
        *(
            "The answer is B. The answer is C.",
            "A. Let us see. The answer is B",
            "B. London",
            "<answer>B or C</answer>",
        ),
        *("The answer is A dog", "The answer is B\nC", "Paris and London", "B\n\nbecause"),
    ],
)
def test_no_choice_is_made(final: str) -> None:
    found = [verdict("multiple_choice", final, letter, **CITIES) for letter in "ABCD"]
    assert found == [WRONG] * 4


@pytest.mark.parametrize(
    ("ground_truth", "extra"),
    [
        ("(B)", {}),
        ("B. Paris", {}),
        ("Paris", CITIES),
        ("paris", {"options": {"A": "London", "b": "Paris"}}),
        ("Paris", {"choices": {"label": ["A", "B"], "text": ["London", "Paris"]}}),
        ("B", {"options": ["A. London", "B. Paris"]}),
        ("Paris", {"options": ["(A) London", "(B) Paris"]}),
        (["B"], CITIES),
        (2, {"choices": [1, 2]}),
    ],
)
def test_the_right_choice_is_known_by_letter_or_text(ground_truth: object, extra: dict[str, object]) -> None:
    assert verdict("multiple_choice", "The answer is (b)", ground_truth, **extra) == RIGHT
    assert verdict("multiple_choice", "The answer is A because", ground_truth, **extra) == WRONG


@pytest.mark.parametrize(
    ("ground_truth", "extra", "reason"),
    [
        ("Paris", {}, "the ground truth is neither a letter nor a choice"),
        ("Berlin", CITIES, "the ground truth is neither a letter nor a choice"),
        ("B. London", CITIES, "the ground truth is neither a letter nor a choice"),
        (1, CITIES, "the ground truth is neither a letter nor a choice"),
        (["A", "B"], CITIES, "the ground truth is several choices"),
        (None, CITIES, "no ground truth in the plan"),
    ],
)
def test_a_ground_truth_that_names_no_single_choice_is_not_guessed(
    ground_truth: object, extra: dict[str, object], reason: str
) -> None:
    assert verdict("multiple_choice", "B", ground_truth, **extra) == reason


def test_math_compares_values_and_not_letters() -> None:
    pytest.importorskip("math_verify", reason="the extra `math` is not installed")
    cases: list[tuple[object, str, Verdict | str]] = [
        ("1/2", r"\boxed{0.5}", RIGHT),
        (r"$\frac{1}{2}$", "The answer is 0.5.", RIGHT),
        ("72", "3 apples and 4 pears make 72", RIGHT),
        (["1", "2"], "<answer>2</answer>", RIGHT),
        (7.0, r"\boxed{x = 7}", RIGHT),
        (r"so \boxed{x^2-1}", r"\boxed{(x-1)(x+1)}", RIGHT),
        ("1,000", r"\boxed{1000 \text{ km}}", RIGHT),
        ("Paris", r"\boxed{Paris}", RIGHT),
        ("Paris", r"\boxed{pairs}", WRONG),
        ("72", "72 or rather 73", WRONG),
        ("5", "", WRONG),
        ("5", r"\boxed{", WRONG),
        ("???", "5", "the ground truth is no mathematics"),
        (None, "5", "no ground truth in the plan"),
        # `solution` quotes the truth in thinking.
        ("B", "C", WRONG),
    ]
    found = verdicts("math", [solution(final, truth) for truth, final, _ in cases])
    assert found == [expected for _, _, expected in cases]


@pytest.mark.slow
def test_math_that_takes_for_ever_is_given_up() -> None:
    """A time limit is waited for, and sympy is imported twice."""
    pytest.importorskip("math_verify", reason="the extra `math` is not installed")
    endless = solution(r"\boxed{9^{9^{9^{9}}}}", "3")
    found = verdicts("math", [endless, solution("3", "3")], seconds=2)
    assert found == ["math-verify timed out", RIGHT]


def test_math_without_its_extra_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gapscope.rewards.math_.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"pip install 'gapscope\[math\]'"):
        reward_from("math")


@pytest.mark.parametrize("name", ["exact_match", "multiple_choice", "f1"])
def test_a_right_answer_in_thinking_or_in_a_tools_result_does_not_count(name: str) -> None:
    quoted = Solution(
        output=r"<think>\boxed{B}</think> <tool_response>B</tool_response> C", final="C", ground_truth="B"
    )
    assert verdicts(name, [quoted], rule="reward>=0.8" if name == "f1" else None) == [WRONG]


def test_a_reward_is_given_a_time_above_zero() -> None:
    with pytest.raises(SettingsError, match="cannot answer in 0 seconds"):
        reward_from("exact_match", seconds=0)
