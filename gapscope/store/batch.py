"""Rollouts reduced to columns: what travels from the processes that parse to the one that stores.

The order of ROLLOUT_COLUMNS and CALL_COLUMNS is the order of the columns of schema.sql.
"""

import hashlib
import sys
import zlib
from functools import lru_cache
from typing import NamedTuple

import msgspec

from gapscope.alignment import Aligner
from gapscope.outcomes import normalised_call
from gapscope.rollouts import Json, Refused, Rollout, ToolCall
from gapscope.store.token_rows import (
    ABOUT_COLUMNS,
    ARRAY_COLUMNS,
    MISMATCH_COLUMNS,
    NO_TOKENS,
    Keep,
    TokenRows,
)
from gapscope.store.token_rows import CALL_COLUMNS as CALL_TOKEN_COLUMNS
from gapscope.store.token_rows import SPAN_COLUMNS as SPAN_TOKEN_COLUMNS

ROLLOUT_COLUMNS = (
    "row", "line", "offset", "rollout_id", "run", "split", "step", "group_id", "group_origin", "prompt_hash",
    "truth_hash", "image_hash", "sample_index", "output_index", "data_source", "status", "finish_reason",
    "reward", "reward_parts", "advantage", "correct", "turns", "sampled_chars", "sampled_tokens", "output_tokens",
    "logprob_tokens", "entropy_tokens", "text_hash",
    "calls", "closed_calls", "parsed_calls", "executed_calls", "in_think_calls", "parent_id", "parent_branch",
    "prefix_id", "branched_tokens", *ABOUT_COLUMNS,
)  # fmt: skip
FILE_COLUMNS = (
    "file", "path", "size", "mtime_ns", "format", "dialect", "step", "evidence", "claimed", "sampled", "syntax",
    "whole_until", "lines", "copy_of",
)  # fmt: skip
CALL_COLUMNS = (
    "row", "call", "turn", "name", "outcome", "in_think", "truncated", "empty_result", "repeated",
    "closed", "raw_hash", "call_hash", "text_prefix_hash", "body_start",
)  # fmt: skip
TEXT_COLUMNS = ("row", "call", "raw", "arguments", "result", "start", "end")
SPAN_COLUMNS = ("row", "span", "kind", "turn", "start", "end", "sampled", "token_start", "token_end")
KEPT_COLUMNS = ("row", "ground_truth", "answer", "extra")

BATCH_ROWS = 8192
BATCH_TOKENS = 250_000
"""Rows, and tokens whose arrays are kept, after which a batch is full."""

_LARGEST = sys.float_info.max
_encoder = msgspec.json.Encoder(order="sorted")


def _encode(value: Json) -> bytes:
    try:
        return _encoder.encode(value)
    except RecursionError:
        # What could just be decoded may be too deep to be encoded, from further down in the stack.
        return b'"nested too deeply"'


class Batch(NamedTuple):
    """Columns of one piece of a log; `row` counts from 0 inside the batch, `line` inside the piece.

    `fields` holds reward parts and numeric extras by name; `other_fields` counts the ones that are no
    numbers. The `texts`, `spans`, `kept` and `prompts` columns are empty unless texts were asked for.
    """

    rows: int
    lines: int
    end: int | None
    rollouts: list[tuple[Json, ...]]
    calls: list[tuple[Json, ...]]
    fields: dict[str, tuple[list[int], list[float]]]
    other_fields: dict[str, int]
    refused: list[Refused]
    notes: dict[str, int]
    declared_tools: set[str]
    texts: list[tuple[Json, ...]]
    spans: list[tuple[Json, ...]]
    kept: list[tuple[Json, ...]]
    prompts: dict[int, str]
    span_tokens: list[tuple[Json, ...]]
    call_tokens: list[tuple[Json, ...]]
    mismatches: list[tuple[Json, ...]]
    arrays: list[tuple[Json, ...]]
    kept_tokens: int


