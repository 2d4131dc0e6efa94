"""gapscope's own interchange form, `gapscope.rollout/1`: what recorders and the resampler write."""

from collections.abc import Mapping

import msgspec

from gapscope.parsers.base import Parser, Reading, Row, RowError, fits, row_by_row, source_of
from gapscope.rollouts import SCHEMA, Json, Rollout, Source

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
    if fault := _fault(rollout):
        raise RowError(fault)
    here: Source = source_of(row, reading)
    rollout.origin = rollout.origin or rollout.source
    rollout.source = here
    if unknown:
        rollout.extra = {**rollout.extra, **unknown}
    if row.repairs:
        rollout.notes = [*rollout.notes, *row.repairs]
    if rollout.group_id is not None and rollout.group_origin is None:
        rollout.group_origin = "logged"
    return rollout


def _fault(rollout: Rollout) -> str | None:
    """What in the record contradicts itself, so that every number made of it would be wrong."""
    for name in ("step", "sample_index", "output_index"):
        if not fits(getattr(rollout, name) or 0):
            return f"`{name}` is beyond 64 bits"
    spans = rollout.spans
    for index, span in enumerate(spans):
        if not 0 <= span.start <= span.end <= len(rollout.output):
            return f"span {index} is [{span.start}, {span.end}) of {len(rollout.output)} characters"
        if not all(fits(place or 0) for place in (span.turn, span.token_start, span.token_end)):
            return f"span {index} has an index beyond 64 bits"
    for call in rollout.calls:
        for span_index in (call.span, call.result_span):
            if span_index is not None and not 0 <= span_index < len(spans):
                return f"a call points to span {span_index} of {len(spans)}"
        if not (fits(call.index) and fits(call.turn)):
            return "a call has an index beyond 64 bits"
    tokens = rollout.tokens
    if tokens is not None:
        count = len(tokens.ids)
        if not 0 <= (tokens.n_prompt or 0) <= count:
            return f"`tokens.n_prompt` is {tokens.n_prompt} of {count} tokens"
        for name in ("logprobs", "entropies", "sampled"):
            parallel = getattr(tokens, name)
            if parallel is not None and len(parallel) != count:
                return f"`tokens.{name}` has {len(parallel)} values for {count} tokens"
    return None


PARSER = Parser(
    name="gapscope-rollout",
    trainer="any",
    producer="gapscope: recorders, the resampler, or your own writer",
    container="jsonl",
    claims=claims,
    parse=row_by_row(translate),
    carries=("everything that its writer knew",),
    lacks={
        "advantage": "write `advantage`",
        "correctness": "write `correct` with `correct_rule`, or a reward part that says it",
        "data_source": "write `data_source`",
        "declared_tools": "write `declared_tools`",
        "finish_reason": "write `finish_reason` (`stop`, `length`, `turn_limit`, `abort`)",
        "group_id": "write `group_id`",
        "logprobs": "write `tokens.logprobs`",
        "reward": "write `reward`",
        "step": "write `step`",
        "token_counts": "write `tokens.ids` with `tokens.sampled`",
        "tool_calls": "write `calls`",
    },
)
