"""What holds for every reporter: the registry is walked."""

import subprocess
import sys
from pathlib import Path

import pytest

import gapscope.reporters
from gapscope.errors import UnknownName
from gapscope.report import Report
from gapscope.reporters import REPORTERS, Reporter, reporter_named

each_reporter = pytest.mark.parametrize("reporter", REPORTERS, ids=lambda reporter: reporter.name)


def test_names_and_suffixes_are_unique() -> None:
    assert REPORTERS[0].name == "terminal"
    assert len({reporter.name for reporter in REPORTERS}) == len(REPORTERS)
    assert len({reporter.suffix for reporter in REPORTERS}) == len(REPORTERS)
    assert all(reporter.suffix.startswith(".") for reporter in REPORTERS)


@each_reporter
def test_a_reporter_is_found_by_its_name(reporter: Reporter) -> None:
    assert reporter_named(reporter.name) is reporter


def test_an_unknown_name_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="unknown format 'markdwon'") as caught:
        reporter_named("markdwon")
    assert caught.value.hint == "Did you mean markdown?"


@each_reporter
def test_every_reporter_takes_every_report(reporter: Reporter, ordinary: Report, small: Report) -> None:
    for report in (ordinary, small):
        text = reporter.render(report)
        assert text.endswith("\n")
        assert reporter.render(report) == text


def test_importing_the_reporters_is_light() -> None:
    # A stand-in for the package keeps its __init__, which imports everything, out of the measurement.
    package = Path(gapscope.reporters.__file__).parents[1]
    program = f"""
import sys, types
package = types.ModuleType("gapscope")
package.__path__ = [{str(package)!r}]
sys.modules["gapscope"] = package
import gapscope.reporters
print([name for name in ("rich.console", "rich.text", "polars", "duckdb", "plotly") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
