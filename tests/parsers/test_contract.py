"""What every parser owes, held against the samples of all of them."""

import json
from pathlib import Path

import pytest

import gapscope as gs
from gapscope.dialects import DIALECTS
from gapscope.parsers import PARSERS, Parser
from gapscope.rollouts import to_json
from gapscope.sources import find, head

ROOT = Path(__file__).parent.parent.parent
SAMPLES = ROOT / "sample_logs"
GOLDEN = Path(__file__).parent / "golden"
SAMPLE_OF = {
    "gapscope-rollout": SAMPLES / "gapscope-rollout",
    "verl-v1": SAMPLES / "verl-v1",
    "verl-legacy": SAMPLES / "verl-legacy",
    "trl": SAMPLES / "trl",
}


def records(name: str) -> list[dict[str, object]]:
    found = []
    for record in gs.read([str(SAMPLE_OF[name])]):
        assert isinstance(record, gs.Rollout), record
        record.source = type(record.source)("sample", record.source.line, record.source.offset)
        record.origin = None
        record.run = None
        found.append(json.loads(to_json(record)))
    return found


def test_every_parser_has_a_sample() -> None:
    assert set(SAMPLE_OF) == {parser.name for parser in PARSERS}


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_a_parser_claims_its_own_sample_and_no_other(parser: Parser) -> None:
    for name, folder in SAMPLE_OF.items():
        for file in find([str(folder)])[0]:
            rows = head(file)
            assert rows
            claimed = parser.container == file.container and all(parser.claims(row) for row in rows)
            assert claimed == (name == parser.name), (name, file.path)


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_the_records_of_a_sample_are_the_golden_ones(parser: Parser, request: pytest.FixtureRequest) -> None:
    golden = GOLDEN / f"{parser.name}.jsonl"
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records(parser.name))
    if request.config.getoption("--write-golden"):
        golden.write_text(lines, encoding="utf-8")
    assert golden.exists(), "no golden file; read the records, then run pytest with --write-golden"
    assert lines == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_the_spans_of_a_record_cover_its_output_without_a_gap(parser: Parser) -> None:
    for record in gs.read([str(SAMPLE_OF[parser.name])]):
        assert isinstance(record, gs.Rollout)
        ends = [0, *(span.end for span in record.spans)]
        assert [span.start for span in record.spans] == ends[:-1]
        assert ends[-1] == len(record.output)


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_a_parser_advises_on_every_need(parser: Parser) -> None:
    from gapscope.rollouts import Need

    assert set(parser.lacks) == set(Need.__args__)


def test_names_are_unique() -> None:
    for registry in (PARSERS, DIALECTS):
        names = [entry.name for entry in registry]
        assert len(names) == len(set(names))


def test_the_three_samples_of_one_step_tell_the_same_story() -> None:
    """verl legacy, verl V1 and TRL hold the same 32 rollouts in the same order."""
    stories = []
    for name in ("verl-legacy", "verl-v1", "trl"):
        rollouts = [record for record in gs.read([str(SAMPLE_OF[name])]) if isinstance(record, gs.Rollout)]
        stories.append([[(call.name, call.outcome) for call in rollout.calls] for rollout in rollouts])
    assert stories[0] == stories[1] == stories[2]
    assert sum(map(bool, stories[0])) == 17
