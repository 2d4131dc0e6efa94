"""A logged rollout as token ids that a model can be asked about, and the model's answer as numbers of the rollout."""

from collections.abc import Mapping
from itertools import groupby
from typing import NamedTuple

from msgspec.structs import replace

from gapscope.alignment import Aligner, Alignment
from gapscope.axpo.rendering import rendered
from gapscope.rollouts import Json, Rollout, Span, Tokens
from gapscope.serving.served import PromptScore
from gapscope.serving.transport import TOO_LONG, RequestRefused
from gapscope.serving.vllm import Endpoint
from gapscope.statistics import topk_entropy_bounds

RESCORED = "rescored"
PROMPT_RETOKENISED = "prompt_retokenised"
"""The note on a rollout whose own ids are exact, and those of its prompt, which it was scored under, are not."""

EMPTY = "they hold neither text nor tokens"
IMAGES = "they have images, which /v1/completions ignores"
PROMPTLESS = "their prompt is not logged"
NO_PROMPT = "which of their tokens are the prompt is not logged"
NO_MASK = "which of their tokens the policy sampled is not logged"
NOTHING_SAMPLED = "their mask covers nothing"
UNEQUAL = "their token arrays are of unequal length"


class Forced(NamedTuple):
    """What is sent for a rollout: `ids`, of which the first `before` are not in the rollout's own arrays."""

    ids: list[int]
    before: int
    tokens: Tokens


class Filled(NamedTuple):
    """A rollout with the numbers of the model, and how the model's spelling of its tokens fits its text."""

    rollout: Rollout
    spelling: Alignment


def has_own_logprobs(rollout: Rollout) -> bool:
    """Whether any token has a log-prob already."""
    logprobs = rollout.tokens.logprobs if rollout.tokens else None
    return logprobs is not None and len(logprobs) > logprobs.count(None)


async def forced(rollout: Rollout, endpoint: Endpoint, longest: int | None) -> Forced:
    """The ids to send: those logged, or else what the server makes of the text (marked as retokenised).

    `longest` is the model's context in tokens, which must have room for one more.

    Raises:
        EndpointError: the server is needed and gone.
        RequestRefused: the rollout cannot be scored, with the reason.

    """
    if rollout.images or _shows_images(rollout.messages):
        raise RequestRefused(IMAGES)
    tokens = rollout.tokens
    if tokens is not None and tokens.ids:
        found = await _logged(rollout, tokens, tokens.ids, endpoint)
    elif rollout.output:
        found = await _retokenised(rollout, endpoint)
    else:
        raise RequestRefused(EMPTY)
    if found.tokens.sampled is not None and True not in found.tokens.sampled:
        raise RequestRefused(NOTHING_SAMPLED)
    if longest is not None and len(found.ids) >= longest:
        raise RequestRefused(TOO_LONG, f"{len(found.ids):,} tokens, and room for {longest - 1:,}")
    return found


async def _logged(rollout: Rollout, tokens: Tokens, ids: list[int], endpoint: Endpoint) -> Forced:
    size = len(ids)
    arrays = (tokens.sampled, tokens.logprobs, tokens.entropies, tokens.entropy_uppers, tokens.trainer_logprobs)
    if any(array is not None and len(array) != size for array in arrays):
        raise RequestRefused(UNEQUAL)
    n_prompt = tokens.n_prompt
    if n_prompt is None:
        if tokens.sampled is None:
            raise RequestRefused(NO_PROMPT)
        n_prompt = tokens.sampled.index(True) if True in tokens.sampled else size
        tokens = replace(tokens, n_prompt=n_prompt)
    sampled = tokens.sampled
    if sampled is None and all(span.sampled for span in rollout.spans):
        sampled = [False] * n_prompt + [True] * (size - n_prompt)
        tokens = replace(tokens, sampled=sampled)
    prompt = await _prompt(rollout, endpoint) if n_prompt == 0 else []
    return Forced(prompt + ids, len(prompt), tokens)


