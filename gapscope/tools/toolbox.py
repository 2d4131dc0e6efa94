"""All tools of a run, behind one door: each call goes to the tool that has its name."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Self

from gapscope.errors import SettingsError
from gapscope.tools.base import Call, Session, Tool, ToolFailure, ToolResult, failed

LONGEST = 100_000
"""Characters of an answer that the policy is told, unless it is said otherwise."""

_RAISED = "tool raised"


class Toolbox:
    """Some tools, open as long as it is; of an answer that is longer than `longest` characters the rest is left out."""

    def __init__(self, tools: Sequence[Tool], *, longest: int = LONGEST) -> None:
        self._tools = tuple(tools)
        self._longest = longest
        self._by_name: dict[str, Tool] = {}
        self._open = AsyncExitStack()

    @property
    def names(self) -> tuple[str, ...]:
        """What the policy can call; nothing until it is open, as servers say only then what they offer."""
        return tuple(self._by_name)

    @property
    def about(self) -> list[str]:
        """A line for people on each tool."""
        return [tool.about for tool in self._tools]

    def session(self) -> "ToolboxSession":
        """The tools for one continuation."""
        return ToolboxSession(self._by_name, self._longest)

    async def __aenter__(self) -> Self:
        """Open all tools.

        Raises:
            SettingsError: two have the same name.
            GapscopeError: one cannot be opened.

        """
        async with AsyncExitStack() as stack:
            for tool in self._tools:
                await stack.enter_async_context(tool)
            found: dict[str, Tool] = {}
            for tool in self._tools:
                for name in tool.names:
                    if name in found:
                        message = f"two tools are called {name!r}: {found[name].about}; {tool.about}"
                        hint = "Give one another name, NAME=python or NAME=module:function, or `rename` for a server's."
                        raise SettingsError(message, hint=hint)
                    found[name] = tool
            self._by_name = found
            self._open = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._by_name = {}
        await self._open.aclose()


class ToolboxSession:
    """The tools for one continuation. A tool's own session begins with its first call."""

    def __init__(self, tools: Mapping[str, Tool], longest: int) -> None:
        self._tools = tools
        self._longest = longest
        self._sessions: dict[int, Session] = {}
        self._open = AsyncExitStack()

    async def call(self, call: Call) -> ToolResult:
        """What the tool answers. That there is no such tool, and arguments that are no object, are answers too.

        Raises:
            ToolFailure: the tool itself has failed.

        """
        tool = self._tools.get(call.name)
        if tool is None:
            return failed(f"Tool {call.name:.100} not found. Known: {', '.join(self._tools) or 'none'}")
        if not isinstance(call.arguments, Mapping):
            return failed(f"invalid arguments: {call.name} takes an object, not {type(call.arguments).__name__}")
        try:
            session = self._sessions.get(id(tool))
            if session is None:
                session = self._sessions[id(tool)] = tool.session()
                self._open.push_async_callback(_close, session)
            result = await session.call(call)
            return result._replace(text=_cut(result.text, self._longest))
        except ToolFailure:
            raise
        except Exception as error:  # A tool may be anybody's, and costs its continuation, not the run.
            raise ToolFailure(_RAISED, f"{call.name}: {type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Close every session that was begun, whatever becomes of the others; an answer that was given stays given."""
        await self._open.aclose()


async def _close(session: Session) -> None:
    with suppress(Exception):  # A tool may be anybody's, and what it has answered stays answered.
        await session.close()


def _cut(text: str, longest: int) -> str:
    # No file and no tokenizer takes half of a surrogate pair.
    whole = text.encode("utf-8", "replace").decode("utf-8")
    if len(whole) <= longest:
        return whole
    return f"{whole[:longest]}\n[{len(whole) - longest:,} of {len(whole):,} characters are left out]"
