"""What every reporter relies on: order, grouping and words."""

from collections.abc import Callable

import pytest

from gapscope.report import Correctness, GroupCheck, Measurement, Report, RowCounts
from gapscope.reporters.base import (
    Missing,
    cell,
    census,
    cleaned,
    condensed,
    core,
    dead_groups,
    family,
    marks,
    missing,
    p_of,
    sections,
    series,
    slices,
    sparkline,
    visible,
)
from gapscope.reporters.base.provenance import provenance

Maker = Callable[..., Report]
Measure = Callable[..., Measurement]


def test_sections_come_in_reading_order_and_a_metric_of_nobody_comes_last(bare: Maker, measured: Measure) -> None:
    names = ("mine", "turns_mean", "tool_accuracy[python]", "tool_accuracy", "accuracy", "group_singleton_rate")
    report = bare(metrics=[measured(name, 0.5, 4, "rollouts") for name in names])
    assert [(title, [m.name for m in found]) for title, found in sections(report)] == [
        ("Groups", ["group_singleton_rate"]),
        ("Accuracy", ["accuracy", "tool_accuracy"]),
        ("By tool", ["tool_accuracy[python]"]),
        ("Turns and length", ["turns_mean"]),
        ("More", ["mine"]),
    ]


def test_sections_leave_out_the_core_and_what_has_no_value(bare: Maker, measured: Measure) -> None:
    report = bare(
        metrics=[
            measured("tool_attempt_rate", 0.5, 8, "rollouts"),
            measured("all_wrong_tool_expected", 0.5, 2, "groups"),
            measured("accuracy", None, 0, "rollouts", status="unobserved", reason="no rule"),
        ]
    )
    assert sections(report) == []


def test_an_all_wrong_rate_has_what_chance_would_give_beside_it(bare: Maker, measured: Measure) -> None:
    report = bare(
        metrics=[
            measured("all_wrong_tool_p", None, 0, "informative groups", status="unobserved", unit="p"),
            measured("all_wrong_tool_excess", 0.1, 8, "groups", unit="difference"),
            measured("all_wrong_tool_expected", 0.4, 8, "groups"),
            measured("all_wrong_tool_group_rate", 0.5, 8, "groups"),
            measured("tool_attempt_rate", 0.25, 8, "rollouts"),
        ]
    )
    assert [(rate.measured.name, [word for word, _ in rate.companions]) for rate in core(report)] == [
        ("tool_attempt_rate", []),
        ("all_wrong_tool_group_rate", ["expected", "excess"]),
    ]


@pytest.mark.parametrize(
    ("name", "whole", "member"),
    [
        ("accuracy", "accuracy", None),
        ("tool_accuracy[python]", "tool_accuracy[]", "python"),
        ("tool_calls[[red]]", "tool_calls[]", "[red]"),
        ("trend[tool_accuracy[a]]", "trend[]", "tool_accuracy[a]"),
        ("trend[accuracy].slope", "trend[].slope", "accuracy"),
        ("odd[", "odd[", None),
    ],
)
def test_brackets_name_the_member_of_a_family(name: str, whole: str, member: str | None) -> None:
    assert family(name) == (whole, member)


def test_missing_metrics_are_grouped_by_what_would_add_them(bare: Maker, measured: Measure) -> None:
    def lacking(name: str, reason: str, setting: str | None = None) -> Measurement:
        return measured(name, None, 0, "rollouts", status="unobserved", reason=reason, setting=setting)

    report = bare(
        metrics=[
            lacking("tool_unused", "no declared tools"),
            lacking("response_tokens_mean", "no token counts", "log_tokens=true"),
            lacking("wasted_token_share", "no token counts", "log_tokens=true"),
            lacking("pass_at_k[4]", "k is larger than every group"),
            lacking("pass_at_k[8]", "k is larger than every group"),
        ]
    )
    assert missing(report) == [
        Missing("no token counts", "log_tokens=true", ["response_tokens_mean", "wasted_token_share"]),
        Missing("no declared tools", None, ["tool_unused"]),
        Missing("k is larger than every group", None, ["pass_at_k[…]"]),
    ]


