"""Which tokens each span and each call of a rollout is made of: exactly, or not at all.

Tokens are spelled out, by a tokenizer from their ids or as the log spells them, and must give the text that was logged.
Where the log holds messages instead of one text, what the policy wrote in a turn is spelled out and cut anew, and its
calls must be those of the messages. Nothing is matched by likeness: what does not fit stays unknown, with the reason.
"""

import re
from bisect import bisect_left, bisect_right
from codecs import getincrementaldecoder
from collections.abc import Sequence
from itertools import accumulate, groupby, pairwise
from typing import Literal, NamedTuple

from msgspec.structs import replace

from gapscope.cutting.segmentation import Segments
from gapscope.dialects import DIALECTS, Dialect
from gapscope.outcomes import ErrorMarkers, FoundCall, judge_calls
from gapscope.rollouts import CallTokens, Rollout, Span, Tokens, ToolCall, Turn
from gapscope.tokenizer import Vocabulary

Alignment = Literal[
    "logged", "ids", "strings", "no_tokens", "no_tokenizer", "unknown_ids", "other_text", "other_turns", "other_calls"
]
"""How spans and tokens were brought together, or why they could not be.

`logged`: the log says it. `ids`, `strings`: by the text of the tokens. `unknown_ids`: ids that the tokenizer does not
have. `other_text`: the tokens spell another text than the one logged. `other_turns`: not as many stretches of sampled
tokens as turns. `other_calls`: in some turn the tokens hold other calls than the messages.
"""

ALIGNED: tuple[Alignment, ...] = ("logged", "ids", "strings")

_SPECIAL = re.compile(r"<[|｜][^<>]*[|｜]>|</?s>")
_UNKNOWN = "\ufffd"


class Spelling(NamedTuple):
    """A text, and for each token that it is made of where in it the token ends, in characters."""

    text: str
    ends: list[int]


class Aligner:
    """Brings the tokens of rollouts and their spans together.

    Without a `vocabulary` ids cannot be spelled out, but tokens that were logged as strings can.
    """

    def __init__(self, dialect: Dialect, markers: ErrorMarkers, vocabulary: Vocabulary | None = None) -> None:
        self._dialect = dialect
        self._markers = markers
        self._vocabulary = vocabulary

    def align(self, rollout: Rollout) -> Alignment:
        """Fill in the token offsets of spans and calls, as far as they are certain.

        A rollout that was logged without text gets its text from its tokens.
        """
        tokens = rollout.tokens
        if tokens is None or not len(tokens):
            return "no_tokens"
        if any(span.token_start is not None for span in rollout.spans):
            return "logged"
        if self._vocabulary is not None and tokens.ids is not None:
            pieces = self._vocabulary.pieces(tokens.ids)
            if pieces is None:
                return "unknown_ids"
            special = [token in self._vocabulary.special for token in tokens.ids]
            return self._align(rollout, tokens, _Speller(pieces, special), "ids")
        if tokens.strings is not None:
            return self._align(rollout, tokens, _Speller.of_strings(tokens.strings), "strings")
        return "no_tokenizer"

    def _align(self, rollout: Rollout, tokens: Tokens, speller: "_Speller", how: Alignment) -> Alignment:
        start = tokens.n_prompt or 0
        if not rollout.output and not rollout.spans:
            self._read_text(rollout, speller, start)
        spelling = speller.reproduce(rollout.output, start)
        if spelling is not None:
            _place(rollout, spelling, start)
            return how
        if rollout.output_origin != "joined":
            return "other_text"
        return self._align_turns(rollout, tokens, speller, how)

    def _read_text(self, rollout: Rollout, speller: "_Speller", start: int) -> None:
        """Take the text of a rollout from its tokens, and cut it."""
        prompt, output = speller.spell(0, start).text, speller.spell(start, speller.size).text
        segments = self._dialect.segment(output, opens_in_thinking=self._dialect.opens_thinking(prompt))
        rollout.output = output
        rollout.prompt = prompt if rollout.prompt is None and start else rollout.prompt
        rollout.dialect = self._dialect.name
        rollout.declared_tools = rollout.declared_tools or self._dialect.declared_tools(prompt)
        rollout.turns = [Turn(index) for index in range(segments.turns)]
        rollout.spans = segments.spans
        rollout.calls = judge_calls(
            segments.calls,
            declared_tools=rollout.declared_tools,
            markers=self._markers,
            finish_reason=rollout.finish_reason,
        )

    def _align_turns(self, rollout: Rollout, tokens: Tokens, speller: "_Speller", how: Alignment) -> Alignment:
        """Match what was sampled in each turn with the messages of that turn."""
        runs = _sampled_runs(tokens)
        turns = sorted({span.turn for span in rollout.spans if span.sampled and span.turn is not None})
        if len(runs) != len(turns):
            return "other_turns"
        spans, calls = list(rollout.spans), list(rollout.calls)
        for turn, (start, end) in zip(turns, runs, strict=True):
            spelling = speller.spell(start, end)
            before = speller.spell(max(0, start - _LOOK_BACK), start).text
            attempts = [call for call in rollout.calls if call.turn == turn and not call.in_think]
            cut = self._cut_as(spelling.text, before, [call.name for call in attempts])
            if cut is None:
                return "other_calls"
            found = [call for call in cut.calls if not call.in_think]
            for call, place in zip(attempts, found, strict=True):
                calls[call.index] = replace(call, tokens=_tokens_of(place, cut.spans, spelling, start))
            _match_spans(spans, turn, cut, spelling, start)
        rollout.spans, rollout.calls = spans, calls
        return how

    def _cut_as(self, text: str, before: str, names: list[str | None]) -> Segments | None:
        """The cut of one turn that gives these calls: in the run's own dialect, or else in any other."""
        for dialect in (self._dialect, *(other for other in DIALECTS if other.shown_by == "call")):
            cut = dialect.segment(text, opens_in_thinking=dialect.opens_thinking(before))
            found = [call.body.name if call.body else None for call in cut.calls if not call.in_think]
            if found == names:
                return cut
        return None


