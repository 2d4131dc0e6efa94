"""A plan of prefixes to resample, from a log or a store (axpo, section 2; arXiv:2605.28774, section 3.2).

Groups trigger, candidates are ranked, and the budget of each step is spent breadth first. What is chosen is read again
from the log, with its token ids and texts. Equal logs and options give equal bytes.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from gapscope.axpo.allocation import allocate, slots
from gapscope.axpo.candidates import Batch, Candidate, Group, batches, identity, identity_of, sureness
from gapscope.axpo.frozen import frozen
from gapscope.axpo.plan_file import sealed
from gapscope.axpo.plan_notes import notes_on, refuse_unrankable, require_groups
from gapscope.config import Settings
from gapscope.correctness import decide
from gapscope.errors import CorrectnessError, SettingsError
from gapscope.ingest import Logs, paths_of, store_of
from gapscope.plan_options import PlanOptions, departures
from gapscope.planning import ReadOptions
from gapscope.plans import (
    Budget,
    Counts,
    Exactness,
    Expectation,
    Header,
    Origin,
    Plan,
    PlanFile,
    PlannedImage,
    PlannedPrefix,
    PlanSource,
    StepBudget,
    line,
)
from gapscope.rereading import Spot, Was, reread
from gapscope.rollouts import Rollout
from gapscope.sources import STDIN
from gapscope.version import VERSION

if TYPE_CHECKING:
    from gapscope.store.store import Store

DEFAULT_SEED = 0
_SEEDS = 2**31
"""Engines take seeds of 32 bits with a sign."""

ANCHORS = (
    (0.0315, "if the paper's 12 % of groups (section 4.5) were prefixes of K = 4 whose continuations are alike"),
    (0.0398, "if its offline 15 % (appendix D) were"),
)
"""Chances of a continuation that are implied by the paper's recovery rates; stated, never taken for granted."""

DEFAULTS = PlanOptions()


class Chosen(NamedTuple):
    """A candidate that got a slot: the groups around it, and its rank among the candidates of its own, from 0."""

    batch: Batch
    group: Group
    candidate: Candidate
    rank: int


class Draft(NamedTuple):
    """A plan before the prefixes themselves are read: `header.digest` is still empty."""

    header: Header
    batches: list[Batch]
    chosen: list[Chosen]


def plan(
    logs: Logs,
    options: PlanOptions = DEFAULTS,
    *,
    group: str | None = None,
    trainer: str | None = None,
    mapping: Mapping[str, str] | None = None,
    tokenizer: str | None = None,
    settings: Settings | None = None,
) -> Plan:
    """The prefixes of logs, or of a store, that AXPO would resample.

    The rule of correctness is `options.correctness`, or else that of the settings; the other arguments are those of
    `audit`.

    Raises:
        CorrectnessError: nothing says which rollouts are correct.
        PlanError: no group can be judged, or no candidate be ranked.
        GapscopeError: as `audit` does.

    """
    settings = settings or Settings.load()
    read = ReadOptions.under(settings, group=group, trainer=trainer, mapping=mapping, tokenizer=tokenizer)
    paths = paths_of(logs)
    with plannable(paths, read, tokenizer=tokenizer) as store:
        draft = drafted(store, paths, options, read, correct=settings.correct)
        prefixes = tuple(completed(store, draft, read))
    digest = hashlib.sha256()
    for prefix in prefixes:
        digest.update(line(prefix))
    return Plan(header=sealed(draft.header, digest), prefixes=prefixes)


