"""Prefixes begun and continued on the protocol double, without a socket and without waiting."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import httpx
import pytest
from double_logs import THOUGHT, asked, groups, planned, prompt_of, write
from vllm_double import Double

from gapscope.plan_options import Sampling
from gapscope.plans import PlannedPrefix
from gapscope.resampler.sampler import ServerSampler
from gapscope.resampler.sampling import Ask, Context, NotSampled, Sampled
from gapscope.serving.vllm import Endpoint

T = TypeVar("T")

ASK = Ask(seed=5, max_tokens=200, stop=(), sampling=Sampling())


async def no_pause(_: float) -> None:
    return


def run(double: Double, work: Callable[[ServerSampler], Awaitable[T]], **options: Any) -> T:
    """What comes of some work with a sampler."""

    async def open_and_work() -> T:
        transport = httpx.MockTransport(double.paced)
        async with (
            Endpoint("http://double", double.model, transport=transport, pause=no_pause) as endpoint,
            ServerSampler(endpoint, **options) as sampler,
        ):
            return await work(sampler)

    return asyncio.run(open_and_work())


def continued(double: Double, prefix: PlannedPrefix, ask: Ask = ASK) -> tuple[Context, Sampled, Context]:
    """The context that a prefix gives, one turn, and the context with that."""

    async def work(sampler: ServerSampler) -> tuple[Context, Sampled, Context]:
        start = await sampler.begin(prefix)
        return start, *await sampler.sample(start, ask)

    return run(double, work)


def refused(double: Double, prefix: PlannedPrefix, ask: Ask = ASK) -> NotSampled:
    """Why there is no such turn."""
    with pytest.raises(NotSampled) as raised:
        continued(double, prefix, ask)
    return raised.value


@cache
def exact_prefix() -> PlannedPrefix:
    """A prefix of token ids, of a log of the double's policy; it asks for the weather in Arlen."""
    with TemporaryDirectory() as folder:
        return planned(write(Path(folder) / "log.jsonl", groups(1))).prefixes[0]


def text_prefix(
    text: str = THOUGHT + "<tool_call>",
    *,
    prompt: str | None = prompt_of(asked("Arlen")),
    messages: Any = None,
    delimited: bool = True,
    **changes: Any,
) -> PlannedPrefix:
    """The same as a plan has it of a log without tokens."""
    made = exact_prefix()
    nothing = {"exact": False, "token_ids": None, "n_tokens": None, "n_prompt": None}
    said = {"text": text, "branch_char": len(text), "prompt": prompt, "messages": messages, "delimited": delimited}
    content = made.prefix.model_copy(update=nothing | said)
    return made.model_copy(update={"prefix": content, **changes})
