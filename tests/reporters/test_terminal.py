"""The report for a terminal."""

import io
import re
from collections.abc import Callable

import pytest
from rich.cells import cell_len
from rich.console import Console

from gapscope.report import Finding, Measurement, PassedOver, RefusedRows, Report
from gapscope.reporters import print_report
from gapscope.reporters.base.page import plain
from gapscope.reporters.terminal import compose, render

Maker = Callable[..., Report]
Measure = Callable[..., Measurement]

SMALL = """\
▌ PROBLEM  Dead ends
▌ In 57.1 % of 7 groups every tool-using rollout is wrong.
▌ → gapscope plan run.jsonl

read    run.jsonl · 1 file of verl_v1 (hermes) · 8 rows: 8 kept
judged  8 rollouts · 2 groups × 4 · step 1 · scope: train
        correct: acc (column)
noted   grouped by uid

Headline rates                          95 %              by step
  tool_attempt_rate             46.9 %  20.8–72.9 %       █ ▅
    of 32 rollouts
  all_wrong_tool_group_rate     57.1 %  25.0–84.2 % thin
    of 7 groups with a tool-using rollout
    expected from size and difficulty 39.3 % · excess +17.9 pp
  all_wrong_notool_group_rate        –
    not in this log: no group has a rollout without a call
  thin: too little evidence to judge by (only 7 groups, fewer than 20)

Findings
  GOOD     Groups look right
           2 of 2 groups have 4 rollouts.

Accuracy
  accuracy                      46.9 %  20.8–72.9 %    32 rollouts
              k = 1   k = 2
  pass_at_k  46.9 %  68.8 %  8 groups with k rollouts
Turns and length
  none: truncation_rate (n 32)

Not in this log
  the log has no token counts: wasted_token_share
    → log_tokens=true
  only 4 informative groups, fewer than 10: all_wrong_tool_p
  no group has a rollout without a call: all_wrong_notool_group_rate

Gate
  UNJUDGED all_wrong_tool_group_rate <= 0.4 cannot be judged: only 7 groups
           → Log more groups.
▌ Could not judge 1 of 1 limits.
"""


def part(report: Report, title: str, *, width: int = 80) -> list[str]:
    """The lines under a heading, up to the next one that is not further in."""
    lines = [plain(line) for line in compose(report, width=width)]
    start = next(i for i, line in enumerate(lines) if line.startswith(title))
    rest = lines[start + 1 :]
    stop = next((i for i, line in enumerate(rest) if not line.startswith("  ")), len(rest))
    return rest[:stop]


def printed(report: Report, *, width: int, encoding: str = "utf-8", colours: bool = False) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    console = Console(file=file, width=width, force_terminal=colours, color_system="truecolor" if colours else None)
    print_report(report, console)
    return raw.getvalue().decode(encoding)


def test_a_small_report_reads_like_this(small: Report) -> None:
    assert render(small) == SMALL


def test_printing_without_colours_is_the_rendered_text(ordinary: Report) -> None:
    assert printed(ordinary, width=80) == render(ordinary)


def test_colours_are_all_that_a_terminal_adds(ordinary: Report) -> None:
    coloured = printed(ordinary, width=80, colours=True)
    assert "\x1b[1;31m" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == render(ordinary)


@pytest.mark.parametrize("width", [60, 71, 80, 100, 120])
def test_no_line_is_wider_than_the_terminal(width: int, ordinary: Report, small: Report) -> None:
    for report in (ordinary, small):
        lines = [plain(line) for line in compose(report, width=width)]
        assert [line for line in lines if cell_len(line) > width] == []
        assert printed(report, width=width).splitlines() == lines


def test_lines_end_without_spaces(ordinary: Report) -> None:
    assert [line for report in (ordinary,) for line in render(report).splitlines() if line != line.rstrip()] == []


def test_a_very_wide_terminal_gets_lines_of_120(ordinary: Report) -> None:
    assert printed(ordinary, width=300) == printed(ordinary, width=120)


def test_markup_from_logs_is_printed_as_it_is(bare: Maker) -> None:
    report = bare(findings=[Finding(severity="note", title="[red]tool[/red]", text="a [bold]b[/] :smile: \\[x]")])
    assert printed(report, width=80).splitlines()[:2] == ["▌ NOTE     [red]tool[/red]", "▌ a [bold]b[/] :smile: \\[x]"]


