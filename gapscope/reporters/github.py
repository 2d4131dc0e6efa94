"""Annotations for GitHub Actions: workflow commands on standard output, ten of them at most.

GitHub shows about ten per kind and step and drops the rest without a word, so everything is aggregated: one
per check that did not pass, one per finding, one for all refused rows.
"""

from typing import Final, Literal, NamedTuple

from gapscope.report import Check, Finding, Report
from gapscope.reporters.base import Reporter, cleaned, count

MOST: Final = 10

Level = Literal["error", "warning", "notice"]
_LEVELS: Final[tuple[Level, ...]] = ("error", "warning", "notice")


class _Annotation(NamedTuple):
    level: Level
    title: str
    text: str
    file: str | None = None
    line: int | None = None


def render(report: Report) -> str:
    """One command per line, errors first; what does not fit is counted in the last one."""
    report = cleaned(report)
    findings = [finding for finding in report.findings if not _repeats(finding, report)]
    found = [*_checks(report), *(_finding(finding, report) for finding in findings), *_refused(report)]
    found.sort(key=lambda annotation: _LEVELS.index(annotation.level))
    if not found:
        found = [_Annotation("notice", "gapscope", report.headline)]
    if len(found) > MOST:
        left = len(found) - MOST + 1
        found = [
            *found[: MOST - 1],
            _Annotation(found[MOST - 1].level, "gapscope", f"{left} more in the report."),
        ]
    return "".join(_command(annotation) + "\n" for annotation in found)


def _checks(report: Report) -> list[_Annotation]:
    if report.verdict is None:
        return []
    found = [_check(check) for check in report.verdict.checks if check.outcome in {"failed", "could_not_judge"}]
    if report.verdict.exit_code and not found:
        found.append(_Annotation("error", "gapscope gate", report.verdict.text))
    return found


def _check(check: Check) -> _Annotation:
    title = "gate failed" if check.outcome == "failed" else "gate could not judge"
    return _Annotation("error", f"{title}: {check.key}", _with_advice(check.text, check.hint))


def _finding(finding: Finding, report: Report) -> _Annotation:
    level: Level = "warning" if finding.severity in {"problem", "warning"} else "notice"
    if finding.severity == "problem" and _failed(report) & set(finding.metrics):
        level = "error"
    return _Annotation(level, finding.title, _with_advice(finding.text, finding.action))


def _repeats(finding: Finding, report: Report) -> bool:
    """Whether this finding points at the first refused row, as the annotation for refused rows does."""
    return any(f"{row.file}:{row.line}" in finding.text for row in report.refused[:1])


def _with_advice(text: str, advice: str | None) -> str:
    return f"{text}\n→ {advice}" if advice else text


def _failed(report: Report) -> set[str]:
    """Metrics that a check failed, with and without the part of them that it compared (`.lo`, `.hi`, …)."""
    checks = report.verdict.checks if report.verdict else []
    keys = {check.key for check in checks if check.outcome == "failed"}
    return keys | {key.rpartition(".")[0] for key in keys}


def _refused(report: Report) -> list[_Annotation]:
    if not report.refused:
        return []
    first = report.refused[0]
    reasons = "; ".join(f"{row.rows:,}: {row.reason} ({row.file}:{row.line})" for row in report.refused[:5])
    more = f"; {count(len(report.refused) - 5, 'more reason')}" if len(report.refused) > 5 else ""
    title = f"{count(sum(row.rows for row in report.refused), 'row')} refused"
    return [_Annotation("warning", title, reasons + more, first.file, first.line)]


def _command(annotation: _Annotation) -> str:
    place = {"file": annotation.file, "line": annotation.line, "title": annotation.title}
    properties = ",".join(f"{key}={_property(str(value))}" for key, value in place.items() if value is not None)
    return f"::{annotation.level} {properties}::{_data(annotation.text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


REPORTER = Reporter(name="github", suffix=".github", render=render)
