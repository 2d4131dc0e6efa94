"""Agent Lightning: spans of 0.3, and the trajectories and events of 1.x.

0.3 keeps spans in a store and writes no file by itself: a log is what `query_spans` gives, one `model_dump_json` a
line. The spans of one attempt at a rollout, by their `sequence_id`, make up its conversations, with the tokens that the
instrumentation added; where it added log-probs and no ids, a conversation of one call has the texts of its tokens. The
last reward that was emitted counts, its first dimension is the total, and earlier ones are kept as `step_rewards`. An
attempt that was retried is a rollout of its own.

1.x uploads `step_3/train_trajectories.jsonl.zip` to W&B. Its rows hold the last turn only, as text with special tokens:
earlier turns, and with them most calls, stand in the prompt. A rollout without a reward has the fill value of the
trainer. The events of its server (`model_request`, `reward`), saved as lines, tell whole conversations.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from gapscope.parsers.base import Parser, number, reread, source_of, text, whole_number
from gapscope.rollouts import Json, Refused, RewardPart, Rollout, Status, refuse
from gapscope.rows import Reading, Row, RowError
from gapscope.shapes.conversations import tool_definitions, tool_names
from gapscope.shapes.model_calls import ModelCall, whole_numbers
from gapscope.shapes.span_calls import conversed, model_call, offered_tools, rewards_of, scores_of, tool_runs
from gapscope.shapes.spans import Span, objects, span_of

_SPAN = frozenset({"rollout_id", "attempt_id", "sequence_id", "trace_id", "span_id", "attributes"})
_SPAN_ALSO = frozenset({"parent_id", "name", "status", "events", "links", "start_time", "end_time", "context"})
_SPAN_MORE = frozenset({"parent", "resource", "kind", "instrumentation_info", "instrumentation_scope", "limits"})
_TRAJECTORY = frozenset({"rollout_id", "reward", "prompt", "response"})
_EVENT = frozenset({"rollout_id", "event_type", "data"})
_EVENT_ALSO = frozenset({"attempt_id", "timestamp", "event_id"})
_KNOWN = _SPAN | _SPAN_ALSO | _SPAN_MORE | _EVENT | _EVENT_ALSO
_NOT_ITS_OWN = frozenset({"schema", "messages", "tokens", "output", "uid", "step"})


def claims(row: Mapping[str, Json]) -> bool:
    """A span of an attempt, an event of a rollout, or a trajectory with its four keys."""
    if not isinstance(row.get("rollout_id"), str):
        return False
    if row.keys() >= _SPAN or row.keys() >= _EVENT:
        return True
    return row.keys() >= _TRAJECTORY and not row.keys() & _NOT_ITS_OWN


class _Attempt:
    """What is gathered of one attempt: spans or events, and the row that the first of them is from."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.spans: list[Span] = []
        self.calls: list[tuple[float, ModelCall]] = []
        self.rewards: list[tuple[float, list[RewardPart]]] = []
        self.tools: Json = None
        self.extra: dict[str, Json] = {}


def parse(rows: Iterable[Row], reading: Reading) -> Iterator[Rollout | Refused]:
    """Trajectories as they come; spans and events once all of the file is known, because their order is not kept."""
    attempts: dict[tuple[str, str], _Attempt] = {}
    for row in rows:
        try:
            if "attributes" in row.value:
                _gather_span(row, attempts)
            elif "event_type" in row.value:
                _gather_event(row, attempts)
            else:
                yield _trajectory(row, reading)
        except RowError as error:
            yield refuse(row.line, row.offset, str(error))
    for (rollout_id, attempt_id), attempt in attempts.items():
        try:
            yield from _rollouts(rollout_id, attempt_id, attempt, reading)
        except RowError as error:
            yield refuse(attempt.row.line, attempt.row.offset, f"{rollout_id[:80]}: {error}")


