"""verl's V1 trainer (default since June 2026): `{step}.jsonl`, rows sorted by `uid`, padding included.

`uid` is `{prompt}_{session}_{output}` and no group id: the group is what is left of the last two parts. A
session with several outputs repeats its reward in each row. Rows that only fill up the last mini-batch
have a `uid` that starts with `pad` and empty texts.
"""

import re
from collections.abc import Mapping

from gapscope.parsers.base import Parser, Reading, Row, RowError, input_output_rollout, row_by_row, text
from gapscope.rollouts import Json, Rollout

_BASE_KEYS = frozenset({"input", "output", "gts", "score", "step", "reward", "uid"})
# Eighteen digits fit into 64 bits.
_UID = re.compile(r"(.+)_([0-9]{1,18})_([0-9]{1,18})", re.DOTALL)


def claims(row: Mapping[str, Json]) -> bool:
    """`input`, `output` and `score` with a `uid`."""
    return "input" in row and "output" in row and "score" in row and "uid" in row


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
    container="jsonl",
    claims=claims,
    parse=row_by_row(translate),
    carries=("group id", "sample index", "reward", "ground truth", "tool results in the text"),
    lacks={
        "advantage": "verl does not write advantages to its rollout files",
        "correctness": "V1 training files carry no reward extras; name the score that means correct",
        "data_source": "verl's V1 files do not name the data source",
        "declared_tools": "the prompt shows no <tools> list; check that the chat template renders the tools",
        "finish_reason": "verl's rollout files have no finish reason",
        "group_id": "every row has `uid`; check that the file was not edited",
        "logprobs": "probe a step with `skip.rollout_tq.enable=true`, or re-score the log with a model",
        "reward": "set `trainer.rollout_data_dir`; every row then has `score`",
        "step": "every row has `step`; check that the file was not edited",
        "token_counts": "verl writes text only; probe a step with `skip.rollout_tq.enable=true`",
        "tool_calls": "set a tool config so that tools are offered in the prompt",
    },
    drops_uniform_groups="algorithm.filter_groups.enable",
    own_names={"input": "prompt", "gts": "ground_truth"},
)
