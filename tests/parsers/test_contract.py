"""What every parser owes, held against the samples of all of them."""

import json
from collections import defaultdict
from pathlib import Path
from typing import get_args

import pytest
from samples import SAMPLE_OF, logs, options, rollouts

import gapscope as gs
from gapscope.containers import head
from gapscope.dialects import DIALECTS
from gapscope.parsers import PARSERS, Parser
from gapscope.rollouts import Need, Source, to_json
from gapscope.shapes.conversations import messages_of, prompt_text, tool_names

GOLDEN = Path(__file__).parent / "golden"


def records(name: str) -> list[dict[str, object]]:
    found = []
    for rollout in rollouts(name):
        rollout.origin = None
        found.append(json.loads(to_json(rollout)))
    return found


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_a_parser_reads_its_own_sample_whole(parser: Parser) -> None:
    read = records(parser.name)
    assert read
    # What gapscope itself has written keeps the name of the format that it was read from.
    assert {record["format"] for record in read} == {"verl-v1" if parser.name == "gapscope-rollout" else parser.name}


@pytest.mark.parametrize("name", SAMPLE_OF)
def test_a_parser_claims_its_own_sample_and_no_other(name: str) -> None:
    files = logs(name)
    assert files
    for file in files:
        for row in head(file):
            claiming = {p.name for p in PARSERS if file.container in p.containers and p.claims(row.value)}
            assert claiming == ({name} if name != "mapped" else set()), file.path


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
    for record in rollouts(parser.name):
        ends = [0, *(span.end for span in record.spans)]
        assert [span.start for span in record.spans] == ends[:-1]
        assert ends[-1] == len(record.output)


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_a_parser_says_of_every_need_whether_its_logs_have_it(parser: Parser) -> None:
    said = [*parser.carries, *parser.optional, *parser.lacks]
    assert sorted(said) == sorted(get_args(Need))
    assert all(advice.strip() for advice in (*parser.optional.values(), *parser.lacks.values()))


def test_names_are_unique() -> None:
    for registry in (PARSERS, DIALECTS):
        names = [entry.name for entry in registry]
        assert len(names) == len(set(names))


def test_the_three_samples_of_one_step_tell_the_same_story() -> None:
    """verl legacy, verl V1 and TRL hold the same 32 rollouts in the same order."""
    stories = [
        [[(call.name, call.outcome) for call in rollout.calls] for rollout in rollouts(name)]
        for name in ("verl-legacy", "verl-v1", "trl")
    ]
    assert stories[0] == stories[1] == stories[2]
    assert sum(map(bool, stories[0])) == 17


def test_definitions_of_tools_have_the_names_that_are_declared() -> None:
    offering = set()
    for parser in PARSERS:
        for record in rollouts(parser.name):
            if record.tools is not None:
                offering.add(parser.name)
                assert tool_names(record.tools) == record.declared_tools
    assert offering == {
        "agent-lightning", "art", "atif", "inspect", "nemo-gym", "openai-chat", "otel-genai", "prime-rl",
        "rllm-episode", "rllm-gateway", "roll-agentic", "verifiers", "verifiers-results",
    }  # fmt: skip


def test_messages_are_those_of_the_prompt_and_no_others() -> None:
    holding = set()
    for parser in PARSERS:
        for record in rollouts(parser.name):
            if record.messages is not None:
                holding.add(parser.name)
                assert prompt_text(messages_of(record.messages)) == record.prompt
    assert holding == {
        "agent-lightning", "art", "atif", "inspect", "miles-trajectory", "nemo-gym", "openai-chat", "otel-genai",
        "prime-rl", "ragen", "rllm-episode", "rllm-gateway", "roll-agentic", "roll-rlvr", "trl", "tunix", "verifiers",
        "verifiers-results",
    }  # fmt: skip


@pytest.mark.parametrize("name", SAMPLE_OF)
def test_a_record_survives_being_written_and_read(name: str, tmp_path: Path) -> None:
    written = rollouts(name)
    path = tmp_path / "rollouts.jsonl"
    path.write_bytes(b"".join(to_json(record) + b"\n" for record in written))
    again = [record for record in gs.read(path) if isinstance(record, gs.Rollout)]
    assert [record.origin for record in again] == [record.origin or record.source for record in written]
    for record in (*written, *again):
        record.source = Source("", 0)
        record.origin = None
    assert again == written


@pytest.mark.parametrize("name", SAMPLE_OF)
def test_a_store_holds_what_the_records_say(name: str, tmp_path: Path) -> None:
    records = rollouts(name)
    with gs.ingest([str(SAMPLE_OF[name])], options(name), into=tmp_path / "run.duckdb") as store:
        stored = store.rows("""
            SELECT rollout_id, split, step, group_id, sample_index, output_index, data_source, status, finish_reason,
                reward, advantage, correct, turns, parent_id, byte_offset, id
            FROM rollouts ORDER BY file, id
        """)
        kept = dict(store.rows("SELECT id, prompt FROM rollouts JOIN prompts USING (prompt_hash)"))
        texts = {row[0]: row[1:] for row in store.rows("SELECT id, ground_truth, extra FROM kept_texts")}
        calls: dict[int, list[tuple[object, ...]]] = defaultdict(list)
        for number, *call in store.rows("""
            SELECT c.id, c.turn, name, outcome, in_think, raw, result, arguments
            FROM calls AS c JOIN call_texts AS t ON t.id = c.id AND t.call = c.call ORDER BY c.id, c.call
        """):
            calls[number].append(tuple(call))
        spans: dict[int, list[tuple[object, ...]]] = defaultdict(list)
        for number, *span in store.rows("""
            SELECT id, kind, turn, char_start, char_end, sampled, token_start, token_end FROM spans ORDER BY id, span
        """):
            spans[number].append(tuple(span))
        parts = {(number, key): value for number, key, value in store.rows("SELECT id, name, value FROM fields")}
    assert len(stored) == len(records)
    for row, record in zip(stored, records, strict=True):
        number = row[-1]
        assert row[:-1] == (
            record.rollout_id, record.split, record.step, record.group_id, record.sample_index, record.output_index,
            record.data_source, record.status, record.finish_reason, record.reward, record.advantage, record.correct,
            len(record.turns), record.parent.rollout_id if record.parent else None, record.source.offset,
        )  # fmt: skip
        assert kept.get(number) == record.prompt
        truth, extra = texts[number]
        assert json.loads(truth or "null") == record.ground_truth
        assert json.loads(extra or "{}") == record.extra
        assert [call[:-1] for call in calls[number]] == [
            (call.turn, call.name, call.outcome, call.in_think, call.raw, call.result) for call in record.calls
        ]
        assert [json.loads(str(call[-1])) for call in calls[number]] == [call.arguments for call in record.calls]
        assert spans[number] == [
            (s.kind, s.turn, s.start, s.end, s.sampled, s.token_start, s.token_end) for s in record.spans
        ]
        for part in record.reward_parts:
            assert parts.get((number, part.name)) == part.value
