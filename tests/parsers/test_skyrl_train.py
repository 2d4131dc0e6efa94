"""SkyRL's training batches: padding, groups, masks, and what a patched trainer leaves in them."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gapscope as gs
from gapscope.dialects import DIALECTS
from gapscope.parsers import skyrl_train
from gapscope.rows import Reading, Row
from gapscope.unpickling import rows as unpickled


class TrainingInputBatch(dict[str, Any]):
    """Pickled by the name of a function and the state, as SkyRL's class is."""

    def __reduce__(self) -> Any:
        return _rebuild_tensor_batch, (type(self), dict(self))


def _rebuild_tensor_batch(kind: type, state: dict[str, Any]) -> None:
    raise AssertionError


def tensor(rows: Any, dtype: str = "float32") -> dict[str, Any]:
    array = np.array(rows, dtype=dtype)
    return {"format": "numpy", "data": array.tobytes(), "shape": array.shape, "dtype": dtype}


def batch(metadata: Any = None, **changes: Any) -> dict[str, Any]:
    """Three rows: a prompt of two tokens with a response of two, one with a response of one, and padding."""
    columns = {
        "sequences": tensor([[5, 6, 7, 8], [0, 5, 6, 9], [5, 6, 7, 8]], "int64"),
        "attention_mask": tensor([[1, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]], "int64"),
        "response_mask": tensor([[1, 1], [0, 1], [1, 1]], "int64"),
        "loss_mask": tensor([[0, 1], [0, 1], [0, 0]]),
        "rollout_logprobs": tensor([[0, -0.5], [0, -0.25], [0, -0.5]]),
        "advantages": tensor([[0.5, 0.5], [0, -0.5], [0.5, 0.5]]),
        "values": None,
    }
    known = {"policy_prompt_boundaries": [(0, 1), (1, 2)], "pad_size": 1, "response_length": 2}
    whole = {key: item for key, item in (columns | changes).items() if item is not ...}
    return {"batch_dict": whole, "batch_size": 3, "device": None, "metadata": known if metadata is None else metadata}


@pytest.fixture
def dump(tmp_path: Path) -> Callable[..., list[Any]]:
    def read(state: dict[str, Any], name: str = "dumped_data/global_step_6_training_input.pkl") -> list[Any]:
        path = tmp_path / "exports" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(TrainingInputBatch(state), 4))
        return list(gs.read([str(tmp_path)]))

    return read


def test_rows_are_cut_out_of_their_padding(dump: Callable[..., Any], tmp_path: Path) -> None:
    first, second, filler = dump(batch())
    assert (first.run, first.step, first.split) == (str(tmp_path / "exports"), 6, "train")
    assert first.tokens == gs.rollouts.Tokens(
        [5, 6, 7, 8],
        n_prompt=2,
        logprobs=[None, None, None, -0.5],
        logprob_source="rollout",
        sampled=[False, False, False, True],
    )
    assert (second.tokens.ids, second.tokens.n_prompt, second.tokens.logprobs) == ([5, 6, 9], 2, [None, None, -0.25])
    assert [r.group_id for r in (first, second, filler)] == ["0", "1", None]
    assert [r.status for r in (first, second, filler)] == [None, None, "padding"]
    assert (first.advantage, second.advantage, first.reward, first.output, first.extra) == (0.5, -0.5, None, "", {})


def test_a_row_that_is_kept_out_of_the_loss_is_masked(dump: Callable[..., Any]) -> None:
    first, *_ = dump(batch(loss_mask=tensor([[0, 0], [0, 1], [0, 0]])))
    assert (first.status, first.tokens.sampled, first.tokens.logprobs) == ("masked", None, [None, None, None, -0.5])


def test_an_advantage_for_each_token_is_none_of_the_rollout(dump: Callable[..., Any]) -> None:
    first, second, _ = dump(batch(advantages=tensor([[0.5, 0.25], [0, float("nan")], [0, 0]])))
    assert (first.advantage, second.advantage) == (None, None)


