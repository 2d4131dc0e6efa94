"""Outputs. A new one is one file here and one entry in REPORTERS."""

from gapscope.errors import UnknownName
from gapscope.reporters import github, json_, junit, markdown, terminal
from gapscope.reporters.base import Reporter
from gapscope.reporters.terminal import print_report

REPORTERS: tuple[Reporter, ...] = (
    terminal.REPORTER,
    json_.REPORTER,
    markdown.REPORTER,
    junit.REPORTER,
    github.REPORTER,
)
"""Every output; the first is for people at a terminal."""

__all__ = ["REPORTERS", "Reporter", "print_report", "reporter_named"]


def reporter_named(name: str) -> Reporter:
    """The reporter of that name.

    Raises:
        UnknownName: there is none; the error names the nearest ones.

    """
    by_name = {reporter.name: reporter for reporter in REPORTERS}
    if name not in by_name:
        raise UnknownName("format", name, by_name)
    return by_name[name]
