"""Many continuations on the protocol double, over sockets: how fast, in how much memory, and that nothing is left."""

import asyncio
import gc
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from double_logs import groups, planned, write
from resampling_runs import ran
from vllm_double import Served, qwen_double
from vllm_policies import CITIES, hermes

from gapscope.plans import Plan
from gapscope.resampler.resampling import Resampling
from gapscope.resampler.workload import Progress

IN_FLIGHT = 64


def plan_of(folder: Path, prefixes: int) -> Plan:
    """A plan with four continuations for each prefix, five prefixes for each step of its log."""
    rollouts = [each for step in range(1, prefixes // 5 + 1) for each in groups(5, step=step)]
    return planned(write(folder / "log.jsonl", rollouts), step="all")


@pytest.fixture
def server() -> Iterator[Served]:
    with Served(qwen_double(policy=hermes(), keep=False), delay=0.002) as served:
        yield served


class Watched:
    """What this process holds while a run goes on, in bytes, files and tasks, each time that so many are done."""

    def __init__(self, *moments: int) -> None:
        self.moments = moments
        self.resident: dict[int, int] = {}
        self.tasks = 0

    def __call__(self, far: Progress) -> None:
        self.tasks = max(self.tasks, len(asyncio.all_tasks()))
        if far.done in self.moments:
            with open("/proc/self/statm", encoding="ascii") as stream:
                self.resident[far.done] = int(stream.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def run(plan: Plan, output: Path, server: Served, watched: Watched, *, limit: int | None = None) -> Resampling:
    return ran(
        plan,
        output,
        endpoint=server.url,
        transport=None,
        pause=asyncio.sleep,
        concurrency=IN_FLIGHT,
        progress=watched,
        limit=limit,
    )


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts files and memory by /proc")


@needs_proc
def test_hundreds_at_once_keep_the_limit_and_leave_nothing_open(tmp_path: Path, server: Served) -> None:
    plan, watched = plan_of(tmp_path, 40), Watched()
    files, threads = open_files(), threading.active_count()
    result = run(plan, tmp_path / "out.jsonl", server, watched)
    assert (result.planned, result.done, result.judged) == (160, 160, 160)
    right = [
        f"in {CITIES[seed % 5]}?" in (prefix.prefix.prompt or "") for prefix in plan.prefixes for seed in prefix.seeds
    ]
    assert result.correct == sum(right)
    # How many meet there at one moment depends on who else computes; that the limit is kept full is tested apart.
    assert IN_FLIGHT // 8 < server.most_in_flight <= IN_FLIGHT
    assert server.connected <= IN_FLIGHT + 1
    # One for each in flight, those that begin prefixes for them, and the run itself.
    assert watched.tasks <= 2 * IN_FLIGHT + 40 + 2
    # Threads that log and tools were read in end with the run.
    assert threading.active_count() <= threads
    # The server closes its end of what was closed in a moment.
    until = time.monotonic() + 5
    while open_files() > files and time.monotonic() < until:
        time.sleep(0.01)
    assert open_files() == files


@needs_proc
@pytest.mark.slow
def test_two_thousand_take_no_more_memory_than_five_hundred(tmp_path: Path, server: Served) -> None:
    """Two thousand continuations take about ten seconds of CPU, half of them the double's."""
    plan, watched = plan_of(tmp_path, 500), Watched(500, 2_000)
    run(plan, tmp_path / "warm.jsonl", server, watched, limit=50)
    gc.collect()
    objects = len(gc.get_objects())
    result = run(plan, tmp_path / "out.jsonl", server, watched)
    gc.collect()
    grown, left = watched.resident[2_000] - watched.resident[500], len(gc.get_objects()) - objects
    print(
        f"{result.done:,} continuations, {result.sampled:,} tokens in {result.seconds:.1f} s, "
        f"{result.done / result.seconds:,.0f} continuations/s, {result.sampled / result.seconds:,.0f} tokens/s; "
        f"{1_000 * result.cpu_seconds / result.done:.2f} ms of CPU each with the double's; "
        f"{watched.resident[2_000] / 1e6:.0f} MB, {grown / 1e6:+.1f} MB since the 500th; {left:+,} objects left"
    )
    assert (result.done, result.judged) == (2_000, 2_000)
    assert grown < 20e6
    assert left < 2_000
