"""What a tool is: something that executes the calls of a continuation, and whose failure costs that one alone."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, Self

from gapscope.failures import Failure
from gapscope.rollouts import Json


class Call(NamedTuple):
    """One call to execute: the tool's name, its arguments, and the encoded images that the policy has seen so far."""

    name: str
    arguments: Mapping[str, Json]
    images: tuple[bytes, ...] = ()


class ToolResult(NamedTuple):
    """What the policy is told: a text, and encoded images. An `error` is an answer like any other, and begins so."""

    text: str
    images: tuple[bytes, ...] = ()
    error: bool = False


def failed(what: str) -> ToolResult:
    """The answer to a call that went wrong, in the words by which an audit knows it (`gapscope.outcomes`)."""
    return ToolResult(f"Error: {what}", error=True)


class ToolFailure(Failure):
    """A tool that can answer no call any more, such as a server that is gone: the continuation cannot go on."""


class Session(Protocol):
    """A tool as one continuation has it, with whatever its earlier calls left behind."""

    async def call(self, call: Call) -> ToolResult:
        """Execute one call. What the model did wrong, and what ran out of time, is an answer.

        Raises:
            ToolFailure: the tool itself has failed.

        """

    async def close(self) -> None:
        """Give back what the session holds; nothing that it started goes on."""


class Tool(Protocol):
    """Something that executes calls: an asynchronous context manager that is open for a whole run."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the policy calls it; a server may offer several tools, known once it is open."""

    @property
    def about(self) -> str:
        """One line for people: what it is, and what keeps it in bounds."""

    def session(self) -> Session:
        """The tool for one continuation."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...
