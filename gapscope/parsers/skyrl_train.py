"""SkyRL's training batches: `{export_path}/dumped_data/global_step_{N}_training_input.pkl`.

Written with `trainer.dump_data_batch=true`. A pickle of one batch, whose columns are tensors: prompt and response in
`sequences`, padded on the left; everything about the response aligned to the right. There is no text, and `rewards`
and `uids` are taken out before the dump, so that an advantage of 0 does not say whether a whole group was right or
wrong. Which rows are of one prompt is in the metadata (`policy_prompt_boundaries`). Rows that fill the batch up to
the number of workers stand at its end, and are padding. With step-wise training a row is one turn of a trajectory,
and nothing in the batch tells so.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from gapscope.parsers.base import Parser, source_of
from gapscope.rollouts import Json, Refused, Rollout, Status, Tokens, refuse
from gapscope.rows import Reading, Row, RowError
from gapscope.unpickling import Array, Blob, PickleRefused, as_json, saved_tensor

_LAYOUT = re.compile(r"(?:^|/)(?:dumped_data/)?global_step_(?P<step>\d+)_training_input\.pkl$")
_NEEDED = ("sequences", "attention_mask", "response_mask", "loss_mask")
_OF_RESPONSE = ("response_mask", "loss_mask", "rollout_logprobs", "action_log_probs", "advantages", "rewards")
_FILE = frozenset({"batch_dict", "batch_size", "device", "metadata"})
_METADATA = frozenset({"policy_prompt_boundaries", "uids", "pad_size", "response_length", "avg_response_length"})
_NEWER_METADATA = frozenset({"policy_mini_batch_boundaries", "critic_mini_batch_boundaries", "metrics"})


class _Batch(NamedTuple):
    """The columns that are read, and what the metadata says of their rows."""

    columns: dict[str, Array]
    size: int
    padding: int
    starts: list[int]
    uids: list[str] | None
    extra: dict[str, Json]


def claims(row: Mapping[str, Json]) -> bool:
    """The columns of a batch by SkyRL's names."""
    columns = row.get("batch_dict")
    return isinstance(columns, dict) and columns.keys() >= set(_NEEDED)


def parse(rows: Iterable[Row], reading: Reading) -> Iterator[Rollout | Refused]:
    """Every row of the batch, as far as it can be read."""
    for row in rows:
        try:
            batch = _batch(row.value)
        except (RowError, PickleRefused) as error:
            yield refuse(row.line, row.offset, str(error))
            continue
        for index in range(batch.size):
            try:
                yield _translate(batch, index, row, reading)
            except (RowError, PickleRefused) as error:
                yield refuse(row.line, row.offset, f"row {index} of the batch: {error}")


def _batch(value: Mapping[str, Json]) -> _Batch:
    dumped = value.get("batch_dict")
    found = ((key, _column(dumped, key)) for key in ("sequences", "attention_mask", *_OF_RESPONSE))
    columns = {key: column for key, column in found if column is not None}
    missing = [key for key in _NEEDED if key not in columns]
    if missing:
        message = f"`{missing[0]}` is missing, or no tensor of rows"
        raise RowError(message)
    size, width = columns["sequences"].shape
    response = columns["response_mask"].shape[1]
    for key, column in columns.items():
        expected = (size, response if key in _OF_RESPONSE else width)
        if column.shape != expected or response > width:
            message = f"`{key}` has the shape {column.shape}, expected {expected}"
            raise RowError(message)
    if not size:
        message = "`sequences` has no rows"
        raise RowError(message)
    metadata = value.get("metadata")
    known = metadata if isinstance(metadata, dict) else {}
    padding = known.get("pad_size")
    unknown = {key: item for key, item in value.items() if key not in _FILE}
    unknown |= {key: item for key, item in known.items() if key not in _METADATA | _NEWER_METADATA}
    return _Batch(
        columns,
        size,
        padding if type(padding) is int and 0 < padding < size else 0,
        _starts(known.get("policy_prompt_boundaries")),
        _uids(known.get("uids"), size),
        {key: as_json(item) for key, item in unknown.items()},
    )


def _column(dumped: Json, key: str) -> Array | None:
    """A column, which is in the form of `torch.save` where numpy does not know the type of its elements."""
    match dumped.get(key) if isinstance(dumped, dict) else None:
        case Array(shape=(_, _), items=None) as column:
            return column
        case {"format": "torch", "data": bytes() | Blob() as content}:
            saved = saved_tensor(content)
            return saved if saved is not None and len(saved.shape) == 2 else None
    return None


def _starts(boundaries: Json) -> list[int]:
    """Where the rows of each prompt begin, and after the last of them their end; none where that is not logged."""
    if not isinstance(boundaries, list) or not boundaries:
        return []
    pairs = [pair for pair in boundaries if isinstance(pair, list) and [type(n) for n in pair] == [int, int]]
    ends = [0, *(pair[1] for pair in pairs)]
    if len(pairs) != len(boundaries) or ends != sorted(ends) or [pair[0] for pair in pairs] != ends[:-1]:
        message = "`policy_prompt_boundaries` are not the pairs of one row after another"
        raise RowError(message)
    return ends


