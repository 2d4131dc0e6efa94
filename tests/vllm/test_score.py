"""`gapscope score` against a real vLLM server: the numbers it gives are those with which the server sampled."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from samples import SAMPLE_OF

import gapscope as gs
from gapscope.recorders import RolloutWriter
from gapscope.rollouts import Image, Rollout, Source, Span, Tokens, Turn

pytestmark = pytest.mark.vllm

ROLLOUTS = 96
LONGEST = 160
CONTEXT = 2048

WITHIN = 1e-3
"""Nats, between the log-prob of a token when it was sampled and when it was scored.

In single precision, as served here, no difference at all was found for 2,506 tokens. In bfloat16, what else is
in the batch has been seen to move a log-prob by up to 0.016: there a server differs from itself by more than this.
"""


def gapscope(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gapscope", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def rollouts_of(path: Path) -> list[Rollout]:
    return [record for record in gs.read(path) if isinstance(record, Rollout)]


@pytest.fixture(scope="session")
def sampled(vllm_server: Any) -> list[Rollout]:
    """Rollouts of eight to a question, sampled at temperature 1, several at once, with log-probs."""
    made: list[Rollout] = []
    for question in range(ROLLOUTS // 8):
        messages = [{"role": "user", "content": f"What is {question} + {question + 1}?"}]
        prompt = vllm_server.post("/tokenize", messages=messages, add_generation_prompt=True)["tokens"]
        answer = vllm_server.post(
            "/v1/completions", prompt=prompt, n=8, seed=question, temperature=1.0, max_tokens=LONGEST, logprobs=0,
            return_token_ids=True, skip_special_tokens=False,
        )  # fmt: skip
        for index, choice in enumerate(answer["choices"]):
            ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            assert len(ids) == len(logprobs)
            made.append(
                Rollout(
                    format="test",
                    source=Source("sampled", len(made) + 1),
                    rollout_id=f"{question}-{index}",
                    step=question // 2,
                    group_id=str(question),
                    sample_index=index,
                    reward=float(str(2 * question + 1) in choice["text"]),
                    messages=messages,
                    output=choice["text"],
                    turns=[Turn(0)],
                    spans=[Span("text", 0, 0, len(choice["text"]), sampled=True)],
                    tokens=Tokens(
                        prompt + ids,
                        len(prompt),
                        sampled=[False] * len(prompt) + [True] * len(ids),
                        logprobs=[None] * len(prompt) + logprobs,
                        logprob_source="rollout",
                    ),
                )
            )
    return made


def stripped(rollout: Rollout, **changes: Any) -> Rollout:
    """The rollout as a trainer that logs no log-probs would have written it."""
    fields = {name: getattr(rollout, name) for name in rollout.__struct_fields__}
    assert rollout.tokens is not None
    tokens = Tokens(rollout.tokens.ids, rollout.tokens.n_prompt, sampled=rollout.tokens.sampled)
    return Rollout(**(fields | {"tokens": tokens} | changes))


def write(path: Path, *rollouts: Rollout) -> Path:
    with RolloutWriter(path) as writer:
        writer.write(*rollouts)
    return path


def test_scored_log_probs_are_those_given_when_sampling(
    vllm_server: Any, sampled: list[Rollout], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write(tmp_path / "log.jsonl", *map(stripped, sampled))
    result = gapscope("score", log, "--endpoint", vllm_server.url, "--model", "tiny")
    assert result.returncode == 0, result.stderr
    largest, count = 0.0, 0
    for before, after in zip(sampled, rollouts_of(tmp_path / "log.scored.jsonl"), strict=True):
        assert before.tokens is not None
        assert after.tokens is not None
        assert after.tokens.ids == before.tokens.ids
        assert after.tokens.scored_by == "tiny"
        for then, now in zip(before.tokens.logprobs or [], after.tokens.logprobs or [], strict=True):
            assert (then is None) == (now is None)
            if then is not None and now is not None:
                largest, count = max(largest, abs(then - now)), count + 1
    with capsys.disabled():
        print(f"\n{count:,} tokens sampled 8 at once, scored 32 at once: largest difference {largest:.2g}")
        print(result.stderr)
    assert count > ROLLOUTS
    assert largest <= WITHIN


def test_the_server_is_found_to_be_the_policy_that_sampled(
    vllm_server: Any, sampled: list[Rollout], tmp_path: Path
) -> None:
    log = write(tmp_path / "log.jsonl", *sampled[:40], *map(stripped, sampled[40:]))
    result = gapscope("score", log, "--endpoint", vllm_server.url, "--model", "tiny")
    assert "tiny can be the policy that sampled: 0.00% of" in result.stderr
    assert "40 copied with the log-probs that they have" in result.stderr


def test_bounds_of_entropies_hold_the_surprisal_that_is_expected(
    vllm_server: Any, sampled: list[Rollout], tmp_path: Path
) -> None:
    log = write(tmp_path / "log.jsonl", *map(stripped, sampled))
    result = gapscope("score", log, "--endpoint", vllm_server.url, "--model", "tiny", "--top-k", "20")
    assert result.returncode == 0, result.stderr
    lowers, uppers, surprisals = [], [], []
    for rollout in rollouts_of(tmp_path / "log.scored.jsonl"):
        tokens = rollout.tokens
        assert tokens is not None
        assert tokens.entropy_uppers is not None, "the server did not say how large its vocabulary is"
        for lower, upper, p in zip(tokens.entropies or [], tokens.entropy_uppers, tokens.logprobs or [], strict=True):
            if lower is not None and upper is not None and p is not None:
                assert 0 <= lower <= upper
                lowers.append(lower)
                uppers.append(upper)
                surprisals.append(-p)
    # The mean of −ln p of tokens sampled at temperature 1 estimates the mean entropy: over thousands, within a tenth.
    mean = sum(surprisals) / len(surprisals)
    assert 0.9 * sum(lowers) / len(lowers) <= mean <= 1.1 * sum(uppers) / len(uppers)


def test_text_alone_is_tokenised_by_the_server_stretch_by_stretch(vllm_server: Any, tmp_path: Path) -> None:
    call = '<think>\nI add 1 and 2.\n</think>\n\n<tool_call>\n{"name": "add"}\n</tool_call>'
    parts = [(call, True), ("<tool_response>\n3\n</tool_response>", False), ("The answer is 3.", True)]
    spans, position = [], 0
    for text, own in parts:
        spans.append(Span("text" if own else "tool_result", 0, position, position + len(text), sampled=own))
        position += len(text)
    messages = [{"role": "user", "content": "What is 1 + 2?"}]
    output = "".join(text for text, _ in parts)
    rollout = Rollout(format="test", source=Source("text", 1), messages=messages, output=output, spans=spans)
    log = write(tmp_path / "log.jsonl", rollout)
    result = gapscope("score", log, "--endpoint", vllm_server.url, "--model", "tiny")
    assert "1 of 1 had no token ids" in result.stderr
    pieces = [vllm_server.post("/tokenize", prompt=text, add_special_tokens=False)["tokens"] for text, _ in parts]
    prompt = vllm_server.post("/tokenize", messages=messages, add_generation_prompt=True)["tokens"]
    (scored,) = rollouts_of(tmp_path / "log.scored.jsonl")
    assert scored.tokens is not None
    assert scored.tokens.retokenised
    assert scored.tokens.ids == prompt + [token for piece in pieces for token in piece]
    assert scored.tokens.sampled == [False] * len(prompt) + [
        own for piece, (_, own) in zip(pieces, parts, strict=True) for _ in piece
    ]
    # The server's spelling of the tokens gives each span its own.
    assert [span.token_end for span in scored.spans] == [
        len(prompt) + sum(map(len, pieces[: count + 1])) for count in range(len(pieces))
    ]


def test_images_and_rollouts_that_are_too_long_are_copied_and_counted(
    vllm_server: Any, sampled: list[Rollout], tmp_path: Path
) -> None:
    assert sampled[1].tokens is not None
    n_prompt = sampled[1].tokens.n_prompt or 0
    long = Tokens([5] * CONTEXT, n_prompt, sampled=[False] * n_prompt + [True] * (CONTEXT - n_prompt))
    unknown = Tokens([5, 10_000], 1, sampled=[False, True])
    log = write(
        tmp_path / "log.jsonl",
        stripped(sampled[0], images=[Image("0" * 64)]),
        stripped(sampled[1], tokens=long),
        stripped(sampled[2], tokens=unknown),
        stripped(sampled[3]),
    )
    result = gapscope("score", log, "--endpoint", vllm_server.url, "--model", "tiny")
    assert result.returncode == 0, result.stderr
    assert "1 copied unscored: they have images, which /v1/completions ignores" in result.stderr
    assert "1 copied unscored: longer than the model's context" in result.stderr
    assert "1 copied unscored: token ids beyond the model's vocabulary" in result.stderr
    scored = [
        rollout.tokens is not None and rollout.tokens.scored_by
        for rollout in rollouts_of(tmp_path / "log.scored.jsonl")
    ]
    assert scored == [None, None, None, "tiny"]


def test_a_model_that_the_server_does_not_have_is_refused(
    vllm_server: Any, sampled: list[Rollout], tmp_path: Path
) -> None:
    log = write(tmp_path / "log.jsonl", stripped(sampled[0]))
    result = gapscope("score", log, "--endpoint", vllm_server.url, "--model", "huge")
    assert result.returncode == 2
    assert "unknown model 'huge'" in result.stderr
    assert "Known: tiny" in result.stderr


def synthetic(number: int, length: int, *, text: str = "?") -> Rollout:
    """Tokens drawn evenly, which cost the server as much as any others; `text` costs it nothing."""
    numbers = random.Random(number)
    ids = [numbers.randrange(300) for _ in range(length)]
    return Rollout(
        format="test",
        source=Source("synthetic", number + 1),
        rollout_id=str(number),
        group_id=str(number // 8),
        sample_index=number % 8,
        reward=0.0,
        prompt=text,
        tokens=Tokens(ids, 16, sampled=[False] * 16 + [True] * (length - 16)),
    )


def test_a_run_killed_again_and_again_loses_and_doubles_nothing(vllm_server: Any, tmp_path: Path) -> None:
    log = write(tmp_path / "log.jsonl", *(synthetic(number, 200) for number in range(120)))
    output = tmp_path / "log.scored.jsonl"
    command = [sys.executable, "-m", "gapscope", "score", log, "--endpoint", vllm_server.url, "--model", "tiny"]
    for enough in (15, 50, 90):
        process = subprocess.Popen([*command, "--concurrency", "8"], stderr=subprocess.DEVNULL)
        end = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end:
            if output.exists() and output.read_bytes().count(b"\n") >= enough:
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.01)
        assert process.wait() == -signal.SIGKILL
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.search(r"\d\d were there from an earlier run", result.stderr), result.stderr
    written = rollouts_of(output)
    assert [rollout.rollout_id for rollout in written] == [str(number) for number in range(120)]
    assert all(rollout.tokens is not None and rollout.tokens.scored_by == "tiny" for rollout in written)


# `ru_maxrss` would not do: a process begins with the one of the process that has started it.
MEASURED = """
import asyncio, json, re, sys
import gapscope as gs
from gapscope.axpo.score import score
result = asyncio.run(score(sys.argv[1], endpoint=sys.argv[2], model="tiny", settings=gs.Settings()))
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
print(json.dumps([result.tokens, result.seconds, result.client_share, peak / 1024]))
"""


def measured(url: str, log: Path) -> tuple[float, float]:
    """The share of the time that is the client's, and its memory in MB."""
    result = subprocess.run([sys.executable, "-c", MEASURED, log, url], capture_output=True, text=True, check=True)
    tokens, seconds, share, memory = json.loads(result.stdout)
    print(
        f"\n{log.stat().st_size / 2**20:.1f} MB: {tokens:,} tokens in {seconds:.1f} s, "
        f"{tokens / seconds:,.0f} tokens/s, {share:.1%} of the time our own, {memory:.0f} MB of memory"
    )
    return share, memory


