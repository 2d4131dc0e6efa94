"""What a resampling run takes before its first sample: a model, tools, a reward, and the manners of the trainer.

Everything that can be known to be wrong is found here, before a token is paid for: the server first, because a wrong
address should not wait until a long log is read.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gapscope.errors import PlanError, SettingsError
from gapscope.plans import Plan, PlannedPrefix
from gapscope.resampler.manner import LogManner, Malformed, keeping, manners_of
from gapscope.resampler.observations import learned
from gapscope.resampler.sampler import OTHER_TOKENIZER, ServerSampler
from gapscope.resampler.sampling import NotSampled, Sampler
from gapscope.resampler.workload import Crew
from gapscope.rewards import reward_from
from gapscope.rewards.base import Graded, Reward
from gapscope.rollouts import Rollout
from gapscope.serving.vllm import Endpoint
from gapscope.tokenizer import load_vocabulary
from gapscope.tools import tools_from
from gapscope.tools.base import Tool
from gapscope.tools.toolbox import Toolbox

if TYPE_CHECKING:
    import httpx

_POLICY = "Serve the policy that the rollouts were sampled with."


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What a run is made of, as `resample` takes it."""

    endpoint: str | None = None
    model: str | None = None
    sampler: Sampler | None = None
    tools: Sequence[Tool | str] = ()
    reward: Reward | str
    correct: str | None = None
    malformed: Malformed = "trainer"
    strict: bool = False
    images: Path | None = None
    key_file: Path | None = None
    deadline: float = 600.0
    concurrency: int = 64
    tokenizer: str | None = None
    transport: "httpx.AsyncBaseTransport | None" = None
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep


class Ready(NamedTuple):
    """A run that can begin: its crew, the name of its model, and what is in force, in sentences."""

    crew: Crew
    model: str
    about: list[str]


@asynccontextmanager
async def prepared(
    plan: Plan, prefixes: Sequence[PlannedPrefix], sources: Iterable[Rollout], setup: Setup
) -> AsyncIterator[Ready]:
    """Everything that a run takes, open as long as it lasts; all `sources`, the plan's originals, are passed through.

    Raises:
        EndpointError: the server cannot be reached, or refuses.
        PlanError: its model is not the one that was planned with, or a tool or a ground truth is missing.
        GapscopeError: something else that was asked for cannot be had.

    """
    async with AsyncExitStack() as stack:
        reward = await stack.enter_async_context(_reward(setup))
        _require_truth(prefixes, reward)
        toolbox = await stack.enter_async_context(Toolbox(_tools(setup)))
        _require_tools(prefixes, toolbox)
        sampler, server = await _sampler(setup, stack)
        model = setup.model or type(sampler).__name__
        about = await _beginning(sampler, prefixes, model)
        tokenizer = setup.tokenizer or plan.header.source.tokenizer
        vocabulary = None if tokenizer is None else load_vocabulary(tokenizer)
        examples: list[Rollout] = []
        shown = await asyncio.to_thread(learned, keeping(sources, examples), vocabulary)
        log = LogManner(shown, examples, vocabulary)
        manners, told = await manners_of(log, prefixes, plan.header.options, server, setup.malformed)
        about += [*told, *toolbox.about, f"correct: {reward.rule}"]
        yield Ready(Crew(sampler, toolbox, reward, manners, vocabulary), model, about)


def _reward(setup: Setup) -> Reward:
    if isinstance(setup.reward, str):
        return reward_from(setup.reward, rule=setup.correct)
    if setup.correct is not None:
        message = f"the rule {setup.correct!r} for a reward that has its own: {setup.reward.rule}"
        raise SettingsError(message, hint="Leave `correct` out, or name the reward by a text.")
    return setup.reward


def _require_truth(prefixes: Sequence[PlannedPrefix], reward: Reward) -> None:
    """Some ground truth for a reward that is nothing without one."""
    if isinstance(reward, Graded) and prefixes and all(prefix.ground_truth is None for prefix in prefixes):
        message = f"the plan has no ground truth, and {reward.name} judges by it"
        hint = "Plan from a log that says what is right (--map ground_truth=FIELD), or give a reward of your own."
        raise PlanError(message, hint=hint)


def _tools(setup: Setup) -> list[Tool]:
    named = [tool for tool in setup.tools if isinstance(tool, str)]
    return [*tools_from(named, strict=setup.strict), *(tool for tool in setup.tools if not isinstance(tool, str))]


async def _sampler(setup: Setup, stack: AsyncExitStack) -> tuple[Sampler, Endpoint | None]:
    """What samples, and the server if it is one; it is open as long as the `stack` is."""
    if setup.sampler is not None:
        if setup.endpoint is not None:
            message = f"both a sampler and the endpoint {setup.endpoint}"
            raise SettingsError(message, hint="Leave one of them out.")
        return setup.sampler, None
    if setup.endpoint is None or setup.model is None:
        message = "neither a sampler, nor an endpoint and its model"
        raise SettingsError(message, hint="Name both: --endpoint URL --model NAME.")
    server = Endpoint(
        setup.endpoint,
        setup.model,
        timeout=setup.deadline,
        transport=setup.transport,
        pause=setup.pause,
        concurrency=setup.concurrency,
        key_file=setup.key_file,
    )
    await stack.enter_async_context(server)
    return await stack.enter_async_context(ServerSampler(server, images=setup.images)), server


def _require_tools(prefixes: Sequence[PlannedPrefix], toolbox: Toolbox) -> None:
    """At least one of the tools that the policy was offered, or had called: without any, no call could be answered."""
    offered = {name for prefix in prefixes for name in prefix.declared_tools or ()}
    wanted = offered or {prefix.tool for prefix in prefixes if prefix.tool is not None}
    if wanted and wanted.isdisjoint(toolbox.names):
        given = ", ".join(toolbox.names) or "none"
        message = f"the policy calls {', '.join(sorted(wanted))}, and the tools are: {given}"
        name = min(wanted)
        hint = (
            f"Give each under the name that it is called by: --tools {name}=module:function, or --tools {name}=python."
        )
        raise PlanError(message, hint=hint)


async def _beginning(sampler: Sampler, prefixes: Sequence[PlannedPrefix], model: str) -> list[str]:
    """How the first prefix is continued that can be: what holds for it mostly holds for all."""
    first: NotSampled | None = None
    for prefix in prefixes:
        try:
            context = await sampler.begin(prefix)
        except NotSampled as why:
            if why.reason == OTHER_TOKENIZER:
                message = (
                    f"{model} is not the model of this plan: {why.reason}; in prefix {prefix.order:,}, {why.detail}"
                )
                raise PlanError(message, hint=_POLICY) from None
            first = first or why
        else:
            refused = [] if first is None else [f"the first prefix cannot be continued: {_told(first)}"]
            return [f"prefixes: {context.guarantee.replace('_', ' ')}", *refused]
    if first is None:
        return []
    message = f"{model} can continue none of the {len(prefixes):,} prefixes; the first: {_told(first)}"
    raise PlanError(message, hint=_POLICY)


def _told(why: NotSampled) -> str:
    return f"{why.reason} ({why.detail})" if why.detail else why.reason