def test_log_probs_of_the_trainer_are_said_to_be_its_own(dump: Callable[..., Any]) -> None:
    first, *_ = dump(batch(rollout_logprobs=None, action_log_probs=tensor([[-1, -2], [-3, -4], [0, 0]])))
    assert (first.tokens.logprobs, first.tokens.logprob_source) == ([None, None, None, -2.0], "trainer")
    both, *_ = dump(batch(action_log_probs=tensor([[-1, -2], [-3, -4], [0, 0]])))
    assert (both.tokens.logprobs, both.tokens.logprob_source) == ([None, None, None, -0.5], "rollout")
    assert (both.tokens.trainer_logprobs, first.tokens.trainer_logprobs) == ([None, None, None, -2.0], None)
    neither, *_ = dump(batch(rollout_logprobs=...))
    assert (neither.tokens.logprobs, neither.tokens.logprob_source) == (None, None)


def test_columns_that_numpy_does_not_know_are_files_of_torch(dump: Callable[..., Any]) -> None:
    content = (Path(__file__).parent.parent / "unpickling" / "bfloat16.pt").read_bytes()  # by torch 2.13.0
    first, *_ = dump(batch(rollout_logprobs={"format": "torch", "data": content}))
    assert first.tokens.logprobs == [None, None, None, -2.5]


def test_a_patched_trainer_leaves_rewards_and_prompts_in(dump: Callable[..., Any]) -> None:
    metadata = {"uids": ["p", "p", "pad0"], "pad_size": 1, "policy_prompt_boundaries": [[0, 2]]}
    first, second, filler = dump(batch(metadata, rewards=tensor([[0.25, 1], [7, 0.5], [0, 0]])))
    assert (first.reward, second.reward) == (1.25, 0.5)
    assert (first.group_id, second.group_id, filler.group_id) == ("p", "p", None)


def test_earlier_batches_do_not_say_which_rows_belong_together(dump: Callable[..., Any]) -> None:
    first, *_ = dump(batch({"response_length": 2, "newer": {"a": 1}}))
    assert (first.group_id, first.group_origin, first.extra) == (None, None, {"newer": {"a": 1}})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sequences": ...}, "`sequences` is missing, or no tensor of rows"),
        ({"sequences": tensor([1, 2], "int64")}, "`sequences` is missing, or no tensor of rows"),
        ({"loss_mask": tensor([[1], [1], [1]])}, "`loss_mask` has the shape (3, 1), expected (3, 2)"),
        ({"attention_mask": tensor([[1, 1]] * 3)}, "`attention_mask` has the shape (3, 2), expected (3, 4)"),
        ({"advantages": tensor([[1, 1]])}, "`advantages` has the shape (1, 2), expected (3, 2)"),
    ],
)
def test_columns_that_do_not_fit_refuse_the_batch(changes: dict[str, Any], reason: str) -> None:
    refused = parsed(batch(**changes))
    assert [item.reason for item in refused] == [reason]


def parsed(state: dict[str, Any]) -> list[Any]:
    (value,) = unpickled(io.BytesIO(pickle.dumps(TrainingInputBatch(state), 4)))
    return list(skyrl_train.parse(iter([Row(1, None, value)]), Reading("a.pkl", DIALECTS[0])))


def test_boundaries_that_skip_rows_refuse_the_batch() -> None:
    (refused,) = parsed(batch({"policy_prompt_boundaries": [(0, 1), (2, 3)]}))
    assert refused.reason == "`policy_prompt_boundaries` are not the pairs of one row after another"


def test_a_row_without_its_tokens_is_refused_alone() -> None:
    found = parsed(batch(attention_mask=tensor([[0, 0, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1]], "int64")))
    assert [type(item).__name__ for item in found] == ["Refused", "Rollout", "Rollout"]
    assert found[0].reason == "row 0 of the batch: a response of 2 tokens in 1 tokens of `sequences`"


def test_the_columns_of_others_are_not_claimed() -> None:
    assert not skyrl_train.claims({"batch_dict": {"sequences": 1}})
    for hostile in ({}, {"batch_dict": None}, {"batch_dict": []}, {"sequences": []}):
        assert not skyrl_train.claims(hostile)
