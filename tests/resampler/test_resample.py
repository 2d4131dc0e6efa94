"""Plans that are run on the protocol double: every continuation once, whenever it is stopped, and rows to audit."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from double_logs import groups, planned, write
from msgspec.structs import replace
from resampling_runs import continuations_in, logs_read_once, ran, rollouts_in, running
from vllm_double import Body, Double, Served, Twist, qwen_double
from vllm_faults import aborted, first, on, slow, where
from vllm_policies import CITIES, hermes

import gapscope as gs
from gapscope.axpo.plan_file import write_plan
from gapscope.errors import PlanError, RecordError, SettingsError
from gapscope.plans import Plan, PlannedPrefix
from gapscope.resampler.journal import read_journal
from gapscope.resampler.resample import journal_of
from gapscope.resampler.sampling import Ask, Context, Sampled
from gapscope.resampler.workload import Progress
from gapscope.rewards import RewardFailure, Solution, Verdict
from gapscope.rewards.exact_match import ExactMatch
from gapscope.tools.base import ToolResult

K = 4


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Three prefixes, one for each of the first three cities."""
    return planned(write(tmp_path_factory.mktemp("resample") / "log.jsonl", groups(3)), k=K)


@pytest.fixture(autouse=True, scope="module")
def _read_once() -> Iterator[None]:
    with logs_read_once():
        yield


