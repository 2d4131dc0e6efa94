"""ROLL's agentic pipelines: `rollout_dump_data.step_{N}.jsonl`, one line that holds a list for each column.

Written with `rollout_dump_dir`, which has to begin with `/`, by the environment managers AgentNative and Proxy; the
others dump nothing. The columns are JSON in strings. Training and evaluation of one step have the same file name, so
that one overwrites the other; with AgentNative, the trajectory says which of the two it is of.

AgentNative writes one row for a trajectory. Proxy writes one for each of its branches, or for each of its steps and
then without that step's own answer: a message that an earlier row of the trajectory holds in the same place is not
counted again. What Proxy knows about a group is a part of the trajectory's name.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from gapscope.parsers.base import Parser, embedded, number, rows_of_columns, source_of, step_of, whole_number
from gapscope.rollouts import Json, Refused, Rollout, Split, Status, refuse
from gapscope.rows import Reading, Row, RowError
from gapscope.shapes.conversations import asked_of, json_text, messages_of, tell, tool_definitions, tool_names

_KNOWN = frozenset({"global_step", "messages", "tools", "trajectory_data"})
# The conversation once more.
_LEFT_OUT = frozenset({"last_observation", "messages", "trajectory_id"})
_ID = re.compile(r"(?P<group>.+)_(?P<env>\d{1,18})_\d{8}_\d{6}_\d{6}(?:_b\d+)?", re.DOTALL)
_BRANCH = re.compile(r"_b\d+\Z")
_STOP_REASONS: Mapping[Json, tuple[Status | None, str | None]] = {
    "FINISH": (None, "stop"),
    "MAX_LENGTH": ("truncated", "length"),
    "MAX_STEPS": (None, "turn_limit"),
    "ABORT": ("error", "abort"),
    "ENV_RESET_FAILED": ("error", "error"),
}
_SPLITS: Mapping[Json, Split] = {"train": "train", "val": "validation"}
_Seen = dict[str, list[list[str]]]


class _Group(NamedTuple):
    """What rollouts were compared with one another, and the environment that one of them ran in."""

    id: str | None
    env: int | None


def claims(row: Mapping[str, Json]) -> bool:
    """Columns of trajectories and of their messages."""
    return isinstance(row.get("trajectory_data"), list) and isinstance(row.get("messages"), list)


def parse(rows: Iterable[Row], reading: Reading) -> Iterator[Rollout | Refused]:
    """All rows of each line."""
    for row in rows:
        try:
            values = rows_of_columns(row.value)
        except RowError as error:
            yield refuse(row.line, row.offset, str(error))
            continue
        seen: _Seen = {}
        for value in values:
            try:
                yield from _translate(row._replace(value=value), reading, seen)
            except RowError as error:
                yield refuse(row.line, row.offset, str(error))


def _translate(row: Row, reading: Reading, seen: _Seen) -> list[Rollout]:
    """The conversations of one row, of which AgentNative writes a list."""
    value, notes = row.value, list(row.repairs)
    data = embedded(value.get("trajectory_data"), "trajectory_data", notes)
    if not isinstance(data, dict):
        message = f"`trajectory_data` holds {data!r:.60}, expected an object"
        raise RowError(message)
    messages = embedded(value.get("messages"), "messages", notes)
    if not isinstance(messages, list):
        message = f"`messages` holds {messages!r:.60}, expected a list"
        raise RowError(message)
    # ROLL gives an empty list where the environment describes its tools in the prompt.
    tools = embedded(value.get("tools"), "tools", notes)
    declared = tool_names(tools) or None
    step = step_of(row, reading, notes, key="global_step")
    name = data.get("trajectory_id")
    whole = _BRANCH.sub("", name) if isinstance(name, str) else None
    earlier = seen.setdefault(whole, []) if whole is not None else []
    nested = [item for item in messages if isinstance(item, list)]
    conversations = nested if nested and len(nested) == len(messages) else [messages]
    first = whole_number(data.get("branch_or_step_idx")) or 0
    several = len(conversations) > 1 or (whole_number(data.get("num_branches_or_steps")) or 1) > 1
    group = _group(data, name)
    status, finish_reason = _ending(data)
    extra = {key: item for key, item in value.items() if key not in _KNOWN}
    extra |= {key: item for key, item in data.items() if key not in _LEFT_OUT}
    rollouts = []
    for index, conversation in enumerate(conversations):
        items = messages_of(conversation)
        sampled = _sampled(conversation, earlier)
        told = tell(items, reading, sampled=sampled, declared_tools=declared, finish_reason=finish_reason)
        unfinished = bool(items) and items[-1].role != "assistant"
        rollouts.append(
            Rollout(
                format=PARSER.name,
                source=source_of(row, reading),
                rollout_id=whole,
                run=reading.run,
                step=step,
                split=_split(data),
                group_id=group.id,
                group_origin=None if group.id is None else "logged",
                sample_index=group.env,
                output_index=first + index if several else None,
                # Nothing was generated: a placeholder, so that the batch is full.
                status=status if items else "error",
                finish_reason=finish_reason,
                reward=number(_part(data, "reward_info").get("episode_reward")),
                prompt=told.prompt if items else None,
                messages=asked_of(conversation, sampled),
                output=told.output,
                output_origin="joined",
                dialect=reading.dialect.name,
                declared_tools=declared,
                tools=tool_definitions(tools),
                turns=told.turns,
                spans=told.spans,
                calls=told.calls,
                images=told.images,
                extra=extra,
                notes=[*notes, "ends_before_the_answer"] if unfinished else notes,
            )
        )
    return rollouts


def _part(data: Mapping[str, Json], key: str) -> Mapping[str, Json]:
    """An object in the trajectory; an empty one where there is none."""
    part = data.get(key)
    return part if isinstance(part, dict) else {}


def _sampled(conversation: list[Json], earlier: list[list[str]]) -> list[bool]:
    """Which messages the policy wrote, other than those that an earlier row begins with as well."""
    texts = [json_text(message) for message in conversation]
    shared = 0
    for other in earlier:
        same = 0
        while same < min(len(texts), len(other)) and texts[same] == other[same]:
            same += 1
        shared = max(shared, same)
    earlier.append(texts)
    return [
        index >= shared and isinstance(message, dict) and message.get("role") == "assistant"
        for index, message in enumerate(conversation)
    ]


def _group(data: Mapping[str, Json], name: Json) -> _Group:
    """The group by AgentNative's description of the environment, else by Proxy's name of the trajectory."""
    info = _part(data, "env_info")
    keys = [info.get(key) for key in ("tag", "group_id", "episode_id", "seed")]
    if all(isinstance(key, (str, int)) for key in keys):
        return _Group("_".join(map(str, keys)), whole_number(info.get("env_id")))
    match = _ID.fullmatch(name) if isinstance(name, str) and not info else None
    return _Group(match["group"], int(match["env"])) if match else _Group(None, None)


def _split(data: Mapping[str, Json]) -> Split | None:
    mode = _part(data, "env_info").get("mode")
    return _SPLITS.get(mode) if isinstance(mode, str) else None


def _ending(data: Mapping[str, Json]) -> tuple[Status | None, str | None]:
    """How a trajectory ended: AgentNative's stop reason, or what Proxy was told by the agent."""
    reason = _part(data, "failure_info").get("stop_reason")
    if isinstance(reason, str):
        return _STOP_REASONS.get(reason, (None, reason))
    reason = data.get("finish_reason")
    return None, reason if isinstance(reason, str) and reason != "unknown" else None


