"""Logs as they are found: cut off, damaged, mixed up, or no logs at all.

Each gives a clear message or a counted refusal; never a traceback, and never a wrong number.
"""

import gzip
import io
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import gapscope

import gapscope as gs

Audit = Callable[..., gs.Report]
Row = Callable[..., dict[str, Any]]
Log = Callable[..., Path]
ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "sample_logs"
TRL = SAMPLES / "trl" / "completions_00006.parquet"
PROMPT = '"input": "user\\nWhat is 2+2?\\nassistant\\n", "gts": "4"'


def counts(report: gs.Report) -> dict[str, int]:
    """What became of the rows, without what did not occur."""
    rows = report.rows
    assert rows.read == rows.kept + rows.refused + rows.padding + rows.excluded + rows.duplicate
    return {name: count for name, count in rows.model_dump().items() if count}


def raises(error: type[gs.GapscopeError], *words: str) -> Any:
    """The error, with all these words in its message or its hint, in this order."""
    return pytest.raises(error, match="(?s)" + ".*".join(map(_literal, words)))


def _literal(word: str) -> str:
    return "".join(f"\\{c}" if not c.isalnum() and c.isascii() else c for c in word)


# --- One odd row among good ones -------------------------------------------------------------------------


class Odd(NamedTuple):
    """What becomes of a row: its verdict and the repair it took, or the reason why it was refused."""

    line: bytes
    right: bool | None = None
    repair: str | None = None
    refused: str | None = None


def json_row(output: str = '"It is 4."', score: str = "1.0", step: str = "3", more: str = "") -> bytes:
    return f'{{{PROMPT}, "output": {output}, "score": {score}, "step": {step}{more}}}'.encode()


ODD_ROWS = {
    "NaN is no score": Odd(json_row(score="NaN"), repair="not_finite"),
    "infinity is no score": Odd(json_row(score="Infinity"), repair="not_finite"),
    "minus infinity is no score": Odd(json_row(score="-Infinity"), repair="not_finite"),
    "a number beyond a double is no score": Odd(json_row(score="1e999"), repair="not_finite"),
    "null is no score": Odd(json_row(score="null")),
    "a number in quotes is a score": Odd(json_row(score='"1"'), right=True),
    "numpy's True in quotes is a score": Odd(json_row(score='"True"'), right=True),
    "false is a score": Odd(json_row(score="false"), right=False),
    "a large integer is a score": Odd(json_row(score="1" + "0" * 30), right=True),
    "a score that is no number": Odd(json_row(score='"x"'), refused="`score` is 'x', expected a number"),
    "a list of scores": Odd(json_row(score="[1]"), refused="`score` is [1], expected a number"),
    "an empty score": Odd(json_row(score='""'), refused="`score` is empty"),
    "no score": Odd(b'{%s, "output": "", "step": 3}' % PROMPT.encode(), refused="`score` is missing"),
    "an integer beyond a double": Odd(json_row(score="1" + "0" * 400), refused="expected a number"),
    "an integer of 5,000 digits": Odd(json_row(score="1" * 5000), refused="not readable: Exceeds the limit"),
    "a step of 20 digits is none": Odd(json_row(step="1" + "0" * 20), right=True),
    "a step of 400 digits is none": Odd(json_row(step="1" + "0" * 400), right=True),
    "a step that is no whole number is none": Odd(json_row(step="2.5"), right=True),
    "a step that is a word is none": Odd(json_row(step='"last"'), right=True),
    "an extra of 400 digits": Odd(json_row(more=', "hash": ' + "7" * 400), right=True),
    "a key that is twice there counts as Python counts it": Odd(json_row(score="0", more=', "score": 1'), right=True),
    "an extra named like a key of the record": Odd(json_row(more=', "rollout_id": 1, "correct": false'), right=True),
    "an extra with a strange name": Odd(json_row(more=', "\\u0000": 1, "": 2, "a\'b": 3'), right=True),
    "a lone surrogate": Odd(json_row('"\\ud83d"'), right=True, repair="lone_surrogate"),
    "a byte that is not UTF-8": Odd(json_row('"caf#"').replace(b"#", b"\xe9"), right=True, repair="not_utf8"),
    "line ends that are none in JSON": Odd(json_row('"a\u2028b\u2029c\u0085d"'), right=True),
    "a vertical tab as it is": Odd(json_row('"a\x0bb"'), refused="not JSON: Invalid control character"),
    "a vertical tab in an escape": Odd(json_row('"a\\u000bb\\u001cc\\u0000d"'), right=True),
    "lists in lists, just readable": Odd(json_row(more=', "pred": ' + "[" * 900 + "]" * 900), right=True),
    "objects in objects, just readable": Odd(json_row(more=', "pred": ' + '{"a":' * 900 + "1" + "}" * 900), right=True),
    "lists in lists, too deep": Odd(json_row(more=', "pred": ' + "[" * 9000 + "]" * 9000), refused="nested too deeply"),
    "an array": Odd(b"[1, 2]", refused="a JSON array, expected an object"),
    "a text": Odd(b'"rollout"', refused="a JSON string, expected an object"),
    "a number": Odd(b"17", refused="a JSON number, expected an object"),
    "null": Odd(b"null", refused="a JSON null, expected an object"),
    "an empty object": Odd(b"{}", refused="`input` is missing"),
    "half an object": Odd(json_row()[:50], refused="not JSON"),
    "two objects": Odd(json_row() + json_row(), refused="not JSON"),
    "NUL bytes, as a crash of the file system leaves them": Odd(b"\0" * 4096, refused="not JSON"),
    "bytes of something else": Odd(bytes(range(11, 256)), refused="not JSON"),
    "an output that is null": Odd(json_row("null"), refused="`output` is null"),
    "an output that is a list": Odd(json_row('["It is 4."]'), refused="`output` is list, expected text"),
    "an empty output": Odd(json_row('""'), right=True),
    "a row of 20 MB": Odd(json_row('"' + "x" * 20_000_000 + '"'), right=True),
}


