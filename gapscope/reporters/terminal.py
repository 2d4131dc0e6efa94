"""The report for a terminal: text in 60 to 120 columns that reads the same without colour.

Lines are laid out by `page` and `tables`; rich only puts the colours on, and is imported for that alone.
"""

from typing import TYPE_CHECKING, Final

from rich.cells import cell_len

from gapscope.report import Check, Finding, Measurement, Report, Severity, show
from gapscope.reporters.base import (
    BLOCKS,
    OUTCOME_WORDS,
    Rate,
    Reporter,
    cleaned,
    core,
    count,
    dead_groups,
    marks,
    missing,
    observed,
    quantity,
    words,
)
from gapscope.reporters.base.page import (
    GRID,
    Line,
    Page,
    Piece,
    flowed,
    hanging,
    more,
    plain,
    squeezed,
    stacked,
    table,
    wrapped,
)
from gapscope.reporters.base.printing import NARROWEST, WIDEST, print_lines
from gapscope.reporters.base.provenance import provenance
from gapscope.reporters.base.tables import census_lines, free_lines, section_lines, slice_lines

if TYPE_CHECKING:
    from rich.console import Console

_SEVERITY: Final[dict[Severity, str]] = {
    "problem": "bold red",
    "warning": "bold yellow",
    "note": "bold cyan",
    "good": "bold green",
}
_OUTCOME: Final = {"passed": "green", "failed": "bold red", "skipped": "dim", "could_not_judge": "bold yellow"}
_CONCLUSION: Final = ("bold green", "bold red", "bold yellow")
_MARGIN: Final[Piece] = (" " * 11, "")


def render(report: Report) -> str:
    """The report as plain text in 80 columns."""
    return "".join(plain(line) + "\n" for line in compose(report, width=80))


def print_report(report: Report, console: "Console") -> None:
    """Print the report in the console's width and colours, with ASCII stand-ins where it has no UTF-8."""
    print_lines(lambda width, blocks: compose(report, width=width, blocks=blocks), console)


def compose(report: Report, *, width: int, blocks: str = BLOCKS) -> list[Line]:
    """All lines, none wider than `width` cells (as far as 60 allow)."""
    report = cleaned(report)
    page = Page(max(NARROWEST, min(width, WIDEST)), blocks, marks(observed(report)), report=report)
    parts = (
        _headline(page),
        _provenance(page),
        _core(page),
        _findings(page),
        census_lines(page),
        section_lines(page),
        slice_lines(page),
        _missing(page),
        _input(page),
        _dead_groups(page),
        _verdict(page),
    )
    return stacked(parts)


def _headline(page: Page) -> list[Line]:
    first = page.report.findings[0] if page.report.findings else None
    bar: Piece = ("▌ ", _SEVERITY[first.severity if first else "note"])
    lines: list[Line] = [[bar, *_title(first, page.prose - 11)]] if first else []
    lines += [[bar, (text, "bold")] for text in wrapped(page.report.headline, page.prose - 2)]
    if first and first.action:
        lines += [[bar, (text, "")] for text in hanging("→ ", first.action, page.prose - 2)]
    return lines


def _provenance(page: Page) -> list[Line]:
    lines: list[Line] = []
    for word, facts in provenance(page.report):
        texts = flowed([squeezed(fact, page.prose - 8) for fact in facts], page.prose - 8)
        lines += [[(f"{'' if i else word:8}", "dim"), (text, "")] for i, text in enumerate(texts)]
    return lines


def _core(page: Page) -> list[Line]:
    rates = core(page.report)
    if not rates:
        return []
    room = page.width - sum(GRID) - 10
    rows = [[*page.row(rate.measured), _beside(rate.measured, page, room)] for rate in rates]
    by_step = "by step" if any(style == "cyan" for *_, (_, style) in rows) else ""
    head: Line = [("", ""), ("", ""), ("95 %", "dim"), (by_step, "dim")]
    columns, *body = table([head, *rows], right={1}, room=page.width, least=GRID)
    title = "Headline rates"
    lines: list[Line] = [[(title, "bold"), (plain(columns)[len(title) :], "dim")]]
    for rate, row, line in zip(rates, rows, body, strict=True):
        facts = _facts(rate, page, of=row[-1][1] != "dim")
        lines += [line, *([("    ", ""), (text, "dim")] for text in facts)]
    return lines + page.legend([m for rate in rates for m in (rate.measured, *(m for _, m in rate.companions))])


def _beside(measured: Measurement, page: Page, room: int) -> Piece:
    """The series of a rate; where there is none, its denominator if that fits."""
    spark = page.spark(measured, min(32, room))
    of = quantity(measured)
    return spark if spark[0] or measured.status == "unobserved" or cell_len(of) > room else (of, "dim")


