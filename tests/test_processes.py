import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from gapscope.errors import SettingsError
from gapscope.processes import CallFailed, Processes

T = TypeVar("T")

FUNCTIONS = """
import asyncio, ctypes, os, subprocess, sys, time

print("importing me is loud", file=sys.stdout)

class Box:
    @staticmethod
    def twice(x):
        return 2 * x

class Number:
    def tolist(self):
        return 0.5

calls = 0

def count():
    global calls
    calls += 1
    return calls

def echo(value, *rest, other=1, **more):
    return value

async def later(value):
    await asyncio.sleep(0)
    return value

async def loop_of():
    return id(asyncio.get_running_loop())

def who():
    return os.getpid()

def nap(length):
    time.sleep(length)
    return os.getpid()

def refuse(message):
    raise ValueError(message)

def leave():
    sys.exit("enough")

def die(code):
    sys.stderr.write("last words")
    sys.stderr.flush()
    os._exit(code)

def crash():
    ctypes.string_at(0)

def fork_and_die():
    if os.fork() == 0:
        time.sleep(30)
    os._exit(4)

def loud():
    for stream in (sys.stdout, sys.stderr):
        for _ in range(100):
            stream.write("x" * 100_000)
    return "done"

def long(n):
    return "x" * n

def listen():
    return sys.stdin.read()

def odd(kind):
    return {"nan": float("nan"), "set": {1}, "inf": [float("inf")], "number": Number(), "deep": deep()}[kind]

def deep():
    value = []
    for _ in range(100_000):
        value = [value]
    return value

def child(note):
    process = subprocess.Popen(["sleep", "30"])
    with open(note, "w") as file:
        file.write(f"{os.getpid()} {process.pid}")
    time.sleep(30)
"""


@pytest.fixture(autouse=True)
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fs.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)


def run(use: Callable[[Processes], Awaitable[T]], **options: int) -> T:
    async def opened() -> T:
        async with Processes(**options) as processes:
            return await use(processes)

    return asyncio.run(opened())


async def failure(processes: Processes, target: str, seconds: float = 20, **arguments: Any) -> tuple[str, str]:
    with pytest.raises(CallFailed) as failed:
        await processes.call(target, arguments, seconds=seconds)
    return failed.value.reason, failed.value.detail


def wait_for(note: Path) -> None:
    """Until a function has noted its process and that of its child."""
    for _ in range(1000):
        if note.exists() and len(note.read_text().split()) == 2:
            return
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether a process has ended, be it that nobody has reaped it."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_functions_answer_in_json_and_keep_what_their_module_remembers() -> None:
    async def use(processes: Processes) -> None:
        async def call(target: str, **arguments: Any) -> Any:
            return await processes.call(target, arguments, seconds=20)

        value = {"é": [1, 2.5, None, True, "\ud800"], "big": 10**30}
        assert await call("fs:echo", value=value, unknown=3) == value
        assert await call("fs:later", value="soon") == "soon"
        assert await call("fs:loop_of") == await call("fs:loop_of")
        assert await call("fs:Box.twice", x=21) == 42
        assert [await call("fs:count"), await call("fs:count")] == [1, 2]
        assert await call("fs.py:count") == 1
        assert await call(f"{os.getcwd()}/fs.py:Box.twice", x=1) == 2
        assert await call("os.path:basename", p="a/b") == "b"
        assert await call("fs:odd", kind="number") == 0.5
        assert await call("fs:listen") == ""
        assert await call("fs:loud") == "done"

    run(use, most=1)


def test_an_exception_is_an_answer_and_the_process_goes_on() -> None:
    async def use(processes: Processes) -> None:
        before = await processes.call("fs:who", {}, seconds=20)
        assert await failure(processes, "fs:refuse", message="no\nway") == ("raised", "ValueError: no\nway")
        assert await failure(processes, "fs:leave") == ("raised", "SystemExit: enough")
        assert await failure(processes, "fs:nothing") == (
            "raised",
            "AttributeError: module 'fs' has no attribute 'nothing'",
        )
        reason, detail = await failure(processes, "fs:echo")
        assert (reason, detail[:18]) == ("raised", "TypeError: echo() ")
        assert [(await failure(processes, "fs:odd", kind=kind))[0] for kind in ("nan", "inf", "set", "deep")] == [
            "nonsense"
        ] * 4
        assert await processes.call("fs:who", {}, seconds=20) == before

    run(use, most=1)


