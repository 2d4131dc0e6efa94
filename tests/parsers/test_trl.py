"""TRL's completions: token ids that a reward function logged."""

from typing import Any

import pytest

from gapscope.dialects import DIALECTS
from gapscope.parsers import trl
from gapscope.rollouts import Rollout, Tokens
from gapscope.rows import Reading, Row


def rollout(**columns: Any) -> Rollout:
    row = {"step": 1, "prompt": "2+2?", "completion": "4", "advantage": 0.5, **columns}
    (record,) = trl.PARSER.parse(iter([Row(1, None, row)]), Reading("completions_00001.parquet", DIALECTS[0]))
    assert isinstance(record, Rollout)
    return record


@pytest.mark.parametrize(
    ("columns", "tokens"),
    [
        ({"prompt_ids": [1, 2], "completion_ids": [3]}, Tokens([1, 2, 3], n_prompt=2)),
        ({"completion_ids": [3, 4]}, Tokens([3, 4], n_prompt=0)),
        ({"prompt_ids": [1, 2]}, None),
        ({"completion_ids": ["3"]}, None),
    ],
)
def test_ids_that_were_logged_are_tokens_and_no_prompt_is_made_up(columns: dict[str, Any], tokens: Any) -> None:
    assert rollout(**columns).tokens == tokens
