"""What a dialect is: one tool-call syntax.

A dialect whose delimiters are literal tags is one `TaggedDialect`: its tags, how the body of a call is read, and
where a prompt lists its tools. Everything else about a rollout is the same in all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gapscope.segmentation import Segments, Tags, cut


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
    """A dialect with literal opening and closing tags."""

    name: str
    tags: Tags
    read_tools: Callable[[str], list[str] | None]

    def occurs_in(self, text: str) -> bool:
        """Whether the opening call tag stands anywhere in the text."""
        return self.tags.call_open in text

    def opens_thinking(self, prompt: str) -> bool:
        """Whether the prompt ends with the opening thinking tag."""
        return prompt[-64:].rstrip().endswith(self.tags.think_open)

    def declared_tools(self, prompt: str) -> list[str] | None:
        """Names of the tools that the prompt offers; None where it carries no list."""
        return self.read_tools(prompt)

    def segment(self, text: str, *, opens_in_thinking: bool = False) -> Segments:
        """Cut one output into spans that cover it without a gap."""
        return cut(self.tags, text, opens_in_thinking=opens_in_thinking)
