"""Batches of verl by hand: each letter is a token, its id the letter's number."""

import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

import gapscope as gs
from gapscope.errors import RecordError
from gapscope.recorders.verl import Recorded, VerlRecorder, recording, register
from gapscope.recorders.verl_batches import NOTHING_KNOWN, Facts, unpadded
from gapscope.rollouts import RewardPart, Rollout, Source, Span, Tokens, Turn

EOS = ord("$")
CALL = '<tool_call>{"name": "add", "arguments": {}}</tool_call>'


class Letters:
    """A tokenizer whose tokens are letters."""

    eos_token_id = EOS

    def decode(self, ids: list[int], **_: bool) -> str:
        return "".join(map(chr, ids))


def ids(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def columns(*responses: str, **others: Any) -> dict[str, Any]:
    """A batch in which all of each response was sampled, and nothing else is known."""
    given = {"prompts": [ids("ask")] * len(responses), "responses": [ids(response) for response in responses]}
    return given | {"loss_mask": [[1] * len(response) for response in responses]} | others


def written(path: Path) -> list[Rollout]:
    return [msgspec.json.decode(line, type=Rollout) for line in path.read_bytes().splitlines()]


def recorded(
    path: Path, keys: list[str], given: dict[str, Any], facts: Facts = NOTHING_KNOWN, **tags: Any
) -> list[Rollout]:
    file = path / "rollouts.jsonl"
    VerlRecorder(file).record(keys, given, facts, **tags)
    return written(file)


def test_a_row_becomes_the_rollout_that_it_says(tmp_path: Path) -> None:
    given = columns(
        "7!$",
        loss_mask=[[1, 0, 1]],
        response_mask=[[1, 0, 1]],
        rollout_log_probs=[[-0.5, 0.0, -0.25]],
        old_log_probs=[[-0.75, -9.0, -0.5]],
        entropy=[[1.5, 9.0, 0.5]],
        advantages=[[0.5, 0.0, 0.5]],
        rm_scores=[[0.0, 0.0, 1.0]],
        reward_model=[{"ground_truth": "7", "style": "rule"}],
        data_source=["sums"],
        num_turns=[2],
        extra_fields=[{"reward_extra_info": {"acc": True, "pred": "seven"}, "turn_scores": [], "tool_rewards": [0.5]}],
    )
    tags = [{"min_global_steps": 4, "max_global_steps": 4, "seq_len": 6}]
    facts = Facts(step=5, run="sums", tokenizer=Letters(), response_length=8)
    [rollout] = recorded(tmp_path, ["a_b_2_1"], given, facts, tags=tags)
    assert rollout == Rollout(
        format="gapscope-rollout",
        source=Source("", 0),
        rollout_id="a_b_2",
        run="sums",
        step=5,
        split="train",
        group_id="a_b",
        group_origin="logged",
        sample_index=2,
        output_index=1,
        finish_reason="stop",
        reward=1.0,
        reward_parts=[RewardPart("acc", 1.0)],
        advantage=0.5,
        ground_truth="7",
        data_source="sums",
        prompt="ask",
        output="7!$",
        dialect="hermes",
        turns=[Turn(0, "stop", "4")],
        spans=[Span("text", 0, 0, 3, sampled=True)],
        tokens=Tokens(
            ids=ids("ask7!$"),
            n_prompt=3,
            logprobs=[None, None, None, -0.5, None, -0.25],
            logprob_source="rollout",
            entropies=[None, None, None, 1.5, None, 0.5],
            entropy_kind="full",
            sampled=[False, False, False, True, False, True],
            trainer_logprobs=[None, None, None, -0.75, None, -0.5],
        ),
        extra={
            "num_turns": 2,
            "turn_scores": [],
            "tool_rewards": [0.5],
            "min_global_steps": 4,
            "max_global_steps": 4,
            "pred": "seven",
        },
    )


def test_padding_is_dropped_and_counted_and_groups_are_put_together(tmp_path: Path) -> None:
    keys = ["b_0_0", "a_10_0", "pad0c_0_0", "a_9_0", "pad0c_1_0"]
    tags = [{"is_padding": key.startswith("pad")} for key in keys]
    file = tmp_path / "rollouts.jsonl"
    given = columns("1", "2", "$", "3", "$")
    assert VerlRecorder(file).record(keys, given, tags=tags) == Recorded(rollouts=3, padding=2, refused=0)
    assert [rollout.rollout_id for rollout in written(file)] == ["a_9", "a_10", "b_0"]
    assert VerlRecorder(file).record(keys, given) == Recorded(rollouts=3, padding=2, refused=0)


def test_a_group_whose_name_begins_with_pad_is_none_where_tags_say_so(tmp_path: Path) -> None:
    assert len(recorded(tmp_path, ["paddington_0_0"], columns("1"), tags=[{}])) == 1


def test_what_rejection_took_out_of_the_loss_was_sampled_all_the_same(tmp_path: Path) -> None:
    given = columns("12", "34", response_mask=[[0, 0], [1, 0]])
    rejected, kept = recorded(tmp_path, ["a_0_0", "a_1_0"], given)
    assert (rejected.status, kept.status) == ("masked", None)
    assert rejected.tokens is not None
    assert rejected.tokens.sampled == [False, False, False, True, True]


def test_log_probs_of_the_trainer_stand_in_only_where_the_weights_are_those_that_sampled(tmp_path: Path) -> None:
    given = columns("12", old_log_probs=[[-1.0, -2.0]])
    [same] = recorded(tmp_path / "same", ["a_0_0"], given, Facts(same_weights=True))
    [other] = recorded(tmp_path / "other", ["a_0_0"], given)
    assert same.tokens is not None
    assert other.tokens is not None
    assert (same.tokens.logprobs, same.tokens.logprob_source) == ([None, None, None, -1.0, -2.0], "trainer")
    assert same.tokens.trainer_logprobs is None
    assert (other.tokens.logprobs, other.tokens.logprob_source) == (None, None)
    assert other.tokens.trainer_logprobs == [None, None, None, -1.0, -2.0]


def test_rounding_is_put_right_and_what_is_no_number_is_absent(tmp_path: Path) -> None:
    odd = [[0.125, float("nan"), float("-inf"), 3.0]]
    given = columns("1234", rollout_log_probs=odd, entropy=[[-0.125, float("nan"), float("inf"), -3.0]])
    [rollout] = recorded(tmp_path, ["a_0_0"], given)
    assert rollout.tokens is not None
    assert rollout.tokens.logprobs == [None, None, None, 0.0, None, None, None]
    assert rollout.tokens.entropies == [None, None, None, 0.0, None, None, None]


def test_an_advantage_that_differs_from_token_to_token_is_none_of_the_rollout(tmp_path: Path) -> None:
    [rollout] = recorded(tmp_path, ["a_0_0"], columns("12", advantages=[[0.5, 0.25]]))
    assert rollout.advantage is None


@pytest.mark.parametrize(("response", "reason"), [("1$", "stop"), ("12", None), ("123", "length")])
def test_a_response_ends_by_its_last_token_or_by_its_length(tmp_path: Path, response: str, reason: str | None) -> None:
    facts = Facts(tokenizer=Letters(), response_length=3)
    [rollout] = recorded(tmp_path, ["a_0_0"], columns(response), facts)
    assert rollout.finish_reason == reason


def test_what_json_cannot_hold_is_left_out_and_named(tmp_path: Path) -> None:
    fields = [{"frame": object(), "scores": np.array([1, 2]), "reward_extra_info": {"acc": np.True_}}]
    [rollout] = recorded(tmp_path, ["a_0_0"], columns("1", extra_fields=fields))
    assert (rollout.extra, rollout.notes) == ({"scores": [1, 2]}, ["not_recorded:frame"])
    assert rollout.reward_parts == [RewardPart("acc", 1.0)]


@pytest.mark.parametrize(
    ("keys", "given", "said"),
    [
        (["a_0_0"], columns("1", "2"), r"`prompts` has 2 rows, and there are 1 keys"),
        (["a_0_0"], {"prompts": [ids("ask")]}, r"a batch of verl without `responses`"),
        (["a-0-0"], columns("1"), r"the key of a row is 'a-0-0', expected \{uid\}_\{session\}_\{output\}"),
    ],
)
def test_a_batch_that_contradicts_itself_is_an_error(
    tmp_path: Path, keys: list[str], given: dict[str, Any], said: str
) -> None:
    with pytest.raises(RecordError, match=said):
        recorded(tmp_path, keys, given)


def test_a_row_that_contradicts_itself_is_left_out_counted_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "rollouts.jsonl"
    given = columns("12", "34", "56", rollout_log_probs=[[-1.0], [-1.0, -1.0], []])
    with caplog.at_level(logging.WARNING):
        assert VerlRecorder(file).record(["a_0_0", "a_1_0", "a_2_0"], given) == Recorded(1, padding=0, refused=2)
    assert [rollout.rollout_id for rollout in written(file)] == ["a_1"]
    [message] = [record.getMessage() for record in caplog.records]
    assert message == ("a_0_0 is not recorded: `rollout_log_probs` has 1 values, and the response 2 tokens (said once)")


def padded() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """A `DataProto` of two rollouts of one prompt and one of another: prompts to the right, responses to the left."""
    tensors = {
        "prompts": [ids("_ask"), ids("_ask"), ids("asks")],
        "responses": [ids("12_"), ids("345"), ids("6__")],
        "attention_mask": [[0, 1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0]],
        "response_mask": [[1, 0, 0], [1, 1, 1], [1, 0, 0]],
        "rollout_log_probs": [[-1.0, 0.0, 0.0], [-2.0, -3.0, -4.0], [-5.0, 0.0, 0.0]],
        "token_level_scores": [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.5, 0.0, 0.0]],
    }
    others = {
        "uid": ["u_1", "u_1", "v"],
        "reward_model": [{"ground_truth": "2"}, {"ground_truth": "2"}, {}],
        "data_source": ["sums", "sums", "sums"],
    }
    return tensors, others, {"acc": [1.0, 0.0, 0.0], "too_short": [1.0]}


