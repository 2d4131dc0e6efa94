"""`gapscope plan` as a user meets it: the file, what is said of it, the table before it is paid for, and refusals."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jsonschema
import pytest
import typer
from axpo_logs import Made, rollout, written
from example_notation import log_of
from rich.cells import cell_len
from samples import MAPPING, SAMPLE_OF

import gapscope as gs
from gapscope.axpo.plan import plan
from gapscope.axpo.plan_file import read_plan
from gapscope.cli import main
from gapscope.cli.app import app
from gapscope.plan_options import PlanOptions, flat
from gapscope.plans import Header
from gapscope.schemas import schema_named

ROOT = Path(__file__).parent.parent.parent
COLLAPSE = str(ROOT / "sample_logs" / "collapse")
RANDOM = ("--rank", "random", "--seed", "0")

TWO_DEAD = """
q1 tool wrong prefix=hm probs=0.9,0.5,0.1 step=3
q1 -    right tokens=6 step=3 times=7
q2 tool wrong prefix=hm call=unclosed probs=0.9,0.9 step=3
q2 -    wrong tokens=5 step=3 times=7
"""
"""Two groups that trigger, one of them with nothing to branch from; 16 rollouts, which buy one prefix."""


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Ran]:
    """Run `gapscope plan` in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object, columns: int = 80) -> Ran:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "argv", ["gapscope", "plan", *map(str, arguments)])
        with pytest.raises(SystemExit) as ending:
            main()
        printed = capsys.readouterr()
        return Ran(int(ending.value.code or 0), printed.out, printed.err)

    return command


@pytest.fixture
def dead(tmp_path: Path) -> Path:
    return log_of(TWO_DEAD, tmp_path / "log.jsonl")


def header(path: Path | str) -> Header:
    return read_plan(path).header


# --- The file --------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """One group of eight, of which two are wrong with a tool: a prefix of four continuations."""
    calls = [rollout([Made()], correct=False), rollout([Made()], correct=False, logprob=lambda: -0.5)]
    group = [*calls, *(rollout(correct=True) for _ in range(6)), *(rollout(correct=False) for _ in range(8))]
    for place, each in enumerate(group):
        each.step, each.group_id = 3, f"q{place // 8}"
        each.sample_index, each.rollout_id = place, f"r{place}"
    return written(tmp_path / "log.jsonl", group)


def test_a_plan_is_written_and_said_in_a_few_lines(log: Path, run: Run) -> None:
    ran = run(log, "-o", "out.jsonl", "--max-turns", 3)
    assert ran == Ran(
        0,
        "",
        "out.jsonl: 1 prefix × 4 = 4 continuations, for 1 of 1 dead group\n"
        "of 2 groups and 16 rollouts at step 3; correct: correct (logged)\n"
        "prefixes: 1 for the first of each group, 2 for all candidates, 1 given\n"
        "1 of 1 token-exact\n"
        "--dry-run says what it would cost, and `gapscope schema plan` what its lines hold\n"
        "next: gapscope resample out.jsonl --endpoint URL --model NAME --tools TOOL --reward REWARD\n",
    )
    (prefix,) = read_plan("out.jsonl").prefixes
    assert (prefix.rollout_id, prefix.rank, prefix.candidates) == ("r1", 1, 2)


def test_the_file_is_what_the_function_gives(log: Path, run: Run) -> None:
    run(log, "-o", "out.jsonl", "--max-turns", 3, "--budget", "0.50")
    made = plan(str(log), PlanOptions(max_turns=3, r="0.5"))
    assert Path("out.jsonl").read_bytes() == made.to_jsonl()


def test_every_line_conforms_to_the_published_schema(log: Path, run: Run) -> None:
    run(log, "-o", "out.jsonl", "--budget", "1")
    validator = jsonschema.Draft202012Validator(schema_named("plan"))
    lines = [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["kind"] for line in lines] == ["header", "prefix", "prefix"]
    for line in lines:
        validator.validate(line)
    assert not validator.is_valid(lines[1] | {"seeds": "none"})


def test_without_a_name_the_plan_is_in_this_folder_and_that_is_said(log: Path, run: Run) -> None:
    ran = run(log)
    assert ran.err.startswith("plan.jsonl (in this folder; -o names another): 1 prefix × 4")
    assert header("plan.jsonl").counts.selected == 1


