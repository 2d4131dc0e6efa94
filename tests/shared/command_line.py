"""The command line, run in this process, which spares each test the second in which a new one starts."""

import io
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from gapscope.cli import main

ROOT = Path(__file__).parent.parent.parent


def gapscope(*arguments: object, cwd: Path = ROOT, columns: int = 80) -> CompletedProcess[str]:
    """What a command has printed to pipes that take UTF-8, and its exit code; test_cli.py compares it to a process."""
    words = [str(argument) for argument in arguments]
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, chdir(cwd), redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["gapscope", *words])
        patch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as ending:
            main()
    printed, said = (stream.buffer.getvalue().decode() for stream in (out, err))
    code = ending.value.code
    assert code is None or isinstance(code, int)
    return CompletedProcess(words, code or 0, printed, said)
