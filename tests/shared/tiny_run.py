"""A real GRPO run of the tiny policy, on a CPU, in seconds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tiny_policy


def short(completion_ids: Sequence[list[int]], **_: Any) -> list[float]:
    return [-len(ids) / 64 for ids in completion_ids]


def right(completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float]:
    last = [said if isinstance(said, str) else said[-1].get("content", "") for said in completions]
    return [float(said.strip() == wanted) for said, wanted in zip(last, answer, strict=True)]


def trainer(
    folder: Path,
    tokenizer: Any,
    model: Any,
    rewards: Sequence[Any],
    *,
    tools: Sequence[Any] = (tiny_policy.add,),
    evaluate: bool = False,
    plain: bool = False,
    **options: Any,
) -> Any:
    """Two questions a step, four rollouts of each, two micro-batches of four."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    prompts = [messages[0]["content"] if plain else messages for messages in tiny_policy.QUESTIONS]
    data = Dataset.from_dict({"prompt": prompts, "answer": tiny_policy.ANSWERS, "level": [1, 2]})
    config: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "num_generations": 4,
        "max_completion_length": 64,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "temperature": 0.8,
        "use_cpu": True,
        "bf16": False,
        "reward_weights": [1.0, 0.5][: len(rewards)],
        "log_completions": True,
        "num_completions_to_print": 0,
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": 1,
    }
    return GRPOTrainer(
        model=model,
        reward_funcs=list(rewards),
        args=GRPOConfig(**(config | options)),
        train_dataset=data,
        eval_dataset=data if evaluate else None,
        processing_class=tokenizer,
        tools=list(tools) or None,
    )
