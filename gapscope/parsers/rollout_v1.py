"""gapscope's own interchange form, `gapscope.rollout/1`: what recorders and the resampler write."""

from collections.abc import Iterator, Mapping

import msgspec

from gapscope.parsers.base import JSON, Parser, fits, row_by_row, source_of
from gapscope.rollouts import SCHEMA, Json, Rollout, Source, Tokens
from gapscope.rows import Reading, Row, RowError

_KEYS = frozenset(Rollout.__struct_fields__) | {"schema"}


def claims(row: Mapping[str, Json]) -> bool:
    """The schema's own name."""
    return row.get("schema") == SCHEMA


def translate(row: Row, reading: Reading) -> Rollout:
    """One line; keys of a later version are kept in `extra`, and the trainer's own row in `origin`."""
    value = row.value
    unknown = {key: item for key, item in value.items() if key not in _KEYS}
    try:
        rollout = msgspec.convert(value, Rollout)
    except msgspec.ValidationError as error:
        raise RowError(str(error)) from error
    except RecursionError as error:
        message = "nested too deeply"
        raise RowError(message) from error
    if fault := next(_faults(rollout), None):
        raise RowError(fault)
    here: Source = source_of(row, reading)
    # What was recorded in a training loop has been in no other file.
    rollout.origin = rollout.origin or (rollout.source if rollout.source.file else None)
    rollout.source = here
    if unknown:
        rollout.extra = {**rollout.extra, **unknown}
    if row.repairs:
        rollout.notes = [*rollout.notes, *row.repairs]
    if rollout.group_id is not None and rollout.group_origin is None:
        rollout.group_origin = "logged"
    return rollout


def _faults(rollout: Rollout) -> Iterator[str]:
    """Where the record contradicts itself, so that a number made of it would be wrong."""
    numbers = [rollout.step, rollout.sample_index, rollout.output_index]
    position = 0
    for index, span in enumerate(rollout.spans):
        if not 0 <= span.start <= span.end <= len(rollout.output):
            yield f"span {index} is [{span.start}, {span.end}) of {len(rollout.output)} characters"
        if span.start != position:
            yield f"span {index} begins at {span.start}, where the one before it ends at {position}"
        position = span.end
        numbers.append(span.turn)
    if rollout.spans and position != len(rollout.output):
        yield f"the spans end at {position} of {len(rollout.output)} characters"
    for call in rollout.calls:
        pointers = [pointer for pointer in (call.span, call.result_span) if pointer is not None]
        if not all(0 <= pointer < len(rollout.spans) for pointer in pointers):
            yield f"a call points to span {max(pointers)} of {len(rollout.spans)}"
        numbers += [call.index, call.turn]
        at = call.body_start
        if at is not None and not (at >= 0 and rollout.output.startswith(call.raw, at)):
            yield f"call {call.index} is not in `output` at `body_start` {at}"
    if not all(fits(number or 0) for number in numbers):
        yield "a step, an index or a turn is beyond 64 bits"
    if rollout.tokens is not None:
        yield from _token_faults(rollout.tokens)
    yield from _place_faults(rollout, 0 if rollout.tokens is None else len(rollout.tokens))


def _token_faults(tokens: Tokens) -> Iterator[str]:
    """Where the arrays of tokens do not fit one another."""
    count = len(tokens)
    if tokens.ids is None and tokens.strings is None:
        yield "`tokens` has neither `ids` nor `strings`"
    if not 0 <= (tokens.n_prompt or 0) <= count:
        yield f"`tokens.n_prompt` is {tokens.n_prompt} of {count} tokens"
    for name in _PARALLEL:
        parallel = getattr(tokens, name)
        if parallel is not None and len(parallel) != count:
            yield f"`tokens.{name}` has {len(parallel)} values for {count} tokens"
    if tokens.entropies is not None and tokens.entropy_kind is None:
        yield "`tokens.entropies` is there, and `tokens.entropy_kind` is missing"
    if tokens.entropy_uppers is not None and (tokens.entropies is None or tokens.entropy_kind != "topk"):
        yield f"`tokens.entropy_uppers` is there, and `tokens.entropies` is of the kind {tokens.entropy_kind}, not topk"


_PARALLEL = ("strings", "sampled", "logprobs", "trainer_logprobs", "entropies", "entropy_uppers")


def _place_faults(rollout: Rollout, count: int) -> Iterator[str]:
    """Spans and calls that lie outside the tokens, or end before they begin."""
    places = [(f"span {index}", [span.token_start, span.token_end]) for index, span in enumerate(rollout.spans)]
    places += [
        (f"call {call.index}", [at.start, at.branch, at.body_end, at.end])
        for call in rollout.calls
        if (at := call.tokens)
    ]
    for what, offsets in places:
        known = [offset for offset in offsets if offset is not None]
        if known and (len(known) < len(offsets) or known != sorted(known) or known[0] < 0 or known[-1] > count):
            yield f"{what} has the token offsets {offsets} of {count} tokens"


PARSER = Parser(
    name="gapscope-rollout",
    trainer="any",
    producer="gapscope: recorders, the resampler, or your own writer",
    containers=JSON,
    claims=claims,
    parse=row_by_row(translate),
    carries=(),
    optional={
        "advantage": "write `advantage`",
        "correctness": "write `correct` with `correct_rule`, or a reward part that says it",
        "data_source": "write `data_source`",
        "declared_tools": "write `declared_tools`",
        "entropies": "write `tokens.entropies` with `tokens.entropy_kind`",
        "finish_reason": "write `finish_reason` (`stop`, `length`, `turn_limit`, `abort`)",
        "ground_truth": "write `ground_truth`",
        "group_id": "write `group_id`",
        "images": "write `images`",
        "logprobs": "write `tokens.logprobs`",
        "reward": "write `reward`",
        "reward_parts": "write `reward_parts`",
        "step": "write `step`",
        "token_ids": "write `tokens.ids` with `tokens.sampled`",
        "tool_calls": "write `calls`",
        "tool_results": "write `calls` with their `result`",
        "turns": "write `turns`",
    },
    lacks={},
)
