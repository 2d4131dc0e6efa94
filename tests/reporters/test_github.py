"""Annotations for GitHub Actions."""

import re
from collections.abc import Callable

from gapscope.report import Check, Finding, RefusedRows, Report, Verdict
from gapscope.reporters.github import render

Maker = Callable[..., Report]

COMMAND = re.compile(r"::(?P<level>error|warning|notice) (?P<properties>[^:]*)::(?P<text>.*)")


def levels(report: Report) -> list[str]:
    commands = [COMMAND.fullmatch(line) for line in render(report).splitlines()]
    return [command["level"] for command in commands if command]


def finding(severity: str, text: str = "text", *metrics: str) -> Finding:
    return Finding.model_validate({"severity": severity, "title": "title", "text": text, "metrics": list(metrics)})


def check(outcome: str, key: str = "accuracy") -> Check:
    return Check.model_validate(
        {
            "key": key,
            "op": ">=",
            "limit": 0.5,
            "mode": "point",
            "compared": 0.25,
            "n": 8,
            "interval": None,
            "outcome": outcome,
            "text": f"{key} is {outcome}",
        }
    )


def verdict(exit_code: int, *checks: Check) -> Verdict:
    return Verdict.model_validate({"exit_code": exit_code, "checks": list(checks), "text": "the verdict"})


def test_percent_signs_and_separators_are_escaped(bare: Maker) -> None:
    found = Finding(severity="warning", title="50 %, a: b", text="50 %, a: b", action="do\r\nthis")
    assert render(bare(findings=[found])) == ("::warning title=50 %25%2C a%3A b::50 %25, a: b%0A→ do  this\n")


def test_text_cannot_smuggle_in_a_command(bare: Maker) -> None:
    (line,) = render(bare(findings=[finding("note", "x\n::error::boo")])).splitlines()
    assert line == "::notice title=title::x ::error::boo"


def test_every_line_is_a_command(ordinary: Report, small: Report) -> None:
    for report in (ordinary, small):
        assert all(COMMAND.fullmatch(line) for line in render(report).splitlines())


def test_a_problem_is_a_warning_without_a_verdict(bare: Maker) -> None:
    severities = ("good", "note", "warning", "problem")
    assert levels(bare(findings=[finding(s) for s in severities])) == ["warning", "warning", "notice", "notice"]


def test_a_problem_is_an_error_only_when_the_gate_failed_its_metric(bare: Maker) -> None:
    findings = [finding("problem", "a", "accuracy"), finding("problem", "b", "turns_mean")]
    failed = bare(findings=findings, verdict=verdict(1, check("failed", "accuracy.lo"), check("passed", "turns_mean")))
    assert [line.split(" ")[0] for line in render(failed).splitlines()] == ["::error", "::error", "::warning"]
    assert "gate failed%3A accuracy.lo" in render(failed)
    passed = bare(findings=findings, verdict=verdict(0, check("passed")))
    assert levels(passed) == ["warning", "warning"]


def test_a_check_that_could_not_judge_is_an_error_and_a_skipped_one_nothing(bare: Maker) -> None:
    report = bare(verdict=verdict(2, check("could_not_judge"), check("skipped"), check("passed")))
    assert render(report) == "::error title=gate could not judge%3A accuracy::accuracy is could_not_judge\n"


def test_a_verdict_that_no_check_explains_is_an_error(bare: Maker) -> None:
    assert render(bare(verdict=verdict(2))) == "::error title=gapscope gate::the verdict\n"


def test_refused_rows_are_one_annotation_at_the_first_of_them(bare: Maker) -> None:
    refused = [RefusedRows(reason=f"r{i}", rows=10 - i, file="a,b.jsonl", line=i, excerpt="") for i in range(7)]
    assert render(bare(refused=refused)) == (
        "::warning file=a%2Cb.jsonl,line=0,title=49 rows refused::"
        "10: r0 (a,b.jsonl:0); 9: r1 (a,b.jsonl:1); 8: r2 (a,b.jsonl:2); 7: r3 (a,b.jsonl:3); 6: r4 (a,b.jsonl:4); "
        "2 more reasons\n"
    )


def test_a_finding_about_the_same_refused_row_is_not_repeated(bare: Maker) -> None:
    refused = [RefusedRows(reason="r", rows=1, file="a.jsonl", line=3, excerpt="")]
    report = bare(refused=refused, findings=[finding("warning", "1 of 8 rows could not be read: r (a.jsonl:3)")])
    assert render(report) == "::warning file=a.jsonl,line=3,title=1 row refused::1: r (a.jsonl:3)\n"


def test_there_are_ten_annotations_at_most_and_the_last_counts_the_rest(bare: Maker) -> None:
    report = bare(findings=[*(finding("note") for _ in range(12)), finding("problem")])
    lines = render(report).splitlines()
    assert len(lines) == 10
    assert lines[0] == "::warning title=title::text"
    assert lines[-1] == "::notice title=gapscope::4 more in the report."


def test_a_report_with_nothing_to_say_says_so(bare: Maker) -> None:
    assert render(bare()) == "::notice title=gapscope::Nothing to report.\n"
