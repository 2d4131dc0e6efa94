"""ATIF trajectories: `<job>/<trial>/agent/trajectory.json` as Harbor's agents write it, and as other tools export it.

One document is one trajectory. A tool's answer stands in the step of the call, under `observation`, and a step that was
copied from an earlier segment (`is_copied_context`) or needed no model (`llm_call_count` 0) was not sampled here. What
follows a summary is a document of its own (`trajectory.cont-1.json`), as are the sub-agents that write summaries
(`trajectory.summarization-1-summary.json`); other sub-agents are embedded. All of them are outputs of one rollout.

Rewards, the task and errors are in the trial's `result.json`, one folder up, or for a task of several steps in its
`step_results`. NeMo-Gym exports (`{task}-{rollout}.json`) have no rewards, and say their task in `extra`.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from gapscope.parsers.base import JSON, Parser, number, source_of, whole_number
from gapscope.rollouts import Json, Refused, RewardPart, Rollout, Status, Tokens, refuse
from gapscope.rows import Reading, Row, RowError
from gapscope.shapes.conversations import (
    Call,
    Message,
    json_text,
    message_of,
    structured_call,
    tell,
    tool_definitions,
    tool_names,
)
from gapscope.shapes.model_calls import BROKEN_TOKENS, ModelCall, logprobs_in, tokens_of, whole_numbers

_IN_A_TRIAL = re.compile(r"(?:^|/)(?P<trial>[^/]+)(?:/steps/(?P<part>[^/]+))?/agent/(?P<name>trajectory[^/]*)\.json$")
_CONTINUATION = re.compile(r"trajectory\.cont-(\d{1,6})")
_SUMMARY = re.compile(r"trajectory\.summarization-(\d{1,6})-(summary|questions|answers)")
_SUMMARISERS = ("summary", "questions", "answers")
_BETWEEN_SEGMENTS = 1000
"""Places in the order of a rollout's outputs from one segment to the next: more than it has sub-agents."""

_ENDINGS: dict[str, tuple[Status, str]] = {
    "AgentTimeoutError": ("truncated", "timeout"),
    "ContextWindowExceededError": ("truncated", "length"),
    "ContextLengthExceededError": ("truncated", "length"),
    "OutputTokenExceededError": ("truncated", "length"),
    "OutputLengthExceededError": ("truncated", "length"),
    "CancelledError": ("error", "abort"),
}
_KNOWN = frozenset({"steps", "subagent_trajectories", "final_metrics"})


def claims(row: Mapping[str, Json]) -> bool:
    """A `schema_version` of ATIF, with its steps."""
    version = row.get("schema_version")
    return isinstance(version, str) and version.startswith("ATIF-") and "steps" in row


class _Trial(NamedTuple):
    """What is known of a trial besides its trajectories."""

    rollout_id: str | None = None
    group_id: str | None = None
    sample_index: int | None = None
    place: int = 0
    data_source: str | None = None
    status: Status | None = None
    finish_reason: str | None = None
    reward: float | None = None
    parts: tuple[RewardPart, ...] = ()
    details: Mapping[str, Json] | None = None
    extra: Mapping[str, Json] = {}


def parse(rows: Iterable[Row], reading: Reading) -> Iterator[Rollout | Refused]:
    """The trajectory of each row, and those of the sub-agents inside it."""
    for row in rows:
        trial = _trial(row.value, reading)
        documents = _documents(row.value)
        for place, document in enumerate(documents):
            try:
                if not isinstance(document, dict):
                    message = f"`subagent_trajectories` holds {document!r:.60}, expected trajectories"
                    raise RowError(message)  # noqa: TRY301 (refused like all that is wrong with a trajectory)
                alone = trial.place == 0 and len(documents) == 1 and "continued_trajectory_ref" not in document
                yield _translate(document, row, reading, trial, place=place, alone=alone)
            except RowError as error:
                yield refuse(row.line, row.offset, str(error))


def _documents(value: Json) -> list[Json]:
    """A trajectory and, behind it, all that are embedded in it."""
    found = [value]
    for document in found:
        more = document.get("subagent_trajectories") if isinstance(document, dict) else None
        found += more if isinstance(more, list) else [] if more is None else [more]
    return found


