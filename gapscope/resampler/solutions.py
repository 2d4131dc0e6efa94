"""A finished continuation as rewards see it: its text, its last words, its messages, and what the log says of it."""

from collections.abc import Mapping
from itertools import takewhile

from gapscope.axpo.rendering import said
from gapscope.plans import PlannedPrefix
from gapscope.resampler.spelling import SPECIAL
from gapscope.rewards.base import Solution
from gapscope.rollouts import Json, Rollout
from gapscope.serving.transport import RequestRefused

_SPOKEN = frozenset({"text", "answer"})


def solution_of(rollout: Rollout, prefix: PlannedPrefix) -> Solution:
    """What there is to judge of a continuation; special tokens are left out of texts, as trainers decode them."""
    messages = _asked(prefix.prefix.messages)
    tokens = rollout.tokens
    n_prompt = (tokens.n_prompt if tokens else None) or 0
    return Solution(
        output=SPECIAL.sub("", rollout.output),
        final=SPECIAL.sub("", _final(rollout)),
        prompt=messages if messages is not None else prefix.prefix.prompt,
        completion=None if messages is None else _completion(rollout),
        token_ids=tokens.ids[n_prompt:] if tokens is not None and tokens.ids is not None and n_prompt else None,
        ground_truth=prefix.ground_truth,
        data_source=prefix.data_source,
        extra=prefix.extra,
    )


def _asked(messages: Json) -> list[Json] | None:
    """The messages of the prompt, those before the policy's first."""
    if not isinstance(messages, list) or not messages:
        return None
    found = list(takewhile(lambda each: isinstance(each, Mapping) and each.get("role") != "assistant", messages))
    return found or None


def _final(rollout: Rollout) -> str:
    """What the policy says in its last turn, outside thinking and calls; empty where a result is the last thing."""
    last = next((span.turn for span in reversed(rollout.spans) if span.sampled), None)
    return "".join(
        rollout.output[span.start : span.end]
        for span in rollout.spans
        if span.sampled and span.turn == last and span.kind in _SPOKEN
    )


def _completion(rollout: Rollout) -> list[dict[str, Json]]:
    try:
        return list(said(rollout))
    except RequestRefused:
        # A call without a name is in no message; the text has it.
        return [{"role": "assistant", "content": rollout.output}]
