"""Logs with tokens on their way into a store: statistics by hand, what is kept, and what is said where they are bad."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_tokenizer import byte_level
from tokenizers import Tokenizer
from typer.testing import CliRunner

import gapscope as gs
from gapscope.axpo.prefixes import Confidence, prefixes
from gapscope.cli import app
from gapscope.errors import StoreError, TokenizerError
from gapscope.ingest import ingest
from gapscope.store import batch
from gapscope.store.store import Store

CALL = '{"name": "calc", "arguments": {"expr": "37*48"}}'
TOOL = f"<think>hmm</think><tool_call>{CALL}</tool_call>"
PLAIN = "<think>hmm</think><answer>7</answer>"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    byte_level(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def log(model: Path, tmp_path: Path) -> Callable[..., Path]:
    """A log of rollouts with token ids and one probability for every token of the call, another for all others."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))

    def write(*rollouts: dict[str, Any]) -> Path:
        path = tmp_path / "log" / "rollouts.jsonl"
        path.parent.mkdir(exist_ok=True)
        rows = []
        for number, given in enumerate(rollouts):
            output = given.get("output", TOOL)
            prompt, ids = tokenizer.encode("Q").ids, tokenizer.encode(output).ids
            spelled = [tokenizer.decode([token], skip_special_tokens=False) for token in ids]
            called = range(spelled.index("<tool_call>"), spelled.index("</tool_call>") + 1) if output == TOOL else ()
            logprobs = [math.log(given.get("p", 0.5) if at in called else 0.8) for at in range(len(ids))]
            tokens = {
                "ids": prompt + ids, "n_prompt": len(prompt), "sampled": [False] * len(prompt) + [True] * len(ids),
                "logprobs": [0.0] * len(prompt) + logprobs, "logprob_source": "rollout",
            } | given.get("tokens", {})  # fmt: skip
            rows.append(
                {
                    "schema": "gapscope.rollout/1", "format": "test", "source": {"file": "x", "line": number + 1},
                    "rollout_id": str(number), "group_id": given.get("group", "g"), "step": 1, "prompt": "Q",
                    "output": output, "correct": given.get("correct", False), "correct_rule": "test",
                    "spans": _spans(output), "calls": _calls(output),
                    "turns": [{"index": 0}], "tokens": {k: v for k, v in tokens.items() if v is not ...},
                },
            )  # fmt: skip
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def _spans(output: str) -> list[dict[str, Any]]:
    cut = len("<think>hmm</think>")
    kind = "tool_call" if output == TOOL else "answer"
    common = {"turn": 0, "sampled": True}
    return [
        {"kind": "think", "start": 0, "end": cut, **common},
        {"kind": kind, "start": cut, "end": len(output), **common},
    ]


def _calls(output: str) -> list[dict[str, Any]]:
    if output != TOOL:
        return []
    return [
        {
            "index": 0, "turn": 0, "span": 1, "raw": CALL, "name": "calc", "arguments": {"expr": "37*48"},
            "opened": True, "closed": True, "parsed": True, "executed": False, "in_think": False,
            "outcome": "no_result", "body_start": output.index(CALL),
        },
    ]  # fmt: skip


def opened(path: Path, **options: Any) -> Store:
    return ingest([path], gs.ReadOptions(jobs=1, **options))


def test_the_numbers_of_a_call_are_those_of_the_log(log: Callable[..., Path], model: Path) -> None:
    with opened(log({"p": 0.5}), tokenizer=str(model)) as store:
        ((tokens, scored, mean, geometric, surprisal, least),) = store.rows("""
            SELECT tokens, scored, prob_mean, prob_geometric_mean, surprisal_mean, logprob_min FROM span_tokens
            WHERE kind = 'tool_call'
        """)
        assert tokens == scored > 5
        assert mean == pytest.approx(0.5, abs=1e-12)
        assert geometric == pytest.approx(0.5, abs=1e-12)
        assert surprisal == pytest.approx(math.log(2), abs=1e-12)
        assert least == pytest.approx(math.log(0.5), abs=1e-12)
        ((think,),) = store.rows("SELECT prob_mean FROM span_tokens WHERE kind = 'think'")
        assert think == pytest.approx(0.8, abs=1e-12)