def test_a_store_gives_the_same_prefixes_as_its_log(log: Path, run: Run) -> None:
    gs.ingest(str(log), into="run.duckdb").close()
    run(log, "-o", "a.jsonl")
    assert run("run.duckdb", "-o", "b.jsonl").code == 0
    assert read_plan("a.jsonl").prefixes == read_plan("b.jsonl").prefixes


def test_prefixes_without_token_ids_are_marked(run: Run) -> None:
    ran = run(COLLAPSE, *RANDOM)
    assert ran.code == 0
    assert "\n0 of 8 token-exact, 8 text_retokenised\n" in ran.err
    assert "\nnote: text_retokenised: 8 of 8 prefixes have no token ids, " in ran.err
    prefixes = read_plan("plan.jsonl").prefixes
    assert {(each.prefix.exact, each.prefix.token_ids) for each in prefixes} == {(False, None)}


@pytest.mark.parametrize("budget", ["0", "0.24", "0.0000"])
def test_a_budget_below_one_prefix_gives_an_empty_plan_that_says_why(budget: str, log: Path, run: Run) -> None:
    ran = run(log, "--budget", budget)
    assert (ran.code, ran.out) == (0, "")
    assert "no prefix, for none of 1 dead group\n" in ran.err
    share = budget.rstrip("0").rstrip(".") or "0"
    assert (
        f"note: empty: continuations may be {share} of 16 rollouts, which buys no prefix of 4 at any step; nothing is "
        "rounded up or carried over\n"
    ) in ran.err
    assert read_plan("plan.jsonl").prefixes == ()


def test_a_log_in_which_no_group_triggers_gives_an_empty_plan_that_says_why(run: Run, tmp_path: Path) -> None:
    ran = run(log_of("q1 tool right prefix=hm probs=0.5,0.5\nq1 - wrong", tmp_path / "log.jsonl"))
    assert ran.code == 0
    assert "no prefix: no group is dead\n" in ran.err
    assert "note: empty: no group triggers, of 1\n" in ran.err


def test_the_budget_is_a_decimal_and_no_binary_float(run: Run, tmp_path: Path) -> None:
    text = "q1 tool wrong prefix=hm probs=0.5,0.5 times=200"
    ran = run(log_of(text, tmp_path / "log.jsonl"), "--budget", "0.29", "--k", 2, "--dry-run")
    # floor(0.29 · 200) is 58, and 57 in binary floats, which would buy 28.
    assert "▌ 29 prefixes × 2 = 58 continuations" in ran.out


# --- Options ---------------------------------------------------------------------------------------------

CHANGED = {
    "--k": ("k", "5"),
    "--budget": ("r", "0.5"),
    "--tool-using": ("tool_using", "parsed"),
    "--branch-call": ("branch_call", "2"),
    "--no-candidate.require-closed": ("candidate.require_closed", None),
    "--confidence.span": ("confidence.span", "all_calls"),
    "--confidence.mean": ("confidence.mean", "geometric"),
    "--rank": ("rank", "random"),
    "--allocation.order": ("allocation.order", "global_confidence"),
    "--substitution": ("substitution", "joint"),
    "--advantage.preset": ("advantage.preset", "trl"),
    "--advantage.ddof": ("advantage.ddof", "1"),
    "--advantage.eps": ("advantage.eps", "0.5"),
    "--weighting": ("weighting", "token_mean"),
    "--guided-decoding": ("guided_decoding", "json"),
    "--correct": ("correctness", "reward>=1"),
    "--recovery.require-executed": ("recovery.require_executed", None),
    "--recovery.tool": ("recovery.tool", "resampled"),
    "--step": ("step", "all"),
    "--seed": ("seed", "7"),
    "--temperature": ("sampling.temperature", "0.5"),
    "--top-p": ("sampling.top_p", "0.9"),
    "--top-k": ("sampling.top_k", "20"),
    "--min-p": ("sampling.min_p", "0.1"),
    "--max-tokens": ("sampling.max_tokens", "9999"),
    "--max-turns": ("max_turns", "3"),
    "--success": ("success", "0.1"),
}


def test_every_option_of_a_plan_has_a_flag_and_its_default(dead: Path, run: Run) -> None:
    assert {name for name, _ in CHANGED.values()} == flat(PlanOptions()).keys()
    run(dead)
    assert header("plan.jsonl").options == PlanOptions()


