"""slime's and miles' samples: what a custom rollout, an evaluation and a fork make of them."""

import pickle
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import rollouts

import gapscope as gs
from gapscope.detect import detect
from gapscope.parsers import slime
from gapscope.sources import describe


class Status(Enum):
    COMPLETED = "completed"


def sample(**changes: Any) -> dict[str, Any]:
    whole = {
        "group_index": 3, "index": 25, "rollout_id": None, "prompt": "<|im_start|>user\n2+2?<|im_end|>\n",
        "tokens": [1, 2, 3, 4, 5], "response": "It is 4.", "response_length": 3, "label": "4", "reward": 1.0,
        "loss_mask": [1, 0, 1], "rollout_log_probs": [-0.5, 0.0, -0.25], "weight_versions": [], "status": "completed",
        "remove_sample": False, "metadata": {}, "train_metadata": None, "spec_info": {"spec_verify_ct": 0},
    }  # fmt: skip
    return {key: item for key, item in (whole | changes).items() if item is not ...}


@pytest.fixture
def dump(tmp_path: Path) -> Callable[..., list[Any]]:
    """Read a dump of samples, pickled as PyTorch pickles them."""

    def read(*samples: Any, name: str = "rollout_data/5.pt", **file: Any) -> list[Any]:
        path = tmp_path / "dump" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps({"rollout_id": 5, **file, "samples": list(samples)}, 2))
        return list(gs.read([str(tmp_path)]))

    return read


def test_the_sample_tells_the_same_story_as_that_of_verl() -> None:
    stories = [[(call.name, call.outcome) for call in rollout.calls] for rollout in rollouts("slime")]
    # The last but one is a second sample of one rollout; then come two of evaluation.
    assert stories[:15] + stories[16:17] == [
        [(call.name, call.outcome) for call in rollout.calls] for rollout in rollouts("verl-v1")[:16]
    ]


def test_a_sample_is_placed_by_its_own_indices_and_the_path(dump: Callable[..., Any], tmp_path: Path) -> None:
    (rollout,) = dump(sample())
    assert (rollout.run, rollout.step, rollout.split) == (str(tmp_path / "dump"), 5, "train")
    assert (rollout.rollout_id, rollout.group_id, rollout.group_origin) == ("25", "3", "logged")
    assert (rollout.sample_index, rollout.output_index) == (25, None)
    assert (rollout.prompt, rollout.output) == ("<|im_start|>user\n2+2?<|im_end|>\n", "It is 4.")
    assert (rollout.reward, rollout.ground_truth, rollout.extra, rollout.notes) == (1.0, "4", {}, [])


@pytest.mark.parametrize("name", ["rollout_5.pt", "debug_rollout_5.pt", "5.pt"])
def test_a_name_of_ones_own_keeps_the_step(dump: Callable[..., Any], tmp_path: Path, name: str) -> None:
    (rollout,) = dump(sample(), name=name)
    assert (rollout.run, rollout.step, rollout.split, rollout.notes) == (str(tmp_path / "dump"), 5, "train", [])


def test_a_name_that_disagrees_with_the_file_is_noted(dump: Callable[..., Any]) -> None:
    (rollout,) = dump(sample(), name="rollout_data/7.pt")
    assert (rollout.step, rollout.notes) == (5, ["step_differs_from_file_name"])


@pytest.mark.parametrize("name", ["rollout_data/eval_5.pt", "rollout_eval_5.pt"])
def test_evaluation_has_no_groups_and_its_index_names_nothing(dump: Callable[..., Any], name: str) -> None:
    first, other = dump(sample(group_index=None, index=0), sample(group_index=None, index=0), name=name)
    assert (first.step, first.split, first.group_id, first.group_origin) == (5, "validation", None, None)
    assert (first.rollout_id, other.rollout_id, first.output_index) == (None, None, None)


def test_samples_of_one_rollout_share_its_name(dump: Callable[..., Any]) -> None:
    found = dump(sample(rollout_id=25), sample(rollout_id=25), sample(index=26, rollout_id=26), sample(index=27))
    assert [(r.rollout_id, r.output_index) for r in found] == [("25", 0), ("25", 1), ("26", 0), ("27", None)]


def test_tokens_stand_beside_their_log_probs(dump: Callable[..., Any]) -> None:
    (rollout,) = dump(sample())
    assert rollout.tokens == gs.rollouts.Tokens(
        [1, 2, 3, 4, 5],
        n_prompt=2,
        logprobs=[None, None, -0.5, None, -0.25],
        logprob_source="rollout",
        sampled=[False, False, True, False, True],
    )


def test_tokens_may_be_arrays_and_log_probs_infinite(dump: Callable[..., Any]) -> None:
    own = np.array([-0.5, float("nan"), float("-inf")], dtype="f4")
    (rollout,) = dump(sample(tokens=np.arange(5), rollout_log_probs=own, loss_mask=np.ones(3, dtype="i8")))
    assert rollout.tokens.ids == [0, 1, 2, 3, 4]
    assert rollout.tokens.logprobs == [None, None, -0.5, None, None]


def test_lists_of_unequal_length_are_refused(dump: Callable[..., Any]) -> None:
    good, refused = dump(sample(), sample(loss_mask=[1, 1]))
    assert isinstance(good, gs.Rollout)
    assert refused.reason == "`loss_mask` has 2 items, and `response_length` is 3"


