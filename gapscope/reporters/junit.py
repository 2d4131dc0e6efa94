"""The report as JUnit XML, for the test tab of a CI system.

With a verdict there is one test case per check, and nothing else can fail: the file and the exit code must
agree. Without one there is a test case per finding, and `problem` fails.
"""

import re
from typing import Final, NamedTuple
from xml.etree import ElementTree as ET

from gapscope.report import Check, Finding, Report, Verdict
from gapscope.reporters.base import Reporter, cleaned
from gapscope.reporters.base.provenance import provenance

# Everything outside the Char production of XML 1.0, section 2.2.
_ILLEGAL: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ELEMENTS: Final = {
    "failed": "failure",
    "could_not_judge": "error",
    "skipped": "skipped",
    "passed": "system-out",
}


class _Case(NamedTuple):
    classname: str
    name: str
    element: str
    message: str
    body: str


def render(report: Report) -> str:
    """One `testsuites` document; its counts are those of its elements."""
    report = cleaned(report)
    cases = _of_verdict(report.verdict) if report.verdict else [_of_finding(f) for f in report.findings]
    cases = cases or [_Case("gapscope.audit", "audit", "system-out", "", report.headline)]
    tally = {
        "tests": len(cases),
        "failures": sum(case.element == "failure" for case in cases),
        "errors": sum(case.element == "error" for case in cases),
        "skipped": sum(case.element == "skipped" for case in cases),
    }
    counts = {key: str(n) for key, n in tally.items()}
    root = ET.Element("testsuites", {"name": "gapscope", **counts, "time": "0"})
    suite = ET.SubElement(root, "testsuite", {"name": "gapscope", **counts, "time": "0"})
    properties = ET.SubElement(suite, "properties")
    for name, facts in (("version", [report.version]), *provenance(report)):
        ET.SubElement(properties, "property", {"name": name, "value": _legal(" · ".join(facts))})
    for case in cases:
        _write(suite, case)
    ET.SubElement(suite, "system-out").text = _legal(report.headline)
    ET.indent(root)
    # Written by hand: ElementTree would declare the encoding of this machine's locale.
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _write(suite: ET.Element, case: _Case) -> None:
    names = {"classname": case.classname, "name": _legal(case.name), "time": "0"}
    testcase = ET.SubElement(suite, "testcase", names)
    attributes = {} if case.element == "system-out" else {"message": _legal(case.message)}
    if case.element in {"failure", "error"}:
        attributes["type"] = case.classname
    ET.SubElement(testcase, case.element, attributes).text = _legal(case.body)


def _of_verdict(verdict: Verdict) -> list[_Case]:
    cases = [_of_check(check) for check in verdict.checks]
    element = {1: "failure", 2: "error"}.get(verdict.exit_code)
    if element and all(case.element != element for case in cases):
        # Nothing was scanned, or a crash: the exit code says so, and no check does.
        cases.append(_Case("gapscope.gate", "verdict", element, verdict.text, verdict.text))
    return cases


def _of_check(check: Check) -> _Case:
    name = f"{check.key} {check.op} {check.limit!r} ({check.mode})"
    body = "\n".join(line for line in (check.text, _evidence(check), check.hint) if line)
    return _Case("gapscope.gate", name, _ELEMENTS[check.outcome], check.text, body)


def _evidence(check: Check) -> str:
    # Unrounded: the printed number is the number that was compared.
    facts = [
        f"compared {check.compared!r}" if check.compared is not None else "",
        f"95 % {check.interval[0]!r} to {check.interval[1]!r}" if check.interval else "",
        f"n {check.n}" if check.n is not None else "",
    ]
    return ", ".join(fact for fact in facts if fact)


def _of_finding(finding: Finding) -> _Case:
    element = "failure" if finding.severity == "problem" else "system-out"
    text = f"{finding.severity.upper()}: {finding.text}"
    body = "\n".join(line for line in (text, f"→ {finding.action}" if finding.action else "") if line)
    return _Case("gapscope.findings", finding.title, element, finding.text, body)


def _legal(text: str) -> str:
    return _ILLEGAL.sub("�", text)


REPORTER = Reporter(name="junit", suffix=".xml", render=render)
