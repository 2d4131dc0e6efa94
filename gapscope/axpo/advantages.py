"""AXPO's advantages, masks, token weights and objective, equation by equation (arXiv:2605.28774, Eqs 2-6).

Pure functions over plain arrays. Advantages have no unit: they are rewards in deviations of their group. Where the
paper is silent (deviation, epsilon, groups of one, several prefixes in a group, how terms are weighted) there is a
named option, and the default is the reading closest to it (axpo, section 3). numpy is imported where it is needed.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from gapscope.errors import CorrectnessError, GapscopeError, SettingsError, UnknownName

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from numpy import bool_, float64
    from numpy.typing import ArrayLike, NDArray

PresetName = Literal["default", "verl", "rllm", "trl"]

Substitution = Literal["self", "joint"]
"""What Eq. 4 substitutes for one of several prefixes of a group: its own reward alone, or those of all at once."""

Weighting = Literal["per_term_mean", "token_mean", "question_sum"]
"""How the terms of a batch weigh against one another; see `token_weights`."""

Term = Literal["rollout", "prefix", "continuation"]
"""What a term of the objective is over: a whole rollout, the prefix of a source, what a continuation sampled."""


class Preset(NamedTuple):
    """How rewards are normalised: (r - mean) / (deviation + eps).

    `ddof` is 0 for the population deviation and 1 for that of a sample. `alone` says what a group of one gets: no
    advantage, its reward over 1 + eps (as if mean 0 and deviation 1), or 0.
    """

    ddof: int
    eps: float
    alone: Literal["skipped", "itself", "zero"]


PRESETS: Mapping[PresetName, Preset] = {
    "default": Preset(0, 1e-6, "skipped"),
    "verl": Preset(1, 1e-6, "itself"),
    "rllm": Preset(0, 1e-6, "itself"),
    "trl": Preset(1, 1e-4, "zero"),
}
"""Those of verl, rLLM and TRL (with `scale_rewards="group"`), and a default close to the paper's formulas."""

DEFAULT = PRESETS["default"]


class Resampled(NamedTuple):
    """One selected prefix: the index of its source in the group, and the rewards of its continuations, each 0 or 1.

    `executed` says of each continuation whether its first call was executed; None if that is not known.
    """

    source: int
    rewards: Sequence[float]
    executed: Sequence[bool] | None = None


class AxpoAdvantages(NamedTuple):
    """The advantages of one group; every dictionary is by the index of the source in the group.

    `rollouts` are the original GRPO advantages, one for each rollout, and None for a group of one that is skipped. That
    of a source goes to none of its tokens. `recovered` are the rewards of the prefixes, 0 or 1 (Eq. 3), `prefixes`
    their advantages (Eq. 4; empty for a skipped group), and `continuations` those of their continuations (Eq. 2).
    """

    rollouts: NDArray[float64] | None
    recovered: dict[int, float]
    prefixes: dict[int, float]
    continuations: dict[int, NDArray[float64]]


def axpo_advantages(
    rewards: ArrayLike,
    resampled: Sequence[Resampled],
    *,
    preset: Preset = DEFAULT,
    substitution: Substitution = "self",
    require_executed: bool = False,
) -> AxpoAdvantages:
    """Eqs 2-4 for one group: the rewards of its rollouts, each 0 or 1, and its selected prefixes, if any.

    With `require_executed`, a prefix is recovered only by a continuation whose first call was executed.

    Raises:
        SettingsError: a source is there twice, or it is needed and not known what was executed.
        GapscopeError: as the functions of single equations do.

    """
    sources = [prefix.source for prefix in resampled]
    if len(set(sources)) < len(sources):
        message = f"the prefixes of one group have the sources {sources}, and a source is selected once"
        raise SettingsError(message)
    recovered, continuations = {}, {}
    for source, sampled, executed in resampled:
        if require_executed and executed is None:
            message = f"it is not known which continuations of rollout {source} executed a call"
            raise SettingsError(message, hint="Without require_executed, Eq. 3 is as in the paper.")
        continuations[source] = continuation_advantages(sampled, preset)
        recovered[source] = recovery_reward(sampled, executed=executed if require_executed else None)
    prefixes = prefix_advantages(rewards, recovered, preset, substitution)
    return AxpoAdvantages(group_advantages(rewards, preset), recovered, prefixes, continuations)


