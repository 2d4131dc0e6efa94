"""Log-probs as OpenAI's chat API gives them, for each token of a message: its text, and the likeliest others.

`content` lists an entry per token, with `token`, `logprob` and, where `top_logprobs` were asked for, those as well.
Servers that decode each token by itself write U+FFFD for a part of a character. vLLM puts `token_id:42` in place of
the text where it was asked to (`return_tokens_as_token_ids`).
"""

import re
from collections.abc import Mapping
from math import isfinite
from typing import NamedTuple

from gapscope.rollouts import Json
from gapscope.rows import RowError
from gapscope.shapes.token_exports import Values
from gapscope.statistics import topk_entropy_bounds

_AS_ID = re.compile(r"token_id:([0-9]{1,9})")


class SaidTokens(NamedTuple):
    """The tokens of one message of the policy: parallel lists, `strings` or `ids` None where the log has none.

    `entropies` are lower bounds (metrics, section 7), None where no token has `top_logprobs`; the size of the
    vocabulary, and with it the upper bounds, is not in such logs.
    """

    logprobs: Values
    strings: list[str] | None
    ids: list[int] | None
    entropies: Values | None


def said_tokens(content: Json) -> SaidTokens | None:
    """The tokens in a `logprobs.content`; None where it is no list, or an empty one.

    Raises:
        RowError: an entry is no object, or its log-prob no number.

    """
    if not isinstance(content, list) or not content:
        return None
    entries = [_entry(item) for item in content]
    texts = [entry.get("token") for entry in entries]
    strings = [text for text in texts if isinstance(text, str)]
    named = [match for text in strings if (match := _AS_ID.fullmatch(text))]
    entropies = [_least_entropy(entry) for entry in entries]
    as_ids = len(named) == len(texts)
    return SaidTokens(
        [_number(entry.get("logprob")) for entry in entries],
        strings if len(strings) == len(texts) and not as_ids else None,
        [int(match[1]) for match in named] if as_ids else None,
        entropies if entropies.count(None) < len(entropies) else None,
    )


def _entry(item: Json) -> Mapping[str, Json]:
    if not isinstance(item, dict):
        message = f"an entry of `logprobs.content` is {item!r:.60}, expected an object"
        raise RowError(message)
    value = item.get("logprob")
    if value is not None and _number(value) is None:
        message = f"`logprob` of the token {item.get('token')!r:.60} is {value!r:.60}, expected a number"
        raise RowError(message)
    return item


def _number(value: Json) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > _LARGEST:
        return None
    return float(value) if isfinite(value) else None


_LARGEST = 1e300


def _least_entropy(entry: Mapping[str, Json]) -> float | None:
    """The lower bound at one token; None where no others are logged, or numbers that are no log-probs."""
    top = entry.get("top_logprobs")
    others = [item for item in top if isinstance(item, dict)] if isinstance(top, list) else []
    if not others:
        return None
    known = [_number(item.get("logprob")) for item in others]
    if all(item.get("token") != entry.get("token") for item in others):
        # The token itself is among the likeliest or not; where it is not, it is one more that is known.
        known.append(_number(entry.get("logprob")))
    chances = [value for value in known if value is not None and value <= 0]
    return topk_entropy_bounds(chances, None)[0] if len(chances) == len(known) else None
