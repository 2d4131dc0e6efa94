"""The whole report, for programs."""

import json

from gapscope.report import Report
from gapscope.reporters import reporter_named


def test_json_is_the_report_and_reads_back(ordinary: Report) -> None:
    assert Report.model_validate_json(reporter_named("json").render(ordinary)) == ordinary


def test_json_begins_with_its_schema(small: Report) -> None:
    assert next(iter(json.loads(reporter_named("json").render(small)).items())) == ("schema", "gapscope.report/1")