def _translate(
    value: Mapping[str, Json],
    row: Row,
    reading: Reading,
    trial: _Trial,
    *,
    place: int,
    alone: bool,
) -> Rollout:
    steps = value.get("steps")
    if not isinstance(steps, list):
        message = f"`steps` is {steps!r:.60}, expected a list of steps"
        raise RowError(message)
    agent = value.get("agent")
    agent = agent if isinstance(agent, dict) else {}
    declared = tool_names(agent.get("tool_definitions"))
    messages: list[Message] = []
    own: list[bool] = []
    calls: list[ModelCall] = []
    for step in steps:
        said = _step(step)
        sampled = (
            step.get("source") == "agent" and not step.get("is_copied_context") and step.get("llm_call_count") != 0
        )
        messages += said
        own += [sampled and message.role == "assistant" for message in said]
        if sampled:
            calls.append(_call(step.get("metrics")))
    told = tell(messages, reading, sampled=own, declared_tools=declared, finish_reason=trial.finish_reason)
    if place == 0 and trial.details is not None and not any(call.ids for call in calls):
        calls = _detailed(trial.details)
    tokens, notes = _tokens(calls)
    extra = {key: item for key, item in value.items() if key not in _KNOWN and item is not None}
    return Rollout(
        format=PARSER.name,
        source=source_of(row, reading),
        rollout_id=trial.rollout_id,
        run=reading.run,
        step=reading.step,
        split=reading.split,
        group_id=trial.group_id,
        group_origin=None if trial.group_id is None else "logged",
        sample_index=trial.sample_index,
        output_index=None if alone or trial.rollout_id is None else trial.place + place,
        status=trial.status,
        finish_reason=trial.finish_reason,
        reward=trial.reward,
        reward_parts=list(trial.parts),
        data_source=trial.data_source,
        prompt=told.prompt,
        messages=_asked(steps, own),
        output=told.output,
        output_origin="joined",
        dialect=reading.dialect.name,
        declared_tools=declared,
        tools=tool_definitions(agent.get("tool_definitions")),
        turns=told.turns,
        spans=told.spans,
        calls=told.calls,
        tokens=tokens,
        images=told.images,
        extra={**extra, **trial.extra},
        notes=[*row.repairs, *notes],
    )


def _asked(steps: list[dict[str, Json]], own: Sequence[bool]) -> list[Json] | None:
    """The steps before the policy's first one as messages; None where more than words stands in one of them."""
    before = steps[: own.index(True)] if True in own else steps
    if any(step.get("source") == "agent" or step.get("observation") is not None for step in before):
        return None
    return [{"role": step["source"], "content": step.get("message")} for step in before] or None


# --- Steps -----------------------------------------------------------------------------------------------


def _step(step: Json) -> list[Message]:
    """What one step holds: what was said, and the answers of the tools that were called in it."""
    source = step.get("source") if isinstance(step, dict) else None
    if not isinstance(step, dict) or source not in ("system", "user", "agent"):
        message = f"a step is {step!r:.60}, expected one of system, user or agent"
        raise RowError(message)
    role = "assistant" if source == "agent" else str(source)
    said = message_of({"role": role, "content": _content(step.get("message"))})
    reasoning = step.get("reasoning_content")
    answers = _answers(step.get("observation"))
    if role != "assistant":
        # What a system does by itself, such as a hand-over after a summary, answers no call.
        return [said, *(answer._replace(role=role) for answer in answers)]
    calls = _calls(step.get("tool_calls"))
    unnamed = sum(answer.call_id is None for answer in answers)
    if unnamed == 1 and len(calls) > 1:
        # Of several commands only the state of the terminal after the last one is known.
        calls = [*(call._replace(fault="executed_unknown") for call in calls[:-1]), calls[-1]]
        answers = [answer._replace(call_id=answer.call_id or calls[-1].id) for answer in answers]
    said = said._replace(reasoning=reasoning if isinstance(reasoning, str) else "", calls=tuple(calls))
    empty = not (said.content or said.reasoning or said.calls) and answers
    return answers if empty else [said, *answers]


