"""The demo is one simulated run, byte for byte, and its story is in the rollouts."""

import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from gapscope.demo import write_demo
from gapscope.dialects import dialect_named
from gapscope.parsers import PARSERS
from gapscope.parsers.base import Reading, Row
from gapscope.parsers.verl_v1 import PARSER
from gapscope.rollouts import Refused, Rollout

EQUATION = re.compile(r"(-?\d+) ([-+×]) (\d+) = (-?\d+)\.")
Tried = tuple[bool, bool]
"""Of one rollout: whether it tried a tool, and whether it was right."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_demo(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def parsed(demo: list[Path]) -> list[Rollout | Refused]:
    dialect = dialect_named("hermes")
    found: list[Rollout | Refused] = []
    for step, path in enumerate(demo, 1):
        rows = (Row(line, None, value) for line, value in enumerate(rows_of(path), 1))
        found += PARSER.parse(rows, Reading(str(path), dialect, step=step))
    return found


@pytest.fixture(scope="module")
def groups(parsed: list[Rollout | Refused]) -> dict[tuple[int, str], list[Tried]]:
    """By step and group the rollouts, sub-outputs of one session taken together and padding left out."""
    sessions: dict[tuple[int, str, int], Tried] = {}
    for rollout in parsed:
        assert isinstance(rollout, Rollout)
        if rollout.status == "padding":
            continue
        assert rollout.step is not None
        assert rollout.group_id is not None
        assert rollout.sample_index is not None
        key = (rollout.step, rollout.group_id, rollout.sample_index)
        tried = any(not call.in_think for call in rollout.calls)
        sessions[key] = (tried or sessions.get(key, (False, False))[0], rollout.reward == 1.0)
    found: dict[tuple[int, str], list[Tried]] = defaultdict(list)
    for (step, group, _), outcome in sessions.items():
        found[step, group].append(outcome)
    return found


def rows_of(path: Path) -> list[dict[str, str | float]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def attempt_rate(groups: dict[tuple[int, str], list[Tried]], steps: range) -> float:
    tries = [tried for (step, _), rollouts in groups.items() if step in steps for tried, _ in rollouts]
    return sum(tries) / len(tries)


def accuracy(groups: dict[tuple[int, str], list[Tried]], steps: range) -> float:
    right = [correct for (step, _), rollouts in groups.items() if step in steps for _, correct in rollouts]
    return sum(right) / len(right)


def all_wrong_share(groups: dict[tuple[int, str], list[Tried]], steps: range) -> float:
    """Of the groups that tried a tool at all, the share in which no such rollout was right."""
    with_tools = [
        [correct for tried, correct in rollouts if tried] for (step, _), rollouts in groups.items() if step in steps
    ]
    return sum(not any(side) for side in with_tools if side) / sum(bool(side) for side in with_tools)


def test_one_seed_gives_identical_bytes(demo: list[Path], tmp_path: Path) -> None:
    again = write_demo(tmp_path / "again")
    assert [path.name for path in again] == [path.name for path in demo] == [f"{step}.jsonl" for step in range(1, 21)]
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in demo]


def test_another_seed_gives_other_bytes(demo: list[Path], tmp_path: Path) -> None:
    other = write_demo(tmp_path, seed=8)
    assert all(one.read_bytes() != two.read_bytes() for one, two in zip(demo, other, strict=True))


def test_the_size_of_the_run_can_be_chosen(tmp_path: Path) -> None:
    paths = write_demo(tmp_path, steps=2, questions=3, rollouts=4)
    assert [len(rows_of(path)) for path in paths] == [12, 12]


def test_all_files_together_stay_below_four_megabytes(demo: list[Path]) -> None:
    assert sum(path.stat().st_size for path in demo) < 4_000_000


def test_every_row_has_the_six_keys_of_a_training_file_in_order(demo: list[Path]) -> None:
    rows = [row for path in demo for row in rows_of(path)]
    assert {tuple(row) for row in rows} == {("input", "output", "gts", "score", "step", "uid")}
    assert {row["score"] for row in rows} == {0.0, 1.0}
    assert [row["step"] for path in demo[:2] for row in rows_of(path)] == [1] * 128 + [2] * 128


def test_only_the_verl_v1_parser_claims_a_row(demo: list[Path]) -> None:
    assert [parser.name for parser in PARSERS if parser.claims(rows_of(demo[0])[0])] == ["verl-v1"]


def test_every_row_is_parsed_and_no_row_is_refused(parsed: list[Rollout | Refused]) -> None:
    assert len(parsed) == 20 * 16 * 8 + 4 + 1
    assert not [row for row in parsed if isinstance(row, Refused)]


def test_rows_are_sorted_by_step_and_prompt_and_session_with_padding_last(parsed: list[Rollout | Refused]) -> None:
    places = [(r.step, r.group_id, r.sample_index, r.output_index) for r in parsed if isinstance(r, Rollout)]
    assert places == sorted(places)
    assert len(set(places)) == len(places) == len(parsed)


def test_there_are_320_groups_of_eight(groups: dict[tuple[int, str], list[Tried]]) -> None:
    assert Counter(map(len, groups.values())) == {8: 320}


def test_two_steps_end_with_two_rows_of_padding_each(demo: list[Path]) -> None:
    padded = {path.name: [r for r in rows_of(path) if str(r["uid"]).startswith("pad")] for path in demo}
    assert {name: len(rows) for name, rows in padded.items() if rows} == {"6.jsonl": 2, "13.jsonl": 2}
    for name, rows in padded.items():
        for row in rows:
            first = rows_of(demo[int(name.removesuffix(".jsonl")) - 1])[0]
            assert (row["input"], row["output"], row["gts"], row["score"]) == ("", "", first["gts"], 0.0)


def test_one_session_has_two_outputs_with_the_same_reward(parsed: list[Rollout | Refused]) -> None:
    rollouts = [r for r in parsed if isinstance(r, Rollout)]
    second = [r for r in rollouts if r.output_index == 1]
    assert [(r.step, r.sample_index, r.reward) for r in second] == [(9, 3, 1.0)]
    first = rollouts[rollouts.index(second[0]) - 1]
    assert (first.rollout_id, first.output_index, first.reward) == (second[0].rollout_id, 0, 1.0)


def test_every_class_of_outcome_that_the_log_can_show_occurs(parsed: list[Rollout | Refused]) -> None:
    seen = Counter(call.outcome for r in parsed if isinstance(r, Rollout) for call in r.calls)
    assert set(seen) == {
        "in_think",
        "opened_not_closed",
        "unparseable",
        "unknown_tool",
        "timeout",
        "executed_error",
        "executed_ok",
    }
    attempts = seen.total() - seen["in_think"]
    assert 0.2 < 1 - seen["executed_ok"] / attempts < 0.45


def test_echoed_tags_are_in_the_results_and_are_no_calls(parsed: list[Rollout | Refused]) -> None:
    calls = [call for r in parsed if isinstance(r, Rollout) for call in r.calls]
    assert sum("<tool_call>" in (call.result or "") for call in calls) > 3
    assert not any("could not run" in call.raw for call in calls)


def test_a_few_rollouts_never_close_their_thinking(demo: list[Path]) -> None:
    rows = [row for path in demo for row in rows_of(path)]
    unclosed = [row for row in rows if "<think>" in str(row["output"]) and "</think>" not in str(row["output"])]
    assert 10 < len(unclosed) < 120
    assert {row["score"] for row in unclosed} == {0.0}


def test_a_correct_rollout_holds_the_right_answer_and_only_true_equations(demo: list[Path]) -> None:
    correct = [row for path in demo for row in rows_of(path) if row["score"] == 1.0]
    assert all(re.search(rf"\b{row['gts']}\b", str(row["output"])) for row in correct)
    equations = [match for row in correct for match in EQUATION.findall(str(row["output"]))]
    assert len(equations) > len(correct)
    for left, sign, right, value in equations:
        a, b = int(left), int(right)
        assert {"+": a + b, "-": a - b, "×": a * b}[sign] == int(value)


def test_tool_use_begins_near_three_rollouts_in_ten(groups: dict[tuple[int, str], list[Tried]]) -> None:
    assert 0.22 <= attempt_rate(groups, range(1, 4)) <= 0.38


def test_tool_use_falls_to_less_than_half(groups: dict[tuple[int, str], list[Tried]]) -> None:
    assert attempt_rate(groups, range(18, 21)) <= attempt_rate(groups, range(1, 4)) / 2


def test_two_questions_in_five_with_attempts_have_no_correct_tool_using_rollout(
    groups: dict[tuple[int, str], list[Tried]],
) -> None:
    assert 0.35 <= all_wrong_share(groups, range(1, 6)) <= 0.45
    assert 0.3 <= all_wrong_share(groups, range(1, 21)) <= 0.55


def test_accuracy_does_not_fall_with_tool_use(groups: dict[tuple[int, str], list[Tried]]) -> None:
    assert 0 <= accuracy(groups, range(16, 21)) - accuracy(groups, range(1, 6)) < 0.12
