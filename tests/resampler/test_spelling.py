"""Whether tokens spell what a log says they do."""

import pytest

from gapscope.resampler.spelling import Difference, first_difference

LOGGED = "user\nWhat?\nassistant\nI think <tool_call>"
SPELLED = "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\nI think <tool_call>"


@pytest.mark.parametrize(
    ("logged", "spelled"),
    [
        (LOGGED, LOGGED),
        (LOGGED, SPELLED),
        (SPELLED, SPELLED),
        (LOGGED, SPELLED + "\n"),
        (LOGGED, SPELLED + "<|im_end|>"),
        ("", ""),
        ("a<s>b", "<s>a<s>b"),
        ("｜x", "<｜begin▁of▁sentence｜>｜x"),
    ],
)
def test_special_tokens_and_blanks_at_the_end_are_no_difference(logged: str, spelled: str) -> None:
    assert first_difference(logged, spelled) is None


@pytest.mark.parametrize(
    ("logged", "spelled", "place"),
    [
        (LOGGED, LOGGED.replace("What", "Who?"), LOGGED.index("at?")),
        (SPELLED, LOGGED, 0),
        ("abc", "ab", 2),
        ("abc", "abcd", 3),
        ("abc", "", 0),
        ("", "x", 0),
    ],
)
def test_the_first_difference_is_found(logged: str, spelled: str, place: int) -> None:
    found = first_difference(logged, spelled)
    assert found is not None
    assert found.place == place
    assert (found.logged, found.spelled[:4]) != (found.spelled, "")


def test_both_goings_on_are_shown_in_part() -> None:
    assert first_difference("one " + "x" * 100, "one " + "y" * 100) == Difference(4, "x" * 40, "y" * 40)


@pytest.mark.parametrize("spelled", [SPELLED, "<|im_start|>system\nYou are.<|im_end|>\n" + SPELLED, SPELLED + "\n"])
def test_without_its_prompt_a_text_is_compared_with_the_end(spelled: str) -> None:
    assert first_difference("I think <tool_call>", spelled, whole=False) is None


def test_without_its_prompt_a_difference_is_found_too() -> None:
    assert first_difference("I drink <tool_call>", SPELLED, whole=False) is not None