def _attempt(row: Row, attempts: dict[tuple[str, str], _Attempt]) -> _Attempt:
    attempt_id = row.value.get("attempt_id")
    key = text(row.value, "rollout_id"), attempt_id if isinstance(attempt_id, str) else ""
    # Of the row itself only its place and what is unknown in it are needed any longer.
    rest = {name: item for name, item in row.value.items() if name not in _KNOWN}
    found = attempts.setdefault(key, _Attempt(row._replace(value={})))
    found.extra |= rest
    return found


# --- Spans of 0.3 ----------------------------------------------------------------------------------------


def _gather_span(row: Row, attempts: dict[tuple[str, str], _Attempt]) -> None:
    value = row.value
    sequence = whole_number(value.get("sequence_id"))
    span = span_of({key: item for key, item in value.items() if key != "context"}, {})
    if span is None or sequence is None or not isinstance(value["attributes"], dict):
        message = "a span lacks its `trace_id`, `name`, `sequence_id` or `attributes`"
        raise RowError(message)
    _attempt(row, attempts).spans.append(span._replace(order=sequence))


# --- Events of 1.x ---------------------------------------------------------------------------------------


def _gather_event(row: Row, attempts: dict[tuple[str, str], _Attempt]) -> None:
    data, kind = row.value.get("data"), row.value.get("event_type")
    if not isinstance(data, dict) or not isinstance(kind, str):
        message = f"`data` of the event {kind!r:.60} is {data!r:.60}, expected an object"
        raise RowError(message)
    attempt = _attempt(row, attempts)
    when = number(row.value.get("timestamp")) or 0.0
    if kind == "reward":
        attempt.rewards.append((when, [RewardPart("primary", number(data.get("value")))]))
    elif kind == "model_request":
        request, response = data.get("request"), data.get("response")
        request = request if isinstance(request, dict) else {}
        response = response if isinstance(response, dict) else {}
        attempt.tools = attempt.tools if tool_names(attempt.tools) else request.get("tools")
        choice = next(iter(objects(response.get("choices"))), None)
        if choice is not None:
            attempt.calls.append((when, _requested(request, response, choice)))


def _requested(request: Mapping[str, Json], response: Mapping[str, Json], choice: Mapping[str, Json]) -> ModelCall:
    logprobs, reason = choice.get("logprobs"), choice.get("finish_reason")
    call = ModelCall(
        objects(request.get("messages")),
        choice.get("message"),
        whole_numbers(response.get("prompt_token_ids")),
        whole_numbers(choice.get("token_ids")),
        finish_reason=reason if isinstance(reason, str) else None,
    )
    return call.with_said(logprobs.get("content") if isinstance(logprobs, dict) else None)


# --- Both ------------------------------------------------------------------------------------------------


def _rollouts(rollout_id: str, attempt_id: str, attempt: _Attempt, reading: Reading) -> Iterator[Rollout]:
    spans = sorted(attempt.spans, key=lambda span: span.order)
    events = (call for _, call in sorted(attempt.calls, key=lambda timed: timed[0]))
    calls = [*(call for span in spans if (call := model_call(span)) is not None), *events]
    offered = offered_tools(spans)
    declared = list(offered) or tool_names(attempt.tools)
    tools = list(offered.values()) or tool_definitions(attempt.tools)
    conversations = conversed(calls, reading, declared=declared, runs=tool_runs(spans))
    if not conversations:
        message = "none of its spans or events holds the messages of a model"
        raise RowError(message)
    told_later = (rewards for _, rewards in sorted(attempt.rewards, key=lambda timed: timed[0]))
    emitted = [rewards for rewards in chain(map(rewards_of, spans), told_later) if rewards]
    final = emitted[-1] if emitted else []
    parts = {part.name: part for part in chain(*map(scores_of, spans), final)}
    failed = any(span.failed and span.name != "agentlightning.annotation" for span in spans[-1:])
    extra: dict[str, Json] = {**attempt.extra, "attempt_id": attempt_id}
    if len(emitted) > 1:
        extra["step_rewards"] = [rewards[0].value for rewards in emitted]
    for index, conversation in enumerate(conversations):
        told, reason = conversation.told, conversation.finish_reason
        status: Status = "error" if failed else "truncated" if reason == "length" else "ok"
        yield Rollout(
            format=PARSER.name,
            source=source_of(attempt.row, reading),
            rollout_id=f"{rollout_id}/{attempt_id}" if attempt_id else rollout_id,
            run=reading.run,
            step=reading.step,
            split=reading.split,
            output_index=index if len(conversations) > 1 else None,
            status=status,
            finish_reason=reason,
            reward=final[0].value if final else None,
            reward_parts=list(parts.values()),
            prompt=told.prompt,
            messages=conversation.messages,
            output=told.output,
            output_origin="joined",
            dialect=reading.dialect.name,
            declared_tools=declared,
            tools=tools,
            turns=told.turns,
            spans=told.spans,
            calls=told.calls,
            tokens=conversation.tokens,
            images=told.images,
            extra=extra,
            notes=[*attempt.row.repairs, *conversation.notes],
        )


