"""verifiers up to 0.3: `outputs/evals/<env>--<model>/<id>/results.jsonl`, and what prime-rl up to 0.6 made of it.

`vf-eval -s` writes it, one row per rollout, with `metadata.json` beside it that names the environment. prime-rl
wrote the same rows with its own keys as `rollouts/step_{N}/train_rollouts.jsonl` and `eval_rollouts_{env}.jsonl`.

Quirks: a tool call is JSON in a string. The values of the rubric's functions stand in `metrics` and a second time
as keys of the row, in older versions only there. A single-turn environment ends every rollout by
`max_turns_reached`. One that does not score, or broke before it could, writes reward 0.0 and no metric. Tokens are
in `trajectory`, which is written only by `--state-columns`, and which prime-rl leaves out.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

import msgspec

from gapscope.parsers.base import (
    JSON,
    Parser,
    Reread,
    number,
    required_number,
    reread,
    source_of,
    split_extras,
    whole_number,
)
from gapscope.rollouts import Image, Json, Refused, RewardPart, Rollout, Status, Tokens, Turn, refuse
from gapscope.rows import Reading, Row, RowError
from gapscope.shapes.conversations import Message, message_of, prompt_text, tell, tool_definitions, tool_names

_KNOWN = frozenset({
    "example_id", "prompt", "completion", "answer", "reward", "error", "error_chain", "long_error_chain", "timing",
    "is_completed", "is_truncated", "metrics", "tool_defs", "oai_tools", "token_usage", "trajectory", "task",
    "average_reward", "generation_ms", "scoring_ms", "total_ms", "env_name", "group_id", "rollout_id",
    "policy_version", "off_policy_steps", "advantage", "is_filtered", "eval_step",
})  # fmt: skip

_decode = msgspec.json.Decoder().decode


def claims(row: Mapping[str, Json]) -> bool:
    """Prompt, completion and reward of an example, which had no number up to 0.1.5."""
    if not row.keys() >= {"prompt", "completion", "reward"} or "step" in row:
        return False
    return "example_id" in row or (row.keys() >= {"task", "answer"} and isinstance(row["completion"], list))


class _Evaluation:
    """What `metadata.json` says, read once and only when it is asked for."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    @cached_property
    def environment(self) -> str | None:
        for row in self._reading.beside("metadata.json"):
            name = row.value.get("env_id", row.value.get("env"))
            return name if isinstance(name, str) else None
        return None


def parse(rows: Iterable[Row], reading: Reading) -> Iterator[Rollout | Refused]:
    """Row by row."""
    evaluation = _Evaluation(reading)
    for row in rows:
        try:
            yield _translate(row, reading, evaluation)
        except RowError as error:
            yield refuse(row.line, row.offset, str(error))


def _translate(row: Row, reading: Reading, evaluation: _Evaluation) -> Rollout:
    value = row.value
    notes = list(row.repairs)
    said = _said(value, reading)
    parts, extra = _fields(value)
    group = next((value[key] for key in ("group_id", "example_id") if value.get(key) is not None), None)
    version = whole_number(value.get("policy_version"))
    evaluated = whole_number(value.get("eval_step"))
    trained = version is not None and evaluated is None
    trajectory = _trajectory(value)
    own = _name(value.get("rollout_id")) or _same(trajectory, "trajectory_id")
    return Rollout(
        format=PARSER.name,
        source=source_of(row, reading),
        rollout_id=own if isinstance(own, str) else None,
        run=reading.run,
        step=reading.step if evaluated is None else evaluated,
        split=reading.split or ("train" if trained else "validation"),
        group_id=None if group is None else str(group),
        group_origin=None if group is None else "logged",
        status=_status(value),
        finish_reason=said.finish_reason,
        reward=_reward(row, notes),
        reward_parts=parts,
        advantage=number(value["advantage"]) if "advantage" in value else number(_same(trajectory, "advantage")),
        ground_truth=value.get("answer"),
        data_source=_name(value.get("env_name")) or _name(value.get("task")) or evaluation.environment,
        prompt=said.prompt,
        messages=value["prompt"] if isinstance(value["prompt"], list) else None,
        output=said.output,
        output_origin="logged" if isinstance(value["completion"], str) else "joined",
        dialect=reading.dialect.name,
        declared_tools=said.read.declared_tools,
        tools=tool_definitions(_tools(value)),
        turns=[Turn(turn.index, turn.finish_reason, _name(version)) for turn in said.read.turns],
        spans=said.read.spans,
        calls=said.read.calls,
        tokens=_tokens(trajectory, notes),
        images=said.images,
        extra=extra,
        notes=notes,
    )


