"""rLLM's episodes: one indented JSON file each, of a training run and of `rllm eval`.

Training (`rllm.episode_logging.log_episodes=true`) writes `episodes/{train|val}_step_{S}_epoch_{E}/episode_….json`
without tokens, which are looked up in the gateway's database (`gateway*.db`) where it lies beside `episodes/`. The
eval store writes `episodes/episode_{number}_{task}.json` with `eval_idx`, with the tokens of engines that return them.

An episode holds a trajectory per agent; rLLM compares those of one task and one name, so that is the group. A step
repeats the messages before it. What JSON cannot hold is written as Python shows it: tool calls are read back from that.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from gapscope.parsers.base import Parser, number, source_of, whole_number
from gapscope.rollouts import Json, Refused, RewardPart, Rollout, Split, Status, refuse
from gapscope.rows import Reading, Row, RowError
from gapscope.shapes.conversations import tell, tool_definitions, tool_names
from gapscope.shapes.model_calls import (
    BROKEN_TOKENS,
    ModelCall,
    conversations_in,
    logprobs_in,
    tokens_of,
    transcript_of,
    whole_numbers,
)
from gapscope.shapes.python_literals import literal
from gapscope.shapes.rllm_traces import Trace, one_session, trace_of

_LAYOUT = re.compile(r"(?:^|/)episodes(?:/(?P<split>train|val)_step_(?P<step>\d+)_epoch_\d+)?/[^/]+\Z")
_GATEWAY = ("../../gateway*.db", "../gateway*.db", "gateway*.db")
_NAME = re.compile(r"(.+):([0-9]{1,18})", re.DOTALL)
_TOOL_CALL = re.compile(r"ToolCall\(name=['\"]([^'\"\\]*)['\"], arguments=(.*)\)", re.DOTALL)
_CLIENT_CALL = re.compile(
    r"""Function\(arguments=('(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+"), name='([^'\\]*)'""", re.DOTALL
)

_KNOWN_KEYS = frozenset(
    {
        "training_step", "epoch", "episode_id", "session_id", "task", "task_hash", "is_correct", "termination_reason",
        "metrics", "metadata", "timing", "trajectories", "id", "eval_idx", "artifacts",
    }
)  # fmt: skip
_FINISH_REASONS = {
    "env_done": "stop",
    "max_turns_exceeded": "turn_limit",
    "max_prompt_length_exceeded": "length",
    "max_response_length_exceeded": "length",
    "unknown": None,
}


def claims(row: Mapping[str, Json]) -> bool:
    """An episode of a training step or of an evaluation."""
    if "trajectories" not in row or "is_correct" not in row:
        return False
    return ("training_step" in row and "episode_id" in row) or ("eval_idx" in row and "id" in row)


def parse(rows: Iterable[Row], reading: Reading) -> Iterator[Rollout | Refused]:
    """Each row is an episode: a rollout for each conversation of each of its trajectories."""
    for row in rows:
        trajectories = row.value.get("trajectories")
        if not isinstance(trajectories, list) or not trajectories:
            reason = f"`trajectories` is {trajectories!r:.60}, expected a list that is not empty"
            yield refuse(row.line, row.offset, reason)
            continue
        try:
            joined = _joined(row, trajectories, reading)
        except RowError as error:
            joined = _Joined([None] * len(trajectories), [str(error)], None)
        for trajectory, calls in zip(trajectories, joined.calls, strict=True):
            try:
                yield from _rollouts(row, trajectory, calls, joined, reading)
            except RowError as error:
                yield refuse(row.line, row.offset, str(error))


class _Joined(NamedTuple):
    """The calls of each trajectory where the gateway has them, and what there is to say about that."""

    calls: list[list[ModelCall] | None]
    notes: list[str]
    tools: Json


def _joined(row: Row, trajectories: Sequence[Json], reading: Reading) -> _Joined:
    """The tokens that the gateway has: its calls are in the order of the steps of all trajectories."""
    nothing = _Joined([None] * len(trajectories), [], None)
    session = row.value.get("session_id") or row.value.get("episode_id")
    if "training_step" not in row.value or not isinstance(session, str):
        return nothing
    traces = _traces(session, reading)
    if not traces:
        return nothing
    steps = [_steps(trajectory) for trajectory in trajectories]
    number_of_steps = sum(map(len, steps))
    # A last call that gave no token makes no step.
    while len(traces) > number_of_steps and not traces[-1].call.ids:
        traces.pop()
    every = [step for each in steps for step in each]
    if len(traces) != number_of_steps or not all(map(_says_the_same, traces, every)):
        return nothing._replace(notes=["gateway_calls_differ"])
    rest = iter(traces)
    calls: list[list[ModelCall] | None] = [[next(rest).call for _ in each] for each in steps]
    return _Joined(calls, [], next((trace.tools for trace in traces if tool_names(trace.tools)), None))


def _traces(session: str, reading: Reading) -> list[Trace]:
    for pattern in _GATEWAY:
        if traces := [trace_of(row.value.get("data")) for row in reading.beside(pattern, one_session(session))]:
            return traces
    return []


def _says_the_same(trace: Trace, step: Mapping[str, Json]) -> bool:
    said, logged = trace.call.said.get("content"), step.get("model_response")
    return not (isinstance(said, str) and isinstance(logged, str)) or said == logged


def _steps(trajectory: Json) -> list[dict[str, Json]]:
    steps = trajectory.get("steps") if isinstance(trajectory, dict) else None
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        message = f"`steps` is {steps!r:.60}, expected a list of objects"
        raise RowError(message)
    return steps


def _rollouts(
    row: Row, trajectory: Json, joined_calls: list[ModelCall] | None, joined: _Joined, reading: Reading
) -> Iterator[Rollout]:
    steps = _steps(trajectory)
    calls = joined_calls or [_call(step) for step in steps]
    conversations = conversations_in(calls)
    for index, calls_of_one in enumerate(conversations or [[]]):
        rollout = _rollout(row, trajectory, calls_of_one, joined.tools, reading)
        rollout.output_index = index if len(conversations) > 1 else None
        rollout.notes += joined.notes
        yield rollout


def _rollout(
    row: Row, trajectory: Mapping[str, Json], calls: list[ModelCall], tools: Json, reading: Reading
) -> Rollout:
    value = row.value
    training = "training_step" in value
    reason = value.get("termination_reason")
    finish = _FINISH_REASONS.get(reason, reason) if isinstance(reason, str) else None
    messages, sampled = transcript_of(calls)
    version, declared = calls[-1].policy_version if calls else None, tool_names(tools)
    told = tell(
        messages, reading, sampled=sampled, declared_tools=declared, finish_reason=finish, policy_version=version
    )
    name, uid = trajectory.get("name"), trajectory.get("uid")
    episode = value.get("episode_id") if training else value.get("id")
    named = _NAME.fullmatch(episode) if isinstance(episode, str) else None
    task = named[1] if named else value.get("task_hash")
    alone = len(value["trajectories"]) == 1
    correct = value.get("is_correct")
    tokens = tokens_of(calls, source="rollout")
    broken = bool(calls) and tokens is None and all(call.ids and call.prompt_ids for call in calls)
    step = whole_number(value.get("training_step")) if training else None
    split: Split | None = reading.split if training else "validation"
    return Rollout(
        format=PARSER.name,
        source=source_of(row, reading),
        rollout_id=uid if isinstance(uid, str) else None,
        run=reading.run,
        step=step if step is not None or not training else reading.step,
        split=split,
        group_id=f"{task}:{name}" if isinstance(task, str) else None,
        group_origin="logged" if isinstance(task, str) else None,
        sample_index=int(named[2]) if named else None,
        status=_status(reason, calls),
        finish_reason=finish,
        reward=number(trajectory.get("reward")),
        reward_parts=_signals(trajectory.get("signals")),
        # An episode is right or wrong as a whole, and of several agents this says nothing about one.
        correct=correct if alone and isinstance(correct, bool) else None,
        correct_rule="`is_correct` of the episode" if alone and isinstance(correct, bool) else None,
        ground_truth=_of_task(value.get("task"), "ground_truth"),
        data_source=source if isinstance(source := _of_task(value.get("task"), "data_source"), str) else None,
        prompt=told.prompt if calls else None,
        messages=list(calls[0].messages) if calls else None,
        output=told.output,
        output_origin="joined",
        dialect=reading.dialect.name,
        declared_tools=declared,
        tools=tool_definitions(tools),
        turns=told.turns,
        spans=told.spans,
        calls=told.calls,
        tokens=tokens,
        images=told.images,
        extra=_extra(value, trajectory),
        notes=[*row.repairs, *([BROKEN_TOKENS] if broken else [])],
    )


def _status(reason: Json, calls: Sequence[ModelCall]) -> Status | None:
    if reason == "error":
        return "error"
    if not calls:
        # rLLM leaves a trajectory without steps out of its groups.
        return "masked"
    return "truncated" if isinstance(reason, str) and _FINISH_REASONS.get(reason) == "length" else None


def _call(step: Mapping[str, Json]) -> ModelCall:
    """A step as a call: its last message by the assistant is the answer, what stands before it was given."""
    told = step.get("chat_completions")
    messages = [_readable(message) for message in told] if isinstance(told, list) else []
    answer = next((i for i in reversed(range(len(messages))) if _role(messages[i]) == "assistant"), None)
    version = step.get("weight_version")
    if answer is not None:
        given, said = messages[:answer], messages[answer]
    else:
        response, observation = step.get("model_response"), step.get("observation")
        if not isinstance(response, str) or not (response or messages):
            message = "a step has neither an answer in `chat_completions` nor a `model_response`"
            raise RowError(message)
        seen = [{"role": "user", "content": observation}] if isinstance(observation, str) and observation else []
        given, said = messages or seen, {"role": "assistant", "content": response}
    return ModelCall(
        given,
        said,
        whole_numbers(step.get("prompt_ids")),
        whole_numbers(step.get("response_ids")),
        logprobs_in(step.get("logprobs")),
        policy_version=None if version is None else str(version),
    )


def _role(message: Json) -> Json:
    return message.get("role") if isinstance(message, dict) else None


def _readable(message: Json) -> Json:
    """A message whose tool calls are objects, also where Python's way to show them was logged."""
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    if not isinstance(calls, list) or not any(isinstance(call, str) for call in calls):
        return message
    return {**message, "tool_calls": [_from_repr(call) if isinstance(call, str) else call for call in calls]}


def _from_repr(shown: str) -> dict[str, Json]:
    """A call of rLLM (`ToolCall(name='…', arguments={…})`) or of OpenAI's client; one without a name otherwise."""
    own, clients = _TOOL_CALL.fullmatch(shown), _CLIENT_CALL.search(shown)
    try:
        if own:
            return {"name": own[1], "arguments": literal(own[2])}
        if clients:
            return {"name": clients[2], "arguments": literal(clients[1])}
    except RowError:
        pass
    return {"name": None, "arguments": shown}


def _signals(signals: Json) -> list[RewardPart]:
    if not isinstance(signals, dict):
        return []
    return [RewardPart(name, number(item)) for name, item in signals.items()]


def _of_task(task: Json, key: str) -> Json:
    """A field of a task, or of its source row; None where the task was logged as Python shows it."""
    if not isinstance(task, dict):
        return None
    found = task.get(key)
    metadata = task.get("metadata")
    return metadata.get(key) if found is None and isinstance(metadata, dict) else found


def _extra(value: Mapping[str, Json], trajectory: Mapping[str, Json]) -> dict[str, Json]:
    extra = {key: item for key, item in value.items() if key not in _KNOWN_KEYS}
    for key in ("task_hash", "session_id", "metadata", "artifacts"):
        if value.get(key):
            extra[key] = value[key]
    extra["trajectory_name"] = trajectory.get("name")
    steps = _steps(trajectory)
    if rewards := [reward for step in steps if (reward := number(step.get("reward")))]:
        extra["step_rewards"] = rewards if len(rewards) == len(steps) else [step.get("reward") for step in steps]
    metrics = value.get("metrics")
    if isinstance(metrics, dict):
        extra |= {key: item for key, item in metrics.items() if key not in extra}
    return extra


PARSER = Parser(
    name="rllm-episode",
    trainer="rLLM",
    producer="rLLM (rllm-org/rllm@9beb6e0f676a) with `rllm.episode_logging.log_episodes=true`, and `rllm eval`",
    containers=("json",),
    claims=claims,
    parse=parse,
    carries=("group_id", "reward", "tool_calls", "tool_results", "turns"),
    optional={
        "correctness": "episodes of one trajectory have it; of several agents, name the score that means correct",
        "data_source": "put `data_source` into the task",
        "declared_tools": "the gateway's database (`rllm.gateway.store=sqlite`), beside `episodes/`, has them",
        "finish_reason": "workflows that say why they ended have it as `termination_reason`",
        "ground_truth": "put `ground_truth` into the task, which must be a dictionary",
        "images": "images that are sent as data: URIs are in the messages",
        "logprobs": "let the gateway keep them (`rllm.gateway.store=sqlite`, `rllm.gateway.db_path` in the folder of "
        "`episodes/`, as `gateway.db`), and copy its database before the trainer deletes the sessions of the step",
        "reward_parts": "`rllm eval` writes the signals of its evaluators; training does not",
        "step": "training writes it; `rllm eval` has none",
        "token_ids": "let the gateway keep them (`rllm.gateway.store=sqlite`, `rllm.gateway.db_path` in the folder of "
        "`episodes/`, as `gateway.db`), and copy its database before the trainer deletes the sessions of the step",
    },
    lacks={
        "advantage": "rLLM does not write advantages",
        "entropies": "rLLM writes none; re-score the log with a model",
    },
    layout=_LAYOUT,
)
