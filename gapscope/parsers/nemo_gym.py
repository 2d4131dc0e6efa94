"""NeMo-Gym's `gym eval run --output results/rollouts.jsonl`: one row per rollout, in items of the Responses API.

What failed stands in `rollouts_failures.jsonl` beside it, often without a response; its reward is a placeholder and
left out, and its place in the group is, too, because a later attempt may have succeeded there. `_ng_task_index` counts
the tasks of one collection: the run is the output's path, since other collections may lie in the same folder.

Agents that return transitions log a list of histories, of which each extends the one before or rewrites it: a history
that is rewritten is a sub-output of its own, in which what was told before is context. Token ids, which the last item
of each generation may carry with all that came before it, are joined as long as each block extends the one before.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

from gapscope.parsers.base import Parser, fits, number, source_of, whole_number
from gapscope.rollouts import Json, Refused, RewardPart, Rollout, Status, Tokens, refuse
from gapscope.rows import Reading, Row, RowError
from gapscope.shapes.conversations import Message, json_text, tell, tool_definitions, tool_names
from gapscope.shapes.response_items import asked_in, messages_of_items

_NAMED = frozenset({
    "_ng_rollout_index", "_ng_task_index", "mask_sample", "response", "responses_create_params", "reward",
})  # fmt: skip
_REPEATED = frozenset({"ng_model_call_capture", "ng_perf", "ng_trajectory"})
"""Keys that tell the response once more, call by call."""

_TRUTHS = ("expected_answer", "ground_truth")
_VERDICTS = ("is_correct", "correct", "resolved")
_REASONS = {"max_output_tokens": "length", "completed": "stop", "failed": "error", "cancelled": "abort"}


def claims(row: Mapping[str, Json]) -> bool:
    """A response to `responses_create_params`, a failure, or a result of an environment server."""
    if isinstance(row.get("_ng_failure_class"), str):
        return True
    if isinstance(row.get("responses_create_params"), dict):
        response = row.get("response")
        return isinstance(response, dict) and "output" in response
    return "_ng_result_type" in row and "_ng_task_index" in row


def parse(rows: Iterable[Row], reading: Reading) -> Iterator[Rollout | Refused]:
    """Each row by itself; several records for one whose history was rewritten."""
    for row in rows:
        try:
            yield from _translate(row, reading)
        except RowError as error:
            yield refuse(row.line, row.offset, str(error))


def _translate(row: Row, reading: Reading) -> list[Rollout]:
    value = row.value
    failed = value.get("_ng_failure_class") is not None
    response = _response(value, failed=failed)
    asked = value.get("responses_create_params")
    asked = asked if isinstance(asked, dict) else {}
    prompt = _prompt(asked)
    tools = asked.get("tools") or response.get("tools") or None
    declared = tool_names(tools)
    messages = asked_in(asked.get("instructions") or None, asked.get("input")) or None
    reward = value.get("reward")
    if reward is not None and number(reward) is None:
        message = f"`reward` is {reward!r:.60}, expected a number"
        raise RowError(message)
    group = _group(value)
    verdict = next((key for key in _VERDICTS if isinstance(value.get(key), bool)), None)
    truth = next((key for key in _TRUTHS if value.get(key) is not None), None)
    ending = _ending(response)
    parts, extra = _extras(value, {truth})
    histories = _histories(response.get("output"))
    rollouts = []
    for index, history in enumerate(histories):
        said = tell(
            [*prompt, *history.messages],
            reading,
            sampled=[*(False for _ in prompt), *history.sampled],
            declared_tools=declared,
            finish_reason=ending,
        )
        tokens, notes = _tokens(history.items)
        rollouts.append(
            Rollout(
                format=PARSER.name,
                source=source_of(row, reading),
                rollout_id=_rollout_id(value) or (f"{reading.run}:{row.line}" if len(histories) > 1 else None),
                run=reading.run,
                step=reading.step,
                split=reading.split,
                group_id=group,
                group_origin=None if group is None else "logged",
                sample_index=None if failed else whole_number(value.get("_ng_rollout_index")),
                output_index=index if len(histories) > 1 else None,
                status=_status(value, ending, failed=failed),
                finish_reason=ending,
                reward=None if failed else number(reward),
                reward_parts=parts,
                correct=None if verdict is None or failed else value[verdict],
                correct_rule=None if verdict is None or failed else f"`{verdict}`, as the verifier says",
                ground_truth=None if truth is None else value[truth],
                data_source=_data_source(value),
                prompt=said.prompt if asked or history.messages else None,
                messages=messages if all(history.sampled[:1]) else None,
                output=said.output,
                output_origin="joined",
                dialect=reading.dialect.name,
                declared_tools=declared,
                tools=tool_definitions(tools),
                turns=said.turns,
                spans=said.spans,
                calls=said.calls,
                tokens=tokens,
                images=said.images,
                extra=extra,
                notes=[*row.repairs, *notes],
            ),
        )
    return rollouts


def _response(value: Mapping[str, Json], *, failed: bool) -> Mapping[str, Json]:
    response = value.get("response")
    if isinstance(response, dict):
        return response
    if response is None and failed:
        return {"output": []}
    kind = value.get("_ng_result_type")
    state = "missing" if response is None else type(response).__name__
    message = f"`response` is {state}" + (f"; a result of type {kind!r:.60} has none" if kind is not None else "")
    raise RowError(message)


def _prompt(asked: Mapping[str, Json]) -> list[Message]:
    instructions = asked.get("instructions")
    system = [Message("system", instructions)] if isinstance(instructions, str) and instructions else []
    told = asked.get("input")
    return system if told is None else [*system, *messages_of_items(told, name="responses_create_params.input")]


class _History(NamedTuple):
    """One sequence of items: its messages, and which of them the policy wrote and nothing has told yet."""

    items: list[Json]
    messages: list[Message]
    sampled: list[bool]


def _histories(output: Json) -> list[_History]:
    """The output, or what its transitions come to: the last of each run in which one extends the other."""
    if not isinstance(output, list):
        message = f"`response.output` is {type(output).__name__}, expected a list of items"
        raise RowError(message)
    if not output or not isinstance(output[0], list):
        return [_history(output, set())]
    lists = [items if isinstance(items, list) else [items] for items in output]
    last = [
        items
        for items, after in zip(lists, [*lists[1:], None], strict=True)
        if after is None or after[: len(items)] != items
    ]
    told: set[str] = set()
    histories = []
    for items in last:
        histories.append(_history(items, told))
        told |= {json_text(item) for item in items}
    return histories


def _history(items: list[Json], told: set[str]) -> _History:
    messages: list[Message] = []
    sampled: list[bool] = []
    for again, run in groupby(items, key=lambda item: bool(told) and json_text(item) in told):
        some = messages_of_items(list(run), name="response.output")
        messages += some
        sampled += [message.role == "assistant" and not again for message in some]
    return _History(items, messages, sampled)


def _tokens(items: Iterable[Json]) -> tuple[Tokens | None, tuple[str, ...]]:
    """The tokens of all generations, and a note where they are not one sequence."""
    blocks = [item for item in items if isinstance(item, dict) and item.get("generation_token_ids")]
    ids: list[int] = []
    sampled: list[bool] = []
    logprobs: list[float | None] = []
    n_prompt = 0
    for place, block in enumerate(blocks):
        before, written = _ids(block, "prompt_token_ids"), _ids(block, "generation_token_ids")
        values = block.get("generation_log_probs")
        if values is not None and (not isinstance(values, list) or len(values) != len(written)):
            count = len(values) if isinstance(values, list) else type(values).__name__
            message = f"`generation_log_probs` is {count} for {len(written)} `generation_token_ids`"
            raise RowError(message)
        if before[: len(ids)] != ids:
            return None, ("token_blocks_are_not_one_sequence",)
        if place == 0:
            n_prompt = len(before)
        context = before[len(ids) :]
        ids += [*context, *written]
        sampled += [False] * len(context) + [True] * len(written)
        logprobs += [None] * len(context) + [number(item) for item in values or [None] * len(written)]
    if not ids:
        return None, ()
    known = any(item is not None for item in logprobs)
    return (
        Tokens(
            ids,
            n_prompt,
            logprobs=logprobs if known else None,
            logprob_source="rollout" if known else None,
            sampled=sampled,
        ),
        (),
    )


def _ids(block: Mapping[str, Json], key: str) -> list[int]:
    ids = block.get(key)
    if isinstance(ids, list) and all(type(token) is int and fits(token) for token in ids):
        return ids
    message = f"`{key}` is {ids!r:.60}, expected a list of token ids"
    raise RowError(message)


def _group(value: Mapping[str, Json]) -> str | None:
    index = value.get("_ng_task_index")
    if index is None or isinstance(index, str):
        return index
    place = whole_number(index)
    if place is None:
        message = f"`_ng_task_index` is {index!r:.60}, expected a number"
        raise RowError(message)
    return str(place)


def _rollout_id(value: Mapping[str, Json]) -> str | None:
    """The id that the collection was given, with the attempt; the one it makes up itself is of this run alone."""
    name, attempt = value.get("_ng_rollout_id"), whole_number(value.get("_ng_attempt_index"))
    if not isinstance(name, str):
        return None
    return f"{name}-a{attempt}" if attempt else name


def _ending(response: Mapping[str, Json]) -> str | None:
    """Why the last generation ended."""
    if response.get("error") is not None:
        return "error"
    details = response.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    word = reason if reason is not None else response.get("status")
    return _REASONS.get(word, None if word == "incomplete" else word) if isinstance(word, str) else None


def _status(value: Mapping[str, Json], ending: str | None, *, failed: bool) -> Status | None:
    """An older place of the mask is `instance_config`."""
    older = value.get("instance_config")
    if failed or ending == "error":
        return "error"
    if value.get("mask_sample") is True or (isinstance(older, dict) and older.get("mask_sample") is True):
        return "excluded"
    return "truncated" if ending == "length" else "ok" if ending == "stop" else None


def _data_source(value: Mapping[str, Json]) -> str | None:
    """The task's source where the input named it, else the agent, which is configured for each environment."""
    task, agent = value.get("_ng_task_id"), value.get("agent_ref")
    names = (
        value.get("task_source"),
        task.get("taskset") if isinstance(task, dict) else None,
        agent.get("name") if isinstance(agent, dict) else None,
    )
    return next((name for name in names if isinstance(name, str)), None)


