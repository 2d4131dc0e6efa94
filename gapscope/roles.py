"""What a chat template leaves between turns: role lines, with its special tokens or without."""

import re
from bisect import bisect_left
from typing import NamedTuple

_ASSISTANT = r"(?:<\|im_start\|>)?assistant(?:\n|\Z)"
ASSISTANT_NEXT = re.compile(r"\s*(?:<\|im_end\|>\s*)?" + _ASSISTANT)
TURN_ENDS = re.compile(r"\s*(?:<\|im_end\|>\s*)?(?:" + _ASSISTANT + r"|\Z)")
ROLE_AFTER_CALL = re.compile(r"\s*(?:<\|im_end\|>\s*)?(?:<\|im_start\|>)?(?:user|tool)\n")
ASSISTANT_MARK = "assistant\n"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"


class RoleLine(NamedTuple):
    """Where a role line of the chat template begins, and where its content does."""

    start: int
    content: int


def role_lines(text: str, role: str, start: int) -> list[RoleLine]:
    """The lines from `start` on that hold nothing but this role; its newline may be cut off at the very end."""
    lines: list[RoleLine] = []
    mark = f"{role}\n"
    at = text.find(mark, start)
    while at >= 0:
        _append_if_line(lines, text, at, at + len(mark))
        at = text.find(mark, at + len(mark))
    if text.endswith(role):
        _append_if_line(lines, text, len(text) - len(role), len(text))
    return lines


def _append_if_line(lines: list[RoleLine], text: str, at: int, content: int) -> None:
    start = at - len(TURN_START) if text.endswith(TURN_START, 0, at) else at
    if start == at and not text.endswith("\n", 0, at):
        return
    if text.endswith("\n", 0, start):
        start -= 1
    if text.endswith(TURN_END, 0, start):
        start -= len(TURN_END)
    lines.append(RoleLine(start, content))


def first_in(lines: list[RoleLine], start: int, end: int) -> RoleLine | None:
    """The first line that begins in [start, end)."""
    if not lines:
        return None
    at = bisect_left(lines, (start,))
    return lines[at] if at < len(lines) and lines[at].start < end else None
