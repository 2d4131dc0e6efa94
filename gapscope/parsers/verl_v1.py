"""verl's V1 trainer (default since June 2026): `{step}.jsonl`, rows sorted by `uid`, padding included.

`uid` is `{prompt}_{session}_{output}` and no group id: the group is what is left of the last two parts. A
session with several outputs repeats its reward in each row. Rows that only fill up the last mini-batch
have a `uid` that starts with `pad` and empty texts.
"""

import re
from collections.abc import Mapping

from gapscope.parsers.base import JSON, Parser, input_output_rollout, row_by_row, text
from gapscope.rollouts import Json, Rollout
from gapscope.rows import Reading, Row, RowError
from gapscope.shapes.verl_rows import relative_of

_BASE_KEYS = frozenset({"input", "output", "gts", "score", "step", "reward", "uid"})
# Eighteen digits fit into 64 bits.
_UID = re.compile(r"(.+)_([0-9]{1,18})_([0-9]{1,18})", re.DOTALL)


def claims(row: Mapping[str, Json]) -> bool:
    """`input`, `output` and `score` with a `uid`."""
    return relative_of(row) == "verl-v1"


def translate(row: Row, reading: Reading) -> Rollout:
    """One row, with group, session and sub-output out of its `uid`."""
    uid = text(row.value, "uid")
    match = _UID.fullmatch(uid)
    if match is None:
        message = f"`uid` is {uid[:80]!r}, expected {{prompt}}_{{session}}_{{output}}"
        raise RowError(message)
    group, session, sub_output = match[1], match[2], match[3]
    rollout = input_output_rollout(row, reading, name=PARSER.name, known=_BASE_KEYS)
    rollout.rollout_id = f"{group}_{session}"
    rollout.group_id = group
    rollout.group_origin = "logged"
    rollout.sample_index = int(session)
    rollout.output_index = int(sub_output)
    return rollout


PARSER = Parser(
    name="verl-v1",
    trainer="verl",
    producer="verl with `trainer.use_v1=true`; seen: 0.9.1",
    containers=JSON,
    claims=claims,
    parse=row_by_row(translate),
    carries=("ground_truth", "group_id", "reward", "step", "tool_calls", "tool_results", "turns"),
    optional={
        "correctness": "V1 training files carry no reward extras; name the score that means correct",
        "declared_tools": "the prompt shows no <tools> list; check that the chat template renders the tools",
        "reward_parts": "validation files carry the extras that the reward function returns; V1 training files do not",
    },
    lacks={
        "advantage": "verl does not write advantages to its rollout files",
        "data_source": "verl's V1 files do not name the data source",
        "entropies": "verl writes none; record with `gapscope.recorders.verl`, or re-score the log with a model",
        "finish_reason": "verl's rollout files have no finish reason",
        "images": "verl strips images from its rollout files",
        "logprobs": "record with `gapscope.recorders.verl`, or re-score the log with a model",
        "token_ids": "verl writes text only; record with `gapscope.recorders.verl`",
    },
    drops_uniform_groups="algorithm.filter_groups.enable",
    own_names={"input": "prompt", "gts": "ground_truth"},
)