def group_advantages(rewards: ArrayLike, preset: Preset = DEFAULT) -> NDArray[float64] | None:
    """GRPO's advantage of each rollout of one group, from rewards that are 0 or 1 (section 2.1 of the paper).

    Exactly 0 for a group of two or more with equal rewards; None for a group of one that the preset skips.

    Raises:
        CorrectnessError: a reward is neither 0 nor 1.
        SettingsError: the group is empty, or the preset has no meaning.

    """
    return _normalised(_correct(rewards, "rollout"), preset)


def continuation_advantages(rewards: ArrayLike, preset: Preset = DEFAULT) -> NDArray[float64]:
    """Eq. 2: the advantage of each continuation of one prefix, among the continuations of that prefix alone.

    Raises:
        CorrectnessError: a reward is neither 0 nor 1.
        SettingsError: there are fewer than two continuations.

    """
    correct = _correct(rewards, "continuation")
    advantages = _normalised(correct, preset)
    if advantages is None or len(correct) < 2:
        message = f"a prefix has {len(correct)} continuation, and Eq. 2 compares two or more"
        raise SettingsError(message, hint="Leave the prefix out, or sample more.")
    return advantages


def recovery_reward(rewards: ArrayLike, *, executed: ArrayLike | None = None) -> float:
    """Eq. 3: the reward of a prefix, 1.0 if any of its continuations is correct, else 0.0.

    With `executed`, one truth value for each continuation, only those whose first call was executed count.

    Raises:
        CorrectnessError: a reward is neither 0 nor 1.
        SettingsError: there is no continuation, or `executed` has another length.

    """
    correct = _correct(rewards, "continuation")
    ran = correct if executed is None else _ones(executed, "`executed` of continuation")
    if len(ran) != len(correct):
        message = f"`executed` is given for {len(ran)} continuations, and there are {len(correct)}"
        raise SettingsError(message)
    return float((correct & ran).any())


def prefix_advantages(
    rewards: ArrayLike, recovered: Mapping[int, float], preset: Preset = DEFAULT, substitution: Substitution = "self"
) -> dict[int, float]:
    """Eq. 4: the advantage of each selected prefix, among the rewards of its group with its own reward substituted.

    `rewards` are those of the group, each 0 or 1, and `recovered` the rewards of the prefixes (Eq. 3) by the index of
    the source in the group; so is the result. It is empty for a group of one that the preset skips.

    Raises:
        CorrectnessError: a reward is neither 0 nor 1.
        SettingsError: a source is not in the group, or was correct itself.
        UnknownName: there is no such substitution.

    """
    correct = _correct(rewards, "rollout")
    _known("substitution", substitution, get_args(Substitution))
    _ones(list(recovered.values()), "the reward of prefix", CorrectnessError)
    for source in recovered:
        if source not in range(len(correct)) or correct[source]:
            message = f"source {source} is not one of those that failed of the rollouts 0 to {len(correct) - 1}"
            raise SettingsError(message, hint="A source is given by its index in its own group.")
    advantages = {}
    for source in recovered:
        substituted = correct.copy()
        for other in recovered if substitution == "joint" else (source,):
            substituted[other] = recovered[other]
        normalised = _normalised(substituted, preset)
        if normalised is not None:
            advantages[source] = float(normalised[source])
    return advantages


def _normalised(correct: NDArray[bool_], preset: Preset) -> NDArray[float64] | None:
    """(r - mean) / (deviation + eps) of rewards 0 and 1; None for a group of one that is skipped.

    From counts: uniform rewards are found without comparing floats, and the order of the rewards changes no bit.
    """
    import numpy as np

    if preset.ddof not in {0, 1} or not 0 <= preset.eps < math.inf:
        message = f"{preset} has no meaning: ddof is 0 or 1, and eps a finite number from 0 on"
        raise SettingsError(message)
    n, wins = len(correct), int(correct.sum())
    if n == 1 and preset.alone != "zero":
        return None if preset.alone == "skipped" else correct / (1.0 + preset.eps)
    if wins in {0, n}:
        return np.zeros(n)
    deviation = math.sqrt(wins * (n - wins) / (n * (n - preset.ddof)))
    return (correct.astype(np.float64) - wins / n) / (deviation + preset.eps)


