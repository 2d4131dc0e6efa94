"""What `export` has done, in numbers and in sentences."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from gapscope.axpo.advantages import Term
from gapscope.axpo.training_rows import APART, LeftOut

_WHY: dict[LeftOut, str] = {
    "correctness_undefined": "no rollout of the group has a verdict",
    "duplicate": "there twice",
    "group_of_one": "the only rollout of its group, which the preset skips",
    "impossible_ids": "token ids that no model has",
    "inexact_prefix": "continuations whose first tokens are not known to be those of the source's prefix",
    "merged": "several groups that cannot be told apart",
    "mixed_prompt": "the group holds several prompts",
    "no_branch_point": "sources of which it is not known where in their tokens the prefix ends",
    "no_group_key": "neither a group nor a prompt is logged",
    "no_logprobs": "a sampled token has no log-prob",
    "no_mask": "nothing says which tokens the policy sampled",
    "no_prompt": "the tokens of the prompt are missing",
    "no_token_ids": "no token ids",
    "no_verdict": "continuations without a verdict",
    "nothing_sampled": "no sampled token to train on",
    "other_output": "other outputs of a selected source",
    "other_prefix": "continuations of another prefix of the same source",
    "padding": "padding, or excluded by the log itself",
    "partial_correctness": "some rollouts of the group have no verdict",
    "prefix_not_selected": "continuations of a prefix with fewer than two that have a verdict",
    "retokenised": "token ids made from text, not those that were sampled",
    "source_correct": "continuations of a source that was correct itself",
    "source_not_in_log": "continuations whose source is not in the log",
    "validation": "of the validation split",
}
_RECORD = "Record rollouts with their token ids, mask and log-probs: `gapscope.recorders`, or what resamples a plan."
_HINTS: dict[LeftOut, str] = {
    **dict.fromkeys(("no_token_ids", "no_mask", "no_prompt", "retokenised", "impossible_ids"), _RECORD),
    "no_logprobs": f"{_RECORD} `gapscope score` fills in log-probs of a model that is served.",
    "group_of_one": "Train on groups of two or more, or take another --advantage.preset.",
    "partial_correctness": "Say which rollouts are correct: --correct 'score>=1'.",
    "source_not_in_log": "Name the log of the rollouts that were branched from as well.",
}


@dataclass(slots=True)
class Exported:
    """What `export` has written to `path`.

    `rows` and `tokens`, those that are trained on, by term; `left_out` counts the rows of the log that are no rows of
    the batch, by reason. `longest` are the tokens of the longest prompt and the longest output. Of the untouched
    rollouts `compared` have an advantage in the log, which for `apart` of them is another one, by up to `farthest`.
    `alone` prefixes are trained on without any of their continuations. Where execution decides, `unseen` continuations
    count as not executed, for nothing shows what they called. `images` rows saw images, and `rescored` ones have
    log-probs that a model gave them afterwards. `refused` rows of the log could not be read. `missing` planned
    continuations have no verdict.
    """

    path: Path
    rows: Counter[Term] = field(default_factory=Counter)
    tokens: Counter[Term] = field(default_factory=Counter)
    left_out: Counter[LeftOut] = field(default_factory=Counter)
    longest: tuple[int, int] = (0, 0)
    steps: set[int | None] = field(default_factory=set)
    compared: int = 0
    apart: int = 0
    farthest: float = 0.0
    alone: int = 0
    unseen: int = 0
    images: int = 0
    rescored: int = 0
    refused: int = 0
    missing: int = 0
    departures: list[str] = field(default_factory=list)

    def summary(self) -> list[str]:
        """What was written and what was not."""
        prompt, response = self.longest
        lines = [
            f"{self.path}: {self.rows.total():,} rows: {_by_term(self.rows)}",
            f"prompts of up to {prompt:,} tokens, outputs of up to {response:,}",
            f"{self.tokens.total():,} tokens are trained on: {_by_term(self.tokens)}",
        ]
        for reason, count in sorted(self.left_out.items(), key=lambda item: (-item[1], item[0])):
            lines.append(f"{count:,} left out: {_WHY[reason]}")
        if self.refused:
            lines.append(f"{self.refused:,} of the log's rows could not be read")
        return lines

    def remarks(self) -> list[str]:
        """What to know before the batch is used."""
        found = list(self.departures)
        if not self.rows["prefix"] and not self.rows["continuation"]:
            found.append("no prefix was resampled: this is a batch of plain GRPO")
        if self.alone:
            found.append(
                f"prefixes that are trained on without their continuations, which were left out: {self.alone:,}"
            )
        if self.unseen:
            found.append(f"continuations that show no call, and count as not executed: {self.unseen:,}")
        if self.apart:
            found.append(
                f"{self.apart:,} of {self.compared:,} untouched rollouts have another advantage in the log, by up to "
                f"{self.farthest:.3g} (more than {APART:g}): the trainer normalises otherwise, see --advantage.preset"
            )
        if len(self.steps) > 1:
            found.append(f"the rows are of {len(self.steps):,} steps, and weights are over all of them")
        if self.missing:
            found.append(f"{self.missing:,} planned continuations have no verdict in the log")
        if self.rescored:
            found.append(
                f"{self.rescored:,} rows have log-probs that a model gave afterwards, not the one that sampled"
            )
        if self.images:
            found.append(f"{self.images:,} rows saw images, which are not in the batch")
        return found

    def nothing(self) -> tuple[str, str | None]:
        """What happened where no row is left, and what to do."""
        reason, count = self.left_out.most_common(1)[0]
        total = self.left_out.total()
        return f"no row can be trained on: {count:,} of {total:,} are left out: {_WHY[reason]}", _HINTS.get(reason)


def _by_term(counts: Counter[Term]) -> str:
    names: dict[Term, str] = {"rollout": "rollouts", "prefix": "prefixes", "continuation": "continuations"}
    return ", ".join(f"{counts[term]:,} {name}" for term, name in names.items())
