"""How the text of a rollout is cut into thinking, calls, results and answers, whatever the delimiters.

A dialect whose delimiters are literal tags is one `TaggedDialect`: its tags, and a function that reads the
body of a call. Everything else about a rollout is the same in all of them: calls inside thinking, in the
prompt or echoed in a result are no attempts, and a call that is never closed is still an attempt.
"""

import re
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

from gapscope.outcomes import ErrorMarkers, classify
from gapscope.rollouts import Json, Span, SpanKind, ToolCall, Turn


class CallBody(NamedTuple):
    """A call that could be read: its tool, its arguments, and whether those have a usable form."""

    name: str
    arguments: Json
    arguments_valid: bool


@dataclass(slots=True)
class FoundCall:
    """An opened call delimiter, before it is known what the tool list and the answer say about it."""

    turn: int
    span: int | None
    raw: str
    body: CallBody | None
    closed: bool
    in_think: bool
    result: str | None = None
    result_span: int | None = None


class Segments(NamedTuple):
    """The cut of one output: number of model turns, spans that cover it, calls in order of appearance."""

    turns: int
    spans: list[Span]
    calls: list[FoundCall]


class Dialect(Protocol):
    """One tool-call syntax."""

    @property
    def name(self) -> str:
        """The dialect's name in records and reports."""

    def occurs_in(self, text: str) -> bool:
        """Whether an opening call delimiter of this dialect stands anywhere in the text."""

    def segment(self, text: str, *, opens_in_thinking: bool = False) -> Segments:
        """Cut one output."""

    def opens_thinking(self, prompt: str) -> bool:
        """Whether the prompt ends inside a thinking block that the template has opened."""

    def declared_tools(self, prompt: str) -> list[str] | None:
        """Names of the tools that the prompt offers; None where it carries no list."""


@dataclass(frozen=True)
class TaggedDialect:
    """A dialect with literal opening and closing tags.

    Role lines (`user`, `tool`, `assistant` alone on a line) are what is left of a chat template whose
    special tokens were dropped on decoding; with the special tokens kept they are recognised as well.
    """

    name: str
    call_open: str
    call_close: str
    read_body: Callable[[str], CallBody | None]
    read_tools: Callable[[str], list[str] | None]
    think_open: str = "<think>"
    think_close: str = "</think>"
    result_open: str = "<tool_response>"
    result_close: str = "</tool_response>"
    answer_open: str = "<answer>"
    answer_close: str = "</answer>"

    def occurs_in(self, text: str) -> bool:
        """Whether the opening call tag stands anywhere in the text."""
        return self.call_open in text

    def opens_thinking(self, prompt: str) -> bool:
        """Whether the prompt ends with the opening thinking tag."""
        return prompt[-64:].rstrip().endswith(self.think_open)

    def declared_tools(self, prompt: str) -> list[str] | None:
        """Names of the tools that the prompt offers; None where it carries no list."""
        return self.read_tools(prompt)

    def segment(self, text: str, *, opens_in_thinking: bool = False) -> Segments:
        """Cut one output into spans that cover it without a gap."""
        cut = _Cut(self, text)
        if not opens_in_thinking and not cut.has_calls and not cut.assistant and text.startswith(self.think_open):
            # The commonest output by far: one thinking block, then text.
            close = text.find(self.think_close)
            if close >= 0:
                cut.add("think", close + len(self.think_close))
                if text.find("<", cut.position) < 0:
                    cut.add("text", cut.size)
                    return Segments(1, cut.spans, cut.calls)
        return cut.run(opens_in_thinking=opens_in_thinking)

    @cached_property
    def _tags(self) -> re.Pattern[str]:
        opening = (self.think_open, self.call_open, self.result_open, self.answer_open)
        return re.compile("|".join(map(re.escape, opening)))

    @cached_property
    def _next_result(self) -> re.Pattern[str]:
        # Several results stand in one environment turn, or each in its own.
        role = r"(?:(?:<\|im_start\|>)?(?:user|tool)\n\s*)?"
        return re.compile(r"\s*(?:<\|im_end\|>\s*)?" + role + re.escape(self.result_open))