def _extras(value: Mapping[str, Json], used: set[str | None]) -> tuple[list[RewardPart], dict[str, Json]]:
    """The components of the reward, and what else the verifier says; a component may be there once more by itself."""
    components = value.get("reward_components")
    named = components if isinstance(components, dict) else {}
    parts = [RewardPart(name, number(item)) for name, item in named.items() if item is None or number(item) is not None]
    unknown = {name: item for name, item in named.items() if item is not None and number(item) is None}
    known = _NAMED | _REPEATED | used | {"reward_components", *(part.name for part in parts)}
    extra = {key: item for key, item in value.items() if key not in known}
    if unknown or (components is not None and not named):
        extra["reward_components"] = unknown or components
    return parts, extra


_TOKENS = "set `return_token_id_information: true` for the vLLM model server, or `token_id_capture.enabled: true`"

PARSER = Parser(
    name="nemo-gym",
    trainer="NeMo-Gym",
    producer="`gym eval run`; seen: nemo-gym 0.7.0",
    containers=("jsonl", "json"),
    claims=claims,
    parse=parse,
    carries=("tool_calls", "tool_results", "turns"),
    optional={
        "correctness": "verifiers that log `is_correct`, `correct` or `resolved` say it; else name a field of theirs",
        "data_source": "name the source of each task in `task_source` of the input",
        "declared_tools": "give the tools in `responses_create_params.tools`; some agents declare theirs elsewhere",
        "finish_reason": "servers of models that log `status` or `incomplete_details` in the response say it",
        "ground_truth": "verifiers that log `expected_answer` say it",
        "group_id": "collect anew with `gym eval run`, which writes `_ng_task_index`; shipped examples may lack it",
        "images": "give images as data: URIs in `responses_create_params.input`",
        "logprobs": _TOKENS,
        "reward": "environments that leave scoring out log none; run `gym eval reverify` with a verifier",
        "reward_parts": "write the verifier on `BaseMultiRewardVerifyResponse`, which logs `reward_components`",
        "token_ids": _TOKENS,
    },
    lacks={
        "advantage": "a collection of rollouts has none; NeMo-RL writes them to `train_data_step{N}.jsonl`",
        "entropies": "NeMo-Gym writes none; re-score the log with a model",
        "step": "a collection is of one policy; give each its own folder, or read NeMo-RL's `train_data_step{N}.jsonl`",
    },
    layout=re.compile(r"(?:_failures)?\.jsonl?(?:\.\w+)?$"),
    own_names={"expected_answer": "ground_truth"},
)
