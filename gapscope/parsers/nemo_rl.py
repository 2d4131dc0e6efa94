"""NeMo-RL's `train_data_step{N}.jsonl` and `val_data_step{N}.jsonl` under `logger.log_dir`, which it always writes.

Every value is a list of one, because rows are slices of a batch. Texts of training rows have no roles: the prompt
comes first, then the policy and its environment take turns, and the token mask tells where the prompt ends. Many
environments say a last word after the policy's (`Environment: correct`). Token columns are padded to the longest row.

Prompts are repeated `num_generations_per_prompt` times in a row. With `use_dynamic_sampling` whole groups are left out
of a batch, and `rewards` is that of the batch before: `filtered_rewards` belongs to the row. Of NeMo-Gym's rollouts
these files have tokens and no text.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, pairwise

from gapscope.parsers.base import Parser, fits, number, source_of, whole_number
from gapscope.rollouts import Json, Refused, Rollout, Tokens, refuse
from gapscope.rows import Reading, Row, RowError
from gapscope.shapes.conversations import Conversation, Message, message_of
from gapscope.shapes.order_groups import group_size, places

_KNOWN = frozenset({
    "advantages", "agent_ref", "content", "filtered_rewards", "generation_logprobs", "idx", "input_lengths",
    "prev_logprobs", "rewards", "sample_loss_mask", "token_ids", "token_loss_mask",
})  # fmt: skip
_ALIKE_ROWS = 64
"""Rows that are asked how many messages their prompts have, which is the same in a whole file."""

_TENSOR = re.compile(r"tensor\(\[?(-?\d+\.?\d*(?:e[+-]?\d+)?)\]?(?:, [^()]*)?\)")


def claims(row: Mapping[str, Json]) -> bool:
    """A bare `idx` beside lists of one: what was said or its tokens, and rewards or lengths."""
    if type(row.get("idx")) is not int or not ({"content", "token_ids"} & row.keys()):
        return False
    columns = [row[key] for key in ("content", "token_ids", "rewards", "input_lengths") if key in row]
    return len(columns) > 1 and all(isinstance(item, list) and len(item) < 2 for item in columns)


def parse(rows: Iterable[Row], reading: Reading) -> Iterator[Rollout | Refused]:
    """All rows of a step: the groups show only in their order."""
    waiting = iter(rows)
    first = list(islice(waiting, _ALIKE_ROWS))
    prompt_length = _prompt_length(row.value for row in first)
    records: list[Rollout | Refused] = []
    filtered = False
    for row in chain(first, waiting):
        filtered = filtered or "filtered_rewards" in row.value
        try:
            records.append(_translate(row, reading, prompt_length))
        except RowError as error:
            records.append(refuse(row.line, row.offset, str(error)))
    prompts = [record.prompt if isinstance(record, Rollout) else None for record in records]
    size = 1 if filtered else group_size(prompts)
    for record, place in zip(records, places(prompts), strict=True):
        if isinstance(record, Rollout) and size > 1:
            record.group_id, record.group_origin, record.sample_index = str(place.first), "order", place.nth
        yield record


def _one(value: Mapping[str, Json], key: str) -> Json:
    """The only item of a column; None where the row has none.

    Raises:
        RowError: the column is no list of one.

    """
    column = value.get(key)
    if column is None or column == []:
        return None
    if isinstance(column, list) and len(column) == 1:
        return column[0]
    found = f"has {len(column)} items" if isinstance(column, list) else f"is {column!r:.60}"
    message = f"`{key}` {found}, expected a list of one"
    raise RowError(message)


def _scalar(value: Mapping[str, Json], key: str) -> float | None:
    """A number, which may be the text of a tensor.

    Raises:
        RowError: it is something else.

    """
    item = _one(value, key)
    if isinstance(item, str) and (match := _TENSOR.fullmatch(item)):
        item = float(match[1])
    result = number(item)
    if result is None and item is not None:
        message = f"`{key}` is {item!r:.60}, expected a number"
        raise RowError(message)
    return result


def _contents(value: Mapping[str, Json]) -> list[Json]:
    contents = _one(value, "content")
    if not isinstance(contents, list):
        state = "missing" if contents is None else type(contents).__name__
        message = f"`content` is {state}, expected a list of one list of messages"
        raise RowError(message)
    if contents and all(isinstance(item, str) and not item for item in contents):
        message = (
            "`content` holds no text: of NeMo-Gym's rollouts only tokens are written; read its own `rollouts.jsonl`"
        )
        raise RowError(message)
    return contents


def _mask(value: Mapping[str, Json]) -> list[bool] | None:
    """Which tokens the policy wrote, without the padding."""
    columns = [value.get("token_loss_mask"), value.get("input_lengths")]
    mask, length = (column[0] if isinstance(column, list) and column else None for column in columns)
    count = whole_number(length)
    return [item in (1, True) for item in mask[:count]] if isinstance(mask, list) and count is not None else None


def _prompt_length(rows: Iterable[Mapping[str, Json]]) -> int:
    """How many messages of a row are the prompt, which is the same in all rows.

    A generation is one run of sampled tokens. A row that ends in one ends in the policy's words, unless what the
    environment said was cut off by the maximal length: such rows see one message too many, and so may all. But
    prompts are repeated, and the policy's words are not.
    """
    seen: set[int] = set()
    silent: set[int] = set()
    told: list[list[Json]] = []
    for value in rows:
        mask, column = _mask(value), value.get("content")
        contents = column[0] if isinstance(column, list) and column else None
        if mask and isinstance(contents, list) and contents:
            generations = sum(now and not before for before, now in pairwise([False, *mask]))
            # Whose empty words the last ones are is not said: the environment's, unless other rows tell otherwise.
            empty = contents[-1] == ""
            rest = 2 * generations - (mask[-1] and not empty)
            told.append(contents)
            if generations and rest < len(contents):
                (silent if empty else seen).add(len(contents) - rest)
    length = min(seen or silent, default=1)
    if length > 1 and _repeats(told, length - 1) and not _repeats(told, length):
        return length - 1
    return length


def _repeats(told: Sequence[list[Json]], length: int) -> bool:
    """Whether any two rows begin with the same messages."""
    return len({repr(contents[:length]) for contents in told}) < len(told)


def _translate(row: Row, reading: Reading, prompt_length: int) -> Rollout:
    value = row.value
    contents = _contents(value)
    messages = [_message(item) for item in contents]
    own = [message.role == "assistant" for message in messages]
    if not any(message.role for message in messages):
        own = [index >= prompt_length and (index - prompt_length) % 2 == 0 for index in range(len(messages))]
    texts = [message.content for message in messages]
    turns = [index for index, sampled in enumerate(own) if sampled]
    prompt = "".join(texts[: turns[0]] if turns else texts)
    said = Conversation(reading)
    before = prompt
    for start, end in pairwise([*turns, len(texts)]):
        answer = "".join(texts[start + 1 : end])
        said.exchange(texts[start], answer, before=before)
        before = texts[start] + answer
    declared = reading.dialect.declared_tools(prompt)
    joined = said.joined(declared_tools=declared)
    tokens = _tokens(value)
    images = list(dict.fromkeys(image for message in messages for image in message.images))
    advantage, notes = _advantage(value, tokens)
    agent = _one(value, "agent_ref")
    name = agent.get("name") if isinstance(agent, dict) else None
    return Rollout(
        format=PARSER.name,
        source=source_of(row, reading),
        run=reading.run,
        step=reading.step,
        split=reading.split,
        status="masked" if _scalar(value, "sample_loss_mask") == 0 else None,
        reward=_scalar(value, "filtered_rewards" if "filtered_rewards" in value else "rewards"),
        advantage=advantage,
        data_source=name if isinstance(name, str) else None,
        prompt=prompt,
        output=joined.output,
        output_origin="joined",
        dialect=reading.dialect.name,
        declared_tools=declared,
        turns=joined.turns,
        spans=joined.spans,
        calls=joined.calls,
        tokens=tokens,
        images=images,
        extra={key: item for key, item in value.items() if key not in _KNOWN},
        notes=[*row.repairs, *notes],
    )


def _message(item: Json) -> Message:
    """A message of a validation row; in a training row it is a text, or a list of parts, without a role."""
    return message_of(item if isinstance(item, dict) else {"role": "", "content": item})


def _column(value: Mapping[str, Json], key: str, length: int) -> list[Json] | None:
    """A column of tokens without its padding; None where the row has none, or only the text of a tensor.

    Raises:
        RowError: it is shorter than the row, or no list.

    """
    column = _one(value, key)
    if column is None or (isinstance(column, str) and column.startswith("tensor(")):
        return None
    if not isinstance(column, list):
        message = f"`{key}` is {column!r:.60}, expected a list"
        raise RowError(message)
    if len(column) < length:
        message = f"`{key}` has {len(column)} values for the {length} tokens of `input_lengths`"
        raise RowError(message)
    return column[:length]


def _tokens(value: Mapping[str, Json]) -> Tokens | None:
    """The tokens of a row; log-probs of those that the policy did not write are zeros, which stand for nothing."""
    length = whole_number(_scalar(value, "input_lengths"))
    if length is None or length < 1:
        return None
    ids, mask = _column(value, "token_ids", length), _column(value, "token_loss_mask", length)
    if ids is None:
        return None
    if not all(type(token) is int and fits(token) for token in ids):
        message = f"`token_ids` is {ids!r:.60}, expected a list of token ids"
        raise RowError(message)
    if mask is None:
        return Tokens(ids)
    sampled = [item in (1, True) for item in mask]
    engine, trainer = (
        None if column is None else [number(item) if own else None for item, own in zip(column, sampled, strict=True)]
        for column in (_column(value, key, length) for key in ("generation_logprobs", "prev_logprobs"))
    )
    return Tokens(
        ids,
        sampled.index(True) if any(sampled) else len(ids),
        logprobs=trainer if engine is None else engine,
        logprob_source="rollout" if engine is not None else "trainer" if trainer is not None else None,
        sampled=sampled,
        trainer_logprobs=None if engine is None else trainer,
    )


def _advantage(value: Mapping[str, Json], tokens: Tokens | None) -> tuple[float | None, tuple[str, ...]]:
    """The advantage of all tokens that the policy wrote; None, and a note, where they have different ones."""
    if tokens is None or tokens.sampled is None:
        return None, ()
    column = _column(value, "advantages", len(tokens))
    found = {number(item) for item, own in zip(column or (), tokens.sampled, strict=False) if own}
    return (next(iter(found)), ()) if len(found) == 1 else (None, ("advantage_differs_by_token",) if found else ())


_DUMP = "NeMo-RL's validation files have no tokens; read `train_data_step{N}.jsonl`"

PARSER = Parser(
    name="nemo-rl",
    trainer="NeMo-RL",
    producer="NeMo-RL with `env.should_log_nemo_gym_responses=false`; seen: NVIDIA-NeMo/RL@7ea279ab",
    containers=("jsonl", "json"),
    claims=claims,
    parse=parse,
    carries=("reward", "step", "tool_calls", "tool_results", "turns"),
    optional={
        "advantage": _DUMP,
        "data_source": "rows of NeMo-Gym's agents name the agent; others name nothing",
        "declared_tools": "the prompt shows no list of tools; check that the chat template renders them",
        "group_id": "set `grpo.use_dynamic_sampling=false`, so that the order of rows tells; else the prompt does",
        "images": "image parts with data: URIs stay in the messages; tensors of images are not written",
        "logprobs": _DUMP,
        "token_ids": _DUMP,
    },
    lacks={
        "correctness": "name the reward that means correct",
        "entropies": "NeMo-RL writes none; re-score the log with a model",
        "finish_reason": "NeMo-RL does not write why a generation ended",
        "ground_truth": "NeMo-RL does not write it; with NeMo-Gym, `rollouts.jsonl` has it",
        "reward_parts": "NeMo-RL writes the total; with NeMo-Gym, `reward_components` of `rollouts.jsonl` has them",
    },
    drops_uniform_groups="grpo.use_dynamic_sampling",
    whole_file=True,
    layout=re.compile(r"(?:^|/)(?P<split>train|val)_data_step(?P<step>\d+)\.jsonl"),
)
