"""The README's tables come from the registries, and its commands work as they stand."""

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gapscope as gs
from gapscope.capabilities import COLUMNS, SIGNS, meets
from gapscope.dialects import DIALECTS
from gapscope.metrics import METRICS
from gapscope.parsers import PARSERS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def formats_table() -> str:
    lines = [f"| format | written by | {' | '.join(COLUMNS.values())} |", f"|---|---|{'---|' * len(COLUMNS)}"]
    for parser in PARSERS:
        signs = " | ".join(SIGNS[meets(parser, need)] for need in COLUMNS)
        lines.append(f"| `{parser.name}` | {parser.producer.replace('|', chr(92) + '|')} | {signs} |")
    return "\n".join(lines)


def dialects_table() -> str:
    """Each syntax with the first call of its good example in the matrix."""
    matrix = runpy.run_path(str(Path(__file__).parent / "dialects" / "test_matrix.py"))["MATRIX"]
    lines = ["| syntax | a call | special tokens | found by |", "|---|---|---|---|"]
    for dialect in DIALECTS:
        text = matrix[dialect.name].good.text
        span = next(span for span in dialect.segment(text).spans if span.kind == "tool_call")
        call = text[span.start : span.end].strip().replace("\n", "⏎").replace("|", "\\|")
        ticks = "```" if "``" in call else "`"
        shown = f"{ticks} {call} {ticks}" if "`" in call else f"`{call}`"
        special = "yes" if dialect.special else "no"
        lines.append(f"| {dialect.name} | {shown} | {special} | {FOUND_BY[dialect.shown_by]} |")
    return "\n".join(lines)


FOUND_BY = {"call": "a call", "answer": "an answered call", "name": "its format"}


def metrics_table() -> str:
    lines = ["| question | metrics |", "|---|---|"]
    lines += [f"| {m.question} | {', '.join(f'`{key}`' for key in m.keys)} |" for m in METRICS]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("name", "table"), [("formats", formats_table), ("dialects", dialects_table), ("metrics", metrics_table)]
)
def test_a_table_of_the_readme_is_what_its_registry_says(
    name: str, table: object, request: pytest.FixtureRequest
) -> None:
    assert callable(table)
    text = README.read_text(encoding="utf-8")
    between = re.compile(f"(<!-- {name} -->\n)(.*?)(<!-- /{name} -->)", re.DOTALL)
    if request.config.getoption("--write-golden"):
        README.write_text(between.sub(lambda m: f"{m[1]}{table()}\n{m[3]}", text), encoding="utf-8")
        text = README.read_text(encoding="utf-8")
    match = between.search(text)
    assert match
    assert match[2] == f"{table()}\n"


def test_the_main_command_of_the_readme_prints_the_report_that_it_shows() -> None:
    text = README.read_text(encoding="utf-8")
    command = re.search(r"&& \.venv/bin/(gapscope audit \S+)\n", text)
    assert command
    executable = str(Path(sys.executable).parent / "gapscope")
    result = subprocess.run(
        [executable, *command[1].split()[1:]], cwd=ROOT, capture_output=True, text=True, check=True, encoding="utf-8"
    )
    shown = text.split("```text\n", 1)[1].split("```", 1)[0].rstrip().removesuffix("…").rstrip()
    assert result.stdout.startswith(shown)


def test_every_command_that_the_readme_names_exists() -> None:
    text = README.read_text(encoding="utf-8")
    words = "audit|gate|ingest|score|plan|resample|axpo|recovery|export|doctor|metrics|formats|schema|demo"
    named = set(re.findall(rf"gapscope ({words})\b", text))
    help_text = subprocess.run(
        [sys.executable, "-m", "gapscope", "--help"], capture_output=True, text=True, check=True
    ).stdout
    commands = set(re.findall(r"^  (\w+) +[A-Z]", help_text, re.MULTILINE))
    assert named == commands


def test_the_loop_of_the_readme_leads_from_a_log_to_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = README.read_text(encoding="utf-8")
    shown = re.search(r"<!-- plan -->\n```python\n(.*?)```", text, re.DOTALL)
    assert shown
    assert len([line for line in shown[1].splitlines() if line]) == 10
    known = {each.rollout_id: each for each in gs.read(str(ROOT / "sample_logs" / "resampled" / "resampled.jsonl"))}
    prefixes = gs.plan(ROOT / "sample_logs" / "recorded").prefixes
    by_seed = {seed: known[f"{prefix.id}:{index}"] for prefix in prefixes for index, seed in enumerate(prefix.seeds)}

    def sample(token_ids: list[int], seed: int) -> tuple[str, bool | None, dict[str, object]]:
        """What was sampled once."""
        record, branch = by_seed[seed], len(token_ids)
        assert record.tokens.ids[:branch] == token_ids
        arrays = {"token_ids": record.tokens.ids, "mask": record.tokens.sampled, "logprobs": record.tokens.logprobs}
        new = {name: values[branch:] for name, values in arrays.items()}
        return record.output[record.parent.branch_char :], record.correct, new

    (tmp_path / "sample_logs").symlink_to(ROOT / "sample_logs")
    monkeypatch.chdir(tmp_path)
    exec(shown[1], {"sample": sample})
    again = gs.recovery("resampled.jsonl").measurements
    assert again["recovery_rate_prefix"].value == 5 / 6
    assert Path("batch.npz").stat().st_size > 100_000


def test_the_equations_of_the_readme_give_the_numbers_beside_them() -> None:
    text = README.read_text(encoding="utf-8")
    code = re.search(r"```python\n(from gapscope\.axpo\.advantages .*?)```", text, re.DOTALL)
    assert code
    space: dict[str, Any] = {}
    exec(code[1], space)
    found = space["found"]
    numbers = [found.rollouts[0], found.rollouts[2], found.prefixes[0], *found.continuations[0][:2]]
    assert [f"{number:.2f}" for number in numbers] == re.findall(r"-?\d\.\d\d", code[1].split("#")[1])
