"""ART's trajectories: `.art/{project}/models/{model}/trajectories/{split}/{step:04d}.parquet`.

ART writes them whenever trajectories are logged or trained on. One row is one trajectory; `tools`, `metrics`,
`metadata` and the calls of a message are JSON in strings, and `trainable` marks the messages that the policy
sampled. Before the parquet files there were JSON Lines of the same names, one line per group, that also hold
why a generation ended and the histories of sub-agents; where `art migrate` has left both, they are read.

`group_index` starts again at 0 in every file: a group is one of a split and step. `PipelineTrainer` trains on no
group without variance, but logs up to 50 of them per step as the split `discarded`, which are training rollouts.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from gapscope.parsers.base import Parser, content_id, embedded, required_number, source_of, whole_number
from gapscope.rollouts import Json, Refused, Rollout, refuse
from gapscope.rows import Reading, Row, RowError
from gapscope.shapes.conversations import asked_of, messages_of, tell, tool_definitions, tool_names

_DISCARDED = "discarded"
_KNOWN = frozenset(
    {"additional_histories", "group_index", "messages", "messages_and_choices", "metrics", "reward", "tools"}
)
_JSON_COLUMNS = ("group_metadata", "group_metrics", "metadata")
_OF_A_MESSAGE = ("content", "tool_call_id", "tool_calls", "trainable")


class _History(NamedTuple):
    """Messages as the chat API has them, which of them the policy wrote, and why the last of these ended."""

    messages: list[dict[str, Json]]
    sampled: list[bool]
    finish_reason: str | None
    tools: Json


class _Place(NamedTuple):
    """Where a trajectory is in its file."""

    group: int
    sample: int


def claims(row: Mapping[str, Json]) -> bool:
    """A trajectory whose messages say whether they are trainable, or a group of trajectories of choices."""
    if row.keys() >= {"group_index", "messages", "reward"}:
        messages = row["messages"]
        if not isinstance(messages, list) or not messages:
            return "group_metrics" in row and "group_logs" in row
        return isinstance(messages[0], dict) and messages[0].keys() >= set(_OF_A_MESSAGE)
    trajectories = row.get("trajectories")
    if not isinstance(trajectories, list) or not trajectories:
        return False
    return isinstance(trajectories[0], dict) and "messages_and_choices" in trajectories[0]


def parse(rows: Iterable[Row], reading: Reading) -> Iterator[Rollout | Refused]:
    """All rows of one file: the place of a trajectory in its group is that among the rows."""
    samples: Counter[int] = Counter()
    for row in rows:
        if "trajectories" in row.value:
            yield from _group(row, reading)
            continue
        try:
            group = _group_index(row.value)
            place = _Place(group, samples[group])
            samples[group] += 1
            yield from _flat(row, reading, place)
        except RowError as error:
            yield refuse(row.line, row.offset, str(error))


def _group_index(value: Mapping[str, Json]) -> int:
    group = whole_number(value.get("group_index"))
    if group is None:
        message = f"`group_index` is {value.get('group_index')!r:.60}, expected a whole number"
        raise RowError(message)
    return group


def _group(row: Row, reading: Reading) -> Iterator[Rollout | Refused]:
    """The trajectories of one line; the lines of a file are its groups, in order."""
    trajectories = row.value["trajectories"]
    if not isinstance(trajectories, list) or not trajectories:
        yield refuse(row.line, row.offset, f"`trajectories` is {trajectories!r:.60}, a group without any")
        return
    for sample, value in enumerate(trajectories):
        try:
            yield from _nested(row, reading, _Place(row.line - 1, sample), value)
        except RowError as error:
            yield refuse(row.line, row.offset, str(error))


def _flat(row: Row, reading: Reading, place: _Place) -> list[Rollout]:
    """A row of the parquet file."""
    value, notes = row.value, list(row.repairs)
    messages = value.get("messages")
    if not isinstance(messages, list):
        message = f"`messages` is {type(messages).__name__}, expected a list of messages"
        raise RowError(message)
    tools = embedded(value.get("tools"), "tools", notes)
    history = _History(
        [_message(item, notes) for item in messages], [_trainable(item) for item in messages], None, tools
    )
    metrics = embedded(value.get("metrics"), "metrics", notes)
    extra = {key: item for key, item in value.items() if key not in _KNOWN and item is not None}
    extra |= {key: embedded(extra[key], key, notes) for key in _JSON_COLUMNS if key in extra}
    more = embedded(value.get("additional_histories"), "additional_histories", notes)
    return _rollouts(row, reading, place, [history, *_histories(more)], _extra(metrics, extra), notes)


def _nested(row: Row, reading: Reading, place: _Place, value: Json) -> list[Rollout]:
    """A trajectory of a group in JSON Lines."""
    if not isinstance(value, dict):
        message = f"trajectory {place.sample} of the group is {value!r:.60}, expected an object"
        raise RowError(message)
    extra = {key: item for key, item in row.value.items() if key != "trajectories"}
    extra |= {key: item for key, item in value.items() if key not in _KNOWN and item is not None and item != []}
    histories = [_history(value), *_histories(value.get("additional_histories"))]
    whole = row._replace(value=value)
    return _rollouts(whole, reading, place, histories, _extra(value.get("metrics"), extra), list(row.repairs))


def _extra(metrics: Json, extra: dict[str, Json]) -> dict[str, Json]:
    """What the trajectory was measured by, each by its own name, and the rest of the row."""
    return (
        {**metrics, **extra}
        if isinstance(metrics, dict)
        else extra
        if metrics is None
        else {**extra, "metrics": metrics}
    )


def _message(item: Json, notes: list[str]) -> dict[str, Json]:
    if not isinstance(item, dict):
        message = f"a message is {item!r:.60}, expected an object with a role"
        raise RowError(message)
    calls = embedded(item.get("tool_calls"), "tool_calls", notes)
    return {**item, "tool_calls": calls} if calls is not None else item


def _trainable(item: Json) -> bool:
    return isinstance(item, dict) and item.get("trainable") is True


def _histories(items: Json) -> list[_History]:
    """The conversations of sub-agents that were rewarded together with the main one."""
    if items is None:
        return []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        message = f"`additional_histories` is {items!r:.60}, expected a list of histories"
        raise RowError(message)
    return [_history(item) for item in items]


def _history(value: Mapping[str, Json]) -> _History:
    """Messages, and choices, each of which holds one that the policy sampled."""
    items = value.get("messages_and_choices")
    if not isinstance(items, list):
        message = f"`messages_and_choices` is {type(items).__name__}, expected a list"
        raise RowError(message)
    messages, sampled, reason = [], [], None
    for item in items:
        choice = isinstance(item, dict) and "finish_reason" in item
        message = item.get("message") if choice else item
        if choice:
            reason = item["finish_reason"]
        if not isinstance(message, dict):
            fault = f"a message is {message!r:.60}, expected an object with a role"
            raise RowError(fault)
        messages.append(message)
        sampled.append(choice)
    return _History(messages, sampled, reason if isinstance(reason, str) else None, value.get("tools"))


def _rollouts(
    row: Row,
    reading: Reading,
    place: _Place,
    histories: list[_History],
    extra: dict[str, Json],
    notes: list[str],
) -> list[Rollout]:
    """One rollout for each history of a trajectory: they share its reward."""
    reward = required_number(row.value, "reward", row.repairs)
    folder = os.path.basename(os.path.dirname(reading.file))
    # The groups that were set aside and those trained on are counted apart.
    discarded = folder == _DISCARDED
    group = f"{_DISCARDED}:{place.group}" if discarded else str(place.group)
    notes = [*notes, "discarded_by_the_trainer"] if discarded else notes
    several = len(histories) > 1
    where = content_id([item.messages for item in histories]) if several else None
    found = []
    for index, history in enumerate(histories):
        # Without any choice, as after a round trip through ART's own reader, the role is all there is.
        unmarked = not any(history.sampled) and any(message.get("role") == "assistant" for message in history.messages)
        own = [message.get("role") == "assistant" for message in history.messages] if unmarked else history.sampled
        declared = tool_names(history.tools)
        told = tell(
            messages_of(history.messages),
            reading,
            sampled=own,
            declared_tools=declared,
            finish_reason=history.finish_reason,
        )
        found.append(
            Rollout(
                format=PARSER.name,
                source=source_of(row, reading),
                rollout_id=where,
                run=reading.run,
                step=reading.step,
                split="train" if discarded else reading.split,
                group_id=group,
                group_origin="logged",
                sample_index=place.sample,
                output_index=index if several else None,
                finish_reason=history.finish_reason,
                reward=reward,
                prompt=told.prompt,
                messages=asked_of(history.messages, own),
                output=told.output,
                output_origin="joined",
                dialect=reading.dialect.name,
                declared_tools=declared,
                tools=tool_definitions(history.tools),
                turns=told.turns,
                spans=told.spans,
                calls=told.calls,
                images=told.images,
                extra=extra,
                notes=[*notes, "sampled_by_role"] if unmarked else notes,
            )
        )
    return found


PARSER = Parser(
    name="art",
    trainer="ART",
    producer="openpipe-art, whose `model.log` and `backend.train` write them unasked; seen: 0.5.18",
    containers=("parquet", "jsonl"),
    claims=claims,
    parse=parse,
    carries=("group_id", "reward", "tool_calls", "tool_results", "turns"),
    optional={
        "declared_tools": "set `Trajectory.tools`; without it, no tool list is logged",
        "finish_reason": "only the JSON Lines of versions before parquet have it; put it into `Trajectory.metrics`",
        "images": "only the JSON Lines of versions before parquet can hold them",
        "step": "keep the files under the names `trajectories/{split}/{step}` that ART gives them",
    },
    lacks={
        "advantage": "ART does not write advantages; they follow from the rewards of a group",
        "correctness": "set `Trajectory.metrics['acc']` to 0 or 1, or name the metric that means correct",
        "data_source": "ART names none; put it into `Trajectory.metadata` and group by it",
        "entropies": "ART writes none; re-score the log with a model",
        "ground_truth": "ART has no field for it; what is in `Trajectory.metadata` is kept as it is",
        "logprobs": "ART drops `Choice.logprobs` when it writes; re-score the log with a model",
        "reward_parts": "ART logs one reward; numbers in `Trajectory.metrics` are kept by their names",
        "token_ids": "ART writes text only; re-tokenise it with the policy's chat template",
    },
    drops_uniform_groups="PipelineTrainer",
    whole_file=True,
    layout=re.compile(r"(?:^|/)trajectories/(?P<split>[^/]+)/(?P<step>\d+)\.(?:parquet|jsonl)"),
    part_of=("{stem}.jsonl",),
)