@pytest.mark.parametrize("name", ODD_ROWS)
def test_an_odd_row_is_read_for_what_it_is_or_refused_with_its_place_and_reason(
    name: str, audit: Audit, log: Log, legacy: Row, few_metrics: None
) -> None:
    odd = ODD_ROWS[name]
    before, after = [legacy(score=1), legacy(score=0), legacy(score=1), legacy(score=0)], [legacy(score=1)]
    report = audit(log([*before, odd.line, *after]), correct="score>=1")
    if odd.refused is None:
        assert counts(report) == {"read": 6, "kept": 6}
        assert report.refused == []
    else:
        assert counts(report) == {"read": 6, "kept": 5, "refused": 1}
        ((first),) = report.refused
        assert (first.line, first.rows) == (5, 1)
        assert odd.refused in first.reason
        assert first.excerpt.isprintable()
    judged = odd.refused is None and odd.right is not None
    accuracy = report["accuracy"]
    assert (accuracy.numerator, accuracy.n) == (3 + bool(odd.right), 5 + judged)
    assert report.correctness.unknown == (odd.refused is None and odd.right is None)
    assert report.repairs == ({odd.repair: 1} if odd.repair else {})
    assert report.steps == [3]
    assert sum(report.groups.sizes.values()) == 1


def test_every_odd_row_at_once_also_fits_into_a_store(audit: Audit, log: Log, legacy: Row, tmp_path: Path) -> None:
    """With texts, which an audit of logs leaves out, and through the processes that parse."""
    lines = [legacy(score=0), *(odd.line for odd in ODD_ROWS.values())]
    path = log(lines)
    gs.ingest([str(path)], gs.ReadOptions(jobs=2), into=tmp_path / "run.duckdb").close()
    refused = sum(odd.refused is not None for odd in ODD_ROWS.values())
    report = audit(tmp_path / "run.duckdb", correct="score>=1")
    assert counts(report) == {"read": len(lines), "kept": len(lines) - refused, "refused": refused}
    assert report["accuracy"].numerator == sum(bool(odd.right) for odd in ODD_ROWS.values())


CALL = {
    "index": 0,
    "turn": 0,
    "span": None,
    "raw": "",
    "name": "calc",
    "arguments": {},
    "opened": True,
    "closed": True,
    "parsed": True,
    "executed": True,
    "in_think": False,
    "outcome": "executed_ok",
}
ODD_RECORDS: dict[str, tuple[dict[str, Any], str]] = {
    "a step beyond 64 bits": ({"step": 10**20}, "beyond 64 bits"),
    "a sample index beyond 64 bits": ({"sample_index": 10**400}, "beyond 64 bits"),
    "a reward beyond a double": ({"reward": 10**400}, "Number out of range"),
    "a status that is none": ({"status": "fine"}, "Invalid enum value 'fine'"),
    "an output that is null": ({"output": None}, "Expected `str`, got `null`"),
    "a span beyond the output": (
        {"spans": [{"kind": "text", "turn": 0, "start": 0, "end": 9, "sampled": True}]},
        "span 0 is [0, 9) of 3 characters",
    ),
    "a span that ends before it begins": (
        {"spans": [{"kind": "text", "turn": 0, "start": 2, "end": 1, "sampled": True}]},
        "span 0 is [2, 1) of 3 characters",
    ),
    "a call that points to no span": ({"calls": [{**CALL, "span": 0}]}, "a call points to span 0 of 0"),
    "a call that points backwards": ({"calls": [{**CALL, "result_span": -1}]}, "a call points to span -1 of 0"),
    "a call with a turn beyond 64 bits": ({"calls": [{**CALL, "turn": 10**30}]}, "beyond 64 bits"),
    "more prompt tokens than tokens": ({"tokens": {"ids": [1], "n_prompt": 2}}, "`tokens.n_prompt` is 2 of 1 tokens"),
    "a mask of another length": (
        {"tokens": {"ids": [1, 2], "sampled": [True]}},
        "`tokens.sampled` has 1 values for 2 tokens",
    ),
}