def test_one_member_of_a_family_keeps_its_name() -> None:
    assert condensed(["a[1]", "b[1]", "b[2]", "c"]) == ["a[1]", "b[…]", "c"]


def test_each_reason_for_an_annotation_has_its_own_symbol(measured: Measure) -> None:
    def noted(reason: str) -> Measurement:
        return measured("m", 0.5, 8, "groups", status="annotated", reason=reason)

    reasons = ["a", "b", "a", "c", "d", "e"]
    assert marks([noted(reason) for reason in reasons]) == {"a": "†", "b": "‡", "c": "§", "d": "¶", "e": "†4"}


def test_a_sparkline_starts_at_zero_and_leaves_gaps() -> None:
    assert sparkline([0.0, 0.5, None, 1.0], width=8) == "▁▅ █"
    assert sparkline([0.9, 1.0], width=8) == "▇█"


def test_a_sparkline_reaches_below_zero_where_the_series_does() -> None:
    assert sparkline([-0.5, 0.0, 0.5], width=8) == "▁▅█"


def test_a_series_of_zeros_is_flat() -> None:
    assert sparkline([0.0, 0.0], width=8) == "▁▁"


def test_a_long_series_is_averaged_into_the_width() -> None:
    assert sparkline([0.0, 0.0, 0.5, 0.5, 1.0, 1.0], width=3) == "▁▅█"


def test_one_value_is_no_series() -> None:
    assert sparkline([None, 0.5], width=8) == ""
    assert sparkline([], width=8) == ""


def test_values_at_one_step_are_pooled_by_their_n(measured: Measure) -> None:
    table = [
        {"step": 2, "value": 0.5, "n": 4},
        {"step": 1, "value": 1.0, "n": 1},
        {"step": 1, "value": 0.0, "n": 3},
        {"step": 3, "value": None, "n": 0},
    ]
    assert series(measured("m", 0.5, 8, "rollouts", table=table)) == [0.25, 0.5, None]


def test_provenance_names_every_fate_of_a_row_that_happened(bare: Maker) -> None:
    report = bare(rows=RowCounts(read=12, kept=8, refused=1, padding=2, duplicate=1))
    assert provenance(report) == [
        ("read", ["run.jsonl", "1 file of verl_v1 (hermes)", "12 rows: 8 kept, 1 refused, 2 padding, 1 duplicate"]),
        ("judged", ["8 rollouts", "2 groups × 4", "step 1", "scope: train", "correct: acc (column)"]),
        ("noted", ["grouped by uid"]),
    ]


def test_provenance_names_what_is_uneven_or_left_out(bare: Maker) -> None:
    report = bare(
        sources=["a", "b", "c", "d"],
        steps=[10, 20, 40],
        scope="",
        same_text=1,
        sub_outputs=2,
        runs=["a", "b"],
        groups=GroupCheck(
            key="", groups=9, eligible=6, size=4, sizes={"4": 6, "1": 2, "3": 1}, excluded={"singleton": 2, "merged": 1}
        ),
        correctness=Correctness(rule=None, chosen="undefined", known=0, unknown=8),
    )
    assert dict(provenance(report)) == {
        "read": ["a", "b", "2 more", "1 file of verl_v1 (hermes)", "8 rows: 8 kept"],
        "judged": [
            "8 rollouts",
            "9 groups of 1–4, mostly 4, 6 eligible",
            "2 runs",
            "3 steps from 10 to 40",
            "correct: undefined",
        ],
        "noted": [
            "2 groups excluded (singleton)",
            "1 group excluded (merged)",
            "8 rollouts not judged",
            "2 sub-outputs",
            "1 rollout with the text of another",
        ],
    }