def rollout_mask(sampled: ArrayLike) -> NDArray[bool_]:
    """Which tokens of an ordinary rollout are trained on: those that the policy sampled.

    `sampled` has one truth value for each token of the sequence, false for the prompt and for results of tools. Of a
    selected source `prefix_mask` is used instead: what it wrote after the branch point is in no term. A SettingsError
    is raised if `sampled` is no flat array of truth values.
    """
    return _ones(sampled, "`sampled` of token")


def prefix_mask(sampled: ArrayLike, branch: int) -> NDArray[bool_]:
    """Which tokens of a selected source get the advantage of its prefix: sampled ones among the first `branch`.

    `branch` counts the tokens of the whole sequence, prompt included, through the opening delimiter of the call.

    Raises:
        SettingsError: `branch` is outside the sequence, or `sampled` no flat array of truth values.

    """
    import numpy as np

    mask = rollout_mask(sampled)
    if not 0 <= branch <= len(mask):
        message = f"the branch point {branch} is outside its sequence of {len(mask)} tokens"
        raise SettingsError(message)
    return mask & (np.arange(len(mask)) < branch)


def continuation_mask(sampled: ArrayLike, branch: int) -> NDArray[bool_]:
    """Which tokens of a continuation get its own advantage: sampled ones after its copy of the prefix.

    Arguments and errors are those of `prefix_mask`.
    """
    return rollout_mask(sampled) & ~prefix_mask(sampled, branch)


def token_weights(
    masks: Sequence[NDArray[bool_]],
    terms: Sequence[Term],
    questions: Sequence[Hashable],
    weighting: Weighting = "per_term_mean",
) -> list[NDArray[float64]]:
    """Weights for all tokens, with which the objective of a batch is the sum of weight · clipped term.

    One mask, term and question for each sequence, where each original rollout is there once, as `rollout` or, if it is
    a selected source, as `prefix`; a rollout of a skipped group is left out. The paper does not say how terms weigh:

    - `per_term_mean`: each term is the mean over its tokens, and the objective the mean over terms.
    - `token_mean`: the objective is the mean over all tokens of all terms.
    - `question_sum`: each term is the mean over its tokens, a rollout weighs 1/N of its question, a prefix or a
      continuation 1, and the objective is the mean over questions.

    A sequence without an unmasked token is no term, and weighs nothing in the first two. In `question_sum` it still
    counts for N, which is the size of the group, and its question for the number of questions.

    Raises:
        SettingsError: masks, terms and questions differ in number, or a mask is no flat array of truth values.
        UnknownName: there is no such weighting or term.

    """
    import numpy as np

    if not len(masks) == len(terms) == len(questions):
        message = f"{len(masks)} masks, {len(terms)} terms and {len(questions)} questions are not as many"
        raise SettingsError(message)
    _known("weighting", weighting, get_args(Weighting))
    for term in terms:
        _known("term", term, get_args(Term))
    flags = [_ones(mask, "the mask of token") for mask in masks]
    tokens = [int(mask.sum()) for mask in flags]
    asked = list(zip(questions, terms, strict=True))
    if weighting == "question_sum":
        sizes = Counter(question for question, term in asked if term != "continuation")
        shares, total = [1 / sizes[q] if term == "rollout" else 1.0 for q, term in asked], len(set(questions))
    elif weighting == "token_mean":
        shares, total = [float(count) for count in tokens], sum(tokens)
    else:
        shares, total = [1.0] * len(tokens), sum(count > 0 for count in tokens)
    weights = [share / max(1, total * count) for share, count in zip(shares, tokens, strict=True)]
    return [np.where(mask, weight, 0.0) for mask, weight in zip(flags, weights, strict=True)]