def plannable(
    paths: list[str],
    options: ReadOptions,
    *,
    tokenizer: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> "Store":
    """The store to plan from.

    Raises:
        SettingsError: the log is standard input, which cannot be read twice.
        GapscopeError: as `audit` does.

    """
    if STDIN in paths:
        message = "standard input cannot be planned from: what is chosen is read a second time"
        raise SettingsError(message, hint="Write it to a file first.")
    return store_of(paths, options, tokenizer=tokenizer, progress=progress)


def drafted(
    store: "Store", paths: list[str], options: PlanOptions, read: ReadOptions, *, correct: str | None = None
) -> Draft:
    """Which prefixes are chosen, and all that can be said without reading them; `read` says how the store was read.

    Raises:
        CorrectnessError: nothing says which rollouts are correct.
        PlanError: no group can be judged, or no candidate be ranked.
        SettingsError: there is no such step.

    """
    rule = options.correctness if options.correctness is not None else correct
    verdicts = decide(store, rule)
    if verdicts.chosen == "undefined":
        raise CorrectnessError(verdicts.message or "what is correct is not defined", hint=verdicts.hint)
    store.prepare()
    found = batches(store, options)
    require_groups(store)
    refuse_unrankable(found, options)
    steps, chosen = [], []
    for batch in found:
        steps.append(_budget_of(batch, options))
        chosen += _chosen(batch, steps[-1].slots, options)
    header = Header(
        version=VERSION,
        options=options,
        departures=departures(options),
        rule=rule,
        correct=f"{verdicts.rule} ({verdicts.chosen})",
        source=_source(store, paths, read, chosen),
        counts=_counts(found, steps, chosen),
        steps=[
            step.model_copy(update={"selected": _of(batch, chosen)}) for batch, step in zip(found, steps, strict=True)
        ],
        budget=_budget(steps, chosen, options.k),
        noncandidates=_noncandidates(found),
        groups_left_out=dict(store.rows(_LEFT_OUT)),
        duplicates=_duplicates(chosen),
        expected_recovered=_expected(chosen, options),
        exactness=Exactness(
            token_exact=sum(each.candidate.exact for each in chosen),
            text_retokenised=sum(not each.candidate.exact for each in chosen),
        ),
        logprob_source=dict(sorted(Counter(each.candidate.logprob_source or "none" for each in chosen).items())),
        notes=notes_on(store, steps, [each.candidate for each in chosen], options),
        digest="",
    )
    return Draft(header, found, chosen)


_LEFT_OUT = """
SELECT standing, count(*) FROM planned_groups WHERE NOT valid GROUP BY standing ORDER BY standing
"""


def _budget_of(batch: Batch, options: PlanOptions) -> StepBudget:
    triggered = [group for group in batch.groups if group.triggered]
    sizes = [group.n for group in batch.groups]
    return StepBudget(
        run=batch.run,
        step=batch.step,
        groups=len(batch.groups),
        rollouts=sum(sizes),
        triggered=len(triggered),
        candidates=sum(len(group.candidates) for group in triggered),
        slots=slots(options.r, sizes, options.k),
        selected=0,
    )


def _chosen(batch: Batch, given: int, options: PlanOptions) -> list[Chosen]:
    triggered = [group for group in batch.groups if group.triggered]
    ranks = [[sureness(each, batch.place_of(group.name), options) for each in group.candidates] for group in triggered]
    return [
        Chosen(batch, triggered[question], triggered[question].candidates[depth], depth)
        for question, depth in allocate(ranks, given, options.allocation.order)
    ]


def _of(batch: Batch, chosen: list[Chosen]) -> int:
    return sum(each.batch is batch for each in chosen)


def _counts(found: list[Batch], steps: list[StepBudget], chosen: list[Chosen]) -> Counts:
    triggered = [group for batch in found for group in batch.groups if group.triggered]
    return Counts(
        groups=sum(step.groups for step in steps),
        rollouts=sum(step.rollouts for step in steps),
        triggered=len(triggered),
        tool_using=sum(len(group.candidates) + len(group.others) for group in triggered),
        candidates=sum(step.candidates for step in steps),
        slots=sum(step.slots for step in steps),
        selected=len(chosen),
        reached=len({each.group.cluster for each in chosen}),
    )


def _budget(steps: list[StepBudget], chosen: list[Chosen], k: int) -> Budget:
    rollouts = sum(step.rollouts for step in steps)
    return Budget(
        needed_first=sum(step.triggered for step in steps),
        needed_all=sum(step.candidates for step in steps),
        given=sum(step.slots for step in steps),
        continuations=k * len(chosen),
        share=k * len(chosen) / rollouts if rollouts else None,
    )


def _noncandidates(found: list[Batch]) -> dict[str, int]:
    reasons = Counter(
        each.unusable for batch in found for group in batch.groups for each in group.others if each.unusable
    )
    return dict(sorted(reasons.items()))


def _duplicates(chosen: list[Chosen]) -> int:
    """Prefixes that are the same as an earlier one of their group."""
    prefixes = Counter((each.group.cluster, each.candidate.exact, each.candidate.hash) for each in chosen)
    return sum(count - 1 for count in prefixes.values())


def _expected(chosen: list[Chosen], options: PlanOptions) -> list[Expectation]:
    """Σ over groups of 1 − (1 − p)^(K·m), m prefixes selected in the group (metrics, section 9)."""
    prefixes = Counter(each.group.cluster for each in chosen)
    assumed = ANCHORS if options.success is None else ((options.success, "as stated with --success"), *ANCHORS)
    return [
        Expectation(p=p, assumption=why, groups=sum(1 - (1 - p) ** (options.k * m) for m in prefixes.values()))
        for p, why in assumed
    ]


def _source(store: "Store", paths: list[str], read: ReadOptions, chosen: list[Chosen]) -> PlanSource:
    used = {each.candidate.path for each in chosen}
    files = store.rows("SELECT path, format, size FROM files ORDER BY path")
    return PlanSource(
        paths=paths,
        files=[PlanFile(path=path, format=name, size=size) for path, name, size in files if path in used],
        digest=digest_of_groups(store),
        trainer=read.trainer,
        group=read.group,
        mapping=dict(read.mapping),
        tokenizer=read.tokenizer,
    )


def digest_of_groups(store: "Store") -> str:
    """A SHA-256 over the rollouts of the planned groups: their questions, texts and verdicts, in an order of its own.

    The same for a log and a store made of it, for files that were moved, compressed or put together otherwise.
    """
    digest = hashlib.sha256()
    for row in store.rows(_FACTS):
        digest.update(("\t".join(map(str, row)) + "\n").encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


_FACTS = """
SELECT g.step, g.name, r.prompt_hash, r.text_hash, coalesce(r.output_index, 0), a.correct, r.logprob_tokens
FROM planned_groups AS g JOIN attempts AS a USING (cluster) JOIN outputs AS o ON o.attempt = a.id
    JOIN rollouts AS r ON r.id = o.id
ORDER BY ALL
"""


def completed(store: "Store", draft: Draft, options: ReadOptions) -> Iterator[PlannedPrefix]:
    """The lines of a plan, in their order, each with what is read again of its rollout.

    Raises:
        InputError: the log has changed, or is gone.

    """
    waiting: dict[tuple[str, Spot], list[tuple[int, Chosen]]] = defaultdict(list)
    spots: dict[str, dict[Spot, Was]] = defaultdict(dict)
    for order, each in enumerate(draft.chosen):
        spot = _spot(each.candidate)
        waiting[each.candidate.path, spot].append((order, each))
        spots[each.candidate.path][spot] = Was(each.candidate.line, each.candidate.text_hash)
    identities = _identities(draft)
    ready: dict[int, PlannedPrefix] = {}
    position = 0
    for spot, rollout in reread(store, spots, options):
        for order, each in waiting.pop((rollout.source.file, spot)):
            ready[order] = _planned(order, each, rollout, identities[order], draft.header.options)
        while position in ready:
            yield ready.pop(position)
            position += 1


def _spot(candidate: Candidate) -> Spot:
    start = candidate.line if candidate.offset is None else candidate.offset
    return (start, candidate.output_index or 0), candidate.nth


def _identities(draft: Draft) -> list[int]:
    """A number for each prefix, from what it is and the seed; equal ones are told apart by how many came before."""
    seen: Counter[int] = Counter()
    found = []
    for each in draft.chosen:
        own = identity_of(
            each.candidate, each.batch.place_of(each.group.name), draft.header.options.seed or DEFAULT_SEED
        )
        found.append(own if own not in seen else identity(own, seen[own]))
        seen[own] += 1
    return found


def _planned(order: int, chosen: Chosen, rollout: Rollout, own: int, options: PlanOptions) -> PlannedPrefix:
    batch, group, candidate, rank = chosen
    number = 0 if candidate.call is None else candidate.call
    call = next((each for each in rollout.calls if each.index == number), None)
    prefix = frozen(rollout, number, exact=candidate.exact, identity=candidate.hash)
    first_seed = own % (_SEEDS - options.k)
    limit = options.sampling.max_tokens
    used = None if prefix.n_tokens is None or prefix.n_prompt is None else prefix.n_tokens - prefix.n_prompt
    return PlannedPrefix(
        order=order,
        id=f"{own:064x}"[:16],
        run=batch.run,
        step=batch.step,
        split=None if batch.split == "unlabelled" else batch.split,
        group_id=group.name,
        rollout_id=candidate.rollout_id or made_id(rollout, candidate.nth),
        sample_index=candidate.sample_index,
        source=Origin(
            file=candidate.path, line=candidate.line, offset=candidate.offset, output_index=candidate.output_index
        ),
        call=number,
        tool=candidate.tool,
        confidence=candidate.confidence,
        rank=rank + 1,
        candidates=len(group.candidates),
        why=_why(candidate, rank, group, options),
        k=options.k,
        seeds=[first_seed + index for index in range(options.k)],
        prefix=prefix,
        dialect=rollout.dialect,
        images=[PlannedImage(sha256=image.sha256, media_type=image.media_type) for image in rollout.images],
        declared_tools=rollout.declared_tools,
        tools=rollout.tools,
        sampling=options.sampling,
        remaining_turns=None if options.max_turns is None or call is None else options.max_turns - call.turn,
        remaining_tokens=None if limit is None or used is None else limit - used,
        ground_truth=rollout.ground_truth,
        data_source=rollout.data_source,
        extra=rollout.extra,
    )


def made_id(rollout: Rollout, nth: int) -> str:
    """A name for a rollout whose log gives it none: the file and the line, and which output or rollout of the line."""
    own = f"{rollout.source.file}:{rollout.source.line}"
    own += f":{rollout.output_index}" if rollout.output_index else ""
    return own + (f"#{nth}" if nth else "")


def _why(candidate: Candidate, rank: int, group: Group, options: PlanOptions) -> str:
    of = f"{len(group.candidates)} candidates" if len(group.candidates) > 1 else "one candidate"
    if options.rank == "random":
        return f"number {rank + 1} of {of} of its group in a random order, seed {options.seed}"
    place = "the least sure" if rank == 0 else f"number {rank + 1} from the least sure"
    return f"{place} of {of} of its group, confidence {candidate.confidence:.4f}"