def _reward(row: Row, notes: list[str]) -> float | None:
    """The logged total; an environment that does not score writes 0.0 and no metric, which is no verdict."""
    reward = required_number(row.value, "reward", row.repairs)
    if reward == 0 and row.value.get("metrics") == {}:
        notes.append("not_scored")
        return None
    return reward


def _name(value: Json) -> str | None:
    return value if isinstance(value, str) and value else str(value) if type(value) is int else None


class _Said(NamedTuple):
    prompt: str | None
    output: str
    finish_reason: str | None
    read: Reread
    images: list[Image]


def _said(value: Mapping[str, Json], reading: Reading) -> _Said:
    """Prompt and completion, which are messages, or texts where the environment completes text."""
    if missing := next((key for key in ("prompt", "completion") if key not in value), None):
        message = f"`{missing}` is missing"
        raise RowError(message)
    prompt, completion = value["prompt"], value["completion"]
    asked = _messages(prompt, "prompt") if not isinstance(prompt, str) else []
    if isinstance(completion, str):
        text = prompt if isinstance(prompt, str) else prompt_text(asked)
        finish = _finish_reason(value, single=True)
        return _Said(text, completion, finish, reread(text, completion, reading, finish_reason=finish), [])
    answered = _messages(completion, "completion")
    wrote = [message.role == "assistant" for message in answered]
    finish = _finish_reason(value, single=sum(wrote) == 1 and not any(message.calls for message in answered))
    declared = tool_names(_tools(value)) or None
    told = tell(
        [*asked, *answered],
        reading,
        sampled=[*[False] * len(asked), *wrote],
        declared_tools=declared,
        finish_reason=finish,
    )
    begun = prompt if isinstance(prompt, str) else told.prompt if asked else None
    return _Said(begun, told.output, finish, Reread(declared, told.turns, told.spans, told.calls), told.images)


def _tools(value: Mapping[str, Json]) -> Json:
    """The tools that the environment offers, by the names that the versions have for them."""
    info = value.get("info")
    return (
        value.get("tool_defs") or value.get("oai_tools") or (info.get("oai_tools") if isinstance(info, dict) else None)
    )


def _messages(items: Json, name: str) -> list[Message]:
    """Messages; none where an error came before them."""
    if items is None:
        return []
    if not isinstance(items, list):
        message = f"`{name}` is {type(items).__name__}, expected text or a list of messages"
        raise RowError(message)
    return [message_of(_with_calls(item)) for item in items]


def _with_calls(item: Json) -> Json:
    """A message whose calls are objects again."""
    calls = item.get("tool_calls") if isinstance(item, dict) else None
    return {**item, "tool_calls": [_call(call) for call in calls]} if isinstance(calls, list) else item


def _call(call: Json) -> Json:
    if not isinstance(call, str):
        return call
    try:
        return _decode(call)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return {"arguments": call}


_ENDS = {
    "has_error": "error",
    "max_turns_reached": "turn_limit",
    "max_total_completion_tokens_reached": "length",
    "no_tools_called": "stop",
    "prompt_too_long": "length",
}


def _finish_reason(value: Mapping[str, Json], *, single: bool) -> str | None:
    stop = value.get("stop_condition")
    if not isinstance(stop, str):
        return "length" if value.get("is_truncated") is True else None
    if value.get("is_truncated") is True and stop != "has_error":
        return "length"
    return "stop" if single and stop == "max_turns_reached" else _ENDS.get(stop, stop)


def _status(value: Mapping[str, Json]) -> Status | None:
    if value.get("error") is not None:
        return "error"
    if value.get("is_truncated") is True:
        return "truncated"
    if value.get("is_filtered") is True:
        return "masked"
    return "ok" if value.get("is_completed") is True else None


