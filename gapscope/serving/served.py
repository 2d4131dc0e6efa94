"""What a model server answers: the shapes of its messages, and what is made of them where they make sense."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from gapscope.rollouts import Json
from gapscope.serving.transport import IMPOSSIBLE, OTHER_TOKENS, RequestRefused

NO_SAMPLE = "the server answered without a sample"

_ROUNDING = 1e-6
_NO_CHANCE = -9999.0
"""What vLLM writes for minus infinity."""


class Candidate(msgspec.Struct, gc=False):
    """A token that could stand at a position: its log-prob there, and its rank from 1."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


class ModelCard(msgspec.Struct):
    """A model that the server has; `max_model_len` counts tokens, None where the server does not say."""

    id: str
    max_model_len: int | None = None


class PromptScore(NamedTuple):
    """What a server says about each token of a prompt, given those before it; nothing about the first.

    `strings` are the tokens as the server spells them. `alternatives` are the log-probs of the k likeliest tokens at
    each position, None unless they were asked for.
    """

    logprobs: list[float | None]
    strings: list[str]
    alternatives: list[list[float]] | None


class Generated(msgspec.Struct, frozen=True):
    """One sample as a server gives it; what it does not tell is None.

    `ids` and natural `logprobs` have one entry for each sampled token, the end-of-turn token included; a log-prob is
    None where the server has none or minus infinity. Where a text ended the sample, `stop_reason` is that text, and
    the last of the ids may spell more than `text`, which ends with it. `prompt_ids` are those that the server read.
    """

    text: str
    ids: list[int] | None = None
    logprobs: list[float | None] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    prompt_ids: list[int] | None = None


class _Logprob(msgspec.Struct, gc=False):
    logprob: float | None = None


class _Logprobs(msgspec.Struct):
    """Those of completions are `token_logprobs`, those of the other routes `content`."""

    token_logprobs: list[float | None] | None = None
    content: list[_Logprob] | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Json] | None = None


class Choice(msgspec.Struct):
    """One sample, in the shape of any of the routes that sample."""

    text: str | None = None
    message: _Message | None = None
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: list[dict[int, Candidate] | None] | None = None

    @property
    def rearranged(self) -> bool:
        """Whether the server took thinking or calls out of the text, delimiters and all."""
        said = self.message
        return said is not None and bool(said.reasoning or said.reasoning_content or said.tool_calls)


class Sample(msgspec.Struct):
    """The answer of a route that samples; completions have the ids of the prompt in the choice."""

    choices: list[Choice]
    prompt_token_ids: list[int] | None = None


class _Models(msgspec.Struct):
    data: list[ModelCard]


class _Tokenized(msgspec.Struct):
    tokens: list[int]


class _Detokenized(msgspec.Struct):
    prompt: str


class _Place(msgspec.Struct):
    offset: int
    length: int


class _Features(msgspec.Struct):
    mm_placeholders: dict[str, list[_Place]] = {}


class Rendered(msgspec.Struct):
    """A conversation as token ids, and where in them images are."""

    token_ids: list[int]
    features: _Features | None = None

    @property
    def image_token(self) -> int | None:
        """The id that stands for the first image: of those in its place, the one that is there most often."""
        places = self.features.mm_placeholders.get("image") if self.features else None
        if not places:
            return None
        inside = self.token_ids[places[0].offset : places[0].offset + places[0].length]
        return Counter(inside).most_common(1)[0][0] if inside else None


SAMPLE = msgspec.json.Decoder(Sample)
MODELS = msgspec.json.Decoder(_Models)
TOKENIZED = msgspec.json.Decoder(_Tokenized)
DETOKENIZED = msgspec.json.Decoder(_Detokenized)
RENDERED = msgspec.json.Decoder(Rendered)


def scored(choice: Choice, ids: Sequence[int], top_k: int) -> PromptScore:
    """The answer position by position, if it is about the tokens that were sent.

    Raises:
        RequestRefused: it is about others, or holds a number that is no log-prob.

    """
    entries = choice.prompt_logprobs or []
    if len(entries) != len(ids):
        raise RequestRefused(OTHER_TOKENS, f"{len(entries):,} positions for {len(ids):,} tokens")
    if choice.prompt_token_ids is not None and choice.prompt_token_ids != list(ids):
        raise RequestRefused(OTHER_TOKENS, "other `prompt_token_ids`")
    try:
        own = [entry[token] for token, entry in zip(ids[1:], entries[1:], strict=True)]  # type: ignore[index]
    except (KeyError, TypeError):
        raise RequestRefused(OTHER_TOKENS, "a token without a log-prob") from None
    values = [candidate.logprob for candidate in own]
    if values and not _NO_CHANCE < min(values) <= max(values) <= 0.0:
        odd = next((value for value in values if not _NO_CHANCE < value <= _ROUNDING), 0.0)
        if odd:
            raise RequestRefused(IMPOSSIBLE, f"{odd}")
        values = [min(value, 0.0) for value in values]
    logprobs: list[float | None] = [None, *values]
    strings = ["", *(candidate.decoded_token or "" for candidate in own)]
    if not top_k:
        return PromptScore(logprobs, strings, None)
    likeliest = [
        [candidate.logprob for candidate in (entry or {}).values() if candidate.rank and candidate.rank <= top_k]
        for entry in entries
    ]
    return PromptScore(logprobs, strings, likeliest)


def generated(answer: Sample) -> Generated:
    """The one sample of an answer.

    Raises:
        RequestRefused: there is none, its arrays are of unequal length, or a number is no log-prob.

    """
    if len(answer.choices) != 1:
        raise RequestRefused(NO_SAMPLE, f"{len(answer.choices)} choices")
    choice = answer.choices[0]
    text = choice.message.content if choice.message is not None else choice.text
    ids, logprobs = choice.token_ids, _sampled_logprobs(choice.logprobs)
    if ids is not None and logprobs is not None and len(ids) != len(logprobs):
        raise RequestRefused(OTHER_TOKENS, f"{len(logprobs):,} log-probs for {len(ids):,} sampled tokens")
    prompt_ids = choice.prompt_token_ids if choice.prompt_token_ids is not None else answer.prompt_token_ids
    return Generated(text or "", ids, logprobs, choice.finish_reason, choice.stop_reason, prompt_ids)


def _sampled_logprobs(given: _Logprobs | None) -> list[float | None] | None:
    if given is None:
        return None
    values = given.token_logprobs
    if values is None:
        if given.content is None:
            return None
        values = [each.logprob for each in given.content]
    return [value if value is not None and _NO_CHANCE < value <= 0.0 else _unusual(value) for value in values]


def _unusual(value: float | None) -> float | None:
    """A log-prob that is missing, of a chance of nil, or put above zero by rounding; anything else is none."""
    if value is None or value <= _NO_CHANCE or value != value:  # noqa: PLR0124 (NaN alone is not itself)
        return None
    if value > _ROUNDING:
        raise RequestRefused(IMPOSSIBLE, f"{value}")
    return 0.0
