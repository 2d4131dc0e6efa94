"""Real vLLM servers for all tests marked `vllm`: one for text, one that sees. Without vLLM they say what is missing.

Both models are made, and both servers started, at once. The first tests begin as soon as the one for text answers, and
those that need the other come last.
"""

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import httpx
import pytest
import tiny_adder_log
import tiny_looker_log
from command_line import gapscope

from gapscope.axpo.plan_file import read_plan
from gapscope.plans import Plan
from gapscope.recorders import RolloutWriter
from gapscope.rollouts import Rollout

HERE = Path(__file__).parent
DEFAULT_VENV = HERE.parent.parent / ".venv-vllm"
WAY_OUT = "run `python tests/vllm/server.py install .venv-vllm`, or name another environment in GAPSCOPE_VLLM_VENV"

# It adds numbers with tools, now and then rightly (`tiny_adder`). Idle units make it as slow as a model of 5 M weights.
TEXT = ("--train-steps", "300", "--hidden", "96", "--idle", "8192")
# It looks at parts of images with a tool (`tiny_looker`).
IMAGES = ("--kind", "vl", "--train-steps", "120", "--hidden", "64")


def script(name: str) -> ModuleType:
    """A script of this folder, which cannot be imported as `vllm.NAME`: that is the library's name."""
    spec = importlib.util.spec_from_file_location(f"vllm_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


server = script("server")


class Running(NamedTuple):
    """A server that answers, and the folder of its model."""

    url: str
    model: Path

    def post(self, path: str, **body: object) -> dict[str, object]:
        """The answer to one request on a connection of its own."""
        answer = httpx.post(self.url + path, json={"model": server.SERVED_AS} | body, timeout=120)
        answer.raise_for_status()
        return dict(answer.json())


class Planned(NamedTuple):
    """A log that a server has sampled, and the plan of what to resample of it."""

    log: Path
    path: Path
    plan: Plan


class Servers:
    """Servers that are started in threads, so that none waits for another."""

    def __init__(self, venv: Path, folder: Path) -> None:
        self._venv = venv
        self._folder = folder
        self._threads = ThreadPoolExecutor(2)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._starting: dict[str, Future[Running]] = {}

    def begin(self, name: str, made_with: tuple[str, ...], *options: str, core: int | None = None) -> None:
        self._starting[name] = self._threads.submit(self._start, name, made_with, options, core)

    def __getitem__(self, name: str) -> Running:
        return self._starting[name].result()

    def _start(self, name: str, made_with: tuple[str, ...], options: tuple[str, ...], core: int | None) -> Running:
        model = self._folder / name
        server.make_model(self._venv, model, *made_with)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        process = server.start(self._venv, model, port, *options, core=core)
        self._processes.append(process)
        server.wait(port, process)
        running = Running(f"http://127.0.0.1:{port}", model)
        # The first request for log-probs of either kind compiles something for many seconds.
        running.post("/v1/completions", prompt=[5, 6, 7], max_tokens=2, logprobs=0, prompt_logprobs=0)
        return running

    def stop(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            if process.poll() is None:
                server.stop(process.pid)
        for process in self._processes:
            process.wait(60)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: "image_server" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """All that the tests of this session need, begun at once."""
    venv = Path(os.environ.get("GAPSCOPE_VLLM_VENV", DEFAULT_VENV)).resolve()
    if not server.is_installed(venv):
        reason = f"there is no vLLM in {venv}: {WAY_OUT}"
        if os.environ.get("GAPSCOPE_REQUIRE_VLLM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    needed = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    started = Servers(venv, tmp_path_factory.mktemp("vllm"))
    try:
        if "vllm_server" in needed:
            started.begin("text", TEXT)
        if "image_server" in needed:
            # Each server computes on a core, and both would choose the first.
            started.begin("images", IMAGES, "--enable-scale-out", core=max(os.sched_getaffinity(0)))
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="session")
def vllm_server(servers: Servers) -> Running:
    """A server with a model of text."""
    return servers["text"]


@pytest.fixture(scope="session")
def image_server(servers: Servers) -> Running:
    """A server with a model that sees, and with the routes that take images and token ids together."""
    return servers["images"]


@pytest.fixture(scope="session")
def text_plan(vllm_server: Running, tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """Of 24 sums, eight times each."""
    sampled = tiny_adder_log.sampled(vllm_server.url, vllm_server.model / "tokenizer.json", groups=24)
    return planned(tmp_path_factory.mktemp("sums"), sampled, budget="0.25")


@pytest.fixture(scope="session")
def image_plan(image_server: Running, tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """Of four images, six times each; half as much is resampled as was sampled."""
    sampled = tiny_looker_log.looked(image_server.url, image_server.model, groups=4)
    return planned(tmp_path_factory.mktemp("images"), sampled, budget="0.5")


def planned(folder: Path, sampled: list[Rollout], *, budget: str) -> Planned:
    log, path = folder / "log.jsonl", folder / "plan.jsonl"
    with RolloutWriter(log) as writer:
        writer.write(*sampled)
    made = gapscope("plan", log, "-o", path, "--budget", budget, "--max-turns", 3, "--max-tokens", 300, "--seed", 7)
    assert made.returncode == 0, made.stderr
    return Planned(log, path, read_plan(path))
