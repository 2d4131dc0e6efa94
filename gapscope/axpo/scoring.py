"""What `score` has done, in numbers and in sentences."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gapscope.axpo.agreement import APART, Agreement
from gapscope.axpo.teacher_forcing import IMAGES

_MOST_DETAIL = 200


class Skipped(NamedTuple):
    """How many rollouts were copied unscored for one reason, and what is known of the first of them."""

    rollouts: int
    detail: str


@dataclass(slots=True)
class Scoring:
    """What `score` has done.

    Of the rollouts `written`, `resumed` had been before; the others were `scored`, or copied: `kept` with the
    log-probs that they had, `not_selected` because only candidates were wanted, `skipped` by reason. `refused` rows of
    the log are no rollouts. `retokenised` of those scored had no token ids; in `other_text` the model's tokens spell
    another text than the log, and in `other_calls` other calls than its messages. `tokens` were scored, of the `steps`
    that are named. It took `seconds`, and in `cpu_seconds` of them it was not the server that worked.
    """

    output: Path
    model: str
    resumed: int = 0
    scored: int = 0
    kept: int = 0
    not_selected: int = 0
    skipped: dict[str, Skipped] = field(default_factory=dict)
    refused: int = 0
    retokenised: int = 0
    other_text: int = 0
    other_calls: int = 0
    tokens: int = 0
    steps: set[int] = field(default_factory=set)
    agreement: Agreement | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    interrupted: bool = False

    def skip(self, reason: str, detail: str) -> None:
        """Count a rollout that was copied unscored."""
        before = self.skipped.get(reason, Skipped(0, detail))
        self.skipped[reason] = before._replace(rollouts=before.rollouts + 1)

    @property
    def unscored(self) -> int:
        """Rollouts that should have been scored and were not."""
        return sum(skipped.rollouts for skipped in self.skipped.values())

    @property
    def written(self) -> int:
        """Rollouts in the output."""
        return self.resumed + self.scored + self.kept + self.not_selected + self.unscored

    @property
    def client_share(self) -> float:
        """The share of the time in which we computed, on one CPU."""
        return self.cpu_seconds / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens scored per second, those of prompts included."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in the output that this model has scored."""
        return not self.scored and not self.resumed

    def summary(self) -> list[str]:
        """What was done, a line for each kind of rollout."""
        lines = [f"{self.output}: {self.written:,} rollouts, {self.scored:,} of them scored by {self.model}"]
        if self.resumed:
            lines.append(f"{self.resumed:,} were there from an earlier run")
        if self.kept:
            lines.append(f"{self.kept:,} copied with the log-probs that they have")
        if self.not_selected:
            lines.append(f"{self.not_selected:,} copied unscored: no candidates")
        for reason, skipped in sorted(self.skipped.items(), key=lambda item: -item[1].rollouts):
            detail = f" ({' '.join(skipped.detail.split())[:_MOST_DETAIL]})" if skipped.detail else ""
            lines.append(f"{skipped.rollouts:,} copied unscored: {reason}{detail}")
        if self.refused:
            lines.append(f"{self.refused:,} rows of the log could not be read, and are not in it")
        if self.scored:
            speed = f"{self.tokens:,} tokens in {self.seconds:.1f} s, {self.tokens_per_second:,.0f} tokens/s"
            lines.append(f"{speed}, {self.client_share:.1%} of the time our own")
        return lines

    def remarks(self) -> list[str]:
        """What to know before the numbers are used."""
        if not self.scored:
            return []
        found = [self._about_policy()]
        if len(self.steps) > 1:
            found.append(
                f"one model scored all {len(self.steps):,} steps, {min(self.steps)} to {max(self.steps)}; a policy in "
                "training is another one at each of them"
            )
        if self.retokenised:
            found.append(
                f"{self.retokenised:,} of {self.scored:,} had no token ids: their text was tokenised again by the "
                "server, which need not give the tokens that were sampled"
            )
        if self.other_text:
            found.append(
                f"in {self.other_text:,} of {self.scored:,} the tokens, as {self.model} spells them, are not the text "
                "of the log: it has another tokenizer, or the log was edited"
            )
        if self.other_calls:
            found.append(
                f"in {self.other_calls:,} of {self.scored:,} the tokens do not hold the calls of the messages: the "
                "template does not write them, or in a syntax that is not known"
            )
        return found

    def _about_policy(self) -> str:
        agreement = self.agreement
        if agreement is None:
            return (
                f"whether {self.model} is the policy that sampled cannot be checked: no rollout has token ids and "
                "log-probs of its own"
            )
        found = (
            f"{agreement.apart:.2%} of {agreement.tokens:,} tokens ({agreement.rollouts:,} rollouts with log-probs of "
            f"their own) are more than {APART} nats apart, the largest difference is {agreement.largest:.3g}"
        )
        if agreement.same_policy:
            return f"{self.model} can be the policy that sampled: {found}"
        steps = sorted((share, step) for step, share in agreement.by_step.items() if step is not None)
        nearest = f"; nearest at step {steps[0][1]} ({steps[0][0]:.1%})" if len(steps) > 1 else ""
        return f"{self.model} is NOT the policy that sampled, or its log-probs were logged otherwise: {found}{nearest}"

    def failure(self) -> tuple[str, str | None]:
        """Why nothing was scored, and what to do about it."""
        if self.skipped and set(self.skipped) == {IMAGES}:
            return (
                f"nothing was scored: {self.unscored:,} rollouts have images, and the route that scores ignores them",
                "Have the engine write log-probs as it samples: `gapscope.recorders` shows how.",
            )
        if self.unscored:
            return f"nothing was scored, of {self.unscored:,} rollouts to score", None
        if self.kept:
            return f"nothing was scored: all {self.kept:,} rollouts have log-probs already", None
        if self.not_selected:
            return "nothing was scored: no group triggers, so there is no candidate", None
        return "nothing was scored: there is no rollout in the log", None
