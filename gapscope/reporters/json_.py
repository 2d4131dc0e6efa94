"""The report as `gapscope.report/1`: everything, for programs and for a later comparison."""

from gapscope.report import Report
from gapscope.reporters.base import Reporter

REPORTER = Reporter(name="json", suffix=".json", render=Report.to_json)