_TURN_ENDS = re.compile(r"\s*(?:<\|im_end\|>\s*)?(?:(?:<\|im_start\|>)?assistant(?:\n|\Z)|\Z)")
_ROLE_AFTER_CALL = re.compile(r"\s*(?:<\|im_end\|>\s*)?(?:<\|im_start\|>)?(?:user|tool)\n")
_TURN_START, _TURN_END = "<|im_start|>", "<|im_end|>"


class RoleLine(NamedTuple):
    """Where a role line of the chat template begins, and where its content does."""

    start: int
    content: int


def _role_lines(text: str, role: str) -> list[RoleLine]:
    """The lines that hold nothing but this role; its newline may be cut off at the very end."""
    lines: list[RoleLine] = []
    mark = f"{role}\n"
    at = text.find(mark)
    while at >= 0:
        _append_if_line(lines, text, at, at + len(mark))
        at = text.find(mark, at + len(mark))
    if text.endswith(role):
        _append_if_line(lines, text, len(text) - len(role), len(text))
    return lines


def _append_if_line(lines: list[RoleLine], text: str, at: int, content: int) -> None:
    start = at - len(_TURN_START) if text.endswith(_TURN_START, 0, at) else at
    if start == at and not text.endswith("\n", 0, at):
        return
    if text.endswith("\n", 0, start):
        start -= 1
    if text.endswith(_TURN_END, 0, start):
        start -= len(_TURN_END)
    lines.append(RoleLine(start, content))