# --- Trajectories of 1.x ---------------------------------------------------------------------------------


def _trajectory(row: Row, reading: Reading) -> Rollout:
    value = row.value
    prompt, response = text(value, "prompt"), text(value, "response")
    reward = number(value.get("reward"))
    if reward is None and value.get("reward") is not None:
        message = f"`reward` is {value['reward']!r:.60}, expected a number"
        raise RowError(message)
    found = reread(prompt, response, reading)
    return Rollout(
        format=PARSER.name,
        source=source_of(row, reading),
        rollout_id=text(value, "rollout_id"),
        run=reading.run,
        step=reading.step,
        split=reading.split,
        reward=reward,
        prompt=prompt,
        output=response,
        dialect=reading.dialect.name,
        declared_tools=found.declared_tools,
        turns=found.turns,
        spans=found.spans,
        calls=found.calls,
        extra={key: item for key, item in value.items() if key not in _TRAJECTORY},
        notes=[*row.repairs, "only_the_last_turn"],
    )


PARSER = Parser(
    name="agent-lightning",
    trainer="Agent Lightning",
    producer="agentlightning; seen: spans of 0.3.0, trajectories and events of 1.0.2",
    containers=("jsonl", "json", "zip"),
    claims=claims,
    parse=parse,
    carries=("turns",),
    optional={
        "declared_tools": "export spans of 0.3, or save the events of 1.x: trajectories show the prompt only",
        "entropies": "ask for `top_logprobs`, which bound them, and export spans of 0.3 or save the events of 1.x",
        "finish_reason": "export spans of 0.3, or save the events of 1.x",
        "images": "send images as data: URIs, and export spans of 0.3 or save the events of 1.x",
        "logprobs": "ask vLLM for log-probs, and export spans of 0.3 or save the events of 1.x",
        "reward": "call `emit_reward` in the agent",
        "reward_parts": "call `emit_reward` with a dictionary in 0.3",
        "step": "trajectories of 1.x lie in a folder named after the step; name files of spans after it",
        "token_ids": "serve with vLLM and `return_token_ids`, and export spans of 0.3 or save the events of 1.x",
        "tool_calls": "export spans of 0.3, or save the events of 1.x: trajectories hold the last turn only",
        "tool_results": "export spans of 0.3, or save the events of 1.x: trajectories hold the last turn only",
    },
    lacks={
        "advantage": "Agent Lightning does not write advantages",
        "correctness": "give a threshold on the reward",
        "data_source": "Agent Lightning does not write the data source",
        "ground_truth": "the task is in the store's rollouts, and not in spans, events or trajectories",
        "group_id": "Agent Lightning writes none: prompts tell, except those of the last turn in trajectories of 1.x",
    },
    whole_file=True,
    layout=re.compile(r"(?:^|/)step_(?P<step>\d+)/(?P<split>train|validation)_trajectories\.jsonl(?:\.zip)?$"),
    own_names={"response": "output"},
)