_LOOK_BACK = 16
"""Tokens before a turn that say whether the template has opened its thinking."""


class _Speller:
    """Tokens as text: their pieces, and which of them are special tokens, which trainers may drop from a text."""

    def __init__(self, pieces: Sequence[bytes], special: Sequence[bool]) -> None:
        self._pieces = pieces
        self._special = special
        self._strings: list[str] | None = None

    @classmethod
    def of_strings(cls, strings: list[str]) -> "_Speller":
        """Of tokens that were logged as text, each by itself."""
        pieces = [string.encode("utf-8", "surrogatepass") for string in strings]
        speller = cls(pieces, [_SPECIAL.fullmatch(string) is not None for string in strings])
        speller._strings = strings
        return speller

    @property
    def size(self) -> int:
        """The number of tokens."""
        return len(self._pieces)

    def spell(self, start: int, end: int) -> Spelling:
        """The tokens [start, end) as text."""
        return _spelled(self._pieces[start:end])

    def reproduce(self, text: str, start: int) -> Spelling | None:
        """The tokens from `start` on as this very text, with or without special tokens and blanks around it."""
        pieces, special = self._pieces[start:], self._special[start:]
        found = _spelled_as(text, pieces)
        if found is None and any(special):
            found = _spelled_as(
                text, [b"" if left_out else piece for piece, left_out in zip(pieces, special, strict=True)]
            )
        if found or self._strings is None or not any(_UNKNOWN in string for string in self._strings):
            return found
        strings = self._strings[start:]
        shown = ["" if left_out else string for string, left_out in zip(strings, special, strict=True)]
        return _spelled_with_gaps(strings, text) or _spelled_with_gaps(shown, text)


def _spelled_as(text: str, pieces: Sequence[bytes]) -> Spelling | None:
    """These pieces as the text, but for blanks around it."""
    spelling = _spelled(pieces)
    if spelling.text == text:
        return spelling
    if spelling.text.strip() != text.strip() or not text.strip():
        return None
    shift = _blanks_before(text) - _blanks_before(spelling.text)
    return Spelling(text, [min(max(end + shift, 0), len(text)) for end in spelling.ends])


def _blanks_before(text: str) -> int:
    return len(text) - len(text.lstrip())


def _spelled(pieces: Sequence[bytes]) -> Spelling:
    joined = b"".join(pieces)
    if joined.isascii():
        return Spelling(joined.decode("ascii"), list(accumulate(map(len, pieces))))
    # A character of several tokens is the last one's.
    decoder = getincrementaldecoder("utf-8")("replace")
    decode = decoder.decode
    texts = [decode(piece) for piece in pieces]
    texts[-1] += decode(b"", final=True)
    return Spelling("".join(texts), list(accumulate(map(len, texts))))


