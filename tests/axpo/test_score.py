"""`score` on a stand-in for the server: what is asked, what is written, what is copied, and how a run goes on."""

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import typer
from samples import SAMPLE_OF
from typer.testing import CliRunner
from vllm_double import BEGIN, CONTEXT, MODEL, VOCABULARY, Body, Double, Fault, Served, encoded, error, expected

import gapscope as gs
from gapscope.axpo.rendering import REWRITTEN, UNREADABLE, UNTOLD
from gapscope.axpo.score import PADDING, score
from gapscope.axpo.scoring import Scoring
from gapscope.axpo.teacher_forcing import IMAGES, NO_MASK, NO_PROMPT, NOTHING_SAMPLED, PROMPTLESS
from gapscope.cli import score as command
from gapscope.dialects import dialect_named
from gapscope.errors import CorrectnessError, EndpointError, SettingsError
from gapscope.recorders import RolloutWriter
from gapscope.rollouts import Image, RewardPart, Rollout, Source, Span, Tokens, ToolCall, to_json
from gapscope.rows import Reading
from gapscope.serving.transport import OTHER_TOKENS, TOO_LONG, UNKNOWN_ID
from gapscope.shapes.conversations import message_of, tell

PROMPT = [BEGIN, *encoded("1+1?"), BEGIN]


def rollout(number: int = 0, output: str = "It is 2.", *, tokens: Any = ..., **fields: Any) -> Rollout:
    """One rollout whose tokens are the characters of its text, without log-probs."""
    ids = PROMPT + encoded(output)
    if tokens is ...:
        tokens = Tokens(ids, len(PROMPT), sampled=[False] * len(PROMPT) + [True] * len(output))
    base: dict[str, Any] = {
        "format": "test",
        "source": Source("trainer.jsonl", number + 1),
        "rollout_id": str(number),
        "step": 0,
        "group_id": f"q{number // 2}",
        "sample_index": number % 2,
        "reward": 0.0,
        "prompt": "1+1?",
        "output": output,
        "spans": [Span("text", 0, 0, len(output), sampled=True)],
        "tokens": tokens,
    }
    return Rollout(**(base | fields))