def test_an_ascii_terminal_gets_stand_ins_in_the_same_columns(ordinary: Report) -> None:
    for report in (ordinary,):
        plain_text, ascii_text = printed(report, width=80), printed(report, width=80, encoding="ascii")
        widths = [[cell_len(line) for line in text.splitlines()] for text in (plain_text, ascii_text)]
        assert widths[0] == widths[1]
    assert "###**" in printed(ordinary, width=80, encoding="ascii")


def test_a_legacy_code_page_keeps_what_it_has(ordinary: Report) -> None:
    text = printed(ordinary, width=80, encoding="cp1252")
    assert "512 groups of 7–8" in text
    assert "> Plan a resampling" in text


def test_a_report_without_findings_says_so(bare: Maker) -> None:
    assert render(bare()).splitlines()[0] == "▌ Nothing to report."


def test_an_annotated_number_is_explained_once(ordinary: Report) -> None:
    text = render(ordinary)
    assert "36.2–46.5 % †" in text
    assert text.count("dynamic sampling drops groups without variance") == 1


def test_a_single_step_has_the_denominator_where_the_series_would_be(bare: Maker, measured: Measure) -> None:
    report = bare(metrics=[measured("tool_attempt_rate", 0.25, 8, "rollouts", interval=(0.1, 0.5))])
    assert part(report, "Headline rates") == ["  tool_attempt_rate             25.0 %  10.0–50.0 %    8 rollouts"]


def test_the_census_is_a_table_of_four_by_four(ordinary: Report) -> None:
    assert part(ordinary, "Census") == [
        "  tool-using   none  all wrong  mixed  all correct  groups",
        "  none            0         34     96           28     158",
        "  all wrong       3         50     83            7     143  ← AXPO resamples",
        "  mixed           5         31     92            6     134",
        "  all correct     0          8     39           22      69",
    ]


def test_metrics_of_a_section_that_share_their_denominator_name_it_once(bare: Maker, measured: Measure) -> None:
    report = bare(metrics=[measured(name, 0.5, 8, "rollouts") for name in ("accuracy", "tool_accuracy")])
    assert "Accuracy  of 8 rollouts\n  accuracy                      50.0 %\n" in render(report)


def test_tools_go_down_and_metrics_across(ordinary: Report) -> None:
    assert part(ordinary, "By tool") == [
        "                 tool_calls  tool_failure_rate    tool_accuracy",
        "  image_zoom_in       1,660     8.4 % of 1,660  41.2 % of 1,020",
        "  python                403      21.1 % of 403    33.1 % of 296",
        "  search                 38       50.0 % of 38     20.0 % of 25",
    ]


def test_tools_with_too_few_calls_are_only_named(bare: Maker, measured: Measure) -> None:
    thin = {"status": "thin", "reason": "only 3 calls"}
    report = bare(
        metrics=[
            measured("tool_calls[python]", 90.0, 93, "calls", unit="count"),
            measured("tool_failure_rate[python]", 0.1, 90, "calls of python"),
            measured("tool_calls[pyhton]", 3.0, 93, "calls", unit="count"),
            measured("tool_failure_rate[pyhton]", 1.0, 3, "calls of pyhton", **thin),
        ]
    )
    assert part(report, "By tool") == [
        "          tool_calls  tool_failure_rate",
        "  python          90       10.0 % of 90",
        "  thin: pyhton",
        "  thin: too little evidence to judge by (only 3 calls)",
    ]


def test_many_ks_keep_the_first_and_the_last(bare: Maker, measured: Measure) -> None:
    report = bare(metrics=[measured(f"pass_at_k[{2**k}]", 0.5, 8, f"groups with {2**k} rollouts") for k in range(8)])
    assert part(report, "Accuracy")[0] == "              k = 1   k = 2   k = 4  k = 128"


def test_outcomes_flow_from_the_commonest_and_name_what_never_happened(ordinary: Report) -> None:
    assert part(ordinary, "Call outcomes")[2:] == [
        "  executed_ok       86.8 %  bad_arguments      3.7 %  unparseable        3.0 %",
        "  executed_error     2.6 %  opened_not_closed  2.3 %  no_result          1.0 %",
        "  timeout            0.5 %",
        "  none: in_think, unknown_tool",
    ]