class BatchBuilder:
    """Gathers the records of one piece.

    With `group_field`, the group is what that field of the row holds; without, what the parser found. `keep_tokens`
    says of which rollouts the token arrays are kept.
    """

    def __init__(
        self,
        aligner: Aligner,
        *,
        keep_texts: bool = False,
        keep_tokens: Keep = "none",
        group_field: str | None = None,
    ) -> None:
        self.aligner = aligner
        self.keep_texts = keep_texts
        self.keep_tokens = keep_tokens
        self.group_field = group_field
        self.start()

    def start(self) -> None:
        """Begin an empty batch."""
        self.rollouts: list[tuple[Json, ...]] = []
        self.call_rows: list[tuple[Json, ...]] = []
        self.fields: dict[str, tuple[list[int], list[float]]] = {}
        self.other_fields: dict[str, int] = {}
        self.refused: list[Refused] = []
        self.notes: dict[str, int] = {}
        self.declared: set[str] = set()
        self.texts: list[tuple[Json, ...]] = []
        self.span_rows: list[tuple[Json, ...]] = []
        self.kept: list[tuple[Json, ...]] = []
        self.prompts: dict[int, str] = {}
        self.tokens = TokenRows()

    @property
    def full(self) -> bool:
        """Whether the batch should be handed on, so that memory does not grow with the length of a file."""
        return len(self.rollouts) >= BATCH_ROWS or self.tokens.kept >= BATCH_TOKENS

    def add(self, record: Rollout | Refused) -> None:
        """Take one record."""
        if isinstance(record, Refused):
            self.refused.append(record)
            return
        row = len(self.rollouts)
        alignment = self.aligner.align(record)
        counts, about = NO_TOKENS[:_COUNTS], NO_TOKENS[_COUNTS:]
        if record.tokens is not None:
            found = self.tokens.add(row, record, record.tokens, alignment, self.notes)
            counts, about = found[:_COUNTS], found[_COUNTS:]
            self._keep_tokens(row, record)
        prompt_hash = None if record.prompt is None else _hash_again(record.prompt)
        self.rollouts.append(
            (
                row, record.source.line, record.source.offset, record.rollout_id, record.run, record.split,
                record.step, *self._group(record), prompt_hash, _truth_hash(record.ground_truth),
                _hash(record.images[0].sha256) if record.images else None,
                record.sample_index, record.output_index, record.data_source, record.status,
                record.finish_reason, record.reward,
                sum([part.value is not None for part in record.reward_parts]) if record.reward_parts else 0,
                record.advantage, record.correct, len(record.turns),
                sum([span.end - span.start for span in record.spans if span.sampled]),
                *counts, text_hash(record.output),
                *(self._calls(row, record, prompt_hash) if record.calls else _NO_CALLS),
                *_parent(record), *about,
            ),
        )  # fmt: skip
        for part in record.reward_parts:
            if part.value is not None:
                self._field(part.name, row, part.value)
        if record.extra:
            self._extra(row, record.extra)
        for note in record.notes:
            self.notes[note] = self.notes.get(note, 0) + 1
        if record.declared_tools:
            self.declared.update(record.declared_tools)
        if self.keep_texts:
            self._keep(row, record, prompt_hash)

    def _keep_tokens(self, row: int, record: Rollout) -> None:
        # A plan branches from rollouts that called a tool and were wrong.
        may_branch = record.correct is not True and any(not call.in_think for call in record.calls)
        if record.tokens is not None and (self.keep_tokens == "all" or (self.keep_tokens == "auto" and may_branch)):
            self.tokens.keep(row, record.tokens)

    def _calls(self, row: int, record: Rollout, prompt_hash: int | None) -> tuple[int, int, int, int, int]:
        """Rows for the calls; how many were attempted, closed, parsed and executed, and how many in thinking."""
        attempts = closed = parsed = executed = in_think = 0
        for call in record.calls:
            self.call_rows.append(
                (row, call.index, call.turn, call.name, call.outcome, call.in_think, call.truncated,
                 call.empty_result, call.repeated, call.closed, _hash(call.raw),
                 _hash(normalised_call(call.name, call.arguments, call.raw)),
                 _text_prefix_hash(record, call, prompt_hash), call.body_start),
            )  # fmt: skip
            if call.in_think:
                in_think += 1
                continue
            attempts += 1
            closed += call.closed
            parsed += call.parsed
            executed += call.executed
        return attempts, closed, parsed, executed, in_think

    def _group(self, record: Rollout) -> tuple[str | None, str | None]:
        if self.group_field is None:
            return record.group_id, record.group_origin
        group = self._group_from_field(record)
        return group, None if group is None else "field"

    def _extra(self, row: int, extra: dict[str, Json]) -> None:
        for key, item in extra.items():
            # Integers beyond a double are no measurements.
            if isinstance(item, (bool, int, float)) and -_LARGEST <= item <= _LARGEST:
                self._field(key, row, float(item))
            else:
                self.other_fields[key] = self.other_fields.get(key, 0) + 1

    def _field(self, name: str, row: int, value: float) -> None:
        column = self.fields.get(name)
        if column is None:
            column = self.fields[name] = ([], [])
        column[0].append(row)
        column[1].append(value)

    def _group_from_field(self, record: Rollout) -> str | None:
        key = self.group_field or ""
        value: Json = record.extra.get(key)
        if value is None:
            value = next((part.value for part in record.reward_parts if part.name == key), None)
        if value is None and key in GROUPABLE:
            value = getattr(record, key)
        if value is None:
            return None
        return value if isinstance(value, str) else _encode(value).decode()

    def _keep(self, row: int, record: Rollout, prompt_hash: int | None) -> None:
        if record.prompt is not None and prompt_hash is not None:
            self.prompts[prompt_hash] = record.prompt
        answer = next((span for span in reversed(record.spans) if span.kind == "answer"), None)
        self.kept.append(
            (
                row,
                None if record.ground_truth is None else _encode(record.ground_truth).decode(),
                None if answer is None else record.output[answer.start : answer.end],
                _encode(record.extra).decode() if record.extra else None,
            ),
        )
        for index, span in enumerate(record.spans):
            self.span_rows.append(
                (row, index, span.kind, span.turn, span.start, span.end, span.sampled, span.token_start,
                 span.token_end),
            )  # fmt: skip
        for call in record.calls:
            place = record.spans[call.span] if call.span is not None else None
            self.texts.append(
                (row, call.index, call.raw, _encode(call.arguments).decode(), call.result,
                 place.start if place else None, place.end if place else None),
            )  # fmt: skip

    def finish(self, *, lines: int, end: int | None) -> Batch:
        """What was gathered; `lines` were seen, and `end` is the byte after the last whole one."""
        batch = Batch(
            len(self.rollouts),
            lines,
            end,
            _columns(self.rollouts, len(ROLLOUT_COLUMNS)),
            _columns(self.call_rows, len(CALL_COLUMNS)),
            self.fields,
            self.other_fields,
            self.refused,
            self.notes,
            self.declared,
            _columns(self.texts, len(TEXT_COLUMNS)),
            _columns(self.span_rows, len(SPAN_COLUMNS)),
            _columns(self.kept, len(KEPT_COLUMNS)),
            self.prompts,
            _columns(self.tokens.spans, len(SPAN_TOKEN_COLUMNS)),
            _columns(self.tokens.calls, len(CALL_TOKEN_COLUMNS)),
            _columns(self.tokens.mismatches, len(MISMATCH_COLUMNS)),
            _columns(self.tokens.arrays, len(ARRAY_COLUMNS)),
            self.tokens.kept,
        )
        self.start()
        return batch


