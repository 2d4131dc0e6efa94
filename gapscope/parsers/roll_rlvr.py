"""ROLL's RLVR pipelines: `rollout_dump_data.step_{N}.jsonl`, one line that holds a list for each column.

Written with `rollout_dump_dir`, which has to begin with `/`: ROLL writes nothing at all to any other path. Special
tokens are dropped. `id` is that of the question in the data set, and its rollouts are a group. The file is written
by a process that ends with the trainer: that of the last step may be cut off.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from gapscope.parsers.base import (
    Parser,
    embedded,
    required_number,
    reread,
    rows_of_columns,
    source_of,
    step_of,
    text,
)
from gapscope.rollouts import Json, Refused, Rollout, refuse
from gapscope.rows import Reading, Row, RowError
from gapscope.shapes.conversations import json_text, messages_of, prompt_text

_KNOWN = frozenset({"global_step", "ground_truth", "id", "messages", "prompt", "responses", "scores"})
# What the reward function was given, and the state of the pipeline, as often as there are rows.
_LEFT_OUT = frozenset({"sampling_params", "test_case_function", "test_cases"})


def claims(row: Mapping[str, Json]) -> bool:
    """Columns of steps, responses and scores."""
    return all(isinstance(row.get(key), list) for key in ("global_step", "responses", "scores"))


def parse(rows: Iterable[Row], reading: Reading) -> Iterator[Rollout | Refused]:
    """All rows of each line."""
    for row in rows:
        try:
            values = rows_of_columns(row.value)
        except RowError as error:
            yield refuse(row.line, row.offset, str(error))
            continue
        places: dict[str, int] = {}
        for value in values:
            try:
                yield _translate(row._replace(value=value), reading, places)
            except RowError as error:
                yield refuse(row.line, row.offset, str(error))


def _translate(row: Row, reading: Reading, places: dict[str, int]) -> Rollout:
    value, notes = row.value, list(row.repairs)
    output = text(value, "responses")
    reward = required_number(value, "scores", row.repairs)
    prompt, asked = _prompt(value, notes)
    step = step_of(row, reading, notes, key="global_step")
    group = _group(value)
    place = None
    if group is not None:
        place = places[group] = places.get(group, -1) + 1
    found = reread(prompt or "", output, reading)
    tag = value.get("tag")
    return Rollout(
        format=PARSER.name,
        source=source_of(row, reading),
        run=reading.run,
        step=step,
        split="train",
        group_id=group,
        group_origin=None if group is None else "logged",
        sample_index=place,
        reward=reward,
        ground_truth=value.get("ground_truth"),
        data_source=tag if isinstance(tag, str) else None,
        prompt=prompt,
        messages=asked,
        output=output,
        dialect=reading.dialect.name,
        declared_tools=found.declared_tools,
        turns=found.turns,
        spans=found.spans,
        calls=found.calls,
        extra={
            key: item
            for key, item in value.items()
            if key not in _KNOWN and key not in _LEFT_OUT and item is not None and item is not tag
        },
        notes=notes,
    )


def _group(value: Mapping[str, Json]) -> str | None:
    """The question in the data set, and the domain whose rewards it has."""
    key, domain = value.get("id"), value.get("domain")
    if key is None:
        return None
    name = key if isinstance(key, str) else json_text(key)
    return f"{domain}:{name}" if isinstance(domain, str) else name


def _prompt(value: Mapping[str, Json], notes: list[str]) -> tuple[str | None, list[Json] | None]:
    """The question: messages, which may be JSON in a string, else the text that stands in for them."""
    messages = value.get("messages")
    if isinstance(messages, str) and messages.lstrip().startswith("["):
        messages = embedded(messages, "messages", notes)
    if isinstance(messages, list):
        return prompt_text(messages_of(messages)), messages
    prompt = messages if isinstance(messages, str) else value.get("prompt")
    if prompt is None or isinstance(prompt, str):
        return prompt, None
    return prompt_text(messages_of(prompt, name="prompt")), prompt


PARSER = Parser(
    name="roll-rlvr",
    trainer="ROLL",
    producer="ROLL's RLVR pipelines with `rollout_dump_dir`; seen: alibaba/ROLL@8eb27cc2dc34",
    containers=("jsonl",),
    claims=claims,
    parse=parse,
    carries=("reward", "step", "tool_calls", "tool_results", "turns"),
    optional={
        "data_source": "the data set has to have a column `tag`",
        "declared_tools": "the prompt shows no <tools> list",
        "ground_truth": "the data set has to have a column `ground_truth`",
        "group_id": "the data set has to have a column `id`; without it, the prompt tells",
    },
    lacks={
        "advantage": "ROLL dumps the rollouts before it computes advantages",
        "correctness": "name a threshold of the score that means correct",
        "entropies": "ROLL writes none; re-score the log with a model",
        "finish_reason": "ROLL does not write why a response ended",
        "images": "ROLL writes decoded tokens only",
        "logprobs": "ROLL keeps them in memory; re-score the log with a model",
        "reward_parts": "ROLL dumps one score",
        "token_ids": "ROLL writes decoded tokens only; tokenise the text again",
    },
    drops_uniform_groups="rewards.{domain}.query_filter_config",
    layout=re.compile(r"(?:^|/)rollout_dump_data\.step_(?P<step>\d+)\.jsonl"),
    own_names={"id": "group_id"},
)