def test_padding_of_tokens_is_taken_away_by_the_attention_mask(tmp_path: Path) -> None:
    first, second, third = recorded(tmp_path, *unpadded(*padded()))
    assert [rollout.group_id for rollout in (first, second, third)] == ["u_1", "u_1", "v"]
    assert [rollout.sample_index for rollout in (first, second, third)] == [0, 1, 0]
    assert [rollout.reward for rollout in (first, second, third)] == [1.0, 0.0, 0.5]
    assert [rollout.reward_parts for rollout in (first, third)] == [[RewardPart("acc", 1.0)], [RewardPart("acc", 0.0)]]
    assert [rollout.ground_truth for rollout in (first, second, third)] == ["2", "2", None]
    assert first.tokens == Tokens(
        ids=ids("ask12"),
        n_prompt=3,
        logprobs=[None, None, None, -1.0, None],
        logprob_source="rollout",
        sampled=[False, False, False, True, False],
    )
    assert third.tokens is not None
    assert (third.tokens.ids, third.tokens.n_prompt) == (ids("asks6"), 4)


def test_arrays_and_lists_give_the_same(tmp_path: Path) -> None:
    tensors, others, extras = padded()
    arrays = {name: np.array(rows) for name, rows in tensors.items()}
    objects = {name: np.array(values, dtype=object) for name, values in others.items()}
    as_lists = recorded(tmp_path / "lists", *unpadded(tensors, others, extras))
    assert recorded(tmp_path / "arrays", *unpadded(arrays, objects, {"acc": np.array([1.0, 0.0, 0.0])})) == as_lists


