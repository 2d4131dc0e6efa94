"""Log-probs for a log that has none: its rollouts, teacher-forced through a vLLM endpoint.

The output is the whole log again, in its order, so that groups stay whole: what cannot or need not be scored is copied.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from gapscope.alignment import Aligner
from gapscope.axpo.agreement import Comparison
from gapscope.axpo.resuming import Earlier
from gapscope.axpo.scoring import Scoring
from gapscope.axpo.teacher_forcing import filled, forced, has_own_logprobs
from gapscope.axpo.triggered import Places, candidates
from gapscope.config import Settings
from gapscope.dialects import DIALECTS, dialect_named
from gapscope.errors import SettingsError
from gapscope.failures import cause_of
from gapscope.ingest import Logs, ingest, open_store, paths_of, read
from gapscope.outcomes import ErrorMarkers
from gapscope.planning import ReadOptions
from gapscope.recorders.writer import RolloutWriter
from gapscope.rereading import options_of
from gapscope.rollouts import Rollout
from gapscope.serving.transport import RequestRefused
from gapscope.serving.vllm import Endpoint
from gapscope.sources import STDIN, find
from gapscope.store import is_database

if TYPE_CHECKING:
    import httpx

    from gapscope.store.store import Store

Progress = Callable[[int, int | None, int], None]
"""Called with (rollouts written, rollouts in all if that is known, tokens scored)."""

Only = Literal["all", "candidates"]

PADDING = "they are padding, or excluded by the log itself"

_WAITING_PER_SLOT = 4
"""Finished rollouts that may wait for a slower one before them, per request in flight."""

_PASSED_AT_A_TIME = 256

T = TypeVar("T")


async def score(
    logs: Logs,
    *,
    endpoint: str,
    model: str,
    output: Path | str | None = None,
    only: Only = "all",
    correct: str | None = None,
    concurrency: int = 32,
    tokenizer: str | None = None,
    top_k: int = 0,
    deadline: float = 600.0,
    group: str | None = None,
    trainer: str | None = None,
    mapping: Mapping[str, str] | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
    stop: asyncio.Event | None = None,
    transport: "httpx.AsyncBaseTransport | None" = None,
) -> Scoring:
    """Give the rollouts of logs, or of a store, the log-probs that a model has for them; natural logs.

    With `top_k`, entropies get bounds from so many of the likeliest tokens. With `only="candidates"`, nothing is
    scored but the tool-using rollouts of groups in which none of these is correct, by the rule `correct`. An `output`
    that is there already is continued. `concurrency` requests are in flight at a time, each for at most `deadline`
    seconds. Once `stop` is set, what is in flight is finished and nothing else begun.

    Raises:
        EndpointError: the server cannot be reached, refuses, or is no vLLM server.
        GapscopeError: the log cannot be read, or what is asked for has no meaning.

    """
    began, cpu = time.perf_counter(), time.process_time()
    settings = settings or Settings.load()
    options = ReadOptions.under(settings, trainer=trainer, group=group, mapping=mapping, tokenizer=tokenizer)
    paths = paths_of(logs)
    if STDIN in paths:
        message = "standard input cannot be scored: a second run could not go on where the first was"
        raise SettingsError(message, hint="Write it to a file first.")
    async with Endpoint(endpoint, model, timeout=deadline, transport=transport) as server:
        # The server first: a wrong address should not wait until a log is read.
        card = await server.card()
        vocabulary = await server.vocabulary_size() if top_k else None
        task = _task(paths, options, only, correct if correct is not None else settings.correct)
        target = _target(paths, task.files, output)
        earlier = Earlier(target, task.files, model=model, top_k=top_k)
        scorer = _Scorer(server, Scoring(target, model), options.markers, card.max_model_len, top_k, vocabulary)
        with RolloutWriter(target) as writer:
            await _Work(scorer, task, earlier, writer, concurrency, progress).through(stop or asyncio.Event())
    result = scorer.result
    result.agreement = scorer.comparison.result()
    result.seconds, result.cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    return result


class _Task(NamedTuple):
    """What to read, which of it to score (None for all), and how many rollouts there are if that is known."""

    paths: list[str]
    files: list[str]
    options: ReadOptions
    chosen: Places | None
    total: int | None


def _task(paths: list[str], options: ReadOptions, only: Only, correct: str | None) -> _Task:
    if len(paths) == 1 and is_database(Path(paths[0])):
        with open_store(paths[0]) as store:
            files = [path for (path,) in store.rows("SELECT path FROM files ORDER BY file")]
            return _Task(files, files, options_of(store, options), *_selected(store, only, correct))
    files = [file.path for file in find(paths)[0]]
    if only == "all":
        return _Task(paths, files, options, None, None)
    with ingest(paths, options) as store:
        return _Task(paths, files, options, *_selected(store, only, correct))


def _selected(store: "Store", only: Only, correct: str | None) -> tuple[Places | None, int]:
    ((total,),) = store.rows("SELECT count(*) FROM rollouts")
    return (candidates(store, correct) if only == "candidates" else None), total


def _target(paths: list[str], files: list[str], output: Path | str | None) -> Path:
    """Where to write: as asked, or beside the one log.

    Raises:
        SettingsError: there are several logs and no name, or the output would be one of the logs.

    """
    if output is not None:
        target = Path(output)
    elif len(paths) == 1 and os.path.exists(paths[0]):
        log = Path(paths[0])
        target = log.parent / f"{log.resolve().name.split('.')[0]}.scored.jsonl"
    else:
        message = "several logs, and no name for the output"
        raise SettingsError(message, hint="Give one with -o scored.jsonl.")
    real = target.resolve()
    inside = any(os.path.isdir(path) and real.is_relative_to(Path(path).resolve()) for path in paths)
    if inside or any(real == Path(file).resolve() for file in files):
        message = f"the output {target} is among the logs, and would be read as one of them"
        raise SettingsError(message, hint="Give another name with -o.")
    return target


class _Scorer:
    """Scores one rollout at a time, and counts."""

    def __init__(
        self,
        server: Endpoint,
        result: Scoring,
        markers: ErrorMarkers,
        longest: int | None,
        top_k: int,
        vocabulary: int | None,
    ) -> None:
        self.result = result
        self.comparison = Comparison()
        self._server = server
        self._longest = longest
        self._top_k = top_k
        self._vocabulary = vocabulary
        self._aligner = cache(lambda name: Aligner(dialect_named(name), markers))

    async def scored(self, rollout: Rollout) -> Rollout:
        """The rollout with the model's numbers, or as it is where it cannot be scored."""
        result = self.result
        try:
            sent = await forced(rollout, self._server, self._longest)
            answer = await self._server.score(sent.ids, top_k=self._top_k)
            done = filled(
                rollout,
                sent,
                answer,
                self._aligner(rollout.dialect or DIALECTS[0].name),
                model=result.model,
                top_k=self._top_k,
                vocabulary=self._vocabulary,
            )
        except RequestRefused as refusal:
            result.skip(refusal.reason, refusal.detail)
            return rollout
        result.scored += 1
        result.tokens += len(sent.ids)
        result.retokenised += sent.tokens.retokenised
        # Where the text itself shows that bytes were no characters, it cannot be compared.
        result.other_text += done.spelling == "other_text" and "\ufffd" not in rollout.output
        result.other_calls += done.spelling in {"other_calls", "other_turns"}
        if rollout.step is not None:
            result.steps.add(rollout.step)
        return done.rollout

    async def compare(self, rollout: Rollout) -> None:
        """Ask about a rollout that has log-probs of the policy that sampled it."""
        try:
            sent = await forced(rollout, self._server, self._longest)
            answer = await self._server.score(sent.ids)
        except RequestRefused:
            return
        own = rollout.tokens.logprobs if rollout.tokens else None
        self.comparison.add(rollout.step, own or [], answer.logprobs[sent.before :])


