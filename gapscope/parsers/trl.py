"""TRL's GRPOTrainer with `log_completions=True`: `completions/completions_{step:05d}.parquet`.

Rows are in generation order, each prompt `num_generations` times in a row, and nothing in the file says
how often: the group is read off the runs of equal prompts. Rewards are one column per function, unweighted;
there is no total. A call that TRL could not parse stands in the message's content as plain text.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from math import gcd

import msgspec

from gapscope.outcomes import CallBody, FoundCall, judge_calls
from gapscope.parsers.base import Parser, Reading, Row, RowError, number, source_of, step_of
from gapscope.rollouts import Json, Refused, RewardPart, Rollout, Span, SpanKind, Tokens, Turn, refuse

_BASE_COLUMNS = frozenset({"step", "prompt", "completion", "advantage"})
_GROUP_COLUMNS = ("group_id", "group_key")
_TOKEN_COLUMNS = frozenset({"prompt_ids", "completion_ids"})

_encode = msgspec.json.Encoder(order="sorted").encode


def claims(row: Mapping[str, Json]) -> bool:
    """The four columns that TRL always writes."""
    return row.keys() >= _BASE_COLUMNS


def parse(rows: Iterable[Row], reading: Reading) -> Iterator[Rollout | Refused]:
    """All rows of one file: groups, and which columns are rewards, show only in the whole."""
    batch = list(rows)
    rewards = _reward_columns(batch)
    batch_id = _batch_id(batch)
    groups = _groups(batch, batch_id)
    for index, (row, group) in enumerate(zip(batch, groups, strict=True)):
        try:
            yield _translate(row, reading, rewards=rewards, group=group, rollout_id=f"{batch_id}:{index}")
        except RowError as error:
            yield refuse(row.line, row.offset, str(error))


def _reward_columns(rows: list[Row]) -> tuple[str, ...]:
    """Columns between `completion` and `advantage` that hold nothing but floats and nulls."""
    columns = [key for key in rows[0].value if key not in _BASE_COLUMNS] if rows else []
    return tuple(
        column
        for column in columns
        if all(isinstance(row.value.get(column), (float, type(None))) for row in rows)
        and any(row.value.get(column) is not None for row in rows)
    )


class _Group(msgspec.Struct, frozen=True):
    id: str
    sample_index: int
    origin: str


def _groups(rows: list[Row], batch_id: str) -> list[_Group]:
    """The logged key where the user logged one, else the place in the order of generation of this batch.

    A prompt that comes twice in a row makes a run of twice the length: the group size is the greatest
    number that divides the length of every run. Where that is 1 (a file that mixes two batches), every
    run is a group, and the sizes will not be equal.
    """
    for column in _GROUP_COLUMNS:
        if rows and column in rows[0].value:
            counts: dict[str, int] = {}
            groups = []
            for row in rows:
                key = str(row.value[column])
                groups.append(_Group(key, counts.get(key, 0), "logged"))
                counts[key] = counts.get(key, 0) + 1
            return groups
    runs = [len(list(run)) for _, run in groupby(rows, key=lambda row: _encode(row.value.get("prompt")))]
    size = gcd(*runs)
    groups = []
    for run in runs:
        length = size if size > 1 else run
        for start in range(0, run, length):
            first = len(groups)
            groups += [_Group(f"{batch_id}:{first}", index, "order") for index in range(min(length, run - start))]
    return groups


def _batch_id(rows: list[Row]) -> str:
    """One name for one generation batch: TRL may write the same batch again under a later step."""
    digest = hashlib.sha1(usedforsecurity=False)
    for row in rows:
        digest.update(_encode({key: row.value[key] for key in row.value if key != "step"}))
    return digest.hexdigest()[:16]


def _translate(row: Row, reading: Reading, *, rewards: tuple[str, ...], group: _Group, rollout_id: str) -> Rollout:
    value = row.value
    prompt, completion = _conversation(value, "prompt"), _conversation(value, "completion")
    notes = list(row.repairs)
    written = _Writing(reading)
    if isinstance(completion, str):
        written.assistant_text(completion)
    else:
        written.messages(completion)
    calls = judge_calls(written.calls, declared_tools=None, markers=reading.markers)
    empty = not prompt and not completion
    return Rollout(
        format=PARSER.name,
        source=source_of(row, reading),
        rollout_id=rollout_id,
        run=reading.run,
        step=step_of(row, reading, notes),
        group_id=group.id,
        group_origin="logged" if group.origin == "logged" else "order",
        sample_index=group.sample_index,
        status="padding" if empty else None,
        reward_parts=[RewardPart(name, number(value.get(name))) for name in rewards],
        advantage=number(value.get("advantage")),
        prompt=prompt if isinstance(prompt, str) else _prompt_text(prompt),
        messages=None if isinstance(prompt, str) else [_without_nulls(message) for message in prompt],
        output="".join(written.pieces),
        output_origin="logged" if isinstance(completion, str) else "joined",
        dialect=reading.dialect.name,
        turns=[Turn(index) for index in range(written.turns)],
        spans=written.spans,
        calls=calls,
        tokens=_tokens(value),
        extra={
            key: item
            for key, item in value.items()
            if key not in _BASE_COLUMNS and key not in rewards and key not in _TOKEN_COLUMNS
        },
        notes=notes,
    )


def _conversation(value: Mapping[str, Json], column: str) -> str | list[Json]:
    item = value.get(column)
    if isinstance(item, (str, list)):
        return item
    message = f"`{column}` is {type(item).__name__}, expected text or a list of messages"
    raise RowError(message)


def _tokens(value: Mapping[str, Json]) -> Tokens | None:
    """Token ids that a reward function passed to `log_extra`; their mask and log-probs are not in the file."""
    prompt, completion = _ids(value.get("prompt_ids")), _ids(value.get("completion_ids"))
    if not completion:
        return None
    return Tokens(prompt + completion, n_prompt=len(prompt)) if prompt else Tokens(completion)


def _ids(item: Json) -> list[int]:
    return item if isinstance(item, list) and all(type(token) is int for token in item) else []


def _without_nulls(item: Json) -> Json:
    """Without the keys that exist only because parquet gives every struct of a column the same fields."""
    if isinstance(item, dict):
        return {key: _without_nulls(inner) for key, inner in item.items() if inner is not None}
    if isinstance(item, list):
        return [_without_nulls(inner) for inner in item]
    return item


def _prompt_text(messages: list[Json]) -> str:
    return "".join(f"{_role(message)}\n{_content(message)}\n" for message in messages)


def _role(message: Json) -> str:
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(role, str):
        text = f"a message is {message!r:.60}, expected an object with a role"
        raise RowError(text)
    return role


def _content(message: dict[str, Json]) -> str:
    content = message.get("content")
    if content is None:
        return ""
    return content if isinstance(content, str) else _encode(_without_nulls(content)).decode()


class _Writing:
    """Messages joined into one text, with spans over it."""

    def __init__(self, reading: Reading) -> None:
        self.dialect = reading.dialect
        self.pieces: list[str] = []
        self.position = 0
        self.turns = 0
        self.spans: list[Span] = []
        self.calls: list[FoundCall] = []

    def messages(self, messages: list[Json]) -> None:
        unanswered: list[FoundCall] = []
        for message in messages:
            role = _role(message)
            if role == "tool":
                result = _content(message)
                self._add("tool_result", result, sampled=False)
                if unanswered:
                    call = unanswered.pop(0)
                    call.result, call.result_span = result, len(self.spans) - 1
            elif role == "assistant":
                unanswered = self._assistant(message)
            else:
                self._add("prompt", _content(message), sampled=False)

    def _assistant(self, message: dict[str, Json]) -> list[FoundCall]:
        turn = self.turns
        if reasoning := message.get("reasoning_content"):
            self._add("think", str(reasoning), sampled=True)
        if content := _content(message):
            self.assistant_text(content + "\n")
        self.turns = max(self.turns, turn + 1)
        structured = []
        entries = message.get("tool_calls") or []
        if not isinstance(entries, list):
            fault = f"`tool_calls` is {type(entries).__name__}, expected a list"
            raise RowError(fault)
        for entry in entries:
            function = entry.get("function", entry) if isinstance(entry, dict) else None
            function = function if isinstance(function, dict) else {}
            name, arguments = function.get("name"), _without_nulls(function.get("arguments"))
            raw = _encode({"name": name, "arguments": arguments}).decode()
            body = None
            if isinstance(name, str) and name:
                body = CallBody(name, {} if arguments is None else arguments, isinstance(arguments, (dict, type(None))))
            call = FoundCall(turn, len(self.spans), raw, body, closed=True, in_think=False)
            self._add("tool_call", raw, sampled=True, turn=turn)
            self.calls.append(call)
            structured.append(call)
        return structured

    def assistant_text(self, text: str) -> None:
        """Plain text may hold thinking, results of a flattened run, and calls that could not be parsed."""
        found = self.dialect.segment(text)
        first_span = len(self.spans)
        for span in found.spans:
            self.spans.append(
                Span(
                    span.kind,
                    None if span.turn is None else span.turn + self.turns,
                    span.start + self.position,
                    span.end + self.position,
                    span.sampled,
                ),
            )
        for call in found.calls:
            call.turn += self.turns
            call.span = None if call.span is None else call.span + first_span
            call.result_span = None if call.result_span is None else call.result_span + first_span
            self.calls.append(call)
        self.turns += found.turns
        self.pieces.append(text)
        self.position += len(text)

    def _add(self, kind: SpanKind, text: str, *, sampled: bool, turn: int | None = None) -> None:
        piece = text + "\n"
        # A result belongs to the turn that asked for it.
        owner = turn if turn is not None else self.turns if sampled else max(0, self.turns - 1)
        self.spans.append(Span(kind, owner, self.position, self.position + len(piece), sampled))
        self.pieces.append(piece)
        self.position += len(piece)


PARSER = Parser(
    name="trl",
    trainer="TRL",
    producer="TRL with `log_completions=True`; seen: 1.16.0 (and Unsloth, which leaves the writer as it is)",
    container="parquet",
    claims=claims,
    parse=parse,
    carries=("group by row order", "reward parts", "advantage", "turns", "tool results", "token ids by `log_extra`"),
    lacks={
        "advantage": "every row has `advantage`; check that the file was not edited",
        "correctness": "name the reward column that means correct",
        "data_source": "call `log_extra` with the data source in a reward function",
        "declared_tools": "TRL does not write the tool schemas",
        "finish_reason": "TRL does not write why a completion ended; log it with `log_extra` in a reward function",
        "group_id": "call `log_extra('group_id', …)` in a reward function",
        "logprobs": "TRL writes none, and reward functions do not get them; re-score the log with a model",
        "reward": "TRL writes one unweighted column per reward function and no total",
        "step": "every row has `step`; check that the file was not edited",
        "token_counts": "call `log_extra('completion_ids', completion_ids)` in a reward function",
        "tool_calls": "pass `tools=[…]` to GRPOTrainer",
    },
    whole_file=True,
)
