"""What can go wrong while a plan is run, on the protocol double: a clear error, or one marked continuation; no loss."""

import asyncio
import base64
import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import msgspec
import pytest
from double_logs import DEGREES, groups, planned, write
from resampling_runs import continuations_in, logs_read_once, marked, no_pause, ran, running
from vllm_double import Body, Double, Fault, Served, error, qwen_double
from vllm_faults import (
    aborted,
    busy,
    cut_off,
    during,
    either,
    every,
    first,
    hanging,
    logprob,
    on,
    other_tokens,
    page,
    reset,
    sampled_ids,
    slow,
    truncated,
    unreachable,
    where,
)
from vllm_policies import CITIES, hermes

import gapscope as gs
from gapscope.axpo.plan_file import write_plan
from gapscope.errors import CorrectnessError, EndpointError, GapscopeError, PlanError, RecordError, UnknownName
from gapscope.plans import Plan, PlannedImage
from gapscope.resampler.journal import read_journal
from gapscope.resampler.resample import journal_of
from gapscope.resampler.workload import Progress
from gapscope.rewards import reward_from
from gapscope.tools import function
from gapscope.tools.base import Call, ToolFailure, ToolResult

KEY = "sesame-4711"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Three prefixes with four continuations each, whose seeds decide on the city: each of the five is asked for."""
    return planned(write(tmp_path_factory.mktemp("errors") / "log.jsonl", groups(3)), seed=5)


@pytest.fixture(autouse=True, scope="module")
def _read_once() -> Iterator[None]:
    with logs_read_once():
        yield


@pytest.fixture(scope="module")
def whole(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """The output and the journal of a run in which nothing goes wrong."""
    output = tmp_path_factory.mktemp("whole") / "out.jsonl"
    ran(plan, output)
    return output.read_bytes(), journal_of(output).read_bytes()


def seed_of(plan: Plan, number: int) -> int:
    return [seed for prefix in plan.prefixes for seed in prefix.seeds][number]


def of(plan: Plan, number: int, fault: Fault) -> Fault:
    """The fault for one of the twelve continuations alone, in its first turn."""
    return where(lambda body: body.get("seed") == seed_of(plan, number), fault)


def sampled(double: Double) -> list[Body]:
    return [body for body in double.asked("/v1/completions") if "seed" in body]


def named(plan: Plan, number: int) -> str:
    return [f"{prefix.id}:{index}" for prefix in plan.prefixes for index in range(prefix.k)][number]


def asking(plan: Plan, *cities: str) -> set[str]:
    """The continuations that ask for the weather of these cities."""
    return {named(plan, number) for number in range(12) if CITIES[seed_of(plan, number) % 5] in cities}


def with_image(plan: Plan) -> Plan:
    """The plan as if its prompts had shown a picture."""
    url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
    image = PlannedImage(sha256=hashlib.sha256(PNG).hexdigest(), media_type="image/png")
    prefixes = (
        prefix.model_copy(
            update={"images": [image], "prefix": prefix.prefix.model_copy(update={"messages": [message]})}
        )
        for prefix in plan.prefixes
    )
    return plan.model_copy(update={"prefixes": tuple(prefixes)})


STARTS: dict[str, tuple[Double, dict[str, Any], type[GapscopeError], str, str]] = {
    "nobody listens": (
        qwen_double(unreachable), {}, EndpointError, "cannot be reached .*4 times in a row", "the server runs",
    ),
    "some web page": (qwen_double(page()), {}, EndpointError, "something else than a vLLM server", "http://localhost"),
    "no such page": (qwen_double(page(404)), {}, EndpointError, "HTTP 404", "http://localhost"),
    "another model": (qwen_double(), {"model": "tinny"}, UnknownName, "unknown model 'tinny'", "tiny"),
    "a key is wanted": (qwen_double(key=KEY), {}, EndpointError, "does not let us in", "VLLM_API_KEY or OPENAI_API"),
    "another tokenizer": (
        Double(context=8192), {}, PlanError, "not the model of this plan.* prefix 0, at character 0", "Serve",
    ),
    "no tools": (
        qwen_double(), {"tools": ()}, PlanError, "calls get_weather, and the tools are: none", "--tools get_weather=",
    ),
    "another tool": (
        qwen_double(), {"tools": [function.Callable("search", len)]}, PlanError, "tools are: search", "weather=python",
    ),
    "no such reward": (qwen_double(), {"reward": "exact"}, UnknownName, "unknown reward", "exact_match"),
}  # fmt: skip


@pytest.mark.parametrize("name", STARTS)
def test_what_cannot_work_is_said_before_anything_is_sampled_or_written(plan: Plan, name: str, tmp_path: Path) -> None:
    double, options, kind, said, hint = STARTS[name]
    with pytest.raises(kind, match=said) as raised:
        ran(plan, tmp_path / "out.jsonl", double, **options)
    assert hint in (raised.value.hint or "")
    assert not sampled(double)
    assert not list(tmp_path.iterdir())


def test_a_plan_of_images_for_a_model_of_text_is_refused(plan: Plan, tmp_path: Path) -> None:
    double = qwen_double(scale_out=True)
    with pytest.raises(PlanError, match=r"tiny can continue none of the 3 prefixes; the first: .*takes no images"):
        ran(with_image(plan), tmp_path / "out.jsonl", double)
    assert not sampled(double)
    result = ran(with_image(plan), tmp_path / "out.jsonl")
    assert (result.is_empty, result.judged) == (True, 0)
    assert "12 of 12 continuations: refused by the server (tiny is not a multimodal model)" in result.failure()


def test_a_prefix_that_cannot_be_continued_is_marked_and_the_others_go_on(plan: Plan, tmp_path: Path) -> None:
    """Two prefixes of text alone, and one with an image for which the model has no eyes."""
    mixed = plan.model_copy(update={"prefixes": (with_image(plan).prefixes[0], *plan.prefixes[1:])})
    result = ran(mixed, tmp_path / "out.jsonl", qwen_double(policy=hermes(), scale_out=True))
    assert marked(continuations_in(tmp_path / "out.jsonl")) == {
        named(plan, number): "no sample: the server's model takes no images" for number in range(4)
    }
    assert any(note.startswith("the first prefix cannot be continued: the server's model") for note in result.about)
    assert result.judged == 8


def test_a_plan_of_text_runs_on_a_model_that_also_sees(plan: Plan, whole: tuple[bytes, bytes], tmp_path: Path) -> None:
    ran(plan, tmp_path / "out.jsonl", qwen_double(policy=hermes(), vision=True, scale_out=True))
    assert (tmp_path / "out.jsonl").read_bytes() == whole[0]


def test_a_plan_without_ground_truth_is_refused_by_a_reward_that_needs_it(plan: Plan, tmp_path: Path) -> None:
    blind = tuple(prefix.model_copy(update={"ground_truth": None}) for prefix in plan.prefixes)
    double = qwen_double(policy=hermes())
    with pytest.raises(PlanError, match="no ground truth, and exact_match judges by it"):
        ran(plan.model_copy(update={"prefixes": blind}), tmp_path / "out.jsonl", double)
    assert not sampled(double)
    some = plan.model_copy(update={"prefixes": (*plan.prefixes[:2], blind[2])})
    result = ran(some, tmp_path / "out.jsonl", double)
    assert (result.judged, result.unjudged) == (8, {"no ground truth in the plan": (4, "")})


def test_the_key_is_sent_and_never_shown(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out.jsonl"
    monkeypatch.setenv("VLLM_API_KEY", "not-the-key")
    with pytest.raises(EndpointError, match="does not let us in") as raised:
        ran(plan, output, qwen_double(key=KEY))
    assert "not-the-key" not in f"{raised.value} {raised.value!r}"
    assert "VLLM_API_KEY" in (raised.value.hint or "")
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    told = of(plan, 1, lambda *_: error(400, f"the header Authorization: Bearer {KEY} is odd"))
    result = ran(plan, output, qwen_double(told, policy=hermes(), key=KEY))
    assert result.lost["refused by the server"] == (1, "the header Authorization: Bearer [key] is odd")
    shown = f"{result!r} {result.summary()} {result.failure()} {result.about}"
    assert KEY not in shown + output.read_text() + journal_of(output).read_text()


def raised_by(failure: type[httpx.TransportError]) -> Fault:
    def fault(request: httpx.Request, body: Body) -> httpx.Response:
        message = "gone"
        raise failure(message, request=request)

    return fault


PASSING: dict[str, Fault] = {
    "429 with Retry-After": on("/v1/completions", first(5, busy(429, retry_after="30"))),
    "bursts of 503": during({*range(12, 18), *range(30, 36)}, busy(503)),
    "every seventh 500": where(lambda body: "seed" in body, every(7, busy(500))),
    "resets": every(9, reset),
    "cut off answers": every(8, cut_off),
    "refused connections": during(range(20, 26), unreachable),
    "time-outs": every(13, hanging),
    "aborts": on("/v1/completions", where(lambda body: "seed" in body, every(5, aborted()))),
    "all at once": either(every(10, reset), every(7, busy(502)), during(range(40, 44), unreachable)),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_waited_for_and_nothing_is_lost(
    plan: Plan, whole: tuple[bytes, bytes], name: str, tmp_path: Path
) -> None:
    waits: list[float] = []

    async def waiting(seconds: float) -> None:
        waits.append(seconds)
        await no_pause(seconds)

    double = qwen_double(PASSING[name], policy=hermes())
    result = ran(plan, tmp_path / "out.jsonl", double, pause=waiting)
    assert (result.done, result.lost, result.unjudged) == (12, {}, {})
    assert (tmp_path / "out.jsonl").read_bytes() == whole[0]
    assert bool(waits) is (name != "aborts")
    assert name != "429 with Retry-After" or any(20 < each <= 30 for each in waits)


def test_the_last_one_that_the_server_can_never_answer_is_marked_and_ends_nothing(plan: Plan, tmp_path: Path) -> None:
    double = qwen_double(of(plan, 11, busy(500)), policy=hermes())
    result = ran(plan, tmp_path / "out.jsonl", double, concurrency=1)
    assert (result.done, result.judged) == (12, 11)
    assert list(result.lost) == ["no answer, while other requests got theirs"]


def test_what_is_no_sample_is_marked_with_its_reason_and_the_others_go_on(
    plan: Plan, whole: tuple[bytes, bytes], tmp_path: Path
) -> None:
    output, padding = tmp_path / "out.jsonl", qwen_double().tokens.size - 1
    faults = {
        "aborted by the server": aborted(),
        "the server answered about other tokens than those sent": either(
            of(plan, 2, truncated()), of(plan, 3, other_tokens())
        ),
        "a token that only pads the vocabulary was sampled": sampled_ids(lambda ids: [*ids[:-1], padding]),
        "the server gave a log-prob that is none": logprob(0.5),
        "no answer, while other requests got theirs": either(of(plan, 0, busy(500)), of(plan, 1, hanging)),
        "refused by the server": lambda *_: error(400, "no"),
    }
    numbers = [(8,), (2, 3), (5,), (6,), (0, 1), (11,)]
    fault = either(
        *(of(plan, number, each) for several, each in zip(numbers, faults.values(), strict=True) for number in several)
    )
    result = ran(plan, output, qwen_double(on("/v1/completions", fault), policy=hermes()), concurrency=4)
    assert {reason: count for reason, (count, _) in result.lost.items()} == {
        reason: len(several) for reason, several in zip(faults, numbers, strict=True)
    }
    rows = continuations_in(output)
    assert marked(rows) == {
        named(plan, number): f"no sample: {reason}"
        for reason, several in zip(faults, numbers, strict=True)
        for number in several
    }
    assert all((each.correct, each.reward, each.tokens) == (None, None, None) for each in rows if each.status)
    lines = whole[0].splitlines()[12:]
    assert [msgspec.json.encode(rows[number]) for number in (4, 7, 9, 10)] == [lines[n] for n in (4, 7, 9, 10)]
    assert (result.done, result.judged) == (12, 4)
    told = "\n".join(result.summary())
    assert "2 gave no sample: no answer, while other requests got theirs (" in told
    assert "1 gave no sample: aborted by the server (3 times in a row)" in told


def test_marked_rows_count_for_nothing_afterwards(plan: Plan, tmp_path: Path) -> None:
    output, file = tmp_path / "out.jsonl", tmp_path / "plan.jsonl"
    write_plan(file, plan.header, plan.prefixes)
    lost = either(*(of(plan, number, aborted()) for number in (0, 1, 2, 3, 4)))
    ran(plan, output, qwen_double(on("/v1/completions", lost), policy=hermes()))
    found = gs.recovery(str(output), plan=file)
    assert found.plan is not None
    assert (found.plan.resampled, found.plan.found, found.plan.wanted, found.continuations) == (2, 7, 12, 7)
    assert sorted(int(row["k"] or 0) for row in found.prefixes) == [3, 4]
    exported = gs.export(str(output), tmp_path / "batch.parquet", to="parquet", plan=file)
    assert (exported.rows["continuation"], exported.missing) == (7, 5)


def test_a_log_prob_that_is_not_a_number_is_a_missing_one(plan: Plan, tmp_path: Path) -> None:
    result = ran(plan, tmp_path / "out.jsonl", qwen_double(of(plan, 0, logprob(float("nan"))), policy=hermes()))
    first_row, second = continuations_in(tmp_path / "out.jsonl")[:2]
    missing = [
        sum(
            value is None for value, own in zip(row.tokens.logprobs or (), row.tokens.sampled or (), strict=True) if own
        )
        for row in (first_row, second)
        if row.tokens is not None
    ]
    assert missing[0] == missing[1] + 1
    assert result.judged == 12


def test_a_context_that_is_too_long_ends_that_continuation_alone(
    plan: Plan, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    endless = planned(write(tmp_path_factory.mktemp("endless") / "log.jsonl", groups(3)), seed=5, max_tokens=None)
    wordy = function.Callable("get_weather", lambda city: "x" * 9_000 if city == "Borow" else DEGREES[city])
    result = ran(endless, tmp_path / "out.jsonl", tools=[wordy])
    found = marked(continuations_in(tmp_path / "out.jsonl"))
    assert found == dict.fromkeys(asking(endless, "Borow"), "no sample: longer than the model's context")
    assert (result.done, result.judged) == (12, 12 - len(found))
    assert 0 < len(found) < 12


def test_a_request_that_takes_longer_than_its_deadline_costs_its_continuation(plan: Plan, tmp_path: Path) -> None:
    result = ran(plan, tmp_path / "out.jsonl", qwen_double(of(plan, 3, slow(30)), policy=hermes()), deadline=0.5)
    assert result.lost == {"no answer, while other requests got theirs": (1, "gives no answer within 0.5 s")}
    assert result.judged == 11


def test_a_server_that_is_started_again_is_waited_for(plan: Plan, whole: tuple[bytes, bytes], tmp_path: Path) -> None:
    async def soon(_: float) -> None:
        await asyncio.sleep(0.05)

    async def restarted(server: Served) -> gs.Resampling:
        gone = asyncio.Event()
        run = asyncio.create_task(
            running(
                plan,
                tmp_path / "out.jsonl",
                endpoint=server.url,
                transport=None,
                pause=soon,
                concurrency=3,
                progress=lambda far: gone.set() if far.done == 3 else None,
            )
        )
        await gone.wait()
        await asyncio.to_thread(server.down)
        await asyncio.sleep(0.1)
        assert not run.done()
        await asyncio.to_thread(server.up)
        return await run

    with Served(qwen_double(policy=hermes()), delay=0.01) as server:
        result = asyncio.run(restarted(server))
    assert result.lost == {}
    assert (tmp_path / "out.jsonl").read_bytes() == whole[0]


def test_a_server_that_is_gone_ends_the_run_and_what_is_done_is_kept(
    plan: Plan, whole: tuple[bytes, bytes], tmp_path: Path
) -> None:
    output, double = tmp_path / "out.jsonl", qwen_double(policy=hermes())

    def gone(far: Progress) -> None:
        if far.done == 5:
            double.fault = unreachable

    with pytest.raises(EndpointError, match="cannot be reached") as raised:
        ran(plan, output, double, concurrency=2, progress=gone)
    assert "what is done is kept" in (raised.value.hint or "")
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl.journal"]
    # One more may have been at its last word.
    kept = len(read_journal(journal_of(output)).done)
    assert kept in {5, 6}
    double.fault = None
    assert ran(plan, output, double, resume=True).resumed == kept
    assert output.read_bytes() == whole[0]


def unsure(data_source: str | None, solution_str: str, ground_truth: str) -> float:
    """A reward in between for one answer, and else 0 or 1."""
    return 0.3 if "4 degrees" in solution_str else float(ground_truth in solution_str)


def test_a_reward_in_between_asks_for_a_rule_and_what_was_sampled_is_judged_by_it(plan: Plan, tmp_path: Path) -> None:
    output, double = tmp_path / "out.jsonl", qwen_double(policy=hermes())
    with pytest.raises(CorrectnessError, match=r"0\.3, which is neither 0 nor 1") as raised:
        ran(plan, output, double, reward=reward_from(unsure), concurrency=1)
    assert "--correct" in (raised.value.hint or "")
    kept = read_journal(journal_of(output)).done
    assert [done.unjudged is None for done in kept.values()] == [True] * (len(kept) - 1) + [False]
    result = ran(plan, output, double, reward=reward_from(unsure, rule="score>=1"), resume=True)
    assert (result.resumed, result.judged) == (len(kept), 12)
    assert len(sampled(double)) == 24
    assert {each.correct_rule for each in continuations_in(output)} == {f"{__name__}:unsure: score>=1"}


@pytest.mark.parametrize(
    ("fails", "reason", "detail"),
    [
        ("raises", "the reward raised", "ZeroDivisionError: division by zero"),
        ("hangs", "the reward timed out", "no answer after 0.5 s"),
        ("text", "the reward is no number", "gave 'good', not a number"),
    ],
)
def test_a_reward_that_fails_costs_the_verdict_and_not_the_sample(
    plan: Plan, whole: tuple[bytes, bytes], fails: str, reason: str, detail: str, tmp_path: Path
) -> None:
    def score(solution_str: str, ground_truth: str) -> float | str:
        if "Dunmor" not in solution_str:
            return float(ground_truth in solution_str)
        if fails == "hangs":
            time.sleep(2)
        return 1 / 0 if fails == "raises" else "good"

    output, double = tmp_path / "out.jsonl", qwen_double(policy=hermes())
    result = ran(plan, output, double, reward=reward_from(score, seconds=0.5))
    without = asking(plan, "Dunmor")
    assert (result.judged, list(result.unjudged)) == (12 - len(without), [reason])
    assert result.unjudged[reason][0] == len(without)
    assert detail in result.unjudged[reason][1]
    rows = continuations_in(output)
    assert {each.rollout_id for each in rows if each.correct is None} == without
    assert not marked(rows)
    assert f"{len(without)} have no verdict: {reason} (" in "\n".join(result.summary())
    ran(plan, output, double, resume=True)
    assert output.read_bytes() == whole[0]
    assert len(sampled(double)) == 24


def test_a_tool_that_misbehaves_answers_with_an_error_where_it_did(plan: Plan, tmp_path: Path) -> None:
    tool = function.Function("get_weather", "odd_weather:get_weather", seconds=0.5)
    result = ran(plan, tmp_path / "out.jsonl", tools=[tool])
    rows = {each.rollout_id or "": each for each in continuations_in(tmp_path / "out.jsonl")}
    for city, begins, outcome in (
        ("Arlen", "Error: ValueError: no weather today", "executed_error"),
        ("Borow", "Error: TimeoutError: get_weather did not answer within 0.5 s", "timeout"),
        ("Cadiz", "Error: get_weather died: ", "executed_error"),
        ("Dunmor", "Error: get_weather gave no usable answer: ", "executed_error"),
        ("Elstow", "16 degrees", "executed_ok"),
    ):
        found = [rows[name].calls[0] for name in asking(plan, city)]
        assert found
        assert {call.outcome for call in found} == {outcome}
        assert all((call.result or "").startswith(begins) for call in found)
    good = asking(plan, "Elstow")
    assert (result.calls, result.failures, result.judged) == (12, 12 - len(good), 12)
    assert f"12 calls executed, {12 - len(good)} of them answered with an error" in result.summary()


class Breaking:
    """A tool that is gone when it is asked about one city, and raises at another."""

    names = ("get_weather",)
    about = "get_weather: breaks"

    def __init__(self) -> None:
        self.closed = 0

    def session(self) -> "Breaking":
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def call(self, call: Call) -> ToolResult:
        city = call.arguments["city"]
        if city == "Arlen":
            reason = "the weather service is gone"
            raise ToolFailure(reason, "since noon")
        if city == "Borow":
            raise KeyError(city)
        return ToolResult(DEGREES[city])

    async def close(self) -> None:
        self.closed += 1


def test_a_tool_that_is_gone_marks_its_continuation(plan: Plan, tmp_path: Path) -> None:
    tool = Breaking()
    result = ran(plan, tmp_path / "out.jsonl", tools=[tool])
    gone, broken = asking(plan, "Arlen"), asking(plan, "Borow")
    assert marked(continuations_in(tmp_path / "out.jsonl")) == {
        **dict.fromkeys(gone, "no sample: the weather service is gone"),
        **dict.fromkeys(broken, "no sample: tool raised"),
    }
    assert result.lost["the weather service is gone"] == (len(gone), "since noon")
    assert result.lost["tool raised"] == (len(broken), "get_weather: KeyError: 'Borow'")
    assert tool.closed == 12


def filling(monkeypatch: pytest.MonkeyPatch, room: int) -> Callable[[], None]:
    """A disk that has so many bytes left, until it is called off."""
    real = os.write
    left = [room]

    def write_(file: int, data: Any) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = real(file, data[: left[0]])
        left[0] -= written
        return written

    monkeypatch.setattr(os, "write", write_)
    return monkeypatch.undo


@pytest.mark.parametrize("place", ["log", "journal", "output"])
def test_a_full_disk_is_said_and_the_run_goes_on_once_there_is_room(
    plan: Plan, whole: tuple[bytes, bytes], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, double = tmp_path / "out.jsonl", qwen_double(policy=hermes())
    log = sum(len(line) + 1 for line in whole[0].splitlines()[:12])
    room = {"log": 100, "journal": log + len(whole[1]) // 2, "output": log + len(whole[1]) + 3_000}[place]
    empty = filling(monkeypatch, room)
    name = journal_of(output).name if place == "journal" else output.name
    with pytest.raises(RecordError, match=f"cannot write .*/{name}: No space left on device") as raised:
        ran(plan, output, double)
    empty()
    assert "--resume" in (raised.value.hint or "")
    assert [path.name for path in tmp_path.iterdir()] == ([] if place == "log" else ["out.jsonl.journal"])
    kept = len(read_journal(journal_of(output)).done)
    assert {"log": kept == 0, "journal": 3 < kept < 9, "output": kept == 12}[place]
    assert ran(plan, output, double, resume=True).resumed == kept
    assert output.read_bytes() == whole[0]


def test_an_output_that_cannot_be_written_is_said_at_once(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    double = qwen_double(policy=hermes())
    for place in (tmp_path / "file" / "out.jsonl", tmp_path / ("x" * 300)):
        with pytest.raises(RecordError, match="cannot write"):
            ran(plan, place, double)
    assert double.count == 0


def test_a_fault_of_our_own_is_not_swallowed_and_costs_no_sample(plan: Plan, tmp_path: Path) -> None:
    class Wrong:
        rule = "wrong"

        async def judge(self, _: object) -> None:
            raise AssertionError

        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

    output = tmp_path / "out.jsonl"
    with pytest.raises(AssertionError):
        ran(plan, output, reward=Wrong(), concurrency=1)
    assert [done.lost for done in read_journal(journal_of(output)).done.values()] == [None]