def test_the_server_is_kept_busy(vllm_server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write(tmp_path / "log.jsonl", *(synthetic(number, 800) for number in range(48)))
    with capsys.disabled():
        share, _ = measured(vllm_server.url, log)
    assert share <= 0.05


def test_memory_does_not_grow_with_the_log(
    vllm_server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    # The first log is longer than what may be in flight.
    for size in (200, 600):
        log = write(tmp_path / f"{size}.jsonl", *(synthetic(number, 20, text="?" * 2**17) for number in range(size)))
        with capsys.disabled():
            found.append(measured(vllm_server.url, log)[1])
    small, large = found
    assert large <= small + 16


def test_the_server_does_not_run_out_of_what_it_was_asked(vllm_server: Any) -> None:
    metrics = httpx.get(f"{vllm_server.url}/metrics", timeout=30).text
    waiting = [line for line in metrics.splitlines() if line.startswith("vllm:num_requests_running")]
    assert [float(line.split()[-1]) for line in waiting] == [0.0]


def test_a_log_of_messages_is_written_by_the_servers_template(vllm_server: Any, tmp_path: Path) -> None:
    scored = tmp_path / "scored.jsonl"
    result = gapscope("score", SAMPLE_OF["trl"], "--endpoint", vllm_server.url, "--model", "tiny", "-o", scored)
    assert "32 of them scored" in result.stderr, result.stderr
    report = gs.audit(scored, correct="accuracy_reward>=1")
    assert report["alignment_coverage"].value == 1.0
    assert report["prefix_exact_share"].value == 0.0
    assert report.tokens.scored_by == {"tiny": 32}
