"""Formats that other packages add by the entry-point group `gapscope.parsers`."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

MODULE = '''
"""A trainer's log in which a rollout is a question, an answer and a mark."""

from gapscope.parsers.base import Parser, reread, row_by_row, source_of
from gapscope.rollouts import Need, Rollout


def translate(row, reading):
    found = reread(row.value["question"], row.value["answer"], reading)
    return Rollout(
        format="quiz",
        source=source_of(row, reading),
        reward=row.value["mark"],
        group_id=row.value["question"],
        group_origin="logged",
        prompt=row.value["question"],
        output=row.value["answer"],
        turns=found.turns,
        spans=found.spans,
        calls=found.calls,
    )


PARSER = Parser(
    name="quiz",
    trainer="quizmaster",
    producer="quizmaster 1.0",
    containers=("jsonl",),
    claims=lambda row: "question" in row and "mark" in row,
    parse=row_by_row(translate),
    carries=("group_id", "reward"),
    lacks={},
)
NOT_A_PARSER = 7
'''


ENTRY_POINTS = "[gapscope.parsers]\nquiz = {}\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its own into which a wheel with the parser as its entry point was installed."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel = folder / "quizmaster-1.0-py3-none-any.whl"
    info = "quizmaster-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("quizmaster.py", MODULE)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: quizmaster\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/entry_points.txt", ENTRY_POINTS.format("quizmaster:PARSER"))
        names = [*archive.namelist(), f"{info}/RECORD"]
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in names))
    place = folder / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(place)]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    return place


def gapscope(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in an environment in which the packages of a folder are found."""
    command, environment = [sys.executable, "-m", "gapscope", *arguments], {**os.environ, "PYTHONPATH": str(place)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_an_installed_package_adds_a_format(installed: Path, tmp_path: Path) -> None:
    call = '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>\n<tool_response>\nred\n</tool_response>\nred'
    rows = [{"question": f"q{n // 4}", "answer": call if n % 2 else "blue", "mark": n % 2} for n in range(16)]
    for number in range(2):
        (tmp_path / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    logs = [str(tmp_path / "0.jsonl"), str(tmp_path / "1.jsonl")]
    result = gapscope(installed, "audit", *logs, "--jobs", "2", "--correct", "reward>=1", "--format", "json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert [reading["format"] for reading in report["formats"]] == ["quiz"]
    assert report["metrics"]["tool_attempt_rate"]["value"] == 0.5
    assert "quiz " in gapscope(installed, "formats").stdout
    assert "quizmaster 1.0" in gapscope(installed, "formats", "quiz").stdout


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("quizmaster:MISSING", "cannot be loaded"),
        ("nowhere:PARSER", "cannot be loaded"),
        ("quizmaster:NOT_A_PARSER", "is int, expected a gapscope.parsers.Parser"),
    ],
)
def test_an_entry_point_that_is_no_parser_is_named(installed: Path, tmp_path: Path, entry: str, message: str) -> None:
    place = shutil.copytree(installed, tmp_path / "installed")
    (place / "quizmaster-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS.format(entry), encoding="utf-8")
    result = gapscope(place, "formats")
    assert result.returncode == 2
    assert f"the entry point quiz = {entry} of quizmaster" in result.stderr
    assert message in " ".join(result.stderr.split())
