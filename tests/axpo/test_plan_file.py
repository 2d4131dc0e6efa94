"""Plans as files: whole or not there, unchanged or refused, and as their schema says."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from axpo_logs import drawn, written

from gapscope.axpo.plan import plan
from gapscope.axpo.plan_file import read_plan, write_plan
from gapscope.errors import PlanError
from gapscope.plan_options import PlanOptions
from gapscope.plans import Plan, PlannedPrefix, json_schema

SAMPLES = Path(__file__).parent.parent.parent / "sample_logs"
Lines = list[bytes]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("made")
    return plan(written(folder / "log.jsonl", drawn(31, steps=6)), PlanOptions(step="all", r="1"))


@pytest.fixture
def file(made: Plan, tmp_path: Path) -> Path:
    path = tmp_path / "plan.jsonl"
    write_plan(path, made.header, made.prefixes)
    return path


def test_a_plan_is_read_as_it_was_written(made: Plan, file: Path) -> None:
    assert len(made.prefixes) > 5
    assert file.read_bytes() == made.to_jsonl()
    assert read_plan(file) == made
    assert read_plan(str(file)).to_jsonl() == made.to_jsonl()


def test_the_keys_that_others_rely_on_are_there(file: Path) -> None:
    header, prefix, *_ = [json.loads(line) for line in file.read_text().splitlines()]
    assert (header["schema"], header["kind"]) == ("gapscope.plan/1", "header")
    assert (header["options"]["k"], header["options"]["r"]) == (4, "1")
    assert {"groups", "triggered", "candidates", "slots", "selected"} <= set(header["counts"])
    assert (prefix["kind"], prefix["order"], prefix["k"], len(prefix["seeds"])) == ("prefix", 0, 4, 4)
    assert prefix["prefix"]["n_tokens"] == len(prefix["prefix"]["token_ids"])


def test_an_empty_plan_is_a_header_that_says_why(tmp_path: Path) -> None:
    found = plan(written(tmp_path / "log.jsonl", drawn(31, steps=6)), PlanOptions(step="all", r="0"))
    write_plan(tmp_path / "plan.jsonl", found.header, found.prefixes)
    assert read_plan(tmp_path / "plan.jsonl") == found
    assert found.prefixes == ()
    assert found.header.notes[0].startswith("empty: ")


# --- Whole or not at all ---------------------------------------------------------------------------------


def test_a_plan_that_cannot_be_finished_leaves_the_file_that_was_there(made: Plan, tmp_path: Path) -> None:
    def broken() -> Iterator[PlannedPrefix]:
        yield made.prefixes[0]
        raise KeyboardInterrupt

    path = tmp_path / "plan.jsonl"
    path.write_text("an earlier one")
    with pytest.raises(KeyboardInterrupt):
        write_plan(path, made.header, broken())
    assert path.read_text() == "an earlier one"
    assert [each.name for each in tmp_path.iterdir()] == ["plan.jsonl"]


def test_a_plan_goes_where_a_file_can_be_and_nowhere_else(made: Plan, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"no/plan\.jsonl cannot be written: No such file or directory"):
        write_plan(tmp_path / "no" / "plan.jsonl", made.header, made.prefixes)
    (tmp_path / "folder").mkdir()
    with pytest.raises(PlanError, match="folder cannot be written: Is a directory"):
        write_plan(tmp_path / "folder", made.header, made.prefixes)
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


# --- Changed by hand -------------------------------------------------------------------------------------


def swapped(lines: Lines) -> Lines:
    return [lines[0], lines[2], lines[1], *lines[3:]]


def edited(number: int, pattern: bytes, new: bytes) -> Callable[[Lines], Lines]:
    """The line with this number, from 1, changed in one place."""

    def edit(lines: Lines) -> Lines:
        changed, count = re.subn(pattern, new, lines[number - 1], count=1)
        assert count == 1
        assert changed != lines[number - 1]
        return [*lines[: number - 1], changed, *lines[number:]]

    return edit


WHOLE = "was changed after it was written"
EDITS: list[tuple[str, Callable[[Lines], Lines], str]] = [
    ("a confidence", edited(2, rb'"confidence":0\.\d', b'"confidence":0.'), WHOLE),
    ("a token", edited(3, rb'"token_ids":\[\d+', b'"token_ids":[7'), WHOLE),
    ("a seed", edited(3, rb'"seeds":\[\d+', b'"seeds":[7'), WHOLE),
    ("blanks", edited(2, rb'"order":0', b'"order": 0'), WHOLE),
    ("K", edited(1, rb'"k":4', b'"k":5'), WHOLE),
    ("the budget", edited(1, rb'"r":"1"', b'"r":"2"'), WHOLE),
    ("a count", edited(1, rb'"triggered":\d+', b'"triggered":1'), WHOLE),
    ("the digest", edited(1, rb'"digest":"\w{8}([^"]*)"\}', rb'"digest":"00000000\1"}'), WHOLE),
    ("how many are selected", edited(1, rb'"selected":\d+', b'"selected":999'), "its header counts 999"),
    ("a key added to the header", edited(1, rb'"kind"', b'"mine":1,"kind"'), "line 1, mine: Extra inputs"),
    ("a key added to a prefix", edited(3, rb'"kind"', b'"mine":1,"kind"'), "line 3, mine: Extra inputs"),
    ("a key taken away", edited(3, rb'"call":\d+,', b""), "line 3, call: Field required"),
    ("another type", edited(2, rb'"k":4', b'"k":"four"'), "line 2, k: Input should be a valid integer"),
    ("K = 1", edited(1, rb'"k":4', b'"k":1'), "line 1, options.k: Input should be greater than or equal to 2"),
    ("a lost prefix", lambda lines: [lines[0], *lines[2:]], "line 2: prefix 1 stands where number 0 should"),
    ("the last prefix", lambda lines: lines[:-1], r"holds \d+ prefixes, and its header counts \d+"),
    ("two prefixes swapped", swapped, "line 2: prefix 1 stands where number 0 should"),
    ("a prefix twice", lambda lines: [*lines[:2], *lines[1:]], "line 3: prefix 0 stands where number 1 should"),
    ("a blank line", lambda lines: [*lines[:2], b"\n", *lines[2:]], "line 3: Invalid JSON"),
    ("half a line", lambda lines: [*lines[:-1], lines[-1][:100]], r"line \d+: Invalid JSON"),
    ("bytes that are no text", lambda lines: [*lines[:2], b"\xff\xfe\n", *lines[2:]], "line 3: Invalid JSON"),
    ("the header twice", lambda lines: [lines[0], *lines], "line 2"),
    ("no header", lambda lines: lines[1:], "is no plan: its first line does not name gapscope.plan/1"),
    ("nothing", lambda _: [], "is no plan: its first line does not name gapscope.plan/1"),
]


@pytest.mark.parametrize(("edit", "message"), [each[1:] for each in EDITS], ids=[each[0] for each in EDITS])
def test_a_plan_that_was_changed_is_refused(file: Path, edit: Callable[[Lines], Lines], message: str) -> None:
    file.write_bytes(b"".join(edit(file.read_bytes().splitlines(keepends=True))))
    with pytest.raises(PlanError, match=message) as caught:
        read_plan(file)
    assert str(file) in str(caught.value)
    assert caught.value.hint is not None


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_a_plan_that_was_cut_off_anywhere_is_refused(file: Path, share: float) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(PlanError, match=re.escape(str(file))):
        read_plan(file)


def test_what_is_no_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"no plan at .*gone\.jsonl: No such file"):
        read_plan(tmp_path / "gone.jsonl")
    with pytest.raises(PlanError, match=r"no plan at .*: Is a directory"):
        read_plan(tmp_path)
    with pytest.raises(PlanError, match="is no plan"):
        read_plan(SAMPLES / "verl-v1" / "6.jsonl")


# --- The schema ------------------------------------------------------------------------------------------


def test_every_line_conforms_to_the_published_schema(file: Path) -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    for line in file.read_text().splitlines():
        validator.validate(json.loads(line))


def test_a_plan_of_the_collapsing_run_conforms_to_the_published_schema() -> None:
    found = plan(SAMPLES / "collapse", PlanOptions(rank="random", seed=1))
    assert len(found.prefixes) > 1
    validator = jsonschema.Draft202012Validator(json_schema())
    for line in found.to_jsonl().splitlines():
        validator.validate(json.loads(line))


@pytest.mark.parametrize("key", ["seeds", "prefix", "sampling", "order", "id"])
def test_a_line_without_one_of_its_keys_does_not_conform(file: Path, key: str) -> None:
    prefix: dict[str, Any] = json.loads(file.read_text().splitlines()[1])
    del prefix[key]
    assert not jsonschema.Draft202012Validator(json_schema()).is_valid(prefix)
