"""TRL's GRPOTrainer with `log_completions=True`: `completions/completions_{step:05d}.parquet`.

Rows are in generation order, each prompt `num_generations` times in a row, and nothing in the file says
how often: the group is read off the runs of equal prompts. Rewards are one column per function, unweighted;
there is no total. A call that TRL could not parse stands in the message's content as plain text.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from gapscope.parsers.base import Parser, number, source_of, step_of
from gapscope.rollouts import Json, Refused, RewardPart, Rollout, Tokens, refuse
from gapscope.rows import Reading, Row, RowError
from gapscope.shapes.conversations import Conversation, messages_of, prompt_text, without_nulls
from gapscope.shapes.order_groups import places

_BASE_COLUMNS = frozenset({"step", "prompt", "completion", "advantage"})
_GROUP_COLUMNS = ("group_id", "group_key")
_TOKEN_COLUMNS = frozenset({"prompt_ids", "completion_ids"})

_encode = msgspec.json.Encoder(order="sorted").encode


def claims(row: Mapping[str, Json]) -> bool:
    """The four columns that TRL always writes."""
    return row.keys() >= _BASE_COLUMNS


def parse(rows: Iterable[Row], reading: Reading) -> Iterator[Rollout | Refused]:
    """All rows of one file: groups, and which columns are rewards, show only in the whole."""
    batch = list(rows)
    rewards = _reward_columns(batch)
    batch_id = _batch_id(batch)
    groups = _groups(batch, batch_id)
    for index, (row, group) in enumerate(zip(batch, groups, strict=True)):
        try:
            yield _translate(row, reading, rewards=rewards, group=group, rollout_id=f"{batch_id}:{index}")
        except RowError as error:
            yield refuse(row.line, row.offset, str(error))


def _reward_columns(rows: list[Row]) -> tuple[str, ...]:
    """Columns between `completion` and `advantage` that hold nothing but floats and nulls."""
    columns = [key for key in rows[0].value if key not in _BASE_COLUMNS] if rows else []
    return tuple(
        column
        for column in columns
        if all(isinstance(row.value.get(column), (float, type(None))) for row in rows)
        and any(row.value.get(column) is not None for row in rows)
    )


class _Group(msgspec.Struct, frozen=True):
    id: str
    sample_index: int
    origin: str


def _groups(rows: list[Row], batch_id: str) -> list[_Group]:
    """The logged key where the user logged one, else the place in the order of generation of this batch."""
    for column in _GROUP_COLUMNS:
        if rows and column in rows[0].value:
            counts: dict[str, int] = {}
            groups = []
            for row in rows:
                key = str(row.value[column])
                groups.append(_Group(key, counts.get(key, 0), "logged"))
                counts[key] = counts.get(key, 0) + 1
            return groups
    order = places(_encode(row.value.get("prompt")) for row in rows)
    return [_Group(f"{batch_id}:{place.first}", place.nth, "order") for place in order]


def _batch_id(rows: list[Row]) -> str:
    """One name for one generation batch: TRL may write the same batch again under a later step."""
    digest = hashlib.sha1(usedforsecurity=False)
    for row in rows:
        digest.update(_encode({key: row.value[key] for key in row.value if key != "step"}))
    return digest.hexdigest()[:16]


def _translate(row: Row, reading: Reading, *, rewards: tuple[str, ...], group: _Group, rollout_id: str) -> Rollout:
    value = row.value
    prompt, completion = _text_or_messages(value, "prompt"), _text_or_messages(value, "completion")
    notes = list(row.repairs)
    said = Conversation(reading)
    if isinstance(completion, str):
        said.text(completion)
    else:
        for message in messages_of(completion):
            said.add(message)
    joined = said.joined()
    empty = not prompt and not completion
    return Rollout(
        format=PARSER.name,
        source=source_of(row, reading),
        rollout_id=rollout_id,
        run=reading.run,
        step=step_of(row, reading, notes),
        group_id=group.id,
        group_origin="logged" if group.origin == "logged" else "order",
        sample_index=group.sample_index,
        status="padding" if empty else None,
        reward_parts=[RewardPart(name, number(value.get(name))) for name in rewards],
        advantage=number(value.get("advantage")),
        prompt=prompt if isinstance(prompt, str) else prompt_text(messages_of(prompt)),
        messages=None if isinstance(prompt, str) else prompt,
        output=joined.output,
        output_origin="logged" if isinstance(completion, str) else "joined",
        dialect=reading.dialect.name,
        turns=joined.turns,
        spans=joined.spans,
        calls=joined.calls,
        tokens=_tokens(value),
        extra={
            key: item
            for key, item in value.items()
            if key not in _BASE_COLUMNS and key not in rewards and key not in _TOKEN_COLUMNS
        },
        notes=notes,
    )


def _text_or_messages(value: Mapping[str, Json], column: str) -> str | list[Json]:
    item = value.get(column)
    if isinstance(item, str):
        return item
    if isinstance(item, list):
        return [without_nulls(message) for message in item]
    message = f"`{column}` is {type(item).__name__}, expected text or a list of messages"
    raise RowError(message)


def _tokens(value: Mapping[str, Json]) -> Tokens | None:
    """Token ids that a reward function passed to `log_extra`; their mask and log-probs are not in the file."""
    prompt, completion = _ids(value.get("prompt_ids")), _ids(value.get("completion_ids"))
    if not completion:
        return None
    return Tokens(prompt + completion, n_prompt=len(prompt))


def _ids(item: Json) -> list[int]:
    return item if isinstance(item, list) and all(type(token) is int for token in item) else []


PARSER = Parser(
    name="trl",
    trainer="TRL",
    producer="TRL with `log_completions=True`; seen: 1.16.0 (and Unsloth, which leaves the writer as it is)",
    containers=("parquet",),
    claims=claims,
    parse=parse,
    carries=("advantage", "reward_parts", "step", "tool_calls", "tool_results", "turns"),
    optional={
        "group_id": "call `log_extra('group_id', …)` in a reward function; without it, the order of rows tells",
        "ground_truth": "call `log_extra` with the answers in a reward function",
        "token_ids": "call `log_extra('completion_ids', completion_ids)` in a reward function, or record the run with "
        "`gapscope.recorders.TRLRecorder`",
    },
    lacks={
        "correctness": "name the reward column that means correct",
        "data_source": "call `log_extra` with the data source in a reward function",
        "declared_tools": "TRL does not write the tool schemas; `gapscope.recorders.TRLRecorder` does",
        "entropies": "record the run with `gapscope.recorders.TRLRecorder`",
        "finish_reason": "TRL does not write why a completion ended; log it with `log_extra` in a reward function",
        "images": "TRL leaves images out of its completions",
        "logprobs": "record the run with `gapscope.recorders.TRLRecorder`; TRL itself writes none",
        "reward": "TRL writes one unweighted column per reward function and no total",
    },
    whole_file=True,
)