def test_prefixes_are_ranked_by_how_sure_the_call_was(log: Callable[..., Path], model: Path) -> None:
    path = log({"p": 0.5}, {"p": 0.25}, {"output": PLAIN}, {"p": 0.9, "group": "h"})
    frame = prefixes(path, tokenizer=str(model))
    assert frame["confidence"].to_list() == pytest.approx([0.5, 0.25, 0.9], abs=1e-12)
    assert frame["exactness"].unique().to_list() == ["token_exact"]
    assert frame["first"].to_list() == [True] * 3
    # The first two were begun alike, and the third is of another group.
    assert frame["siblings"].to_list() == [1, 1, 0]
    assert frame["unusable"].null_count() == 3
    assert frame["characters"].to_list() == [TOOL.index(CALL)] * 3
    spelled = Tokenizer.from_file(str(model / "tokenizer.json")).encode("Q" + TOOL[: TOOL.index(CALL)]).ids
    assert frame["tokens"].to_list() == [len(spelled)] * 3


def test_the_variants_of_confidence_are_options(log: Callable[..., Path], model: Path) -> None:
    path = log({"p": 0.5})
    body = prefixes(path, tokenizer=str(model), confidence=Confidence(span="first_call_no_tags", mean="geometric"))
    assert body["confidence"].to_list() == pytest.approx([0.5], abs=1e-12)
    every = prefixes(path, tokenizer=str(model), confidence=Confidence(span="all_calls"))
    assert every["confidence"].to_list() == pytest.approx([0.5], abs=1e-12)


def test_without_a_tokenizer_a_prefix_is_text_and_says_why(log: Callable[..., Path]) -> None:
    frame = prefixes(log({"p": 0.5}, {"p": 0.25}))
    assert frame["exactness"].unique().to_list() == ["text_retokenised"]
    assert frame["unusable"].unique().to_list() == ["calls_unaligned"]
    assert frame["siblings"].to_list() == [1, 1]
    assert frame["confidence"].null_count() == 2


def test_arrays_are_kept_of_rollouts_that_a_plan_may_branch_from(
    log: Callable[..., Path], model: Path, tmp_path: Path
) -> None:
    path = log({"p": 0.5}, {"correct": True}, {"output": PLAIN})
    for tokens, kept in (("auto", ["0"]), ("all", ["0", "1", "2"]), ("none", [])):
        options = gs.ReadOptions(tokenizer=str(model), tokens=tokens, jobs=1)
        with gs.ingest([path], options, into=tmp_path / f"{tokens}.duckdb") as store:
            found = store.rows("SELECT rollout_id FROM token_arrays JOIN rollouts USING (id) ORDER BY rollout_id")
            assert [name for (name,) in found] == kept


def test_kept_arrays_are_the_ones_of_the_log(log: Callable[..., Path], model: Path, tmp_path: Path) -> None:
    path = log({"p": 0.5})
    row = json.loads(path.read_text())["tokens"]
    with gs.ingest([path], gs.ReadOptions(jobs=1), into=tmp_path / "run.duckdb") as store:
        ((n_prompt, ids, sampled, logprobs),) = store.rows("SELECT n_prompt, ids, sampled, logprobs FROM token_arrays")
    assert (n_prompt, ids, sampled, logprobs) == (row["n_prompt"], row["ids"], row["sampled"], row["logprobs"])


def test_arrays_of_another_length_refuse_the_row(log: Callable[..., Path]) -> None:
    with opened(log({"tokens": {"logprobs": [-0.5] * 200}}, {})) as store:
        ((reason,),) = store.rows("SELECT reason FROM refused")
        assert "`tokens.logprobs` has 200 values" in reason
        assert store.rows("SELECT count(*) FROM rollouts") == [(1,)]


def test_log_probs_above_zero_are_counted_and_not_used(log: Callable[..., Path], model: Path) -> None:
    path = log({})
    row = json.loads(path.read_text())
    row["tokens"]["logprobs"][-1] = 0.25
    path.write_text(json.dumps(row) + "\n")
    with opened(path, tokenizer=str(model)) as store:
        assert store.rows("SELECT note, rows FROM notes") == [("logprobs_above_zero", 1)]
        assert store.rows("SELECT logprob_tokens, scored FROM rollouts JOIN call_tokens USING (id)") == [(0, 0)]


