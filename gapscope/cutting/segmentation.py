"""How the text of a rollout is cut into thinking, calls, results and answers, whatever the delimiters.

Calls inside thinking, in the prompt or echoed in a result are no attempts; a call that is never closed is one.
Role lines (`user`, `tool`, `assistant` alone on a line) are what is left of a chat template whose special
tokens were dropped on decoding; with the special tokens kept they are recognised as well.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from gapscope.cutting.delimiters import Hit, Pair, Tags
from gapscope.cutting.places import Places, Reading
from gapscope.cutting.roles import ASSISTANT_MARK, TURN_START, RoleLine, first_in, role_lines
from gapscope.outcomes import FoundCall
from gapscope.rollouts import Span, SpanKind

FARTHEST_TURN_START = 64
"""How many blank characters and separators may precede the first thing that a turn says."""


class Segments(NamedTuple):
    """The cut of one output: number of model turns, spans that cover it, calls in order of appearance."""

    turns: int
    spans: list[Span]
    calls: list[FoundCall]


def cut(tags: Tags, text: str, *, opens_in_thinking: bool = False) -> Segments:
    """Spans that cover a text without a gap, and the calls in it in order of appearance."""
    hits = tags.hits(text)
    if not opens_in_thinking and len(hits) in _PLAIN_HITS and (plain := _plain(tags, text, hits)):
        return plain
    return _Cut(tags, text, hits).run(opens_in_thinking=opens_in_thinking)


def _plain(tags: Tags, text: str, hits: list[Hit]) -> Segments | None:
    """The cut of the commonest output, one thinking block and then text or an answer; None for any other."""
    (begin, _, opening), (_, end, closing), *answer = hits
    expected = tags.plain
    if begin or not expected or opening != expected[0] or closing != expected[1]:
        return None
    if ASSISTANT_MARK in text or text.endswith(ASSISTANT_MARK[:-1]) or tags.may_have_headers(text):
        return None
    spans = [Span("think", 0, 0, end, sampled=True)]
    if answer:
        (begin, _, opening), (_, stop, closing) = answer
        if opening != expected[2] or closing != expected[3]:
            return None
        if begin > end:
            spans.append(Span("text", 0, end, begin, sampled=True))
        spans.append(Span("answer", 0, begin, stop, sampled=True))
        end = stop
    if end < len(text):
        spans.append(Span("text", 0, end, len(text), sampled=True))
    return Segments(1, spans, [])


_PLAIN_HITS = (2, 4)


class _Cut:
    """The state of one cut: where we are, in which turn, and what was found so far."""

    def __init__(self, tags: Tags, text: str, hits: list[Hit]) -> None:
        self.tags = tags
        self.text = text
        self.size = len(text)
        self.places = places = Places(tags, text, hits)
        self.position = 0
        self.turn = 0
        self.turn_start = 0
        self.spans: list[Span] = []
        self.calls: list[FoundCall] = []
        self.unanswered: list[FoundCall] = []
        self.assistant, self.environment = role_lines(text, tokens=places.has(TURN_START))
        if not self.assistant and not (places.calls and places.results):
            self.environment = []
        if tags.may_have_headers(text):
            for headers in tags.headers:
                assistant, environment = headers.lines(text)
                self.assistant += assistant
                self.environment += environment
            self.assistant.sort()
            self.environment.sort()
        self.certain = [line for line in self.environment if line.certain or places.result_at(line.content)]

    def run(self, *, opens_in_thinking: bool) -> Segments:
        thinking = opens_in_thinking or self._starts_inside_thinking()
        unopened = self.tags.unopened or self.tags.think
        while self.position < self.size:
            thinking = self._think(self.position, unopened) if thinking else self._write()
        last = self.spans[-1].turn if self.spans and self.spans[-1].sampled else self.turn - 1
        turns = (last or 0) + 1 if self.spans else 0
        return Segments(turns, self.spans, self.calls)

    def _starts_inside_thinking(self) -> bool:
        """A closing tag before any opening one, in this turn and not in an argument of a call."""
        start, places = self.position, self.places
        for pair in self.tags.unopened:
            close = places.first(pair.closing, start, self.size)
            if close is None or places.first(pair.opening, start, close[0]):
                continue
            if first_in(self.assistant, start, close[0]):
                continue
            call = places.last_call(start, close[0])
            if call is None:
                return True
            reading = places.read(call, self.size)
            if not reading.closed or reading.body_end < close[0] or reading.calls is None:
                return True
        return False

    def add(self, kind: SpanKind, end: int, *, sampled: bool = True) -> None:
        if end > self.position:
            self.spans.append(Span(kind, self.turn, self.position, end, sampled))
            self.position = end

    def _think(self, content: int, pairs: Sequence[Pair]) -> bool:
        """Take the thinking block whose content begins at `content`; true when what follows is thinking."""
        text, places = self.text, self.places
        closings = (places.first(pair.closing, content, self.size) for pair in pairs)
        end = min((close[1] for close in closings if close), default=self.size)
        speaker = self._speaker(content - 1, end, before=end)
        if speaker:
            end = speaker.start
        hit = places.first_call(content, end)
        while hit:
            reading = places.read(hit, end)
            raw = text[reading.body : reading.body_end]
            found = self._found(reading, raw, len(self.spans), in_think=True)
            self.calls += found
            if reading.closed:
                self.unanswered += found
                result = self._bare_result(reading.end, end)
                if result >= 0:
                    self.add("think", result)
                    self._tagged_results(result, announced=False)
                    return True
            hit = places.first_call(reading.end, end)
        self.add("think", end)
        self.turn_start = end
        return self._listen(speaker) if speaker else False

    def _write(self) -> bool:
        """Take text up to and with the next tag; true when what follows is thinking."""
        openings = self.places.openings
        heard, searched = self.position - 1, self.position
        for index in range(bisect_left(openings, (searched,)), len(openings)):
            hit = openings[index]
            if hit[0] < searched:
                continue
            if speaker := self._speaker(heard, hit[0], before=self.size):
                return self._listen(speaker)
            heard, searched = hit[0], hit[1]
            thinking = self._open(hit)
            if thinking is not None:
                return thinking
        if speaker := self._speaker(heard, self.size, before=self.size):
            return self._listen(speaker)
        self.add("text", self.size)
        return False

    def _open(self, hit: Hit) -> bool | None:
        """Take what a delimiter opens, with the text before it; None where it opens nothing."""
        start, end, tag = hit
        opener = self.tags.openers[tag]
        if opener.kind == "think":
            self.add("text", start)
            return self._think(end, (opener.pair,))
        if opener.kind == "call":
            if not opener.anywhere and not self._first_said(start):
                return None
            self.add("text", start)
            return self._call(hit)
        if opener.kind == "result":
            if self._bare_result(start, self.size) < 0:
                return None
            self.add("text", start)
            self._tagged_results(start, announced=False)
            return self._starts_inside_thinking()
        close = self.places.first(opener.pair.closing, end, self.size)
        if close is None or self._interrupted(end, close[0]):
            return None
        self.add("text", start)
        self.add("answer", close[1])
        return False

    def _first_said(self, start: int) -> bool:
        """Whether the turn says nothing before this."""
        said = self.turn_start
        return start - said <= FARTHEST_TURN_START and not self.text[said:start].strip(" \t\r\n;,")

    def _interrupted(self, start: int, end: int) -> bool:
        """Whether a call or the environment stands in what looks like one answer."""
        called = self.places.first_call(start, end) is not None
        return called or self._speaker(start - 1, end, before=self.size) is not None

    def _speaker(self, start: int, end: int, *, before: int) -> RoleLine | None:
        """The first role line of the environment that begins in [start, end).

        It is one only if it is made of special tokens, if a result follows, or an assistant line that begins
        before `before`.
        """
        line = first_in(self.environment, start, end)
        if line is None or first_in(self.assistant, line.content - 1, before):
            return line
        # An assistant line that does not follow the first of them follows none.
        return first_in(self.certain, start, end)

    def _bare_result(self, start: int, end: int) -> int:
        """Where the result tag is that follows `start` and that no role line announces; -1 without one.

        In a text with assistant lines only the environment's turns hold results, and a tag elsewhere is
        the policy's own invention, unless the next assistant line follows the result at once.
        """
        text, tags = self.text, self.tags
        while start < end and text[start].isspace():
            start += 1
        hit = self.places.result_at(start)
        if hit is None or hit[1] > end:
            return -1
        pair = tags.openers[hit[2]].pair
        if pair.special:
            # At the very end it is the token at which generation stopped.
            return start if hit[1] < self.size else -1
        if self.assistant:
            close = self.places.first(pair.closing, hit[1], self.size)
            if close is None or not tags.assistant_next.match(text, close[1]):
                return -1
        return start

    def _listen(self, line: RoleLine) -> bool:
        """Take the environment's turn; true when the next one starts inside thinking."""
        self.add("text", line.start)
        self._environment(line.content)
        return self._starts_inside_thinking()

    def _found(self, reading: Reading, raw: str, span: int, *, in_think: bool) -> list[FoundCall]:
        """The calls of a block, or the one that could not be read."""
        return [
            FoundCall(self.turn, span, raw, call, reading.closed, in_think=in_think, body_start=reading.body)
            for call in reading.calls or (None,)
        ]

    def _call(self, hit: Hit) -> bool:
        """Take the call that a delimiter opens; true when what follows is thinking."""
        text, tags = self.text, self.tags
        reading = self.places.read(hit, self.size)
        body, end = reading.body, reading.body_end
        speaker = self._speaker(body - 1, end, before=self.size)
        span = len(self.spans)
        whole = reading.calls is not None and not reading.free
        interrupted = speaker is not None or (reading.free and self._result_in(body, end) >= 0)
        if reading.closed and (whole or not interrupted):
            self.add("tool_call", reading.end)
            found = self._found(reading, text[body:end], span, in_think=False)
            self.calls += found
            self.unanswered += found
            if not tags.openers[hit[2]].anywhere:
                self.turn_start = self.position
            if after := tags.environment_next.match(text, self.position):
                return self._listen(RoleLine(self.position, after.end()))
            return False
        if speaker:
            end = min(end, speaker.start)
        if (result := self._result_in(body, end)) >= 0:
            end = result
        self.add("tool_call", end)
        call = FoundCall(self.turn, span, text[body:end], None, closed=False, in_think=False, body_start=body)
        self.calls.append(call)
        return self._listen(speaker) if speaker and speaker.start == end else False

    def _result_in(self, start: int, end: int) -> int:
        """Where the first result in [start, end) begins that no role line needs to announce; -1 without one."""
        hit = self.places.first_result(start, end)
        while hit and self.assistant and not self.tags.openers[hit[2]].pair.special:
            hit = self.places.first_result(hit[1], end)
        return hit[0] if hit else -1

    def _environment(self, content: int) -> None:
        """Take what the environment wrote, from its role line to the next assistant line."""
        text = self.text
        opening = content
        while opening < self.size and text[opening].isspace():
            opening += 1
        if content == self.size and text.endswith(self.tags.stop_tokens):
            # The policy stopped at it, and nobody answered.
            self.add("text", self.size)
            return
        if self.places.result_at(opening):
            self._tagged_results(opening, announced=True)
            return
        # From the newline before the content: an empty result leaves the two role lines back to back.
        line = first_in(self.assistant, content - 1, self.size)
        end, stop = (max(content, line.start), line.content) if line else (self.size, self.size)
        if self.unanswered:
            self._results(self._by_role_line(content, end), stop)
        else:
            self.add("prompt", stop, sampled=False)
            self._next_turn()

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
        text, tags, places = self.text, self.tags, self.places
        results: list[str] = []
        hit = places.result_at(opening)
        while hit:
            pair, content = tags.openers[hit[2]].pair, hit[1]
            end, stop, hit = self._result_end(pair, content, announced=announced)
            results.append(text[content:end])
        self._results(results, stop)

    def _result_end(self, pair: Pair, content: int, *, announced: bool) -> tuple[int, int, Hit | None]:
        """Where a result ends, where what follows it begins, and the next result of the same turn."""
        text, tags, places = self.text, self.tags, self.places
        close = places.first(pair.closing, content, self.size)
        while close:
            end, stop = close
            between = tags.between_results.match(text, stop)
            if between and (another := places.result_at(between.end())):
                return end, another[0], another
            if finish := tags.turn_ends.match(text, stop):
                return end, finish.end(), None
            line = first_in(self.assistant, stop, self.size) if announced else None
            if pair.special or not (line or self.assistant):
                return end, stop, None
            limit, after = (line.start, line.content) if line else (self.size, self.size)
            close = places.first(pair.closing, stop, limit)
            if close is None:
                return end, after, None
        line = first_in(self.assistant, content, self.size) if announced else None
        return (line.start, line.content, None) if line else (self.size, self.size, None)

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
            call.result = self._without_turn_end(result).strip("\n")
            call.result_span = span
        self.unanswered = []
        self._next_turn()

    def _without_turn_end(self, result: str) -> str:
        for token in self.tags.turn_end_tokens:
            result = result.removesuffix(token)
        return result

    def _next_turn(self) -> None:
        self.turn += 1
        self.turn_start = self.position
