"""JUnit XML."""

from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from gapscope.report import Check, Finding, Report, Verdict
from gapscope.reporters.junit import render

Maker = Callable[..., Report]

# What the common schemas (Jenkins, Surefire, windyroad) agree on: children in order, attributes that must be there.
CHILDREN = {
    "testsuites": ["testsuite"],
    "testsuite": ["properties", "testcase", "system-out", "system-err"],
    "properties": ["property"],
    "testcase": ["skipped", "error", "failure", "system-out", "system-err"],
}
REQUIRED = {
    "testsuites": {"tests", "failures", "errors"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time"},
    "property": {"name", "value"},
    "testcase": {"name", "classname", "time"},
    "failure": {"message", "type"},
    "error": {"message", "type"},
    "skipped": {"message"},
}


def validated(report: Report) -> ET.Element:
    root = ET.fromstring(render(report).encode("utf-8"))
    assert root.tag == "testsuites"
    for element in root.iter():
        order = CHILDREN.get(element.tag, [])
        places = [order.index(child.tag) for child in element]
        assert places == sorted(places)
        assert REQUIRED.get(element.tag, set()) <= set(element.keys())
    for suite in (root, *root.iter("testsuite")):
        counted = {"tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"}
        assert {key: int(suite.attrib[key]) for key in counted} == {
            key: len(list(suite.iter(tag))) for key, tag in counted.items()
        }
    assert all(len([child for child in case if child.tag != "system-out"]) <= 1 for case in root.iter("testcase"))
    return root


def outcomes(report: Report) -> list[tuple[str | None, str]]:
    return [(case.get("name"), case[0].tag) for case in validated(report).iter("testcase")]


def check(outcome: str, **rest: Any) -> Check:
    fields = {"key": "accuracy", "op": ">=", "limit": 0.1, "mode": "point", "compared": 0.30000000000000004, "n": 8}
    return Check.model_validate({**fields, "interval": (0.1, 0.5), "outcome": outcome, "text": "said", **rest})


def verdict(exit_code: int, *checks: Check) -> Verdict:
    return Verdict.model_validate({"exit_code": exit_code, "checks": list(checks), "text": "the verdict"})


def test_ordinary_and_small_reports_are_valid(ordinary: Report, small: Report) -> None:
    for report in (ordinary, small):
        validated(report)


def test_each_check_is_a_test_case(bare: Maker) -> None:
    checks = [
        check("passed"),
        check("failed", mode="bound"),
        check("skipped", key="m"),
        check("could_not_judge", op="<="),
    ]
    assert outcomes(bare(verdict=verdict(1, *checks))) == [
        ("accuracy >= 0.1 (point)", "system-out"),
        ("accuracy >= 0.1 (bound)", "failure"),
        ("m >= 0.1 (point)", "skipped"),
        ("accuracy <= 0.1 (point)", "error"),
    ]


def test_a_failure_holds_the_unrounded_number_and_what_to_do(bare: Maker) -> None:
    (failure,) = validated(bare(verdict=verdict(1, check("failed", hint="do this")))).iter("failure")
    assert failure.get("message") == "said"
    assert failure.text == "said\ncompared 0.30000000000000004, 95 % 0.1 to 0.5, n 8\ndo this"


def test_with_a_verdict_findings_fail_nothing(bare: Maker) -> None:
    problem = Finding(severity="problem", title="bad", text="very bad")
    assert outcomes(bare(findings=[problem], verdict=verdict(0, check("passed")))) == [
        ("accuracy >= 0.1 (point)", "system-out")
    ]


@pytest.mark.parametrize(("exit_code", "element"), [(1, "failure"), (2, "error")])
def test_an_exit_code_that_no_check_explains_is_a_test_case(bare: Maker, exit_code: int, element: str) -> None:
    assert outcomes(bare(verdict=verdict(exit_code))) == [("verdict", element)]


def test_without_a_verdict_problems_fail_and_other_findings_pass(bare: Maker) -> None:
    findings = [
        Finding.model_validate({"severity": severity, "title": severity, "text": "text", "action": "act"})
        for severity in ("problem", "warning", "note", "good")
    ]
    root = validated(bare(findings=findings))
    assert [(case.get("name"), case[0].tag, case[0].text) for case in root.iter("testcase")] == [
        ("problem", "failure", "PROBLEM: text\n→ act"),
        ("warning", "system-out", "WARNING: text\n→ act"),
        ("note", "system-out", "NOTE: text\n→ act"),
        ("good", "system-out", "GOOD: text\n→ act"),
    ]


def test_a_report_without_findings_is_one_passed_test(bare: Maker) -> None:
    assert outcomes(bare()) == [("audit", "system-out")]


def test_what_was_read_is_in_the_properties(small: Report) -> None:
    properties = {p.get("name"): p.get("value") for p in validated(small).iter("property")}
    assert properties["version"] == "0.1.0"
    assert properties["read"] == "run.jsonl · 1 file of verl_v1 (hermes) · 8 rows: 8 kept"


def test_characters_that_xml_does_not_know_are_replaced(bare: Maker) -> None:
    findings = [Finding(severity="problem", title="a\x00\ufffe\ud800]]>", text="\x1b[31m<b>&\uffff")]
    (case,) = validated(bare(findings=findings)).iter("testcase")
    assert case.get("name") == "a␀��]]>"
    assert case[0].get("message") == "␛[31m<b>&�"


def test_the_declared_encoding_is_that_of_the_file(small: Report) -> None:
    assert render(small).startswith('<?xml version="1.0" encoding="UTF-8"?>\n<testsuites ')
