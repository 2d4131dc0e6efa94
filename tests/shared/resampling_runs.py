"""Plans that are run on the vLLM double in this process, and what is in the logs that come of it."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from double_logs import get_weather
from vllm_double import Double, qwen_double
from vllm_policies import hermes

from gapscope.axpo.continuations import originals
from gapscope.plans import Header, Plan
from gapscope.resampler import resampled_log
from gapscope.resampler.resample import resample
from gapscope.resampler.resampling import Resampling
from gapscope.rollouts import Rollout, to_json
from gapscope.tools.function import Callable

WEATHER = Callable("get_weather", get_weather)

_rollout = msgspec.json.Decoder(Rollout).decode


@contextmanager
def logs_read_once() -> Iterator[None]:
    """The log of a plan is read by the first of its runs alone, which takes longer than all else that they do here."""
    known: dict[str, list[bytes]] = {}

    def once(header: Header) -> Iterator[Rollout]:
        if header.digest not in known:
            known[header.digest] = [to_json(each) for each in originals(header)]
        return map(_rollout, known[header.digest])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resampled_log, "originals", once)
        yield


async def no_pause(_: float) -> None:
    """The clock of a run that waits for nothing, and lets others have their turn."""
    await asyncio.sleep(0)


async def running(plan: Plan | Path, output: Path, double: Double | None = None, **options: Any) -> Resampling:
    """A run with the weather as its tool, unless the options say something else."""
    double = double or qwen_double(policy=hermes())
    given: dict[str, Any] = {"tools": [WEATHER], "reward": "exact_match", "pause": no_pause, "output": output}
    if "sampler" not in options:
        given |= {"endpoint": "http://double", "model": double.model, "transport": httpx.MockTransport(double.paced)}
    return await resample(plan, **(given | options))


def ran(plan: Plan | Path, output: Path, double: Double | None = None, **options: Any) -> Resampling:
    """The same, as a whole program."""
    return asyncio.run(running(plan, output, double, **options))


def rollouts_in(log: Path) -> list[Rollout]:
    """All rollouts of a log."""
    return [_rollout(line) for line in log.read_bytes().splitlines()]


def continuations_in(log: Path) -> list[Rollout]:
    """Those of them that were resampled."""
    return [rollout for rollout in rollouts_in(log) if rollout.parent is not None]


def marked(rollouts: Sequence[Rollout]) -> dict[str, str]:
    """Which of them count for nothing, each with its note."""
    return {each.rollout_id or "": " ".join(each.notes) for each in rollouts if each.status == "excluded"}