def _uids(uids: Json, size: int) -> list[str] | None:
    """The prompt of each row, where a patched trainer has left it in."""
    sound = isinstance(uids, list) and len(uids) == size and all(isinstance(uid, str) for uid in uids)
    return uids if sound else None


def _translate(batch: _Batch, index: int, row: Row, reading: Reading) -> Rollout:
    values = {key: column.row(index).tolist() for key, column in batch.columns.items()}
    begin = values["attention_mask"].index(1) if 1 in values["attention_mask"] else len(values["attention_mask"])
    ids = values["sequences"][begin:]
    own = sum(map(bool, values["response_mask"]))
    if not all(type(token) is int for token in ids) or own > len(ids):
        message = f"a response of {own:,} tokens in {len(ids):,} tokens of `sequences`"
        raise RowError(message)
    aligned = {key: values[key][len(values[key]) - own :] for key in _OF_RESPONSE if key in values}
    trained = [bool(weight) for weight in aligned["loss_mask"]]
    padded = index >= batch.size - batch.padding
    status: Status | None = "padding" if padded else None if any(trained) else "masked"
    group = _group(batch, index) if not padded else None
    return Rollout(
        format=PARSER.name,
        source=source_of(row, reading),
        run=reading.run,
        step=reading.step,
        split=reading.split or "train",
        group_id=group,
        group_origin=None if group is None else "logged",
        status=status,
        reward=_sum(aligned.get("rewards")),
        advantage=_same(aligned.get("advantages")),
        dialect=reading.dialect.name,
        tokens=_tokens(ids, len(ids) - own, aligned, trained if any(trained) else None),
        extra=batch.extra,
        notes=list(row.repairs),
    )


def _group(batch: _Batch, index: int) -> str | None:
    """The prompt of a row, numbered within the batch where its name is not logged."""
    if batch.uids is not None:
        return batch.uids[index]
    place = bisect_right(batch.starts, index)
    return str(place - 1) if 0 < place < len(batch.starts) else None


def _tokens(ids: list[int], n_prompt: int, aligned: Mapping[str, Json], trained: list[bool] | None) -> Tokens | None:
    """The tokens of a row; a log-prob of one that was not sampled is a filler."""
    if not ids:
        return None
    found = [key for key in _LOGPROBS if key in aligned]
    # Where everything is masked, a filler is known by its value alone.
    sampled = trained or [value != 0 for value in aligned[found[0]]] if found else []
    unknown: list[float | None] = [None] * n_prompt
    streams = [
        unknown + [_finite(p) if own else None for p, own in zip(aligned[key], sampled, strict=True)] for key in found
    ]
    return Tokens(
        ids,
        n_prompt,
        logprobs=streams[0] if streams else None,
        logprob_source=_LOGPROBS[found[0]] if found else None,
        sampled=None if trained is None else [False] * n_prompt + trained,
        trainer_logprobs=streams[1] if len(streams) > 1 else None,
    )


_LOGPROBS = {"rollout_logprobs": "rollout", "action_log_probs": "trainer"}
"""The engine's log-probs, and the trainer's own for the same tokens, computed again before the update."""


def _finite(value: Json) -> float | None:
    return float(value) if isinstance(value, (int, float)) and value - value == 0 else None


def _sum(rewards: list[Json] | None) -> float | None:
    """The total of the rewards of the tokens, where a patched trainer has left them in."""
    known = [_finite(reward) for reward in rewards or ()]
    return None if rewards is None or None in known else sum(value for value in known if value is not None)


def _same(advantages: list[Json] | None) -> float | None:
    """The advantage of all tokens; None where each has its own."""
    return _finite(advantages[0]) if advantages and len(set(advantages)) == 1 else None


_NO_TEXT = "SkyRL dumps no text; read `dumped_evals/`, or decode the tokens with the policy's tokenizer"
_PATCH = "SkyRL takes `rewards` out before the dump; leave them in where it says `training_input.pop`"

PARSER = Parser(
    name="skyrl-train",
    trainer="SkyRL",
    producer="SkyRL with `trainer.dump_data_batch=true`; seen: NovaSky-AI/SkyRL@a9564572eb8e",
    containers=("pickle",),
    claims=claims,
    parse=parse,
    carries=("step", "token_ids"),
    optional={
        "advantage": "estimators other than the outcome-based ones give every token its own",
        "group_id": "SkyRL before `policy_prompt_boundaries` does not say which rows are of one prompt",
        "logprobs": "turn on `generator.sampling_params.logprobs`",
        "reward": _PATCH,
    },
    lacks={
        "correctness": _PATCH,
        "data_source": "SkyRL does not write the data source into a batch",
        "declared_tools": _NO_TEXT,
        "entropies": "SkyRL writes none; re-score the log with a model",
        "finish_reason": "SkyRL writes it into `dumped_evals/` alone",
        "ground_truth": "SkyRL writes it into `dumped_evals/` alone",
        "images": "SkyRL dumps what the model sees of them, and not the images",
        "reward_parts": "SkyRL sums rewards up before it trains",
        "tool_calls": _NO_TEXT,
        "tool_results": _NO_TEXT,
        "turns": _NO_TEXT,
    },
    drops_uniform_groups="trainer.algorithm.dynamic_sampling.type",
    layout=_LAYOUT,
)
