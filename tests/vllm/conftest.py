"""One real vLLM server for all tests marked `vllm`; without one they say what is missing."""

import importlib.util
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import httpx
import pytest

HERE = Path(__file__).parent
DEFAULT_VENV = HERE.parent.parent / ".venv-vllm"
WAY_OUT = "run `python tests/vllm/server.py install .venv-vllm`, or name another environment in GAPSCOPE_VLLM_VENV"


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


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    venv = Path(os.environ.get("GAPSCOPE_VLLM_VENV", DEFAULT_VENV)).resolve()
    if not server.is_installed(venv):
        reason = f"there is no vLLM in {venv}: {WAY_OUT}"
        if os.environ.get("GAPSCOPE_REQUIRE_VLLM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    model = tmp_path_factory.mktemp("vllm") / "text"
    server.make_model(venv, model, "--hidden", "384", "--layers", "6")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = server.start(venv, model, port)
    try:
        server.wait(port, process)
        running = Running(f"http://127.0.0.1:{port}", model)
        # The first request for log-probs of either kind compiles something for many seconds.
        running.post("/v1/completions", prompt=[5, 6, 7], max_tokens=2, logprobs=0, prompt_logprobs=0)
        yield running
    finally:
        server.stop(process.pid)
        process.wait(60)
