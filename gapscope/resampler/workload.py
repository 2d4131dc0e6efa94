"""The continuations of a plan, so many in flight at a time: sampled, judged, and put into the journal."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from gapscope.axpo.continuations import continuation
from gapscope.failures import cause_of
from gapscope.plans import PlannedPrefix
from gapscope.resampler.journal import UNFINISHED, Entry, Journal, Key
from gapscope.resampler.manner import manner_key
from gapscope.resampler.sampling import NotSampled, Sampler
from gapscope.resampler.solutions import solution_of
from gapscope.resampler.turns import Continued, Manner, continued
from gapscope.rewards.base import Reward, RewardFailure, Verdict
from gapscope.rollouts import Image, RewardPart, Rollout
from gapscope.tokenizer import Vocabulary
from gapscope.tools.base import ToolFailure
from gapscope.tools.toolbox import Toolbox

NO_VERDICT = "the reward gave no verdict"


class Progress(NamedTuple):
    """How far a run is.

    Continuations finished and planned, prefixes recovered and with a verdict, and the tokens that were sampled by it.
    """

    done: int
    planned: int
    recovered: int
    prefixes: int
    sampled: int


class Crew(NamedTuple):
    """What a continuation takes: who samples, executes and judges, and in what manner, by dialect."""

    sampler: Sampler
    toolbox: Toolbox
    reward: Reward
    manners: Mapping[str | None, Manner]
    tokenizer: Vocabulary | None


class Workload:
    """The continuations of some prefixes, and how far they are."""

    def __init__(self, prefixes: Sequence[PlannedPrefix], journal: Journal, crew: Crew) -> None:
        self.prefixes = prefixes
        self.journal = journal
        self.crew = crew
        self.planned = sum(prefix.k for prefix in prefixes)
        self.sampled = 0
        self._recovered = 0
        self._verdicts: dict[str, bool] = {}
        self._done: set[Key] = set()
        for key in self.continuations():
            if key in journal.done and journal.done[key].lost is None:
                self._note(key)
        self.resumed = len(self._done)

    def continuations(self) -> Iterator[Key]:
        """All continuations, in plan order."""
        return ((prefix.id, index) for prefix in self.prefixes for index in range(prefix.k))

    async def through(self, concurrency: int, stop: asyncio.Event, progress: Callable[[Progress], None] | None) -> None:
        """Run what is not finished, until it is or `stop` is set: then what is in flight is finished alone.

        Raises:
            GapscopeError: nothing goes on, such as without a server or on a full disk.

        """
        left = self._left()

        async def work() -> None:
            while not stop.is_set() and (todo := next(left, None)) is not None:
                await self._run(*todo)
                if progress is not None:
                    progress(self._progress())

        if progress is not None:
            progress(self._progress())
        try:
            async with asyncio.TaskGroup() as crew:
                for _ in range(min(concurrency, self.planned)):
                    crew.create_task(work())
        except BaseExceptionGroup as failures:
            raise cause_of(failures) from None

    def _left(self) -> Iterator[tuple[PlannedPrefix, int]]:
        """What is not in the journal, or has no sample or no verdict there."""
        for prefix in self.prefixes:
            for index in range(prefix.k):
                done = self.journal.done.get((prefix.id, index))
                if done is None or done.lost is not None or done.unjudged is not None:
                    yield prefix, index

    async def _run(self, prefix: PlannedPrefix, index: int) -> None:
        """Sample a continuation unless that is done, and judge it; a sample is kept whatever becomes of its verdict."""
        key = prefix.id, index
        done = self.journal.done.get(key)
        if done is None or done.lost is not None:
            entry = await self._sampled(prefix, index)
            self.sampled += entry.sampled
        else:
            entry = self.journal.entry(key)
        try:
            if entry.lost is None:
                await self._judge(entry, prefix)
        finally:
            self.journal.write(entry)
            self._note(key)

    async def _sampled(self, prefix: PlannedPrefix, index: int) -> Entry:
        began = time.perf_counter()
        session = self.crew.toolbox.session()
        manner = self.crew.manners[manner_key(prefix)]
        prefix = prefix.model_copy(update={"dialect": manner.dialect.name})
        try:
            found = await continued(prefix, index, self.crew.sampler, session, manner)
        except (NotSampled, ToolFailure) as failure:
            rollout = continuation(prefix, index, "", correct=None)
            rollout.status = "excluded"
            rollout.notes.append(f"no sample: {failure.reason}")
            entry = Entry(prefix=prefix.id, index=index, rollout=rollout, lost=(failure.reason, failure.detail))
        else:
            entry = _entry(prefix, index, found, self.crew.tokenizer)
        finally:
            await session.close()
        entry.seconds = time.perf_counter() - began
        return entry

    async def _judge(self, entry: Entry, prefix: PlannedPrefix) -> None:
        reward = self.crew.reward
        entry.unjudged = UNFINISHED, ""
        _write_verdict(entry.rollout, Verdict(None, None), reward.rule)
        try:
            verdict = await reward.judge(solution_of(entry.rollout, prefix))
        except RewardFailure as failure:
            entry.unjudged = failure.reason, failure.detail
        else:
            entry.unjudged = (NO_VERDICT, "") if verdict.correct is None else None
            _write_verdict(entry.rollout, verdict, reward.rule)

    def _note(self, key: Key) -> None:
        self._done.add(key)
        correct = self.journal.done[key].correct
        if correct is not None:
            known = self._verdicts.get(key[0], False)
            self._verdicts[key[0]] = known or correct
            self._recovered += correct and not known

    def _progress(self) -> Progress:
        return Progress(len(self._done), self.planned, self._recovered, len(self._verdicts), self.sampled)


def _entry(prefix: PlannedPrefix, index: int, found: Continued, tokenizer: Vocabulary | None) -> Entry:
    rollout = continuation(
        prefix,
        index,
        found.text,
        correct=None,
        token_ids=found.ids,
        mask=found.mask,
        logprobs=found.logprobs,
        prefix_ids=found.prefix_ids,
        finish_reason=found.finish,
        tokenizer=tokenizer,
    )
    rollout.images = [Image(hashlib.sha256(image).hexdigest()) for image in found.images]
    rollout.extra = {"continued": found.guarantee}
    if found.guarantee == "text_retokenised" and rollout.tokens is not None:
        rollout.tokens = replace(rollout.tokens, retokenised=True)
    return Entry(
        prefix=prefix.id,
        index=index,
        rollout=rollout,
        guarantee=found.guarantee,
        finish=found.finish,
        turns=found.turns,
        sampled=found.sampled,
        calls=found.calls,
        failures=found.failures,
    )


def _write_verdict(rollout: Rollout, verdict: Verdict, rule: str) -> None:
    """The verdict as the reward, which is binary (axpo, section 2.3); what it was made of is beside it."""
    rollout.correct = verdict.correct
    rollout.correct_rule = None if verdict.correct is None else rule
    rollout.reward = None if verdict.correct is None else float(verdict.correct)
    parts = verdict.parts or ({} if verdict.reward is None else {"reward": verdict.reward})
    rollout.reward_parts = [RewardPart(name, value) for name, value in parts.items()]
