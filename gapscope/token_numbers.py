"""What the log-probs and entropies of a rollout add up to: over a span, over a call, at its branch point.

Sums are kept and not means, so that the mean over any set of spans follows from theirs. A value at a token that the
policy did not write is absent, whatever stands there: trainers fill such places with 0.0.
"""

from typing import TYPE_CHECKING, NamedTuple

from gapscope.rollouts import CallTokens, EntropyKind, Tokens

if TYPE_CHECKING:
    import numpy as np

    Values = np.ndarray[tuple[int], np.dtype[np.float64]]

ROUNDING = 1e-6
"""How far above 0 a log-prob may be, in nats: single precision rounds the likeliest tokens there."""

MISMATCH_LIMITS = (0.01, 0.1, 1.0)
"""Differences between the engine's log-prob and the trainer's from which on they are counted, in nats."""


class Sums(NamedTuple):
    """Over some tokens: how many, how many `scored` with a log-prob, Σ p, Σ ln p and the least ln p of those."""

    tokens: int
    scored: int
    prob_sum: float | None
    logprob_sum: float | None
    logprob_min: float | None


class EntropyAt(NamedTuple):
    """What is known of the distribution that a token was drawn from; nats."""

    entropy: float | None
    upper: float | None
    logprob: float | None


_UNKNOWN = EntropyAt(None, None, None)


class Mismatch(NamedTuple):
    """Sampled tokens that both the engine and the trainer gave a log-prob.

    How many there are, in how many the two differ by more than each of MISMATCH_LIMITS, and the largest difference.
    """

    tokens: int
    over: tuple[int, ...]
    largest: float


class TokenNumbers:
    """The numbers of one rollout, checked; `faults` names what was wrong with them, and what is wrong is not used."""

    def __init__(self, tokens: Tokens) -> None:
        import numpy as np

        self.faults: list[str] = []
        self.size = len(tokens)
        self.sampled = None if tokens.sampled is None else np.array(tokens.sampled, dtype=bool)
        self.kind: EntropyKind | None = tokens.entropy_kind
        if self.sampled is not None and len(self.sampled) != self.size:
            self.faults.append("token_mask_of_another_length")
            self.sampled = None
        if self.sampled is not None and not self.sampled.any():
            self.faults.append("token_mask_covers_nothing")
        self.logprobs = self._logprobs(tokens.logprobs, "logprobs")
        self.trainer = self._logprobs(tokens.trainer_logprobs, "trainer_logprobs")
        self.entropies = self._values(tokens.entropies, "entropies")
        self.uppers = self._values(tokens.entropy_uppers, "entropy_uppers")
        if self.entropies is not None and self.kind is None:
            self.faults.append("entropies_of_no_kind")
            self.entropies = None

    def _values(self, values: list[float | None] | None, name: str) -> "Values | None":
        """The numbers, NaN where there is none; None if there are none at all or they cannot be right."""
        if values is None:
            return None
        import numpy as np

        if len(values) != self.size:
            self.faults.append(f"{name}_of_another_length")
            return None
        array = np.array(values, dtype=np.float64)
        if self.sampled is not None:
            array[~self.sampled] = np.nan
        infinite = np.isinf(array)
        if infinite.any():
            self.faults.append(f"{name}_infinite")
            array[infinite] = np.nan
        return None if np.isnan(array).all() else array

    def _logprobs(self, values: list[float | None] | None, name: str) -> "Values | None":
        import numpy as np

        array = self._values(values, name)
        if array is None:
            return None
        if np.nanmax(array) > ROUNDING:
            self.faults.append(f"{name}_above_zero")
            return None
        if self.sampled is not None and np.isnan(array[self.sampled]).any():
            self.faults.append(f"{name}_missing_at_sampled_tokens")
        return np.minimum(array, 0.0)

    def counts(self) -> tuple[int, int]:
        """Tokens with a log-prob, and with an entropy."""
        return _count(self.logprobs), _count(self.entropies)

    def sums(self, start: int, end: int) -> Sums:
        """Over the tokens [start, end)."""
        import numpy as np

        if self.logprobs is None:
            return Sums(end - start, 0, None, None, None)
        values = self.logprobs[start:end]
        values = values[~np.isnan(values)]
        if not values.size:
            return Sums(end - start, 0, None, None, None)
        return Sums(
            end - start, int(values.size), float(np.exp(values).sum()), float(values.sum()), float(values.min())
        )

    def entropy_sum(self, start: int, end: int) -> tuple[int, float | None]:
        """How many of the tokens [start, end) have an entropy, and their sum."""
        import numpy as np

        count = 0 if self.entropies is None else _count(self.entropies[start:end])
        return count, float(np.nansum(self.entropies[start:end])) if count and self.entropies is not None else None

    def at(self, position: int) -> EntropyAt:
        """At one token; all unknown beyond the last."""
        if position >= self.size:
            return _UNKNOWN
        return EntropyAt(
            _at(self.entropies, position),
            _at(self.uppers if self.kind == "topk" else self.entropies, position),
            _at(self.logprobs, position),
        )

    def mismatch(self) -> Mismatch | None:
        """How the engine's and the trainer's log-probs differ; None without both."""
        if self.logprobs is None or self.trainer is None:
            return None
        import numpy as np

        apart = np.abs(self.logprobs - self.trainer)
        apart = apart[~np.isnan(apart)]
        if not apart.size:
            return None
        over = tuple(int((apart > limit).sum()) for limit in MISMATCH_LIMITS)
        return Mismatch(int(apart.size), over, float(apart.max()))


class CallNumbers(NamedTuple):
    """One call: with its delimiters, without them, and what the policy hesitated over at its beginning.

    `tag` is the first token of the opening delimiter (to call or not), `after` the first one behind it.
    """

    whole: Sums
    body: Sums
    tag: EntropyAt
    after: EntropyAt
    entropies: int
    entropy_sum: float | None


def call_numbers(numbers: TokenNumbers, place: CallTokens) -> CallNumbers:
    """The numbers of one call (axpo section 2.4, metrics section 7)."""
    return CallNumbers(
        numbers.sums(place.start, place.end),
        numbers.sums(place.branch, place.body_end),
        numbers.at(place.start),
        numbers.at(place.branch),
        *numbers.entropy_sum(place.start, place.end),
    )


def _count(values: "Values | None") -> int:
    import numpy as np

    return 0 if values is None else int((~np.isnan(values)).sum())


def _at(values: "Values | None", position: int) -> float | None:
    if values is None:
        return None
    value = float(values[position])
    return None if value != value else value  # noqa: PLR0124 (it is NaN then)
