"""How the results of calls are written: the text between the last token of one turn and the first of the next."""

import json
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from gapscope.cutting.delimiters import CallSyntax, Delimiter, Pair
from gapscope.dialects.base import Dialect, TaggedDialect

Ending = Literal["turn", "call"]
"""With what the policy's turn ends: its end-of-turn token, or the closing delimiter of a call, where it is stopped."""

WordingSource = Literal["log", "template", "dialect"]

NAME = "\ue000"
"""Stands for the name of the tool that is answered, in wordings that say it; a character that no text has."""

NEWLINES = "\n"
BLANKS = " \t\r\n"

_ENDS = (
    *("<|im_end|>", "<|endoftext|>", "</s>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|call|>", "<|return|>"),
    *("<|end|>", "<｜end▁of▁sentence｜>", "<end_of_turn>", "<turn|>", "<|tool_response>", "[e~[", "<seed:eos>"),
    "<|END_OF_TURN_TOKEN|>",
)


class Wording(msgspec.Struct, frozen=True):
    """`head`, the results with `between` among them, `tail`: written by the environment, never sampled.

    `between` is None where nothing shows how several results of one turn are written. A result loses the characters of
    `trims` at both of its ends, and is a JSON string where it is `quoted`.
    """

    head: str
    between: str | None
    tail: str
    ended_by: Ending
    source: WordingSource
    trims: str = ""
    quoted: bool = False

    @property
    def names(self) -> bool:
        """Whether the name of the tool is written."""
        return NAME in self.head or NAME in (self.between or "")


def written(wording: Wording, results: Sequence[str], names: Sequence[str] = ()) -> str:
    """What the environment says to these results of one turn, which the tools of these `names` gave.

    Raises:
        ValueError: there is no result, not one name for each where they are written, or several results and no
            `between`.

    """
    if not results:
        message = "no result to write"
        raise ValueError(message)
    if wording.between is None and len(results) > 1:
        message = "nothing shows how several results of one turn are written"
        raise ValueError(message)
    if wording.names and len(names) != len(results):
        message = f"{len(results)} results and {len(names)} names of tools"
        raise ValueError(message)
    text = ""
    for index, result in enumerate(results):
        before = (wording.between or "") if index else wording.head
        text += before.replace(NAME, names[index]) if names else before
        text += as_written(result, trims=wording.trims, quoted=wording.quoted)
    return text + wording.tail


def as_written(result: str, *, trims: str, quoted: bool) -> str:
    """One result."""
    text = result.strip(trims) if trims else result
    return json.dumps(text, ensure_ascii=False) if quoted else text


def own_wording(dialect: Dialect) -> Wording | None:
    """How results are written in the dialect itself; None where the chat template says it."""
    own = dialect.frame if isinstance(dialect, TaggedDialect) else None
    if own is None:
        return None
    return Wording(own.head, own.tail + own.head, own.tail, own.ended_by, "dialect", NEWLINES)


class Stops(NamedTuple):
    """The texts at which generation has to stop, and the patterns of those that are no literal texts."""

    texts: list[str]
    missing: list[str]


def stops(dialect: Dialect, wording: Wording) -> Stops:
    """Where a turn has to be stopped; nowhere, where the policy ends it itself.

    A closing delimiter that an opening one begins with, such as a fence, would stop the turn before its call.
    """
    found = Stops([], [])
    if wording.ended_by == "turn" or not isinstance(dialect, TaggedDialect):
        return found
    tags = dialect.tags
    delimited: list[CallSyntax | Pair] = [*tags.calls, *tags.answers]
    openings = [each.opening for each in delimited]
    for each in delimited:
        closing, opening = each.closing, each.opening
        if isinstance(closing, str) and not any(_begins_with(other, closing) for other in openings):
            found.texts.append(closing)
        else:
            found.missing.append(opening if isinstance(opening, str) else opening.pattern)
    return Stops(list(dict.fromkeys(found.texts)), list(dict.fromkeys(found.missing)))


def _begins_with(opening: Delimiter, closing: str) -> bool:
    return (opening if isinstance(opening, str) else opening.pattern).startswith(closing)


def turn_ends(dialect: Dialect) -> tuple[str, ...]:
    """The tokens that end a turn, and those of the environment's turn at which generation stops."""
    own = dialect.tags if isinstance(dialect, TaggedDialect) else None
    return tuple(dict.fromkeys((*(own.turn_end_tokens + own.stop_tokens if own else ()), *_ENDS)))
