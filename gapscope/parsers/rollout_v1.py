"""gapscope's own interchange form, `gapscope.rollout/1`: what recorders and the resampler write."""

from collections.abc import Mapping

import msgspec

from gapscope.parsers.base import Parser, Reading, Row, RowError, row_by_row, source_of
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