def clipped_objective(
    logprobs: ArrayLike,
    old_logprobs: ArrayLike,
    advantages: ArrayLike,
    weights: ArrayLike,
    *,
    reference_logprobs: ArrayLike | None = None,
    eps_low: float = 0.2,
    eps_high: float = 0.4,
    beta: float = 1e-3,
) -> float:
    """Eq. 6, to be maximised: the sum of weight · (min(ρA, clip(ρ, 1 - eps_low, 1 + eps_high) A) - beta · KL).

    All arrays have one shape, one number for each token; tokens of weight 0 may hold anything. Log-probs are in nats:
    of the policy in training, of the one that sampled (ρ is the ratio of their probabilities), and of the reference
    policy. The paper names no estimator of KL; this is GRPO's, exp(d) - d - 1 with d the log-prob of the reference less
    that of the policy (arXiv:2402.03300, Eq. 4). Without `reference_logprobs` there is no KL term and `beta` is unused.

    Raises:
        SettingsError: shapes differ, a weighted token has a number that is missing or infinite, two of its log-probs
            are more than 700 nats apart, or eps_low, eps_high or beta is negative or infinite.

    """
    import numpy as np

    if not all(0 <= value < math.inf for value in (eps_low, eps_high, beta)):
        message = f"eps_low {eps_low}, eps_high {eps_high} or beta {beta} is not a finite number from 0 on"
        raise SettingsError(message)
    given = {"logprobs": logprobs, "old_logprobs": old_logprobs, "advantages": advantages, "weights": weights}
    given["reference_logprobs"] = logprobs if reference_logprobs is None else reference_logprobs
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in given.items()}
    if len({array.shape for array in arrays.values()}) > 1:
        message = "arrays differ in shape: " + ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise SettingsError(message)
    used = arrays["weights"] != 0
    for name, array in arrays.items():
        if wrong := np.argwhere(used & ~np.isfinite(array)).tolist():
            message = f"{name} of token {wrong[0]} is {array[tuple(wrong[0])]}, and the token has a weight"
            raise SettingsError(message)
    policy, old, advantage, weight, reference = (array[used] for array in arrays.values())
    farthest = max(np.abs(policy - other).max(initial=0.0) for other in (old, reference))
    if farthest > 700:  # exp of more than 709 is no float.
        message = f"two log-probs of one token are {farthest:g} nats apart"
        raise SettingsError(message, hint="Are they natural logs, and of the same tokens?")
    ratio = np.exp(policy - old)
    gain = np.minimum(ratio * advantage, np.clip(ratio, 1 - eps_low, 1 + eps_high) * advantage)
    divergence = np.expm1(reference - policy) - (reference - policy)
    return float((weight * (gain - beta * divergence)).sum())


class TermTokens(NamedTuple):
    """The unmasked tokens of one term: their log-probs (nats), flat and of one length, and the advantage they share."""

    logprobs: ArrayLike
    old_logprobs: ArrayLike
    advantage: float
    reference_logprobs: ArrayLike | None = None


def axpo_objective(prefix: TermTokens, continuations: Sequence[TermTokens], **clipping: float) -> float:
    """Eq. 5, to be maximised: what one selected prefix adds, Eq. 6 of the prefix plus that of each continuation.

    Each is a mean over its tokens, 0.0 without any, and weighs 1 in the sum, as in `question_sum` for one question.
    `clipping` may give eps_low, eps_high and beta; they, their defaults and errors are those of `clipped_objective`.
    """
    import numpy as np

    objective = 0.0
    for logprobs, old, advantage, reference in (prefix, *continuations):
        n = np.size(logprobs)
        shared, weights = np.full(n, advantage), np.full(n, 1 / max(1, n))
        objective += clipped_objective(logprobs, old, shared, weights, reference_logprobs=reference, **clipping)
    return objective


def _correct(rewards: ArrayLike, of: str) -> NDArray[bool_]:
    """Which of one or more rewards are 1."""
    hint = "Give a rule that makes rewards binary, e.g. --correct 'score>=1'."
    correct = _ones(rewards, f"the reward of {of}", CorrectnessError, hint)
    if not len(correct):
        message = f"there is no {of}"
        raise SettingsError(message)
    return correct


def _ones(
    values: ArrayLike, what: str, error: type[GapscopeError] = SettingsError, hint: str | None = None
) -> NDArray[bool_]:
    """Which values are 1, in a new flat array; `error` unless the others are 0."""
    import numpy as np

    # As objects, so that a null stays one and "1" does not become a number.
    held = values if isinstance(values, np.ndarray) else np.asarray(values, dtype=np.object_)
    if held.ndim != 1:
        message = f"{what}: a flat array is expected, and the shape is {held.shape}"
        raise SettingsError(message)
    ones: NDArray[bool_] = held == 1
    if wrong := np.flatnonzero(~ones & (held != 0)).tolist():
        message = f"{what} {wrong[0]} is {held.tolist()[wrong[0]]!r}, which is neither 0 nor 1"
        raise error(message, hint=hint)
    return ones


def _known(kind: str, name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise UnknownName(kind, name, names)
