"""What servers that know no tokens leave out of a turn's text: what it was stopped at, and the token that ended it."""

from collections.abc import Sequence

from gapscope.cutting.delimiters import CallSyntax, Delimiter, Pair
from gapscope.dialects.base import Dialect, TaggedDialect
from gapscope.resampler.sampling import NotSampled
from gapscope.resampler.spelling import SPECIAL
from gapscope.resampler.wording import Wording, turn_ends

NO_DELIMITERS = "the server leaves special tokens out of its texts, and with these the delimiters of calls"
NO_TURN_END = "the server leaves out the token that ends a turn, and the prompt does not show which that is"


def stopped_at(output: str, dialect: Dialect, stop: Sequence[str]) -> str:
    """The text at which a turn was stopped, where it is missing: what closes the call or the answer that is open."""
    if not isinstance(dialect, TaggedDialect):
        return ""
    delimited: list[CallSyntax | Pair] = [*dialect.tags.calls, *dialect.tags.answers]
    found = {
        _last(each.opening, output): each.closing
        for each in delimited
        if isinstance(each.closing, str) and each.closing in stop
    }
    at = max(found, default=-1)
    closing = found.get(at, "")
    return closing if at >= 0 and closing not in output[at:] else ""


def ended_with(context: str, dialect: Dialect, wording: Wording) -> str:
    """The token that ended the last turn, where it is missing and the environment goes on: the one of earlier turns.

    Raises:
        NotSampled: no earlier turn shows it, or the next turn decides which it is.

    """
    ends = turn_ends(dialect)
    if wording.ended_by == "call" or context.endswith(ends) or wording.head.startswith(ends):
        return ""
    shown = max(ends, key=context.rfind)
    if shown not in context or (isinstance(dialect, TaggedDialect) and dialect.tags.stop_tokens):
        raise NotSampled(NO_TURN_END)
    return shown


def require_delimiters(text: str, dialect: Dialect) -> None:
    """A text without special tokens shows nothing of calls that are delimited by them.

    Raises:
        NotSampled: it is such a text.

    """
    if isinstance(dialect, TaggedDialect) and dialect.special and not SPECIAL.search(text):
        raise NotSampled(NO_DELIMITERS)


def _last(opening: Delimiter, text: str) -> int:
    """Where it stands in the text for the last time; below 0 where it does not."""
    if isinstance(opening, str):
        return text.rfind(opening)
    return max((match.start() for match in opening.finditer(text)), default=-1)
