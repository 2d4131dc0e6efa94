"""RAGEN's evaluation (`output.format=jsonl`, or `save_jsonl_backup=true`): `val_rollouts_{date}_{time}.jsonl`.

A row is one trajectory: messages and `metadata`. What the environment shows is a user message, and ` (reward: r)` at
its end is the reward of the action that follows it. `<answer>` holds actions and no final answer. Metrics are named
`{environment}/{name}`, and so is the success; a plain `success` beside one is RAGEN's default and says nothing.
Group ids count from 0 in each file. `entropy` is one sum over all tokens of a trajectory.
"""

import os
from collections.abc import Mapping
from typing import NamedTuple

from gapscope.parsers.base import JSON, Parser, number, row_by_row, source_of
from gapscope.rollouts import Json, Rollout
from gapscope.rows import Reading, Row, RowError
from gapscope.shapes.conversations import Message, messages_of, tell

_SUCCESS = "/success"
_READ_KEYS = frozenset({"group_id", "total_reward", "success"})


def claims(row: Mapping[str, Json]) -> bool:
    """`custom_id` and `messages`, with an environment and a group in `metadata`."""
    metadata = row.get("metadata")
    if "custom_id" not in row or "messages" not in row or not isinstance(metadata, dict):
        return False
    return "env_id" in metadata and "group_id" in metadata


def translate(row: Row, reading: Reading) -> Rollout:
    """One row."""
    value = row.value
    metadata = value.get("metadata")
    if not isinstance(metadata, dict):
        message = f"`metadata` is {metadata!r:.60}, expected an object"
        raise RowError(message)
    messages = _with_observations(messages_of(value.get("messages")))
    told = tell(messages, reading)
    group, success = metadata.get("group_id"), _success_in(metadata)
    extra = {key: item for key, item in value.items() if key not in {"messages", "metadata"}}
    extra |= {key: item for key, item in metadata.items() if key not in _READ_KEYS}
    # What stands there without log-probs.
    if extra.get("entropy") == 0:
        del extra["entropy"]
    file = os.path.basename(reading.file).split(".")[0]
    return Rollout(
        format=PARSER.name,
        source=source_of(row, reading),
        run=reading.run,
        split="validation",
        group_id=None if group is None else f"{file}:{group}",
        group_origin=None if group is None else "logged",
        reward=number(metadata.get("total_reward")),
        correct=success.value,
        correct_rule=success.rule,
        data_source=success.environment,
        prompt=told.prompt,
        messages=value["messages"][: _first(messages)],
        output=told.output,
        output_origin="joined",
        dialect=reading.dialect.name,
        turns=told.turns,
        spans=told.spans,
        calls=told.calls,
        images=told.images,
        extra=extra,
        notes=list(row.repairs),
    )


def _first(messages: list[Message]) -> int:
    """Where the policy begins."""
    return next((index for index, message in enumerate(messages) if message.role == "assistant"), len(messages))


def _with_observations(messages: list[Message]) -> list[Message]:
    """The same, with what the environment showed after an action as the result of it."""
    begin = _first(messages)
    return [
        message._replace(role="observation") if index > begin and message.role == "user" else message
        for index, message in enumerate(messages)
    ]


class _Success(NamedTuple):
    value: bool | None
    rule: str | None
    environment: str | None


def _success_in(metadata: Mapping[str, Json]) -> _Success:
    """Whether the trajectory succeeded, by the metric of its environment if there is one."""
    for key, item in metadata.items():
        if key.endswith(_SUCCESS) and (measured := number(item)) is not None:
            return _Success(measured > 0, "`{environment}/success`", key.removesuffix(_SUCCESS))
    environment = next((key.split("/", 1)[0] for key in metadata if "/" in key), None)
    stated = metadata.get("success")
    if environment is None and isinstance(stated, bool):
        return _Success(stated, "`success`", None)
    return _Success(None, None, environment)


PARSER = Parser(
    name="ragen",
    trainer="RAGEN",
    producer="RAGEN's evaluation (mll-lab-nu/RAGEN@20daedc47558) with `output.format=jsonl`",
    containers=JSON,
    claims=claims,
    parse=row_by_row(translate),
    carries=("group_id", "reward", "tool_calls", "tool_results", "turns"),
    optional={
        "correctness": "environments that end in success have it as `{environment}/success`",
        "data_source": "environments name their metrics after themselves",
        "images": "RAGEN writes `<images>` in their place",
    },
    lacks={
        "advantage": "RAGEN's evaluation computes none",
        "declared_tools": "RAGEN's prompts describe the actions in prose",
        "entropies": "RAGEN writes one sum per trajectory (`entropy`); re-score the log with a model",
        "finish_reason": "RAGEN does not write why a trajectory ended",
        "ground_truth": "RAGEN's environments have none, or do not write it",
        "logprobs": "RAGEN writes none; re-score the log with a model",
        "reward_parts": "RAGEN writes one reward per trajectory; its metrics can be named as correctness",
        "step": "RAGEN's evaluation does not say which step the model is of; read one file per model",
        "token_ids": "RAGEN writes messages only",
    },
    dialect="ragen",
)
