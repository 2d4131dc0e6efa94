"""The recorder in verl's own training loop, beside verl's own files."""

import json
import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import gapscope as gs
from gapscope.recorders.verl import recording, register
from gapscope.rollouts import Rollout

pytestmark = [
    pytest.mark.verl,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        find_spec("verl") is None and os.environ.get("GAPSCOPE_REQUIRE_TRAINERS") != "1",
        reason="needs verl: tests/recorders/verl.txt and trainers.txt",
    ),
]

SPECIAL = re.compile(r"<\|im_(?:start|end)\|>")

# verl's files hold padding and no tokens, and their texts no special ones.
OTHERWISE = re.compile(r"rows_|response_chars_|.*_coverage|prefix_exact_share")


class Run:
    """Two steps of training, and what was written of them."""

    def __init__(self, folder: Path) -> None:
        import verl_training as training
        from verl.trainer.ppo.v1 import get_trainer_cls

        self.folder = folder / "verl"
        self.file = folder / "gapscope" / "rollouts.jsonl"
        self.training = training
        self.tokens = training.tokenizer(folder / "tokenizer")
        register(self.file)
        config = training.configuration("recorded_sync", self.folder)
        self.trainer = training.trained(get_trainer_cls("recorded_sync"), config, self.tokens)
        self.rows = [
            json.loads(line)
            for step in (1, 2)
            for line in (self.folder / f"{step}.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        self.rollouts = [rollout for rollout in gs.read([str(self.file)]) if isinstance(rollout, Rollout)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    import ray
    import transfer_queue as tq

    # TransferQueue asks for more processors than a small machine has; they are hardly used.
    ray.init(num_cpus=16, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        tq.init()
        yield Run(tmp_path_factory.mktemp("run"))
    finally:
        tq.close()
        ray.shutdown()


def test_rows_are_those_of_verls_own_files_without_the_padding(run: Run) -> None:
    assert len(run.rows) == 2 * 12
    real = [row for row in run.rows if not row["uid"].startswith("pad")]
    assert len(run.rollouts) == len(real) == 2 * run.training.PER_STEP
    for rollout, row in zip(run.rollouts, real, strict=True):
        assert f"{rollout.rollout_id}_{rollout.output_index}" == row["uid"]
        assert rollout.prompt is not None
        assert SPECIAL.sub("", rollout.prompt) == row["input"]
        assert SPECIAL.sub("", rollout.output) == row["output"]
        assert (rollout.reward, rollout.step, rollout.ground_truth) == (row["score"], row["step"], row["gts"])


def test_tokens_are_those_that_were_sampled_with_all_three_kinds_of_numbers(run: Run) -> None:
    training = run.training
    for rollout in run.rollouts:
        tokens = rollout.tokens
        assert tokens is not None
        assert tokens.ids is not None
        assert tokens.sampled is not None
        assert tokens.n_prompt is not None
        assert run.tokens.decode(tokens.ids) == f"{rollout.prompt}{rollout.output}"
        own = [place for place, sampled in enumerate(tokens.sampled) if sampled]
        assert [place for place, value in enumerate(tokens.logprobs or ()) if value is not None] == own
        assert [tokens.logprobs[place] for place in own] == [
            training.engine_logprob(place - tokens.n_prompt) for place in own
        ]
        assert [tokens.trainer_logprobs[place] for place in own] == [training.trainer_logprob(place) for place in own]
        assert [tokens.entropies[place] for place in own] == [training.entropy(place) for place in own]
        assert (tokens.logprob_source, tokens.entropy_kind) == ("rollout", "full")


def test_what_verl_leaves_out_of_its_files_is_recorded(run: Run) -> None:
    for rollout in run.rollouts:
        assert [(part.name, part.value) for part in rollout.reward_parts] == [("acc", rollout.reward)]
        assert rollout.extra["pred"] == ("three" if rollout.reward else "?")
        assert (rollout.run, rollout.data_source, rollout.finish_reason) == ("sums", "sums", "stop")
        assert rollout.step is not None
        assert rollout.reward is not None
        assert {turn.policy_version for turn in rollout.turns} == {str(rollout.step - 1)}
        # Two of the three sessions of each question are right: GRPO divides by the sample deviation, 1 / √3.
        assert rollout.advantage == pytest.approx((rollout.reward - 2 / 3) * 3**0.5, abs=1e-4)


def test_every_call_says_which_tokens_it_is_made_of(run: Run) -> None:
    calling = [rollout for rollout in run.rollouts if rollout.calls]
    assert len(calling) == 2 * 2 * 2
    for rollout in calling:
        [call] = rollout.calls
        assert call.tokens is not None
        text = run.tokens.decode(rollout.tokens.ids[call.tokens.start : call.tokens.end])
        assert text == '<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>'


def test_gapscope_says_the_same_of_both_as_far_as_both_can_say_it(run: Run, audit: Any) -> None:
    by_verl, by_recorder = audit(run.folder, correct="score>=1"), audit(run.file, correct="score>=1")
    assert by_verl.rollouts == by_recorder.rollouts
    assert by_verl.groups == by_recorder.groups
    assert (by_verl.groups.groups, by_verl.groups.eligible, by_verl.groups.size) == (4, 4, 3)
    observed = {name for name, one in by_verl.metrics.items() if one.value is not None and not OTHERWISE.match(name)}
    assert {"tool_attempt_rate", "accuracy"} <= observed
    assert {name: by_recorder.metrics[name].value for name in observed} == {
        name: by_verl.metrics[name].value for name in observed
    }


def test_the_queue_is_emptied_as_ever(run: Run) -> None:
    import transfer_queue as tq

    assert not (tq.kv_list("train") or {}).get("train")


def test_a_batch_of_the_legacy_trainer_is_recorded_beside_its_file(tmp_path: Path) -> None:
    import numpy as np
    import verl_training
    from omegaconf import OmegaConf
    from tensordict import TensorDict
    from torch import tensor
    from verl import DataProto
    from verl.trainer.ppo.ray_trainer import RayPPOTrainer

    class Made(RayPPOTrainer):
        """Made without a model."""

        def __init__(self, config: Any) -> None:
            self.config, self.tokenizer, self.global_steps = config, verl_training.tokenizer(tmp_path), 6
            self._init_dump_executor()

    tokens = verl_training.tokenizer(tmp_path)
    one, two, pad = *(tokens(text)["input_ids"] for text in ("ab", "c")), tokens.pad_token_id
    assert (len(one), len(two)) == (2, 1)
    rows = {
        "prompts": tensor([[pad, *two], one]),
        "responses": tensor([one, [*two, pad]]),
        "attention_mask": tensor([[0, 1, 1, 1], [1, 1, 1, 0]]),
        "response_mask": tensor([[1, 1], [1, 0]]),
        "old_log_probs": tensor([[-0.5, -0.25], [-1.0, 0.0]]),
        "token_level_scores": tensor([[0.0, 1.0], [0.0, 0.0]]),
    }
    gold = np.array([{"ground_truth": "b"}, {"ground_truth": "c"}], dtype=object)
    batch = DataProto(
        batch=TensorDict(rows, batch_size=2),
        non_tensor_batch={"uid": np.array(["u", "v"], dtype=object), "reward_model": gold},
    )
    config = OmegaConf.create(
        {
            "trainer": {"rollout_data_dir": str(tmp_path / "verl"), "experiment_name": "sums"},
            "algorithm": {},
            "actor_rollout_ref": {"rollout": {"response_length": 4}},
        }
    )
    trainer = recording(Made, tmp_path / "rollouts.jsonl")(config=config)
    trainer._log_rollout_data(batch, {"acc": np.array([True, False])}, {}, config.trainer.rollout_data_dir)
    trainer._shutdown_dump_executor()
    written = [json.loads(line) for line in (tmp_path / "verl" / "6.jsonl").read_text(encoding="utf-8").splitlines()]
    read = [rollout for rollout in gs.read([str(tmp_path / "rollouts.jsonl")]) if isinstance(rollout, Rollout)]
    assert [(r.prompt, r.output, r.ground_truth, r.reward, r.step) for r in read] == [
        (row["input"], row["output"], row["gts"], row["score"], row["step"]) for row in written
    ]
    assert [rollout.group_id for rollout in read] == ["u", "v"]
    assert [tokens and tokens.logprobs for tokens in (rollout.tokens for rollout in read)] == [
        [None, -0.5, -0.25],
        [None, None, -1.0],
    ]
    assert [[part.value for part in rollout.reward_parts] for rollout in read] == [[1.0], [0.0]]
