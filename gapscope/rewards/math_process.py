"""What the reward `math` runs in a process of its own: math-verify, which imports sympy and may never return.

Its own time limits are off: they need the main thread's alarm, and stop no loop in C.
"""

import logging
import re

from math_verify import parse, verify

logging.getLogger("math_verify").setLevel(logging.ERROR)

# Otherwise a word is a product of letters, and "pairs" the same as "Paris".
_WORDS = re.compile(r"[^\W\d_]{4,}|[^\W\d_]+(?:[\s'-]+[^\W\d_]+)+")


def equal(answer: str, accepted: list[str], *, marked: bool) -> bool | None:
    """Whether the answer equals an accepted one; None where none of these can be read as mathematics.

    `marked`: the answer is an expression; otherwise it is prose in which one is looked for.
    """
    known = [found for found in map(_expression, accepted) if any(not isinstance(one, str) for one in found)]
    if not known:
        return None
    found = _expression(answer) if marked or _WORDS.fullmatch(answer) else parse(answer, parsing_timeout=None)
    return any(verify(gold, found, timeout_seconds=None) for gold in known)


def _expression(text: str) -> list[object]:
    text = text.strip().rstrip(".")
    inside = rf"\text{{{text}}}" if _WORDS.fullmatch(text) else text
    return parse(rf"\boxed{{{inside}}}", parsing_timeout=None) if text else []