def _fields(value: Mapping[str, Json]) -> tuple[list[RewardPart], dict[str, Json]]:
    """The values of the rubric's functions, and everything else that is not known."""
    metrics = value.get("metrics")
    if isinstance(metrics, dict):
        extra = {key: item for key, item in value.items() if key not in _KNOWN and key not in metrics}
        parts = [RewardPart(name, number(item)) for name, item in metrics.items()]
    else:
        parts, extra = split_extras(value, _KNOWN | {"stop_condition", "filters", "info"})
        extra |= {key: value[key] for key in ("stop_condition", "filters", "info") if key in value}
    if value.get("error") is not None:
        extra["error"] = value["error"]
    return parts, {key: item for key, item in extra.items() if item not in (None, {}, [])}


def _trajectory(value: Mapping[str, Json]) -> list[dict[str, Json]]:
    steps = value.get("trajectory")
    return [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []


def _same(steps: list[dict[str, Json]], key: str) -> Json:
    """What all steps have; None where they differ."""
    first = steps[0].get(key) if steps else None
    return first if all(step.get(key) == first for step in steps) else None


class _StepTokens(msgspec.Struct, frozen=True, gc=False):
    prompt_ids: list[int]
    completion_ids: list[int]
    completion_logprobs: list[float | None] | None = None


def _tokens(steps: list[dict[str, Json]], notes: list[str]) -> Tokens | None:
    """The last sequence, in which those of all steps before lie; none where the history was rewritten."""
    try:
        tokens = [msgspec.convert(step["tokens"], _StepTokens) for step in steps if step.get("tokens") is not None]
    except msgspec.ValidationError as error:
        message = f"`trajectory[].tokens`: {error}"
        raise RowError(message) from error
    if not tokens or len(tokens) < len(steps):
        return None
    ids = tokens[-1].prompt_ids + tokens[-1].completion_ids
    sampled = [False] * len(ids)
    logprobs: list[float | None] = [None] * len(ids)
    for step in tokens:
        start, end = len(step.prompt_ids), len(step.prompt_ids) + len(step.completion_ids)
        if ids[:start] != step.prompt_ids or ids[start:end] != step.completion_ids:
            notes.append("token_history_rewritten")
            return None
        sampled[start:end] = [True] * (end - start)
        if step.completion_logprobs:
            if len(step.completion_logprobs) != end - start:
                message = f"`completion_logprobs` has {len(step.completion_logprobs)} values for {end - start} tokens"
                raise RowError(message)
            logprobs[start:end] = step.completion_logprobs
    known = logprobs.count(None) < len(logprobs)
    return Tokens(
        ids=ids,
        n_prompt=len(tokens[0].prompt_ids),
        logprobs=logprobs if known else None,
        logprob_source="rollout" if known else None,
        sampled=sampled,
    )


_TRAJECTORY = "add `--state-columns trajectory` to `vf-eval -s`, with a client that returns token ids"

PARSER = Parser(
    name="verifiers-results",
    trainer="verifiers",
    producer="verifiers up to 0.3 with `vf-eval`, and prime-rl up to 0.6; seen: verifiers 0.3.1, prime-rl v0.6.0",
    containers=JSON,
    claims=claims,
    parse=parse,
    carries=("reward", "tool_calls", "tool_results", "turns"),
    optional={
        "advantage": "read the `train_rollouts.jsonl` of prime-rl, or add `--state-columns trajectory`",
        "data_source": "keep `metadata.json` beside `results.jsonl`",
        "declared_tools": "the rows name no tools; check that the environment offers any",
        "finish_reason": "update verifiers to 0.1.11 or later, which writes `stop_condition`",
        "ground_truth": "give the dataset a column `answer`",
        "group_id": "update verifiers to 0.1.9 or later, which writes `example_id`",
        "images": "images that are http addresses are not in the log; give them as data: URIs",
        "logprobs": _TRAJECTORY,
        "reward_parts": "add functions to the rubric; each of them is written by its name",
        "step": "only prime-rl's `rollouts/step_{N}/` know a training step",
        "token_ids": _TRAJECTORY,
    },
    lacks={
        "correctness": "name the function of the rubric that means correct",
        "entropies": "verifiers writes none; re-score the log with a model",
    },
    drops_uniform_groups="orchestrator.pre_batch_filters",
    layout=re.compile(r"(?:^|/)rollouts/step_(?P<step>\d+)/(?P<split>train|eval)_rollouts[^/]*\.jsonl"),
    own_names={"answer": "ground_truth"},
)
