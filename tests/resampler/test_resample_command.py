"""`gapscope resample` and `gapscope axpo` as users meet them: what is said, what is written, and how they end."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import gapscope
from double_logs import groups, planned, write
from vllm_double import qwen_double
from vllm_policies import hermes
from vllm_served import Served

import gapscope as gs
from gapscope.axpo.plan_file import write_plan
from gapscope.rollouts import Rollout

TOOL = """
DEGREES = {"Arlen": 0, "Borow": 4, "Cadiz": 8, "Dunmor": 12, "Elstow": 16}


def get_weather(city: str) -> str:
    return f"{DEGREES[city]} degrees"
"""
GIVEN = ("--model", "tiny", "--tools", "get_weather=weather_tool:get_weather", "--reward", "exact_match")


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with Served(qwen_double(policy=hermes(), keep=False)) as served:
        yield served


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a log of three questions, its plan and a tool."""
    plan = planned(write(tmp_path / "log.jsonl", groups(3)))
    write_plan(tmp_path / "plan.jsonl", plan.header, plan.prefixes)
    (tmp_path / "weather_tool.py").write_text(TOOL)
    return tmp_path


def test_a_plan_becomes_a_log_that_says_what_recovered(server: Served, folder: Path) -> None:
    ran = gapscope("resample", "plan.jsonl", "--endpoint", server.url, *GIVEN, cwd=folder)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr
    assert "resampled.jsonl: 12 of 12 continuations by tiny" in ran.stderr
    assert re.search(r"2 of 3 prefixes recovered: 66.7 % \(95 % 20.8–93.9 %\)", ran.stderr)
    assert "12 continue the plan's own tokens, as the server confirmed" in ran.stderr
    assert "results are written as in the log (6 of 6)" in ran.stderr
    assert "next: gapscope recovery resampled.jsonl --plan plan.jsonl" in ran.stderr
    written = [each for each in gs.read(str(folder / "resampled.jsonl")) if isinstance(each, Rollout)]
    assert len(written) == 24
    assert [each.parent is not None for each in written] == [False] * 12 + [True] * 12


def test_what_is_said_to_be_next_works(server: Served, folder: Path) -> None:
    gapscope("resample", "plan.jsonl", "--endpoint", server.url, *GIVEN, cwd=folder)
    ran = gapscope("recovery", "resampled.jsonl", "--plan", "plan.jsonl", cwd=folder)
    assert ran.returncode == 0, ran.stderr
    assert "66.7 %" in ran.stdout


def test_a_dry_run_says_how_it_would_go_and_writes_nothing(server: Served, folder: Path) -> None:
    before = sorted(folder.iterdir())
    ran = gapscope("resample", "plan.jsonl", "--endpoint", server.url, *GIVEN, "--dry-run", cwd=folder)
    assert ran.returncode == 0
    assert "12 continuations would be sampled by tiny; nothing was sampled or written" in ran.stderr
    assert "written so, 6 of 6 answers of the log are its own tokens" in ran.stderr
    assert [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"] == before


def test_a_limit_takes_the_first_prefixes_and_resume_the_others(server: Served, folder: Path) -> None:
    command = ("resample", "plan.jsonl", "--endpoint", server.url, *GIVEN)
    assert "4 of 4 continuations" in gapscope(*command, "--limit", 1, cwd=folder).stderr
    refused = gapscope(*command, cwd=folder)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    ran = gapscope(*command, "--resume", cwd=folder)
    assert "12 of 12 continuations" in ran.stderr
    assert "4 were there from an earlier run" in ran.stderr


def test_nothing_with_a_verdict_is_a_failure_that_says_why(server: Served, folder: Path) -> None:
    (folder / "bad.py").write_text("def score(data_source, solution_str, ground_truth, extra_info=None):\n    1 / 0\n")
    given = ("--model", "tiny", "--tools", "get_weather=weather_tool:get_weather", "--reward", "bad:score")
    ran = gapscope("resample", "plan.jsonl", "--endpoint", server.url, *given, cwd=folder)
    assert ran.returncode == 2
    assert "12 have no verdict" in ran.stderr
    assert "ZeroDivisionError" in ran.stderr
    assert (folder / "resampled.jsonl").exists()


def test_missing_tools_are_named_with_a_way_out(server: Served, folder: Path) -> None:
    ran = gapscope(
        "resample", "plan.jsonl", "--endpoint", server.url, "--model", "tiny", "--reward", "exact_match", cwd=folder
    )
    assert ran.returncode == 2
    assert "get_weather" in ran.stderr
    assert "--tools get_weather=module:function" in ran.stderr
    assert not (folder / "resampled.jsonl").exists()


def test_the_key_is_in_nothing_that_is_said_or_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "sk-very-secret")
    with Served(qwen_double(policy=hermes(), key="sk-very-secret")) as served:
        ran = gapscope("resample", "plan.jsonl", "--endpoint", served.url, *GIVEN, cwd=folder)
    assert ran.returncode == 0
    monkeypatch.setenv("VLLM_API_KEY", "sk-wrong-secret")
    with Served(qwen_double(policy=hermes(), key="sk-very-secret")) as served:
        refused = gapscope("resample", "plan.jsonl", "--endpoint", served.url, *GIVEN, "-o", "other", cwd=folder)
    assert refused.returncode == 2
    assert "VLLM_API_KEY" in refused.stderr
    texts = [ran.stderr, refused.stderr, *(path.read_text() for path in folder.iterdir() if path.is_file())]
    assert not [text for text in texts if "secret" in text]


