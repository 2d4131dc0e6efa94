"""What of a final text counts as the answer, and how answers are compared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapscope.rewards.base import RewardFailure, accepted_answers, final_answer, normalised


@pytest.mark.parametrize(
    ("final", "answer"),
    [
        ("", ""),
        ("  42 \n", "42"),
        ("42<|im_end|>\n", "42"),
        ("42</s><|endoftext|>", "42"),
        ("42<｜end▁of▁sentence｜>", "42"),
        ("<answer>4</answer> no, <answer> 5 </answer> it is", "5"),
        ("<ANSWER>B</Answer>", "B"),
        ("<answer>4</answer> and <answer>5", "4"),
        ("5</answer>", "5</answer>"),
        ("<answer></answer> 7", ""),
        ("<answer>1</answer><solution>2</solution>", "2"),
        ("<solution>2</solution><answer>1</answer>", "1"),
        (r"<answer>so \boxed{5}</answer> \boxed{6}", "5"),
        (r"\boxed{1} then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{2", "1"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"} \fbox {3} {", "3"),
        ("İ<answer>é</answer>", "é"),
    ],
)
def test_the_answer_is_the_last_that_is_marked_else_the_whole_text(final: str, answer: str) -> None:
    assert final_answer(final) == answer


def test_long_hostile_texts_are_read_in_no_time() -> None:
    for piece in ("<answer>", "</answer>", r"\boxed{", "}", "<|im_end|>", "\\"):
        assert isinstance(final_answer(piece * 20_000), str)
    assert normalised('"' * 200_000)


@given(st.text(alphabet="ab{}\\", max_size=12))
def test_what_stands_in_a_box_with_balanced_braces_comes_out_of_it(inside: str) -> None:
    depth, balanced, escaped = 0, True, False
    for character in inside:
        if escaped or character == "\\":
            escaped = not escaped
        else:
            depth += {"{": 1, "}": -1}.get(character, 0)
            balanced &= depth >= 0
    if balanced and depth == 0 and not escaped:
        assert final_answer(rf"so \boxed{{{inside}}}") == inside.strip()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("New  York\n", "new york"),
        ("Paris.", "paris"),
        ("“Paris”", "'Paris'!"),
        ("**Paris**", "Paris"),
        ("ﬁve", "FIVE"),
        ("1,000", "1000"),
        ("7.0", "7"),
        ("+.50", "0.5"),
        ("007", "7."),
        ("-0.0", "0"),
        ("−3", "-3.00"),
        ("$12$", "12"),
        (r"\(12\)", "12"),
        ("1,234,567.10", "1234567.1"),
        ("?!", "?!"),
    ],
)
def test_these_are_the_same(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("the Hague", "Hague"),
        ("1,00", "100"),
        ("1,0000", "10000"),
        ("$5", "5"),
        ("50%", "50"),
        ("5 km", "5"),
        ("1.2.3", "1.23"),
        ("-5", "5"),
        ("", "0"),
        (".", "0"),
        ("a b", "ab"),
        ("1e3", "1000"),
    ],
)
def test_these_are_not_the_same(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


@given(st.integers(), st.integers(0, 3))
def test_a_whole_number_is_the_same_with_separators_and_zeros(number: int, zeros: int) -> None:
    assert normalised(f"{number:,}.{'0' * zeros}") == str(number)


@given(st.text())
def test_what_is_normalised_stays_as_it_is_in_other_spacing(text: str) -> None:
    assert normalised(text) == normalised(f"  {text}\n")


@pytest.mark.parametrize(
    ("ground_truth", "accepted"),
    [
        ("a", ["a"]),
        (7, ["7"]),
        (7.0, ["7.0"]),
        (1e20, ["100000000000000000000"]),
        (["a", "", None, 2], ["a", "2"]),
        ({"target": ["a", "b"], "other": 1}, ["a", "b"]),
    ],
)
def test_a_ground_truth_is_one_text_or_several(ground_truth: object, accepted: list[str]) -> None:
    assert accepted_answers(ground_truth) == accepted


@pytest.mark.parametrize(
    ("ground_truth", "reason"),
    [
        (None, "no ground truth in the plan"),
        ("", "no ground truth in the plan"),
        ([], "no ground truth in the plan"),
        (" ", "the ground truth is no text"),
        ({"a": 1}, "the ground truth is no text"),
        ([None], "the ground truth is no text"),
    ],
)
def test_without_a_ground_truth_nothing_is_judged(ground_truth: object, reason: str) -> None:
    with pytest.raises(RewardFailure) as failure:
        accepted_answers(ground_truth)
    assert failure.value.reason == reason