def test_every_flag_is_written_into_the_header(dead: Path, run: Run) -> None:
    flags = [word for flag, (_, value) in CHANGED.items() for word in (flag, value) if word is not None]
    ran = run(dead, *flags)
    assert ran.code == 0, ran.err
    given = flat(header("plan.jsonl").options)
    default = flat(PlanOptions())
    for flag, (name, value) in CHANGED.items():
        assert given[name] != default[name], flag
        assert str(given[name]) == (value or str(not default[name])), flag


def test_the_help_stands_under_headings_and_names_every_flag(run: Run) -> None:
    ran = run("--help")
    assert re.findall(r"^(\w[\w ]+):$", ran.out, re.MULTILINE) == [
        "What to plan",
        "Ranking and budget",
        "After resampling",
        "Sampling",
        "Reading the log",
        "Other",
    ]
    command = typer.main.get_command(app).commands["plan"]  # type: ignore[attr-defined]
    flags = {flag for param in command.params if param.param_type_name == "option" for flag in param.opts}
    assert {flag for flag in flags | CHANGED.keys() if flag not in ran.out} == set()
    assert max(map(len, ran.out.splitlines())) <= 80


# --- Before it is paid for -------------------------------------------------------------------------------


def test_a_dry_run_prints_the_table_and_writes_nothing(dead: Path, run: Run) -> None:
    ran = run(dead.name, "--dry-run", columns=60)
    assert (ran.code, ran.err, os.listdir()) == (0, "", ["log.jsonl"])
    assert ran.out.startswith(
        "▌ 1 prefix × 4 = 4 continuations, for 1 of 2 dead groups\n▌ dry run, nothing is written;"
    )
    assert max(map(cell_len, ran.out.splitlines())) <= 60


def test_a_terminal_without_utf_8_gets_ascii(dead: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "60", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "gapscope", "plan", str(dead), "--dry-run"]
    ran = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert ran.stdout.startswith(b"| 1 prefix x 4 = 4 continuations")
    assert ran.stdout.isascii()


def test_a_dry_run_does_not_save_a_mapping_either(run: Run) -> None:
    pairs = [f"{field}={path}" for field, path in MAPPING.items()]
    ran = run(SAMPLE_OF["mapped"], *RANDOM, "--correct", "reward>=1", "--dry-run", "--map", *pairs)
    assert (ran.code, os.listdir()) == (0, [])


# --- Bad input -------------------------------------------------------------------------------------------

SEEDED = "Give the order a number, so that it can be made again: --rank random --seed 0."


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--k", "1"], "--k 1: K must be at least 2, because Eq. 2 compares continuations, and at most 65,536"),
        (["--k", "-3"], "--k -3: K must be at least 2, because Eq. 2 compares continuations, and at most 65,536"),
        (["--branch-call", "0"], "--branch-call 0: it must be `first`, or the number of a call, counted from 1"),
        (["--branch-call", "2nd"], "--branch-call 2nd: it must be `first`, or the number of a call, counted from 1"),
        (["--advantage.eps", "-1"], "--advantage.eps -1.0: it must be a number of 0 or more"),
        (["--success", "1.5"], "--success 1.5: a probability is needed, from 0 to 1"),
        (["--success", "nan"], "--success nan: a probability is needed, from 0 to 1"),
        (["--temperature", "inf"], "--temperature inf: it must be a number of 0 or more"),
        (["--top-p", "0"], "--top-p 0.0: it must be more than 0, and at most 1, which is all tokens"),
        (["--top-k", "-2"], "--top-k -2: it must be a number of tokens, or -1 for all"),
        (["--max-turns", "0"], "--max-turns 0: it must be a whole number of 1 or more, of 31 bits at most"),
        (["--seed", "-1"], "--seed -1: it must be a whole number of 0 or more, of 63 bits at most"),
        (["--rank", "random"], f"--rank random without --seed\n  → {SEEDED}"),
    ],
)
def test_a_value_without_meaning_is_refused_with_its_flag(flags: list[str], said: str, dead: Path, run: Run) -> None:
    assert run(dead, *flags) == Ran(2, "", f"gapscope: {said}\n")
    assert not Path("plan.jsonl").exists()


