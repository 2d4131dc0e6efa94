"""Whether token ids spell the text that a log has for them: the first sign of a model with another tokenizer."""

import re
from collections import Counter
from typing import NamedTuple

SPECIAL = re.compile(r"<[|｜][^<>|｜\s]{1,40}[|｜]>|</?s>|<(?:bos|eos|pad|unk|(?:start|end)_of_turn)>")
"""Tokens that trainers leave out when they decode; the text between their bars is no text of anybody's."""

_SHOWN = 40
_WORD = re.compile(r"\w+")


class Difference(NamedTuple):
    """Where two spellings part, in characters of the logged one, and how each goes on."""

    place: int
    logged: str
    spelled: str


def first_difference(logged: str, spelled: str, *, whole: bool = True) -> Difference | None:
    """Where the spelling of tokens parts from the logged text; None where it does not.

    Special tokens that only the spelling has were left out of the log, and blanks behind its end share the last token.
    Unless they are the `whole` of it, the text is compared with the end of the spelling.
    """
    if not whole:
        spelled = spelled[_beginning(logged, spelled) :]
    here = there = 0
    while here < len(logged):
        size = _common(logged, here, spelled, there)
        here, there = here + size, there + size
        if here == len(logged):
            break
        special = SPECIAL.match(spelled, there)
        if special is None:
            return Difference(here, logged[here : here + _SHOWN], spelled[there : there + _SHOWN])
        there = special.end()
    rest = SPECIAL.sub("", spelled[there:])
    return Difference(here, "", rest[:_SHOWN]) if rest.strip() else None


def shares_words(logged: str, spelled: str) -> bool:
    """Whether most words of a text are those of its spelling.

    It is all that can be asked of messages that were put together as one text: what stood between them is not in it,
    and the arguments of their calls are written anew.
    """
    words = Counter(_WORD.findall(logged))
    missing = words - Counter(_WORD.findall(spelled))
    return missing.total() <= words.total() / 2


def _common(one: str, here: int, other: str, there: int) -> int:
    """How many characters are the same from two places on."""
    longest = min(len(one) - here, len(other) - there)
    if one[here : here + longest] == other[there : there + longest]:
        return longest
    low, high = 0, longest
    while low < high:
        middle = (low + high + 1) // 2
        if one[here : here + middle] == other[there : there + middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _beginning(logged: str, spelled: str) -> int:
    """Where in a spelling the text begins that ends with it, if special tokens within it are not counted."""
    missing = len(logged)
    position = len(spelled.rstrip()) if not logged[-1:].isspace() else len(spelled)
    specials = {match.end(): match.start() for match in SPECIAL.finditer(spelled)}
    while missing > 0 and position > 0:
        start = specials.get(position)
        if start is not None and not logged.endswith(spelled[start:position], 0, missing):
            position = start
        else:
            position, missing = position - 1, missing - 1
    return position
