"""Whether the model that scores a log is the policy that sampled it: by tokens that have a log-prob from both.

Two servers with the same weights differ a little at most tokens and much at hardly any, so it is the tails that tell;
a mean hides them.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from gapscope.rollouts import Rollout

APART = 0.1
"""Nats. Beyond this, the difference of two log-probs of one token is no rounding."""

SAME_POLICY = 0.05
"""The largest share of tokens apart with which two models may still be the same one in another precision."""

MOST_ROLLOUTS = 64
MOST_PER_STEP = 4


class Agreement(NamedTuple):
    """Over `tokens` tokens of `rollouts` rollouts: the share apart by more than 0.1 nats, and the largest difference.

    `by_step` is the share in each training step; under None for rollouts without a step.
    """

    rollouts: int
    tokens: int
    apart: float
    largest: float
    by_step: dict[int | None, float]

    @property
    def same_policy(self) -> bool:
        """Whether the model can be the one that sampled."""
        return self.apart <= SAME_POLICY


class Comparison:
    """Gathers differences, from a few rollouts of each step."""

    def __init__(self) -> None:
        self.taken = 0
        self._by_step: dict[int | None, int] = defaultdict(int)
        self._tokens: dict[int | None, int] = defaultdict(int)
        self._apart: dict[int | None, int] = defaultdict(int)
        self._rollouts = 0
        self._largest = 0.0

    def takes(self, rollout: Rollout) -> bool:
        """Whether this rollout, which has log-probs of the engine that sampled, is one of those to compare."""
        tokens = rollout.tokens
        wanted = (
            tokens is not None
            and bool(tokens.ids)
            and bool(tokens.logprobs)
            and tokens.logprob_source != "rescored"
            and not tokens.retokenised
            and self.taken < MOST_ROLLOUTS
            and self._by_step[rollout.step] < MOST_PER_STEP
        )
        if wanted:
            self.taken += 1
            self._by_step[rollout.step] += 1
        return wanted

    def add(self, step: int | None, sampled: Sequence[float | None], scored: Sequence[float | None]) -> None:
        """Take the log-probs of one rollout from both, token by token."""
        differences = [abs(a - b) for a, b in zip(sampled, scored, strict=True) if a is not None and b is not None]
        if not differences:
            return
        self._rollouts += 1
        self._tokens[step] += len(differences)
        self._apart[step] += sum(difference > APART for difference in differences)
        self._largest = max(self._largest, *differences)

    def result(self) -> Agreement | None:
        """What was found; None where there was nothing to compare."""
        tokens = sum(self._tokens.values())
        if not tokens:
            return None
        shares = {step: self._apart[step] / count for step, count in self._tokens.items()}
        return Agreement(self._rollouts, tokens, sum(self._apart.values()) / tokens, self._largest, shares)