class _Work:
    """Takes rollouts as they are read and writes them in the same order, with few of them in memory at a time."""

    def __init__(
        self,
        scorer: _Scorer,
        task: _Task,
        earlier: Earlier,
        writer: RolloutWriter,
        concurrency: int,
        progress: Progress | None,
    ) -> None:
        self._scorer = scorer
        self._result = scorer.result
        self._task = task
        self._earlier = earlier
        self._writer = writer
        self._progress = progress
        self._slots = asyncio.Semaphore(concurrency)
        self._most_waiting = concurrency * _WAITING_PER_SLOT
        self._waiting: deque[Rollout | asyncio.Task[Rollout]] = deque()
        self._written = 0

    async def through(self, stop: asyncio.Event) -> None:
        """Score the log to its end, or until `stop` is set."""
        try:
            async with asyncio.TaskGroup() as requests:
                for number, rollout in enumerate(self._read()):
                    if number % _PASSED_AT_A_TIME == 0:
                        await asyncio.sleep(0)
                    await self._take(rollout, requests)
                    if stop.is_set():
                        self._result.interrupted = True
                        break
                else:
                    self._earlier.check_model()
        except BaseExceptionGroup as failures:
            raise cause_of(failures) from None
        finally:
            self._write()

    async def _take(self, rollout: Rollout, requests: asyncio.TaskGroup) -> None:
        if self._scorer.comparison.takes(rollout):
            await self._slots.acquire()
            requests.create_task(self._in_slot(self._scorer.compare, rollout))
        if self._earlier.has(rollout):
            self._result.resumed += 1
        elif self._is_copied(rollout):
            self._waiting.append(rollout)
        else:
            await self._slots.acquire()
            self._waiting.append(requests.create_task(self._in_slot(self._scorer.scored, rollout)))
        if len(self._waiting) >= self._most_waiting and isinstance(first := self._waiting[0], asyncio.Task):
            await asyncio.wait([first])
        self._write()

    async def _in_slot(self, ask: Callable[[Rollout], Awaitable[T]], rollout: Rollout) -> T:
        try:
            return await ask(rollout)
        finally:
            self._slots.release()

    def _read(self) -> Iterator[Rollout]:
        for record in read(self._task.paths, self._task.options):
            if isinstance(record, Rollout):
                yield record
            else:
                self._result.refused += 1

    def _is_copied(self, rollout: Rollout) -> bool:
        """Whether there is nothing to ask about a rollout."""
        chosen = self._task.chosen
        if rollout.status in {"padding", "excluded"}:
            self._result.skip(PADDING, "")
        elif has_own_logprobs(rollout):
            self._result.kept += 1
        elif chosen is not None and rollout.place not in chosen.get(rollout.source.file, ()):
            self._result.not_selected += 1
        else:
            return False
        return True

    def _write(self) -> None:
        """Write what is finished, up to the first that is not."""
        finished: list[Rollout] = []
        while self._waiting:
            first = self._waiting[0]
            if isinstance(first, Rollout):
                finished.append(first)
            elif first.done() and not first.cancelled() and first.exception() is None:
                finished.append(first.result())
            else:
                break
            self._waiting.popleft()
        if not finished:
            return
        self._writer.write(*finished)
        self._written += len(finished)
        if self._progress:
            self._progress(self._result.resumed + self._written, self._task.total, self._result.tokens)
