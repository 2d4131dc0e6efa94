"""Laying out text in terminal cells."""

import pytest
from rich.cells import cell_len

from gapscope.reporters.base.page import clipped, flowed, hanging, plain, squeezed, table, trimmed, wrapped


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [
        ("short", 5, "short"),
        ("logs/rollouts/17.jsonl:41", 16, "logs/…7.jsonl:41"),
        ("日本語の道具", 7, "日…道具"),
        ("abc", 1, "…"),
        ("abc", 0, ""),
    ],
)
def test_a_long_name_loses_its_middle(text: str, width: int, short: str) -> None:
    assert squeezed(text, width) == short
    assert cell_len(short) <= max(width, 0)


def test_a_long_phrase_loses_its_end() -> None:
    assert clipped("504 eligible groups", 19) == "504 eligible groups"
    assert clipped("504 eligible groups", 18) == "504 eligible grou…"
    assert clipped("504 eligible groups", 5) == "504…"
    assert clipped("504", 0) == ""


def test_no_number_leaves_its_unit() -> None:
    text = "it is 43.2 % (95 % 36.2–46.5 %, n = 10)"
    assert wrapped(text, 18) == ["it is 43.2 %", "(95 % 36.2–46.5 %,", "n = 10)"]
    assert wrapped("it is 43.2 % of", 10) == ["it is", "43.2 % of"]


def test_words_that_are_too_wide_are_broken() -> None:
    assert wrapped("a 日本語の道具 b", 6) == ["a", "日本語", "の道具", "b"]
    assert wrapped("abcdefgh", 3) == ["abc", "def", "gh"]


def test_later_lines_hang_under_the_first_word() -> None:
    assert hanging("→ ", "resample the prefixes", 12) == ["→ resample", "  the", "  prefixes"]
    assert hanging("→ ", "", 12) == []


def test_facts_flow_and_break_between_them() -> None:
    assert flowed(["8 rollouts", "2 groups", "step 1"], 21) == ["8 rollouts · 2 groups", "step 1"]


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    rows = [[("a", ""), ("1", ""), ("x", "")], [("bcd", ""), ("100", ""), ("y", "")]]
    assert [plain(trimmed(line)) for line in table(rows, right={1}, room=40)] == ["  a      1  x", "  bcd  100  y"]


def test_the_widest_column_gives_way() -> None:
    rows = [[("a-rather-long-name", ""), ("100", ""), ("short", "")]]
    assert [plain(trimmed(line)) for line in table(rows, right={1}, room=24)] == ["  a-r…g-name  100  short"]


def test_a_column_keeps_its_least_width_as_long_as_another_can_give() -> None:
    rows = [[("name", ""), ("504 eligible groups", "")]]
    (line,) = table(rows, right=(), room=30, least=(10,), prose=1)
    assert plain(trimmed(line)) == "  name        504 eligible gr…"


def test_an_empty_column_takes_no_room() -> None:
    rows = [[("a", ""), ("", ""), ("b", "")]]
    assert [plain(trimmed(line)) for line in table(rows, right=(), room=40)] == ["  a  b"]


def test_columns_for_which_there_is_no_room_are_left_out() -> None:
    rows = [[(f"cell {i}", "") for i in range(100)]]
    (line,) = table(rows, right=(), room=40)
    assert cell_len(plain(trimmed(line))) <= 40