def _content(content: Json) -> Json:
    """A message's content in the parts that conversations know; what lies in other files is only named by its kind."""
    if not isinstance(content, list):
        return content
    known = {"image": {"type": "text", "text": "<image>"}, "audio": {"type": "text", "text": "<audio>"}}
    return [known.get(str(part.get("type")), part) if isinstance(part, dict) else part for part in content]


def _calls(entries: Json) -> list[Call]:
    if entries is None:
        return []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        message = f"`tool_calls` is {entries!r:.60}, expected a list of calls"
        raise RowError(message)
    return [structured_call(e.get("function_name"), e.get("arguments"), id=e.get("tool_call_id")) for e in entries]


def _answers(observation: Json) -> list[Message]:
    results = observation.get("results") if isinstance(observation, dict) else observation
    if results is None:
        return []
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        message = f"`observation` is {observation!r:.60}, expected results"
        raise RowError(message)
    return [_answer(result) for result in results]


def _answer(result: Mapping[str, Json]) -> Message:
    content, delegated = _content(result.get("content")), result.get("subagent_trajectory_ref")
    if content is None and delegated is not None:
        content = json_text(delegated)
    said = message_of({"role": "tool", "content": content, "tool_call_id": result.get("source_call_id")})
    extra = result.get("extra")
    extra = extra if isinstance(extra, dict) else {}
    metadata = extra.get("tool_result_metadata")
    failed = extra.get("is_error") is True or (isinstance(metadata, dict) and metadata.get("is_error") is True)
    return said._replace(fault="executed_error" if failed else None)


# --- Tokens ----------------------------------------------------------------------------------------------


def _call(metrics: Json) -> ModelCall:
    metrics = metrics if isinstance(metrics, dict) else {}
    return ModelCall(
        (),
        None,
        whole_numbers(metrics.get("prompt_token_ids")),
        whole_numbers(metrics.get("completion_token_ids")),
        logprobs_in(metrics.get("logprobs")),
    )


def _detailed(details: Mapping[str, Json]) -> list[ModelCall]:
    """The same from a trial's result: three lists of lists, one of each per generation."""
    prompts, completions, logprobs = (
        value if isinstance(value := details.get(key), list) else []
        for key in ("prompt_token_ids", "completion_token_ids", "logprobs")
    )
    return [
        ModelCall(
            (),
            None,
            whole_numbers(prompts[index]) if index < len(prompts) else [],
            whole_numbers(completion),
            logprobs_in(logprobs[index]) if index < len(logprobs) else None,
        )
        for index, completion in enumerate(completions)
    ]


def _tokens(calls: Sequence[ModelCall]) -> tuple[Tokens | None, list[str]]:
    tokens = tokens_of(calls, source="rollout")
    lost = tokens is None and any(call.ids for call in calls)
    return tokens, [BROKEN_TOKENS] if lost else []


# --- The trial -------------------------------------------------------------------------------------------


def _trial(value: Mapping[str, Json], reading: Reading) -> _Trial:
    match = _IN_A_TRIAL.search(reading.file.replace(os.sep, "/"))
    return _harbor(match, reading) if match else _exported(value)


def _exported(value: Mapping[str, Json]) -> _Trial:
    """What a document outside a trial's folder says of itself; NeMo-Gym's exports say the task."""
    identity, extra = value.get("trajectory_id"), value.get("extra")
    gym = extra.get("nemo_gym") if isinstance(extra, dict) else None
    source = gym.get("source") if isinstance(gym, dict) else None
    source = source if isinstance(source, dict) else {}
    task = whole_number(source.get("task_index"))
    return _Trial(
        rollout_id=identity if isinstance(identity, str) else None,
        group_id=None if task is None else str(task),
        sample_index=whole_number(source.get("rollout_index")),
    )


