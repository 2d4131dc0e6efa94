"""What a dialect is: one tool-call syntax.

A dialect is one `TaggedDialect`: its delimiters, how the body of a call is read, and where a prompt lists its tools.
Everything else about a rollout is the same in all of them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Literal, NamedTuple, Protocol, TypeVar

from gapscope.cutting.call_bodies import no_tools
from gapscope.cutting.delimiters import Tags
from gapscope.cutting.segmentation import Segments, cut
from gapscope.outcomes import FoundCall

Evidence = Literal["call", "answer", "name"]
_Anything = TypeVar("_Anything")


class Frame(NamedTuple):
    """What the environment writes around a result, where no chat template says it.

    The policy's turn before it has ended with its end-of-turn token, or was stopped at the end of the `call`.
    """

    head: str
    tail: str
    ended_by: Literal["turn", "call"] = "call"


class Dialect(Protocol):
    """One tool-call syntax, or several that one run mixes."""

    @property
    def name(self) -> str:
        """The dialect's name in records and reports; of several, their names joined by `+`."""

    @property
    def special(self) -> bool:
        """Whether delimiters are special tokens, which a trainer that skips them on decoding never logs."""

    @property
    def shown_by(self) -> Evidence:
        """What shows that a text is of this dialect: a call that it reads, an answered one, or only its name."""

    def occurs_in(self, text: str) -> bool:
        """Whether the delimiters of this dialect stand in the text."""

    def segment(self, text: str, *, opens_in_thinking: bool = False) -> Segments:
        """Cut one output."""

    def opens_thinking(self, prompt: str) -> bool:
        """Whether the prompt ends inside a thinking block that the template has opened."""

    def declared_tools(self, prompt: str) -> list[str] | None:
        """Names of the tools that the prompt offers; None where it carries no list."""


@dataclass(frozen=True)
class TaggedDialect:
    """A dialect by its delimiters.

    `mark` must stand in a text that shows the dialect, where a call without it might be another syntax badly written.
    `own_tools` are the tools that the syntax itself names, such as `search` in `<search>`. Where its delimiters are
    everyday text, `shown_by` asks for more than a call. `frame` is what results stand in as its trainers write them.
    """

    name: str
    tags: Tags
    read_tools: Callable[[str], list[str] | None] = no_tools
    special: bool = False
    shown_by: Evidence = "call"
    mark: str = ""
    own_tools: tuple[str, ...] = ()
    frame: Frame | None = None

    def occurs_in(self, text: str) -> bool:
        """Whether an opening call delimiter stands in the text, and where that is everyday text an answer to it."""
        if self.shown_by == "call" or not self.may_occur_in(text):
            return self.may_occur_in(text)
        segments = self.segment(text)
        return any(self.answers(call, segments, text) for call in segments.calls)

    def may_occur_in(self, text: str) -> bool:
        """The same at a glance: nothing in the text rules it out."""
        if self.shown_by == "name" or self.mark not in text:
            return False
        answers = self.tags.results if self.shown_by == "answer" else ()
        if answers and not any(pair.occurs_in(text, 0, len(text)) for pair in answers):
            return False
        return any(call.occurs_in(text) for call in self.tags.calls)

    def answers(self, call: FoundCall, segments: Segments, text: str) -> bool:
        """Whether a result of this dialect's own form answers the call; a role line, where it has none.

        Everyday text is no call if anything else stands before the result: what is answered is then that.
        """
        if call.result_span is None or call.span is None:
            return False
        result = segments.spans[call.result_span]
        if self.shown_by == "answer" and text[segments.spans[call.span].end : result.start].strip():
            return False
        return not self.tags.results or any(
            pair.occurs_in(text, result.start, result.end) for pair in self.tags.results
        )

    def opens_thinking(self, prompt: str) -> bool:
        """Whether the prompt ends with an opening thinking tag."""
        end = prompt[-64:].rstrip()
        return end.endswith(self._thinking)

    @cached_property
    def _thinking(self) -> tuple[str, ...]:
        return tuple(pair.opening for pair in self.tags.think if isinstance(pair.opening, str))

    def declared_tools(self, prompt: str) -> list[str] | None:
        """Names of the tools that the prompt offers; None where it carries no list."""
        return self.read_tools(prompt)

    def segment(self, text: str, *, opens_in_thinking: bool = False) -> Segments:
        """Cut one output into spans that cover it without a gap."""
        return cut(self.tags, text, opens_in_thinking=opens_in_thinking)


def combined(dialects: tuple[TaggedDialect, ...]) -> TaggedDialect:
    """Several dialects as one; where they share a delimiter, the earlier one is the first to read what it opens."""
    first, *others = dialects
    if not others:
        return first
    tags = [dialect.tags for dialect in dialects]
    openings = {call.opening for tag in tags for call in tag.calls}
    own = tuple(dict.fromkeys(chain.from_iterable(dialect.own_tools for dialect in dialects)))

    def read_tools(prompt: str) -> list[str] | None:
        lists = (dialect.read_tools(prompt) for dialect in dialects)
        listed = next((names for names in lists if names is not None), None)
        return None if listed is None else [*listed, *own]

    return replace(
        first,
        name="+".join(dialect.name for dialect in dialects),
        tags=Tags(
            calls=_each(tag.calls for tag in tags),
            results=_each(tag.results for tag in tags),
            think=_each(tag.think for tag in tags),
            answers=tuple(pair for pair in _each(tag.answers for tag in tags) if pair.opening not in openings),
            headers=_each(tag.headers for tag in tags),
        ),
        read_tools=read_tools,
        special=any(dialect.special for dialect in dialects),
        own_tools=own,
    )


def _each(several: Iterable[tuple[_Anything, ...]]) -> tuple[_Anything, ...]:
    """Every one once, in order."""
    return tuple(dict.fromkeys(chain.from_iterable(several)))
