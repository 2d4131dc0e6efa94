"""A plan, run: each prefix is frozen, and its continuations are sampled, their calls executed, their answers judged.

What is finished is in a journal beside the output at once, so that a run that was stopped, or killed, goes on where it
was. The output is written whole at the end, as far as the run has come.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gapscope.axpo.continuations import originals
from gapscope.axpo.plan_file import read_plan
from gapscope.errors import SettingsError
from gapscope.plans import Plan
from gapscope.resampler.resampling import Resampling

if TYPE_CHECKING:
    import httpx

    from gapscope.resampler.manner import Malformed
    from gapscope.resampler.sampling import Sampler
    from gapscope.resampler.workload import Progress, Workload
    from gapscope.rewards.base import Reward
    from gapscope.tools.base import Tool


async def resample(
    plan: Plan | Path | str,
    *,
    endpoint: str | None = None,
    model: str | None = None,
    sampler: "Sampler | None" = None,
    tools: "Sequence[Tool | str]" = (),
    reward: "Reward | str",
    correct: str | None = None,
    output: Path | str = "resampled.jsonl",
    resume: bool = False,
    dry_run: bool = False,
    limit: int | None = None,
    concurrency: int = 64,
    malformed: "Malformed" = "trainer",
    strict: bool = False,
    images: Path | None = None,
    key_file: Path | None = None,
    deadline: float = 600.0,
    tokenizer: str | None = None,
    announce: Callable[[Sequence[str]], None] | None = None,
    progress: "Callable[[Progress], None] | None" = None,
    stop: asyncio.Event | None = None,
    transport: "httpx.AsyncBaseTransport | None" = None,
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> Resampling:
    """Run a plan (axpo, section 2.3): sample its continuations, execute their calls, and judge their answers.

    What samples is the `model` of a server at `endpoint`, or a `sampler` of your own. `tools` and the `reward` are
    objects, or texts as the command line takes them; `correct` is the rule by which a reward that is not 0 or 1 is a
    verdict. With `resume`, a run that was stopped goes on: what its journal has a sample of is not sampled again, and
    is judged again only where it has no verdict or one by another reward. A `dry_run` samples and writes nothing, and
    says whether it could. `limit` takes so many prefixes, the first of the plan. So many continuations are in flight as
    `concurrency` says, and each request has `deadline` seconds. With `strict`, code of the model runs in full isolation
    or not at all. `images` is a folder of those that the log has only hashes of. `announce` is told what is in force
    before the first sample: guarantees, manners, isolation. Once `stop` is set, what is in flight is finished, and
    nothing else begun. `transport` and `pause` stand in for the network and the clock.

    Raises:
        CorrectnessError: a reward is neither 0 nor 1, and no rule was given.
        EndpointError: the server cannot be reached, or refuses.
        PlanError: there is no such plan, its log has changed, or the model is not the one that it was made with.
        RecordError: the output or its journal cannot be written.
        SettingsError: what is asked for has no meaning, or the output is there already.
        GapscopeError: the log cannot be read.

    """
    # Tools, rewards and the server's client take long to import, and most programs resample nothing.
    from gapscope.resampler.journal import Begun, Journal
    from gapscope.resampler.resampled_log import ResampledLog
    from gapscope.resampler.setup import Setup, prepared
    from gapscope.resampler.workload import Workload

    file = None if isinstance(plan, Plan) else Path(plan)
    plan = plan if isinstance(plan, Plan) else read_plan(plan)
    target, stop = Path(output), stop or asyncio.Event()
    _require_some("prefixes", limit)
    _require_some("continuations in flight", concurrency)
    if not dry_run:
        _require_no_source(target, plan, file)
        _require_free(target, resume=resume)
    prefixes = plan.prefixes[:limit]
    setup = Setup(
        endpoint=endpoint,
        model=model,
        sampler=sampler,
        tools=tools,
        reward=reward,
        correct=correct,
        malformed=malformed,
        strict=strict,
        images=images,
        key_file=key_file,
        deadline=deadline,
        concurrency=concurrency,
        tokenizer=tokenizer,
        transport=transport,
        pause=pause,
    )
    result = Resampling(target, "", sum(prefix.k for prefix in prefixes))
    if dry_run:
        async with prepared(plan, prefixes, originals(plan.header), setup) as ready:
            result.model, result.about = ready.model, ready.about
        if announce is not None:
            announce(ready.about)
        return result
    with Journal(journal_of(target)) as journal, ResampledLog(target) as log:
        async with prepared(plan, prefixes, log.sources(plan.header), setup) as ready:
            result.model, result.about = ready.model, ready.about
            tools_named = sorted(ready.crew.toolbox.names)
            begun = Begun(plan=plan.header.digest, model=ready.model, tools=tools_named, malformed=malformed)
            journal.begin(begun, ready.crew.reward.rule)
            work = Workload(prefixes, journal, ready.crew)
            if announce is not None:
                announce(ready.about)
            await _through(work, result, concurrency, stop, progress)
        known = [key for key in work.continuations() if key in journal.done]
        log.finish(map(journal.rollout, known))
        groups = {prefix.id: (prefix.run, prefix.split, prefix.step, prefix.group_id) for prefix in prefixes}
        result.count(((key, journal.done[key]) for key in known), groups)
        result.interrupted = stop.is_set() and result.done < result.planned
    return result


async def _through(
    work: "Workload",
    result: Resampling,
    concurrency: int,
    stop: asyncio.Event,
    progress: "Callable[[Progress], None] | None",
) -> None:
    began, cpu = time.perf_counter(), time.process_time()
    await work.through(concurrency, stop, progress)
    result.seconds, result.cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    result.resumed, result.sampled_now = work.resumed, work.sampled


def journal_of(output: Path) -> Path:
    """The journal beside an output."""
    return output.with_name(f"{output.name}.journal")


def _require_some(what: str, number: int | None) -> None:
    if number is not None and number < 1:
        message = f"{number} {what} are none"
        raise SettingsError(message, hint="It takes at least one.")


def _require_no_source(target: Path, plan: Plan, file: Path | None) -> None:
    """Neither the plan nor the log that it is of is lost, or is read as another one afterwards."""
    real = target.resolve()
    if file is not None and real == file.resolve():
        message = f"{target} is the plan, and would be lost"
        raise SettingsError(message, hint="Name another file with -o.")
    if any(real == Path(each.path).resolve() for each in plan.header.source.files):
        message = f"{target} is the log of the plan, and would be lost"
        raise SettingsError(message, hint="Name another file with -o.")
    if any(os.path.isdir(path) and real.is_relative_to(Path(path).resolve()) for path in plan.header.source.paths):
        message = f"{target} is in the folder of the plan's log, and would be read as a part of it"
        raise SettingsError(message, hint="Name a file elsewhere with -o.")


def _require_free(target: Path, *, resume: bool) -> None:
    """Nothing is lost of what an earlier run has led to, nor any other file."""
    if os.path.isdir(target):
        message = f"{target} is a folder"
        raise SettingsError(message, hint="Name a file with -o.")
    journal = journal_of(target)
    # A run that was killed before it began anything has left an empty one.
    begun = os.path.exists(journal) and os.path.getsize(journal) > 0
    if resume and os.path.exists(target) and not begun:
        message = f"{target} is there, and no {journal.name} beside it, by which it could be gone on with"
        raise SettingsError(message, hint="Name another file with -o.")
    there = next((path for path in (journal, target) if os.path.exists(path) and (path is target or begun)), None)
    if there is not None and not resume:
        message = f"{there} is there already, from an earlier run"
        raise SettingsError(message, hint="Go on with --resume, or name another file with -o.")
