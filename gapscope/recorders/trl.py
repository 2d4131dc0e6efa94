"""Complete rollouts from TRL's GRPOTrainer: a reward-function wrapper and a callback, nothing patched or overridden.

Reward functions are given prompts, completions, token ids and columns of the data set; a callback is called before the
weights change. The rest of a rollout TRL keeps to itself. It is read, and never written, from two attributes of the
trainer: `_logs` (rewards of each function and advantages, in the order of generation) and `_buffered_inputs` (prompt
token ids, which tokens the policy wrote, and the log-probs of vLLM). Both are those of TRL 1.16.

TRL shuffles `_buffered_inputs`. Its rows are found again by their completion ids, and where rollouts of two prompts
have the same ones, by the prompt's own ids. Rollouts of one prompt that consist of the same tokens are interchangeable.

The batches of an evaluation are kept nowhere: its rollouts are recorded as text with rewards, and without tokens.
"""

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial, wraps
from os import PathLike
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec

from gapscope.errors import RecordError, TokenizerError
from gapscope.recorders.recording import recorded
from gapscope.recorders.trl_batches import Kept, found, kept
from gapscope.recorders.writer import RolloutWriter
from gapscope.rollouts import Json, Rollout
from gapscope.syntax import recognise
from gapscope.tokenizer import Vocabulary, vocabulary_of_model

_READ = ("_logs", "_buffered_inputs")
_NO_COLUMNS = frozenset({"prompts", "completions", "completion_ids", "environments"})


class _Batch(NamedTuple):
    """What the reward functions were given of one generation batch of this process, in the order of generation."""

    prompts: Sequence[Json]
    completions: Sequence[Json]
    completion_ids: Sequence[list[int]]
    columns: dict[str, list[Json]]
    step: int
    training: bool


