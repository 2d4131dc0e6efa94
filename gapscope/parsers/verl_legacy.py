"""verl's legacy trainer (`trainer.use_v1=false`): `{step}.jsonl`, one row per rollout, no group id.

Reward extras stand beside the base keys and are merged after them, so an extra named like a base key has
replaced it: a `score` that a reward function returned is what `score` then holds.
"""

from collections.abc import Mapping

from gapscope.parsers.base import (
    Parser,
    Reading,
    Row,
    required_number,
    reread,
    row_by_row,
    source_of,
    split_extras,
    step_of,
    text,
)
from gapscope.rollouts import Json, Rollout

_BASE_KEYS = frozenset({"input", "output", "gts", "score", "step", "reward", "request_id"})


def claims(row: Mapping[str, Json]) -> bool:
    """`input`, `output` and `score` without a `uid`."""
    return "input" in row and "output" in row and "score" in row and "uid" not in row


def translate(row: Row, reading: Reading) -> Rollout:
    """One row; `reward`, a duplicate of `score`, is written by validation only."""
    value = row.value
    prompt, output = text(value, "input"), text(value, "output")
    score = required_number(value, "score", row.repairs)
    notes = list(row.repairs)
    parts, extra = split_extras(value, _BASE_KEYS)
    found = reread(prompt, output, reading)
    request_id = value.get("request_id")
    return Rollout(
        format=PARSER.name,
        source=source_of(row, reading),
        rollout_id=request_id if isinstance(request_id, str) else None,
        run=reading.run,
        step=step_of(row, reading, notes),
        split="validation" if "reward" in value else "train",
        status=None if prompt or output else "padding",
        reward=score,
        reward_parts=parts,
        ground_truth=value.get("gts"),
        prompt=prompt,
        output=output,
        dialect=reading.dialect.name,
        declared_tools=found.declared_tools,
        turns=found.turns,
        spans=found.spans,
        calls=found.calls,
        extra=extra,
        notes=notes,
    )


PARSER = Parser(
    name="verl-legacy",
    trainer="verl",
    producer="verl ≤ 0.9 and `trainer.use_v1=false`; seen: 0.9.1",
    container="jsonl",
    claims=claims,
    parse=row_by_row(translate),
    carries=("reward", "reward parts", "ground truth", "tool results in the text"),
    lacks={
        "advantage": "verl does not write advantages to its rollout files",
        "correctness": "let the reward function return `acc` beside `score`",
        "data_source": "let the reward function return the data source as an extra",
        "declared_tools": "the prompt shows no <tools> list; check that the chat template renders the tools",
        "finish_reason": "let the reward function return `finish_reason`; verl's rollout files have none",
        "group_id": "use verl's V1 trainer (`trainer.use_v1=true`), whose rows carry `uid`",
        "logprobs": "probe a step with `skip.rollout_tq.enable=true` (V1), or re-score the log with a model",
        "reward": "set `trainer.rollout_data_dir`; every row then has `score`",
        "step": "every row has `step`; check that the file was not edited",
        "token_counts": "verl writes text only; probe a step with `skip.rollout_tq.enable=true` (V1)",
        "tool_calls": "set `data.return_raw_chat=true` and a tool config so that tools are offered",
    },
    drops_uniform_groups="algorithm.filter_groups.enable",
    own_names={"input": "prompt", "gts": "ground_truth"},
)