def _spelled_with_gaps(strings: Sequence[str], text: str) -> Spelling | None:
    """The tokens of a text, of which some were written as U+FFFD because they are a part of a character only.

    Such a run stands for all characters beyond ASCII up to the next token, which must begin with ASCII: otherwise where
    one ends and the other begins could only be guessed.
    """
    ends: list[int] = []
    position, waiting = 0, False
    for string in strings:
        for part in re.split(f"({_UNKNOWN}+)", string):
            if part.startswith(_UNKNOWN):
                waiting = True
            elif part:
                if waiting:
                    beyond = _beyond_ascii(text, position)
                    if beyond == position or not part[0].isascii():
                        return None
                    position, waiting = beyond, False
                    if ends and string.startswith(part):
                        ends[-1] = position
                if not text.startswith(part, position):
                    return None
                position += len(part)
        ends.append(position)
    if waiting:
        position = ends[-1] = _beyond_ascii(text, position)
    return Spelling(text, ends) if position == len(text) else None


def _beyond_ascii(text: str, start: int) -> int:
    """Where the characters beyond ASCII end that begin at `start`."""
    while start < len(text) and not text[start].isascii():
        start += 1
    return start


def _place(rollout: Rollout, spelling: Spelling, first: int) -> None:
    """Fill in the offsets of all spans and calls of a text that the tokens from `first` on spell."""
    bounds = _bounds(rollout.spans, spelling.ends)
    rollout.calls = [
        call if call.in_think else replace(call, tokens=_tokens_of(call, rollout.spans, spelling, first) or call.tokens)
        for call in rollout.calls
    ]
    rollout.spans = [
        replace(span, token_start=first + bounds[index], token_end=first + bounds[index + 1])
        for index, span in enumerate(rollout.spans)
    ]


def _bounds(spans: Sequence[Span], ends: Sequence[int]) -> list[int]:
    """The first token of each span, and the number of tokens: each token is in one span.

    A token on both sides of a boundary belongs to the call, where there is one, and else to the span it begins in.
    """
    bounds = [0]
    for before, after in pairwise(spans):
        own = after.kind == "tool_call" and before.kind != "tool_call"
        bounds.append(max(bounds[-1], _begun(ends, after.start) if own else _ended(ends, before.end)))
    return [*bounds, max(bounds[-1], _ended(ends, spans[-1].end))] if spans else bounds


def _begun(ends: Sequence[int], character: int) -> int:
    """The token that this character is in."""
    return bisect_right(ends, character)


def _ended(ends: Sequence[int], character: int) -> int:
    """How many tokens it takes to spell everything before this character."""
    return 0 if character == 0 else min(bisect_left(ends, character) + 1, len(ends))


def _tokens_of(call: ToolCall | FoundCall, spans: Sequence[Span], spelling: Spelling, first: int) -> CallTokens | None:
    """The tokens of a call, of which the first of the text is number `first`; None where its place is not known."""
    if call.span is None or call.body_start is None:
        return None
    text, ends = spelling
    span, body = spans[call.span], call.body_start
    start = _begun(ends, span.start)
    branch = max(start, _ended(ends, body))
    end = max(branch, _ended(ends, span.end))
    body_end = max(branch, _ended(ends, body + len(call.raw) if call.closed else span.end))
    shared = text[body : ends[branch - 1]] if branch else ""
    return CallTokens(
        start=first + start,
        branch=first + branch,
        body_end=first + min(end, body_end),
        end=first + end,
        mixed=bool(shared.strip()),
    )


def _sampled_runs(tokens: Tokens) -> list[tuple[int, int]]:
    """The stretches of tokens that the policy wrote."""
    runs: list[tuple[int, int]] = []
    position = 0
    for own, group in groupby(tokens.sampled or ()):
        size = sum(1 for _ in group)
        if own:
            runs.append((position, position + size))
        position += size
    return runs


def _match_spans(spans: list[Span], turn: int, cut: Segments, spelling: Spelling, first: int) -> None:
    """Give the thinking and the calls of one turn the tokens that their like has in the cut, if there are as many."""
    bounds = _bounds(cut.spans, spelling.ends)
    for kind in ("think", "tool_call"):
        wanted = [index for index, span in enumerate(spans) if span.turn == turn and span.kind == kind]
        found = [index for index, span in enumerate(cut.spans) if span.kind == kind]
        if len(wanted) != len(found):
            continue
        for index, place in zip(wanted, found, strict=True):
            start, end = first + bounds[place], first + bounds[place + 1]
            spans[index] = replace(spans[index], token_start=start, token_end=end)