def test_ids_beyond_the_tokenizer_leave_the_calls_unknown(log: Callable[..., Path], model: Path) -> None:
    path = log({})
    row = json.loads(path.read_text())
    row["tokens"]["ids"][-1] = 10**6
    path.write_text(json.dumps(row) + "\n")
    report = gs.audit(path, tokenizer=str(model))
    assert report["tool_confidence_mean"].value is None
    assert "does not have" in (report["tool_confidence_mean"].reason or "")


def test_a_store_keeps_to_its_tokenizer(log: Callable[..., Path], model: Path, tmp_path: Path) -> None:
    path, into = log({}), tmp_path / "run.duckdb"
    gs.ingest([path], gs.ReadOptions(tokenizer=str(model)), into=into).close()
    assert gs.audit(into)["tool_confidence_mean"].value == pytest.approx(0.5, abs=1e-12)
    byte_level(tmp_path / "other")
    with pytest.raises(StoreError, match="were spelled by"):
        gs.audit(into, tokenizer=str(tmp_path / "other"))
    with pytest.raises(StoreError, match="were spelled by"):
        gs.ingest([path], gs.ReadOptions(), into=into)


def test_a_tokenizer_that_is_not_there_stops_before_anything_is_read(log: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no tokenizer at"):
        gs.audit(log({}), tokenizer=str(tmp_path / "nowhere"))


def test_the_syntax_of_a_log_without_text_is_recognised_in_its_tokens(model: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    xml = "<tool_call>\n<function=calc>\n<parameter=expr>\n37*48\n</parameter>\n</function>\n</tool_call>"
    rows = []
    for number in range(4):
        prompt, ids = tokenizer.encode("Q").ids, tokenizer.encode(f"<think>hmm</think>{xml}").ids
        tokens = {"ids": prompt + ids, "n_prompt": len(prompt), "logprobs": [None] * len(prompt) + [-0.5] * len(ids)}
        source = {"file": "x", "line": number}
        rows.append({"schema": "gapscope.rollout/1", "format": "test", "source": source, "tokens": tokens})
    path = tmp_path / "tokens.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    blind, seeing = gs.audit(path), gs.audit(path, tokenizer=str(model))
    assert blind["tool_attempt_rate"].value is None
    assert seeing["tool_attempt_rate"].value == 1.0
    assert seeing.formats[0].dialect == "qwen3-coder"
    assert seeing["tool_confidence_mean"].value == pytest.approx(math.exp(-0.5), abs=1e-12)


def test_a_batch_is_full_by_the_tokens_that_it_keeps(
    log: Callable[..., Path], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = log(*({"p": 0.5} for _ in range(40)))
    whole = gs.ingest([path], gs.ReadOptions(tokenizer=str(model), jobs=1), into=tmp_path / "whole.duckdb")
    monkeypatch.setattr(batch, "BATCH_TOKENS", 100)
    parts = gs.ingest([path], gs.ReadOptions(tokenizer=str(model), jobs=1), into=tmp_path / "parts.duckdb")
    query = "SELECT r.line, a.* EXCLUDE (id) FROM token_arrays AS a JOIN rollouts AS r USING (id) ORDER BY line"
    with whole, parts:
        assert parts.rows(query) == whole.rows(query)
        assert len(parts.rows(query)) == 40


def test_the_commands_take_a_tokenizer_and_say_which_arrays_to_keep(
    log: Callable[..., Path], model: Path, tmp_path: Path
) -> None:
    path, store = str(log({"p": 0.5}, {"output": PLAIN})), str(tmp_path / "run.duckdb")
    given = ["--tokenizer", str(model)]
    ingested = CliRunner().invoke(app, ["ingest", path, "-o", store, "--tokens", "all", *given])
    assert ingested.exit_code == 0, ingested.output
    with gs.open_store(store) as opened_store:
        assert opened_store.rows("SELECT count(*) FROM token_arrays") == [(2,)]
    for command in (["audit", path, *given], ["audit", store], ["doctor", path, *given]):
        shown = CliRunner().invoke(app, command)
        assert shown.exit_code == 0, shown.output
    gate = ["gate", path, *given, "--min", "tool_confidence_mean=0.6", "--on-unobserved", "fail"]
    assert CliRunner().invoke(app, gate).exit_code == 1
    unknown = CliRunner().invoke(app, ["audit", path, "--tokenizer", str(tmp_path / "nowhere")])
    assert isinstance(unknown.exception, TokenizerError)