PARSER = Parser(
    name="roll-agentic",
    trainer="ROLL",
    producer="ROLL's agentic pipelines with `rollout_dump_dir`; seen: alibaba/ROLL@8eb27cc2dc34",
    containers=("jsonl",),
    claims=claims,
    parse=parse,
    carries=("group_id", "reward", "step", "tool_calls", "tool_results", "turns"),
    optional={
        "declared_tools": "the environment has to give its tools in the info of `reset`, or `tools` of Proxy",
        "finish_reason": "Proxy writes what the agent says, which may be nothing",
        "images": "a message holds them only as `data:` URIs of the chat API",
    },
    lacks={
        "advantage": "ROLL dumps the rollouts before it computes advantages",
        "correctness": "name a threshold of the reward that means correct",
        "data_source": "ROLL does not name the data source; the tag of the environment is in the group",
        "entropies": "ROLL writes none; re-score the log with a model",
        "ground_truth": "ROLL does not write it; it is in the environment",
        "logprobs": "ROLL keeps them in memory; re-score the log with a model",
        "reward_parts": "ROLL writes the rewards of steps, whose sum is the reward",
        "token_ids": "ROLL writes messages only; tokenise them again with the chat template",
    },
    layout=re.compile(r"(?:^|/)rollout_dump_data\.step_(?P<step>\d+)\.jsonl"),
)
