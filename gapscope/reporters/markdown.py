"""The report as GitHub-flavoured Markdown: the summary of a job, or a comment on a pull request.

Text from logs is escaped with character references, which no Markdown construct can be made of.
"""

import re
from collections.abc import Container, Iterable, Sequence
from typing import Final

from gapscope.report import Measurement, Report, TableRow, Verdict, show, show_interval, show_number
from gapscope.reporters.base import (
    OUTCOME_WORDS,
    Reporter,
    cell,
    cells,
    census,
    cleaned,
    core,
    count,
    dead_groups,
    marks,
    missing,
    number,
    p_of,
    quantity,
    sections,
    series,
    slices,
    sparkline,
    words,
)
from gapscope.reporters.base.provenance import provenance

_MOST: Final = 20
"""Rows of any list that grows with the log; GitHub cuts a summary at 1 MiB."""

_ALERT: Final = ("TIP", "CAUTION", "WARNING")
"""GitHub's coloured box for each exit code."""


def render(report: Report) -> str:
    """Headline, verdict, core table and findings; all metrics and everything else folded away."""
    report = cleaned(report)
    parts = [
        f"## gapscope\n\n**{_text(report.headline)}**",
        _verdict(report.verdict),
        _core(report),
        _findings(report),
        _census(report),
        _metrics(report),
        _slices(report),
        _missing(report),
        _input(report),
        _dead_groups(report),
        f"<sub>gapscope {_text(report.version)}</sub>",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _verdict(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    rows = [
        [
            OUTCOME_WORDS[check.outcome],
            _text(check.text) + (f"<br>→ {_text(check.hint)}" if check.hint else ""),
        ]
        for check in verdict.checks
    ]
    box = f"> [!{_ALERT[verdict.exit_code]}]\n> **{_text(verdict.text)}**"
    return f"{box}\n\n{_table(['gate', 'check'], rows)}" if rows else box


def _core(report: Report) -> str:
    rates = core(report)
    shown = [m for rate in rates for m in (rate.measured, *(m for _, m in rate.companions))]
    symbols = marks(shown)
    rows = []
    for measured, companions in rates:
        beside = {word: f"{show(m)}{_mark(m, symbols)}" for word, m in companions}
        rows.append(
            [
                _name(measured.name),
                f"**{_text(show(measured))}**{_mark(measured, symbols)}",
                _text(show_interval(measured)),
                _denominator(measured),
                *(_text(beside.get(word, "")) for word in ("expected", "excess", "p")),
                sparkline(series(measured), width=20),
            ]
        )
    head = ["rate", "value", "95 %", "of", "expected", "excess", "p", "by step"]
    return _join(_table(head, rows, right={1, 2, 4, 5, 6}), _legend(shown, symbols)) if rows else ""


def _denominator(measured: Measurement) -> str:
    return _text(f"not in this log: {measured.reason}" if measured.status == "unobserved" else quantity(measured))


def _findings(report: Report) -> str:
    lines = [
        f"- **{f.severity.upper()} · {_text(f.title)}**"
        + ("" if f.text == report.headline else f"<br>{_text(f.text)}")
        + (f"<br>→ {_text(f.action)}" if f.action else "")
        for f in report.findings
    ]
    return _join("### Findings", "\n".join(lines)) if lines else ""


def _census(report: Report) -> str:
    states, counted = census(report)
    rows = [[_text(words(tool)), *(f"{counted.get((tool, other), 0):,}" for other in states)] for tool in states]
    head = ["tool-using ↓ / others →", *(_text(words(state)) for state in states)]
    return _folded("Census of groups", _table(head, rows, right=range(1, len(head)))) if rows else ""


def _metrics(report: Report) -> str:
    found = sections(report)
    shown = [measured for _, measurements in found for measured in measurements]
    symbols = marks(shown)
    parts = []
    for title, measurements in found:
        rows = [
            [
                _name(m.name),
                f"{_text(show(m))}{_mark(m, symbols)}",
                _text(show_interval(m) or p_of(m)),
                _text(quantity(m)),
                sparkline(series(m), width=20),
            ]
            for m in measurements
        ]
        parts.append(_join(f"#### {title}", _table(["metric", "value", "95 %", "of", "by step"], rows, right={1, 2})))
        parts += [_join(_name(m.name), _free(cells(m), m)) for m in measurements if cells(m)]
    return _folded(f"All {count(len(shown), 'other metric')}", _join(*parts, _legend(shown, symbols))) if shown else ""


def _slices(report: Report) -> str:
    parts = []
    for key, rates, labelled in slices(report):
        rows = [
            [_name(label), *(_in_slice(rate, row) for rate, row in zip(rates, by_rate, strict=True))]
            for label, by_rate in labelled[:_MOST]
        ]
        head = [_text(key), *(_name(rate.name) for rate in rates)]
        parts.append(_join(_table(head, rows, right=range(1, len(head))), _more(len(labelled), "row")))
    return _folded("By slice", _join(*parts)) if parts else ""


def _in_slice(rate: Measurement, row: TableRow | None) -> str:
    n = number(row.get("n")) if row else None
    value = _text(show_number(number(row.get("value")) if row else None, rate.unit))
    return value if n is None else f"{value} of {n:,.0f}"


def _missing(report: Report) -> str:
    rows = [[", ".join(map(_name, row.names)), _text(row.reason), _text(row.setting or "–")] for row in missing(report)]
    return _folded("Not in this log", _table(["metrics", "why", "what would add them"], rows)) if rows else ""


def _input(report: Report) -> str:
    facts = [f"- {word}: {_text(' · '.join(found))}" for word, found in provenance(report)]
    rule = report.correctness
    facts += [f"- {_text(text)}" for text in (rule.message, rule.hint) if text]
    refused = [[f"{r.rows:,}", _text(r.reason), _name(f"{r.file}:{r.line}")] for r in report.refused[:_MOST]]
    unread = sorted(report.passed_over, key=lambda file: not file.unreadable)
    passed = [[_name(f.path), _text(f.reason), "unreadable" if f.unreadable else ""] for f in unread[:_MOST]]
    parts = [
        "\n".join(facts),
        _table(["refused rows", "why", "first at"], refused, right={0}) if refused else "",
        _more(len(report.refused), "reason"),
        _table(["file not read", "why", ""], passed) if passed else "",
        _more(len(unread), "file"),
    ]
    return _folded("What was read", _join(*parts))


def _dead_groups(report: Report) -> str:
    rows = dead_groups(report)
    table = _join(_free(rows), _more(len(rows), "group"))
    return _folded(f"{count(len(rows), 'dead group')}", table) if rows else ""


def _free(rows: Sequence[TableRow], measured: Measurement | None = None) -> str:
    """A table of free-form rows: a column per key."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    unit = measured.unit if measured else "ratio"
    body = [[_text(cell(key, row.get(key), unit)) for key in keys] for row in rows[:_MOST]]
    return _table([_text(words(key)) for key in keys], body)


def _mark(measured: Measurement, symbols: dict[str, str]) -> str:
    if measured.status == "annotated":
        return f" {symbols.get(measured.reason or 'annotated', '')}"
    return " thin" if measured.status == "thin" else ""


def _legend(shown: Sequence[Measurement], symbols: dict[str, str]) -> str:
    lines = [f"{symbol} {_text(reason)}" for reason, symbol in symbols.items()]
    if any(m.status == "thin" for m in shown):
        lines.append("thin: too little evidence to judge by")
    return "<br>".join(lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Container[int] = ()) -> str:
    rule = ["--:" if i in right else ":--" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{_text(title)}</summary>\n\n{body}\n\n</details>"


def _join(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def _more(n: int, thing: str) -> str:
    return f"and {count(n - _MOST, f'more {thing}')}" if n > _MOST else ""


def _name(text: str) -> str:
    """A name in code type; one with anything unusual in it is escaped instead of quoted."""
    return f"`{text}`" if re.fullmatch(r"[\w.\[\]@/:… -]*\w[\w.\[\]@/:… -]*", text) else f"<code>{_text(text)}</code>"


def _text(text: str) -> str:
    """Text in which nothing is markup: no HTML, table cell, emphasis, link, image or mention."""
    return _SPECIAL.sub(lambda found: "@<!-- -->" if found[0] == "@" else f"&#{ord(found[0])};", text)


# An underscore inside a word means nothing, and metric names are easier to read with it.
_SPECIAL: Final = re.compile(r"[&<|`*$\[\]\\~@]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=:)/(?=/)|(?<=www)\.")

REPORTER = Reporter(name="markdown", suffix=".md", render=render)