@pytest.mark.parametrize(
    ("logged", "removed", "status", "finish_reason"),
    [
        ("completed", False, "ok", "stop"),
        ("truncated", False, "truncated", "length"),
        ("aborted", False, "error", "abort"),
        ("failed", False, "error", "error"),
        ("pending", False, None, None),
        ("completed", True, "masked", "stop"),
        (Status.COMPLETED, False, "ok", "stop"),
    ],
)
def test_how_a_sample_ended(
    dump: Callable[..., Any], logged: Any, removed: bool, status: str | None, finish_reason: str | None
) -> None:
    (rollout,) = dump(sample(status=logged, remove_sample=removed))
    assert (rollout.status, rollout.finish_reason) == (status, finish_reason)


def test_a_status_that_is_none_is_refused(dump: Callable[..., Any]) -> None:
    (refused,) = dump(sample(status="done"))
    assert refused.reason == "`status` is 'done', expected one of completed, truncated, aborted, failed, pending"


def test_a_reward_in_parts_has_no_known_total(dump: Callable[..., Any]) -> None:
    (rollout,) = dump(sample(reward={"score": 1, "acc": True, "nan": float("nan"), "pred": "4"}))
    assert rollout.reward is None
    assert [(part.name, part.value) for part in rollout.reward_parts] == [("score", 1.0), ("acc", 1.0), ("nan", None)]
    assert rollout.extra == {"reward": {"pred": "4"}}


@pytest.mark.parametrize(("logged", "reward"), [(None, None), (float("nan"), None), (True, 1.0), (-1, -1.0)])
def test_a_reward_that_is_no_number_is_absent(dump: Callable[..., Any], logged: Any, reward: float | None) -> None:
    (rollout,) = dump(sample(reward=logged))
    assert rollout.reward == reward


def test_a_reward_that_is_text_is_refused(dump: Callable[..., Any]) -> None:
    (refused,) = dump(sample(reward="good"))
    assert refused.reason == "`reward` is 'good', expected a number"


def test_a_prompt_of_messages_becomes_text_and_is_kept(dump: Callable[..., Any]) -> None:
    asked = [{"role": "user", "content": "2+2?"}]
    (rollout,) = dump(sample(prompt=asked))
    assert (rollout.prompt, rollout.messages) == ("user\n2+2?\n", asked)


def test_each_turn_has_the_version_of_the_weights_that_wrote_it(dump: Callable[..., Any]) -> None:
    two = (
        "<tool_call>\n{}\n</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\n4\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\nIt is 4."
    )
    matched, unmatched = dump(
        sample(response=two, weight_versions=["7", "8"]), sample(response=two, weight_versions=["7"])
    )
    assert [turn.policy_version for turn in matched.turns] == ["7", "8"]
    assert matched.extra == {}
    assert [turn.policy_version for turn in unmatched.turns] == [None, None]
    assert unmatched.extra == {"weight_versions": ["7"]}


def test_metadata_may_name_the_data_source_and_the_tools(dump: Callable[..., Any]) -> None:
    metadata = {"data_source": "gsm8k", "tools": [{"type": "function", "function": {"name": "calc"}}], "turns": 2}
    (rollout,) = dump(sample(metadata=metadata))
    assert (rollout.data_source, rollout.declared_tools) == ("gsm8k", ["calc"])
    assert rollout.tools == metadata["tools"]
    assert rollout.extra == {"metadata": metadata}


def test_what_a_custom_rollout_or_a_later_version_adds_is_kept(dump: Callable[..., Any]) -> None:
    (rollout,) = dump(
        sample(tool_call_count=0, checked=Status.COMPLETED, raw=b"abc", ratio=float("inf"), trace={"events": []}),
        metadata={"adapter": "a"},
    )
    assert rollout.extra == {
        "tool_call_count": 0, "checked": "completed", "raw": {"bytes": 3}, "ratio": None,
    }  # fmt: skip


def test_a_file_without_samples_is_none_of_slime(dump: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(gs.errors.InputError, match="no rollouts of a known format"):
        dump()


def test_the_side_of_the_trainer_is_not_claimed() -> None:
    trained = {"data_parallel_rank": 0, "tokens": [1], "rewards": 1.0, "response_lengths": 1}
    assert not slime.claims({"format_version": 2, "rollout_id": 5, "samples": [trained]})
    assert slime.claims({"rollout_id": 5, "samples": [sample()]})
    for hostile in ({}, {"samples": 1, "rollout_id": 1}, {"samples": [], "rollout_id": 1}, {"samples": [[]]}):
        assert not slime.claims(hostile)


def test_a_file_that_is_cut_off_gives_what_is_whole(dump: Callable[..., Any], tmp_path: Path) -> None:
    dump(*(sample(index=index) for index in range(12)))
    path = tmp_path / "dump" / "rollout_data" / "5.pt"
    path.write_bytes(path.read_bytes()[:-40])
    *whole, rest = gs.read([str(path)])
    assert [record.rollout_id for record in whole] == [str(index) for index in range(11)]
    assert "the rest of the file: the pickle is cut off" in rest.reason


def test_an_empty_file_is_no_log(tmp_path: Path) -> None:
    path = tmp_path / "5.pt"
    path.write_bytes(b"\x80\x02.")
    assert "ends with 0 values" in str(detect(describe(str(path), str(path))))
