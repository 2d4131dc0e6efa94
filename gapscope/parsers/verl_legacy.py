"""verl's legacy trainer (`trainer.use_v1=false`): `{step}.jsonl`, one row per rollout, no group id.

Reward extras stand beside the base keys and are merged after them, so an extra named like a base key has
replaced it: a `score` that a reward function returned is what `score` then holds.
"""

from collections.abc import Mapping

from gapscope.parsers.base import JSON, Parser, input_output_rollout, row_by_row
from gapscope.rollouts import Json, Rollout
from gapscope.rows import Reading, Row
from gapscope.shapes.verl_rows import relative_of

_BASE_KEYS = frozenset({"input", "output", "gts", "score", "step", "reward", "request_id"})


def claims(row: Mapping[str, Json]) -> bool:
    """`input`, `output` and `score` without a `uid`, and nothing that only another trainer writes."""
    return relative_of(row) == "verl-legacy"


def translate(row: Row, reading: Reading) -> Rollout:
    """One row; older writers know no `request_id`, and then a rollout has no name of its own."""
    rollout = input_output_rollout(row, reading, name=PARSER.name, known=_BASE_KEYS)
    request_id = row.value.get("request_id")
    if isinstance(request_id, str):
        rollout.rollout_id = request_id
    return rollout


PARSER = Parser(
    name="verl-legacy",
    trainer="verl",
    producer="verl ≤ 0.9 and `trainer.use_v1=false`; seen: 0.9.1",
    containers=JSON,
    claims=claims,
    parse=row_by_row(translate),
    carries=("ground_truth", "reward", "step", "tool_calls", "tool_results", "turns"),
    optional={
        "correctness": "let the reward function return `acc` beside `score`",
        "data_source": "let the reward function return the data source as an extra",
        "declared_tools": "the prompt shows no <tools> list; check that the chat template renders the tools",
        "finish_reason": "let the reward function return `finish_reason`; verl's rollout files have none",
        "reward_parts": "let the reward function return a dict with its parts beside `score`",
    },
    lacks={
        "advantage": "verl does not write advantages to its rollout files",
        "entropies": "verl writes none; record with `gapscope.recorders.verl`, or re-score the log with a model",
        "group_id": "use verl's V1 trainer (`trainer.use_v1=true`), whose rows carry `uid`",
        "images": "verl strips images from its rollout files",
        "logprobs": "record with `gapscope.recorders.verl`, or re-score the log with a model",
        "token_ids": "verl writes text only; record with `gapscope.recorders.verl`",
    },
    drops_uniform_groups="algorithm.filter_groups.enable",
    own_names={"input": "prompt", "gts": "ground_truth"},
)
