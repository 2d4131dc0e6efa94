"""What TRL's GRPOTrainer keeps of a generation batch, found again for each rollout, and scored once more on demand."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from typing import Any, NamedTuple, TypeAlias

from gapscope.rollouts import Json

_PICTURES = ("pixel_values", "image_grid_thw", "pixel_attention_mask", "image_sizes", "image_position_ids")

Numbers: TypeAlias = list[float | None]
_Value: TypeAlias = Callable[[float], float | None]


class Kept(NamedTuple):
    """One rollout as TRL trains on it: arrays over its completion, beyond whose end they are padded.

    `sampled` is 1 where the policy wrote the token, None where there are no tools. `left_out` says that the loss
    counts none of it, which wipes out `sampled`, too. `engine` are the log-probs that vLLM gave, `trainer` those that
    TRL or the recorder computed with the weights that sampled.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    sampled: list[int] | None
    left_out: bool
    engine: Numbers | None
    trainer: Numbers | None
    entropies: Numbers | None


def kept(trainer: Any, *, forward: bool) -> Iterator[Kept]:  # noqa: ANN401 (a GRPOTrainer)
    """The rollouts of the latest generation batch of this process, as TRL has shuffled them.

    With `forward` they are scored, which must be before the weights change.
    """
    for chunk in trainer._buffered_inputs:  # noqa: SLF001 (nothing else says which tokens the policy wrote)
        pictures = any(chunk.get(name) is not None for name in _PICTURES)
        scored = _scored(trainer, chunk) if forward and not pictures else None
        logprobs, entropies = scored or (_rows(chunk, "old_per_token_logps", _logprob), None)
        masks, engine = chunk.get("tool_mask"), _rows(chunk, "sampling_per_token_logps", _logprob)
        for row, completion in enumerate(chunk["completion_ids"].tolist()):
            prompt = chunk["prompt_ids"][row][chunk["prompt_mask"][row].bool()]
            yield Kept(
                prompt_ids=prompt.tolist(),
                completion_ids=completion,
                sampled=None if masks is None else masks[row].tolist(),
                left_out=not chunk["completion_mask"][row].any(),
                engine=None if engine is None else engine[row],
                trainer=None if logprobs is None else logprobs[row],
                entropies=None if entropies is None else entropies[row],
            )


def found(
    trainer: Any,  # noqa: ANN401 (a GRPOTrainer)
    prompts: Sequence[Json],
    completion_ids: Sequence[list[int]],
    rows: Iterator[Kept],
) -> list[Kept | None]:
    """For each rollout in the order of generation the row that TRL keeps of it; None where that is not certain."""
    tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
    waiting: dict[tuple[int, ...], list[Kept]] = defaultdict(list)
    for row in rows:
        waiting[_unpadded(row.completion_ids, tokenizer.pad_token_id)].append(row)
    taken: list[Kept | None] = []
    for prompt, ids in zip(prompts, completion_ids, strict=True):
        same = waiting[_unpadded(ids, tokenizer.pad_token_id)]
        if any(row.prompt_ids != same[0].prompt_ids for row in same):
            wanted = _prompt_ids(trainer, prompt)
            place = next((place for place, row in enumerate(same) if row.prompt_ids == wanted), None)
        else:
            place = 0 if same else None
        taken.append(None if place is None else same.pop(place))
    return taken


def _unpadded(ids: Sequence[int], padding: int) -> tuple[int, ...]:
    end = len(ids)
    while end and ids[end - 1] == padding:
        end -= 1
    return tuple(ids[:end])


def _prompt_ids(trainer: Any, prompt: Json) -> list[int]:  # noqa: ANN401 (a GRPOTrainer)
    """A prompt as the trainer renders it, unless an environment adds tools of its own."""
    if isinstance(prompt, str):
        return list(trainer.processing_class(text=[prompt])["input_ids"][0])
    rendered = trainer.processing_class.apply_chat_template(
        conversation=[prompt],
        tools=trainer.tools or None,
        chat_template=trainer.chat_template,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        **trainer.chat_template_kwargs,
    )
    return list(rendered["input_ids"][0])


def _scored(trainer: Any, chunk: Any) -> tuple[list[Numbers], list[Numbers]]:  # noqa: ANN401 (GRPOTrainer, dict)
    """Log-probs and entropies of the completions of one micro-batch, in evaluation mode and without gradient.

    The trainer's own fused head gives both without the logits of the whole vocabulary for all tokens at once. Padding
    behind a completion is attended to by nothing before it.
    """
    import torch

    prompt, completion = chunk["prompt_ids"], chunk["completion_ids"]
    ids = torch.cat([prompt, completion], dim=1)
    labels = ids.clone()
    labels[:, : prompt.size(1)] = -100
    model = trainer.model
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad(), trainer.accelerator.autocast():
            output = model(
                input_ids=ids,
                attention_mask=torch.cat([chunk["prompt_mask"], torch.ones_like(completion)], dim=1),
                labels=labels,
                fused_lm_head=True,
            )
    finally:
        for module, mode in modes:
            module.training = mode
    size = completion.size(1)
    return _each(output.log_probs[:, -size:], _logprob), _each(output.entropy[:, -size:], _entropy)


def _rows(chunk: Any, name: str, value: _Value) -> list[Numbers] | None:  # noqa: ANN401 (a dict of tensors)
    return None if chunk.get(name) is None else _each(chunk[name], value)


def _each(tensor: Any, value: _Value) -> list[Numbers]:  # noqa: ANN401 (a tensor)
    return [[value(number) for number in row] for row in tensor.float().tolist()]


def _logprob(value: float) -> float | None:
    """None where a diverged model or vLLM gave no number; what is above 0 is so by rounding."""
    return min(value, 0.0) if isfinite(value) else None


def _entropy(value: float) -> float | None:
    return max(value, 0.0) if isfinite(value) else None
