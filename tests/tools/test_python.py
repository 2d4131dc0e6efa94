"""The tool `python`: what a policy is told, and that nothing of a session stays behind."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gapscope.errors import SettingsError
from gapscope.outcomes import ErrorMarkers
from gapscope.rollouts import Json
from gapscope.sandbox import LEVELS, Isolation, Limits, isolation
from gapscope.sandbox.readable import Interpreter
from gapscope.tools.base import Call, ToolFailure, ToolResult
from gapscope.tools.python import Python, code_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sandboxes need Linux")


def answers(*codes: str, limits: Limits | None = None) -> list[ToolResult]:
    """What one session answers to calls, one after another."""

    async def all_of_them() -> list[ToolResult]:
        async with Python(limits=limits) as tool:
            session = tool.session()
            try:
                return [await session.call(Call("python", {"code": code})) for code in codes]
            finally:
                await session.close()

    return asyncio.run(all_of_them())


def text(code: str) -> str:
    (result,) = answers(code)
    return result.text


def test_an_answer_is_what_a_terminal_shows() -> None:
    code = "import os, sys\nprint('one')\nos.system('echo two')\nprint('three', file=sys.stderr)\nx = 4\n'fi' + 've'"
    assert text(code) == "one\ntwo\nthree\n'five'\n"


def test_nothing_printed_gives_an_empty_answer() -> None:
    assert answers("x = 1", "None", "", "# only a comment") == [ToolResult("")] * 4


def test_variables_and_imports_live_from_call_to_call() -> None:
    assert [
        result.text for result in answers("import math\ndef f(x): return math.sqrt(x)", "y = f(16)", "y", "_ + 1")
    ] == [
        "",
        "",
        "4.0\n",
        "5.0\n",
    ]


def test_an_exception_is_a_traceback_of_its_own_lines_alone() -> None:
    first, second = answers("def half(x):\n    return x / 0", "print('so far')\nhalf(8)")
    assert first == ToolResult("")
    assert second.error
    assert [line for line in second.text.splitlines() if "~~^~~" not in line] == [
        "so far",
        "Traceback (most recent call last):",
        '  File "<call 2>", line 2, in <module>',
        "    half(8)",
        '  File "<call 1>", line 2, in half',
        "    return x / 0",
        "ZeroDivisionError: division by zero",
    ]


@pytest.mark.parametrize(
    ("code", "last"),
    [
        ("print(1", "SyntaxError: '(' was never closed"),
        ("input('name? ')", "EOFError: EOF when reading a line"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded"),
        (
            "class E(Exception):\n    def __str__(self): raise ValueError\nraise E",
            "E: <exception str() failed>",
        ),
        ("'\0'", "source code string cannot contain null bytes"),
        ("x = '\ud800'\nx.encode()", "surrogates not allowed"),
    ],
)
def test_whatever_is_raised_is_an_answer_that_an_audit_knows_as_an_error(code: str, last: str) -> None:
    first, second = answers(code, "1 + 1")
    assert last in first.text.splitlines()[-1]
    assert first.error
    assert ErrorMarkers().judge("python", first.text) == "executed_error"
    assert second == ToolResult("2\n")


@pytest.mark.parametrize("code", ["exit()", "import sys; sys.exit()", "quit(0)", "raise SystemExit(1)"])
def test_an_exit_ends_a_call_and_not_the_interpreter(code: str) -> None:
    assert answers(f"kept = 7\n{code}\nprint('never')", "kept") == [ToolResult(""), ToolResult("7\n")]


def test_an_exit_with_words_says_them() -> None:
    assert text("import sys\nsys.exit('no solution')") == "no solution\n"


def test_an_output_that_was_turned_away_is_back_with_the_next_call() -> None:
    assert answers("import io, sys\nsys.stdout = io.StringIO()\nprint('lost')", "print('seen')")[1] == ToolResult(
        "seen\n"
    )


def test_main_is_main() -> None:
    assert (
        text("if __name__ == '__main__':\n    class A: pass\n    import pickle; print(len(pickle.dumps(A())) > 9)")
        == "True\n"
    )


def test_a_call_beyond_its_time_says_so_and_the_next_one_starts_anew() -> None:
    first, second = answers("kept = 1\nprint('so far')\nwhile True: pass", "kept", limits=Limits(seconds=0.3))
    assert first == ToolResult(
        "Error: TimeoutError: the code ran longer than 0.3 s; "
        "the interpreter was started again and its variables are gone\nso far\n",
        error=True,
    )
    assert ErrorMarkers().judge("python", first.text) == "timeout"
    assert second.text.endswith("NameError: name 'kept' is not defined\n")


def test_an_interpreter_that_dies_is_replaced() -> None:
    first, second = answers("kept = 1\nimport os; os._exit(3)", "'kept' in globals()")
    assert first == ToolResult(
        "Error: the interpreter died: it ended itself with exit code 3; "
        "the interpreter was started again and its variables are gone",
        error=True,
    )
    assert ErrorMarkers().judge("python", first.text) == "executed_error"
    assert second == ToolResult("False\n")


def test_a_fork_that_returns_is_not_a_second_answer() -> None:
    first, second = answers("import os\nchild = os.fork()\nif child: os.waitpid(child, 0); print('parent')", "2")
    assert (first.text, second.text) == ("parent\n", "2\n")


def test_libraries_of_the_interpreter_can_be_imported() -> None:
    assert text("import numpy as np\nprint(np.ones((64, 64)) @ np.ones(64) @ np.ones(64))") == "4096.0\n"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"code": "1", "input": "2"}, "1"),
        ({"input": "2"}, "2"),
        ({"python_code": "2", "timeout": 3}, "2"),
        ({"code": "```python\nx = 1\n```"}, "x = 1"),
        ({"code": "\n```\nx = 1\ny = 2\n```\n"}, "x = 1\ny = 2"),
        ({"code": "~~~py\nx = 1"}, "x = 1"),
        ({"code": "s = '''\n```\n'''"}, "s = '''\n```\n'''"),
        ({"code": "`x`"}, "`x`"),
        ({"code": 3}, None),
        ({"a": "1", "b": "2"}, None),
        ({}, None),
    ],
)
def test_the_code_is_found_among_the_arguments(arguments: dict[str, Json], code: str | None) -> None:
    assert code_of(arguments) == code


def test_a_call_without_code_is_told_what_it_lacks() -> None:
    async def without() -> ToolResult:
        async with Python() as tool:
            return await tool.session().call(Call("python", {"timeout": 3}))

    answer = asyncio.run(without())
    assert answer == ToolResult("Error: missing required argument 'code', a text", error=True)
    assert ErrorMarkers().judge("python", answer.text) == "bad_arguments"


def test_what_it_says_of_itself_names_the_level_and_the_limits() -> None:
    async def about() -> tuple[str, str]:
        async with Python(("python", "code_interpreter"), limits=Limits(seconds=3)) as tool:
            assert tool.names == ("python", "code_interpreter")
            return tool.about, (await isolation.strongest()).level.name

    said, level = asyncio.run(about())
    assert said.startswith(f"python runs in {level}: no network, ")
    assert said.endswith("; 3 s a call, 1024 MB, 32 processes, 20000 characters")


@pytest.fixture
def nothing_found() -> Iterator[None]:
    """A process that has tried no level yet."""
    found = dict(isolation._found)
    isolation._found.clear()
    yield
    isolation._found.clear()
    isolation._found.update(found)


@pytest.mark.usefixtures("nothing_found")
def test_strict_refuses_what_does_not_hold_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    async def only_the_third(level: object, _: Interpreter) -> str | None:
        return {LEVELS[0]: "no bwrap", LEVELS[1]: "no namespaces"}.get(level)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(isolation, "why_not", only_the_third)

    async def opened(*, strict: bool) -> str:
        async with Python(strict=strict) as tool:
            return tool.about

    assert asyncio.run(opened(strict=False)).startswith(
        "python runs in landlock: no network, no files but Python's own, limits on time, memory, processes, output and "
        "single files; but it sees which files exist, and the sum of its files is not limited "
        "(bubblewrap: no bwrap; namespaces: no namespaces); 12 s a call",
    )
    with pytest.raises(SettingsError, match=r"bubblewrap: no bwrap; namespaces: no namespaces") as refused:
        asyncio.run(opened(strict=True))
    assert "apt-get install bubblewrap" in str(refused.value.hint)


@pytest.mark.usefixtures("nothing_found")
def test_a_machine_that_holds_nothing_is_refused_with_every_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(level: object, _: Interpreter) -> str:
        return f"not {getattr(level, 'name', '')}"

    monkeypatch.setattr(isolation, "why_not", nothing)
    with pytest.raises(SettingsError, match=r"not bubblewrap.*not namespaces.*not landlock.*not limits"):
        asyncio.run(Python().__aenter__())


@pytest.mark.parametrize("python", ["/no/such/python", "/bin/true"])
def test_what_is_no_interpreter_is_refused(python: str) -> None:
    with pytest.raises(SettingsError, match=python):
        asyncio.run(Python(python=python).__aenter__())


def test_a_sandbox_that_does_not_come_up_any_more_is_a_failure_of_the_tool() -> None:
    async def lost() -> None:
        async with Python() as tool:
            assert isinstance(tool._isolation, Isolation)
            gone = tool._isolation.interpreter._replace(executable="/no/such/python")
            tool._isolation = tool._isolation._replace(interpreter=gone)
            await tool.session().call(Call("python", {"code": "1"}))

    with pytest.raises(ToolFailure, match="no sandbox can be started any more"):
        asyncio.run(lost())


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def running(mark: str) -> set[str]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes():
                found.add(path.parent.name)
        except OSError:
            continue
    return found


async def use(times: int, seconds: float) -> None:
    async with Python(limits=Limits(seconds=seconds)) as tool:
        for number in range(times):
            session = tool.session()
            await session.call(
                Call("python", {"code": "import os\nif os.fork() == 0:\n    import time; time.sleep(9)"})
            )
            assert running(f"'seconds': {seconds},")
            if number % 5 == 4:
                await session.call(Call("python", {"code": "while True: pass"}))
            elif number % 5 == 3:
                task = asyncio.create_task(session.call(Call("python", {"code": "import time; time.sleep(9)"})))
                await asyncio.sleep(0.02)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await session.close()


@pytest.fixture
def folder_for_all() -> Iterator[Path]:
    """A folder that code can reach when it runs as another user than the tests."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.mark.parametrize("sessions", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_sessions_leave_nothing_behind(sessions: int, folder_for_all: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty of them take seconds, and are slow."""
    monkeypatch.setattr("tempfile.tempdir", str(folder_for_all))
    seconds = 0.3 + os.getpid() / 1e7
    asyncio.run(use(1, seconds))
    files = open_files()
    asyncio.run(use(sessions, seconds))
    assert open_files() == files
    assert running(f"'seconds': {seconds},") == set()
    assert os.listdir(folder_for_all) == []
