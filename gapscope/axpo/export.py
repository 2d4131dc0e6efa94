"""A training batch from a resampled log: the rollouts of a step and the continuations of their prefixes.

The log is read twice: for verdicts, groups and continuations, and then row by row for tokens. Rewards are the verdicts
of the rule of correctness. A rollout whose tokens cannot be trained on still counts for the deviation of its group.

A source whose continuations were sampled from text keeps the advantage of its prefix, on its own tokens: what they
earned says what the prefix is worth, and no ratio of probabilities is taken of them. They themselves are left out, for
their first tokens need not be those that the source was sampled with.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, NamedTuple

from gapscope.axpo.advantages import Term
from gapscope.axpo.batch_file import About, BatchWriter, with_weights
from gapscope.axpo.exported import Exported
from gapscope.axpo.padded import Shape, write_padded
from gapscope.axpo.plan_check import check_plan
from gapscope.axpo.plan_file import read_plan
from gapscope.axpo.presets import preset_of
from gapscope.axpo.sequences import TokenSequence, sequence
from gapscope.axpo.term_weights import Weighed, term_weights
from gapscope.axpo.training_rows import Assignment, Training, assigned
from gapscope.config import Settings
from gapscope.correctness import Rule, decide
from gapscope.errors import CorrectnessError, InputError, NothingScanned, PlanError, SettingsError
from gapscope.ingest import Logs, Progress, paths_of, read, store_of
from gapscope.plan_options import PlanOptions, RecoveryOptions, departures, flat
from gapscope.planning import ReadOptions
from gapscope.plans import Plan
from gapscope.report import Scalar
from gapscope.rereading import options_of
from gapscope.rollouts import Place, Rollout
from gapscope.sources import STDIN
from gapscope.version import VERSION

if TYPE_CHECKING:
    from gapscope.store.store import Store

BatchFor = Literal["verl", "trl", "parquet"]

USED = (
    "advantage.preset", "advantage.ddof", "advantage.eps", "substitution", "weighting", "recovery.require_executed",
)  # fmt: skip
"""The options of a plan that a batch depends on, beside the rule of correctness."""

DEFAULTS = PlanOptions()


def export(
    logs: Logs,
    output: Path | str,
    *,
    to: BatchFor,
    options: PlanOptions = DEFAULTS,
    plan: Path | str | None = None,
    group: str | None = None,
    trainer: str | None = None,
    mapping: Mapping[str, str] | None = None,
    tokenizer: str | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write a batch to `output`, which gets the suffix `.parquet`, or `.npz` for a trainer, if it has none.

    Of `options` those named in `USED` count, and `correctness`. With the `plan` that was resampled they are its own;
    what `options` say themselves must be the same, and the log is checked to be of that plan. The other arguments are
    those of `audit`. The file is written whole or not at all.

    Raises:
        CorrectnessError: nothing says which rollouts are correct.
        PlanError: no row can be trained on, or the plan is another one.
        SettingsError: an option contradicts the plan, or the file cannot be written.
        GapscopeError: as `audit` does.

    """
    settings = settings or Settings.load()
    reading = ReadOptions.under(settings, trainer=trainer, group=group, mapping=mapping, tokenizer=tokenizer)
    paths = paths_of(logs)
    target = _target(Path(output), to, paths)
    planned = None if plan is None else read_plan(plan)
    chosen = options if planned is None else _agreed(options, planned)
    with store_of(paths, reading, tokenizer=tokenizer, progress=progress) as store:
        _require_originals(store, paths)
        rule = _judged(store, options.correctness, planned, settings)
        result = Exported(target, departures=[each.label for each in departures(_used(chosen)) if each.label])
        if planned is not None:
            check = check_plan(store, planned, str(plan))
            result.missing = check.wanted - check.found
        assignment = assigned(
            store,
            preset_of(chosen),
            substitution=chosen.substitution,
            require_executed=chosen.recovery.require_executed,
        )
        result.left_out.update(assignment.left_out)
        result.compared, result.apart = assignment.compared, assignment.apart
        result.farthest = assignment.farthest
        result.unseen = assignment.unseen if chosen.recovery.require_executed else 0
        ((result.refused,),) = store.rows("SELECT count(*) FROM refused")
        with _writing(target) as (folder, new):
            draft = folder / "draft.parquet"
            terms = _write_rows(store, assignment, reading, draft, result)
            if not terms:
                message, hint = result.nothing()
                raise PlanError(message, hint=hint)
            weights = term_weights([row.weighed for row in terms], chosen.weighting)
            if to == "parquet":
                with_weights(draft, new, weights, _about(chosen, rule, planned))
            else:
                shape = Shape(len(terms), *result.longest, result.tokens.total())
                advantages = (row.advantage for row in terms)
                write_padded(draft, new, to, shape, zip(advantages, weights, strict=True))
    return result


