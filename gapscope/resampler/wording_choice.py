"""Which wording of results is in force, and whether the server makes the log's own tokens of it."""

import asyncio
from collections.abc import Iterable, Iterator
from itertools import islice

from gapscope.dialects import dialect_named
from gapscope.dialects.base import Dialect, TaggedDialect
from gapscope.errors import PlanError
from gapscope.resampler.observations import Learned
from gapscope.resampler.stretches import Stretch, stretches
from gapscope.resampler.template import template_wording
from gapscope.resampler.wording import Wording, own_wording, turn_ends, written
from gapscope.rollouts import Rollout
from gapscope.serving.transport import RequestRefused
from gapscope.serving.vllm import Endpoint
from gapscope.tokenizer import Vocabulary

_MOST_VERIFIED = 32
"""Results that are tokenised to see whether all is well: one request each."""


async def wording_for(learned: Learned, dialect: Dialect, endpoint: Endpoint | None) -> Wording:
    """How results are written: as in the log, or else as the server's template or the dialect itself has it.

    A dialect that writes results into the policy's own turn asks no template. Of the log's wording only how several
    results follow one another may come from elsewhere.

    Raises:
        EndpointError: the server is gone, or has no template.
        PlanError: nothing shows how results are written.

    """
    own = own_wording(dialect)
    inline = own is not None and own.ended_by == "call"
    if learned.wording is not None:
        return await _completed(learned.wording, own if inline else None, dialect, endpoint)
    refusal = None
    if endpoint is not None and not inline:
        try:
            return await template_wording(endpoint, ends=turn_ends(dialect))
        except RequestRefused as error:
            refusal = f"{error.reason} ({error.detail:.200})" if error.detail else error.reason
    if own is not None:
        return own
    message = f"nothing shows how the results of {dialect.name} calls are written: in the log, {learned.why}"
    if refusal is not None:
        message += f"; of the server, {refusal}"
    hint = "Log the token ids with their mask, or the text with its special tokens; or start the server with the chat "
    raise PlanError(message, hint=hint + "template that the trainer used (vLLM: --chat-template FILE).")


async def _completed(wording: Wording, own: Wording | None, dialect: Dialect, endpoint: Endpoint | None) -> Wording:
    """The wording with what stands between results, where the log does not show it."""
    if wording.between is not None:
        return wording
    between = None
    if own is not None:
        between = wording.tail + wording.head
    elif endpoint is not None:
        try:
            served = await template_wording(endpoint, ends=turn_ends(dialect))
        except RequestRefused:
            served = None
        if served is not None and (served.head, served.tail) == (wording.head, wording.tail):
            between = served.between
    if between is None:
        between = _tagged(wording, dialect)
    return Wording(wording.head, between, wording.tail, wording.ended_by, wording.source, wording.trims, wording.quoted)


def _tagged(wording: Wording, dialect: Dialect) -> str | None:
    """The end of one tagged result and the beginning of the next, on a line of its own."""
    for pair in dialect.tags.results if isinstance(dialect, TaggedDialect) else ():
        if isinstance(pair.opening, str) and isinstance(pair.closing, str):
            start, end = wording.head.rfind(pair.opening), wording.tail.find(pair.closing)
            if start >= 0 and end >= 0:
                return wording.tail[: end + len(pair.closing)] + "\n" + wording.head[start:]
    return None


async def verified(
    endpoint: Endpoint, wording: Wording, rollouts: Iterable[Rollout], vocabulary: Vocabulary | None = None
) -> tuple[int, int]:
    """Of the logged answers with token ids, how many are the same ids when written so and tokenised by the server.

    The first few are enough; returns their number second.

    Raises:
        EndpointError: the server is gone.

    """
    answers = list(islice(_answers(wording, rollouts, vocabulary), _MOST_VERIFIED))
    same = await asyncio.gather(*(_is_same(endpoint, text, ids) for text, ids in answers))
    return sum(same), len(answers)


def _answers(
    wording: Wording, rollouts: Iterable[Rollout], vocabulary: Vocabulary | None
) -> Iterator[tuple[str, list[int]]]:
    """What was answered in a log, written so, and its logged ids."""
    for rollout in rollouts:
        tokens = rollout.tokens
        if rollout.parent is not None or rollout.dialect is None or tokens is None or tokens.ids is None:
            continue
        for stretch in stretches(rollout, dialect_named(rollout.dialect), vocabulary):
            if stretch.start is None or not stretch.answered or not stretch.after:
                continue
            results = _results(stretch, wording)
            if len(results) > 1 and wording.between is None:
                continue
            names = [call.name or "" for call in stretch.answered]
            yield written(wording, results, names), tokens.ids[stretch.start : stretch.end]


async def _is_same(endpoint: Endpoint, text: str, ids: list[int]) -> bool:
    try:
        return await endpoint.tokenize(text) == ids
    except RequestRefused:
        return False


def _results(stretch: Stretch, wording: Wording) -> list[str]:
    """The results of a stretch, a single one with the blanks around it, which are not logged apart."""
    results = [call.result or "" for call in stretch.answered]
    text = stretch.text or ""
    if len(results) == 1 and not wording.quoted and text.startswith(wording.head) and text.endswith(wording.tail):
        whole = text[len(wording.head) : len(text) - len(wording.tail)]
        return [whole] if whole.strip() == results[0].strip() else results
    return results
