"""Conversations in the shapes of OpenAI's APIs, one to a line, as one's own scripts write them.

A row of the chat API has `messages`, and beside them whatever the writer knows: `reward`, `rewards` by name, `group_id`
or `prompt_id`, `step`, `sample_index`, `ground_truth`, `tools`. The last message may be left to `choices`, as in a
request joined with its response. Every message of an assistant counts as the policy's, unless its `weight` is 0. A
response of the Responses API has `output`, and its `input` where somebody kept it. Rows of the Batch API hold either in
`response.body`, without the request, and the choices of one are a group. Rows without a reward are rollouts too.

Tokens are those of one response: a choice has texts and log-probs where the request asked for `logprobs`, and vLLM
adds ids (`return_token_ids`). Earlier turns of the same conversation have none, and then there is no one sequence.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from gapscope.parsers.base import JSON, Parser, number, source_of, step_of, whole_number
from gapscope.rollouts import Json, Refused, RewardPart, Rollout, Split, Status, Tokens, refuse
from gapscope.rows import Reading, Row, RowError
from gapscope.shapes.conversations import Message, messages_of, tell, tool_definitions, tool_names
from gapscope.shapes.model_calls import BROKEN_TOKENS, ModelCall, has_tokens, tokens_of, whole_numbers
from gapscope.shapes.response_items import asked_in, messages_of_items

_FOREIGN = frozenset({
    "chat_completions", "epoch", "group_index", "messages_and_choices", "nodes", "responses_create_params", "schema",
    "trajectories", "trajectory_data",
})  # fmt: skip
"""Keys beside `messages` that say that a trainer or an evaluation wrote the row in a format of its own."""

_GROUPS = ("group_id", "prompt_id")
_SOURCES = ("data_source", "dataset")
_VERDICTS = ("correct", "is_correct", "success")
_KNOWN = frozenset({
    "advantage", "choices", "finish_reason", "function_call", "functions", "ground_truth", "messages",
    "prompt_token_ids", "reward", "rewards", "rollout_id", "sample_index", "split", "step", "tool_choice", "tools",
    "usage",
})  # fmt: skip
_OF_A_RESPONSE = _KNOWN | {
    "background", "conversation", "created_at", "incomplete_details", "input", "instructions", "max_output_tokens",
    "object", "output", "parallel_tool_calls", "previous_response_id", "service_tier", "status", "store", "temperature",
    "text", "top_logprobs", "top_p", "truncation",
}  # fmt: skip
_REASONS = {"max_output_tokens": "length", "completed": "stop", "failed": "error", "cancelled": "abort"}
_SPLITS: Mapping[str, Split] = {
    "train": "train", "validation": "validation", "val": "validation", "eval": "validation", "test": "validation",
}  # fmt: skip


def claims(row: Mapping[str, Json]) -> bool:
    """A list of messages with roles and nothing of other formats, a response, or one in a batch."""
    if _FOREIGN & row.keys():
        return False
    messages = row.get("messages")
    if messages is not None:
        metadata = row.get("metadata")
        foreign = "custom_id" in row and isinstance(metadata, dict) and "group_id" in metadata
        return not foreign and _is_conversation(messages)
    if row.get("object") == "response":
        return isinstance(row.get("output"), list)
    response = row.get("response")
    body = response.get("body") if "custom_id" in row and isinstance(response, dict) else None
    return isinstance(body, dict) and body.get("object") in _BODIES


_BODIES = ("chat.completion", "response")


def _is_conversation(messages: Json) -> bool:
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages)
    )


def parse(rows: Iterable[Row], reading: Reading) -> Iterator[Rollout | Refused]:
    """Each row by itself; one record for each of the choices of a response."""
    for row in rows:
        try:
            yield from _translate(row, reading)
        except RowError as error:
            yield refuse(row.line, row.offset, str(error))


class _Ending(NamedTuple):
    """One way in which a conversation goes on: its question, its messages, which are sampled, and why it ends."""

    asked: list[Json]
    messages: list[Message]
    sampled: list[bool]
    reason: str | None
    nth: int | None = None
    tokens: Tokens | None = None
    notes: tuple[str, ...] = ()


def _translate(row: Row, reading: Reading) -> list[Rollout]:
    value = row.value
    body = _body(value)
    said = value if body is None else body
    tools = said.get("tools") or said.get("functions") or None
    declared = tool_names(tools)
    groups = _GROUPS if body is None else (*_GROUPS, "custom_id")
    group = next((key for key in groups if value.get(key) is not None), None)
    source = next((key for key in _SOURCES if isinstance(value.get(key), str)), None)
    verdict = next((key for key in _VERDICTS if isinstance(value.get(key), bool)), None)
    reward, parts = _rewards(value)
    used = {group, source, *(("response",) if body is not None else ())}
    known = _OF_A_RESPONSE if value.get("object") == "response" else _KNOWN
    extra = {key: item for key, item in value.items() if key not in known and key not in used}
    rewards = value.get("rewards")
    if rewards is not None and not (isinstance(rewards, dict) and len(parts) == len(rewards)):
        extra["rewards"] = rewards
    rollouts = []
    for ending in _endings(said):
        told = tell(
            ending.messages,
            reading,
            sampled=ending.sampled,
            declared_tools=declared,
            finish_reason=ending.reason,
        )
        notes = [*row.repairs, *ending.notes]
        rollouts.append(
            Rollout(
                format=PARSER.name,
                source=source_of(row, reading),
                rollout_id=_rollout_id(value, ending),
                run=reading.run,
                step=step_of(row, reading, notes),
                split=reading.split or _split(value),
                group_id=None if group is None else _name(value[group], group),
                group_origin=None if group is None else "logged",
                sample_index=whole_number(value.get("sample_index")) if ending.nth is None else ending.nth,
                status=_status(value, ending.reason),
                finish_reason=ending.reason,
                reward=reward,
                reward_parts=parts,
                correct=None if verdict is None else value[verdict],
                correct_rule=None if verdict is None else f"`{verdict}`, as the log says",
                advantage=number(value.get("advantage")),
                ground_truth=value.get("ground_truth"),
                data_source=None if source is None else value[source],
                prompt=told.prompt if ending.asked else None,
                messages=ending.asked or None,
                output=told.output,
                output_origin="joined",
                dialect=reading.dialect.name,
                declared_tools=declared,
                tools=tool_definitions(tools),
                turns=told.turns,
                spans=told.spans,
                calls=told.calls,
                tokens=ending.tokens,
                images=told.images,
                extra=extra,
                notes=notes,
            ),
        )
    return rollouts


def _body(value: Mapping[str, Json]) -> Mapping[str, Json] | None:
    """The response in a row of the Batch API."""
    response = value.get("response")
    if "messages" in value or "custom_id" not in value or not isinstance(response, dict):
        return None
    body = response.get("body")
    if isinstance(body, dict):
        return body
    message = f"`response.body` is {body!r:.60}, expected a response"
    raise RowError(message)


def _endings(said: Mapping[str, Json]) -> Iterator[_Ending]:
    """The conversation, once for each of the choices that follow it."""
    if isinstance(said.get("output"), list):
        yield _response(said)
        return
    asked = said.get("messages", [])
    before = messages_of(asked)
    own = [message.role == "assistant" and item.get("weight") != 0 for message, item in zip(before, asked, strict=True)]
    question = asked[: own.index(True)] if any(own) else asked
    choices = said.get("choices")
    if choices is None:
        if not before:
            message = "`messages` is missing or empty, and there are no `choices`"
            raise RowError(message)
        yield _Ending(question, before, own, _reason(said.get("finish_reason")))
        return
    if not isinstance(choices, list) or not choices:
        message = f"`choices` is {choices!r:.60}, expected a list of choices"
        raise RowError(message)
    for index, choice in enumerate(choices):
        if not isinstance(choice, dict):
            message = f"a choice is {choice!r:.60}, expected an object"
            raise RowError(message)
        said_last = messages_of([choice.get("message")], name="choices")
        reason = _reason(choice.get("finish_reason"))
        nth = index if len(choices) > 1 else None
        tokens, notes = _tokens(_written(said, choice), alone=not any(own))
        yield _Ending(question, before + said_last, [*own, True], reason, nth, tokens, notes)


def _written(said: Mapping[str, Json], choice: Mapping[str, Json]) -> ModelCall:
    """The tokens of a choice; vLLM gives their ids beside them, and those of the prompt beside all choices."""
    logprobs = choice.get("logprobs")
    prompt, ids = whole_numbers(said.get("prompt_token_ids")), whole_numbers(choice.get("token_ids"))
    return ModelCall((), choice.get("message"), prompt, ids).with_said(
        logprobs.get("content") if isinstance(logprobs, dict) else None
    )


def _tokens(call: ModelCall, *, alone: bool) -> tuple[Tokens | None, tuple[str, ...]]:
    """The tokens of a response where it is all that the policy wrote, and a note where it is not."""
    tokens = tokens_of([call], source="rollout") if alone else None
    return tokens, (BROKEN_TOKENS,) if tokens is None and has_tokens(call) else ()


def _response(said: Mapping[str, Json]) -> _Ending:
    """A response of the Responses API, with its input if it is there."""
    instructions, asked = said.get("instructions"), said.get("input")
    before = [Message("system", instructions)] if isinstance(instructions, str) else []
    if asked is not None:
        before += messages_of_items(asked, name="input")
    after = messages_of_items(said["output"], name="output")
    own = [message.role == "assistant" for message in after]
    details = said.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    word = reason if reason is not None else said.get("status")
    question = asked_in(instructions, asked)
    tokens, notes = _tokens(ModelCall((), None).with_said(_logprobs(said["output"])), alone=True)
    return _Ending(question, before + after, [False] * len(before) + own, _reason(word), tokens=tokens, notes=notes)


def _logprobs(output: list[Json]) -> list[Json]:
    """The log-probs of all that was written; none unless it is nothing but texts, each of them with its own."""
    if not all(item.get("type") == "message" for item in output):
        return []
    contents = [item.get("content") for item in output]
    parts = [part for content in contents for part in (content if isinstance(content, list) else [None])]
    listed = [part.get("logprobs") if isinstance(part, dict) else None for part in parts]
    entries = [entries for entries in listed if isinstance(entries, list) and entries]
    return [entry for each in entries for entry in each] if len(entries) == len(parts) else []


def _reason(word: Json) -> str | None:
    return _REASONS.get(word, word) if isinstance(word, str) else None


def _status(value: Mapping[str, Json], reason: str | None) -> Status | None:
    if value.get("error") or reason == "error":
        return "error"
    return "truncated" if reason == "length" else None


def _split(value: Mapping[str, Json]) -> Split | None:
    name = value.get("split")
    return _SPLITS.get(name) if isinstance(name, str) else None


def _rewards(value: Mapping[str, Json]) -> tuple[float | None, list[RewardPart]]:
    """The total, and the rewards that have names, in `rewards` or in the place of the total.

    Raises:
        RowError: the total is neither.

    """
    total, named = value.get("reward"), value.get("rewards")
    if isinstance(total, dict) and named is None:
        total, named = None, total
    if total is not None and number(total) is None:
        message = f"`reward` is {total!r:.60}, expected a number"
        raise RowError(message)
    items = named.items() if isinstance(named, dict) else ()
    return number(total), [RewardPart(name, number(item)) for name, item in items if item is None or _is_score(item)]


def _is_score(item: Json) -> bool:
    return isinstance(item, (bool, int, float)) and number(item) is not None


def _name(item: Json, key: str) -> str:
    """A name, which some logs write as a number.

    Raises:
        RowError: it is something else.

    """
    if isinstance(item, str):
        return item
    if (place := whole_number(item)) is not None:
        return str(place)
    message = f"`{key}` is {item!r:.60}, expected a name"
    raise RowError(message)


def _rollout_id(value: Mapping[str, Json], ending: _Ending) -> str | None:
    name = value.get("rollout_id")
    if not isinstance(name, str):
        return None
    return name if ending.nth is None else f"{name}:{ending.nth}"


PARSER = Parser(
    name="openai-chat",
    trainer="OpenAI chat",
    producer="your own scripts, in the shapes of OpenAI's Chat Completions, Responses and Batch APIs",
    containers=JSON,
    claims=claims,
    parse=parse,
    carries=("tool_calls", "tool_results", "turns"),
    optional={
        "advantage": "write `advantage` beside `messages`",
        "correctness": "write `correct`, true or false, beside `messages`",
        "data_source": "write `data_source` beside `messages`",
        "declared_tools": "write `tools` beside `messages`",
        "entropies": "ask for `top_logprobs`, which bound them, and write the `choices` of the one response",
        "finish_reason": "write `finish_reason` beside `messages`, or the `choices` of the last response",
        "ground_truth": "write `ground_truth` beside `messages`",
        "group_id": "write `group_id` beside `messages`; without it, equal prompts are a group",
        "images": "keep images in the messages as data: URIs",
        "logprobs": "ask for `logprobs`, and write the `choices` of the one response; for several turns, write "
        "`gapscope.rollout/1`",
        "reward": "write `reward` beside `messages`",
        "reward_parts": "write `rewards`, an object of numbers by name, beside `messages`",
        "step": "write `step` beside `messages`, or name the files by their step",
        "token_ids": "ask vLLM for `return_token_ids`, and write the `choices` of the one response with its "
        "`prompt_token_ids`; for several turns, write `gapscope.rollout/1`",
    },
    lacks={},
    own_names={"prompt_id": "group_id"},
)