async def _retokenised(rollout: Rollout, endpoint: Endpoint) -> Forced:
    """Stretches of one author are tokenised each by itself, as trainers do that append a tool's result."""
    if rollout.output_origin == "joined":
        tokens = await rendered(rollout, endpoint)
        return Forced(tokens.ids or [], 0, tokens)
    ids = await _prompt(rollout, endpoint)
    n_prompt = len(ids)
    sampled = [False] * n_prompt
    spans = rollout.spans or [Span("text", 0, 0, len(rollout.output), sampled=True)]
    for own, stretch in groupby(spans, key=lambda span: span.sampled):
        parts = list(stretch)
        text = rollout.output[parts[0].start : parts[-1].end]
        made = await endpoint.tokenize(text) if text else []
        ids += made
        sampled += [own] * len(made)
    return Forced(ids, 0, Tokens(ids, n_prompt, sampled=sampled, retokenised=True))


async def _prompt(rollout: Rollout, endpoint: Endpoint) -> list[int]:
    """The prompt as the server tokenises it: by the model's template where there are messages."""
    messages = rollout.messages
    if isinstance(messages, list) and messages and rollout.output_origin == "logged" and not _has_answer(messages):
        return await endpoint.tokenize(messages=messages)
    if not rollout.prompt:
        raise RequestRefused(PROMPTLESS)
    return await endpoint.tokenize(rollout.prompt)


def _has_answer(messages: list[Json]) -> bool:
    """Whether the last message is the policy's, so that they are more than a prompt."""
    return isinstance(messages[-1], Mapping) and messages[-1].get("role") == "assistant"


def _shows_images(messages: Json) -> bool:
    """Whether a message has a part that is an image."""
    contents = [message.get("content") for message in messages if isinstance(message, Mapping)] if messages else []
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return any(
        "image" in part or "image_url" in part or "image" in str(part.get("type"))
        for part in parts
        if isinstance(part, Mapping)
    )


def filled(
    rollout: Rollout,
    sent: Forced,
    answer: PromptScore,
    aligner: Aligner,
    *,
    model: str,
    top_k: int,
    vocabulary: int | None,
) -> Filled:
    """The rollout with what the model says about its tokens; numbers that it had itself stay.

    Raises:
        RequestRefused: it cannot be told which tokens the policy sampled.

    """
    tokens = sent.tokens
    strings = answer.strings[sent.before :]
    spelled = replace(
        rollout,
        tokens=replace(tokens, strings=strings),
        spans=[replace(span, token_start=None, token_end=None) for span in rollout.spans],
        calls=[replace(call, tokens=None) for call in rollout.calls],
    )
    # Tokens without text are spelled out when the log is read with its tokenizer.
    spelling: Alignment = aligner.align(spelled) if rollout.output else "no_tokens"
    aligned = spelled if spelling == "strings" else rollout
    sampled = tokens.sampled if tokens.sampled is not None else _sampled_of(aligned.spans, tokens)
    own = [logprob if mine else None for logprob, mine in zip(answer.logprobs[sent.before :], sampled, strict=True)]
    tokens = replace(tokens, sampled=sampled, logprobs=own, logprob_source=RESCORED, scored_by=model)
    if answer.alternatives is not None and tokens.entropies is None:
        bounds = [
            topk_entropy_bounds(known[:top_k], vocabulary) if mine and known else (None, None)
            for known, mine in zip(answer.alternatives[sent.before :], sampled, strict=True)
        ]
        tokens = replace(
            tokens,
            entropies=[lower for lower, _ in bounds],
            entropy_uppers=None if vocabulary is None else [upper for _, upper in bounds],
            entropy_kind="topk",
        )
    notes = [*rollout.notes, PROMPT_RETOKENISED] if sent.before else rollout.notes
    return Filled(replace(rollout, tokens=tokens, spans=aligned.spans, calls=aligned.calls, notes=notes), spelling)


def _sampled_of(spans: list[Span], tokens: Tokens) -> list[bool]:
    """Which tokens lie in spans that the policy wrote."""
    sampled = [False] * len(tokens)
    for span in spans:
        if span.token_start is None or span.token_end is None:
            raise RequestRefused(NO_MASK)
        if span.sampled:
            sampled[span.token_start : span.token_end] = [True] * (span.token_end - span.token_start)
    return sampled