@pytest.mark.parametrize("name", ODD_RECORDS)
def test_a_record_that_contradicts_itself_is_refused(name: str, audit: Audit, log: Log, few_metrics: None) -> None:
    changes, reason = ODD_RECORDS[name]
    good = {"schema": "gapscope.rollout/1", "format": "mine", "source": {"file": "x", "line": 1}, "output": "abc"}
    report = audit(log([{**good, "correct": True}, {**good, **changes}], "rollouts.jsonl"))
    assert counts(report) == {"read": 2, "kept": 1, "refused": 1}
    assert reason in report.refused[0].reason


@pytest.mark.parametrize("uid", ["plain", "a_b_c", "", "_0_0", 7, None, "g_0_x", "g_" + "9" * 30 + "_0", "g_²_0"])
def test_a_uid_of_another_shape_is_refused(uid: Any, audit: Audit, log: Log, v1: Row, few_metrics: None) -> None:
    report = audit(log([v1("g_0_0"), v1("g_1_0", score=0.0), v1(uid)]))
    assert counts(report) == {"read": 3, "kept": 2, "refused": 1}
    assert "`uid` is " in report.refused[0].reason


# --- Rows that say something else than they seem to ------------------------------------------------------


def test_a_field_that_only_late_rows_have_is_found(audit: Audit, log: Log, legacy: Row) -> None:
    """Row 300 is the first with `acc`; it is taken for what is correct, and the others have no verdict."""
    rows = [legacy(output=str(number)) for number in range(299)] + [legacy(acc=False), legacy(acc=True)]
    report = audit(log(rows))
    assert counts(report) == {"read": 301, "kept": 301}
    assert (report.correctness.rule, report.correctness.known, report.correctness.unknown) == ("acc", 2, 299)
    assert (report["accuracy"].value, report["accuracy"].n) == (0.5, 2)
    assert report["all_wrong_tool_group_rate"].value is None
    assert report.groups.excluded == {"partial_correctness": 1}


def test_one_field_may_be_spelled_in_many_ways(audit: Audit, log: Log, legacy: Row) -> None:
    verdicts = [True, False, 1, 0, 1.0, "True", "false", "1.0", None, "maybe", [1], {}]
    report = audit(log([legacy(acc=value, output=str(n)) for n, value in enumerate(verdicts)]))
    assert counts(report) == {"read": 12, "kept": 12}
    assert (report.correctness.rule, report.correctness.known, report.correctness.unknown) == ("acc", 8, 4)
    assert report["accuracy"].value == 5 / 8


def test_ground_truths_of_all_kinds_tell_groups_apart(audit: Audit, log: Log, legacy: Row) -> None:
    truths = ["4", 4, 4.5, [4], {"target": [4]}, {"target": [4], "tol": 0}, None, ..., True]
    report = audit(log([legacy(gts=truth) for truth in truths for _ in range(2)]))
    assert counts(report) == {"read": 18, "kept": 18}
    # Null and missing are the same, and "4" as a text is what 4 is as a number.
    assert report.groups.sizes == {"2": 5, "4": 2}


def test_a_log_without_ground_truths_is_grouped_by_prompt(audit: Audit, log: Log, legacy: Row) -> None:
    report = audit(log([legacy(input=f"q{n % 2}", gts=..., score=float(n < 3)) for n in range(8)]))
    assert report.groups.sizes == {"4": 2}
    assert report["accuracy"].value == 3 / 8


def test_padding_is_left_out_and_counted(audit: Audit, log: Log, v1: Row) -> None:
    rows = [v1(f"g_{n}_0", score=float(n > 1)) for n in range(4)]
    padding = [v1(f"pad0c_{n}_0", input="", output="", score=0.0) for n in range(3)]
    padded, plain = audit(log([*rows, *padding])), audit(log(rows, "plain/3.jsonl"))
    assert counts(padded) == {"read": 7, "kept": 4, "padding": 3}
    assert padded.groups == plain.groups
    assert padded["accuracy"] == plain["accuracy"]


def test_the_outputs_of_one_session_are_one_rollout(audit: Audit, log: Log, v1: Row) -> None:
    """The second of three outputs calls a tool; the reward is repeated in each row."""
    call = '<tool_call>\n{"name": "calc", "arguments": {}}\n</tool_call>'
    rows = [v1("g_0_0"), v1("g_0_1", output=call), v1("g_0_2"), v1("g_1_0", score=0.0)]
    report = audit(log(rows))
    assert counts(report) == {"read": 4, "kept": 4}
    assert (report.rollouts, report.sub_outputs, report.groups.sizes) == (2, 2, {"2": 1})
    assert (report["accuracy"].value, report["tool_attempt_rate"].value) == (0.5, 0.5)
    assert report["tool_accuracy"].value == 1.0