def _harbor(match: re.Match[str], reading: Reading) -> _Trial:
    part = match["part"]
    up = "../" if part is None else "../../../"
    result: Mapping[str, Json] = next((row.value for row in reading.beside(up + "result.json")), {})
    result = result or next((row.value for row in reading.beside(up + "results.json")), {})
    task, dataset = result.get("task_name"), result.get("source")
    group = task if isinstance(task, str) else None
    own = result if part is None else _of_step(result, part)
    rewards = _object(own, "verifier_result").get("rewards")
    if rewards is None:
        rewards = next((row.value for row in reading.beside("../verifier/reward.json")), {})
    rewards = rewards if isinstance(rewards, dict) else {}
    parts = tuple(RewardPart(name, number(item)) for name, item in rewards.items())
    status, finish_reason, extra = _ending(own, known=bool(result))
    details = _object(own, "agent_result").get("rollout_details")
    detail = details[0] if isinstance(details, list) and details else None
    return _Trial(
        rollout_id=match["trial"] if part is None else f"{match['trial']}/{part}",
        group_id=group if part is None or group is None else f"{group}/{part}",
        place=_place(match["name"]),
        data_source=dataset if isinstance(dataset, str) else None,
        status=status,
        finish_reason=finish_reason,
        reward=number(rewards.get("reward")) if "reward" in rewards else parts[0].value if len(parts) == 1 else None,
        parts=parts,
        details=detail if isinstance(detail, dict) and match["name"] == "trajectory" else None,
        extra=extra,
    )


def _place(name: str) -> int:
    """Where a document stands among the outputs of its rollout: a summary comes after the segment that it is of."""
    if match := _CONTINUATION.fullmatch(name):
        return int(match[1]) * _BETWEEN_SEGMENTS
    if match := _SUMMARY.fullmatch(name):
        return int(match[1]) * _BETWEEN_SEGMENTS - len(_SUMMARISERS) + _SUMMARISERS.index(match[2])
    return 0


def _of_step(result: Mapping[str, Json], name: str) -> Mapping[str, Json]:
    steps = result.get("step_results")
    found = steps if isinstance(steps, list) else []
    return next((step for step in found if isinstance(step, dict) and step.get("step_name") == name), {})


def _object(value: Mapping[str, Json], key: str) -> Mapping[str, Json]:
    item = value.get(key)
    return item if isinstance(item, dict) else {}


def _ending(result: Mapping[str, Json], *, known: bool) -> tuple[Status | None, str | None, dict[str, Json]]:
    """How a trial ended: Harbor names the exception that ended it, budgets included."""
    exception = _object(result, "exception_info")
    if not exception:
        return "ok" if known else None, None, {}
    kind = exception.get("exception_type")
    kind = kind if isinstance(kind, str) else "an exception"
    status, reason = _ENDINGS.get(kind, ("error", "error"))
    return status, reason, {"exception": kind, "exception_message": exception.get("exception_message")}


PARSER = Parser(
    name="atif",
    trainer="Harbor",
    producer="Harbor's agents (seen: 0.25.0, ATIF-v1.8) and exporters to ATIF-v1.2 or later, such as nemo-gym 0.7.0",
    containers=JSON,
    claims=claims,
    parse=parse,
    carries=("tool_calls", "tool_results", "turns"),
    optional={
        "data_source": "leave the trial's result.json beside its trajectory, and run datasets and not single tasks",
        "declared_tools": "few agents write `agent.tool_definitions`; terminus-2 does not",
        "finish_reason": "the trial's result.json says it of trials that an error or a budget ended",
        "group_id": "leave the trial's result.json one folder above the trajectory: it names the task",
        "logprobs": "run terminus-2 with `collect_rollout_details=true`",
        "reward": "leave the trial's result.json one folder above the trajectory, or join NeMo-Gym's rollouts.jsonl",
        "reward_parts": "let the verifier write `reward.json` with several rewards",
        "token_ids": "run terminus-2 with `collect_rollout_details=true`, and keep prompt ids if you post-process them",
    },
    lacks={
        "advantage": "ATIF has no field for it",
        "correctness": "name the reward that means correct",
        "entropies": "ATIF has no field for them; re-score the log with a model",
        "ground_truth": "ATIF has no field for it; the answer is in the task's own folder",
        "images": "ATIF only points to image files",
        "step": "ATIF does not know the training step; give each step a job folder of its own",
    },
    layout=re.compile(r"(?:^|/)[^/]+(?:/steps/[^/]+)?/agent/trajectory[^/]*\.json$"),
)
