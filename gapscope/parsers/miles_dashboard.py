"""miles' tokens: `{dump}/dashboard_columns/rollout_{rollout id}.parquet`, `rollout_eval_{rollout id}` for evaluation.

Written with `--dump-details DIR` if polars is installed, for miles' own dashboard. A row is a sample with its tokens,
which of them the policy wrote, and their log-probs: no text, no reward, no group. It is read by itself only where
neither the conversations nor the `.pt` of the same id are there.
"""

import os
import re
from collections.abc import Mapping

from gapscope.parsers.base import Parser, row_by_row, source_of, whole_number
from gapscope.rollouts import Json, Rollout
from gapscope.rows import Reading, Row, RowError
from gapscope.shapes.sampled_tokens import tokens_of

_LAYOUT = re.compile(r"(?:^|/)dashboard_columns/rollout_(?P<split>eval_)?(?P<step>\d+)\.parquet")
_COLUMNS = frozenset(
    {"sample_index", "response_length", "total_length", "tokens", "loss_mask", "rollout_log_probs"},
)


def claims(row: Mapping[str, Json]) -> bool:
    """The six columns, and nothing that would tell more."""
    return row.keys() >= _COLUMNS and "messages" not in row and "response" not in row


def translate(row: Row, reading: Reading) -> Rollout:
    """One sample, of which nothing but its tokens is known."""
    value = row.value
    tokens = tokens_of(value)
    if tokens is None:
        message = f"`tokens` is {value.get('tokens')!r:.60}, a sample without any"
        raise RowError(message)
    total = whole_number(value.get("total_length"))
    if total != len(tokens):
        message = f"`total_length` is {value.get('total_length')!r:.60}, and `tokens` has {len(tokens):,}"
        raise RowError(message)
    in_place = _LAYOUT.search(reading.file.replace(os.sep, "/"))
    return Rollout(
        format=PARSER.name,
        source=source_of(row, reading),
        run=reading.run,
        step=reading.step,
        split=reading.split or ("train" if in_place else None),
        sample_index=whole_number(value.get("sample_index")),
        dialect=reading.dialect.name,
        tokens=tokens,
        extra={key: item for key, item in value.items() if key not in _COLUMNS},
        notes=list(row.repairs),
    )


_ELSEWHERE = "keep `trajectory/` or `rollout_data/` of the same dump beside it"

PARSER = Parser(
    name="miles-dashboard",
    trainer="miles",
    producer="miles with `--dump-details` and polars installed; seen: radixark/miles@31f1ca961a94",
    containers=("parquet",),
    claims=claims,
    parse=row_by_row(translate),
    carries=("step", "token_ids"),
    optional={"logprobs": "a custom rollout has to ask for them with `return_logprob`"},
    lacks={
        "advantage": "read `train_data/` of the same dump",
        "correctness": _ELSEWHERE,
        "data_source": _ELSEWHERE,
        "declared_tools": _ELSEWHERE,
        "entropies": "miles writes none; re-score the log with a model",
        "finish_reason": _ELSEWHERE,
        "ground_truth": _ELSEWHERE,
        "group_id": _ELSEWHERE,
        "images": _ELSEWHERE,
        "reward": _ELSEWHERE,
        "reward_parts": _ELSEWHERE,
        "tool_calls": _ELSEWHERE,
        "tool_results": _ELSEWHERE,
        "turns": _ELSEWHERE,
    },
    drops_uniform_groups="--dynamic-sampling-filter-path",
    layout=_LAYOUT,
    part_of=("../rollout_data/{tail}.pt", "../trajectory/{tail}.jsonl"),
)