def _facts(rate: Rate, page: Page, *, of: bool) -> list[str]:
    """What stands under a rate: its denominator, and what chance would give; or why there is no rate."""
    measured, companions = rate
    if measured.status == "unobserved":
        return wrapped(f"not in this log: {measured.reason or 'no reason given'}", page.prose - 4)
    lines = wrapped(f"of {quantity(measured)}", page.prose - 4) if of else []
    marked = ((word, m, "" if m.reason == measured.reason else page.mark(m)) for word, m in companions)
    said = {"expected": "expected from size and difficulty"}
    return lines + flowed([f"{said.get(word, word)} {show(m)}{mark}" for word, m, mark in marked], page.prose - 4)


def _findings(page: Page) -> list[Line]:
    others = page.report.findings[1:]
    lines: list[Line] = [page.heading("Findings")] if others else []
    for finding in others[:8]:
        lines += _finding(finding, page.prose - 11)
    return lines + more(len(others) - 8, "finding")


def _finding(finding: Finding, width: int) -> list[Line]:
    lines: list[Line] = [[("  ", ""), *_title(finding, width)]]
    lines += [[_MARGIN, (text, "")] for text in wrapped(finding.text, width)]
    return lines + [[_MARGIN, (text, "")] for text in hanging("→ ", finding.action or "", width)]


def _title(finding: Finding, width: int) -> Line:
    word: Piece = (f"{finding.severity.upper():9}", _SEVERITY[finding.severity])
    return [word, (squeezed(finding.title, width), "bold")]


def _missing(page: Page) -> list[Line]:
    found = missing(page.report)
    lines: list[Line] = []
    for row in found[:8]:
        lines += page.item(f"{row.reason}: {_some(row.names, page.prose - 6 - cell_len(row.reason))}")
        lines += [[("    ", ""), (text, "")] for text in hanging("→ ", row.setting or "", page.prose - 4)]
    return [page.heading("Not in this log"), *lines, *more(len(found) - 8, "reason")] if lines else []


def _some(names: list[str], room: int) -> str:
    """As many names as fit on the line, at least one, and how many more."""
    for shown in range(len(names), 1, -1):
        rest = f" and {len(names) - shown} more" if shown < len(names) else ""
        if cell_len(text := ", ".join(names[:shown]) + rest) <= room:
            return text
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _input(page: Page) -> list[Line]:
    """Rows that were refused, files that were not read, and what was repaired."""
    report = page.report
    lines: list[Line] = []
    if report.refused:
        lines.append(page.heading("Refused rows", f"{report.rows.refused:,} of {report.rows.read:,}"))
        rows: list[Line] = [
            [(f"{row.rows:,}", ""), (row.reason, ""), (f"{row.file}:{row.line}", "dim")] for row in report.refused[:6]
        ]
        lines += table(rows, right={0}, room=page.width) + more(len(report.refused) - 6, "reason")
    if report.passed_over:
        files = sorted(report.passed_over, key=lambda file: not file.unreadable)
        words_of = {True: "unreadable", False: "passed over"}
        lines.append(page.heading("Files not read"))
        rows = [[(words_of[f.unreadable], ""), (f.path, ""), (f.reason, "dim")] for f in files[:4]]
        lines += table(rows, right=(), room=page.width) + more(len(files) - 4, "file")
    if report.repairs:
        lines.append(page.heading("Repairs"))
        lines += page.item(" · ".join(f"{words(what)}: {count(n, 'row')}" for what, n in report.repairs.items()))
    return lines


def _dead_groups(page: Page) -> list[Line]:
    rows = dead_groups(page.report)
    if not rows:
        return []
    title = page.heading("Dead groups", "a tool was tried, and every rollout that tried it is wrong")
    return [title, *free_lines(rows[:5], page), *more(len(rows) - 5, "group")]


def _verdict(page: Page) -> list[Line]:
    verdict = page.report.verdict
    if verdict is None:
        return []
    lines: list[Line] = [page.heading("Gate")]
    for check in verdict.checks:
        lines += _check(check, page.prose - 11)
    bar: Piece = ("▌ ", _CONCLUSION[verdict.exit_code])
    return [*lines, *([bar, (text, "bold")] for text in wrapped(verdict.text, page.prose - 2))]


def _check(check: Check, width: int) -> list[Line]:
    lines: list[Line] = [
        [(f"  {'' if i else OUTCOME_WORDS[check.outcome]:9}", _OUTCOME[check.outcome]), (text, "")]
        for i, text in enumerate(wrapped(check.text, width))
    ]
    return lines + [[_MARGIN, (text, "")] for text in hanging("→ ", check.hint or "", width)]


REPORTER = Reporter(name="terminal", suffix=".txt", render=render)
