"""One row of a batch from a rollout as it was logged: its token ids, and which of them are trained on.

The ids, the mask and the log-probs are those of the log: what was tokenised from text has other ones, with which the
ratio to the sampling policy would be of other tokens.
"""

from typing import TYPE_CHECKING, NamedTuple

from gapscope.axpo.advantages import continuation_mask, prefix_mask, rollout_mask
from gapscope.axpo.training_rows import LeftOut, Training
from gapscope.rollouts import Rollout, Tokens
from gapscope.store.token_rows import prefix_hash

if TYPE_CHECKING:
    from numpy import bool_, float64, int32
    from numpy.typing import NDArray

_LARGEST_ID = 2**31 - 1


class TokenSequence(NamedTuple):
    """The tokens of one row, the prompt first: `trained` is true where the row's advantage counts.

    `logprobs` are natural logs under the policy that sampled, NaN where the log has none; trained tokens have one.
    """

    ids: "NDArray[int32]"
    n_prompt: int
    trained: "NDArray[bool_]"
    logprobs: "NDArray[float64]"


def sequence(rollout: Rollout, training: Training) -> TokenSequence | LeftOut:
    """The row of a rollout, or why there is none."""
    import numpy as np

    tokens = rollout.tokens
    if tokens is None or not tokens.ids:
        return "no_token_ids"
    if reason := _unusable(tokens, tokens.ids) or _unbranched(rollout, tokens, training):
        return reason
    sampled = np.asarray(tokens.sampled, dtype=np.bool_)
    n_prompt = int(np.argmax(sampled)) if sampled.any() else len(sampled)
    n_prompt = n_prompt if tokens.n_prompt is None else min(n_prompt, tokens.n_prompt)
    if not n_prompt:
        return "no_prompt"
    trained = _mask(sampled, training)
    if not trained.any():
        return "nothing_sampled"
    # None becomes NaN.
    logprobs = np.asarray(tokens.logprobs or [None] * len(sampled), dtype=np.float64)
    if not np.isfinite(logprobs[trained]).all():
        return "no_logprobs"
    return TokenSequence(np.asarray(tokens.ids, dtype=np.int32), n_prompt, trained, logprobs)


def _unusable(tokens: Tokens, ids: list[int]) -> LeftOut | None:
    """Why a rollout's tokens cannot be trained on, whatever its term; None if they can."""
    if tokens.retokenised:
        return "retokenised"
    if tokens.sampled is None:
        return "no_mask"
    return None if 0 <= min(ids) <= max(ids) <= _LARGEST_ID else "impossible_ids"


def _unbranched(rollout: Rollout, tokens: Tokens, training: Training) -> LeftOut | None:
    """Why it is not known that a row shares the prefix's tokens with the others of its prefix; None if it does."""
    if training.term == "rollout":
        return None
    if training.term == "prefix":
        known = training.branch is not None and training.identity is not None
        return None if known else "no_branch_point"
    parent = rollout.parent
    if parent is None or training.branch is None or parent.branch_token != training.branch:
        return "inexact_prefix"
    same = training.identity is not None and prefix_hash(tokens, training.branch) == training.identity
    return None if same else "inexact_prefix"


def _mask(sampled: "NDArray[bool_]", training: Training) -> "NDArray[bool_]":
    branch = training.branch or 0
    if training.term == "prefix":
        return prefix_mask(sampled, branch)
    return continuation_mask(sampled, branch) if training.term == "continuation" else rollout_mask(sampled)