def test_trends_show_their_p_and_the_flat_ones_only_their_names(bare: Maker, measured: Measure) -> None:
    def trend(key: str, p: float) -> Measurement:
        return measured(f"trend[{key}]", -0.25, 32, "steps", unit="slope", details={"p": p})

    report = bare(
        metrics=[
            trend("tool_attempt_rate", 0.001),
            trend("accuracy", 0.4),
            measured("collapse[tool_attempt_rate]", 1.0, 32, "steps", unit="flag"),
            measured("never_used", 0.0, 32, "steps", unit="flag"),
        ]
    )
    assert part(report, "Trends") == [
        "                                 trend  collapse",
        "  tool_attempt_rate  -0.25  p = 0.0010       yes",
        "  no clear trend: accuracy",
        "  no: never_used",
    ]


def test_a_free_form_table_of_a_metric_is_shown_under_it(bare: Maker, measured: Measure) -> None:
    table = [{"what": "a", "value": 0.25, "n": 4}, {"what": "b", "value": None, "n": 0}]
    report = bare(metrics=[measured("mine", 0.5, 8, "things", table=table)])
    assert part(report, "More")[1:] == [
        "  mine",
        "    what  value   n",
        "    a     25.0 %  4",
        "    b     –       0",
    ]


def test_a_table_of_one_column_is_a_list(bare: Maker, measured: Measure) -> None:
    unused = measured("tool_unused", 2.0, 5, "offered tools", unit="count", table=[{"tool": "zoom"}, {"tool": "ocr"}])
    assert part(bare(metrics=[unused]), "By tool") == [
        "  tool_unused                        2                 5 offered tools",
        "  tool: zoom, ocr",
    ]


def test_numbers_that_only_complete_others_are_counted(bare: Maker, measured: Measure) -> None:
    names = ("group_mixed_rate", "group_size_min", "accuracy")
    report = bare(metrics=[measured(name, 0.5, 8, "groups") for name in names])
    assert "group_mixed_rate" not in render(report)
    assert "and 2 more numbers in the other formats" in render(report)


def test_slices_stand_side_by_side(ordinary: Report) -> None:
    lines = render(ordinary).splitlines()
    place = lines.index("By data source  tool_attempt_rate  all_wrong_tool_group_rate")
    assert lines[place + 1 : place + 3] == [
        "  geometry3k      22.4 % of 2,304              50.0 % of 150",
        "  vstar           43.8 % of 1,792              34.7 % of 196",
    ]


def test_refused_rows_and_files_that_were_not_read_have_their_places(bare: Maker) -> None:
    report = bare(
        refused=[RefusedRows(reason="`score` is missing", rows=2, file="a.jsonl", line=41, excerpt="")],
        passed_over=[
            PassedOver(path=path, reason="no format", unreadable=path == "f.gz")
            for path in ("a", "b", "c", "d", "f.gz")
        ],
        repairs={"nan_read_as_null": 1},
    )
    assert part(report, "Refused rows") == ["  2  `score` is missing  a.jsonl:41"]
    assert part(report, "Files not read") == [
        "  unreadable   f.gz  no format",
        "  passed over  a     no format",
        "  passed over  b     no format",
        "  passed over  c     no format",
        "  and 1 more file",
    ]
    assert part(report, "Repairs") == ["  nan read as null: 1 row"]


def test_five_dead_groups_are_shown_and_the_others_counted(ordinary: Report) -> None:
    lines = part(ordinary, "Dead groups", width=120)
    assert lines[:2] == [
        "  step  group                                 rollouts  tool using  correct  at",
        "     1  6f1c0a52-11aa-4b8e-9d30-5a3b1f0f7c11         8           3        2  logs/rollouts/1.jsonl:17",
    ]
    assert lines[-1] == "  and 1 more group"


def test_the_verdict_is_the_last_line(ordinary: Report) -> None:
    assert render(ordinary).splitlines()[-1] == "▌ The gate failed: 1 of 3 checks failed, 1 passed, 1 was skipped."


def test_0_and_100_percent_are_printed_only_when_exact(bare: Maker, measured: Measure) -> None:
    values = {"a": 0.0, "b": 1e-9, "c": 1 - 1e-9, "d": 1.0}
    report = bare(metrics=[measured(name, value, 8, "r", better="higher") for name, value in values.items()])
    shown = [line.split(maxsplit=1)[1] for line in part(report, "More")]
    assert shown == ["0 %", "< 0.1 %", "> 99.9 %", "100 %"]


def test_an_ordinary_run_fits_on_few_screens(ordinary: Report) -> None:
    assert len(render(ordinary).splitlines()) <= 130