def _used(options: PlanOptions) -> PlanOptions:
    """The same options, those that no batch depends on at their defaults."""
    return PlanOptions(
        advantage=options.advantage,
        substitution=options.substitution,
        weighting=options.weighting,
        recovery=RecoveryOptions(require_executed=options.recovery.require_executed),
    )


def _about(options: PlanOptions, rule: str, plan: Plan | None) -> dict[str, Scalar]:
    chosen = flat(options)
    about: dict[str, Scalar] = {"version": VERSION, "correct": rule, "plan": plan.header.digest if plan else None}
    return about | {name: chosen[name] for name in USED}


def _agreed(options: PlanOptions, plan: Plan) -> PlanOptions:
    """The options of a plan; those that were given must be the same.

    Raises:
        SettingsError: one of them is not.

    """
    own = plan.header.options
    said = set(options.model_fields_set & {"substitution", "weighting"})
    for part in options.model_fields_set & {"advantage", "recovery"}:
        said |= {f"{part}.{name}" for name in getattr(options, part).model_fields_set}
    given, planned = _in_force(options), _in_force(own)
    for name in USED:
        if name in said and given[name] is not None and given[name] != planned[name]:
            message = f"{name} is {given[name]}, and the plan has {planned[name]}"
            raise SettingsError(message, hint="Leave it out, or resample a plan that was made with it.")
    rules = {plan.header.rule, plan.header.correct.rpartition(" (")[0]}
    if options.correctness is not None and str(Rule.parse(options.correctness)) not in map(_normal, rules):
        message = f"the rule {options.correctness!r} is not that of the plan, {plan.header.correct}"
        raise SettingsError(message, hint="Leave it out, or resample a plan that was made with it.")
    return own


def _in_force(options: PlanOptions) -> dict[str, Scalar]:
    preset = preset_of(options)
    return flat(options) | {"advantage.ddof": preset.ddof, "advantage.eps": preset.eps}


def _normal(rule: str | None) -> str | None:
    return None if rule is None else str(Rule.parse(rule))


def _judged(store: "Store", rule: str | None, plan: Plan | None, settings: Settings) -> str:
    """Make the verdicts, and say by which rule.

    Those that a resampled log states itself are of the rule of its plan, which its continuations need not have the
    fields for.

    Raises:
        CorrectnessError: nothing says which rollouts are correct.

    """
    if rule is None or plan is not None:
        stated = store.rows("SELECT 1 FROM rollouts WHERE parent_id IS NULL AND correct IS NOT NULL LIMIT 1")
        rule = None if stated else (rule or (plan.header.rule if plan else settings.correct))
    verdicts = decide(store, rule)
    if verdicts.chosen == "undefined":
        raise CorrectnessError(verdicts.message or "what is correct is not defined", hint=verdicts.hint)
    store.prepare()
    return f"{verdicts.rule} ({verdicts.chosen})"


def _require_originals(store: "Store", paths: list[str]) -> None:
    if not store.rows("SELECT 1 FROM rollouts LIMIT 1"):
        message = "nothing to export: no rollout was read"
        raise NothingScanned(message)
    if not store.rows("SELECT 1 FROM rollouts WHERE parent_id IS NULL LIMIT 1"):
        message = f"the rollouts that were branched from are not in {', '.join(paths)}: it holds continuations alone"
        raise PlanError(message, hint="Name the log of their step as well: gapscope export LOG RESAMPLED.")


class _Written(NamedTuple):
    """A row of the batch, for its weight."""

    weighed: Weighed
    advantage: float