def test_a_process_that_dies_hangs_or_answers_too_much_is_replaced() -> None:
    async def use(processes: Processes) -> None:
        assert await processes.call("fs:loud", {}, seconds=20) == "done"
        assert await failure(processes, "fs:die", code=3) == ("died", "exit code 3: last words")
        reason, detail = await failure(processes, "fs:crash")
        assert reason == "died"
        assert detail.startswith("killed by SIGSEGV: Fatal Python error")
        assert await failure(processes, "fs:long", n=1000) == (
            "nonsense",
            "the answer has 1,013 bytes, and at most 1,000 are read",
        )
        assert len(await processes.call("fs:long", {"n": 900}, seconds=20)) == 900
        with pytest.raises(CallFailed, match=r"timed out: no answer after 0\.1 s"):
            await processes.call("fs:nap", {"length": 30}, seconds=0.1)
        assert await processes.call("fs:count", {}, seconds=20) == 1

    run(use, most=1, longest_answer=1000)


def test_a_death_is_seen_though_a_forked_child_lives_on() -> None:
    async def use(processes: Processes) -> None:
        began = time.monotonic()
        assert await failure(processes, "fs:fork_and_die") == ("died", "exit code 4")
        assert time.monotonic() - began < 10

    run(use)


def test_a_process_that_died_while_idle_costs_no_call() -> None:
    async def use(processes: Processes) -> None:
        pid = await processes.call("fs:who", {}, seconds=20)
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
        await asyncio.sleep(0.01)
        assert await processes.call("fs:who", {}, seconds=20) != pid

    run(use)


def test_at_most_so_many_run_and_further_calls_wait() -> None:
    async def use(processes: Processes) -> None:
        pids = await asyncio.gather(*(processes.call("fs:nap", {"length": 0.02}, seconds=20) for _ in range(12)))
        assert len(set(pids)) == 2

    run(use, most=2)


def test_a_cancelled_call_leaves_no_process_and_no_turn_behind(tmp_path: Path) -> None:
    note = tmp_path / "pids"

    async def use(processes: Processes) -> None:
        task = asyncio.create_task(processes.call("fs:child", {"note": str(note)}, seconds=20))
        await asyncio.to_thread(wait_for, note)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await processes.call("fs:count", {}, seconds=20) == 1

    run(use, most=1)
    assert [gone(int(pid)) for pid in note.read_text().split()] == [True, True]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_200_calls_of_all_kinds_leak_neither_files_nor_processes() -> None:
    def files() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def use(processes: Processes) -> list[int]:
        await processes.call("fs:who", {}, seconds=20)
        await failure(processes, "fs:die", code=1)
        pids = [await processes.call("fs:who", {}, seconds=20)]
        before = files()
        for number in range(200):
            if number % 50 == 7:
                await failure(processes, "fs:die", code=1)
            elif number % 50 == 9:
                await failure(processes, "fs:refuse", message="")
            else:
                pids.append(await processes.call("fs:who", {}, seconds=20))
        assert files() == before
        return pids

    before = files()
    pids = set(run(use, most=1))
    assert len(pids) == 5
    assert files() == before
    assert all(gone(pid) for pid in pids)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processes_end_with_a_caller_that_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    code = (
        "import asyncio\nfrom gapscope.processes import Processes\n"
        f"asyncio.run(Processes().call('fs:child', {{'note': {str(note)!r}}}, seconds=30))\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}) as caller:
        wait_for(note)
        caller.kill()
    assert [gone(int(pid)) for pid in note.read_text().split()] == [True, True]


def test_check_names_the_parameters_or_says_what_is_wrong() -> None:
    async def use(processes: Processes) -> dict[str, str]:
        assert await processes.check("fs:echo") == ["value", "other", "**"]
        assert await processes.check("fs.py:later") == ["value"]
        said = {}
        for target in ("fs", "fs:", ":f", "nowhere:f", "fs:calls", "fs:nothing", "none.py:f", "broken:f", "deadly:f"):
            with pytest.raises(SettingsError) as error:
                await processes.check(target)
            said[target] = error.value.message
        return said

    Path("broken.py").write_text("x = (")
    Path("deadly.py").write_text("import os, sys\nprint('no GPU', file=sys.stderr, flush=True)\nos._exit(2)")
    file = f"{os.getcwd()}/none.py"
    assert run(use, most=1) == {
        "fs": "'fs' names no function",
        "fs:": "'fs:' names no function",
        ":f": "':f' names no function",
        "nowhere:f": "'nowhere:f' cannot be called: ModuleNotFoundError: No module named 'nowhere'",
        "fs:calls": "'fs:calls' cannot be called: TypeError: calls is no function but int",
        "fs:nothing": "'fs:nothing' cannot be called: AttributeError: module 'fs' has no attribute 'nothing'",
        "none.py:f": f"'none.py:f' cannot be called: FileNotFoundError: [Errno 2] No such file or directory: {file!r}",
        "broken:f": "'broken:f' cannot be called: SyntaxError: '(' was never closed (broken.py, line 1)",
        "deadly:f": "'deadly:f' cannot be called: exit code 2: no GPU",
    }