class TRLRecorder:
    """Writes every rollout of a GRPOTrainer to a file, as `gapscope.rollout/1`.

    Wrap the reward functions, then attach the recorder to the trainer::

        recorder = TRLRecorder("rollouts.jsonl")
        trainer = GRPOTrainer(model, reward_funcs=[recorder.wrap(accuracy)], args=args, train_dataset=data)
        recorder.attach(trainer)
        trainer.train()

    With `logprobs`, one more forward pass over each generation batch, without gradient, in TRL's own micro-batches and
    precision, gives log-probs and full-vocabulary entropies under the weights that sampled. It takes about a third of
    the time that the two passes of a training step take. The numbers are of the softmax of the logits divided by
    `temperature`, before top-k, top-p, min-p and repetition penalty narrow it down. Log-probs of vLLM, where TRL has
    them, are recorded as those of the engine that sampled, with those of the forward pass beside them as the trainer's.
    Rollouts with images have only what TRL itself computes.

    `step` is that of TRL's own file of completions: the optimiser step that first trains on the rollout, from 1 on. In
    an evaluation it is the number of steps taken. `ground_truth` names the column of the data set that holds it; all
    columns are recorded under `extra`. `dialect` is by default the syntax of the chat template. All processes of a run
    append to the same file.

    Raises:
        RecordError: the file cannot be written.

    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        logprobs: bool = True,
        ground_truth: str | None = None,
        dialect: str | None = None,
        run: str | None = None,
    ) -> None:
        self._writer = RolloutWriter(path)
        self._logprobs = logprobs
        self._ground_truth = ground_truth
        self._dialect = dialect
        self._run = run
        self._trainer: Any = None
        self._vocabulary: Vocabulary | None = None
        self._waiting: _Batch | None = None
        self._session: str | None = None
        self._batches: dict[tuple[str, int], int] = defaultdict(int)

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same reward function, which also tells the recorder what it is given; one of them is enough."""
        innermost: Any = function
        while isinstance(innermost, partial):
            innermost = innermost.func

        def seen(*args: Any, **given: Any) -> Any:  # noqa: ANN401 (whatever the function takes and gives)
            self._see(given)
            return function(*args, **given)

        async def seen_later(*args: Any, **given: Any) -> Any:  # noqa: ANN401 (likewise)
            self._see(given)
            return await function(*args, **given)

        later = inspect.iscoroutinefunction(innermost) or inspect.iscoroutinefunction(type(innermost).__call__)
        wrapper = wraps(innermost)(seen_later if later else seen)
        # TRL names the reward after it; an object that can be called has no name of its own.
        wrapper.__name__ = getattr(innermost, "__name__", type(innermost).__name__)
        return wrapper

    def attach(self, trainer: Any) -> None:  # noqa: ANN401 (a GRPOTrainer, which is not imported here)
        """Record what this trainer generates from now on.

        Raises:
            RecordError: it is no GRPOTrainer of a known version, or its weights change before they can be asked.

        """
        missing = [name for name in _READ if not hasattr(trainer, name)]
        if missing:
            message = f"{type(trainer).__name__} has no `{missing[0]}`, from which rollouts are read"
            raise RecordError(message, hint="The recorder is for the GRPOTrainer of TRL 1.16.")
        if self._logprobs and trainer.is_deepspeed_enabled and trainer.args.gradient_accumulation_steps == 1:
            message = "DeepSpeed changes the weights before any callback when gradients are not accumulated"
            raise RecordError(message, hint="Set gradient_accumulation_steps to 2 or more, or pass logprobs=False.")
        names = trainer.reward_func_names
        if len(set(names)) < len(names):
            message = f"two reward functions share a name: {', '.join(names)}"
            raise RecordError(message, hint="TRL logs rewards by name: give each function its own.")
        self._trainer = trainer
        self._vocabulary = _vocabulary(trainer)
        self._dialect = self._dialect or _syntax_of_template(trainer)
        trainer.add_callback(_callback(self._record))

    def _see(self, given: dict[str, Any]) -> None:
        """Keep what a reward function is given until its batch can be recorded."""
        if "trainer_state" not in given:
            return
        if self._trainer is None:
            message = "the recorder knows no trainer"
            raise RecordError(message, hint="Call `recorder.attach(trainer)` before `trainer.train()`.")
        ids = given["completion_ids"]
        if self._waiting is None or self._waiting.completion_ids is not ids:
            step, training = given["trainer_state"].global_step, self._trainer.model.training
            columns = {name: list(values) for name, values in given.items() if _is_column(name, values, len(ids))}
            step = step + 1 if training else step
            self._waiting = _Batch(given["prompts"], given["completions"], ids, columns, step, training)

    def _record(self) -> None:
        """Write the batch that waits, if one does."""
        batch, self._waiting = self._waiting, None
        if batch is None:
            return
        self._session = self._session or _agreed(uuid4().hex[:8])
        split = "train" if batch.training else "validation"
        name = f"{self._session}-{split}-{batch.step}-{self._batches[split, batch.step]}"
        self._batches[split, batch.step] += 1
        self._writer.write(*self._rollouts(batch, name))

    def _rollouts(self, batch: _Batch, name: str) -> Iterator[Rollout]:
        trainer, size = self._trainer, len(batch.completion_ids)
        first, everyone = trainer.accelerator.process_index * size, trainer.accelerator.num_processes * size
        logs = trainer._logs  # noqa: SLF001 (nothing else says the advantages, and the rewards of models)
        rewards = {part: _latest(logs["rewards"][part], everyone)[first:] for part in trainer.reward_func_names}
        advantages = _latest(logs["advantages"], everyone)[first:]
        weights = dict(zip(trainer.reward_func_names, trainer.reward_weights.tolist(), strict=True))
        texts = [self._spelled(ids) for ids in batch.completion_ids]
        dialect = self._dialect or recognise(texts).dialect.name
        rows: list[Kept | None] = [None] * size
        if batch.training:
            rows = found(trainer, batch.prompts, batch.completion_ids, kept(trainer, forward=self._logprobs))
        per_group = trainer.num_generations if batch.training else trainer.num_generations_eval
        for index, (ids, row) in enumerate(zip(batch.completion_ids, rows, strict=True)):
            group, sample = divmod(first + index, per_group)
            parts = {part: _number(values[index]) for part, values in rewards.items()}
            known = [weights[part] * value for part, value in parts.items() if value is not None]
            columns = {column: values[index] for column, values in batch.columns.items()}
            tokens = {} if row is None else _tokens(row, ids, batch.completions[index], trainer)
            all_ids = [*tokens.get("prompt_ids", ()), *ids]
            rollout = recorded(
                _without_images(batch.prompts[index]),
                texts[index],
                **tokens,
                step=batch.step,
                group=f"{name}-{group}",
                sample_index=sample,
                rollout_id=f"{name}-{group}-{sample}",
                reward=sum(known) if known else None,
                reward_parts=parts,
                reward_weights=weights,
                advantage=advantages[index] if batch.training else None,
                ground_truth=columns.get(self._ground_truth or ""),
                finish_reason=_finish_reason(trainer, ids),
                tools=_tools(trainer),
                tokenizer=self._vocabulary if self._vocabulary and self._vocabulary.pieces(all_ids) else None,
                dialect=dialect,
                run=self._run,
                split="train" if batch.training else "validation",
                status="masked" if row is not None and row.left_out else None,
                extra=columns,
            )
            if batch.training and not tokens:
                rollout.notes.append("tokens_not_kept")
            yield rollout

    def _spelled(self, ids: list[int]) -> str:
        """A completion as text, special tokens and all."""
        pieces = self._vocabulary.pieces(ids) if self._vocabulary else None
        if pieces is None:
            text: str = _tokenizer(self._trainer).decode(ids, skip_special_tokens=False)
            return text
        return b"".join(pieces).decode("utf-8", "replace")