def with_logprobs(number: int, shift: float = 0.0, **fields: Any) -> Rollout:
    """A rollout that has the log-probs of the policy that sampled it, which are the double's plus `shift`."""
    made = rollout(number, **fields)
    assert made.tokens is not None
    assert made.tokens.ids is not None
    own = [None if p is None else p + shift for p in expected(made.tokens.ids)]
    own[: len(PROMPT)] = [None] * len(PROMPT)
    made.tokens = msgspec.structs.replace(made.tokens, logprobs=own, logprob_source="rollout")
    return made


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def written(*rollouts: Rollout, name: str = "log.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(b"".join(to_json(item) + b"\n" for item in rollouts))
        return path

    return written


def run(log: Any, double: Callable[[httpx.Request], httpx.Response] | None = None, **options: Any) -> Scoring:
    """Score a log on the double."""
    transport = httpx.MockTransport(double or Double())
    known = {"endpoint": "http://double", "model": MODEL, "settings": gs.Settings(), "transport": transport}
    return asyncio.run(score(log, **(known | options)))


def lines(path: Path) -> list[Rollout]:
    return [record for record in gs.read(path) if isinstance(record, Rollout)]


def test_a_log_gets_the_log_probs_of_the_model_at_the_tokens_that_were_sampled(write: Callable[..., Path]) -> None:
    log = write(rollout(0), rollout(1, "3"))
    result = run(log)
    assert (result.scored, result.written, result.output) == (2, 2, log.with_name("log.scored.jsonl"))
    for record in lines(result.output):
        tokens = record.tokens
        assert tokens is not None
        assert tokens.ids is not None
        assert tokens.logprobs == [None] * len(PROMPT) + expected(tokens.ids)[len(PROMPT) :]
        assert (tokens.logprob_source, tokens.scored_by, tokens.retokenised) == ("rescored", MODEL, False)


def test_everything_else_of_a_rollout_is_written_as_it_was(write: Callable[..., Path]) -> None:
    original = rollout(0, reward_parts=[RewardPart("acc", 0.0)], ground_truth={"a": [1]}, extra={"k": "v"}, run="r1")
    (scored,) = lines(run(write(original)).output)
    scored.tokens, original.tokens = None, None
    span = scored.spans[0]
    assert (span.token_start, span.token_end) == (len(PROMPT), len(PROMPT) + len(original.output))
    scored.spans = original.spans
    assert scored.origin == original.source
    scored.source, scored.origin, original.group_origin = original.source, None, "logged"
    assert scored == original


def test_the_output_can_be_audited_and_has_the_groups_of_the_log(write: Callable[..., Path]) -> None:
    log = write(*(rollout(number, step=number // 4, reward=float(number % 3 == 0)) for number in range(8)))
    before, after = (gs.audit(str(path), settings=gs.Settings(min_groups=1)) for path in (log, run(log).output))
    assert (after.groups.groups, after.groups.sizes, after.steps, after.runs) == (4, {"2": 4}, [0, 1], before.runs)
    assert after.formats[0].carries["logprobs"] == 8


def test_rollouts_with_log_probs_keep_them(write: Callable[..., Path]) -> None:
    result = run(write(with_logprobs(0, shift=-1.0), rollout(1)))
    first, second = (record.tokens for record in lines(result.output))
    assert first is not None
    assert second is not None
    assert (result.kept, result.scored) == (1, 1)
    assert (first.logprob_source, first.scored_by, second.scored_by) == ("rollout", None, MODEL)
    assert first.logprobs is not None
    assert first.logprobs[-1] == pytest.approx((expected(PROMPT + encoded("It is 2."))[-1] or 0) - 1.0)


def test_bounds_of_entropies_come_from_the_likeliest_tokens(write: Callable[..., Path]) -> None:
    (record,) = lines(run(write(rollout(0, "A")), top_k=2).output)
    tokens = record.tokens
    assert tokens is not None
    assert tokens.entropies is not None
    assert tokens.entropy_uppers is not None
    # BEGIN is 1 and A is 65, 66 % 7 is 3: A has 1/5, each of the 255 others 4/5 of a 255th. Known are A and one more.
    other, rest = 0.8 / 255, 0.8 * 254 / 255
    partial = -0.2 * math.log(0.2) - other * math.log(other)
    assert tokens.entropy_kind == "topk"
    assert tokens.entropies[-1] == pytest.approx(partial - rest * math.log(rest))
    assert tokens.entropy_uppers[-1] == pytest.approx(partial - rest * math.log(rest / (VOCABULARY - 2)))
    assert tokens.entropies[:-1] == [None] * len(PROMPT)


def test_without_the_size_of_the_vocabulary_entropies_have_no_upper_bound(write: Callable[..., Path]) -> None:
    def silent(request: httpx.Request, body: Body) -> httpx.Response | None:
        return error(400, "no") if body.get("prompt_logprobs") == -1 else None

    (record,) = lines(run(write(rollout(0)), Double(silent), top_k=2).output)
    assert record.tokens is not None
    assert record.tokens.entropies is not None
    assert record.tokens.entropy_uppers is None


def test_text_without_ids_is_tokenised_by_the_server_and_marked(write: Callable[..., Path]) -> None:
    output = "<tool_call>\n{}\n</tool_call>4It is 4."
    spans = [
        Span("tool_call", 0, 0, 27, sampled=True),
        Span("tool_result", 0, 27, 28, sampled=False),
        Span("text", 1, 28, len(output), sampled=True),
    ]
    double = Double()
    result = run(write(rollout(0, output, tokens=None, spans=spans)), double)
    (record,) = lines(result.output)
    tokens = record.tokens
    assert tokens is not None
    assert (result.retokenised, tokens.retokenised, tokens.n_prompt) == (1, True, 4)
    assert tokens.ids == encoded("1+1?" + output)
    assert tokens.sampled == [False] * 4 + [True] * 27 + [False] + [True] * 8
    assert [body["prompt"] for path, body in double.requests if path == "/tokenize"] == [
        "1+1?",
        output[:27],
        "4",
        "It is 4.",
    ]
    assert all(body["add_special_tokens"] is False for path, body in double.requests if path == "/tokenize")
    assert "no token ids" in " ".join(result.remarks())


def test_a_prompt_of_messages_is_tokenised_by_the_template(write: Callable[..., Path]) -> None:
    double = Double()
    run(write(rollout(0, tokens=None, messages=[{"role": "user", "content": "1+1?"}])), double)
    assert double.prompts == [PROMPT + encoded("It is 2.")]


def test_ids_without_those_of_the_prompt_are_scored_under_the_prompt_and_noted(write: Callable[..., Path]) -> None:
    ids = encoded("It is 2.")
    double = Double()
    (record,) = lines(run(write(rollout(0, tokens=Tokens(ids, 0, sampled=[True] * 8))), double).output)
    assert record.tokens is not None
    assert double.prompts == [encoded("1+1?") + ids]
    assert record.tokens.ids == ids
    assert record.tokens.logprobs == expected(encoded("1+1?") + ids)[4:]
    assert record.notes == ["prompt_retokenised"]


def test_a_mask_that_was_not_logged_follows_from_the_spans(write: Callable[..., Path]) -> None:
    output = "a4b"
    spans = [
        Span("text", 0, 0, 1, sampled=True),
        Span("tool_result", 0, 1, 2, sampled=False),
        Span("text", 1, 2, 3, sampled=True),
    ]
    tokens = Tokens(PROMPT + encoded(output), len(PROMPT))
    (record,) = lines(run(write(rollout(0, output, tokens=tokens, spans=spans))).output)
    assert record.tokens is not None
    assert record.tokens.sampled == [False] * len(PROMPT) + [True, False, True]
    assert record.tokens.logprobs is not None
    assert [p is not None for p in record.tokens.logprobs[-3:]] == [True, False, True]


def faulty(kind: str) -> Fault:
    """A server that answers badly about the rollout whose text has an X, and about no other."""

    def fault(request: httpx.Request, body: Body) -> httpx.Response | None:
        if request.url.path != "/v1/completions" or ord("X") not in body["prompt"]:
            return None
        choice = Double().complete(body).json()["choices"][0]
        if kind == "fewer":
            choice["prompt_logprobs"] = choice["prompt_logprobs"][:-2]
        else:
            choice["prompt_token_ids"] = [0, *choice["prompt_token_ids"][1:]]
        return httpx.Response(200, json={"choices": [choice]})

    return fault


HALF = [Span("text", 0, 0, 1, sampled=True), Span("tool_result", 0, 1, 2, sampled=False)]


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (rollout(1, images=[Image("0" * 64)]), IMAGES),
        (rollout(1, tokens=None, messages=[{"role": "user", "content": [{"type": "image_url"}]}]), IMAGES),
        (rollout(1, "x" * CONTEXT), TOO_LONG),
        (rollout(1, tokens=Tokens([BEGIN, VOCABULARY], 1, sampled=[False, True])), UNKNOWN_ID),
        (rollout(1, tokens=Tokens([BEGIN, 65], 1, sampled=[False, False])), NOTHING_SAMPLED),
        (rollout(1, tokens=Tokens([BEGIN, 65])), NO_PROMPT),
        (rollout(1, "ab", tokens=Tokens([BEGIN, 65, 66], 1), spans=HALF), NO_MASK),
        (rollout(1, tokens=None, prompt=None), PROMPTLESS),
        (rollout(1, tokens=None, output_origin="joined"), UNTOLD),
        (rollout(1, status="padding"), PADDING),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_what_cannot_be_scored_is_copied_and_counted_with_the_reason(
    odd: Rollout, reason: str, write: Callable[..., Path]
) -> None:
    result = run(write(rollout(0), odd, rollout(2)))
    assert {why: skipped.rollouts for why, skipped in result.skipped.items()} == {reason: 1}
    assert (result.scored, result.written) == (2, 3)
    assert [record.rollout_id for record in lines(result.output)] == ["0", "1", "2"]
    copied = lines(result.output)[1].tokens
    assert copied is None or copied.logprobs is None
    assert any(reason in line for line in result.summary())


@pytest.mark.parametrize("kind", ["fewer", "other"])
def test_an_answer_about_other_tokens_is_not_taken(kind: str, write: Callable[..., Path]) -> None:
    result = run(write(rollout(0), rollout(1, "X"), rollout(2)), Double(faulty(kind)))
    assert (result.scored, result.skipped[OTHER_TOKENS].rollouts) == (2, 1)


def test_a_server_that_says_nothing_of_its_context_is_asked_and_refuses(write: Callable[..., Path]) -> None:
    result = run(write(rollout(0), rollout(1, "x" * CONTEXT)), Double(context=None))
    assert (result.scored, result.skipped[TOO_LONG].rollouts) == (1, 1)
    assert "maximum context length" in result.skipped[TOO_LONG].detail


def test_images_alone_leave_nothing_to_score_and_the_way_out_is_named(write: Callable[..., Path]) -> None:
    result = run(write(rollout(0, images=[Image("0" * 64)])))
    message, hint = result.failure()
    assert result.is_empty
    assert "1 rollouts have images" in message
    assert "gapscope.recorders" in (hint or "")


def test_a_policy_that_gives_the_same_log_probs_can_be_the_one_that_sampled(write: Callable[..., Path]) -> None:
    result = run(write(with_logprobs(0, shift=0.01), rollout(1)))
    assert result.agreement is not None
    assert (result.agreement.rollouts, result.agreement.tokens, result.agreement.apart) == (1, 8, 0.0)
    assert result.agreement.largest == pytest.approx(0.01)
    assert "can be the policy that sampled" in result.remarks()[0]


def test_a_policy_that_gives_other_log_probs_is_said_not_to_have_sampled(write: Callable[..., Path]) -> None:
    result = run(write(with_logprobs(0, step=1), with_logprobs(2, shift=-0.5, step=2), rollout(3, step=2)))
    assert result.agreement is not None
    assert (result.agreement.apart, result.agreement.by_step) == (0.5, {1: 0.0, 2: 1.0})
    assert "is NOT the policy that sampled" in result.remarks()[0]
    assert "nearest at step 1" in result.remarks()[0]


def test_without_log_probs_of_its_own_the_policy_of_a_log_cannot_be_checked(write: Callable[..., Path]) -> None:
    result = run(write(rollout(0, step=3), rollout(1, step=4)))
    assert "cannot be checked" in result.remarks()[0]
    assert "one model scored all 2 steps, 3 to 4" in result.remarks()[1]


def test_a_model_with_another_tokenizer_is_noticed(write: Callable[..., Path]) -> None:
    tokens = Tokens(PROMPT + encoded("It is 3."), len(PROMPT), sampled=[False] * 6 + [True] * 8)
    result = run(write(rollout(0, tokens=tokens)))
    assert result.other_text == 1
    assert any("another tokenizer" in remark for remark in result.remarks())


def tool(number: int, group: str, reward: float, output: str = "<tool_call>\n{}\n</tool_call>") -> Rollout:
    call = ToolCall(0, 0, 0, "{}", "t", {}, opened=True, closed=True, parsed=True, executed=True, in_think=False,
                    outcome="executed_ok")  # fmt: skip
    spans = [Span("tool_call", 0, 0, len(output), sampled=True)]
    return rollout(number, output, group_id=group, sample_index=number, reward=reward, spans=spans, calls=[call])


def groups() -> list[Rollout]:
    """Group a triggers by rollouts 0 and 1; b has a correct call, c none; of the whole log all are written."""
    plain = {"sample_index": 9}
    return [
        tool(0, "a", 0.0), tool(1, "a", 0.0), rollout(2, group_id="a", reward=1.0, **plain),
        tool(3, "b", 0.0), tool(4, "b", 1.0), rollout(5, group_id="c", **plain), rollout(6, group_id="c"),
    ]  # fmt: skip


@pytest.mark.parametrize("stored", [False, True])
def test_only_candidates_are_scored_and_all_are_written(
    stored: bool, write: Callable[..., Path], tmp_path: Path
) -> None:
    log = write(*groups())
    if stored:
        log = tmp_path / "run.duckdb"
        gs.ingest(tmp_path / "log.jsonl", into=log).close()
    result = run(log, only="candidates", correct="reward>=1")
    written = lines(result.output)
    assert [record.rollout_id for record in written] == list("0123456")
    scored = [record.rollout_id for record in written if record.tokens and record.tokens.scored_by]
    assert scored == ["0", "1"]
    assert (result.scored, result.not_selected) == (2, 5)


def test_candidates_of_a_log_without_correctness_cannot_be_told(write: Callable[..., Path]) -> None:
    with pytest.raises(CorrectnessError, match="not defined"):
        run(write(rollout(0, reward=0.4), rollout(1, reward=0.7)), only="candidates")


def test_a_store_is_scored_from_the_files_that_it_was_made_of(write: Callable[..., Path], tmp_path: Path) -> None:
    write(rollout(0), rollout(1))
    gs.ingest(tmp_path / "log.jsonl", into=tmp_path / "run.duckdb").close()
    result = run(tmp_path / "run.duckdb")
    assert (result.scored, result.output.name) == (2, "run.scored.jsonl")


def test_rows_that_are_no_rollouts_are_counted(write: Callable[..., Path]) -> None:
    log = write(rollout(0))
    log.write_bytes(log.read_bytes() + b'{"schema": "gapscope.rollout/1"}\n')
    assert run(log).refused == 1


def test_the_order_is_that_of_the_log_however_answers_come(write: Callable[..., Path]) -> None:
    log = write(*(rollout(number, "x" * (1 + 7 * number % 11)) for number in range(50)))
    with Served(Double(), delay=0.02) as served:
        result = run(log, endpoint=served.url, concurrency=8, transport=None)
    assert [record.rollout_id for record in lines(result.output)] == [str(number) for number in range(50)]
    assert served.most_in_flight == 8


def test_a_run_that_broke_off_goes_on_and_nothing_is_asked_twice(write: Callable[..., Path]) -> None:
    log = write(*(rollout(number) for number in range(6)))
    whole = run(log).output.read_bytes()
    output = log.with_name("log.scored.jsonl")
    for cut in (0, 5, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        output.write_bytes(whole[:cut])
        double = Double()
        result = run(log, double)
        # The last line is whole without its newline, too.
        there = (whole[:cut] + b"\n").count(b"}\n")
        assert (result.resumed, result.scored, len(double.prompts)) == (there, 6 - there, 6 - there)
        assert [record.rollout_id for record in lines(output)] == list("012345")


def test_a_finished_run_has_nothing_left_to_do(write: Callable[..., Path]) -> None:
    log = write(rollout(0))
    run(log)
    double = Double()
    result = run(log, double)
    assert (result.resumed, result.scored, double.prompts, result.is_empty) == (1, 0, [], False)


def test_a_log_that_has_grown_is_read_on(write: Callable[..., Path]) -> None:
    run(write(rollout(0)))
    result = run(write(rollout(0), rollout(1)))
    assert (result.resumed, result.scored) == (1, 1)


def test_an_output_of_something_else_is_not_continued(write: Callable[..., Path], tmp_path: Path) -> None:
    log, output = write(rollout(0), rollout(1)), tmp_path / "out.jsonl"
    output.write_text("my notes\n")
    with pytest.raises(SettingsError, match="line 1 is no rollout"):
        run(log, output=output)
    assert output.read_text() == "my notes\n"
    output.unlink()
    run(write(rollout(0), name="other.jsonl"), output=output)
    with pytest.raises(SettingsError, match=r"other\.jsonl, which is not among the logs"):
        run(log, output=output)


def test_an_output_of_another_model_is_not_continued(write: Callable[..., Path], tmp_path: Path) -> None:
    log, output = write(rollout(0), rollout(1)), tmp_path / "log.scored.jsonl"
    run(log)
    kept = output.read_bytes().splitlines(keepends=True)[0]
    other = kept.replace(b'"scored_by":"tiny"', b'"scored_by":"other"')
    for content in (other, other + other.replace(b'"line":1', b'"line":2')):
        output.write_bytes(content)
        with pytest.raises(SettingsError, match=r"it was scored by other|has changed since"):
            run(log)


def test_an_output_without_entropies_is_not_continued_with_them(write: Callable[..., Path]) -> None:
    log = write(rollout(0))
    run(log)
    with pytest.raises(SettingsError, match="without --top-k"):
        run(log, top_k=2)


def test_an_output_among_the_logs_is_refused(write: Callable[..., Path], tmp_path: Path) -> None:
    log = write(rollout(0))
    for logs, output in ((log, log), (tmp_path, tmp_path / "new.jsonl")):
        with pytest.raises(SettingsError, match="is among the logs"):
            run(logs, output=output)


def test_several_logs_need_a_name_for_the_output(write: Callable[..., Path], tmp_path: Path) -> None:
    logs = [str(write(rollout(0), name="a.jsonl")), str(write(rollout(1), name="b.jsonl"))]
    with pytest.raises(SettingsError, match="no name for the output"):
        run(logs)
    assert run(logs, output=tmp_path / "out" / "ab.jsonl").scored == 2


def test_standard_input_cannot_be_scored() -> None:
    with pytest.raises(SettingsError, match="standard input"):
        run("-")


def test_a_server_that_dies_leaves_what_was_scored(write: Callable[..., Path]) -> None:
    log = write(*(rollout(number) for number in range(8)))
    alive = iter(range(4))
    double = Double()

    def dying(request: httpx.Request) -> httpx.Response:
        if next(alive, None) is None:
            return httpx.Response(401, json={"error": "Unauthorized"})
        return double(request)

    with pytest.raises(EndpointError, match="HTTP 401"):
        run(log, dying, concurrency=1)
    # Of the four answers the first was about the model.
    assert [record.rollout_id for record in lines(log.with_name("log.scored.jsonl"))] == list("012")
    assert run(log).resumed == 3


def test_once_stopped_what_is_in_flight_is_finished_and_the_rest_is_left(write: Callable[..., Path]) -> None:
    log = write(*(rollout(number) for number in range(40)))

    async def stopped() -> Scoring:
        stop = asyncio.Event()
        double = Double()

        def stopping(request: httpx.Request) -> httpx.Response:
            if len(double.prompts) == 10:
                stop.set()
            return double(request)

        transport = httpx.MockTransport(stopping)
        options: dict[str, Any] = {"settings": gs.Settings(), "transport": transport, "stop": stop, "concurrency": 4}
        return await score(log, endpoint="http://double", model=MODEL, **options)

    result = asyncio.run(stopped())
    assert result.interrupted
    assert 10 <= result.scored <= 16
    assert len(lines(result.output)) == result.scored
    assert run(log).scored == 40 - result.scored


def test_no_more_rollouts_are_read_than_can_wait(write: Callable[..., Path]) -> None:
    log = write(*(rollout(number) for number in range(60)))
    seen: list[tuple[int, int | None, int]] = []
    run(log, concurrency=2, progress=lambda *numbers: seen.append(numbers))
    assert seen[-1][:2] == (60, None)
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


KILLED = """
import asyncio, sys
import gapscope as gs
from gapscope.axpo.score import score
asyncio.run(score(sys.argv[1], endpoint=sys.argv[2], model="tiny", concurrency=4, settings=gs.Settings()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_a_killed_run_loses_and_doubles_nothing(write: Callable[..., Path]) -> None:
    log = write(*(rollout(number) for number in range(300)))
    output = log.with_name("log.scored.jsonl")
    with Served(Double(), delay=0.002) as served:
        for enough in (20, 120, 10_000):
            process = subprocess.Popen([sys.executable, "-c", KILLED, str(log), served.url])
            while process.poll() is None:
                if output.exists() and output.read_bytes().count(b"\n") >= enough:
                    os.kill(process.pid, signal.SIGKILL)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.01)
    assert process.returncode == 0
    assert [record.rollout_id for record in lines(output)] == [str(number) for number in range(300)]
    assert all(record.tokens and record.tokens.scored_by == MODEL for record in lines(output))


INTERRUPTED = """
import sys, typer
from gapscope.cli import score as command
typer.run(command.score)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no handlers of signals in loops on Windows")
def test_an_interrupt_finishes_what_is_in_flight_and_says_how_to_go_on(write: Callable[..., Path]) -> None:
    log = write(*(rollout(number) for number in range(300)))
    output = log.with_name("log.scored.jsonl")
    with Served(Double(), delay=0.01) as served:
        command = [sys.executable, "-c", INTERRUPTED, str(log), "--endpoint", served.url, "--model", MODEL]
        process = subprocess.Popen([*command, "--concurrency", "4"], stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not (output.exists() and output.read_bytes().count(b"\n") >= 20):
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 2
    assert "finishing what is in flight" in said
    assert "Run the same command again to go on" in said
    written = lines(output)
    assert 20 <= len(written) < 300
    assert [record.rollout_id for record in written] == [str(number) for number in range(len(written))]


def invoke(*arguments: object) -> Any:
    app = typer.Typer()
    app.command()(command.score)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_says_what_it_did_and_what_to_know(write: Callable[..., Path]) -> None:
    log = write(rollout(0), with_logprobs(1))
    with Served(Double()) as served:
        result = invoke(log, "--endpoint", served.url, "--model", MODEL)
    assert result.exit_code == 0
    assert "2 rollouts, 1 of them scored by tiny" in result.stderr
    assert "1 copied with the log-probs that they have" in result.stderr
    assert "note: tiny can be the policy that sampled" in result.stderr


def test_the_command_exits_with_2_when_nothing_could_be_scored(write: Callable[..., Path]) -> None:
    with Served(Double()) as served:
        result = invoke(write(rollout(0, images=[Image("0" * 64)])), "--endpoint", served.url, "--model", MODEL)
    assert result.exit_code == 2
    assert "the route that scores ignores them" in result.stderr


def test_no_key_is_in_the_output_or_on_the_screen(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "s3cret-k3y")
    log = write(rollout(0))
    with Served(Double(key="s3cret-k3y")) as served:
        result = invoke(log, "--endpoint", served.url, "--model", MODEL)
    assert result.exit_code == 0
    assert "s3cret" not in result.output + log.with_name("log.scored.jsonl").read_text()


def test_a_folder_of_steps_is_scored_into_one_file(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for step in (1, 2, 10):
        with RolloutWriter(folder / f"{step}.jsonl") as writer:
            writer.write(rollout(step, step=step))
    result = run(folder)
    assert result.output == tmp_path / "run.scored.jsonl"
    assert [record.step for record in lines(result.output)] == [1, 2, 10]
    assert len(ids_of(result.output)) == 3


def ids_of(path: Path) -> Iterable[str]:
    return {json.loads(line)["rollout_id"] for line in path.read_text().splitlines()}


ASKED = [{"role": "user", "content": "1+1?"}]
SAID = [
    {
        "role": "assistant",
        "content": "",
        "reasoning_content": "hm",
        "tool_calls": [{"function": {"name": "calc", "arguments": {"e": "1+1"}}}],
    },
    {"role": "tool", "content": "2"},
    {"role": "assistant", "content": "It is 2."},
]


def told(messages: list[dict[str, Any]]) -> Rollout:
    """A rollout whose log held messages and no tokens, as TRL's do."""
    reading = Reading("log", dialect_named("hermes"))
    found = tell([message_of(message) for message in (*ASKED, *messages)], reading)
    fields = {"output_origin": "joined", "messages": ASKED, "prompt": found.prompt, "turns": found.turns}
    return rollout(0, found.output, tokens=None, spans=found.spans, calls=found.calls, **fields)


def test_messages_are_written_by_the_template_and_what_each_turn_adds_is_scored(write: Callable[..., Path]) -> None:
    result = run(write(told(SAID)))
    (scored,) = lines(result.output)
    first = [BEGIN, *encoded("1+1?"), BEGIN]
    call = '<think>hm</think><tool_call>{"name": "calc", "arguments": {"e": "1+1"}}</tool_call>'
    given = [BEGIN, *encoded("2"), BEGIN]
    ids = [*first, *encoded(call), *given, *encoded("It is 2.")]
    mask = [False] * len(first) + [True] * len(call) + [False] * len(given) + [True] * len("It is 2.")
    tokens = scored.tokens
    assert tokens is not None
    assert (tokens.ids, tokens.sampled, tokens.n_prompt, tokens.retokenised) == (ids, mask, len(first), True)
    assert tokens.logprobs == [p if own else None for p, own in zip(expected(ids), mask, strict=True)]
    assert scored.calls[0].tokens is not None
    assert ids[: scored.calls[0].tokens.branch] == [*first, *encoded("<think>hm</think><tool_call>")]
    assert any("tokenised again" in remark for remark in result.remarks())


def test_a_template_that_writes_earlier_turns_otherwise_later_is_not_followed(write: Callable[..., Path]) -> None:
    def forgets(request: httpx.Request, body: Body) -> httpx.Response | None:
        if request.url.path != "/tokenize" or body["messages"][-1].get("content") != "2":
            return None
        return httpx.Response(200, json={"tokens": [BEGIN, *encoded("1+1?2"), BEGIN]})

    assert set(run(write(told(SAID), rollout(1)), Double(forgets)).skipped) == {REWRITTEN}


def test_a_template_that_leaves_calls_out_is_found_out(write: Callable[..., Path]) -> None:
    def deaf(request: httpx.Request, body: Body) -> httpx.Response | None:
        for message in body.get("messages", ()):
            message.pop("tool_calls", None)
        return None

    result = run(write(told(SAID)), Double(deaf))
    assert (result.scored, result.other_calls) == (1, 1)
    assert any("do not hold the calls" in remark for remark in result.remarks())
    assert lines(result.output)[0].calls[0].tokens is None


def test_a_call_without_a_name_cannot_be_written(write: Callable[..., Path]) -> None:
    nameless = [{"role": "assistant", "content": "", "tool_calls": [{"function": {"arguments": {}}}]}]
    assert set(run(write(told(nameless), rollout(1))).skipped) == {UNREADABLE}


def test_a_log_of_trl_can_be_scored(tmp_path: Path) -> None:
    result = run(str(SAMPLE_OF["trl"]), Double(context=5000), output=tmp_path / "out.jsonl")
    assert result.scored == 32
    report = gs.audit(tmp_path / "out.jsonl", correct="accuracy_reward>=1")
    assert report["tool_confidence_mean"].n == report["tool_attempt_rate"].numerator
