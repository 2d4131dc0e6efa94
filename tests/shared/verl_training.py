"""verl's own V1 trainer on CPU: its loop, queue, replay buffer, padding, advantages and files, without any model.

What needs a GPU is played: a policy that says what is written here, the log-probs that the trainer would compute, the
update, and the worker groups, which Ray would start.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from tiny_tokenizer import byte_level

QUESTIONS = ("1+2?", "2+2?")
CALL = '<think>\nadd\n</think>\n<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call><|im_end|>'
RESULT = "\n<|im_start|>user\n<tool_response>\n3\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
Piece = tuple[str, bool]

# What each of three sessions says to each question, and which pieces of that are its own. The first session has another
# output before this one.
SESSIONS: tuple[tuple[Piece, ...], ...] = (
    ((CALL, True), (RESULT, False), ("3<|im_end|>", True)),
    ((CALL, True), (RESULT, False), ("4<|im_end|>", True)),
    (("<think>\nno\n</think>\n3<|im_end|>", True),),
)
PER_STEP = len(QUESTIONS) * (len(SESSIONS) + 1)
PADDING = 12 - PER_STEP


def engine_logprob(place: int) -> float:
    """What the engine says of the token at this place of the response; exact in single precision."""
    return -(1 + place % 8) / 16


def trainer_logprob(place: int) -> float:
    """What the trainer says of the token at this place of prompt and response."""
    return -(1 + place) / 1024


def entropy(place: int) -> float:
    """The trainer's entropy before that token."""
    return (1 + place) / 512


def tokenizer(folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    byte_level(folder)
    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), eos_token="<|im_end|>", pad_token="<|im_end|>"
    )


def configuration(trainer_mode: str, folder: Path) -> Any:
    """verl's own configuration, for two prompts with three rollouts each and two steps."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf, open_dict

    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose(
            "ppo_trainer",
            overrides=[
                "algorithm.adv_estimator=grpo",
                "data.train_batch_size=2",
                "actor_rollout_ref.rollout.n=3",
                "actor_rollout_ref.actor.ppo_mini_batch_size=2",
                "trainer.logger=[console]",
                "trainer.experiment_name=sums",
                "trainer.val_before_train=false",
                "trainer.save_freq=-1",
                "trainer.test_freq=-1",
                f"trainer.v1.trainer_mode={trainer_mode}",
                f"trainer.rollout_data_dir={folder}",
            ],
        )
    OmegaConf.resolve(config)
    with open_dict(config):
        config.transfer_queue.enable = True
    return config


def trained(trainer_class: type[Any], config: Any, tokens: Any) -> Any:
    """Two steps of training, from a trainer that is made as verl makes it."""
    trainer = trainer_class(config=config)
    trainer.tokenizer = tokens
    trainer.global_steps, trainer.steps_per_epoch, trainer.total_training_steps = 0, 2, 2
    trainer.train_dataloader_it = prompts()
    trainer.actor_rollout_wg = Workers()
    trainer.reward_loop_manager = SimpleNamespace(reward_loop_worker_handles=[])
    trainer.checkpoint_manager = SimpleNamespace(update_weights=lambda _: None, sleep_replicas=lambda: None)
    trainer.resource_pool_manager = SimpleNamespace(get_n_gpus=lambda: 1)
    trainer.llm_server_manager = None
    trainer.replay_buffer.poll_interval = 0.05
    trainer._init_dump_executor()
    trainer.fit(Agents(tokens))
    return trainer


def prompts() -> Iterator[dict[str, Any]]:
    """What verl's data loader gives of one batch, again and again."""
    while True:
        yield {
            "raw_prompt": _objects([[{"role": "user", "content": question}] for question in QUESTIONS]),
            "reward_model": _objects([{"ground_truth": "3", "style": "rule"}] * len(QUESTIONS)),
            "data_source": _objects(["sums"] * len(QUESTIONS)),
        }


def _objects(values: list[Any]) -> Any:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


class Agents:
    """The agent loops, whose outputs go through verl's own code into the queue."""

    def __init__(self, tokens: Any) -> None:
        self.tokens = tokens

    def generate_sequences(self, batch: Any) -> None:
        import transfer_queue as tq

        step = batch["global_steps"]
        for uid, asked, gold, source in zip(
            *(list(batch[name]) for name in ("uid", "raw_prompt", "reward_model", "data_source")), strict=True
        ):
            shared = {"uid": uid, "reward_model": gold, "data_source": source, "global_steps": step}
            for session, pieces in enumerate(SESSIONS):
                question = asked[0]["content"]
                outputs = [self._output(question, pieces, step)]
                if session == 0:
                    first = self._output(question, (("let me see<|im_end|>", True),), step)
                    outputs = [first, self._output(f"{question} Go on.", pieces, step)]
                asyncio.run(_put(outputs, session_id=session, **shared))
            tq.kv_put(key=uid, partition_id="train", tag={"status": "finished"})

    def _output(self, question: str, pieces: tuple[Piece, ...], step: int) -> Any:
        from verl.experimental.agent_loop import AgentLoopOutput

        ids, mask = [], []
        for text, own in pieces:
            some = self.tokens(text)["input_ids"]
            ids += some
            mask += [int(own)] * len(some)
        right = pieces[-1][0].startswith("3") or "\n3" in pieces[-1][0]
        return AgentLoopOutput(
            prompt_ids=self.tokens(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")["input_ids"],
            response_ids=ids,
            response_mask=mask,
            response_logprobs=[engine_logprob(place) if own else 0.0 for place, own in enumerate(mask)],
            reward_score=float(right),
            num_turns=1 + len(pieces),
            metrics={},
            extra_fields={
                "reward_extra_info": {"acc": np.bool_(right), "pred": "three" if right else "?"},
                "turn_scores": [],
                "tool_rewards": [],
                "min_global_steps": step - 1,
                "max_global_steps": step - 1,
            },
        )


async def _put(outputs: list[Any], **kwargs: Any) -> None:
    from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

    async def nothing(*_: Any, **__: Any) -> None:
        """Scores are there already, and there is no teacher."""

    worker = SimpleNamespace(
        _compute_score=nothing,
        _compute_teacher_logprobs=nothing,
        _compute_multi_modal_inputs=lambda *_: {},
        _compute_position_ids=lambda ids, *_: ids * 0,
    )
    await AgentLoopWorkerTQ.__ray_actor_class__._agent_loop_postprocess(worker, outputs, validate=False, **kwargs)


class Workers:
    """The workers with the model: what they compute goes into the queue, at each token for the one after it."""

    _dispatch_info = {"actor": [0]}  # noqa: RUF012 (verl looks for it under this name)

    def compute_log_prob(self, batch: Any) -> Any:
        import torch
        import transfer_queue as tq
        from tensordict import TensorDict

        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["input_ids"])
        sizes = data["input_ids"].offsets().diff().tolist()
        computed = {
            name: torch.nested.as_nested_tensor(
                [torch.tensor([value(place + 1) for place in range(size)]) for size in sizes], layout=torch.jagged
            )
            for name, value in (("log_probs", trainer_logprob), ("entropy", entropy))
        }
        return tq.kv_batch_put(
            keys=batch.keys, partition_id=batch.partition_id, fields=TensorDict(computed, batch_size=[len(sizes)])
        )

    def update_actor(self, _: Any) -> Any:
        return {"metrics": {"loss": [0.0], "mfu": [0.0], "grad_norm": [1.0]}}
