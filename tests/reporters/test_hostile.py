"""Whatever a log holds, every output stays what it is."""

import io
import re
from collections.abc import Callable
from xml.etree import ElementTree as ET

import pytest
from rich.cells import cell_len
from rich.console import Console

from gapscope.report import (
    Check,
    Correctness,
    FileReading,
    Finding,
    GroupCheck,
    Measurement,
    PassedOver,
    RefusedRows,
    Report,
    RowCounts,
    Verdict,
)
from gapscope.reporters import REPORTERS, Reporter, print_report, reporter_named
from gapscope.reporters.base.page import plain
from gapscope.reporters.terminal import compose

Maker = Callable[..., Report]
Measure = Callable[..., Measurement]

EVIL = "[red]a|b`c`<b>&*x*_y_[/red] \x1b[31m\x07 日本語の道具 \u202e ]]> ::error::no%0A @team"
LONG = "/data/日本語/" + "very-long-directory-name/" * 12 + "実行.jsonl"


@pytest.fixture
def hostile(bare: Maker, measured: Measure) -> Report:
    """Long names, wide characters, markup of every kind, and escapes, in every field that logs can fill."""
    annotated = {"status": "annotated", "reason": f"{EVIL} {LONG}"}
    tools = [EVIL, LONG, "x" * 200, "道具" * 60]
    rates = {
        "by": {
            key: [{key: name, "value": 0.5, "n": 10**12} for name in (EVIL, LONG)]
            for key in ("run", "x" * 100, "split")
        }
    }
    return bare(
        version=EVIL,
        sources=[LONG, EVIL, "c", "d"],
        formats=[FileReading(format=EVIL, producer=EVIL, dialect=LONG, files=1, rows=8, evidence=EVIL)],
        passed_over=[PassedOver(path=path, reason=EVIL, unreadable=False) for path in (LONG, EVIL, "a", "b", "c")],
        rows=RowCounts(read=10**12, kept=10**11, refused=10**11, padding=10**11, duplicate=10**11),
        refused=[RefusedRows(reason=reason, rows=10**9, file=LONG, line=10**9, excerpt=EVIL) for reason in tools * 2],
        repairs={EVIL: 3, LONG: 4},
        scope=LONG,
        runs=[LONG, EVIL],
        groups=GroupCheck(key=LONG, groups=2, eligible=1, size=4, sizes={"4": 1, "?": 1}, excluded={EVIL: 1}),
        correctness=Correctness(rule=None, chosen="undefined", known=0, unknown=8, message=EVIL, hint=LONG),
        metrics=[
            measured("tool_attempt_rate", 0.5, 10**12, LONG, interval=(0.1, 0.9), **annotated, **rates),
            measured("all_wrong_tool_group_rate", None, 0, EVIL, status="unobserved", reason=LONG, setting=LONG),
            measured("group_census", 2.0, 2, EVIL, table=[{"tool": LONG, "notool": EVIL, "groups": 10**9}]),
            *(measured(f"tool_accuracy[{tool}]", 0.5, 10**12, tool) for tool in tools),
            *(measured(f"tool_failure_rate[{tool}]", 0.0, 10**12, tool) for tool in tools),
            *(measured(f"tool_outcome[{tool}]", 1.0, 10**12, tool, **annotated) for tool in tools),
            *(measured(f"pass_at_k[{2**k}]", 0.5, 10**12, LONG, status="thin") for k in range(12)),
            measured("x" * 300, 1e300, 10**12, EVIL, unit="ratio", interval=(-1e300, 1e300), table=[{EVIL: LONG}]),
            measured(EVIL, -0.5, 3, EVIL, unit="difference", table=[{"a": EVIL, "b": 2}, {"c": LONG, "b": None}] * 9),
            *(measured(f"{tool}!", None, 0, EVIL, status="unobserved", reason=EVIL, setting=LONG) for tool in tools),
        ],
        findings=[
            Finding(severity=severity, title=f"{LONG} {EVIL}", text=f"{EVIL} {LONG}", action=EVIL)
            for severity in ("problem", "warning", "note", "good")
        ],
        dead_groups=[{"step": step, EVIL: LONG, "group": f"{step}{LONG}", "x" * 90: EVIL} for step in range(9)],
        verdict=Verdict(
            exit_code=1,
            text=f"{EVIL} {LONG}",
            checks=[
                Check(
                    key=EVIL,
                    op="<=",
                    limit=0.4,
                    mode="bound",
                    compared=0.5,
                    n=10**12,
                    interval=(0.1, 0.9),
                    outcome=outcome,
                    text=f"{EVIL} {LONG}",
                    hint=LONG,
                )
                for outcome in ("passed", "failed", "skipped", "could_not_judge")
            ],
        ),
    )


def printed(report: Report, *, width: int, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    print_report(report, Console(file=file, width=width, color_system=None))
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("reporter", REPORTERS, ids=lambda reporter: reporter.name)
def test_every_reporter_writes_it_the_same_way_twice_and_leaves_it_as_it_was(
    reporter: Reporter, hostile: Report
) -> None:
    before = hostile.model_copy(deep=True)
    assert reporter.render(hostile) == reporter.render(hostile)
    assert hostile == before


@pytest.mark.parametrize("name", ["terminal", "markdown", "junit", "github"])
def test_nothing_but_text_and_newlines_is_written(name: str, hostile: Report) -> None:
    text = reporter_named(name).render(hostile)
    assert [char for char in text if not char.isprintable() and char != "\n"] == []
    assert "␛" in text


@pytest.mark.parametrize("width", [60, 71, 80, 100, 120])
def test_no_line_is_wider_than_the_terminal(width: int, hostile: Report) -> None:
    lines = [plain(line) for line in compose(hostile, width=width)]
    assert [line for line in lines if cell_len(line) > width] == []
    assert [line for line in lines if line != line.rstrip()] == []
    assert printed(hostile, width=width).splitlines() == lines


def test_an_ascii_terminal_gets_stand_ins_in_the_same_columns(hostile: Report) -> None:
    texts = (printed(hostile, width=80), printed(hostile, width=80, encoding="ascii"))
    assert len({tuple(cell_len(line) for line in text.splitlines()) for text in texts}) == 1


def test_json_reads_back(hostile: Report) -> None:
    assert Report.model_validate_json(reporter_named("json").render(hostile)) == hostile


def test_junit_is_xml(hostile: Report) -> None:
    root = ET.fromstring(reporter_named("junit").render(hostile).encode())
    assert [case[0].tag for case in root.iter("testcase")] == ["system-out", "failure", "skipped", "error"]


def test_every_line_for_github_is_one_command(hostile: Report) -> None:
    lines = reporter_named("github").render(hostile).splitlines()
    assert len(lines) <= 10
    assert all(re.match(r"::(error|warning|notice) [^:]*::", line) for line in lines)


def test_markdown_tables_have_as_many_cells_as_their_head_and_details_are_closed(hostile: Report) -> None:
    text = reporter_named("markdown").render(hostile)
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1
    assert text.count("<details>") == text.count("</details>") == 6