class _Cut:
    """The state of one cut: where we are, in which turn, and what was found so far."""

    def __init__(self, dialect: TaggedDialect, text: str) -> None:
        self.dialect = dialect
        self.text = text
        self.size = len(text)
        self.position = 0
        self.turn = 0
        self.spans: list[Span] = []
        self.calls: list[FoundCall] = []
        self.unanswered: list[FoundCall] = []
        self.has_calls = dialect.call_open in text
        self.assistant = _role_lines(text, "assistant")
        self.environment = (
            sorted(_role_lines(text, "user") + _role_lines(text, "tool"))
            if self.assistant or (self.has_calls and dialect.result_open in text)
            else []
        )

    def run(self, *, opens_in_thinking: bool) -> Segments:
        thinking = opens_in_thinking or self._starts_inside_thinking()
        while self.position < self.size:
            thinking = self._think(self.position) if thinking else self._write()
        last = self.spans[-1].turn if self.spans and self.spans[-1].sampled else self.turn - 1
        turns = (last or 0) + 1 if self.spans else 0
        return Segments(turns, self.spans, self.calls)

    def _starts_inside_thinking(self) -> bool:
        """A closing tag before any opening one, in this turn and not in an argument of a call."""
        text, dialect, start = self.text, self.dialect, self.position
        if text.startswith(dialect.think_open, start):
            return False
        close = text.find(dialect.think_close, start)
        if close < 0 or text.find(dialect.think_open, start, close) >= 0:
            return False
        if _first(self.assistant, start, close):
            return False
        call = text.rfind(dialect.call_open, start, close)
        if call < 0:
            return True
        body = call + len(dialect.call_open)
        closing = text.find(dialect.call_close, body)
        return closing < close or dialect.read_body(text[body:closing]) is None

    def add(self, kind: SpanKind, end: int, *, sampled: bool = True) -> None:
        if end > self.position:
            self.spans.append(Span(kind, self.turn, self.position, end, sampled))
            self.position = end

    def _think(self, content: int) -> bool:
        """Take the thinking block whose content begins at `content`; true when what follows is thinking."""
        text, dialect = self.text, self.dialect
        close = text.find(dialect.think_close, content)
        end = self.size if close < 0 else close + len(dialect.think_close)
        speaker = self._speaker(content - 1, end, before=end)
        if speaker:
            end = speaker.start
        call = text.find(dialect.call_open, content, end)
        while call >= 0:
            body = call + len(dialect.call_open)
            closing = text.find(dialect.call_close, body, end)
            reopened = text.find(dialect.call_open, body, end if closing < 0 else closing)
            read = None if closing < 0 else dialect.read_body(text[body:closing])
            closed = closing >= 0 and (read is not None or reopened < 0)
            stop = closing if closed else reopened if reopened >= 0 else end
            found = FoundCall(self.turn, len(self.spans), text[body:stop], read, closed, in_think=True)
            self.calls.append(found)
            if closed:
                self.unanswered.append(found)
                result = self._bare_result(stop + len(dialect.call_close), end)
                if result >= 0:
                    self.add("think", result)
                    self._tagged_results(result, announced=False)
                    return True
            call = text.find(dialect.call_open, stop, end)
        self.add("think", end)
        return self._listen(speaker) if speaker else False

    def _write(self) -> bool:
        """Take text up to and with the next tag; true when what follows is thinking."""
        text, dialect = self.text, self.dialect
        search_from = self.position
        while match := dialect._tags.search(text, search_from):
            tag, start = match[0], match.start()
            if speaker := self._speaker(self.position - 1, start, before=self.size):
                return self._listen(speaker)
            if tag == dialect.think_open:
                self.add("text", start)
                return self._think(match.end())
            if tag == dialect.call_open:
                self.add("text", start)
                return self._call(match.end())
            search_from = match.end()
            if tag == dialect.answer_open:
                close = text.find(dialect.answer_close, search_from)
                if close >= 0 and not self._interrupted(search_from, close):
                    self.add("text", start)
                    self.add("answer", close + len(dialect.answer_close))
                    return False
            elif self._bare_result(start, self.size) >= 0:
                self.add("text", start)
                self._tagged_results(start, announced=False)
                return self._starts_inside_thinking()
        if speaker := self._speaker(self.position - 1, self.size, before=self.size):
            return self._listen(speaker)
        self.add("text", self.size)
        return False

    def _interrupted(self, start: int, end: int) -> bool:
        """Whether a call or the environment stands in what looks like one answer."""
        called = self.text.find(self.dialect.call_open, start, end) >= 0
        return called or self._speaker(start - 1, end, before=self.size) is not None

    def _speaker(self, start: int, end: int, *, before: int) -> RoleLine | None:
        """The first role line of the environment that begins in [start, end).

        It is one only if a result follows, or an assistant line that begins before `before`.
        """
        line = _first(self.environment, start, end)
        while line:
            answered = self.text.startswith(self.dialect.result_open, line.content)
            if answered or _first(self.assistant, line.content - 1, before):
                return line
            line = _first(self.environment, line.content, end)
        return None

    def _bare_result(self, start: int, end: int) -> int:
        """Where the result tag is that follows `start` and that no role line announces; -1 without one.

        In a text with assistant lines only the environment's turns hold results, and a tag elsewhere is
        the policy's own invention, unless the next assistant line follows the result at once.
        """
        text, dialect = self.text, self.dialect
        while start < end and text[start].isspace():
            start += 1
        if not text.startswith(dialect.result_open, start, end):
            return -1
        if self.assistant:
            close = text.find(dialect.result_close, start)
            if close < 0 or not _TURN_ENDS.match(text, close + len(dialect.result_close)):
                return -1
        return start

    def _listen(self, line: RoleLine) -> bool:
        """Take the environment's turn; true when the next one starts inside thinking."""
        self.add("text", line.start)
        self._environment(line.content)
        return self._starts_inside_thinking()

    def _call(self, body: int) -> bool:
        """Take the call whose body begins at `body`; true when what follows is thinking."""
        text, dialect = self.text, self.dialect
        close = text.find(dialect.call_close, body)
        end = self.size if close < 0 else close
        speaker = self._speaker(body - 1, end, before=self.size)
        reopened = text.find(dialect.call_open, body, end)
        span = len(self.spans)
        if close >= 0:
            raw = text[body:close]
            parsed = dialect.read_body(raw)
            # A tag inside an argument is part of the argument, provided that the whole can be read.
            if parsed is not None or (reopened < 0 and speaker is None):
                self.add("tool_call", close + len(dialect.call_close))
                found = FoundCall(self.turn, span, raw, parsed, closed=True, in_think=False)
                self.calls.append(found)
                self.unanswered.append(found)
                if after := _ROLE_AFTER_CALL.match(text, self.position):
                    return self._listen(RoleLine(self.position, after.end()))
                return False
        stops = [reopened, speaker.start if speaker else -1]
        if not self.assistant:
            stops.append(text.find(dialect.result_open, body, end))
        end = min((stop for stop in stops if stop >= 0), default=self.size)
        self.add("tool_call", end)
        self.calls.append(FoundCall(self.turn, span, text[body:end], None, closed=False, in_think=False))
        return self._listen(speaker) if speaker and speaker.start == end else False

    def _environment(self, content: int) -> None:
        """Take what the environment wrote, from its role line to the next assistant line."""
        text, dialect = self.text, self.dialect
        opening = content
        while opening < self.size and text[opening].isspace():
            opening += 1
        if text.startswith(dialect.result_open, opening):
            self._tagged_results(opening, announced=True)
            return
        # From the newline before the content: an empty result leaves the two role lines back to back.
        line = _first(self.assistant, content - 1, self.size)
        end, stop = (max(content, line.start), line.content) if line else (self.size, self.size)
        if self.unanswered:
            self._results(self._by_role_line(content, end), stop)
        else:
            self.add("prompt", stop, sampled=False)
            self.turn += 1

    def _by_role_line(self, content: int, end: int) -> list[str]:
        """Results without tags: one for each role line, unless that makes more of them than calls."""
        pieces: list[str] = []
        start = content
        line = _first(self.environment, content - 1, end) if len(self.unanswered) > 1 else None
        while line and len(pieces) < len(self.unanswered):
            pieces.append(self.text[start : max(start, line.start)])
            start = line.content
            line = _first(self.environment, start - 1, end)
        pieces.append(self.text[start:end])
        return pieces if len(pieces) <= len(self.unanswered) else [self.text[content:end]]

    def _tagged_results(self, opening: int, *, announced: bool) -> None:
        """Take the results from the tag at `opening` on, and the assistant line after them.

        A closing tag ends a result if another result, an assistant line or the end of the text follows. In a
        turn that a role line announced, others are echoes; the last before the next assistant line counts.
        """
        text, dialect = self.text, self.dialect
        results: list[str] = []
        content = opening + len(dialect.result_open)
        close = text.find(dialect.result_close, content)
        while True:
            stop = content if close < 0 else close + len(dialect.result_close)
            if close >= 0:
                if another := dialect._next_result.match(text, stop):
                    results.append(text[content:close])
                    content = another.end()
                    close = text.find(dialect.result_close, content)
                    continue
                if end := _TURN_ENDS.match(text, stop):
                    stop = end.end()
                    break
            if line := _first(self.assistant, stop, self.size) if announced else None:
                limit, after = line
            elif self.assistant or close < 0:
                limit = after = self.size
            else:
                break
            echo = -1 if close < 0 else text.find(dialect.result_close, stop, limit)
            if echo < 0:
                stop = after
                close = limit if close < 0 else close
                break
            close = echo
        results.append(text[content:close])
        self._results(results, stop)

    def _results(self, results: list[str], stop: int) -> None:
        """Give the results to the calls they answer, and begin the next turn.

        These are the attempts that could be read, or if there are more results than those, the readable calls
        inside thinking too, or every call.
        """
        span = len(self.spans)
        self.add("tool_result", stop, sampled=False)
        readable = [call for call in self.unanswered if call.body is not None]
        attempts = [call for call in readable if not call.in_think]
        enough = (calls for calls in (attempts, readable) if len(results) <= len(calls))
        for call, result in zip(next(enough, self.unanswered), results, strict=False):
            call.result = result.strip("\n")
            call.result_span = span
        self.unanswered = []
        self.turn += 1


def _first(lines: list[RoleLine], start: int, end: int) -> RoleLine | None:
    """The first line that begins in [start, end)."""
    if not lines:
        return None
    at = bisect_left(lines, (start,))
    return lines[at] if at < len(lines) and lines[at].start < end else None


def turns_of(segments: Segments) -> list[Turn]:
    """The turns of a cut; nothing more than their number is in a text."""
    return [Turn(index) for index in range(segments.turns)]


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
                ),
                result=call.result,
                result_span=call.result_span,
                truncated=truncated,
                empty_result=call.result is not None and not call.result.strip(),
                repeated=repeated,
            ),
        )
    return calls


def _canonical(arguments: Json) -> str:
    if isinstance(arguments, dict):
        return "{" + ",".join(f"{k!r}:{_canonical(arguments[k])}" for k in sorted(arguments)) + "}"
    if isinstance(arguments, list):
        return "[" + ",".join(map(_canonical, arguments)) + "]"
    return repr(arguments)
