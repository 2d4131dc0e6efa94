"""What hostile code tries, tried for real at every level that claims to hold it."""

import asyncio
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

import gapscope
from gapscope.sandbox import Level, Limits, Ran, start
from gapscope.sandbox.readable import Interpreter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sandboxes need Linux")

PACKAGE = str(Path(gapscope.__file__).parent)
SECRET = "sk-secret-5f1c09"
FEW = 12 + 8
"""Processes, where 12 are allowed and the kernel may count others of the same user that have just ended."""
FORGED_END = "import os; os.write(4, b'd')"


class Holder(Protocol):
    level: Level
    python: Interpreter

    def run(self, *codes: str, between: Callable[[], object] = ..., **limits: float) -> list[Ran]: ...
    def output(self, code: str, **limits: float) -> str: ...


def running(mark: str) -> list[int]:
    """The processes of this machine that have `mark` in their command."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            try:
                if mark.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                    found.append(int(name))
            except OSError:
                continue
    return found


def gone(mark: str, *, seconds: float = 3.0) -> bool:
    until = time.monotonic() + seconds
    while running(mark):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def secret_file(tmp_path: Path) -> Iterator[Path]:
    """A file that every user may read, up to the root of the file system."""
    folder = Path(f"/var/tmp/gapscope-{os.getpid()}-{tmp_path.name}")
    folder.mkdir(mode=0o755)
    file = folder / "secret"
    file.write_text(SECRET)
    file.chmod(0o644)
    yield file
    file.unlink()
    folder.rmdir()


def test_the_environment_of_the_host_is_nowhere_to_be_read(
    every_level: Holder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    if every_level.level.name == "limits" and os.geteuid() != 0:
        pytest.skip("this level says that it does not keep code of the same user from the environments of others")
    found = every_level.output(
        "import os, glob\n"
        "print(dict(os.environ))\n"
        "for path in glob.glob('/proc/*/environ') + glob.glob('/proc/*/cmdline') + ['/proc/self/environ']:\n"
        "    try:\n        print(open(path, 'rb').read())\n"
        "    except OSError:\n        pass\n",
        output_chars=10_000_000,
    )
    assert "PATH" in found
    assert SECRET not in found
    assert "OPENAI" not in found


def test_no_file_of_the_host_can_be_read(any_level: Holder, secret_file: Path) -> None:
    code = """
import os
for path in {paths!r}:
    for opened in (open, os.listdir):
        try:
            opened(path)
            print("could read", path)
        except OSError:
            pass
"""
    own = [f"{path}/" for path in any_level.python.read]
    paths = [str(secret_file), str(secret_file.parent), __file__, "/etc/passwd", "/etc/shadow", "/var", "/sys", "/run"]
    for folder in (os.path.expanduser("~"), os.getcwd(), "/tmp", "/home"):
        paths += [
            f"{folder}/{name}"
            for name in os.listdir(folder)
            if not any(path.startswith(f"{folder}/{name}/") for path in own)
        ]
    assert len(paths) > 20
    paths += ["/proc/1/environ", "/proc/1/mem", "/proc/1/root", "/proc/1/fd", "/proc/kcore", "/dev/mem", "/dev/sda"]
    paths += [f"{secret_file.parent}/../../..{secret_file}", f"/proc/self/root{secret_file}"]
    assert any_level.output(code.format(paths=paths)) == ""
    assert secret_file.read_text() == SECRET


def test_no_service_of_the_host_can_be_reached(every_level: Holder, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    name = f"gapscope-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as internet,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
    ):
        abstract.bind(f"\0{name}")
        abstract.listen()
        datagrams.bind(f"\0{name}-datagrams")
        code = f"""
import socket
def attempt(what, family, kind, address):
    try:
        with socket.socket(family, kind) as one:
            one.settimeout(0.3)
            one.connect(address)
            print("could reach", what)
    except OSError:
        pass
