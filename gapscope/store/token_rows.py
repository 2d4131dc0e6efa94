"""The tokens of a rollout reduced to rows: the numbers of its spans and calls, and the arrays that are kept.

The order of the columns is that of schema.sql.
"""

import hashlib
from array import array
from typing import Literal

from gapscope.alignment import ALIGNED, Alignment
from gapscope.rollouts import Json, Rollout, Tokens
from gapscope.token_numbers import EntropyAt, TokenNumbers, call_numbers

Keep = Literal["auto", "all", "none"]
"""Which arrays a store on disk keeps: of rollouts that a plan may branch from (`auto`), of all, or of none."""

ABOUT_COLUMNS = ("alignment", "logprob_source", "scored_by", "entropy_kind", "retokenised", "has_ids")
SPAN_COLUMNS = (
    "row", "span", "kind", "turn", "token_start", "token_end", "tokens", "scored", "prob_sum", "logprob_sum",
    "logprob_min", "entropies", "entropy_sum",
)  # fmt: skip
CALL_COLUMNS = (
    "row", "call", "token_start", "branch", "body_end", "token_end", "mixed", "prefix_hash", "tokens", "scored",
    "prob_sum", "logprob_sum", "logprob_min", "body_tokens", "body_scored", "body_prob_sum", "body_logprob_sum",
    "body_logprob_min", "tag_entropy", "tag_upper", "tag_logprob", "after_entropy", "after_upper", "after_logprob",
    "entropies", "entropy_sum",
)  # fmt: skip
MISMATCH_COLUMNS = ("row", "tokens", "over_0_01", "over_0_1", "over_1", "largest")
ARRAY_COLUMNS = (
    "row", "n_prompt", "ids", "strings", "sampled", "logprobs", "trainer_logprobs", "entropies", "entropy_uppers",
)  # fmt: skip

NO_TOKENS: tuple[Json, ...] = (None, None, None, None, "no_tokens", None, None, None, None, None)
"""What `TokenRows.add` gives for a rollout without tokens."""


class TokenRows:
    """Gathers the rows of one batch."""

    def __init__(self) -> None:
        self.spans: list[tuple[Json, ...]] = []
        self.calls: list[tuple[Json, ...]] = []
        self.mismatches: list[tuple[Json, ...]] = []
        self.arrays: list[tuple[Json, ...]] = []
        self.kept = 0

    def add(
        self, row: int, record: Rollout, tokens: Tokens, alignment: Alignment, notes: dict[str, int]
    ) -> tuple[Json, ...]:
        """Take one rollout's tokens; gives what its own row says of them.

        These are the tokens that the policy wrote, those of the whole output, those with a log-prob and with an
        entropy, and the ABOUT_COLUMNS.
        """
        numbers = TokenNumbers(tokens)
        for fault in numbers.faults:
            notes[fault] = notes.get(fault, 0) + 1
        if alignment in ALIGNED:
            self._spans(row, record, numbers)
            self._calls(row, record, tokens, numbers)
        if mismatch := numbers.mismatch():
            self.mismatches.append((row, mismatch.tokens, *mismatch.over, mismatch.largest))
        output = len(tokens) - (tokens.n_prompt or 0)
        sampled: int | None = output if all(span.sampled for span in record.spans) else None
        if numbers.sampled is not None:
            sampled = int(numbers.sampled.sum())
        kind = tokens.entropy_kind if numbers.entropies is not None else None
        return (
            sampled, output, *numbers.counts(), alignment,
            tokens.logprob_source if numbers.logprobs is not None else None, tokens.scored_by, kind,
            tokens.retokenised, tokens.ids is not None,
        )  # fmt: skip

    def keep(self, row: int, tokens: Tokens) -> None:
        """Keep the arrays themselves."""
        self.kept += len(tokens)
        self.arrays.append(
            (
                row, tokens.n_prompt, tokens.ids, tokens.strings, tokens.sampled, tokens.logprobs,
                tokens.trainer_logprobs, tokens.entropies, tokens.entropy_uppers,
            ),
        )  # fmt: skip

    def _spans(self, row: int, record: Rollout, numbers: TokenNumbers) -> None:
        for index, span in enumerate(record.spans):
            if span.token_start is None or span.token_end is None or not span.sampled:
                continue
            self.spans.append(
                (
                    row, index, span.kind, span.turn, span.token_start, span.token_end,
                    *numbers.sums(span.token_start, span.token_end),
                    *numbers.entropy_sum(span.token_start, span.token_end),
                ),
            )  # fmt: skip

    def _calls(self, row: int, record: Rollout, tokens: Tokens, numbers: TokenNumbers) -> None:
        for call in record.calls:
            place = call.tokens
            if place is None:
                continue
            found = call_numbers(numbers, place)
            self.calls.append(
                (
                    row, call.index, place.start, place.branch, place.body_end, place.end, place.mixed,
                    prefix_hash(tokens, place.branch),
                    *found.whole, *found.body, *_three(found.tag), *_three(found.after), found.entropies,
                    found.entropy_sum,
                ),
            )  # fmt: skip


def _three(at: EntropyAt) -> tuple[float | None, float | None, float | None]:
    return at.entropy, at.upper, at.logprob


def prefix_hash(tokens: Tokens, branch: int) -> int | None:
    """64 bits that stand for the ids of a prefix; None where its prompt is missing or an id is none of a model."""
    if tokens.ids is None or not tokens.n_prompt:
        return None
    try:
        packed = array("I", tokens.ids[:branch]).tobytes()
    except OverflowError:
        return None
    return int.from_bytes(hashlib.sha1(packed, usedforsecurity=False).digest()[:8], "little", signed=True)