def test_what_a_resumed_run_wrote_again_replaces_what_was_there(audit: Audit, log: Log, v1: Row) -> None:
    rows = [v1("g_0_0", score=0.0), v1("g_1_0", score=0.0), v1("g_0_0", score=1.0)]
    report = audit(log(rows))
    assert counts(report) == {"read": 3, "kept": 2, "duplicate": 1}
    assert (report["accuracy"].value, report.correctness.known) == (0.5, 2)


def test_a_step_that_disagrees_with_the_file_name_is_kept_and_reported(audit: Audit, log: Log, legacy: Row) -> None:
    report = audit(log([legacy(step=12), legacy(step=12), legacy(step=3), legacy(step=...)]))
    assert counts(report) == {"read": 4, "kept": 4}
    assert report.steps == [3, 12]
    assert report.repairs == {"step_differs_from_file_name": 2}
    assert "2 rows state another step" in next(f.text for f in report.findings if f.title == "Steps disagree")


# --- Lines and files -------------------------------------------------------------------------------------


def test_blank_lines_and_windows_line_ends_are_no_rows(audit: Audit, log: Log, legacy: Row) -> None:
    lines = [json.dumps(legacy(score=float(n))).encode() for n in range(2)]
    report = audit(log(b"\r\n".join([b"", lines[0], b"  \t", b"", lines[1], b""])))
    assert counts(report) == {"read": 2, "kept": 2}


def test_a_last_line_without_its_newline_is_a_row_and_one_that_is_cut_off_is_refused(
    audit: Audit, log: Log, legacy: Row
) -> None:
    content = b"\n".join(json.dumps(legacy(score=float(n % 2))).encode() for n in range(4))
    assert counts(audit(log(content))) == {"read": 4, "kept": 4}
    report = audit(log(content[:-10]))
    assert counts(report) == {"read": 4, "kept": 3, "refused": 1}
    assert report.refused[0].line == 4
    assert report.refused[0].reason.endswith("and the line is cut off")
    assert report["accuracy"].value == 1 / 3


def test_a_byte_order_mark_is_no_part_of_the_first_row(audit: Audit, log: Log, legacy: Row) -> None:
    content = b"\n".join(json.dumps(legacy(score=float(n))).encode() for n in range(2))
    assert counts(audit(log(b"\xef\xbb\xbf" + content))) == {"read": 2, "kept": 2}


def test_a_line_without_end_is_refused_and_the_next_one_is_read(
    audit: Audit, log: Log, legacy: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("gapscope.json_rows"), "LONGEST_LINE", 1000)
    report = audit(log([legacy(), legacy(output="x" * 5000), legacy(), legacy(output="y" * 300)]))
    assert counts(report) == {"read": 4, "kept": 3, "refused": 1}
    assert "bytes, longer than 1,000" in report.refused[0].reason
    assert report.refused[0].line == 2


