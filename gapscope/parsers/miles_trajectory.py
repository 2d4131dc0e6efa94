"""miles' conversations: `{dump}/trajectory/{rollout id}.jsonl`, and `eval_{rollout id}.jsonl` for evaluation.

Written with `--dump-details DIR` beside the `.pt` of the same id, which tells the same as text, and which is read
in place of this one where both are there. A row is a sample whose conversation was recorded; those without one are
in the `.pt` alone. What miles' own multi-turn rollout generates stands in the content as the model wrote it, calls
and all; the session server logs structured calls. Its tokens are in `dashboard_columns/rollout_{rollout id}.parquet`,
if polars was installed, and belong to a sample by `sample_index`, which counts on through the run.

Samples of evaluation count anew for each data set, and have no group: where an index comes twice, it names no tokens.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping

from gapscope.parsers.base import JSON, Parser, number, source_of, whole_number
from gapscope.rollouts import Json, Refused, Rollout, Status, Tokens, refuse
from gapscope.rows import Reading, Row, RowError
from gapscope.shapes.conversations import asked_of, json_text, messages_of, prompt_text, tell
from gapscope.shapes.sampled_tokens import tokens_of

_LAYOUT = re.compile(r"(?:^|/)trajectory/(?P<split>eval_)?(?P<step>\d+)\.jsonl")
_KEYS = frozenset({"sample_index", "group_index", "status", "reward", "prompt", "messages"})
_STATUS: Mapping[Json, tuple[Status | None, str | None]] = {
    "completed": ("ok", "stop"),
    "truncated": ("truncated", "length"),
    "aborted": ("error", "abort"),
    "failed": ("error", "error"),
    "pending": (None, None),
}
_Columns = dict[int, Row | None]


def claims(row: Mapping[str, Json]) -> bool:
    """The six keys of a sample with its conversation."""
    return row.keys() >= _KEYS


def parse(rows: Iterable[Row], reading: Reading) -> Iterator[Rollout | Refused]:
    """All rows of one file, with their tokens from the one beside it."""
    place = _LAYOUT.search(reading.file.replace(os.sep, "/"))
    columns = _columns(reading, f"{place['split'] or ''}{place['step']}") if place else {}
    for row in rows:
        try:
            yield _translate(row, reading, columns, in_place=place is not None)
        except RowError as error:
            yield refuse(row.line, row.offset, str(error))


def _columns(reading: Reading, name: str) -> _Columns:
    """The rows of the token file by sample, None for an index that several samples have."""
    found: _Columns = {}
    for row in reading.beside(f"../dashboard_columns/rollout_{name}.parquet"):
        index = whole_number(row.value.get("sample_index"))
        if index is not None:
            found[index] = None if index in found else row
    return found


def _translate(row: Row, reading: Reading, columns: _Columns, *, in_place: bool) -> Rollout:
    value, notes = row.value, list(row.repairs)
    status, finish_reason = _ending(value.get("status"))
    messages, prompt = messages_of(value.get("messages")), value.get("prompt")
    asked = asked_of(value["messages"], [message.role == "assistant" for message in messages])
    told = tell(messages, reading, finish_reason=finish_reason)
    index = whole_number(value.get("sample_index"))
    group = whole_number(value.get("group_index"))
    return Rollout(
        format=PARSER.name,
        source=source_of(row, reading),
        run=reading.run,
        step=reading.step,
        split=reading.split or ("train" if in_place else None),
        group_id=None if group is None else str(group),
        group_origin=None if group is None else "logged",
        sample_index=index,
        status=status,
        finish_reason=finish_reason,
        reward=number(value.get("reward")),
        prompt=told.prompt or _prompt(prompt),
        messages=asked or (prompt if isinstance(prompt, list) else None),
        output=told.output,
        output_origin="joined",
        dialect=reading.dialect.name,
        turns=told.turns,
        spans=told.spans,
        calls=told.calls,
        tokens=_tokens(index, columns, notes),
        images=told.images,
        extra={key: item for key, item in value.items() if key not in _KEYS},
        notes=notes,
    )


def _ending(status: Json) -> tuple[Status | None, str | None]:
    """How a sample ended, as miles says it and as the record does."""
    if not isinstance(status, str) or status not in _STATUS:
        message = f"`status` is {status!r:.60}, expected one of {', '.join(map(str, _STATUS))}"
        raise RowError(message)
    return _STATUS[status]


def _prompt(prompt: Json) -> str:
    """The prompt of a conversation that begins with what the policy wrote: a text, or messages."""
    if isinstance(prompt, str):
        return prompt
    return prompt_text(messages_of(prompt, name="prompt")) if isinstance(prompt, list) else json_text(prompt)


def _tokens(index: int | None, columns: _Columns, notes: list[str]) -> Tokens | None:
    """The tokens of a sample; what is wrong with them is noted, because its text is good."""
    if index is None or index not in columns:
        return None
    row = columns[index]
    if row is None:
        notes.append("tokens_of_several_samples")
        return None
    try:
        return tokens_of(row.value)
    except RowError:
        notes.append("tokens_cannot_be_read")
        return None


PARSER = Parser(
    name="miles-trajectory",
    trainer="miles",
    producer="miles with `--dump-details`; seen: radixark/miles@31f1ca961a94",
    containers=JSON,
    claims=claims,
    parse=parse,
    carries=("step", "tool_calls", "tool_results", "turns"),
    optional={
        "finish_reason": "a sample that is still pending has none",
        "group_id": "samples of evaluation have none; the prompt tells",
        "images": "a message holds them only as `data:` URIs of the chat API",
        "logprobs": "keep `dashboard_columns/` beside `trajectory/`; miles writes it if polars is installed",
        "reward": "a reward that is a dictionary is null here and whole in the `.pt` beside it",
        "token_ids": "keep `dashboard_columns/` beside `trajectory/`; miles writes it if polars is installed",
    },
    lacks={
        "advantage": "read `train_data/` of the same dump",
        "correctness": "name a threshold of the reward that means correct",
        "data_source": "miles does not name the data source here; it is in the metadata of the `.pt`",
        "declared_tools": "miles does not write the tool schemas with the conversation",
        "entropies": "miles writes none; re-score the log with a model",
        "ground_truth": "the label is in the `.pt` of the same dump",
        "reward_parts": "a reward that is a dictionary is whole in the `.pt` of the same dump",
    },
    drops_uniform_groups="--dynamic-sampling-filter-path",
    whole_file=True,
    layout=_LAYOUT,
    part_of=("../rollout_data/{stem}.pt",),
)
