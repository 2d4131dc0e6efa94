"""Any log, by a mapping from the fields of a rollout to where they are in a row.

Fields that the mapping does not name stay unknown; what else
the row holds is kept as it is, and numbers in it can be named as what is correct.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from gapscope.mapping import value_at
from gapscope.parsers.base import (
    Parser,
    Reread,
    number,
    reread,
    row_by_row,
    source_of,
    step_of,
    whole_number,
)
from gapscope.rollouts import Image, Json, Rollout
from gapscope.rows import Reading, Row, RowError
from gapscope.shapes.conversations import (
    asked_of,
    json_text,
    messages_of,
    prompt_text,
    tell,
    tool_definitions,
    tool_names,
)
from gapscope.shapes.spans import structured


def fits(row: Mapping[str, Json], mapping: Mapping[str, str]) -> bool:
    """Whether the mapping finds a response in a row."""
    path = mapping.get("response") or mapping.get("messages")
    return path is not None and isinstance(value_at(row, path), (str, list))


def translate(row: Row, reading: Reading) -> Rollout:
    """One row.

    Raises:
        RowError: what is mapped to `correct` is neither true nor false, or there is no response where the mapping
            says, or it is neither a text nor a list of messages.

    """
    found = {field: value_at(row.value, path) for field, path in reading.mapping.items()}
    said = _said(found, reading)
    notes = list(row.repairs)
    used = {path.removeprefix("$.") for path in reading.mapping.values()} | {"step"}
    group, correct = _name(found.get("group")), _verdict(found, reading)
    return Rollout(
        format=PARSER.name,
        source=source_of(row, reading),
        rollout_id=_name(found.get("rollout_id")),
        run=reading.run,
        step=whole_number(found["step"]) if "step" in found else step_of(row, reading, notes),
        split=reading.split,
        group_id=group,
        group_origin=None if group is None else "logged",
        sample_index=whole_number(found.get("sample_index")),
        finish_reason=_name(found.get("finish_reason")),
        reward=number(found.get("reward")),
        correct=correct,
        correct_rule=None if correct is None else f"`{reading.mapping['correct']}`, by the mapping",
        advantage=number(found.get("advantage")),
        ground_truth=found.get("ground_truth"),
        data_source=_name(found.get("data_source")),
        prompt=said.prompt,
        messages=said.asked,
        output=said.output,
        output_origin=said.origin,
        dialect=reading.dialect.name,
        declared_tools=said.read.declared_tools,
        tools=tool_definitions(structured(found.get("tools"))),
        turns=said.read.turns,
        spans=said.read.spans,
        calls=said.read.calls,
        images=said.images,
        extra={key: item for key, item in row.value.items() if key not in used},
        notes=notes,
    )


def _verdict(found: Mapping[str, Json], reading: Reading) -> bool | None:
    """What the log says about correctness: yes or no, and no reward to be guessed from."""
    verdict = found.get("correct")
    if verdict is None:
        return None
    score = number(verdict)
    if score not in {0.0, 1.0}:
        message = f"`{reading.mapping['correct']}` is {verdict!r:.60}, expected true or false"
        raise RowError(message)
    return score == 1.0


def _name(value: Json) -> str | None:
    """A name, which some logs write as a number."""
    return None if value is None else value if isinstance(value, str) else json_text(value)


class _Said(NamedTuple):
    prompt: str | None
    output: str
    origin: Literal["logged", "joined"]
    read: Reread
    images: list[Image]
    asked: list[Json] | None


def _said(found: Mapping[str, Json], reading: Reading) -> _Said:
    """Prompt and output, and what was found in them."""
    conversation, prompt, response = found.get("messages"), found.get("prompt"), found.get("response")
    asked = prompt if isinstance(prompt, list) else None
    if asked is not None:
        prompt = prompt_text(messages_of(prompt, name=reading.mapping["prompt"]))
    elif prompt is not None and not isinstance(prompt, str):
        prompt = json_text(prompt)
    if isinstance(response, str):
        return _Said(prompt, response, "logged", reread(prompt or "", response, reading), [], asked)
    path = reading.mapping.get("messages") or reading.mapping["response"]
    items = conversation if conversation is not None else response
    messages = messages_of(items, name=path)
    declared = tool_names(structured(found.get("tools")))
    told = tell(messages, reading, declared_tools=declared)
    read = Reread(declared, told.turns, told.spans, told.calls)
    if prompt is None:
        prompt, asked = told.prompt, asked_of(items or [], [message.role == "assistant" for message in messages])
    return _Said(prompt, told.output, "joined", read, told.images, asked)


PARSER = Parser(
    name="mapped",
    trainer="your own",
    producer="any writer, read with `--map` or the table `[map]` of gapscope.toml",
    containers=("jsonl", "json", "parquet", "csv"),
    claims=lambda _: False,
    parse=row_by_row(translate),
    carries=(),
    optional={
        "advantage": "map `advantage`",
        "correctness": "map `correct`, or name the field with --correct",
        "data_source": "map `data_source`",
        "declared_tools": "map `tools`, a list of tool definitions",
        "finish_reason": "map `finish_reason`",
        "ground_truth": "map `ground_truth`",
        "group_id": "map `group`",
        "images": "map `messages` whose images are data: URIs",
        "reward": "map `reward`",
        "step": "map `step`, or name the files by their step",
        "tool_calls": "map `messages`, or a `response` that holds the calls as text",
        "tool_results": "map `messages`, or a `response` that holds the results as text",
        "turns": "map `messages`, or a `response` that holds every turn",
    },
    lacks={
        "entropies": "write `gapscope.rollout/1`; a mapping reads no tokens",
        "reward_parts": "a mapping names one reward; a number beside it can be what is correct, by --correct",
        "logprobs": "write `gapscope.rollout/1`; a mapping reads no tokens",
        "token_ids": "write `gapscope.rollout/1`; a mapping reads no tokens",
    },
)
