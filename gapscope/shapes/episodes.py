"""Episodes as verifiers writes them, alone or inside prime-rl: a task, and one trace per agent that worked on it.

A trace is a graph of messages. Whoever rewrote the history (compaction, a sub-agent, a retry) made it fork, and
each branch is one training sequence: one rollout. Older versions wrote traces that stand alone. A reward that is
null was not scored, which is not the same as wrong: the total, Σ score · weight, is known where every part is.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from gapscope.rollouts import Json, Refused, RewardPart, Rollout, Source, Split, Status, Turn, refuse
from gapscope.rows import Reading, Row, RowError
from gapscope.shapes.conversations import Message, tell, tool_definitions, tool_names
from gapscope.shapes.message_graphs import Branch, Integer, Node, branches_of, message_in, placed, tokens_of
from gapscope.shapes.token_exports import Recomputed, constant, unpacked


class _ModelCall(msgspec.Struct, frozen=True, gc=False):
    node: Integer | None = None
    finish_reason: str | None = None
    error: Json = None


class _Reward(msgspec.Struct, frozen=True, gc=False):
    score: float | None = None
    weight: float | None = 1.0


class _Agent(msgspec.Struct, frozen=True, gc=False):
    name: str | None = None
    trainable: bool | None = None


class _Policy(msgspec.Struct, frozen=True, gc=False):
    start: Integer
    end: Integer


class _Work(msgspec.Struct, frozen=True, gc=False):
    type: str | None = None
    step: Integer | None = None
    policy: _Policy | None = None


class _Run(msgspec.Struct, frozen=True, gc=False):
    type: str | None = None
    step: Integer | None = None
    work: _Work | None = None


class _Named(msgspec.Struct, frozen=True, gc=False):
    id: str | None = None
    name: str | None = None


class _Task(msgspec.Struct, frozen=True, gc=False):
    data: dict[str, Json] | None = None
    key: str | None = None
    hash: str | None = None


class _Stamp(msgspec.Struct, frozen=True, gc=False):
    """What prime-rl 0.7 and 0.8 knew of a trace, beside it or in its `info`."""

    group_id: str | None = None
    env_name: str | None = None
    kind: str | None = None
    policy_version: Integer | None = None
    eval_step: Integer | None = None


class _Trace(msgspec.Struct, frozen=True, gc=False):
    nodes: list[Node] = []
    id: str | None = None
    task: _Task | None = None
    agent: _Agent | None = None
    tools: list[Json] | None = None
    calls: list[_ModelCall] | None = None
    rewards: dict[str, _Reward | float | None] | None = None
    metrics: dict[str, Json] | None = None
    info: dict[str, Json] | None = None
    ok: bool | None = None
    stop_condition: str | None = None
    is_timeout: bool | None = None
    errors: list[Json] | None = None


class _Episode(msgspec.Struct, frozen=True, gc=False):
    task: _Task
    id: str | None = None
    env: _Named | None = None
    group: _Named | None = None
    run: _Run | None = None
    ok: bool | None = None
    errors: list[Json] | None = None
    traces: list[Json] | None = None


class Training(Protocol):
    """What a trainer knows of rollouts beside their episodes."""

    def advantage(self, trace: str) -> float | None:
        """That of the trace of this id."""

    def recomputed(self, ids: Sequence[int], notes: list[str]) -> Recomputed | None:
        """What the trainer found for the sequence of these ids."""


class _Source(NamedTuple):
    """One row on its way to rollouts; `value` is the part of it that is the trace."""

    row: Row
    reading: Reading
    name: str
    training: Training | None
    episode: _Episode
    stamp: _Stamp
    value: dict[str, Json]


_Struct = TypeVar("_Struct", _Episode, _Trace, _Stamp)


def is_episode(row: Mapping[str, Json]) -> bool:
    """An episode, or a trace that stands alone (verifiers up to 0.3, prime-rl 0.7 and 0.8)."""
    if not isinstance(row.get("task"), dict):
        return False
    if isinstance(row.get("traces"), list):
        return isinstance(row.get("env"), dict)
    return isinstance(row.get("nodes"), list) and "rewards" in row and "metrics" in row


def is_of_training(row: Mapping[str, Json]) -> bool:
    """Whether a training run has stamped it with what the episode was for."""
    run, info = row.get("run"), row.get("info")
    if isinstance(run, dict) and (isinstance(run.get("work"), dict) or run.get("step") is not None):
        return True
    return ("group_id" in row and "policy_version" in row) or (isinstance(info, dict) and "policy_version" in info)


def rollouts_of(
    row: Row, reading: Reading, *, name: str, training: Training | None = None
) -> Iterator[Rollout | Refused]:
    """One rollout per branch of each trace; what cannot be read of them is refused trace by trace."""
    try:
        episode = _converted(row.value, _Episode)
        traces = [row.value] if episode.traces is None else episode.traces
        if not traces:
            yield _failed(_Source(row, reading, name, training, episode, _Stamp(), {}))
    except RowError as error:
        yield refuse(row.line, row.offset, str(error))
        return
    for index, value in enumerate(traces):
        try:
            yield from _trace_rollouts(row, reading, name, training, episode, value)
        except RowError as error:
            where = "" if episode.traces is None else f"`traces[{index}]`: "
            yield refuse(row.line, row.offset, f"{where}{error}")


def _converted(value: Json, kind: type[_Struct]) -> _Struct:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise RowError(str(error)) from error
    except RecursionError as error:
        message = "nested too deeply"
        raise RowError(message) from error


def _failed(source: _Source) -> Rollout:
    """An attempt that broke before any agent began: it is one of its group, and there is nothing in it."""
    if source.episode.ok or not source.episode.errors:
        message = "`traces` is empty, and `errors` does not say why"
        raise RowError(message)
    rollout = _begun(source, _Trace(errors=source.episode.errors, ok=False))
    rollout.rollout_id = source.episode.id
    rollout.finish_reason = "error"
    return rollout


def _trace_rollouts(
    row: Row, reading: Reading, name: str, training: Training | None, episode: _Episode, value: Json
) -> list[Rollout]:
    trace = _converted(value, _Trace)
    stamp = _converted({**(trace.info or {}), **value} if episode.traces is None else {}, _Stamp)
    source = _Source(row, reading, name, training, episode, stamp, value)
    messages = [message_in(node.message) for node in trace.nodes]
    branches = branches_of(trace.nodes)
    rollouts = []
    for place, branch in enumerate(branches):
        rollout = _begun(source, trace)
        rollout.output_index = place if len(branches) > 1 else None
        if not branch.trained and rollout.status != "error":
            rollout.status = "masked"
        _say(rollout, source, trace, messages, branch, last=place == len(branches) - 1)
        rollouts.append(rollout)
    if not rollouts:
        rollout = _begun(source, trace)
        rollout.finish_reason = _finish_reason(trace.stop_condition, None)
        rollouts.append(rollout)
    return rollouts


_SPLITS: Mapping[str, Split | None] = {"train": "train", "eval": "validation"}


def _begun(source: _Source, trace: _Trace) -> Rollout:
    """What is true of all branches of a trace."""
    episode, stamp, reading = source.episode, source.stamp, source.reading
    run = episode.run or _Run()
    work = run.work or _Work()
    step = next((s for s in (work.step, run.step, stamp.eval_step, reading.step) if s is not None), None)
    split = _SPLITS.get(work.type or run.type or stamp.kind or "", reading.split)
    task = trace.task or episode.task
    env = episode.env or _Named()
    agent = trace.agent or _Agent()
    group = (episode.group.id if episode.group else None) or stamp.group_id or task.hash or task.key
    if group and agent.trainable is False:
        # Nobody compared it with the rollouts of the policy that is trained.
        group = f"{group}#{agent.name}"
    parts, total = _rewards(trace)
    return Rollout(
        format=source.name,
        source=Source(reading.file, source.row.line, source.row.offset),
        rollout_id=trace.id,
        run=reading.run,
        step=step,
        split=split,
        group_id=group,
        group_origin="logged" if group else None,
        status=_status(trace, agent),
        reward=total,
        reward_parts=parts,
        ground_truth=(task.data or {}).get("answer"),
        data_source=env.name or env.id or stamp.env_name or None,
        output_origin="joined",
        dialect=reading.dialect.name,
        extra=_extra(source, trace, task, agent, step),
        notes=list(source.row.repairs),
    )


def _rewards(trace: _Trace) -> tuple[list[RewardPart], float | None]:
    """The parts with their weights, and their weighted sum where all of them were scored."""
    parts = []
    for name, reward in (trace.rewards or {}).items():
        if isinstance(reward, _Reward):
            parts.append(RewardPart(name, reward.score, reward.weight))
        else:
            # Up to verifiers 0.2 a part was a number, and the total their sum.
            parts.append(RewardPart(name, reward, None if reward is None else 1.0))
    known = [part.value * part.weight for part in parts if part.value is not None and part.weight is not None]
    total = sum(known) if known and len(known) == len(parts) else None
    return parts, total if total is None or isfinite(total) else None


_LENGTHS = frozenset({"max_input_tokens", "max_output_tokens", "max_total_tokens"})
_TRUNCATIONS = _LENGTHS | {"max_turns", "compaction_failed"}


def _status(trace: _Trace, agent: _Agent) -> Status | None:
    """`ok` and `errors` are not the same: the errors of attempts that were repeated stay in the log."""
    if trace.ok is False or (trace.ok is None and trace.errors):
        return "error"
    if agent.trainable is False:
        return "excluded"
    final = next((call for call in reversed(trace.calls or ()) if call.error is None), None)
    if trace.stop_condition in _TRUNCATIONS or (final is not None and final.finish_reason == "length"):
        return "truncated"
    return "ok" if trace.ok else None


_EPISODE_KEYS = frozenset(_Episode.__struct_fields__) | {
    "is_timeout", "num_input_tokens", "num_output_tokens", "num_total_tokens",
}  # fmt: skip
_TRACE_KEYS = frozenset((*_Trace.__struct_fields__, *_Stamp.__struct_fields__)) | {
    "version", "verifiers", "mm_token_type_id_map", "request_rewrites", "response_rewrites", "root_reply",
    "extra_usage", "is_completed", "timing", "num_input_tokens", "num_output_tokens", "num_total_tokens",
    "run", "runtime",
}  # fmt: skip
_TASK_KEYS = frozenset({
    "idx", "id", "prompt", "system_prompt", "answer", "skills", "network_allow", "network_block", "artifacts",
    "artifact_max_bytes", "timeout", "resources",
})  # fmt: skip


def _extra(source: _Source, trace: _Trace, task: _Task, agent: _Agent, step: int | None) -> dict[str, Json]:
    """What has no place in the record: metrics by their names, how it ended, and keys that are not known."""
    known = _TRACE_KEYS | (_EPISODE_KEYS if source.episode.traces is None else frozenset())
    extra = {key: item for key, item in source.value.items() if key not in known}
    if source.episode.traces is not None:
        extra |= {key: item for key, item in source.row.value.items() if key not in _EPISODE_KEYS}
    beyond = (source.episode.errors or ()) if source.value and source.episode.traces is not None else ()
    told = {
        "agent": agent.name if agent.name != "agent" else None,
        "episode_errors": [_said(error) for error in beyond],
        "errors": [_said(error) for error in trace.errors or ()],
        "file_step": source.reading.step if source.reading.step != step else None,
        "info": {key: item for key, item in (trace.info or {}).items() if key not in _Stamp.__struct_fields__},
        "is_timeout": trace.is_timeout or None,
        "stop_condition": trace.stop_condition,
        "task": {key: item for key, item in (task.data or {}).items() if key not in _TASK_KEYS and item is not None},
    }
    extra |= {key: item for key, item in told.items() if item not in (None, [], {})}
    for name, item in (trace.metrics or {}).items():
        taken = name in extra or name in (trace.rewards or {})
        extra[f"metrics.{name}" if taken else name] = item
    return extra


def _said(error: Json) -> Json:
    """An error without its traceback."""
    return {key: item for key, item in error.items() if key != "traceback"} if isinstance(error, dict) else error


def _say(
    rollout: Rollout, source: _Source, trace: _Trace, messages: list[Message], branch: Branch, *, last: bool
) -> None:
    """What was said along one branch, its tokens, and how it ended."""
    nodes, path = trace.nodes, branch.path
    ends = {call.node: call.finish_reason for call in trace.calls or () if call.error is None}
    final = ends.get(branch.own[-1]) if branch.own else None
    rollout.finish_reason = _finish_reason(trace.stop_condition, final) if last else final
    offered = nodes[path[0]].tools or trace.tools
    rollout.declared_tools, rollout.tools = tool_names(offered) or None, tool_definitions(offered)
    own = frozenset(branch.own)
    told = tell(
        [messages[index] for index in path],
        source.reading,
        sampled=[index in own for index in path],
        declared_tools=rollout.declared_tools,
        finish_reason=rollout.finish_reason,
        policy_version=_policy_version(source) if trace.agent is None or trace.agent.trainable is not False else None,
    )
    begin = next((place for place, index in enumerate(path) if index in own), len(path))
    rollout.prompt, rollout.messages = told.prompt, [nodes[index].message for index in path[:begin]]
    rollout.output, rollout.spans, rollout.calls = told.output, told.spans, told.calls
    rollout.images = told.images
    rollout.turns = told.turns
    if len(told.turns) == len(branch.own):
        pairs = zip(told.turns, branch.own, strict=True)
        rollout.turns = [Turn(turn.index, ends.get(index), turn.policy_version) for turn, index in pairs]
    advantages = {value for index in branch.own for value in nodes[index].advantages or ()}
    rollout.advantage = constant(advantages)
    rollout.tokens = tokens_of(nodes, branch)
    if source.training is not None:
        if not advantages and trace.id is not None:
            rollout.advantage = source.training.advantage(trace.id)
        _recompute(rollout, source.training)
    if len(advantages) > 1:
        rollout.notes.append("advantage_differs_by_token")


def _finish_reason(stop: str | None, final: str | None) -> str | None:
    """Why the attempt ended, by what stopped it and by the end of the last generation."""
    if stop is None or stop == "agent_completed":
        return final if stop is None or final == "length" else "stop"
    if stop == "error" or stop.endswith("_error"):
        return "error"
    return "turn_limit" if stop == "max_turns" else "length" if stop in _LENGTHS or final == "length" else stop


def _policy_version(source: _Source) -> str | None:
    work = source.episode.run.work if source.episode.run else None
    policy = work.policy if work else None
    if policy is None:
        return None if source.stamp.policy_version is None else str(source.stamp.policy_version)
    return str(policy.start) if policy.start == policy.end else f"{policy.start}-{policy.end}"


def _recompute(rollout: Rollout, training: Training) -> None:
    """Add what the trainer found for the same token ids, where the episode does not say it itself."""
    tokens = rollout.tokens
    if tokens is None or tokens.ids is None or tokens.sampled is None or True not in tokens.sampled:
        return
    found = training.recomputed(tokens.ids, rollout.notes)
    if found is None:
        return
    rollout.advantage = found.advantage if rollout.advantage is None else rollout.advantage
    mask = [*tokens.sampled[: found.length], *[False] * (len(tokens.ids) - found.length)]
    count = sum(mask)
    entropies = placed(unpacked(found.entropies), mask) if len(found.entropies) == count else []
    if tokens.entropies is None and entropies.count(None) < len(entropies):
        tokens = msgspec.structs.replace(tokens, entropies=entropies, entropy_kind="full")
    logprobs = placed(unpacked(found.logprobs), mask) if len(found.logprobs) == count else []
    if logprobs.count(None) < len(logprobs):
        if tokens.logprobs is None:
            tokens = msgspec.structs.replace(tokens, logprobs=logprobs, logprob_source="trainer")
        elif tokens.logprob_source == "rollout" and tokens.trainer_logprobs is None:
            tokens = msgspec.structs.replace(tokens, trainer_logprobs=logprobs)
    rollout.tokens = tokens
