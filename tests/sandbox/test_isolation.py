"""That no level is missed on a machine that has what it needs: a level that breaks would only be skipped elsewhere."""

import asyncio
import ctypes
import os
import shutil
import subprocess
import sys

import pytest

import gapscope
from gapscope.sandbox import LEVELS, Limits, NotStarted, start, strongest
from gapscope.sandbox.isolation import why_not
from gapscope.sandbox.readable import Interpreter, interpreter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sandboxes need Linux")

BY_NAME = {level.name: level for level in LEVELS}


def reason(name: str, python: str = sys.executable) -> str | None:
    async def tried() -> str | None:
        return await why_not(BY_NAME[name], await interpreter(python))

    return asyncio.run(tried())


def python_of_all_users() -> str:
    if os.geteuid() != 0:
        return sys.executable
    if not os.path.exists("/usr/bin/python3"):
        pytest.skip("there is no Python that every user can read")
    return "/usr/bin/python3"


def test_bubblewrap_works_where_it_can_make_namespaces() -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("there is no bwrap on PATH")
    tried = subprocess.run(["bwrap", "--ro-bind", "/", "/", "--unshare-all", "true"], check=False, capture_output=True)
    if tried.returncode:
        pytest.skip(f"bwrap cannot make namespaces here: {tried.stderr.decode()}")
    assert reason("bubblewrap") is None


def test_namespaces_work_where_the_machine_has_them() -> None:
    command = ["unshare", "-mnpiuf", *(["-U"] if os.geteuid() != 0 else []), "true"]
    if shutil.which("unshare") is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let this user make namespaces")
    assert reason("namespaces") is None


def test_landlock_works_where_the_kernel_has_it() -> None:
    if ctypes.CDLL(None).syscall(444, None, 0, 1) < 1:
        pytest.skip("the kernel has no Landlock")
    assert reason("landlock", python_of_all_users()) is None


def test_limits_work_everywhere() -> None:
    assert reason("limits", python_of_all_users()) is None


def test_without_bubblewrap_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert reason("bubblewrap") == "there is no `bwrap` on PATH"


def test_other_systems_are_told_that_it_needs_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gapscope.sandbox.launch.sys", type("sys", (), {"platform": "darwin"}))
    assert {reason(level.name) for level in LEVELS} == {"it needs Linux, and this is darwin"}


def test_it_can_be_imported_where_there_is_no_linux() -> None:
    code = """
import sys, types
package = types.ModuleType("gapscope")
package.__path__ = [sys.argv[1]]
sys.modules.update({"gapscope": package, "fcntl": None, "resource": None, "ctypes": None})
import gapscope.tools.python
print(gapscope.tools.python.Python().about)
"""
    package = os.path.dirname(str(gapscope.__file__))
    said = subprocess.run([sys.executable, "-c", code, package], check=True, capture_output=True, text=True).stdout
    assert said == "python runs in a sandbox; 12 s a call, 1024 MB, 32 processes, 20000 characters\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs code as another user")
def test_an_interpreter_that_other_users_cannot_read_is_named() -> None:
    async def refused() -> str:
        known = await interpreter(sys.executable)
        with pytest.raises(NotStarted) as error:
            await start(BY_NAME["limits"], Limits(), known._replace(needs=("/etc/shadow",)))
        return str(error.value)

    assert asyncio.run(refused()) == "it runs as another user than root, who cannot read /etc/shadow"


def test_a_machine_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = asyncio.run(strongest())

    async def never(*_: object) -> str:
        raise AssertionError

    monkeypatch.setattr("gapscope.sandbox.isolation.why_not", never)
    assert asyncio.run(strongest()) is first


def test_what_code_can_still_do_is_a_reason_against_a_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gapscope.sandbox.isolation._TRIAL", "print('reach the network')\nprint('become root')")
    assert reason("limits", python_of_all_users()) == "code in it can reach the network and become root"


def test_only_complete_levels_miss_nothing() -> None:
    assert [level.name for level in LEVELS] == ["bubblewrap", "namespaces", "landlock", "limits"]
    assert [level.complete for level in LEVELS] == [True, True, False, False]
    for level in LEVELS:
        assert level.about.startswith(f"{level.name}: no network, ")
        assert ("; but it " in level.about) is not level.complete


def test_what_an_interpreter_reads_is_no_folder_of_a_user() -> None:
    known: Interpreter = asyncio.run(interpreter(sys.executable))
    assert not {"/", "/home", "/root", "/etc", "/usr", "/tmp", "/var", os.getcwd(), os.path.expanduser("~")} & set(
        known.read
    )
    assert all(os.path.exists(path) for path in known.read)
