"""`gapscope resample` and `gapscope axpo` against a real vLLM server, with a policy whose calls are sometimes right."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny_adder_log
from command_line import gapscope

import gapscope as gs
from gapscope.rollouts import Rollout, Tokens

pytestmark = pytest.mark.vllm

SHARED = Path(tiny_adder_log.__file__).parent
GIVEN = ("--model", "tiny", "--tools", "add=tiny_adder:add", "--tools", "python", "--reward", "exact_match")
FEW = ("--limit", "5", "--concurrency", "1")

WITHIN = 1e-3
"""Nats, between the log-prob of a token when it was sampled and when it was scored: see test_score.py."""


def resample(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return gapscope("resample", *arguments, *GIVEN, cwd=SHARED)


def rollouts_of(path: Path) -> list[Rollout]:
    return [record for record in gs.read(path) if isinstance(record, Rollout)]


def continuations_of(path: Path) -> list[Rollout]:
    return [rollout for rollout in rollouts_of(path) if rollout.parent is not None]


def tokens_of(rollout: Rollout) -> Tokens:
    assert rollout.tokens is not None
    return rollout.tokens


class Resampled(NamedTuple):
    """The output of a run of the whole plan, and what it said."""

    path: Path
    said: str


@pytest.fixture(scope="session")
def resampled(vllm_server: Any, text_plan: Any) -> Resampled:
    output = text_plan.path.with_name("resampled.jsonl")
    ran = resample(text_plan.path, "--endpoint", vllm_server.url, "-o", output)
    assert ran.returncode == 0, ran.stderr
    return Resampled(output, ran.stderr)


@pytest.fixture(scope="session")
def one_by_one(vllm_server: Any, text_plan: Any) -> bytes:
    """The output of a run of a part of the plan, in which each request is alone on the server."""
    output: Path = text_plan.path.with_name("alone.jsonl")
    ran = resample(text_plan.path, "--endpoint", vllm_server.url, "-o", output, *FEW)
    assert ran.returncode == 0, ran.stderr
    return output.read_bytes()


def test_the_policy_is_one_whose_calls_are_sometimes_right(text_plan: Any, capsys: pytest.CaptureFixture[str]) -> None:
    report = gs.audit(text_plan.log)
    tried, wrong = report["tool_attempt_rate"], report["all_wrong_tool_group_rate"]
    sampled = rollouts_of(text_plan.log)
    using = [rollout for rollout in sampled if rollout.calls]
    right = sum(rollout.correct is True for rollout in using) / len(using)
    with capsys.disabled():
        print(
            f"\n{len(sampled)} rollouts: tools tried on {tried.value:.0%}, right on {right:.0%} of these; "
            f"all wrong in {wrong.value:.0%} of {wrong.n} groups: {len(text_plan.plan.prefixes)} prefixes planned"
        )
    assert 0.3 <= (tried.value or 0) <= 0.7
    assert 0.1 <= right <= 0.6
    assert len(text_plan.plan.prefixes) >= 6
    assert all(prefix.prefix.exact for prefix in text_plan.plan.prefixes)


def test_every_continuation_goes_on_from_the_very_tokens_of_its_prefix(
    vllm_server: Any, text_plan: Any, resampled: Resampled
) -> None:
    by_id = {prefix.id: prefix for prefix in text_plan.plan.prefixes}
    largest, count = 0.0, 0
    for rollout in continuations_of(resampled.path):
        if rollout.status == "excluded":
            continue
        tokens, prefix = tokens_of(rollout), by_id[str(rollout.group_id)].prefix
        assert rollout.extra == {"continued": "token_exact"}
        assert tokens.ids is not None
        assert prefix.token_ids is not None
        assert tokens.ids[: len(prefix.token_ids)] == prefix.token_ids
        # What the server says of the same tokens as a prompt is what it said when it sampled them after the prefix:
        # any other token before them would give other numbers.
        answer = vllm_server.post("/v1/completions", prompt=tokens.ids, max_tokens=1, prompt_logprobs=0)
        again = answer["choices"][0]["prompt_logprobs"]
        for place, (token, then) in enumerate(zip(tokens.ids, tokens.logprobs or [], strict=True)):
            if then is not None:
                largest, count = max(largest, abs(again[place][str(token)]["logprob"] - then)), count + 1
    print(f"{count:,} sampled tokens: largest difference {largest:.2g}")
    assert count > 500
    assert largest <= WITHIN


def test_one_request_for_k_samples_gives_the_same_first_turns(
    vllm_server: Any, text_plan: Any, one_by_one: bytes, tmp_path: Path
) -> None:
    (tmp_path / "log.jsonl").write_bytes(one_by_one)
    found = {rollout.rollout_id: tokens_of(rollout) for rollout in continuations_of(tmp_path / "log.jsonl")}
    for prefix in text_plan.plan.prefixes[:2]:
        frozen = prefix.prefix.token_ids or []
        body = {"prompt": frozen, "n": prefix.k, "seed": prefix.seeds[0], "max_tokens": prefix.remaining_tokens}
        answer = vllm_server.post("/v1/completions", **body, temperature=1.0, return_token_ids=True)
        for index, choice in enumerate(answer["choices"]):
            ids = found[f"{prefix.id}:{index}"].ids or []
            assert ids[len(frozen) :][: len(choice["token_ids"])] == choice["token_ids"]


def test_the_same_plan_gives_the_same_tokens_again(
    vllm_server: Any, text_plan: Any, one_by_one: bytes, tmp_path: Path
) -> None:
    ran = resample(text_plan.path, "--endpoint", vllm_server.url, "-o", tmp_path / "again.jsonl", *FEW)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "again.jsonl").read_bytes() == one_by_one


def test_calls_are_executed_and_what_they_answer_is_read_by_the_policy(
    text_plan: Any, resampled: Resampled, capsys: pytest.CaptureFixture[str]
) -> None:
    tools: Counter[str] = Counter()
    for rollout in continuations_of(resampled.path):
        for call in rollout.calls:
            if call.outcome == "executed_ok":
                assert call.name is not None
                assert call.result == tiny_adder_log.result_of(call.name, call.arguments)
                tools[call.name] += 1
    assert set(tools) == set(tiny_adder_log.TOOLS)
    assert "written so, 32 of 32 answers of the log are its own tokens" in resampled.said
    with capsys.disabled():
        print(f"\n{resampled.said}")


def test_most_of_the_time_is_the_servers(resampled: Resampled) -> None:
    share = re.search(r"([\d.]+)% of the time our own", resampled.said)
    assert share is not None
    assert float(share[1]) < 25


def test_the_verdicts_are_those_of_the_answers(resampled: Resampled) -> None:
    verdicts = Counter(rollout.correct for rollout in continuations_of(resampled.path))
    for rollout in continuations_of(resampled.path):
        if rollout.correct is not None:
            last = (rollout.output or "").split("<|im_start|>assistant\n")[-1]
            said = last.rsplit("</tool_call>", 1)[-1].removesuffix("<|im_end|>").strip()
            assert rollout.correct == (said == rollout.ground_truth)
    assert verdicts[True] > 0
    assert verdicts[False] > 0


def test_the_log_can_be_audited_trained_on_and_says_what_recovered(
    text_plan: Any, resampled: Resampled, tmp_path: Path
) -> None:
    report = gs.audit(resampled.path)
    assert report["alignment_coverage"].value == 1.0
    assert report["tool_attempt_rate"].value == gs.audit(text_plan.log)["tool_attempt_rate"].value
    recovered = gapscope("recovery", resampled.path, "--plan", text_plan.path, cwd=SHARED)
    assert recovered.returncode == 0, recovered.stderr
    share = re.search(r"prefixes recovered: ([\d.]+ %)", resampled.said)
    assert share is not None
    assert share[1] in recovered.stdout
    exported = gapscope("export", resampled.path, "--for", "verl", "-o", tmp_path / "batch", cwd=SHARED)
    assert exported.returncode == 0, exported.stderr


def test_a_run_killed_again_and_again_loses_and_doubles_nothing(
    vllm_server: Any, text_plan: Any, one_by_one: bytes, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    journal = tmp_path / "out.jsonl.journal"
    arguments = ("resample", text_plan.path, "--endpoint", vllm_server.url, "-o", output, *GIVEN, *FEW, "--resume")
    command = [sys.executable, "-m", "gapscope", *map(str, arguments)]
    # The first line of a journal says what is run.
    for enough in (1, 6, 13):
        process = subprocess.Popen(command, cwd=SHARED, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end:
            if journal.exists() and journal.read_bytes().count(b"\n") >= enough:
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.01)
        assert process.wait() == -signal.SIGKILL
        assert not output.exists()
    last = gapscope(*arguments, cwd=SHARED)
    assert re.search(r"1\d were there from an earlier run", last.stderr), last.stderr
    assert output.read_bytes() == one_by_one
    entries = [json.loads(line) for line in journal.read_bytes().splitlines()][1:]
    keys = [(prefix.id, index) for prefix in text_plan.plan.prefixes[:5] for index in range(prefix.k)]
    assert [(entry["prefix"], entry["index"]) for entry in entries if entry["lost"] is None] == keys


def test_one_command_goes_from_a_log_to_a_recovery_rate_with_its_interval(
    vllm_server: Any, text_plan: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = gapscope(
        "axpo", text_plan.log, "--endpoint", vllm_server.url, *GIVEN, "--max-turns", 3, "--max-tokens", 300,
        "-o", tmp_path / "axpo", cwd=SHARED,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert {path.name for path in (tmp_path / "axpo").iterdir()} >= {
        "audit.json", "plan.jsonl", "resampled.jsonl", "recovery.json",
    }  # fmt: skip
    with capsys.disabled():
        print("\n" + "\n".join(ran.stdout.splitlines()[:2]))
    assert re.search(r"\d+ of \d+ prefixes recovered: [\d.]+ % \(95 % [\d.]+–[\d.]+ %\)", ran.stderr), ran.stderr
    assert "95 %" in ran.stdout


def test_nothing_of_a_run_is_left_on_the_server(vllm_server: Any, resampled: Resampled) -> None:
    import httpx

    metrics = httpx.get(f"{vllm_server.url}/metrics", timeout=30).text
    running = [line for line in metrics.splitlines() if line.startswith("vllm:num_requests_running")]
    assert [float(line.split()[-1]) for line in running] == [0.0]