def _tokens(row: Kept, ids: list[int], completion: Json, trainer: Any) -> dict[str, Any]:  # noqa: ANN401 (a GRPOTrainer)
    """The tokens of one rollout as `recorded` takes them; none if it is not known which of them were sampled."""
    size, mask = len(ids), row.sampled
    if row.left_out and mask is not None:
        # TRL blanks the mask of what it leaves out; without any result all of it was sampled.
        if trainer.rollout_func is not None or any(said["role"] == "tool" for said in completion):
            return {}
        mask = None
    logprobs, source = (row.trainer, "trainer") if row.engine is None else (row.engine, "rollout")
    return {
        "prompt_ids": row.prompt_ids,
        "completion_ids": ids,
        "mask": [1] * size if mask is None else mask[:size],
        "logprobs": logprobs and logprobs[:size],
        "logprob_source": source,
        "trainer_logprobs": row.engine and row.trainer and row.trainer[:size],
        "entropies": row.entropies and row.entropies[:size],
    }


def _latest(values: Iterable[float], count: int) -> list[float | None]:
    """The last so many, which are of the latest batch; None for those that TRL has let go of already."""
    listed = list(values)[-count:]
    return [None] * (count - len(listed)) + listed


def _number(value: float | None) -> float | None:
    """NaN is what TRL has where a function gave no reward."""
    return None if value is None or value != value else value  # noqa: PLR0124 (it is NaN then)


def _is_column(name: str, values: Any, size: int) -> bool:  # noqa: ANN401 (anything that reward functions are given)
    """Whether it is a column of the data set that a log can hold."""
    if name in _NO_COLUMNS or not isinstance(values, list) or len(values) != size:
        return False
    try:
        msgspec.json.encode(values)
    except (TypeError, UnicodeEncodeError, RecursionError):
        return False
    return True


def _without_images(prompt: Json) -> Json:
    """A prompt whose images, which TRL puts into its messages, are only said to be there."""
    if isinstance(prompt, dict):
        return (
            {"type": "image"} if prompt.get("type") == "image" else {k: _without_images(v) for k, v in prompt.items()}
        )
    return [_without_images(item) for item in prompt] if isinstance(prompt, list) else prompt


def _finish_reason(trainer: Any, ids: list[int]) -> str | None:  # noqa: ANN401 (a GRPOTrainer)
    if ids and ids[-1] in trainer.eos_token_ids:
        return "stop"
    return "length" if len(ids) >= trainer.max_completion_length else None


def _tools(trainer: Any) -> list[str] | None:  # noqa: ANN401 (a GRPOTrainer)
    """The names of the tools; None where each environment has its own, which then stand in the prompt."""
    if trainer.environment_factories is not None or trainer.rollout_func is not None:
        return None
    return [tool.__name__ for tool in trainer.tools]


def _tokenizer(trainer: Any) -> Any:  # noqa: ANN401 (a GRPOTrainer, a tokenizer)
    return getattr(trainer.processing_class, "tokenizer", trainer.processing_class)


def _vocabulary(trainer: Any) -> Vocabulary | None:  # noqa: ANN401 (a GRPOTrainer)
    """The bytes of the model's tokens; None where its tokenizer is none whose tokens can be spelled out."""
    try:
        return vocabulary_of_model(_tokenizer(trainer))
    except TokenizerError:
        return None


def _syntax_of_template(trainer: Any) -> str | None:  # noqa: ANN401 (a GRPOTrainer)
    """The dialect in which the chat template writes a call: the only one that TRL reads."""
    if not trainer.tools:
        return None
    call = {"type": "function", "function": {"name": trainer.tools[0].__name__, "arguments": {"x": 1}}}
    said = [{"role": "user", "content": ""}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    text = trainer.processing_class.apply_chat_template(
        said, chat_template=trainer.chat_template, tokenize=False, **trainer.chat_template_kwargs
    )
    recognised = recognise([text])
    return recognised.dialect.name if recognised.rows else None


def _agreed(name: str) -> str:
    """The name that the first process has chosen."""
    from accelerate.utils import broadcast_object_list

    names: list[str] = broadcast_object_list([name])
    return names[0]


def _callback(record: Callable[[], None]) -> Any:  # noqa: ANN401 (a TrainerCallback)
    """Calls `record` at the first occasion after a batch was generated, and before the weights change."""
    from transformers import TrainerCallback

    class Recording(TrainerCallback):  # type: ignore[misc]
        def on_substep_end(self, *_: Any, **__: Any) -> None:  # noqa: ANN401 (nothing of it is looked at)
            record()

        on_pre_optimizer_step = on_prediction_step = on_substep_end

    return Recording()
