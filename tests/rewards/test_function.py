"""Reward functions of users, in the signatures of verl and of TRL."""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gapscope.errors import CorrectnessError, SettingsError
from gapscope.rewards import RewardFailure, Solution, Verdict, reward_from

FUNCTIONS = '''
import os, time

def verl(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    """Says with its score what it was given."""
    assert not kwargs
    return {"score": 1.0, "acc": solution_str == ground_truth, "n": len(extra_info), "word": data_source, "none": None}

def old(solution_str, ground_truth):
    return float(solution_str == ground_truth)

async def judge(solution_str, ground_truth, extra_info):
    return extra_info["says"]

def trl(prompts, completions, completion_ids, ground_truth, level, **columns):
    assert (len(prompts), len(completions), completion_ids) == (1, 1, [[7, 8]]), (prompts, completions)
    assert sorted(columns) == ["answer", "data_source", "solution"], columns
    return [float(c == g) + level - level for c, g, level in zip(completions, ground_truth, level)]

def chat(completions, solution):
    return [1.0 if completion[-1]["content"] == one else 0.0 for completion, one in zip(completions, solution)]

async def unsure(completions, says):
    return says

def raises(completions):
    raise KeyError("no such thing")

def dies(completions):
    os._exit(3)

def hangs(completions):
    time.sleep(30)

def other(text, label):
    return 1.0

def batch(solution_strs, ground_truths, **kwargs):
    return [1.0]
'''
NAMESPACE: dict[str, Any] = {}
exec(FUNCTIONS, NAMESPACE)

PLAIN = Solution(
    output="42",
    final="42",
    prompt="6 * 7?",
    token_ids=[7, 8],
    ground_truth="42",
    data_source="sums",
    extra={"level": 3},
)
CHAT = Solution(
    output="42",
    final="42",
    prompt=[{"role": "user", "content": "6 * 7?"}],
    completion=[{"role": "tool", "content": "41"}, {"role": "assistant", "content": "42"}],
    ground_truth="42",
)


@pytest.fixture(autouse=True)
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)


def saying(value: object) -> Solution:
    return Solution(output="", final="", ground_truth="", extra={"says": value})


def judged(source: str | Callable[..., Any], *solutions: Solution, **options: Any) -> list[Verdict | str]:
    async def use() -> list[Verdict | str]:
        found: list[Verdict | str] = []
        async with reward_from(source, **options) as reward:
            for one in solutions:
                try:
                    found.append(await reward.judge(one))
                except RewardFailure as failure:
                    found.append(f"{failure.reason}: {failure.detail}")
        return found

    return asyncio.run(use())


def here(value: object) -> Callable[..., Any]:
    """A function of verl's that gives this."""

    def compute_score(solution_str: str) -> object:
        return value

    return compute_score


def rewarded(values: Sequence[object], rule: str | None = None) -> list[Verdict | str]:
    return [judged(here(value), PLAIN, rule=rule)[0] for value in values]


@pytest.mark.parametrize("where", ["my", "my.py", "here"])
def test_both_signatures_get_what_they_take(where: str) -> None:
    def source(name: str) -> Any:
        return NAMESPACE[name] if where == "here" else f"{where}:{name}"

    assert judged(source("verl"), PLAIN) == [Verdict(1.0, True, {"acc": 1.0, "n": 1.0})]
    assert judged(source("trl"), PLAIN) == [Verdict(1.0, True)]
    if where != "my.py":
        assert judged(source("old"), PLAIN) == [Verdict(1.0, True)]
        assert judged(source("chat"), CHAT) == [Verdict(1.0, True)]
        assert judged(source("judge"), saying(True)) == [Verdict(1.0, True)]
        assert judged(source("unsure"), saying(0)) == [Verdict(0.0, False)]
        assert judged(source("unsure"), saying(None), saying(1)) == [
            "the reward raised: TypeError: unsure() missing 1 required positional argument: 'says'",
            Verdict(1.0, True),
        ]


def test_a_trl_function_may_give_no_verdict() -> None:
    def skip(completions: list[str]) -> list[None]:
        return [None]

    assert judged(skip, PLAIN) == [Verdict(None, None)]


def test_the_logs_own_columns_are_not_replaced_by_the_ground_truth() -> None:
    def look(completions: list[str], answer: list[str], ground_truth: list[str], prompts: list[str]) -> list[bool]:
        return [(answer, ground_truth, prompts) == (["mine"], ["42"], ["q"])]

    extra = {"answer": "mine", "ground_truth": "not this", "prompts": "nor this"}
    one = Solution(output="", final="", prompt="q", ground_truth="42", extra=extra)
    assert judged(look, one) == [Verdict(1.0, True)]


