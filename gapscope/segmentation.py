"""How the text of a rollout is cut into thinking, calls, results and answers, whatever the delimiters.

Calls inside thinking, in the prompt or echoed in a result are no attempts; a call that is never closed is one.
Role lines (`user`, `tool`, `assistant` alone on a line) are what is left of a chat template whose special
tokens were dropped on decoding; with the special tokens kept they are recognised as well.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from gapscope.outcomes import CallBody, FoundCall
from gapscope.roles import (
    ASSISTANT_MARK,
    ASSISTANT_NEXT,
    ROLE_AFTER_CALL,
    TURN_END,
    TURN_ENDS,
    TURN_START,
    RoleLine,
    first_in,
    role_lines,
)
from gapscope.rollouts import Span, SpanKind


class Segments(NamedTuple):
    """The cut of one output: number of model turns, spans that cover it, calls in order of appearance."""

    turns: int
    spans: list[Span]
    calls: list[FoundCall]


@dataclass(frozen=True)
class Tags:
    """The literal delimiters of a dialect, and how the body of a call is read."""

    call_open: str
    call_close: str
    read_body: Callable[[str], CallBody | None]
    think_open: str = "<think>"
    think_close: str = "</think>"
    result_open: str = "<tool_response>"
    result_close: str = "</tool_response>"
    answer_open: str = "<answer>"
    answer_close: str = "</answer>"

    @cached_property
    def all_tags(self) -> tuple[str, ...]:
        """Every tag, and what chat templates write around turns."""
        return (
            self.think_open, self.think_close, self.call_open, self.call_close, self.result_open, self.result_close,
            self.answer_open, self.answer_close, TURN_START, TURN_END,
        )  # fmt: skip

    @cached_property
    def opening_tags(self) -> re.Pattern[str]:
        """Any tag that begins something."""
        opening = (self.think_open, self.call_open, self.result_open, self.answer_open)
        return re.compile("|".join(map(re.escape, opening)))

    @cached_property
    def next_result(self) -> re.Pattern[str]:
        """What stands between two results of one turn, which may have a role line each."""
        role = r"(?:(?:<\|im_start\|>)?(?:user|tool)\n\s*)?"
        return re.compile(r"\s*(?:<\|im_end\|>\s*)?" + role + re.escape(self.result_open))


def cut(tags: Tags, text: str, *, opens_in_thinking: bool = False) -> Segments:
    """Spans that cover a text without a gap, and the calls in it in order of appearance."""
    role = text.find(ASSISTANT_MARK)
    if role < 0 and not opens_in_thinking and text.startswith(tags.think_open) and (plain := _plain(tags, text)):
        return plain
    return _Cut(tags, text, role).run(opens_in_thinking=opens_in_thinking)


def _plain(tags: Tags, text: str) -> Segments | None:
    """The cut of the commonest output, one thinking block and then text or an answer; None for any other.

    Looks at every `<` instead of searching for one tag after another: a single character is found at the
    speed of memory, and there are few of them.
    """
    if text.endswith(ASSISTANT_MARK[:-1]):
        return None
    ends: list[int] = []
    expected = iter((tags.think_close, tags.answer_open, tags.answer_close))
    at = text.find("<", 1)
    while at >= 0:
        if text.startswith(tags.all_tags, at):
            tag = next(expected, None)
            if tag is None or not text.startswith(tag, at):
                return None
            ends.append(at if tag == tags.answer_open else at + len(tag))
        at = text.find("<", at + 1)
    if len(ends) not in {1, 3}:
        return None
    spans: list[Span] = []
    start = 0
    for kind, end in zip(_PLAIN_KINDS, (*ends, len(text)), strict=False):
        if end > start:
            spans.append(Span(kind, 0, start, end, sampled=True))
            start = end
    return Segments(1, spans, [])


_PLAIN_KINDS: tuple[SpanKind, ...] = ("think", "text", "answer", "text")


class _Cut:
    """The state of one cut: where we are, in which turn, and what was found so far."""

    def __init__(self, tags: Tags, text: str, role: int) -> None:
        """`role` is where an assistant line may be first, -1 where there is none but perhaps at the end."""
        self.tags = tags
        self.text = text
        self.size = len(text)
        self.position = 0
        self.turn = 0
        self.spans: list[Span] = []
        self.calls: list[FoundCall] = []
        self.unanswered: list[FoundCall] = []
        self.first_call = text.find(tags.call_open)
        has_calls = self.first_call >= 0
        # A rollout that repeats an opening tag to its end would be searched to its end for each of them.
        self.last_close = text.rfind(tags.call_close) if has_calls else -1
        self.assistant = role_lines(text, "assistant", self.size if role < 0 else role)
        self.environment: list[RoleLine] = []
        if self.assistant or (has_calls and tags.result_open in text):
            self.environment = sorted(role_lines(text, "user", 0) + role_lines(text, "tool", 0))

    def run(self, *, opens_in_thinking: bool) -> Segments:
        thinking = opens_in_thinking or self._starts_inside_thinking()
        while self.position < self.size:
            thinking = self._think(self.position) if thinking else self._write()
        last = self.spans[-1].turn if self.spans and self.spans[-1].sampled else self.turn - 1
        turns = (last or 0) + 1 if self.spans else 0
        return Segments(turns, self.spans, self.calls)

    def _starts_inside_thinking(self) -> bool:
        """A closing tag before any opening one, in this turn and not in an argument of a call."""
        text, tags, start = self.text, self.tags, self.position
        if text.startswith(tags.think_open, start):
            return False
        close = text.find(tags.think_close, start)
        if close < 0 or text.find(tags.think_open, start, close) >= 0:
            return False
        if first_in(self.assistant, start, close):
            return False
        call = text.rfind(tags.call_open, start, close)
        if call < 0:
            return True
        body = call + len(tags.call_open)
        closing = text.find(tags.call_close, body)
        return closing < close or tags.read_body(text[body:closing]) is None

    def add(self, kind: SpanKind, end: int, *, sampled: bool = True) -> None:
        if end > self.position:
            self.spans.append(Span(kind, self.turn, self.position, end, sampled))
            self.position = end

    def _think(self, content: int) -> bool:
        """Take the thinking block whose content begins at `content`; true when what follows is thinking."""
        text, tags = self.text, self.tags
        close = text.find(tags.think_close, content)
        end = self.size if close < 0 else close + len(tags.think_close)
        speaker = self._speaker(content - 1, end, before=end)
        if speaker:
            end = speaker.start
        call = text.find(tags.call_open, content, end) if 0 <= self.first_call < end else -1
        while call >= 0:
            body = call + len(tags.call_open)
            closing = text.find(tags.call_close, body, end) if body <= self.last_close else -1
            reopened = text.find(tags.call_open, body, end if closing < 0 else closing)
            read = None if closing < 0 else tags.read_body(text[body:closing])
            closed = closing >= 0 and (read is not None or reopened < 0)
            stop = closing if closed else reopened if reopened >= 0 else end
            found = FoundCall(self.turn, len(self.spans), text[body:stop], read, closed, in_think=True)
            self.calls.append(found)
            if closed:
                self.unanswered.append(found)
                result = self._bare_result(stop + len(tags.call_close), end)
                if result >= 0:
                    self.add("think", result)
                    self._tagged_results(result, announced=False)
                    return True
            call = text.find(tags.call_open, stop, end)
        self.add("think", end)
        return self._listen(speaker) if speaker else False

    def _write(self) -> bool:
        """Take text up to and with the next tag; true when what follows is thinking."""
        text, tags = self.text, self.tags
        search_from = self.position
        while match := tags.opening_tags.search(text, search_from):
            tag, start = match[0], match.start()
            if speaker := self._speaker(self.position - 1, start, before=self.size):
                return self._listen(speaker)
            if tag == tags.think_open:
                self.add("text", start)
                return self._think(match.end())
            if tag == tags.call_open:
                self.add("text", start)
                return self._call(match.end())
            search_from = match.end()
            if tag == tags.answer_open:
                close = text.find(tags.answer_close, search_from)
                if close >= 0 and not self._interrupted(search_from, close):
                    self.add("text", start)
                    self.add("answer", close + len(tags.answer_close))
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
        called = self.text.find(self.tags.call_open, start, end) >= 0
        return called or self._speaker(start - 1, end, before=self.size) is not None

    def _speaker(self, start: int, end: int, *, before: int) -> RoleLine | None:
        """The first role line of the environment that begins in [start, end).

        It is one only if a result follows, or an assistant line that begins before `before`.
        """
        line = first_in(self.environment, start, end)
        while line:
            answered = self.text.startswith(self.tags.result_open, line.content)
            if answered or first_in(self.assistant, line.content - 1, before):
                return line
            line = first_in(self.environment, line.content, end)
        return None

    def _bare_result(self, start: int, end: int) -> int:
        """Where the result tag is that follows `start` and that no role line announces; -1 without one.

        In a text with assistant lines only the environment's turns hold results, and a tag elsewhere is
        the policy's own invention, unless the next assistant line follows the result at once.
        """
        text, tags = self.text, self.tags
        while start < end and text[start].isspace():
            start += 1
        if not text.startswith(tags.result_open, start, end):
            return -1
        if self.assistant:
            close = text.find(tags.result_close, start)
            if close < 0 or not ASSISTANT_NEXT.match(text, close + len(tags.result_close)):
                return -1
        return start

    def _listen(self, line: RoleLine) -> bool:
        """Take the environment's turn; true when the next one starts inside thinking."""
        self.add("text", line.start)
        self._environment(line.content)
        return self._starts_inside_thinking()

    def _call(self, body: int) -> bool:
        """Take the call whose body begins at `body`; true when what follows is thinking."""
        text, tags = self.text, self.tags
        close = text.find(tags.call_close, body) if body <= self.last_close else -1
        end = self.size if close < 0 else close
        speaker = self._speaker(body - 1, end, before=self.size)
        reopened = text.find(tags.call_open, body, end)
        span = len(self.spans)
        if close >= 0:
            raw = text[body:close]
            parsed = tags.read_body(raw)
            # A tag inside an argument is part of the argument, provided that the whole can be read.
            if parsed is not None or (reopened < 0 and speaker is None):
                self.add("tool_call", close + len(tags.call_close))
                found = FoundCall(self.turn, span, raw, parsed, closed=True, in_think=False)
                self.calls.append(found)
                self.unanswered.append(found)
                if after := ROLE_AFTER_CALL.match(text, self.position):
                    return self._listen(RoleLine(self.position, after.end()))
                return False
        end = min((stop for stop in (reopened, speaker.start if speaker else -1) if stop >= 0), default=self.size)
        if not self.assistant and (result := text.find(tags.result_open, body, end)) >= 0:
            end = result
        self.add("tool_call", end)
        self.calls.append(FoundCall(self.turn, span, text[body:end], None, closed=False, in_think=False))
        return self._listen(speaker) if speaker and speaker.start == end else False

    def _environment(self, content: int) -> None:
        """Take what the environment wrote, from its role line to the next assistant line."""
        text, tags = self.text, self.tags
        opening = content
        while opening < self.size and text[opening].isspace():
            opening += 1
        if text.startswith(tags.result_open, opening):
            self._tagged_results(opening, announced=True)
            return
        # From the newline before the content: an empty result leaves the two role lines back to back.
        line = first_in(self.assistant, content - 1, self.size)
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
        line = first_in(self.environment, content - 1, end) if len(self.unanswered) > 1 else None
        while line and len(pieces) < len(self.unanswered):
            pieces.append(self.text[start : max(start, line.start)])
            start = line.content
            line = first_in(self.environment, start - 1, end)
        pieces.append(self.text[start:end])
        return pieces if len(pieces) <= len(self.unanswered) else [self.text[content:end]]

    def _tagged_results(self, opening: int, *, announced: bool) -> None:
        """Take the results from the tag at `opening` on, and the assistant line after them.

        A closing tag ends a result if another result, an assistant line or the end of the text follows. In a
        turn that a role line announced, others are echoes; the last before the next assistant line counts.
        """
        text, tags = self.text, self.tags
        results: list[str] = []
        content = opening + len(tags.result_open)
        close = text.find(tags.result_close, content)
        while True:
            stop = content if close < 0 else close + len(tags.result_close)
            if close >= 0:
                if another := tags.next_result.match(text, stop):
                    results.append(text[content:close])
                    content = another.end()
                    close = text.find(tags.result_close, content)
                    continue
                if end := TURN_ENDS.match(text, stop):
                    stop = end.end()
                    break
            if line := first_in(self.assistant, stop, self.size) if announced else None:
                limit, after = line
            elif self.assistant or close < 0:
                limit = after = self.size
            else:
                break
            echo = -1 if close < 0 else text.find(tags.result_close, stop, limit)
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