def _write_rows(
    store: "Store", assignment: Assignment, reading: ReadOptions, draft: Path, result: Exported
) -> list[_Written]:
    """Write all rows that can be trained on, without their weights, and count them and the others."""
    written: list[_Written] = []
    branches: dict[int | None, set[Term]] = defaultdict(set)
    with BatchWriter(draft) as writer:
        for rollout, about, training in _read(store, assignment, reading):
            tokens = sequence(rollout, training)
            if not isinstance(tokens, TokenSequence):
                result.left_out[tokens] += 1
                continue
            writer.add(about, training, tokens)
            trained = int(tokens.trained.sum())
            weighed = Weighed(training.term, training.key, training.question, training.n, trained)
            written.append(_Written(weighed, training.advantage))
            result.rows[training.term] += 1
            result.tokens[training.term] += trained
            longest = (tokens.n_prompt, len(tokens.ids) - tokens.n_prompt)
            result.longest = max(result.longest[0], longest[0]), max(result.longest[1], longest[1])
            result.steps.add(about.step)
            result.images += bool(rollout.images)
            result.rescored += rollout.tokens is not None and rollout.tokens.logprob_source == "rescored"
            if training.term != "rollout":
                branches[training.source].add(training.term)
    result.alone = sum(terms == {"prefix"} for terms in branches.values())
    return written


def _read(store: "Store", assignment: Assignment, reading: ReadOptions) -> Iterator[tuple[Rollout, About, Training]]:
    """The rollouts that are trained on, file by file, in the order of the log.

    Raises:
        InputError: a file has changed since it was read.

    """
    # What tokens spell is in the store already.
    options = replace(options_of(store, reading), tokenizer=None)
    for path, trainer in store.rows("SELECT path, format FROM files WHERE copy_of IS NULL ORDER BY file"):
        # A line may hold several rollouts, whose rows have ids in their order.
        left: dict[Place, list[tuple[About, Training] | None]] = defaultdict(list)
        wanted = 0
        for place, output, row, *about in store.rows(_ABOUT, path=path):
            training = assignment.rows.get(row)
            left[place, output].append((About(*about), training) if training else None)
            wanted += training is not None
        for record in read(path, replace(options, trainer=trainer)) if wanted else ():
            waiting = left.get(record.place) if isinstance(record, Rollout) else None
            if isinstance(record, Rollout) and waiting and (found := waiting.pop()):
                wanted -= 1
                yield record, *found
        if wanted:
            message = f"{path} has changed since it was read: {wanted:,} rollouts are not where they were"
            raise InputError(message, hint="Read it again; a store does so with `gapscope ingest`.")


_ABOUT = """
SELECT
    coalesce(r.byte_offset, r.line), coalesce(r.output_index, 0), r.id, r.run, r.step,
    coalesce(r.group_id, printf('prompt:%x', r.prompt_hash)), r.rollout_id, r.parent_id
FROM rollouts AS r JOIN files AS f USING (file) WHERE f.path = $path
ORDER BY r.id DESC
"""


def _target(output: Path, to: BatchFor, paths: list[str]) -> Path:
    """The file to write; what can be seen to stand in its way is said before a long log is read."""
    target = output if output.suffix else output.with_name(output.name + (".parquet" if to == "parquet" else ".npz"))
    if STDIN in paths:
        message = "standard input cannot be exported: a log is read twice"
        raise SettingsError(message, hint="Write it to a file first.")
    if any(os.path.realpath(path) == os.path.realpath(target) for path in paths):
        message = f"{target} is the log that is read"
        raise SettingsError(message, hint="Write the batch to another file.")
    if target.is_dir() or not target.absolute().parent.is_dir():
        why = "it is a folder" if target.is_dir() else f"there is no folder {target.parent}"
        message = f"{target} cannot be written: {why}"
        raise SettingsError(message)
    return target


@contextmanager
def _writing(target: Path) -> Iterator[tuple[Path, Path]]:
    """A folder beside the file, and a file in it that takes its place when all is well."""
    try:
        with TemporaryDirectory(dir=target.absolute().parent, prefix=f".{target.name}.") as name:
            new = Path(name, "new")
            yield Path(name), new
            new.replace(target)
    except OSError as error:
        message = f"{target} cannot be written: {error.strerror or error}"
        raise SettingsError(message) from None