@pytest.fixture(scope="module")
def whole(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The output of a run that nothing has stopped."""
    output = tmp_path_factory.mktemp("whole") / "out.jsonl"
    ran(plan, output)
    return output.read_bytes()


def keys(plan: Plan) -> list[str]:
    return [f"{prefix.id}:{index}" for prefix in plan.prefixes for index in range(prefix.k)]


def turns(double: Double) -> list[tuple[int, str]]:
    """What was sampled: the seed of each request that had one, with what stood before."""
    return [(body["seed"], json.dumps(body["prompt"])) for body in double.asked("/v1/completions") if "seed" in body]


def begun(double: Double, plan: Plan) -> Counter[int]:
    """How often each continuation was begun, by its seed."""
    seeds = {seed for prefix in plan.prefixes for seed in prefix.seeds}
    return Counter(seed for seed, _ in turns(double) if seed in seeds)


def is_right(prefix: PlannedPrefix, index: int) -> bool:
    """The policy asks for the weather of the city that its seed says."""
    return f"in {CITIES[prefix.seeds[index] % 5]}?" in (prefix.prefix.prompt or "")


class Parrot:
    """A sampler of a user's own, which has texts and no tokens."""

    async def begin(self, prefix: PlannedPrefix) -> Context:
        return Context(text=(prefix.prefix.prompt or "") + prefix.prefix.text, ids=None, guarantee="text")

    async def sample(self, context: Context, ask: Ask) -> tuple[Sampled, Context]:
        said = f"{hermes()(context.text, ask.seed)}<|im_end|>"
        return Sampled(said, None, None, ended=True), replace(context, text=context.text + said)

    async def tell(self, context: Context, text: str, results: Sequence[ToolResult]) -> Context:
        assert not results[0].images
        return replace(context, text=context.text + text)


def test_every_continuation_is_run_once_and_stands_in_plan_order_behind_the_rollouts_of_the_log(
    plan: Plan, tmp_path: Path
) -> None:
    double = qwen_double(policy=hermes())
    result = ran(plan, tmp_path / "out.jsonl", double)
    rows = rollouts_in(tmp_path / "out.jsonl")
    assert [each.rollout_id for each in rows] == [f"1-{q}-{i}" for q in range(3) for i in range(4)] + keys(plan)
    assert [each.parent for each in rows[:12]] == [None] * 12
    assert [each.parent and each.parent.rollout_id for each in rows[12::K]] == [p.rollout_id for p in plan.prefixes]
    assert begun(double, plan) == dict.fromkeys([seed for prefix in plan.prefixes for seed in prefix.seeds], 1)
    assert len(turns(double)) == 24
    assert (result.planned, result.done, result.resumed, result.calls, result.failures) == (12, 12, 0, 12, 0)
    right = [is_right(prefix, index) for prefix in plan.prefixes for index in range(K)]
    assert [each.correct for each in rows[12:]] == right
    assert [each.reward for each in rows[12:]] == [float(each) for each in right]
    assert {each.correct_rule for each in rows[12:]} == {"exact_match"}
    recovered = [any(right[start : start + K]) for start in range(0, 12, K)]
    assert (result.correct, result.judged) == (sum(right), 12)
    assert (result.recovered, result.prefixes) == (sum(recovered), 3)
    assert 0 < sum(recovered) < 3
    assert result.sampled == result.sampled_now == sum(sum(r.tokens.sampled or ()) - before(r) for r in tokened(rows))
    assert result.guarantees == {"token_exact": 12}


def tokened(rows: Sequence[gs.Rollout]) -> list[Any]:
    return [each for each in rows if each.parent is not None]


def before(row: Any) -> int:
    """How many of the prefix's tokens are the policy's."""
    return sum(row.tokens.sampled[: row.parent.branch_token])


def test_what_was_sampled_is_in_the_rows_token_for_token(plan: Plan, tmp_path: Path) -> None:
    double = qwen_double(policy=hermes())
    ran(plan, tmp_path / "out.jsonl", double)
    prefix, row = plan.prefixes[0], continuations_in(tmp_path / "out.jsonl")[0]
    frozen = prefix.prefix
    assert row.tokens is not None
    assert row.tokens.ids is not None
    assert row.tokens.ids[: len(frozen.token_ids or ())] == frozen.token_ids
    assert double.tokens.decode(row.tokens.ids) == (row.prompt or "") + row.output
    assert row.tokens.logprobs is not None
    own = [place for place, mine in enumerate(row.tokens.sampled or ()) if mine]
    known = [place for place, value in enumerate(row.tokens.logprobs) if value is not None]
    assert known == [place for place in own if place >= len(frozen.token_ids or ())]
    city = CITIES[prefix.seeds[0] % 5]
    (call,) = row.calls
    assert (call.name, call.arguments, call.outcome) == ("get_weather", {"city": city}, "executed_ok")
    assert row.extra == {"continued": "token_exact"}


def test_the_output_is_a_log_for_audit_recovery_and_export(plan: Plan, tmp_path: Path) -> None:
    file, output = tmp_path / "plan.jsonl", tmp_path / "out" / "resampled.jsonl"
    write_plan(file, plan.header, plan.prefixes)
    result = ran(plan, output)
    report = gs.audit(str(output))
    assert (report.rollouts, report.rows.continuations, report.rows.refused) == (12, 12, 0)
    assert report["recovery_rate_prefix"].value == pytest.approx(result.recovered / 3)
    found = gs.recovery(str(output), plan=file)
    assert found.plan is not None
    assert (found.plan.resampled, found.plan.wanted, found.plan.found) == (3, 12, 12)
    assert [row["correct"] for row in found.prefixes] == [
        sum(is_right(prefix, index) for index in range(K))
        for prefix in sorted(plan.prefixes, key=lambda each: (each.confidence or 0, each.group_id))
    ]
    exported = gs.export(str(output), tmp_path / "batch.parquet", to="parquet", plan=file)
    assert exported.rows["continuation"] == 12


def test_the_order_in_which_answers_come_does_not_show(plan: Plan, whole: bytes, tmp_path: Path) -> None:
    def later(request: httpx.Request, body: Body) -> httpx.Response | Twist | None:
        return slow((7 - body["seed"] % 7) * 0.002)(request, body) if "seed" in body else None

    ran(plan, tmp_path / "out.jsonl", qwen_double(later, policy=hermes()), concurrency=12)
    journal = list(read_journal(journal_of(tmp_path / "out.jsonl")).done)
    assert [f"{prefix}:{index}" for prefix, index in journal] != keys(plan)
    assert (tmp_path / "out.jsonl").read_bytes() == whole


def test_a_limit_takes_the_first_prefixes_and_a_resumed_run_the_rest(plan: Plan, whole: bytes, tmp_path: Path) -> None:
    double, output = qwen_double(policy=hermes()), tmp_path / "out.jsonl"
    result = ran(plan, output, double, limit=1)
    assert (result.planned, result.done) == (4, 4)
    assert [each.rollout_id for each in continuations_in(output)] == keys(plan)[:4]
    result = ran(plan, output, double, resume=True)
    assert (result.planned, result.done, result.resumed) == (12, 12, 4)
    assert output.read_bytes() == whole
    assert set(begun(double, plan).values()) == {1}


@pytest.mark.parametrize("number", [{"limit": 0}, {"limit": -1}, {"concurrency": 0}])
def test_nothing_is_no_number_of_prefixes_or_requests(plan: Plan, number: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="are none"):
        ran(plan, tmp_path / "out.jsonl", **number)


def test_a_dry_run_samples_and_writes_nothing_and_says_what_is_in_force(plan: Plan, tmp_path: Path) -> None:
    double = qwen_double(policy=hermes())
    result = ran(plan, tmp_path / "new" / "out.jsonl", double, dry_run=True)
    assert not turns(double)
    assert list(tmp_path.iterdir()) == []
    assert result.prospect() == "12 continuations would be sampled by tiny; nothing was sampled or written"
    assert "prefixes: token exact" in result.about
    assert "correct: exact_match" in result.about


def test_a_stopped_run_finishes_what_is_in_flight_and_is_gone_on_with(plan: Plan, whole: bytes, tmp_path: Path) -> None:
    double, output = qwen_double(policy=hermes()), tmp_path / "out.jsonl"

    async def stopped() -> gs.Resampling:
        stop = asyncio.Event()

        def after_two(far: Progress) -> None:
            if far.done == 2:
                stop.set()

        return await running(plan, output, double, concurrency=3, stop=stop, progress=after_two)

    result = asyncio.run(stopped())
    assert result.interrupted
    # Two were done, one more was in flight, and nobody took up another.
    assert 2 <= result.done <= 4
    assert sum(begun(double, plan).values()) == result.done == len(continuations_in(output))
    assert output.read_bytes() == whole[: len(output.read_bytes())]
    again = ran(plan, output, double, resume=True)
    assert (again.resumed, again.done, again.interrupted) == (result.done, 12, False)
    assert output.read_bytes() == whole
    assert set(begun(double, plan).values()) == {1}


def test_a_journal_that_was_cut_anywhere_loses_and_doubles_nothing(plan: Plan, whole: bytes, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    ran(plan, output)
    journal = journal_of(output).read_bytes()
    ends = [place + 1 for place, byte in enumerate(journal) if byte == ord("\n")]
    for size in (0, 9, ends[0], ends[0] + 1, ends[4] - 1, ends[4], (ends[7] + ends[8]) // 2, len(journal) - 1):
        journal_of(output).write_bytes(journal[:size])
        output.unlink(missing_ok=True)
        double = qwen_double(policy=hermes())
        result = ran(plan, output, double, resume=True)
        finished = sum(end <= size for end in ends[1:])
        assert result.resumed == finished
        assert sum(begun(double, plan).values()) == 12 - finished
        assert output.read_bytes() == whole


KILLED = """
import asyncio, sys
sys.path[:0] = {path!r}
from resampling_runs import WEATHER
from gapscope.resampler.resample import resample
asyncio.run(resample({plan!r}, endpoint={url!r}, model="tiny", tools=[WEATHER], reward="exact_match",
    output={output!r}, concurrency=2))
"""


def test_a_run_that_is_killed_loses_and_doubles_nothing(plan: Plan, whole: bytes, tmp_path: Path) -> None:
    output, file = tmp_path / "out.jsonl", tmp_path / "plan.jsonl"
    write_plan(file, plan.header, plan.prefixes)
    double = qwen_double(policy=hermes())
    with Served(double, delay=0.02) as server:
        code = KILLED.format(path=sys.path, plan=str(file), url=server.url, output=str(output))
        with subprocess.Popen([sys.executable, "-c", code]) as process:
            while process.poll() is None:
                if len(begun(double, plan)) >= 6:
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.01)
        assert process.returncode == -signal.SIGKILL
    assert not output.exists()
    finished = set(read_journal(journal_of(output)).done)
    assert 3 <= len(finished) < 12
    again = qwen_double(policy=hermes())
    result = ran(plan, output, again, resume=True)
    assert (result.resumed, result.done) == (len(finished), 12)
    left = {seed for p in plan.prefixes for i, seed in enumerate(p.seeds) if (p.id, i) not in finished}
    assert begun(again, plan) == dict.fromkeys(left, 1)
    assert output.read_bytes() == whole
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["out.jsonl", "out.jsonl.journal", "plan.jsonl"]


def test_what_gave_no_sample_is_tried_again(plan: Plan, whole: bytes, tmp_path: Path) -> None:
    seed, output = plan.prefixes[1].seeds[2], tmp_path / "out.jsonl"
    fault = where(lambda body: body.get("seed") == seed, first(3, aborted()))
    double = qwen_double(on("/v1/completions", fault), policy=hermes())
    assert ran(plan, output, double).lost == {"aborted by the server": (1, "3 times in a row")}
    result = ran(plan, output, double, resume=True)
    assert (result.resumed, result.done, result.lost) == (11, 12, {})
    assert output.read_bytes() == whole
    assert begun(double, plan)[seed] == 4
    assert sorted(begun(double, plan).values()) == [1] * 11 + [4]


class Fickle(ExactMatch):
    """A reward that fails in its own way for the first few."""

    def __init__(self, failures: int, verdict: Verdict | None = None) -> None:
        super().__init__(None, 30)
        self.failures = failures
        self.verdict = verdict
        self.judged = 0

    async def judge(self, solution: Solution) -> Verdict:
        self.judged += 1
        if self.judged > self.failures:
            return await super().judge(solution)
        if self.verdict is not None:
            return self.verdict
        reason = "the judge is away"
        raise RewardFailure(reason, "until noon")


@pytest.mark.parametrize(
    ("verdict", "why"),
    [(None, ("the judge is away", "until noon")), (Verdict(None, None), ("the reward gave no verdict", ""))],
)
def test_what_has_no_verdict_is_judged_again_and_not_sampled_again(
    plan: Plan, whole: bytes, tmp_path: Path, verdict: Verdict | None, why: tuple[str, str]
) -> None:
    double, output = qwen_double(policy=hermes()), tmp_path / "out.jsonl"
    result = ran(plan, output, double, reward=Fickle(2, verdict), concurrency=1)
    assert (result.done, result.judged, result.unjudged) == (12, 10, {why[0]: (2, why[1])})
    assert [each.correct for each in continuations_in(output)[:3]] == [None, None, is_right(plan.prefixes[0], 2)]
    assert continuations_in(output)[0].notes == [f"no verdict: {why[0]}"]
    reward = Fickle(0)
    result = ran(plan, output, double, reward=reward, resume=True)
    assert (reward.judged, result.resumed, result.judged, result.sampled_now) == (2, 12, 12, 0)
    assert output.read_bytes() == whole
    assert len(turns(double)) == 24


def test_a_run_that_ends_while_it_judges_keeps_the_sample_and_judges_it_later(
    plan: Plan, whole: bytes, tmp_path: Path
) -> None:
    double, output = qwen_double(policy=hermes()), tmp_path / "out.jsonl"

    class Slow(ExactMatch):
        async def judge(self, solution: Solution) -> Verdict:
            judging.set()
            await asyncio.sleep(60)
            return await super().judge(solution)

    async def dropped() -> None:
        run = asyncio.create_task(running(plan, output, double, reward=Slow(None, 30), concurrency=1))
        await judging.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    judging = asyncio.Event()
    asyncio.run(dropped())
    assert not output.exists()
    (done,) = read_journal(journal_of(output)).done.values()
    assert done.unjudged == ("the run ended before it was judged", "")
    result = ran(plan, output, double, resume=True)
    assert (result.resumed, result.judged) == (1, 12)
    assert set(begun(double, plan).values()) == {1}
    assert output.read_bytes() == whole


def test_another_reward_judges_the_samples_that_are_there(plan: Plan, whole: bytes, tmp_path: Path) -> None:
    double, output = qwen_double(policy=hermes()), tmp_path / "out.jsonl"
    seen: list[Progress] = []
    ran(plan, output, double, reward="f1", correct="reward>=0.1", progress=seen.append)
    assert {each.correct for each in continuations_in(output)} == {True}
    assert (seen[-1].recovered, seen[-1].prefixes) == (3, 3)
    seen.clear()
    result = ran(plan, output, double, resume=True, progress=seen.append)
    assert (seen[0].done, seen[0].recovered, seen[0].prefixes) == (12, 0, 0)
    assert (seen[-1].done, seen[-1].recovered, seen[-1].prefixes) == (12, result.recovered, 3)
    assert (result.resumed, result.sampled_now) == (12, 0)
    assert output.read_bytes() == whole


def test_a_run_under_another_reward_that_is_stopped_leaves_no_verdict_by_the_old_one(
    plan: Plan, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    ran(plan, output, reward="f1", correct="reward>=0.1")

    async def stopped() -> gs.Resampling:
        stop = asyncio.Event()
        return await running(
            plan,
            output,
            resume=True,
            concurrency=1,
            stop=stop,
            progress=lambda far: stop.set() if far.prefixes else None,
        )

    result = asyncio.run(stopped())
    assert (result.judged, result.unjudged) == (1, {"the run ended before it was judged": (11, "")})
    rows = continuations_in(output)
    assert [each.correct_rule for each in rows] == ["exact_match"] + [None] * 11
    assert [(each.correct, each.reward, each.reward_parts) for each in rows[1:]] == [(None, None, [])] * 11


def test_two_runs_at_once_on_one_output_are_refused_and_the_first_is_whole(
    plan: Plan, whole: bytes, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"

    async def both() -> None:
        halfway = asyncio.Event()
        run = asyncio.create_task(
            running(
                plan,
                output,
                qwen_double(slow(0.005), policy=hermes()),
                concurrency=2,
                progress=lambda far: halfway.set() if far.done == 4 else None,
            )
        )
        await halfway.wait()
        for resume in (True, False):
            with pytest.raises((RecordError, SettingsError), match=r"another run is writing|is there already"):
                await running(plan, output, resume=resume)
        await run

    asyncio.run(both())
    assert output.read_bytes() == whole


def test_no_more_continuations_are_in_flight_than_was_said(plan: Plan, tmp_path: Path) -> None:
    double = qwen_double(policy=hermes())
    flying, most = 0, 0

    async def counted(request: httpx.Request) -> httpx.Response:
        nonlocal flying, most
        sampled = b'"seed"' in request.content
        flying += sampled
        most = max(most, flying)
        for _ in range(5):
            await asyncio.sleep(0)
        flying -= sampled
        return double(request)

    ran(plan, tmp_path / "out.jsonl", double, transport=httpx.MockTransport(counted), concurrency=3)
    assert most == 3

    class Counted(Parrot):
        async def sample(self, context: Context, ask: Ask) -> tuple[Sampled, Context]:
            nonlocal flying, most
            flying += 1
            most = max(most, flying)
            await asyncio.sleep(0)
            flying -= 1
            return await super().sample(context, ask)

    most = 0
    ran(plan, tmp_path / "own.jsonl", sampler=Counted(), concurrency=5)
    assert most == 5


def test_progress_counts_from_what_was_there_to_the_end(plan: Plan, tmp_path: Path) -> None:
    output, seen = tmp_path / "out.jsonl", list[Progress]()
    ran(plan, output, limit=1)
    result = ran(plan, output, resume=True, progress=seen.append, concurrency=1)
    assert [far.done for far in seen] == list(range(4, 13))
    assert {far.planned for far in seen} == {12}
    assert [far.prefixes for far in seen] == [1, *[2] * 4, *[3] * 4]
    right = [any(is_right(prefix, i) for i in range(K)) for prefix in plan.prefixes]
    assert (seen[0].recovered, seen[-1].recovered) == (right[0], sum(right))
    assert (seen[0].sampled, seen[-1].sampled) == (0, result.sampled_now)
    assert 0 < result.sampled_now < result.sampled


def test_what_an_earlier_run_has_led_to_is_not_written_over(plan: Plan, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    ran(plan, output, limit=1)
    content, journal = output.read_bytes(), journal_of(output).read_bytes()
    with pytest.raises(SettingsError, match=r"journal is there already") as raised:
        ran(plan, output)
    assert "--resume" in (raised.value.hint or "")
    journal_of(output).unlink()
    for resume in (False, True):
        with pytest.raises(SettingsError, match="is there"):
            ran(plan, output, resume=resume)
    output.unlink()
    journal_of(output).write_bytes(journal)
    with pytest.raises(SettingsError, match=r"journal is there already"):
        ran(plan, output)
    assert journal_of(output).read_bytes() == journal
    ran(plan, output, resume=True, limit=1)
    assert output.read_bytes() == content


def test_an_output_in_the_place_of_the_log_or_of_the_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    log, file = write(tmp_path / "logs" / "log.jsonl", groups(1)), tmp_path / "plan.jsonl"
    content = log.read_bytes()
    of_file, of_folder = planned(log), planned(log.parent)
    write_plan(file, of_file.header, of_file.prefixes)
    (tmp_path / "link.jsonl").symlink_to(log)
    for plan, output, said in (
        (of_file, log, "is the log of the plan"),
        (of_file, tmp_path / "link.jsonl", "is the log of the plan"),
        (of_folder, log.parent / "out.jsonl", "is in the folder of the plan's log"),
        (file, file, "is the plan"),
        (of_file, tmp_path / "logs", "is a folder"),
    ):
        for resume in (False, True):
            with pytest.raises(SettingsError, match=said):
                ran(plan, output, resume=resume)
    assert log.read_bytes() == content
    assert not list(tmp_path.rglob("*.journal"))


def test_a_plan_without_a_prefix_gives_the_log_alone(tmp_path: Path) -> None:
    solved = [replace(each, correct=True, reward=1.0) for each in groups(1)]
    plan = planned(write(tmp_path / "log.jsonl", solved))
    assert plan.prefixes == ()
    result = ran(plan, tmp_path / "out.jsonl")
    assert (result.planned, result.done, result.is_empty) == (0, 0, True)
    assert [each.parent for each in rollouts_in(tmp_path / "out.jsonl")] == [None] * 4


def test_an_edited_plan_and_a_log_that_has_changed_are_refused(tmp_path: Path) -> None:
    log, file = write(tmp_path / "log.jsonl", groups(1)), tmp_path / "plan.jsonl"
    plan = planned(log)
    write_plan(file, plan.header, plan.prefixes)
    written = file.read_text()
    file.write_text(written.replace('"k":4', '"k":5'))
    assert file.read_text() != written
    with pytest.raises(PlanError, match="was changed after it was written"):
        ran(file, tmp_path / "out.jsonl")
    write(log, groups(2)[4:])
    double = qwen_double(policy=hermes())
    with pytest.raises(PlanError, match="has changed since"):
        ran(plan, tmp_path / "out.jsonl", double)
    assert not turns(double)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "plan.jsonl"]


def test_a_sampler_of_ones_own_needs_no_server(plan: Plan, tmp_path: Path) -> None:
    result = ran(plan, tmp_path / "out.jsonl", sampler=Parrot())
    rows = continuations_in(tmp_path / "out.jsonl")
    assert [each.correct for each in rows] == [is_right(prefix, i) for prefix in plan.prefixes for i in range(K)]
    assert all(each.tokens is None for each in rows)
    assert (result.model, result.guarantees) == ("Parrot", {"text": 12})
    with pytest.raises(SettingsError, match="both a sampler and the endpoint"):
        ran(plan, tmp_path / "other.jsonl", sampler=Parrot(), endpoint="http://double")
    with pytest.raises(SettingsError, match="neither a sampler, nor an endpoint"):
        ran(plan, tmp_path / "other.jsonl", model=None)
    with pytest.raises(SettingsError, match="has its own"):
        ran(plan, tmp_path / "other.jsonl", reward=ExactMatch(None, 30), correct="reward>=1")


@pytest.mark.parametrize(("k", "of_a_group"), [(4, 1), (2, 2)])
def test_the_rate_and_its_interval_are_those_of_recovery(k: int, of_a_group: int, tmp_path: Path) -> None:
    plan = planned(write(tmp_path / "log.jsonl", groups(3)), k=k)
    assert [sum(prefix.group_id == f"q{q}" for prefix in plan.prefixes) for q in range(3)] == [of_a_group] * 3
    result = ran(plan, tmp_path / "out.jsonl")
    measured = gs.recovery(tmp_path / "out.jsonl").measurements["recovery_rate_prefix"]
    assert result.prefixes == 3 * of_a_group
    assert result.recovered / result.prefixes == measured.value
    assert result.interval == pytest.approx(measured.interval)