def test_a_slice_is_shown_only_when_there_is_another_one(bare: Maker, measured: Measure) -> None:
    rate = measured(
        "tool_attempt_rate",
        0.5,
        8,
        "rollouts",
        by={"run": [{"run": "a", "value": 0.5, "n": 8}], "split": [{"split": "train"}, {"split": None}]},
    )
    dead = measured("all_wrong_tool_group_rate", 0.5, 2, "groups", by={"split": [{"split": "train", "value": 0.5}]})
    (found,) = slices(bare(metrics=[rate, dead]))
    assert found.key == "split"
    assert found.rows == [
        ("train", [{"split": "train"}, {"split": "train", "value": 0.5}]),
        ("(none)", [{"split": None}, None]),
    ]


def test_a_census_keeps_states_that_nobody_expected(bare: Maker, measured: Measure) -> None:
    table = [{"tool": "all_wrong", "notool": "odd", "groups": 2}, {"tool": "mixed", "notool": "none", "groups": 1}]
    states, counted = census(bare(metrics=[measured("group_census", 3.0, 3, "groups", unit="count", table=table)]))
    assert states == ["none", "all_wrong", "mixed", "all_correct", "odd"]
    assert counted == {("all_wrong", "odd"): 2, ("mixed", "none"): 1}


def test_a_report_without_census_has_no_states(bare: Maker) -> None:
    assert census(bare()) == ([], {})


def test_dead_groups_lose_columns_that_tell_nothing(bare: Maker) -> None:
    rows = [
        {"run": "a", "group": group, "data_source": None, "rollouts": 8, "file": file, "line": 3}
        for group, file in [("g1", "1.jsonl"), ("g2", "2.jsonl")]
    ]
    assert dead_groups(bare(dead_groups=rows)) == [
        {"group": "g1", "rollouts": 8, "at": "1.jsonl:3"},
        {"group": "g2", "rollouts": 8, "at": "2.jsonl:3"},
    ]
    assert dead_groups(bare(dead_groups=rows[:1])) == [{"run": "a", "group": "g1", "rollouts": 8, "at": "1.jsonl:3"}]
    assert dead_groups(bare()) == []


def test_a_cell_is_written_by_its_kind() -> None:
    assert [cell("x", item) for item in (None, True, False, "a", 1234, 0.25)] == [
        "–",
        "yes",
        "no",
        "a",
        "1,234",
        "0.25",
    ]
    assert cell("value", 0.25, "share") == "25.0 %"


def test_the_p_of_a_slope_is_in_its_details(measured: Measure) -> None:
    slope = measured("trend[m]", -0.5, 8, "steps", unit="slope", details={"p": 0.03})
    assert p_of(slope) == "p = 0.0300"
    assert p_of(slope.model_copy(update={"details": {"p": 1e-9}})) == "p < 0.0001"
    assert p_of(slope.model_copy(update={"unit": "share"})) == ""
    assert p_of(slope.model_copy(update={"details": {}})) == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("日本 é 🎯", "日本 é 🎯"),
        ("two\nlines\tand\u2028more", "two lines and more"),
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        ("nul\x00 bell\x07 del\x7f", "nul␀ bell␇ del␡"),
        ("c1 \x9b31m", "c1 �31m"),
        ("bidi \u202eevil", "bidi �evil"),
        ("half \ud83d pair", "half � pair"),
        ("non\xa0breaking\u3000wide", "non breaking wide"),
        ("\ufffe", "�"),
    ],
)
def test_what_steers_a_terminal_is_made_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_cleaning_reaches_names_tables_and_lists_and_leaves_numbers(bare: Maker, measured: Measure) -> None:
    table = [{"tool\n": "\x1bx", "n": 3}]
    dirty = bare(sources=["a\nb"], metrics=[measured("m\x00", 0.5, 8, "r\n", interval=(0.4, 0.6), table=table)])
    clean = cleaned(dirty)
    assert clean.sources == ["a b"]
    (kept,) = clean.metrics.values()
    assert list(clean.metrics) == ["m␀"]
    assert (kept.name, kept.of, kept.table, kept.interval) == ("m␀", "r ", [{"tool ": "␛x", "n": 3}], (0.4, 0.6))


def test_cleaning_leaves_an_ordinary_report_as_it_is(ordinary: Report) -> None:
    assert cleaned(ordinary) == ordinary