def noisy_rows(count: int) -> bytes:
    """Rows that a compressor can do nothing with."""
    rng = random.Random(0)
    rows = ({"input": "q", "output": rng.randbytes(300).hex(), "gts": "4", "score": n % 2} for n in range(count))
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def whole_lines_of_half_a_gzip(content: bytes) -> tuple[bytes, int]:
    half = gzip.compress(content)
    half = half[: len(half) // 2]
    return half, zlib.decompressobj(wbits=31).decompress(half).count(b"\n")


def whole_lines_of_half_a_zstd(content: bytes) -> tuple[bytes, int]:
    half = pa.compress(content, codec="zstd", asbytes=True)
    half = half[: len(half) // 2]
    whole = 0
    with pa.CompressedInputStream(pa.BufferReader(half), "zstd") as stream:
        try:
            while True:
                whole += stream.read(1024).count(b"\n")
        except OSError:
            return half, whole


@pytest.mark.parametrize("cut", [whole_lines_of_half_a_gzip, whole_lines_of_half_a_zstd])
def test_of_half_a_compressed_file_every_whole_row_is_read(
    cut: Callable[[bytes], tuple[bytes, int]], audit: Audit, log: Log
) -> None:
    half, whole = cut(noisy_rows(3000))
    assert 1000 < whole < 2000
    report = audit(log(half))
    assert counts(report) == {"read": whole + 1, "kept": whole, "refused": 1}
    assert "stream ends early or is damaged" in report.refused[0].reason
    assert report.refused[0].line == whole + 1
    assert report["accuracy"].value == (whole // 2) / whole


def test_a_gzip_that_lacks_only_its_last_bytes_loses_no_row(audit: Audit, log: Log) -> None:
    report = audit(log(gzip.compress(noisy_rows(100))[:-4]))
    assert counts(report) == {"read": 101, "kept": 100, "refused": 1}


def parquet_of(columns: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def not_utf8() -> pa.Array:
    return pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())


TRL_COLUMNS = {"step": [1], "prompt": ["q"], "completion": ["4"], "accuracy": [1.0], "advantage": [0.0]}
NO_LOGS: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "an empty file": (b"", ("an empty file",)),
    "blank lines": (b"\n \n\t\n", ("no line of it is a JSON object",)),
    "a text": (b"step 1: loss 0.3\nstep 2: loss 0.2\n", ("no line of it is a JSON object",)),
    "an array of something else": (b'[\n  {\n "loss": 0.3\n }\n]\n', ("no rollouts of a known format", "keys loss")),
    "half an array": (b'[\n  {\n "input": "q"\n', ("not JSON",)),
    "an array without rows": (b"[]", ("a json file without rows",)),
    "an object without its end": (b'{\n "input": "q",\n', ("not JSON",)),
    "rows of something else": (b'{"loss": 0.3, "lr": 1}\n', ("no rollouts of a known format", "keys loss, lr")),
    "a text that quotes a row": (
        b"what verl writes:\n" * 30 + b'{"input": "q", "output": "a", "score": 1}\n' + b"and so on\n" * 30,
        ("text: 1 of its first 61 lines are JSON objects",),
    ),
    "noise": (b"\0" + random.Random(1).randbytes(4000), ("binary data",)),
    "noise without NULs": (bytes(random.Random(2).choices(range(14, 256), k=4000)), ("no line of it",)),
    "UTF-16": ('{"input": "q"}\n'.encode("utf-16"), ("UTF-16", "iconv")),
    "half a gzip of a few rows": (gzip.compress(noisy_rows(2))[:60], ("gzip stream ends early or is damaged",)),
    "a damaged gzip": (gzip.compress(noisy_rows(2))[:30] + b"\xff" * 99, ("gzip stream ends early or is damaged",)),
    "a gzip of something else": (gzip.compress(b"\0tar\0"), ("binary data",)),
    "half a zstd of a few rows": (
        pa.compress(noisy_rows(2), codec="zstd", asbytes=True)[:60],
        ("zstd stream ends early or is damaged",),
    ),
    "a parquet of something else": (parquet_of({"a": [1]}), ("no rollouts of a known format", "keys a")),
    "a parquet without rows": (parquet_of({"step": [], "prompt": []}), ("a parquet file without rows",)),
    "a parquet that is cut off": (TRL.read_bytes()[:5000], ("cannot be read as parquet", "magic bytes")),
    "a parquet of four bytes": (b"PAR1", ("cannot be read as parquet",)),
    "a parquet with text that is not UTF-8": (
        parquet_of({**TRL_COLUMNS, "completion": not_utf8()}),
        ("cannot be read as parquet", "utf-8"),
    ),
    "a parquet whose completions are numbers": (
        parquet_of({**TRL_COLUMNS, "completion": [4]}),
        ("nothing to audit", "refused 1", "line 1", "`completion` is int, expected text or a list of messages"),
    ),
    "rows that are all refused": (
        b'{"input": "q", "output": "a", "score": "x"}\n' * 3,
        ("nothing to audit", "refused 3", "line 1", "`score` is 'x'"),
    ),
    "nothing but padding": (
        b'{"input": "", "output": "", "score": 0, "uid": "pad1_0_0"}\n' * 3,
        ("nothing to audit", "padding 3"),
    ),
}


@pytest.mark.parametrize("name", NO_LOGS)
@pytest.mark.parametrize("rule", [None, "acc"])
def test_what_is_no_log_is_called_what_it_is(name: str, rule: str | None, audit: Audit, log: Log) -> None:
    """Whether or not a rule was given: that it names no field is not the trouble."""
    content, words = NO_LOGS[name]
    with raises(gs.InputError, *words):
        audit(log(content), correct=rule)


@pytest.mark.parametrize("function", [None, "calc", [1], {"name": None}])
def test_a_tool_call_of_another_shape_is_still_an_attempt(function: Any, audit: Audit, log: Log) -> None:
    """Parquet gives every struct of a column the same fields, null where they were absent."""
    message = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
    report = audit(
        log(parquet_of({**TRL_COLUMNS, "completion": pa.array([[message]])}), "c_1.parquet"), correct="accuracy"
    )
    assert counts(report) == {"read": 1, "kept": 1}
    assert (report["tool_attempt_rate"].value, report["tool_parsed_rate"].value) == (1.0, 0.0)


def test_a_reward_function_may_be_called_score(audit: Audit, log: Log) -> None:
    columns = {**TRL_COLUMNS, "step": [1] * 4, "prompt": ["q"] * 4, "completion": ["4"] * 4, "advantage": [0.0] * 4}
    del columns["accuracy"]
    path = log(parquet_of({**columns, "score": [1.0, 0.0, 0.0, 0.0]}), "c_1.parquet")
    assert audit(path)["accuracy"].value == 1 / 4
    assert audit(path, correct="score>0.5")["accuracy"].value == 1 / 4


# --- Paths -----------------------------------------------------------------------------------------------


def test_nothing_given_and_nothing_there(audit: Audit, tmp_path: Path) -> None:
    with raises(gs.InputError, "no log was given", "folders, globs"):
        audit()
    with raises(gs.InputError, "no such file or folder", "missing.jsonl"):
        audit(tmp_path / "missing.jsonl")
    with raises(gs.InputError, "no file matches", "*.jsonl"):
        audit(tmp_path / "*.jsonl")
    with raises(gs.InputError, "the folder", "holds no file"):
        audit(tmp_path)


def test_a_folder_of_other_files_is_named_with_the_first_of_them(audit: Audit, log: Log, tmp_path: Path) -> None:
    log(b"# Notes\n", "run/readme.md")
    log(b'{"lr": 1e-6}', "run/config.json")
    with raises(gs.InputError, "none of 2 files can be audited", "config.json", "keys lr"):
        audit(tmp_path / "run")


def test_other_files_in_a_folder_of_logs_are_passed_over_and_listed(audit: Audit, log: Log, legacy: Row) -> None:
    log(b"# Notes\n", "run/readme.md")
    log(b"", "run/4.jsonl")
    path = log([legacy(), legacy(score=0.0)], "run/3.jsonl")
    report = audit(path.parent)
    assert counts(report) == {"read": 2, "kept": 2}
    assert [(Path(item.path).name, item.reason, item.unreadable) for item in report.passed_over] == [
        ("4.jsonl", "an empty file", False),
        ("readme.md", "no line of it is a JSON object", False),
    ]


def test_a_file_that_was_named_and_is_no_log_keeps_a_gate_from_judging(audit: Audit, log: Log, legacy: Row) -> None:
    report = audit(log([legacy(), legacy()]), log(b"# Notes\n", "readme.md"))
    assert [item.unreadable for item in report.passed_over] == [True]
    verdict = gs.judge(report, [gs.Limit("accuracy", ">=", 0.5)])
    assert verdict.exit_code == 2
    assert "readme.md could not be read" in verdict.text


def test_a_file_that_may_not_be_read_is_listed_as_unreadable(
    audit: Audit, log: Log, legacy: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything, so the refusal of the operating system is played."""
    good, secret = log([legacy(), legacy()]), log([legacy()], "4.jsonl")

    def guarded(path: str, *rest: Any, **options: Any) -> IO[Any]:
        if str(path) == str(secret):
            raise PermissionError(13, "Permission denied", path)
        return open(path, *rest, **options)

    monkeypatch.setattr(import_module("gapscope.files"), "open", guarded, raising=False)
    report = audit(good, secret)
    assert counts(report) == {"read": 2, "kept": 2}
    assert [(item.reason, item.unreadable) for item in report.passed_over] == [("Permission denied", True)]
    with raises(gs.InputError, "4.jsonl cannot be audited", "Permission denied"):
        audit(secret)


def test_records_of_a_file_that_cannot_be_read_are_not_silently_missing(log: Log, legacy: Row) -> None:
    good, bad = log([legacy()]), log(b"# Notes\n", "readme.md")
    with raises(gs.InputError, "readme.md cannot be audited", "no line of it is a JSON object"):
        list(gs.read([str(good), str(bad)]))
    (good.parent / "4.jsonl").symlink_to("gone.jsonl")
    with raises(gs.InputError, "4.jsonl cannot be audited", "No such file or directory"):
        list(gs.read(str(good.parent)))


def test_a_pipe_is_not_waited_for(audit: Audit, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "3.jsonl")
    with raises(gs.InputError, "3.jsonl cannot be audited", "a pipe or a device", "standard input"):
        audit(tmp_path / "3.jsonl")


def test_a_link_to_nowhere_is_unreadable(audit: Audit, log: Log, legacy: Row, tmp_path: Path) -> None:
    log([legacy(), legacy()])
    (tmp_path / "4.jsonl").symlink_to("gone.jsonl")
    report = audit(tmp_path)
    assert counts(report) == {"read": 2, "kept": 2}
    assert [(item.reason, item.unreadable) for item in report.passed_over] == [("No such file or directory", True)]


# --- Flags -----------------------------------------------------------------------------------------------


def test_an_unknown_trainer_is_answered_with_those_that_exist(audit: Audit, log: Log, legacy: Row) -> None:
    path = log([legacy()])
    with raises(gs.UnknownName, "unknown trainer", "'verl-v2'", "Did you mean", "verl-v1"):
        audit(path, trainer="verl-v2")
    with raises(gs.InputError, "no rollouts of trl", "keys gts, input, output, score, step"):
        audit(path, trainer="trl")


def test_rows_that_are_not_of_the_format_that_was_named_are_refused(audit: Audit, log: Log, legacy: Row) -> None:
    with raises(gs.NothingScanned, "refused 2", "line 1", "`uid` is missing"):
        audit(log([legacy(), legacy()]), trainer="verl-v1")


def test_an_unknown_field_in_the_rule_is_answered_with_those_of_the_log(audit: Audit, log: Log, legacy: Row) -> None:
    path = log([legacy(format=0.5, pred="four")])
    with raises(gs.UnknownName, "unknown field", "'acc'", "format, reward, score"):
        audit(path, correct="acc")
    with raises(gs.CorrectnessError, "`pred` holds no numbers", "format, reward, score"):
        audit(path, correct="pred")


@pytest.mark.parametrize("rule", ["", "  ", "score>=", "score=>1", ">=1", "score>=one", "score>=nan", "score<inf"])
def test_a_rule_without_meaning_is_refused_with_an_example(rule: str, audit: Audit, log: Log, legacy: Row) -> None:
    with raises(gs.CorrectnessError, "the rule", "--correct", "score>=1"):
        audit(log([legacy()]), correct=rule)


def test_a_rule_is_reported_with_all_its_digits(audit: Audit, log: Log, legacy: Row) -> None:
    report = audit(log([legacy(score=0.12345678), legacy(score=0.12345679)]), correct="score >= 0.12345679")
    assert (report.correctness.rule, report["accuracy"].value) == ("score>=0.12345679", 0.5)


@pytest.mark.parametrize("scores", [(0.1, 1.1, -1, 0.1), (-1, 1), (0, 1, 2), (0.0, 0.5)])
def test_a_shaped_reward_is_not_taken_for_correctness(
    scores: tuple[float, ...], audit: Audit, log: Log, legacy: Row
) -> None:
    report = audit(log([legacy(score=score) for score in scores]))
    assert (report.correctness.chosen, report.correctness.rule) == ("undefined", None)
    message, hint = report.correctness.message or "", report.correctness.hint or ""
    assert all(f"{score:g} (" in message for score in scores)
    assert "--correct 'score>=1'" in hint
    for name in ("accuracy", "all_wrong_tool_group_rate", "group_all_wrong_rate", "pass_at_k[1]"):
        assert (report[name].value, report[name].reason) == (None, "correctness_undefined")
    with raises(gs.CorrectnessError, "`score` holds other values than 0 and 1", f"{scores[0]:g} (", "score>=1"):
        audit(log([legacy(score=score) for score in scores]), correct="score")


# --- Stores ----------------------------------------------------------------------------------------------


def foreign_duckdb(path: Path) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE mine (a INTEGER)")


def sqlite(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE mine (a INTEGER)")
    connection.commit()
    connection.close()


def newer_store(path: Path) -> None:
    gs.ingest([str(SAMPLES / "verl-v1")], gs.ReadOptions(jobs=1), into=path).close()
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE about SET value = 'gapscope.store/2' WHERE key = 'format'")


STORES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "a DuckDB database of others": (foreign_duckdb, ("run.duckdb is a DuckDB database and no gapscope store",)),
    "an SQLite database": (sqlite, ("run.duckdb is no DuckDB database", "left as it is")),
    "a store of a newer gapscope": (newer_store, ("format gapscope.store/2", "reads gapscope.store/1", "new file")),
    "a text": (lambda path: path.write_text("hello"), ("run.duckdb is no DuckDB database",)),
    "an empty file": (lambda path: path.write_text(""), ("run.duckdb is no DuckDB database",)),
    "a folder": (lambda path: path.mkdir(), ("run.duckdb cannot be opened as a store", "directory")),
}


@pytest.mark.parametrize("name", STORES)
def test_what_is_no_store_is_neither_read_nor_written(name: str, audit: Audit, tmp_path: Path) -> None:
    make, words = STORES[name]
    path = tmp_path / "run.duckdb"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with raises(gs.StoreError, *words):
        audit(path)
    with raises(gs.StoreError, *words):
        gs.ingest([str(SAMPLES / "verl-v1")], gs.ReadOptions(jobs=1), into=path)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_store_that_is_not_there_is_not_made_by_reading_it(audit: Audit, tmp_path: Path) -> None:
    with raises(gs.StoreError, "no store at", "gapscope ingest"):
        audit(tmp_path / "run.duckdb")
    with raises(gs.StoreError, "missing/run.duckdb cannot be opened as a store", "No such file or directory"):
        gs.ingest([str(SAMPLES / "verl-v1")], gs.ReadOptions(jobs=1), into=tmp_path / "missing" / "run.duckdb")
    assert list(tmp_path.iterdir()) == []


def test_a_store_keeps_the_groups_that_it_was_made_with(audit: Audit, log: Log, legacy: Row, tmp_path: Path) -> None:
    path, store = log([legacy(q="a"), legacy(q="a")]), tmp_path / "run.duckdb"
    gs.ingest([str(path)], gs.ReadOptions(jobs=1, group="q"), into=store).close()
    assert audit(store, group="q").groups.sizes == {"2": 1}
    with raises(gs.StoreError, "was grouped by q", "--group gts"):
        audit(store, group="gts")
    with raises(gs.StoreError, "grouped by q, not by the default key", "a new file"):
        gs.ingest([str(path)], gs.ReadOptions(jobs=1), into=store)


def test_a_database_that_was_killed_before_it_had_tables_becomes_a_store(audit: Audit, tmp_path: Path) -> None:
    store = tmp_path / "run.duckdb"
    duckdb.connect(str(store)).close()
    gs.ingest([str(SAMPLES / "verl-v1")], gs.ReadOptions(jobs=1), into=store).close()
    assert counts(audit(store)) == {"read": 32, "kept": 32}


# --- The command line ------------------------------------------------------------------------------------


def command(*arguments: object) -> tuple[list[str], dict[str, str]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}
    return [sys.executable, "-m", "gapscope", *map(str, arguments)], environment


@pytest.mark.parametrize(
    ("content", "flags", "words"),
    [
        (b"", [], "an empty file"),
        (NO_LOGS["noise"][0], [], "binary data"),
        (json_row(score="0.5") + b"\n" + json_row(score="-1"), [], "--correct 'score>=1'"),
        (json_row(), ["--correct", "accuracy"], "unknown field"),
        (
            json_row() + b"\n" + ODD_ROWS["lists in lists, just readable"].line,
            ["--group", "question"],
            "unknown field",
        ),
    ],
    ids=["empty", "noise", "shaped", "unknown field", "unknown group"],
)
def test_the_command_says_what_is_wrong_and_exits_with_2(
    content: bytes, flags: list[str], words: str, log: Log
) -> None:
    result = gapscope("audit", log(content), *flags)
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr + result.stdout


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_the_command_reads_standard_input(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    content = compress((SAMPLES / "verl-v1" / "6.jsonl").read_bytes())
    line, environment = command("audit", "-", "--format", "json", "-o", tmp_path / "report.json")
    result = subprocess.run(line, env=environment, input=content, capture_output=True, check=False, timeout=60)
    assert (result.returncode, b"Traceback" in result.stderr) == (0, False)
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["rows"]["kept"] == 32


# --- Killed in the middle --------------------------------------------------------------------------------


def thirty_megabytes(folder: Path) -> int:
    """Eight copies of the sample run under other names; the number of their rows."""
    folder.mkdir()
    lines = [line for path in (SAMPLES / "collapse").iterdir() for line in path.read_bytes().splitlines(keepends=True)]
    for copy in range(8):
        renamed = (line.replace(b'"uid": "', b'"uid": "%d' % copy) for line in lines)
        (folder / f"part-{'abcdefgh'[copy]}.jsonl").write_bytes(b"".join(renamed))
    return 8 * len(lines)


@pytest.fixture
def killed_at() -> Iterator[float]:
    """Seconds after which a process is killed."""
    rng = random.Random(5)
    return iter([rng.uniform(0.3, 1.9) for _ in range(5)])


@pytest.mark.slow
def test_an_ingest_that_is_killed_leaves_the_last_good_store(tmp_path: Path, killed_at: Iterator[float]) -> None:
    logs, store = tmp_path / "logs", tmp_path / "run.duckdb"
    rows = thirty_megabytes(logs)
    shutil.copy(SAMPLES / "verl-v1" / "6.jsonl", tmp_path / "6.jsonl")
    gs.ingest([str(tmp_path / "6.jsonl")], gs.ReadOptions(jobs=1), into=store).close()
    line, environment = command("ingest", logs, "-o", store)
    for seconds in killed_at:
        process = subprocess.Popen(line, env=environment, stderr=subprocess.PIPE)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
        assert b"Traceback" not in said
        with gs.open_store(store) as opened:
            ((found, files),) = opened.rows("SELECT count(*), count(DISTINCT file) FROM rollouts")
        assert (found, files) in {(32, 1), (32 + rows, 9)}
    subprocess.run(line, env=environment, stderr=subprocess.PIPE, check=True)
    with gs.open_store(store) as opened:
        assert opened.rows("SELECT count(*), count(DISTINCT file) FROM rollouts") == [(32 + rows, 9)]