def test_ctrl_c_finishes_what_is_in_flight_and_resume_the_rest(folder: Path) -> None:
    command = [sys.executable, "-m", "gapscope", "resample", "plan.jsonl", *GIVEN, "--concurrency", "2"]
    with Served(qwen_double(policy=hermes()), delay=0.05) as served:
        process = subprocess.Popen([*command, "--endpoint", served.url], cwd=folder, stderr=subprocess.PIPE, text=True)
        journal = folder / "resampled.jsonl.journal"
        end = time.monotonic() + 60
        while time.monotonic() < end and not (journal.exists() and journal.read_bytes().count(b"\n") > 2):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 2
        assert "finishing what is in flight" in said
        assert "interrupted" in said
        assert "--resume" in said
        finished = journal.read_bytes().count(b"\n") - 1
        assert 2 <= finished < 12
        ran = gapscope("resample", "plan.jsonl", *GIVEN, "--endpoint", served.url, "--resume", cwd=folder)
    assert ran.returncode == 0
    assert f"{finished} were there from an earlier run" in ran.stderr
    rollouts = [each for each in gs.read(str(folder / "resampled.jsonl")) if isinstance(each, Rollout) and each.parent]
    assert len({each.rollout_id for each in rollouts}) == len(rollouts) == 12


def axpo(server: Served, folder: Path, *more: object) -> "subprocess.CompletedProcess[str]":
    options = ("--budget", 1, "--seed", 0, "--max-turns", 3, "--max-tokens", 400)
    return gapscope("axpo", "log.jsonl", "--endpoint", server.url, *GIVEN, *options, *more, cwd=folder)


def test_axpo_is_all_four_parts_and_keeps_the_file_of_each(server: Served, folder: Path) -> None:
    ran = axpo(server, folder)
    assert ran.returncode == 0, ran.stderr
    names = ["audit.json", "plan.jsonl", "recovery.json", "resampled.jsonl", "resampled.jsonl.journal"]
    assert sorted(path.name for path in (folder / "axpo").iterdir()) == names
    assert "all_wrong_tool_group_rate: 100 % (95 % 43.9–100 %), n = 3" in ran.stderr
    assert "66.7 %" in ran.stdout
    assert "20.8–93.9 %" in ran.stdout
    report = json.loads((folder / "axpo" / "audit.json").read_text())
    assert report["schema"] == "gapscope.report/1"
    found = json.loads((folder / "axpo" / "recovery.json").read_text())
    assert found["measurements"]["recovery_rate_prefix"]["value"] == pytest.approx(2 / 3)
    parts = gapscope("plan", "log.jsonl", "-o", "same.jsonl", "--budget", 1, "--seed", 0, "--max-turns", 3,
                     "--max-tokens", 400, cwd=folder)  # fmt: skip
    assert parts.returncode == 0
    assert (folder / "same.jsonl").read_bytes() == (folder / "axpo" / "plan.jsonl").read_bytes()


def test_axpo_goes_on_with_the_plan_that_is_there(server: Served, folder: Path) -> None:
    assert axpo(server, folder).returncode == 0
    refused = axpo(server, folder)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    (folder / "axpo" / "resampled.jsonl").unlink()
    again = axpo(server, folder, "--resume")
    assert again.returncode == 0
    assert "12 were there from an earlier run" in again.stderr


def test_axpo_without_a_dead_group_ends_with_the_plan_that_says_so(server: Served, folder: Path) -> None:
    write(folder / "fine.jsonl", [each for each in groups(2) if each.sample_index in {2, 3}])
    ran = gapscope("axpo", "fine.jsonl", "--endpoint", server.url, *GIVEN, cwd=folder)
    assert ran.returncode == 0
    assert sorted(path.name for path in (folder / "axpo").iterdir()) == ["audit.json", "plan.jsonl"]
    assert "empty: no group triggers, of 2" in ran.stderr
