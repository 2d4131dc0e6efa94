"""Complete rollouts from verl's trainers: what their own `{step}.jsonl` leaves out, and the queue or the batch holds.

The V1 trainer (the default since June 2026) keeps the batch of a step in TransferQueue, unpadded, from sampling until
`tq.kv_clear` at the end of the step: token ids, `rollout_log_probs` of the engine, `old_log_probs` and full-vocabulary
`entropy` of the trainer, `advantages`, and what the reward function said (verl 0.9.1, trainer/ppo/v1/trainer_base.py
L467-520 and L1634-1802, agent_loop_tq.py L177-227). Only `step()`, `global_steps`, `tokenizer` and `config` of the
trainer are used, which are public, as are `register_trainer` and `get_trainer_cls` of verl.trainer.ppo.v1.

`response_mask` is not what the policy wrote: rejection sampling takes rejected tokens out of it (rollout_corr_helper.py
L1060). `loss_mask` stays as it was sampled, and is preferred. Rows that fill up a mini-batch have the tag `is_padding`
(padding_utils.py L134, L202).

The legacy trainer (`trainer.use_v1=false`) has no method of its own for a step: its `_log_rollout_data` is extended,
which is private (trainer/ppo/ray_trainer.py L514; the same in 0.8.0 and 0.9).
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple

from gapscope.errors import RecordError, TokenizerError
from gapscope.recorders.verl_batches import (
    FIELDS,
    KNOWN_TO_WORK,
    NOTHING_KNOWN,
    Facts,
    rollout_of,
    rows_of,
    spelled,
    unpadded,
)
from gapscope.recorders.writer import RolloutWriter
from gapscope.rollouts import Json
from gapscope.syntax import recognise
from gapscope.tokenizer import Vocabulary, vocabulary_of_model

MODES = ("sync", "colocate_async", "separate_async")
"""The trainers that verl registers itself; the recorded ones are named `recorded_sync` and so on."""

_DIALECT_ROWS = 200

_log = logging.getLogger(__name__)


class Recorded(NamedTuple):
    """How many rows of one batch were written, were synthetic padding, and contradicted themselves."""

    rollouts: int
    padding: int
    refused: int


class VerlRecorder:
    """Appends the batches of verl to a file of `gapscope.rollout/1`.

    `dialect` is the name of a tool-call syntax, by default the one that each batch shows. `run` is by default verl's
    `trainer.experiment_name`. A resumed run appends the steps that it repeats.

    Raises:
        RecordError: the file cannot be written.

    """

    def __init__(self, path: str | PathLike[str], *, dialect: str | None = None, run: str | None = None) -> None:
        self._writer = RolloutWriter(path)
        self._dialect = dialect
        self._run = run
        self._vocabularies: dict[int, Vocabulary | None] = {}
        self._said: set[str] = set()

    def record(
        self,
        keys: Sequence[str],
        columns: Mapping[str, Any],
        facts: Facts = NOTHING_KNOWN,
        *,
        tags: Iterable[Mapping[str, Json]] | None = None,
    ) -> Recorded:
        """Write one batch: columns by verl's names, with one unpadded row for each key `{uid}_{session}_{output}`.

        `prompts`, `responses` and one of `loss_mask` and `response_mask` are needed. Per-token columns have a value for
        each token of the response. A row that contradicts itself is left out, counted, and the first one logged.

        Raises:
            RecordError: a column is missing or has not one row for each key, or the file cannot be written.

        """
        rows = list(rows_of(keys, columns, tags))
        real = sorted((row for row in rows if not row.padding), key=lambda row: row.place)
        vocabulary = self._vocabulary(facts.tokenizer)
        texts = [spelled(row.values["responses"], vocabulary, facts.tokenizer) for row in real]
        shown = recognise(text for text in texts[:_DIALECT_ROWS] if text is not None).dialect.name
        facts = facts._replace(run=self._run or facts.run)
        rollouts = []
        for row, text in zip(real, texts, strict=True):
            try:
                rollouts.append(rollout_of(row, text, facts, vocabulary, self._dialect or shown))
            except RecordError as error:
                self._say("row", "%s is not recorded: %s", row.key, error)
        self._writer.write(*rollouts)
        return Recorded(len(rollouts), len(rows) - len(real), len(real) - len(rollouts))

    def record_step(self, trainer: Any, batch: Any) -> Recorded | None:  # noqa: ANN401 (PPOTrainer, KVBatchMeta)
        """Write the batch that `step()` of a V1 trainer has returned, while TransferQueue still holds it.

        Whatever goes wrong, training goes on: it is logged once, and None is returned.
        """

        def write() -> Recorded:
            import transfer_queue  # type: ignore[import-not-found]

            data = transfer_queue.kv_batch_get(
                keys=batch.keys, partition_id=batch.partition_id, select_fields=list(FIELDS)
            )
            columns = {name: data[name] for name in FIELDS if name in data.keys()}  # noqa: SIM118 (a TensorDict)
            mode = trainer.config.trainer.v1.trainer_mode
            return self._record(trainer, batch.keys, columns, batch.tags, same_weights=mode == "sync")

        return self._unharmed(write)

    def record_batch(self, trainer: Any, batch: Any, extras: Mapping[str, Any]) -> Recorded | None:  # noqa: ANN401 (RayPPOTrainer, DataProto)
        """Write a padded `DataProto` of the legacy trainer, with what its reward function returned beside the score.

        Whatever goes wrong, training goes on: it is logged once, and None is returned.
        """

        def write() -> Recorded:
            keys, columns = unpadded(batch.batch, batch.non_tensor_batch, extras)
            return self._record(trainer, keys, columns, None, same_weights=True)

        return self._unharmed(write)

    def _record(
        self,
        trainer: Any,  # noqa: ANN401 (a trainer of verl)
        keys: Sequence[str],
        columns: dict[str, Any],
        tags: Iterable[Mapping[str, Json]] | None,
        *,
        same_weights: bool,
    ) -> Recorded:
        config = trainer.config
        if (config.algorithm.get("rollout_correction") or {}).get("bypass_mode"):
            # A copy of `rollout_log_probs` then, and no numbers of the trainer's own.
            columns.pop("old_log_probs", None)
        facts = Facts(
            step=trainer.global_steps,
            run=config.trainer.get("experiment_name"),
            tokenizer=trainer.tokenizer,
            same_weights=same_weights,
            response_length=config.actor_rollout_ref.rollout.get("response_length"),
        )
        done = self.record(keys, columns, facts, tags=tags)
        _log.info("step %s: %d rollouts recorded, %d rows of padding dropped, %d refused", facts.step, *done)
        return done

    def _unharmed(self, write: Callable[[], Recorded]) -> Recorded | None:
        try:
            return write()
        except Exception as error:  # noqa: BLE001 (a run of days is worth more than its log)
            self._say("batch", "rollouts are not recorded, training goes on: %s", error, exc_info=error)
            return None

    def _say(self, about: str, message: str, *values: object, exc_info: BaseException | None = None) -> None:
        if about not in self._said:
            self._said.add(about)
            _log.warning(f"{message} (said once)", *values, exc_info=exc_info)

    def _vocabulary(self, tokenizer: Any) -> Vocabulary | None:  # noqa: ANN401 (a tokenizer of transformers)
        """The bytes of its tokens; None where they cannot be spelled out one by one."""
        if id(tokenizer) not in self._vocabularies:
            try:
                found = vocabulary_of_model(tokenizer)
            except TokenizerError as error:
                self._say("tokenizer", "tokens are recorded, and not which of them a call is made of: %s", error)
                found = None
            self._vocabularies[id(tokenizer)] = found
        return self._vocabularies[id(tokenizer)]


def recording(
    trainer_class: type[Any],
    path: str | PathLike[str],
    *,
    mode: str | None = None,
    dialect: str | None = None,
    run: str | None = None,
) -> type[Any]:
    """A subclass of a V1 trainer, or of the legacy one, that records every batch it trains on.

    The file is opened when the trainer is made. `mode` is what `trainer.v1.trainer_mode` is set to before that: verl
    treats trainers of a name that it does not know as asynchronous ones.

    Raises:
        RecordError: the class has neither `step` nor `_log_rollout_data`; when the trainer is made, the file cannot be
            written, or the legacy trainer would not log rollouts, or not say what was sampled.

    """
    v1 = callable(getattr(trainer_class, "step", None))
    if not v1 and not callable(getattr(trainer_class, "_log_rollout_data", None)):
        message = f"{trainer_class.__name__} has neither `step` nor `_log_rollout_data`"
        raise RecordError(message, hint=f"Pass a trainer class of verl; known to work: {KNOWN_TO_WORK}.")

    def __init__(self: Any, *args: Any, **given: Any) -> None:  # noqa: ANN401, N807 (a method of the new class)
        config = given["config"] if "config" in given else args[0]
        if not v1:
            _check_legacy(config)
        elif mode is not None:
            config.trainer.v1.trainer_mode = mode
        self.rollout_recorder = VerlRecorder(path, dialect=dialect, run=run)
        trainer_class.__init__(self, *args, **given)

    def step(self: Any, *args: Any, **given: Any) -> Any:  # noqa: ANN401 (likewise)
        batch = trainer_class.step(self, *args, **given)
        self.rollout_recorder.record_step(self, batch)
        return batch

    def _log_rollout_data(self: Any, batch: Any, extras: Any, *args: Any, **given: Any) -> None:  # noqa: ANN401 (likewise)
        trainer_class._log_rollout_data(self, batch, extras, *args, **given)  # noqa: SLF001 (see the top)
        self.rollout_recorder.record_batch(self, batch, extras)

    hook = {"step": step} if v1 else {"_log_rollout_data": _log_rollout_data}
    return type(f"Recorded{trainer_class.__name__}", (trainer_class,), {"__init__": __init__, **hook})


def register(path: str | PathLike[str], *, dialect: str | None = None, run: str | None = None) -> None:
    """Register verl's V1 trainers once more as `recorded_sync`, `recorded_colocate_async`, `recorded_separate_async`.

    Call it in a module of your own and have verl import that, in each of its processes::

        VERL_USE_EXTERNAL_MODULES=my_module python -m verl.trainer.main_ppo trainer.v1.trainer_mode=recorded_sync …

    Only the process that trains opens the file. Recording takes its time there, some 10 ms for each rollout of 4,000
    tokens. Validation is not recorded: verl takes its rollouts out of the queue before anyone is called.

    Raises:
        RecordError: verl is not installed, or has no V1 trainers.

    """
    try:
        from verl.trainer.ppo.v1 import get_trainer_cls, register_trainer
    except ImportError as error:
        message = f"no V1 trainer of verl: {error}"
        raise RecordError(message, hint=f"Known to work: {KNOWN_TO_WORK}.") from error
    for mode in MODES:
        recorder = recording(get_trainer_cls(mode), path, mode=mode, dialect=dialect, run=run)
        register_trainer(f"recorded_{mode}")(recorder)


def _check_legacy(config: Any) -> None:  # noqa: ANN401 (a DictConfig)
    if not config.trainer.get("rollout_data_dir"):
        message = "the legacy trainer logs no rollouts without `trainer.rollout_data_dir`"
        raise RecordError(message, hint="Set trainer.rollout_data_dir to a folder.")
    correction = config.algorithm.get("rollout_correction") or {}
    if correction.get("rollout_rs") and not correction.get("bypass_mode"):
        message = "with `algorithm.rollout_correction.rollout_rs` the legacy trainer forgets what was sampled"
        raise RecordError(message, hint="Use the V1 trainer, whose `loss_mask` rejection leaves alone.")