@pytest.mark.parametrize("budget", ["-0.25", "1/4", "25%", "0,25", "1e9", "nan", "inf", "a quarter", "", "0x1", "1_0"])
def test_a_budget_that_is_no_decimal_is_refused(budget: str, dead: Path, run: Run) -> None:
    said = "a share of a step's rollouts is needed, as a decimal number of 0 or more, such as 0.25"
    assert run(dead, "--budget", budget) == Ran(2, "", f"gapscope: --budget {budget}: {said}\n")


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("first", "--step 'first' is no step"),
        ("99", "--step 99 names none of the log, which has the steps 3 to 3"),
        ("5:4", "--step 5:4 names none of the log, which has the steps 3 to 3"),
    ],
)
def test_a_step_that_is_not_there_is_refused(step: str, said: str, dead: Path, run: Run) -> None:
    hint = "  → Write last, all, one step as 60, or a range as 40:60.\n"
    assert run(dead, "--step", step) == Ran(2, "", f"gapscope: {said}\n{hint}")


def test_a_range_may_end_far_behind_the_last_step(dead: Path, run: Run) -> None:
    assert run(dead, "--step", f"0:{'9' * 60}").code == 0
    assert header("plan.jsonl").counts.groups == 2


def test_logs_that_cannot_be_planned_from_are_refused_with_the_way_out(run: Run, tmp_path: Path) -> None:
    unjudged = [rollout([Made()], group_id="q", rollout_id=str(place)) for place in range(2)]
    ran = run(written(tmp_path / "a.jsonl", unjudged))
    assert ran == Ran(2, "", "gapscope: what is correct is not defined: the log has no reward\n")
    lone = [rollout([Made()], correct=False, group_id=str(place)) for place in range(2)]
    ran = run(written(tmp_path / "b.jsonl", lone))
    way_out = "  → Say which field the rollouts of one question share: --group KEY.\n"
    assert ran == Ran(2, "", f"gapscope: no group can be planned from: 2 of 2 have one rollout each\n{way_out}")
    keyless = [rollout([Made()], correct=False) for _ in range(2)]
    for each in keyless:
        each.prompt = None
    ran = run(written(tmp_path / "c.jsonl", keyless))
    assert ran == Ran(2, "", f"gapscope: no group can be planned from: 2 of 2 have no key\n{way_out}")
    assert run("nothing.jsonl") == Ran(2, "", "gapscope: no such file or folder: nothing.jsonl\n")
    assert not Path("plan.jsonl").exists()


def test_without_logprobs_both_ways_out_are_named(run: Run) -> None:
    assert run(COLLAPSE) == Ran(
        2,
        "",
        "gapscope: the log has no log-probs, so 8 tool-using rollouts of groups that trigger cannot be ranked\n"
        "  → Fill them in: `gapscope score LOG --endpoint URL --model POLICY --only candidates`; or take them in a "
        "random order, which is AXPO without uncertainty rank: --rank random --seed 0.\n",
    )


def test_standard_input_is_refused_because_it_is_read_twice(run: Run) -> None:
    said = "standard input cannot be planned from: what is chosen is read a second time\n  → Write it to a file first."
    assert run("-") == Ran(2, "", f"gapscope: {said}\n")


def test_an_output_that_cannot_be_written_is_refused_before_the_log_is_read(run: Run, tmp_path: Path) -> None:
    said = "cannot be written: there is no folder missing"
    assert run("not-read.jsonl", "-o", "missing/plan.jsonl") == Ran(2, "", f"gapscope: missing/plan.jsonl {said}\n")
    folder = f"gapscope: {tmp_path} cannot be written: it is a folder\n  → Name a file: -o plan.jsonl.\n"
    assert run("not-read.jsonl", "-o", tmp_path) == Ran(2, "", folder)
    assert run("not-read.jsonl", "-o", ".").code == 2


@pytest.mark.parametrize("kind", ["log", "log in a folder", "store"])
def test_a_plan_is_never_written_over_what_it_was_made_of(kind: str, dead: Path, run: Run) -> None:
    gs.ingest(str(dead), into="run.duckdb").close()
    logs, target = {"log": (dead, dead), "log in a folder": (".", "log.jsonl"), "store": ("run.duckdb",) * 2}[kind]
    before = Path(target).read_bytes()
    lost = f"gapscope: {target} is the log itself, and would be lost\n  → Name another file: -o plan.jsonl.\n"
    assert run(logs, "-o", target) == Ran(2, "", lost)
    assert Path(target).read_bytes() == before


def test_a_refused_plan_leaves_the_one_that_was_there(dead: Path, run: Run) -> None:
    run(dead)
    before = Path("plan.jsonl").read_bytes()
    assert run(COLLAPSE).code == 2
    assert Path("plan.jsonl").read_bytes() == before