def test_a_batch_without_uids_has_no_groups_and_is_an_error() -> None:
    tensors, _, extras = padded()
    with pytest.raises(RecordError, match="a batch of verl without `uid`"):
        unpadded(tensors, {}, extras)


class Settings(dict[str, Any]):
    """A configuration as verl's: keys that are attributes."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


def config(**trainer: Any) -> Settings:
    return Settings(
        trainer=Settings(experiment_name="sums", v1=Settings(trainer_mode="recorded_sync"), **trainer),
        algorithm=Settings(rollout_correction=Settings(bypass_mode=False)),
        actor_rollout_ref=Settings(rollout=Settings(response_length=8)),
    )


class Trainer:
    """The part of verl's V1 trainer that a recorder knows."""

    def __init__(self, config: Settings) -> None:
        self.config, self.tokenizer, self.global_steps = config, Letters(), 3
        self.mode_when_made = self.config.trainer.v1.trainer_mode

    def step(self, *_: dict[str, Any]) -> Any:
        return SimpleNamespace(keys=["a_0_0"], tags=[{}], partition_id="train")


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What TransferQueue holds; a test may change it."""
    size = len(CALL)
    held = columns(CALL, rollout_log_probs=[[-0.5] * size], old_log_probs=[[-1.0] * size])
    module = ModuleType("transfer_queue")
    module.kv_batch_get = lambda **_: held  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transfer_queue", module)
    return held


def test_a_recorded_trainer_writes_what_each_step_returns(tmp_path: Path, queue: dict[str, Any]) -> None:
    trainer = recording(Trainer, tmp_path / "rollouts.jsonl", mode="sync")(config=config())
    assert trainer.mode_when_made == "sync"
    assert trainer.step({}, {}).keys == ["a_0_0"]
    [rollout] = written(tmp_path / "rollouts.jsonl")
    assert (rollout.step, rollout.run, rollout.group_id, len(rollout.calls)) == (3, "sums", "a", 1)
    assert rollout.tokens is not None
    assert rollout.tokens.trainer_logprobs is not None


def test_in_bypass_mode_the_trainer_has_no_log_probs_of_its_own(tmp_path: Path, queue: dict[str, Any]) -> None:
    bypassing = config()
    bypassing.algorithm.rollout_correction.bypass_mode = True
    recording(Trainer, tmp_path / "rollouts.jsonl")(bypassing).step({}, {})
    [rollout] = written(tmp_path / "rollouts.jsonl")
    assert rollout.tokens is not None
    assert rollout.tokens.trainer_logprobs is None


def test_training_goes_on_where_recording_fails_which_is_said_once(
    tmp_path: Path, queue: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    trainer = recording(Trainer, tmp_path / "rollouts.jsonl")(config())
    mask = queue.pop("prompts")
    with caplog.at_level(logging.WARNING):
        assert trainer.step({}, {}).keys == ["a_0_0"]
        assert trainer.step({}, {}).keys == ["a_0_0"]
    [record] = caplog.records
    assert record.getMessage().startswith(
        "rollouts are not recorded, training goes on: a batch of verl without `prompts`"
    )
    assert record.exc_info is not None
    queue["prompts"] = mask
    trainer.step({}, {})
    assert len(written(tmp_path / "rollouts.jsonl")) == 1


def test_a_file_that_cannot_be_written_is_said_when_the_trainer_is_made(tmp_path: Path) -> None:
    made = recording(Trainer, tmp_path)
    with pytest.raises(RecordError, match="cannot write rollouts to"):
        made(config())


def test_a_class_that_is_no_trainer_is_refused_with_the_versions_that_are_known_to_work(tmp_path: Path) -> None:
    with pytest.raises(
        RecordError, match=r"Letters has neither `step` nor `_log_rollout_data`\n.*verl 0\.9\.0 and 0\.9\.1"
    ):
        recording(Letters, tmp_path / "rollouts.jsonl")


def test_registering_without_verl_says_which_versions_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("verl", "verl.trainer.ppo.v1"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RecordError, match=r"no V1 trainer of verl: .*\n.*verl 0\.9\.0 and 0\.9\.1"):
        register(tmp_path / "rollouts.jsonl")


class LegacyTrainer:
    """The part of the legacy trainer that a recorder knows."""

    def __init__(self, config: Settings) -> None:
        self.config, self.tokenizer, self.global_steps, self.logged = config, Letters(), 3, 0

    def _log_rollout_data(self, *_: Any) -> None:
        self.logged += 1


def test_the_legacy_trainer_logs_as_before_and_is_recorded(tmp_path: Path) -> None:
    tensors, others, extras = padded()
    trainer = recording(LegacyTrainer, tmp_path / "rollouts.jsonl")(config(rollout_data_dir="rollouts"))
    trainer._log_rollout_data(SimpleNamespace(batch=tensors, non_tensor_batch=others), extras, {}, "rollouts")
    assert trainer.logged == 1
    assert [rollout.output for rollout in written(tmp_path / "rollouts.jsonl")] == ["12", "345", "6"]


def test_a_legacy_trainer_that_would_log_nothing_or_forget_masks_is_refused(tmp_path: Path) -> None:
    made = recording(LegacyTrainer, tmp_path / "rollouts.jsonl")
    with pytest.raises(RecordError, match=r"without `trainer\.rollout_data_dir`"):
        made(config())
    rejecting = config(rollout_data_dir="rollouts")
    rejecting.algorithm.rollout_correction["rollout_rs"] = "token_k1"
    with pytest.raises(RecordError, match="forgets what was sampled"):
        made(rejecting)


def test_gapscope_reads_back_what_was_recorded(tmp_path: Path) -> None:
    facts = Facts(step=1, tokenizer=Letters())
    [rollout] = recorded(tmp_path, ["a_0_0"], columns(CALL, rm_scores=[[1.0] + [0.0] * (len(CALL) - 1)]), facts)
    [read] = gs.read([str(tmp_path / "rollouts.jsonl")])
    assert isinstance(read, Rollout)
    assert (read.spans, read.calls, read.tokens, read.reward) == (rollout.spans, rollout.calls, rollout.tokens, 1.0)