attempt("a service", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", {internet.getsockname()[1]}))
attempt("an address", socket.AF_INET, socket.SOCK_DGRAM, ("192.0.2.1", 53))
attempt("an address", socket.AF_INET6, socket.SOCK_DGRAM, ("2001:db8::1", 53))
attempt("an abstract socket", socket.AF_UNIX, socket.SOCK_STREAM, "\\0{name}")
attempt("abstract datagrams", socket.AF_UNIX, socket.SOCK_DGRAM, "\\0{name}-datagrams")
for family in (16, 17, 38, 40):
    try:
        socket.socket(family, socket.SOCK_RAW if family < 20 else socket.SOCK_STREAM)
        print("could open a socket of family", family)
    except OSError:
        pass
try:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    pair[0].sendto(b"hello", "\\0{name}-datagrams")
    print("could send from a pair")
except OSError:
    pass
assert socket.socketpair()
"""
        assert every_level.output(code) == ""


def test_nothing_can_be_written_outside_the_scratch_folder(any_level: Holder, secret_file: Path) -> None:
    code = """
import os, sys, sysconfig
library = sysconfig.get_paths()["stdlib"]
for folder in ("/", "/usr", "/usr/lib", "/bin", "/etc", "/dev", "/proc", "/var/tmp", library, {folder!r}):
    try:
        open(folder + "/written", "w")
        print("could write in", folder)
    except OSError:
        pass
system = ("/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/etc/ld.so.cache")
for path in (os.__file__, sys.executable, *system, {file!r}):
    for mode in ("r+b", "ab"):
        try:
            open(path, mode)
            print("could write to", path)
        except OSError:
            pass
with open("mine", "w") as mine:
    mine.write("written")
print(open("mine").read())
"""
    written = any_level.output(code.format(folder=str(secret_file.parent), file=str(secret_file)))
    assert written == "written\n"
    assert not os.path.exists("/tmp/mine")
    assert os.listdir(secret_file.parent) == ["secret"]


def test_everything_but_the_scratch_folder_is_mounted_read_only_and_without_set_user_id(complete_level: Holder) -> None:
    code = """
import os
for path in {paths!r}:
    flags = os.statvfs(path).f_flag
    if not flags & os.ST_RDONLY or not flags & os.ST_NOSUID:
        print(path)
"""
    assert complete_level.output(code.format(paths=["/", *complete_level.python.read])) == ""


def test_nothing_can_be_mounted_traced_or_hidden(every_level: Holder) -> None:
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def attempt(what, name, *arguments):
    if getattr(libc, name)(*arguments) >= 0:
        print("could", what)
attempt("make a user namespace", "unshare", 0x10000000)
attempt("make a namespace by cloning", "syscall", 56 if os.uname().machine == "x86_64" else 220, 0x10000011, 0, 0, 0, 0)
attempt("mount", "mount", b"none", b".", b"tmpfs", 0, None)
attempt("change its root", "chroot", b".")
attempt("trace the supervisor", "ptrace", 16, os.getppid(), None, None)
attempt("become root", "setuid", 0)
attempt("hide memory", "memfd_create", b"hidden", 0)
attempt("share memory by key", "shmget", 0, 4096, 0o1600)
attempt("limit the supervisor", "prlimit", os.getppid(), 7, (ctypes.c_uint64 * 2)(0, 0), None)
attempt("name a process to limit", "prlimit", os.getpid(), 7, None, (ctypes.c_uint64 * 2)(0, 0))
attempt("load a program into the kernel", "syscall", 321 if os.uname().machine == "x86_64" else 280, 0, None, 0)
print(os.getuid() != 0)
"""
    assert every_level.output(code) == "True\n"


def test_it_has_no_privileges(complete_level: Holder) -> None:
    lines = complete_level.output("print(open('/proc/self/status').read())").splitlines()
    status = dict(line.split(":\t") for line in lines if ":\t" in line)
    capabilities = {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert set(capabilities.values()) == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_the_supervisor_cannot_be_ended(every_level: Holder) -> None:
    code = """
import os, signal
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGSTOP, signal.SIGKILL):
    try:
        os.kill(os.getppid(), number)
    except OSError:
        pass
print("alive")
"""
    first, second = every_level.run(code, "1 + 1")
    assert (first, second) == (Ran("alive\n"), Ran("2\n"))


DAEMON = """
import os
begun, begin = os.pipe()  # the end that is written to is closed by starting a program
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, begun)
        os.execv("/bin/sleep", ["sleep", {mark!r}])
    os._exit(0)
os.close(begin)
os.read(begun, 1)
print("left behind")
"""


def test_a_daemon_dies_with_the_sandbox(any_level: Holder) -> None:
    mark = f"{60_000 + os.getpid() % 1000}.625"
    seen: list[list[int]] = []
    (ran,) = any_level.run(DAEMON.format(mark=mark), between=lambda: seen.append(running(mark)))
    assert ran == Ran("left behind\n")
    assert len(seen[0]) == 1
    assert running(mark) == []


def test_a_daemon_dies_when_the_time_is_over(every_level: Holder) -> None:
    mark = f"{61_000 + os.getpid() % 1000}.625"
    seen: list[list[int]] = []
    code = DAEMON.format(mark=mark) + "while True: pass"
    (ran,) = every_level.run(code, between=lambda: seen.append(running(mark)), seconds=0.4)
    assert ran == Ran("left behind\n", timed_out=True)
    assert seen == [[]]


# The package stands in without its public names, which take time to import.
HOST = """
import asyncio, sys, types
package = types.ModuleType("gapscope")
package.__path__ = [sys.argv[4]]
sys.modules["gapscope"] = package
from gapscope.sandbox import LEVELS, Limits, start
async def main():
    level = next(level for level in LEVELS if level.name == sys.argv[1])
    sandboxed = await start(level, Limits(), sys.argv[2])
    print(await sandboxed.run(sys.argv[3]), flush=True)
    await sandboxed.run("while True: pass")
asyncio.run(main())
"""


def test_a_daemon_dies_when_the_host_is_killed(any_level: Holder) -> None:
    mark = f"{62_000 + os.getpid() % 1000}.625"
    python = any_level.python.executable
    command = [sys.executable, "-c", HOST, any_level.level.name, python, DAEMON.format(mark=mark), PACKAGE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        assert "left behind" in host.stdout.readline()
        assert [pid for pid in running(mark) if pid != host.pid]
        host.send_signal(signal.SIGKILL)
    assert gone(mark)


def test_forking_comes_to_an_end(any_level: Holder) -> None:
    code = """
import os, time
children = 0
try:
    while children < 200:
        if os.fork() == 0:
            time.sleep(9)
            os._exit(0)
        children += 1
except OSError as error:
    print(type(error).__name__, children)
"""
    answer = any_level.output(code, processes=12)
    assert re.fullmatch(r"BlockingIOError \d+\n", answer), answer
    assert int(answer.split()[1]) <= FEW


def test_a_fork_bomb_is_over_with_its_call(every_level: Holder) -> None:
    seconds = 0.3 + os.getpid() % 1000 / 1e6
    bomb = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    (ran,) = every_level.run(bomb, seconds=seconds, processes=12)
    assert ran.timed_out or ran.died == "it had more than 12 processes"
    assert running(f"'seconds': {seconds},") == []


def test_threads_come_to_an_end(any_level: Holder) -> None:
    code = f"""
import threading, time
try:
    for count in range(200):
        threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
except RuntimeError as error:
    print(count <= {FEW})
"""
    assert any_level.output(code, processes=12) == "True\n"


def test_memory_of_one_process_comes_to_an_end_with_an_exception(any_level: Holder) -> None:
    first, second = any_level.run("kept = 7\nmuch = bytearray(300 << 20)", "kept", memory_mb=200)
    assert first.raised
    assert first.output.endswith("MemoryError\n")
    assert second == Ran("7\n")


@pytest.mark.parametrize(
    "code",
    [
        "import mmap\nmuch = mmap.mmap(-1, 300 << 20)\nfor at in range(0, 300 << 20, 4096): much[at] = 1",
        "import os, time\nfor _ in range(3):\n    if not os.fork(): much = bytearray(60 << 20); break\ntime.sleep(9)",
    ],
    ids=["shared", "of several processes"],
)
def test_memory_beyond_the_limit_ends_the_sandbox(any_level: Holder, code: str) -> None:
    (ran,) = any_level.run(code, memory_mb=100)
    assert ran.died == "it used more than 100 MB of memory"


def test_memory_that_processes_share_is_counted_once(complete_level: Holder) -> None:
    code = "import os, time\nmuch = bytearray(60 << 20)\nfor _ in range(4):\n    if not os.fork(): time.sleep(9)\n"
    assert complete_level.output(code + "time.sleep(0.3); print('fine')", memory_mb=100) == "fine\n"


def test_an_endless_output_is_cut_in_the_middle(any_level: Holder) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    printed = any_level.output(
        "print('begin')\nfor _ in range(16): print('x' * (1 << 20))\nprint('end')", output_chars=100
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000
    assert (
        printed == f"begin\n{'x' * 44}\n[… {16 * ((1 << 20) + 1) + 10 - 100} characters left out …]\n{'x' * 45}\nend\n"
    )


@pytest.mark.slow
def test_a_gigabyte_of_output_leaves_memory_flat(any_level: Holder) -> None:
    """A gigabyte through a pipe takes seconds."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (ran,) = any_level.run("import os\nfor _ in range(1 << 14): os.write(1, b'x' * (1 << 16))")
    assert len(ran.output) < 21_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


def test_an_output_without_end_is_over_with_its_call(any_level: Holder) -> None:
    (ran,) = any_level.run("while True: print('y')", seconds=0.4)
    assert ran.timed_out
    assert ran.output.startswith("y\ny\n")
    assert "characters left out" in ran.output


def test_one_file_comes_to_an_end(any_level: Holder) -> None:
    (ran,) = any_level.run("with open('large', 'wb') as large:\n    large.write(bytes(3 << 20))", file_mb=2)
    assert "OSError: [Errno 27] File too large" in ran.output


def test_all_files_together_come_to_an_end(complete_level: Holder) -> None:
    code = "for number in range(9):\n    with open(f'/tmp/{number}', 'wb') as one: one.write(bytes(1 << 20))"
    (ran,) = complete_level.run(code, scratch_mb=4)
    assert "No space left on device" in ran.output
    (ran,) = complete_level.run(code.replace("/tmp/", "/dev/shm/"), scratch_mb=4)
    assert "No space left on device" in ran.output


def test_folders_that_are_too_deep_for_python_go_with_the_sandbox(
    incomplete_level: Holder,
    secret_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = secret_file.parent
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    deep = "import os\nfor _ in range(1100):\n    os.mkdir('deep'); os.chdir('deep')\nopen('file', 'w').close()"
    assert incomplete_level.output(deep) == ""
    assert os.listdir(folder) == ["secret"]


def test_empty_files_come_to_an_end(complete_level: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gapscope.sandbox.launch.MOST_FILES", 500)
    (ran,) = complete_level.run("import os, time\nfor n in range(900): os.mkdir(str(n))\ntime.sleep(1)")
    assert "No space left on device" in ran.output or ran.died == "it made more than 500 files"


@pytest.mark.parametrize(
    "code",
    ["while True: pass", "import time\nwhile True:\n    try: time.sleep(9)\n    except BaseException: pass"],
    ids=["busy", "deaf"],
)
def test_time_comes_to_an_end(any_level: Holder, code: str) -> None:
    began = time.monotonic()
    (ran,) = any_level.run(f"print('before')\n{code}", seconds=0.3)
    assert ran == Ran("before\n", timed_out=True)
    assert time.monotonic() - began < 3


def test_code_that_stops_itself_is_over_with_its_call(complete_level: Holder) -> None:
    (ran,) = complete_level.run("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", seconds=0.3)
    assert ran.timed_out


def test_between_calls_nothing_runs(any_level: Holder) -> None:
    first = """
import threading, time
beats = []
def beat():
    while True:
        beats.append(time.monotonic())
        time.sleep(.01)
threading.Thread(target=beat, daemon=True).start()
time.sleep(.05)
"""
    second = "time.sleep(.05)\nprint(max(b - a for a, b in zip(beats, beats[1:])) > .25)"
    assert any_level.run(first, second, between=lambda: time.sleep(0.3))[1] == Ran("True\n")


def test_sandboxes_that_are_cancelled_at_any_moment_leave_nothing_behind(
    any_level: Holder,
    secret_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(secret_file.parent))
    seconds = 9 + os.getpid() / 1e7

    async def use() -> None:
        sandboxed = await start(any_level.level, Limits(seconds=seconds), any_level.python)
        try:
            await sandboxed.run("import time; time.sleep(9)")
        finally:
            await sandboxed.close()

    async def cancelled_after(pause: float) -> None:
        task = asyncio.create_task(use())
        await asyncio.sleep(pause)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def all_of_them() -> None:
        await asyncio.gather(*(cancelled_after(number / 100) for number in range(10)))

    asyncio.run(all_of_them())
    assert running(f"'seconds': {seconds},") == []
    assert os.listdir(secret_file.parent) == ["secret"]


@pytest.mark.parametrize(
    ("code", "died"),
    [
        ("import os; os._exit(3)", "it ended itself with exit code 3"),
        ("import ctypes; ctypes.string_at(0)", "it was ended by SIGSEGV"),
        ("import os; _ = os.write(4, b'garbage' * 1000)", "it broke off the connection"),
        ("import os; os.closerange(0, 200)", ""),
        ("import os, time; os.close(4); time.sleep(9)", "it broke off the connection"),
    ],
    ids=["exits", "crashes", "babbles", "closes all", "hangs up"],
)
def test_what_breaks_its_interpreter_costs_that_one_alone(any_level: Holder, code: str, died: str) -> None:
    first, second = any_level.run(f"print('before')\n{code}", "1 + 1")
    assert first.output == "before\n"
    assert first.died is not None
    assert died in first.died
    assert second == Ran("", died="it had ended before")


def test_a_forged_end_of_a_call_is_only_believed_once(any_level: Holder) -> None:
    (first, second) = any_level.run(f"{FORGED_END}\nprint('a' * 9)\nimport time; time.sleep(.2)", "print('b')")
    assert not first.timed_out
    assert second.died is None
    assert set(second.output) <= set("ab\n")
