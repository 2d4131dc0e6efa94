"""The command line as a user meets it: what it prints, where, and with which exit code."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from command_line import gapscope

import gapscope as gs

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "sample_logs"
COLLAPSE = str(SAMPLES / "collapse")
TRL = str(SAMPLES / "trl")


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "gapscope", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


@pytest.fixture(scope="module", autouse=True)
def the_sample_run_is_audited_once() -> Iterator[None]:
    """Under one set of options: what the command line makes of a report is tried here, not the report."""
    module = import_module("gapscope.audit")
    audit: Callable[..., gs.Report] = module.audit
    reports: dict[str, gs.Report] = {}

    def remembered(logs: list[str], *, settings: gs.Settings | None = None, **options: Any) -> gs.Report:
        if logs != [COLLAPSE]:
            return audit(logs, settings=settings, **options)
        settings = settings or gs.Settings.load()
        told = {name: value for name, value in options.items() if name != "progress"}
        key = f"{settings!r} {sorted(told.items())}"
        if key not in reports:
            reports[key] = audit(logs, settings=settings, **options)
        return reports[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "audit", remembered)
        yield


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["audit", COLLAPSE], 0),
        (["gate", COLLAPSE, "--max-all-wrong", "0.4"], 1),
        (["audit", TRL], 2),
        (["gate", COLLAPSE], 2),
        (["metrics", "all_wrong_tool_grp_rate"], 2),
        (["schema", "report"], 0),
    ],
)
def test_a_process_ends_with_the_code_and_prints_what_the_command_line_does_here(
    arguments: list[str], code: int
) -> None:
    alone, here = process(*arguments), gapscope(*arguments)
    assert alone.returncode == here.returncode == code
    assert (alone.stdout, alone.stderr) == (here.stdout, here.stderr)
    assert "Traceback" not in alone.stderr


@pytest.mark.parametrize("sample", ["verl-legacy", "verl-v1", "gapscope-rollout", "collapse"])
def test_audit_prints_a_report_and_nothing_else(sample: str) -> None:
    result = gapscope("audit", str(SAMPLES / sample))
    assert (result.returncode, result.stderr) == (0, "")
    assert "Thinking-Acting Gap" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_a_log_with_shaped_rewards_is_refused_with_the_values_and_the_flag() -> None:
    result = gapscope("audit", TRL)
    assert result.returncode == 2
    assert "accuracy_reward: 0 (26×), 1 (6×)" in result.stderr
    assert "--correct 'accuracy_reward>=1'" in result.stderr
    assert "tool_attempt_rate" in result.stdout


def test_the_flag_that_the_refusal_names_makes_the_log_auditable() -> None:
    result = gapscope("audit", TRL, "--correct", "accuracy_reward>=1", "--format", "json")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["metrics"]["all_wrong_tool_group_rate"]["value"] == 0.5


def test_json_has_the_keys_that_others_rely_on() -> None:
    report = json.loads(gapscope("audit", COLLAPSE, "--format", "json").stdout)
    assert report["schema"] == "gapscope.report/1"
    rows = report["rows"]
    assert list(rows) == ["read", "kept", "refused", "padding", "excluded", "duplicate", "continuations"]
    assert rows["read"] == sum(rows.values()) - rows["read"]
    rate = report["metrics"]["all_wrong_tool_group_rate"]
    assert {"value", "n", "interval", "status", "reason", "table"} <= rate.keys()
    assert {"step", "value", "n"} <= rate["table"][0].keys()
    assert [row["step"] for row in rate["table"]] == list(range(1, 21))


@pytest.mark.parametrize("name", ["terminal", "json", "markdown", "junit", "github"])
def test_a_report_goes_to_a_file_in_every_format(name: str, tmp_path: Path) -> None:
    target = tmp_path / "report"
    result = gapscope("audit", COLLAPSE, "--format", name, "-o", str(target))
    assert (result.returncode, result.stdout) == (0, "")
    assert target.read_text(encoding="utf-8").strip()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    result = gapscope("audit", COLLAPSE, "-o", str(tmp_path / "missing" / "report.json"))
    assert result.returncode == 2
    assert "cannot be written: No such file or directory" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--max-all-wrong", "0.5"], 0),
        (["--max-all-wrong", "0.4"], 1),
        (["--max-all-wrong", "0.45", "--mode", "bound"], 1),
        (["--max", "truncation_rate=0.1"], 2),
        (["--max", "truncation_rate=0.1", "--on-unobserved", "skip"], 0),
        (["--min", "tool_attempt_rate=0.1", "--max", "tool_attempt_rate=0.9"], 0),
        (["--min", "tool_attempt_rate=0.9"], 1),
        (["--max-all-wrong", "0.5", "--min-groups", "1000"], 2),
        (["--max", "all_wrong_tool_group_rte=0.5"], 2),
        (["--max", "all_wrong_tool_group_rate=half"], 2),
        ([], 2),
    ],
)
def test_the_gate_exits_with_0_1_or_2(arguments: list[str], code: int) -> None:
    result = gapscope("gate", COLLAPSE, *arguments)
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stderr


def test_the_gate_names_near_misses_of_an_unknown_metric() -> None:
    result = gapscope("gate", COLLAPSE, "--max", "all_wrong_tool_group_rte=0.5")
    assert "unknown metric 'all_wrong_tool_group_rte'" in result.stderr
    assert "all_wrong_tool_group_rate" in result.stderr


def test_the_gate_takes_limits_from_the_settings_and_flags_win(tmp_path: Path) -> None:
    settings = tmp_path / "gapscope.toml"
    settings.write_text("[gate.max]\nall_wrong_tool_group_rate = 0.3\n", encoding="utf-8")
    assert gapscope("gate", COLLAPSE, cwd=tmp_path).returncode == 1
    assert gapscope("gate", COLLAPSE, "--max-all-wrong", "0.5", cwd=tmp_path).returncode == 0
    settings.unlink()
    (tmp_path / "pyproject.toml").write_text("[tool.gapscope.gate.min]\ntool_attempt_rate = 0.9\n", encoding="utf-8")
    assert gapscope("gate", COLLAPSE, cwd=tmp_path).returncode == 1


def test_settings_without_meaning_are_named(tmp_path: Path) -> None:
    (tmp_path / "gapscope.toml").write_text("corect = 'acc'\n", encoding="utf-8")
    result = gapscope("audit", COLLAPSE, cwd=tmp_path)
    assert result.returncode == 2
    assert "corect" in result.stderr
    assert "Traceback" not in result.stderr


def test_error_markers_of_the_settings_are_in_force_and_in_the_report(tmp_path: Path) -> None:
    (tmp_path / "gapscope.toml").write_text('[error_markers]\ncalculator = ["^0"]\n', encoding="utf-8")
    report = json.loads(gapscope("audit", COLLAPSE, "--format", "json", cwd=tmp_path).stdout)
    assert report["error_markers"]["calculator"] == ["^0"]
    (tmp_path / "gapscope.toml").write_text("[error_markers]\n", encoding="utf-8")
    report = json.loads(gapscope("audit", COLLAPSE, "--format", "json", cwd=tmp_path).stdout)
    assert report["metrics"]["tool_failure_rate"]["status"] == "unobserved"
    assert report["metrics"]["tool_outcome[executed_unknown]"]["value"] > 0.5


def test_junit_output_of_the_gate_is_xml_with_one_case_per_limit() -> None:
    result = gapscope("gate", COLLAPSE, "--max-all-wrong", "0.4", "--max", "truncation_rate=0.1", "--format", "junit")
    assert result.returncode == 1
    suites = ET.fromstring(result.stdout)
    cases = list(suites.iter("testcase"))
    assert [case.find("failure") is not None for case in cases] == [True, False]
    assert cases[1].find("error") is not None


def test_github_output_of_the_gate_is_workflow_commands() -> None:
    result = gapscope("gate", COLLAPSE, "--max-all-wrong", "0.4", "--format", "github")
    lines = result.stdout.splitlines()
    assert 1 <= len(lines) <= 10
    assert all(line.startswith(("::error", "::warning", "::notice")) for line in lines)
    assert lines[0].startswith("::error")


def test_ingest_then_audit_gives_the_same_report(tmp_path: Path) -> None:
    store = tmp_path / "run.duckdb"
    first = gapscope("ingest", COLLAPSE, "-o", str(store))
    assert first.returncode == 0
    assert "2,565 rows of 20 files, 0 refused" in first.stderr
    assert gapscope("ingest", COLLAPSE, "-o", str(store)).stderr == first.stderr
    direct = json.loads(gapscope("audit", COLLAPSE, "--format", "json").stdout)
    stored = json.loads(gapscope("audit", str(store), "--format", "json").stdout)
    assert stored["metrics"] == direct["metrics"]


def test_metrics_explains_a_metric_and_its_keys() -> None:
    assert "**How to read it.**" in gapscope("metrics", "all_wrong_tool_group_rate").stdout
    assert "**How to read it.**" in gapscope("metrics", "pass_at_k[4]").stdout
    assert gapscope("metrics", "all_wrong_tool_grp_rate").returncode == 2
    assert "all_wrong_tool_group_rate" in gapscope("metrics").stdout


def test_formats_lists_every_format() -> None:
    from gapscope.parsers import PARSERS

    printed = gapscope("formats").stdout
    assert [parser.name for parser in PARSERS if parser.name not in printed] == []


def test_schema_prints_what_is_published() -> None:
    names = ["gapscope.report/1", "gapscope.rollout/1", "gapscope.plan/1", "gapscope.recovery/1"]
    assert gapscope("schema").stdout.split() == names
    published = (ROOT / "schemas" / "report-1.json").read_text(encoding="utf-8")
    assert gapscope("schema", "report").stdout == published


def test_demo_writes_the_sample_run_and_audits_it(tmp_path: Path) -> None:
    result = gapscope("demo", str(tmp_path / "run"))
    assert result.returncode == 0
    assert "Tool use has collapsed" in result.stdout
    for file in sorted((SAMPLES / "collapse").iterdir()):
        assert (tmp_path / "run" / file.name).read_bytes() == file.read_bytes()


def test_an_unknown_format_of_report_is_an_error_with_near_misses() -> None:
    result = gapscope("audit", COLLAPSE, "--format", "jsn")
    assert result.returncode == 2
    assert "json" in result.stderr


def gate_when_audit_raises(error: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys, gapscope.cli\n"
        f"def fail(*_, **__): raise {error}\n"
        "sys.modules['gapscope.audit'].audit = fail\n"
        "sys.argv = ['gapscope', 'gate', 'x.jsonl', '--max-all-wrong', '0.4']\n"
        "gapscope.cli.main()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, encoding="utf-8"
    )


def test_a_crash_is_no_failed_gate() -> None:
    result = gate_when_audit_raises("ZeroDivisionError('boom')")
    assert result.returncode == 2
    assert "this is a bug in gapscope" in result.stderr


def test_an_interrupt_is_no_failed_gate_and_says_that_nothing_was_changed() -> None:
    result = gate_when_audit_raises("KeyboardInterrupt")
    assert result.returncode == 130
    assert "interrupted; nothing was changed" in result.stderr


def test_a_reader_that_leaves_early_is_no_error() -> None:
    for output in ("json", "terminal"):
        command = f"{sys.executable} -m gapscope audit {COLLAPSE} --format {output} | head -c 10"
        result = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
        assert (result.returncode, result.stderr) == (0, "")


def test_a_store_is_audited_with_the_markers_that_its_calls_were_judged_by(tmp_path: Path) -> None:
    settings = tmp_path / "gapscope.toml"
    settings.write_text('[error_markers]\ncalculator = ["^0"]\n', encoding="utf-8")
    assert gapscope("ingest", COLLAPSE, "-o", "run.duckdb", cwd=tmp_path).returncode == 0
    settings.unlink()
    report = json.loads(gapscope("audit", "run.duckdb", "--format", "json", cwd=tmp_path).stdout)
    assert report["error_markers"]["calculator"] == ["^0"]
    again = gapscope("ingest", COLLAPSE, "-o", "run.duckdb", cwd=tmp_path)
    assert again.returncode == 2
    assert "judged by other error markers" in again.stderr