def test_a_function_that_needs_the_ground_truth_is_not_called_without() -> None:
    bare = Solution(output="42", final="42")
    assert judged(NAMESPACE["old"], bare) == ["no ground truth in the plan: "]
    assert judged(NAMESPACE["chat"], bare) == ["no ground truth in the plan: "]


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (True, Verdict(1.0, True)),
        (0, Verdict(0.0, False)),
        (1.0, Verdict(1.0, True)),
        ({"score": 0.3, "acc": 1}, Verdict(0.3, True, {"acc": 1.0})),
        ({"score": 0.3, "acc": False, "correct": 1}, Verdict(0.3, False, {"acc": 0.0, "correct": 1.0})),
        ({"score": -1, "is_correct": 0.0}, Verdict(-1.0, False, {"is_correct": 0.0})),
        ({"score": 0.3, "correct": True}, Verdict(0.3, True, {"correct": 1.0})),
        ({"score": 1, "format": 0.5, "why": "so", "nan": float("nan")}, Verdict(1.0, True, {"format": 0.5})),
    ],
)
def test_0_and_1_are_verdicts(value: object, verdict: Verdict) -> None:
    assert rewarded([value]) == [verdict]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.5, r"`score` of .*compute_score is 0\.5, which is neither 0 nor 1\n.*--correct 'score>=1'"),
        (-1, r"`score` of .* is -1\.0, which"),
        ({"score": 1, "acc": 0.5}, r"`acc` of .* is 0\.5, which is neither 0 nor 1\n.*--correct 'acc>=1'"),
        ({"score": 1, "correct": "yes"}, r"`correct` of .* is 'yes', which"),
    ],
)
def test_a_shaped_reward_is_no_verdict(value: object, said: str) -> None:
    with pytest.raises(CorrectnessError) as error:
        rewarded([value])
    assert re.search(said, str(error.value))


@pytest.mark.parametrize(
    ("rule", "correct"),
    [
        ("score>=0.5", [True, False]),
        ("reward > 0.5", [False, False]),
        ("acc", [False, True]),
        ("acc != 1", [True, False]),
        ("format=0.25", [True, True]),
    ],
)
def test_a_rule_decides_over_the_reward_or_a_field(rule: str, correct: list[bool]) -> None:
    values = [{"score": 0.5, "acc": 0, "format": 0.25}, {"score": 0, "acc": True, "format": 0.25}]
    found = rewarded(values, rule)
    assert [verdict.correct for verdict in found if isinstance(verdict, Verdict)] == correct
    assert reward_from("my:f", rule=rule).rule.startswith("my:f: ")


def test_a_rule_over_a_field_that_is_not_there_is_refused_unless_it_was_there_before() -> None:
    with pytest.raises(
        CorrectnessError, match=r"gives no number 'acc', by which --correct acc would judge\nIt gives: score\."
    ):
        rewarded([0.5], "acc")
    answers = iter([{"score": 1, "acc": 1}, {"score": 0}])

    def sometimes(solution_str: str) -> object:
        return next(answers)

    assert judged(sometimes, PLAIN, PLAIN, rule="acc") == [
        Verdict(1.0, True, {"acc": 1.0}),
        "the reward has no acc this time: it has none",
    ]


@pytest.mark.parametrize("value", [None, "1", [1.0], {}, {"acc": 1}, {"score": None}, float("nan"), 10**400])
def test_what_is_no_number_is_no_reward(value: object) -> None:
    (found,) = rewarded([value], "score>=1")
    assert isinstance(found, str)
    assert found.startswith("the reward is no number: ")


@pytest.mark.parametrize("value", [1.0, [], [1.0, 1.0], "1", {"score": 1}])
def test_a_trl_function_gives_a_list_of_one(value: object) -> None:
    def reward(completions: list[str]) -> object:
        return value

    (found,) = judged(reward, PLAIN)
    assert isinstance(found, str)
    assert found.endswith("not a list of one reward")


def test_a_function_that_raises_dies_or_hangs_costs_one_verdict() -> None:
    assert judged("my:raises", PLAIN) == ["the reward raised: KeyError: 'no such thing'"]
    assert judged("my:dies", PLAIN) == ["the reward died: exit code 3"]
    assert judged("my:hangs", PLAIN, seconds=0.1) == ["the reward timed out: no answer after 0.1 s"]


def test_a_callable_that_raises_or_hangs_costs_one_verdict_and_no_waiting() -> None:
    def leaves(completions: list[str]) -> list[float]:
        raise SystemExit("enough")

    def stops(completions: list[str]) -> list[float]:
        raise StopIteration

    def waits(completions: list[str]) -> list[float]:
        raise TimeoutError("mine")

    async def sleeps(completions: list[str]) -> list[float]:
        await asyncio.sleep(30)
        return [1.0]

    def slow(completions: list[str]) -> list[float]:
        time.sleep(2)
        return [1.0]

    assert judged(NAMESPACE["raises"], PLAIN) == ["the reward raised: KeyError: 'no such thing'"]
    assert judged(leaves, PLAIN) == ["the reward raised: SystemExit: enough"]
    assert judged(stops, PLAIN) == ["the reward raised: RuntimeError: coroutine raised StopIteration"]
    assert judged(waits, PLAIN) == ["the reward raised: TimeoutError: mine"]
    assert judged(sleeps, PLAIN, seconds=0.05) == ["the reward timed out: no answer after 0.05 s"]
    began = time.monotonic()
    assert judged(slow, PLAIN, seconds=0.05) == ["the reward timed out: no answer after 0.05 s"]
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("name", ["other", "batch"])
def test_any_other_signature_is_refused_before_anything_is_judged(name: str) -> None:
    for source in (f"my:{name}", NAMESPACE[name]):
        with pytest.raises(SettingsError) as error:
            judged(source, PLAIN)
        found = {"other": "text, label", "batch": "solution_strs, ground_truths, **"}[name]
        assert error.value.message.endswith(f"has the parameters of no known reward function: {found}")
        assert "compute_score(data_source, solution_str, ground_truth, extra_info=None)" in str(error.value)
        assert "reward(prompts, completions, completion_ids, **columns)" in str(error.value)


def test_a_function_that_is_not_there_is_refused_before_anything_is_judged() -> None:
    with pytest.raises(SettingsError, match="'my:nothing' cannot be called"):
        judged("my:nothing", PLAIN)
    with pytest.raises(SettingsError, match=r"the parameters of builtins:dict cannot be read"):
        judged(dict, PLAIN)
