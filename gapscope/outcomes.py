"""What became of a tool call: exactly one class for each opened delimiter (metrics, section 3).

Whether a tool failed is not in the log; only its answer is. Answers are read with markers, and the markers
in force are part of every report. A tool that reports failure in other words counts as `executed_ok` until
its marker is added under `[error_markers]` in the settings.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, get_args

import msgspec

from gapscope.rollouts import Json, Outcome, ToolCall

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
MODEL_FAULTS: tuple[Outcome, ...] = ("opened_not_closed", "unparseable", "unknown_tool", "bad_arguments")
ENVIRONMENT_FAULTS: tuple[Outcome, ...] = ("no_result", "timeout", "executed_error")

ANY_TOOL = "*"

DEFAULT_MARKERS: Mapping[str, tuple[str, ...]] = {
    ANY_TOOL: (
        r"^\{\s*['\"]error['\"]\s*:",
        r"^\[?error\b\s*[:\]]",
        r"^error (when )?executing tool",
        r"^tool \S+ not found",
        r"^(execution |request |tool |code )?time(d out|out\b)",
        r"^timeouterror",
        r"Traceback \(most recent call last\)",
    ),
}
"""Patterns that mean a call failed, looked for in the beginning of its answer.

One that starts with `^` must stand at the very start, in any case; another one anywhere, as it is written.
"""

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

    def to_json(self) -> str:
        """The patterns as text, always the same for the same ones."""
        return msgspec.json.encode(self.patterns, order="sorted").decode()

    @classmethod
    def from_json(cls, text: str) -> "ErrorMarkers":
        """The markers that `to_json` has written."""
        return cls(msgspec.json.decode(text, type=dict[str, tuple[str, ...]]))

    def judge(self, tool: str, answer: str) -> Outcome:
        """The class of an answered call, such as `timeout` or `executed_ok`."""
        patterns = self.patterns.get(ANY_TOOL, ()) + self.patterns.get(tool, ())
        if not patterns:
            return "executed_unknown"
        head = answer[:READ_CHARACTERS].lstrip()
        at_start, anywhere = _compiled(patterns)
        if not at_start.match(head) and not anywhere.search(head):
            return "executed_ok"
        if _TIMEOUT.search(head):
            return "timeout"
        if _UNKNOWN_TOOL.search(head):
            return "unknown_tool"
        if _BAD_ARGUMENTS.search(head):
            return "bad_arguments"
        return "executed_error"


@cache
def _compiled(patterns: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What must stand at the start, and what may stand anywhere: most are the former, and cost nothing."""
    at_start = [pattern for pattern in patterns if pattern.startswith("^")]
    anywhere = [pattern for pattern in patterns if not pattern.startswith("^")]
    never = r"(?!)"
    return re.compile("|".join(at_start) or never, re.IGNORECASE), re.compile("|".join(anywhere) or never)


class CallBody(NamedTuple):
    """A call that could be read: its tool, its arguments, and whether those have a usable form."""

    name: str
    arguments: Json
    arguments_valid: bool


@dataclass(slots=True)
class FoundCall:
    """An opened call delimiter, before it is known what the tool list and the answer say about it.

    `fault` is what the log itself says went wrong, where it says so: nothing is then read out of the answer.
    """

    turn: int
    span: int | None
    raw: str
    body: CallBody | None
    closed: bool
    in_think: bool
    result: str | None = None
    result_span: int | None = None
    fault: Outcome | None = None
    body_start: int | None = None


def classify(
    *,
    in_think: bool,
    closed: bool,
    name: str | None,
    arguments_valid: bool,
    declared_tools: list[str] | None,
    answer: str | None,
    markers: ErrorMarkers,
    fault: Outcome | None = None,
) -> Outcome:
    """The class of one call, first match wins; without a declared list `unknown_tool` rests on the answer."""
    if in_think:
        return "in_think"
    if not closed:
        return "opened_not_closed"
    if name is None:
        return "unparseable"
    if fault is not None:
        return fault
    if declared_tools is not None and name not in declared_tools:
        return "unknown_tool"
    if not arguments_valid:
        return "bad_arguments"
    if answer is None:
        return "no_result"
    return markers.judge(name, answer)


def judge_calls(
    found: list[FoundCall],
    *,
    declared_tools: list[str] | None,
    markers: ErrorMarkers,
    finish_reason: str | None = None,
) -> list[ToolCall]:
    """The calls of one rollout with their outcome classes and flags (metrics section 3)."""
    calls: list[ToolCall] = []
    seen: set[str] = set()
    last = len(found) - 1
    for index, call in enumerate(found):
        name, arguments, valid = call.body or (None, None, False)
        repeated = False
        if name is not None and last > 0:
            key = f"{name}\0{_canonical(arguments)}"
            repeated = key in seen
            seen.add(key)
        truncated = None
        if finish_reason is not None:
            truncated = finish_reason == "length" and not call.closed and index == last
        calls.append(
            ToolCall(
                index=index,
                turn=call.turn,
                span=call.span,
                raw=call.raw,
                name=name,
                arguments=arguments,
                opened=True,
                closed=call.closed,
                parsed=name is not None,
                executed=name is not None and call.result is not None,
                in_think=call.in_think,
                outcome=classify(
                    in_think=call.in_think,
                    closed=call.closed,
                    name=name,
                    arguments_valid=valid,
                    declared_tools=declared_tools,
                    answer=call.result,
                    markers=markers,
                    fault=call.fault,
                ),
                result=call.result,
                result_span=call.result_span,
                truncated=truncated,
                empty_result=call.result is not None and not call.result.strip(),
                repeated=repeated,
                body_start=call.body_start,
            ),
        )
    return calls


def _canonical(arguments: Json) -> str:
    if isinstance(arguments, dict):
        return "{" + ",".join(f"{k!r}:{_canonical(arguments[k])}" for k in sorted(arguments)) + "}"
    if isinstance(arguments, list):
        return "[" + ",".join(map(_canonical, arguments)) + "]"
    return repr(arguments)


def normalised_call(name: str | None, arguments: Json, raw: str) -> str:
    """A call as text in which what makes no difference is alike: the order of keys, case, blanks, 1 and 1.0.

    One that could not be read is its own text, without regard to case and blanks.
    """
    return _alike(raw) if name is None else f"{name}({_normalised(arguments)})"


def _normalised(arguments: Json) -> str:
    if isinstance(arguments, dict):
        return "{" + ",".join(f"{_alike(key)}:{_normalised(arguments[key])}" for key in sorted(arguments)) + "}"
    if isinstance(arguments, list):
        return "[" + ",".join(map(_normalised, arguments)) + "]"
    if isinstance(arguments, str):
        return repr(_alike(arguments))
    if isinstance(arguments, float) and arguments.is_integer():
        return repr(int(arguments))
    return repr(arguments)


def _alike(text: str) -> str:
    return " ".join(text.casefold().split())