GROUPABLE = frozenset({"group_id", "prompt", "ground_truth", "data_source", "run", "step", "sample_index"})
"""Fields of the record itself that `group_field` may name."""


def _columns(rows: list[tuple[Json, ...]], width: int) -> list[tuple[Json, ...]]:
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _hash(text: str) -> int:
    """64 bits of SHA-1, signed: the same in every process, and fast where the CPU has instructions for it."""
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


_hash_again = lru_cache(maxsize=1024)(_hash)
"""For prompts and ground truths, which are the same in a whole group."""


_ENDS = 2048


def text_hash(text: str) -> int:
    """Equal for texts that agree in length and in their first and last 2,048 characters.

    Rollouts that differ in between and in nothing else do not occur; reading all of every text would cost a
    tenth of the whole audit.
    """
    ends = text if len(text) <= 2 * _ENDS else text[:_ENDS] + text[-_ENDS:]
    return len(text) << 32 | zlib.crc32(ends.encode())


_NO_CALLS = (0, 0, 0, 0, 0)


def _parent(record: Rollout) -> tuple[str | None, int | None, str | None, int | None]:
    """Of a continuation: its source, the character at which it branched off, the name of the prefix, and new tokens."""
    parent = record.parent
    if parent is None:
        return None, None, None, None
    sampled = record.tokens.sampled if record.tokens is not None else None
    new = None if sampled is None or parent.branch_token is None else sum(sampled[parent.branch_token :])
    return parent.rollout_id, parent.branch_char, parent.prefix_id, new


def _truth_hash(truth: Json) -> int | None:
    if truth is None:
        return None
    return _hash_again(truth if isinstance(truth, str) else _encode(truth).decode())


_COUNTS = len(NO_TOKENS) - len(ABOUT_COLUMNS)
"""How many numbers of tokens stand before ABOUT_COLUMNS."""


def _text_prefix_hash(record: Rollout, call: ToolCall, prompt_hash: int | None) -> int | None:
    """Equal for calls that were begun after the same prompt and the same text."""
    if call.body_start is None or call.in_think:
        return None
    return _hash(f"{prompt_hash}\0{record.output[: call.body_start]}")
