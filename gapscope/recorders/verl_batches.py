"""Batches of verl as rollouts: columns by verl's own names, of lists, arrays or tensors, nested or padded."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple

import msgspec

from gapscope.errors import RecordError
from gapscope.parsers.base import split_extras
from gapscope.recorders.recording import recorded
from gapscope.rollouts import Json, Rollout
from gapscope.tokenizer import Vocabulary

KNOWN_TO_WORK = "verl 0.9.0 and 0.9.1, and the legacy trainer of 0.8.0"

_PER_TOKEN = ("loss_mask", "response_mask", "rollout_log_probs", "old_log_probs", "entropy", "advantages", "rm_scores")
FIELDS = (*_PER_TOKEN, "prompts", "responses", "reward_model", "data_source", "num_turns", "extra_fields")

_ROUNDING = 0.25
"""How far beyond 0 a log-prob or an entropy may lie, in nats: the spacing of bfloat16 where logits are about 40."""


class Facts(NamedTuple):
    """What is the same for all rows of a batch.

    `same_weights` says that `old_log_probs` are of the weights that sampled, so that they can stand in where the engine
    gave none. A response of `response_length` tokens was cut off.
    """

    step: int | None = None
    run: str | None = None
    tokenizer: Any = None
    same_weights: bool = False
    response_length: int | None = None


NOTHING_KNOWN = Facts()


class Row(NamedTuple):
    """One row of a batch; `place` is group, session and sub-output."""

    key: str
    place: tuple[str, int, int]
    values: dict[str, Any]
    tag: Mapping[str, Json]
    padding: bool


def rows_of(
    keys: Sequence[str], columns: Mapping[str, Any], tags: Iterable[Mapping[str, Json]] | None
) -> Iterator[Row]:
    """The rows of a batch, as many as there are keys.

    Raises:
        RecordError: a needed column is missing, or one has more or fewer rows, or a key is not of verl's form.

    """
    listed = {name: _listed(column) for name, column in columns.items()}
    every_tag = [{}] * len(keys) if tags is None else list(tags)
    for name in ("prompts", "responses"):
        if name not in listed:
            message = f"a batch of verl without `{name}`"
            raise RecordError(message, hint=f"It has {', '.join(sorted(listed)) or 'no column'}.")
    for name, rows in {**listed, "tags": every_tag}.items():
        if len(rows) != len(keys):
            message = f"`{name}` has {len(rows):,} rows, and there are {len(keys):,} keys"
            raise RecordError(message)
    for index, key in enumerate(keys):
        group, session, output = _place(key)
        tag = every_tag[index]
        padding = bool(tag.get("is_padding")) if "is_padding" in tag or tags is not None else group.startswith("pad")
        yield Row(key, (group, session, output), {name: rows[index] for name, rows in listed.items()}, tag, padding)


def _listed(column: Any) -> list[Any]:  # noqa: ANN401 (a tensor, nested or not, an array, a list)
    if getattr(column, "is_nested", False):
        return [row.tolist() for row in column.unbind()]
    return column.tolist() if hasattr(column, "tolist") else list(column)


def _place(key: str) -> tuple[str, int, int]:
    parts = key.rsplit("_", 2)
    if len(parts) == 3 and parts[1].isdecimal() and parts[2].isdecimal():
        return parts[0], int(parts[1]), int(parts[2])
    message = f"the key of a row is {key[:80]!r}, expected {{uid}}_{{session}}_{{output}}"
    raise RecordError(message, hint=f"Known to work: {KNOWN_TO_WORK}.")


def spelled(ids: Any, vocabulary: Vocabulary | None, tokenizer: Any) -> str | None:  # noqa: ANN401 (numbers)
    """Tokens as text, special ones and all; None without a tokenizer."""
    if tokenizer is None:
        return None
    pieces = vocabulary.pieces(_listed(ids)) if vocabulary else None
    if pieces is not None:
        return b"".join(pieces).decode("utf-8", "replace")
    return str(tokenizer.decode(_listed(ids), skip_special_tokens=False))


def rollout_of(row: Row, text: str | None, facts: Facts, vocabulary: Vocabulary | None, dialect: str) -> Rollout:
    """One row as a rollout, `text` being its response spelled out.

    Raises:
        RecordError: per-token columns are of another length than the response, or none of them is a mask.

    """
    values, notes = row.values, list[str]()
    prompt, response = _listed(values["prompts"]), _listed(values["responses"])
    per_token = {name: _listed(values[name]) for name in _PER_TOKEN if values.get(name) is not None}
    for name, several in per_token.items():
        if len(several) != len(response):
            message = f"`{name}` has {len(several):,} values, and the response {len(response):,} tokens"
            raise RecordError(message)
    mask = per_token.get("loss_mask", per_token.get("response_mask"))
    if mask is None:
        message = "there is neither `loss_mask` nor `response_mask`, which say what the policy wrote"
        raise RecordError(message)
    engine, trainer = (_in_range(per_token.get(name), -1) for name in ("rollout_log_probs", "old_log_probs"))
    source_is_trainer = engine is None and facts.same_weights
    parts, extra = _extras(values, row.tag, notes)
    gold = values.get("reward_model")
    whole = vocabulary is not None and vocabulary.pieces(prompt + response) is not None
    versions = {row.tag.get("min_global_steps"), row.tag.get("max_global_steps")}
    rollout = recorded(
        spelled(prompt, vocabulary, facts.tokenizer),
        text,
        step=facts.step,
        group=row.place[0],
        sample_index=row.place[1],
        prompt_ids=prompt,
        completion_ids=response,
        mask=mask,
        logprobs=trainer if source_is_trainer else engine,
        logprob_source="trainer" if source_is_trainer else "rollout",
        trainer_logprobs=None if source_is_trainer else trainer,
        entropies=_in_range(per_token.get("entropy"), 1),
        reward=_total(per_token.get("rm_scores")),
        reward_parts=parts,
        advantage=_only_one(per_token.get("advantages"), mask),
        ground_truth=_plain(gold.get("ground_truth")) if isinstance(gold, Mapping) else None,
        data_source=None if values.get("data_source") is None else str(values["data_source"]),
        finish_reason=_finish_reason(response, facts),
        tokenizer=vocabulary if whole else None,
        dialect=dialect,
        policy_version=next(iter(versions)) if len(versions) == 1 else None,
        run=facts.run,
        split="train",
        status="masked" if any(mask) and not any(per_token.get("response_mask", mask)) else None,
        rollout_id=f"{row.place[0]}_{row.place[1]}",
        extra=extra,
    )
    rollout.output_index = row.place[2]
    rollout.notes += notes
    return rollout


def _in_range(values: list[Any] | None, sign: int) -> list[float | None] | None:
    """Numbers of one sign: those on the other side of 0 by rounding are 0, and what is no such number is None."""
    if values is None or _all_in_range(values, sign):
        return values
    nearest = min if sign < 0 else max
    return [
        None if value is None or not math.isfinite(value) or value * sign < -_ROUNDING else nearest(value, 0.0)
        for value in values
    ]


def _all_in_range(values: list[Any], sign: int) -> bool:
    """The same at a glance; most batches have nothing to put right."""
    if not values:
        return True
    return None not in values and math.isfinite(sum(values)) and (max(values) <= 0 if sign < 0 else min(values) >= 0)


def _total(scores: list[Any] | None) -> float | None:
    return None if scores is None else math.fsum(scores)


def _only_one(values: list[Any] | None, mask: list[Any]) -> float | None:
    """The advantage, where all tokens that the policy wrote have the same."""
    found = set() if values is None else set(compress(values, mask))
    return found.pop() if len(found) == 1 else None


def _finish_reason(response: list[Any], facts: Facts) -> str | None:
    if response and response[-1] == getattr(facts.tokenizer, "eos_token_id", None):
        return "stop"
    return "length" if facts.response_length and len(response) >= facts.response_length else None


def _extras(
    values: Mapping[str, Any], tag: Mapping[str, Json], notes: list[str]
) -> tuple[dict[str, float | None], dict[str, Json]]:
    """What the reward function returned beside the score, numbers apart, and what the agent loop noted down."""
    fields = values.get("extra_fields")
    loop = dict(fields) if isinstance(fields, Mapping) else {}
    rewards = loop.pop("reward_extra_info", None) or {}
    others = {"num_turns": values.get("num_turns"), **loop}
    others |= {name: tag[name] for name in ("min_global_steps", "max_global_steps") if name in tag}
    parts, rest = split_extras(_json(rewards, notes), frozenset())
    return {part.name: part.value for part in parts}, {**_json(others, notes), **rest}


def _json(values: Mapping[str, Any], notes: list[str]) -> dict[str, Json]:
    """What of it a log can hold; the names of the others are noted."""
    found: dict[str, Json] = {}
    for name, value in values.items():
        plain = _plain(value)
        try:
            msgspec.json.encode(plain)
        except (TypeError, UnicodeEncodeError, RecursionError, msgspec.MsgspecError):
            notes.append(f"not_recorded:{name}")
            continue
        if plain is not None:
            found[name] = plain
    return found


def _plain(value: Any) -> Json:  # noqa: ANN401 (anything)
    """Arrays, and what is in containers, as Python's own values."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def unpadded(
    tensors: Mapping[str, Any], others: Mapping[str, Any], extras: Mapping[str, Any]
) -> tuple[list[str], dict[str, Any]]:
    """Keys and columns, as `VerlRecorder.record` takes them, of a `DataProto`: prompts padded left, responses right.

    Members of a group are numbered in the order of the batch, which is not that of sampling.

    Raises:
        RecordError: there is no `uid`, which says which rollouts were compared with one another.

    """
    uids = [str(uid) for uid in others.get("uid", ())]
    if not uids:
        message = "a batch of verl without `uid`"
        raise RecordError(message, hint=f"Known to work: {KNOWN_TO_WORK}.")
    seen: Counter[str] = Counter()
    keys = []
    for uid in uids:
        keys.append(f"{uid}_{seen[uid]}_0")
        seen[uid] += 1
    attention = [[bool(place) for place in row] for row in _listed(tensors["attention_mask"])]
    prompts = _listed(tensors["prompts"])
    widths = [len(row) for row in prompts]
    columns: dict[str, Any] = {
        "prompts": [list(compress(row, seen_by)) for row, seen_by in zip(prompts, attention, strict=True)]
    }
    names = {"responses": "responses", "token_level_scores": "rm_scores", "entropys": "entropy"}
    names |= {name: name for name in ("response_mask", "rollout_log_probs", "old_log_probs", "advantages")}
    for theirs, ours in names.items():
        if theirs in tensors.keys():  # noqa: SIM118 (a TensorDict)
            columns[ours] = [
                list(compress(row, seen_by[width:]))
                for row, seen_by, width in zip(_listed(tensors[theirs]), attention, widths, strict=True)
            ]
    for name in ("reward_model", "data_source", "num_turns", "extra_fields"):
        if name in others:
            columns[name] = list(others[name])
    given = {name: _listed(values) for name, values in extras.items() if len(values) == len(keys)}
    columns["extra_fields"] = [
        {"reward_extra_info": {name: values[index] for name, values in given.items()}} for index in range(len(keys))
    ]
    return keys, columns
