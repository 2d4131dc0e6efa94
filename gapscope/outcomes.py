"""What became of a tool call: exactly one class for each opened delimiter (metrics, section 3).

Whether a tool failed is not in the log; only its answer is. Answers are read with markers, and the markers
in force are part of every report. A tool that reports failure in other words counts as `executed_ok` until
its marker is added under `[error_markers]` in the settings.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import get_args

import msgspec

from gapscope.rollouts import Outcome

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
MODEL_FAULTS: tuple[Outcome, ...] = ("opened_not_closed", "unparseable", "unknown_tool", "bad_arguments")
ENVIRONMENT_FAULTS: tuple[Outcome, ...] = ("no_result", "timeout", "executed_error")

ANY_TOOL = "*"

DEFAULT_MARKERS: Mapping[str, tuple[str, ...]] = {
    ANY_TOOL: (
        r"^\{\s*['\"]error['\"]\s*:",
        r"^\[?error\b\s*[:\]]",
        r"^error when executing tool",
        r"^tool \S+ not found",
        r"^(execution |request |tool |code )?time(d out|out\b)",
        r"^timeouterror",
        r"traceback \(most recent call last\)",
    ),
}
"""Patterns (case-insensitive, searched in the beginning of an answer) that mean the call failed."""

# Inside an answer that is an error already, these say which kind; a quoted `timeout=` is no time-out.
_TIMEOUT = re.compile(r"time[d ]*out(?!\s*=)|time limit exceeded|deadline exceeded", re.IGNORECASE)
_UNKNOWN_TOOL = re.compile(r"\btool \S+ not found|unknown (tool|function)|no such tool", re.IGNORECASE)
_BAD_ARGUMENTS = re.compile(
    r"missing \d+ required|unexpected keyword argument|invalid arguments?\b|validation error"
    r"|is a required property|required (argument|parameter)",
    re.IGNORECASE,
)

READ_CHARACTERS = 4096
"""How much of an answer is searched for a marker; errors come first, and answers can be megabytes."""


class ErrorMarkers(msgspec.Struct, frozen=True):
    """Patterns by tool name (`*` for every tool); a tool without any cannot be told to have failed or not."""

    patterns: dict[str, tuple[str, ...]] = msgspec.field(default_factory=lambda: dict(DEFAULT_MARKERS))

    def judge(self, tool: str, answer: str) -> Outcome:
        """The class of an answered call, such as `timeout` or `executed_ok`."""
        patterns = self.patterns.get(ANY_TOOL, ()) + self.patterns.get(tool, ())
        if not patterns:
            return "executed_unknown"
        head = answer[:READ_CHARACTERS].lstrip()
        if not _any_of(patterns).search(head):
            return "executed_ok"
        if _TIMEOUT.search(head):
            return "timeout"
        if _UNKNOWN_TOOL.search(head):
            return "unknown_tool"
        if _BAD_ARGUMENTS.search(head):
            return "bad_arguments"
        return "executed_error"


@cache
def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{p})" for p in patterns), re.IGNORECASE)


def classify(
    *,
    in_think: bool,
    closed: bool,
    name: str | None,
    arguments_valid: bool,
    declared_tools: list[str] | None,
    answer: str | None,
    markers: ErrorMarkers,
) -> Outcome:
    """The class of one call, first match wins; without a declared list `unknown_tool` rests on the answer."""
    if in_think:
        return "in_think"
    if not closed:
        return "opened_not_closed"
    if name is None:
        return "unparseable"
    if declared_tools is not None and name not in declared_tools:
        return "unknown_tool"
    if not arguments_valid:
        return "bad_arguments"
    if answer is None:
        return "no_result"
    return markers.judge(name, answer)
