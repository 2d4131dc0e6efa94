"""AXPO's advantages, masks, weights and objective: by hand, by table, and against a second implementation."""

from __future__ import annotations

import math
import random
import runpy
import statistics
import sys
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest

from gapscope.axpo import advantages
from gapscope.axpo.advantages import (
    DEFAULT,
    PRESETS,
    Preset,
    Resampled,
    TermTokens,
    axpo_advantages,
    axpo_objective,
    clipped_objective,
    continuation_advantages,
    continuation_mask,
    group_advantages,
    prefix_advantages,
    prefix_mask,
    recovery_reward,
    rollout_mask,
    token_weights,
)
from gapscope.errors import CorrectnessError, SettingsError, UnknownName

EXACT = Preset(0, 0.0, "skipped")
GROUP = [0, 0, 1, 1, 0, 0, 0, 0]  # Rollouts 0 and 1 use a tool.


def near(value: Any) -> Any:
    return pytest.approx(value, abs=1e-12, rel=1e-12)


def ones(count: int, n: int) -> list[int]:
    return [1] * count + [0] * (n - count)


def test_advantages_can_be_imported_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert "axpo_advantages" in runpy.run_path(advantages.__file__)


# --- Worked numbers --------------------------------------------------------------------------------------

WORKED = [
    (EXACT, -0.577350, 1.732051, 1.290994, 1.732051, -0.577350),
    (PRESETS["default"], -0.577349, 1.732047, 1.290992, 1.732047, -0.577349),
    (PRESETS["rllm"], -0.577349, 1.732047, 1.290992, 1.732047, -0.577349),
    (PRESETS["verl"], -0.540061, 1.620182, 1.207612, 1.499997, -0.499999),
    (PRESETS["trl"], -0.539945, 1.619835, 1.207381, 1.499700, -0.499900),
]


@pytest.mark.parametrize(("preset", "failed", "won", "prefix", "first", "others"), WORKED)
def test_the_worked_group_has_the_published_advantages(
    preset: Preset, failed: float, won: float, prefix: float, first: float, others: float
) -> None:
    result = axpo_advantages(GROUP, [Resampled(0, [1, 0, 0, 0])], preset=preset)
    rollouts = [failed, failed, won, won, failed, failed, failed, failed]
    assert result.rollouts == pytest.approx(rollouts, abs=5e-7)
    assert result.recovered == {0: 1.0}
    assert result.prefixes == {0: pytest.approx(prefix, abs=5e-7)}
    assert list(result.continuations) == [0]
    assert result.continuations[0] == pytest.approx([first, others, others, others], abs=5e-7)


@pytest.mark.parametrize("preset", [EXACT, *PRESETS.values()])
def test_the_worked_group_has_the_closed_forms(preset: Preset) -> None:
    result = axpo_advantages(GROUP, [Resampled(0, [1, 0, 0, 0])], preset=preset)
    of_8, of_4 = math.sqrt(8 / (8 - preset.ddof)), math.sqrt(4 / (4 - preset.ddof))
    assert result.rollouts is not None
    assert result.rollouts[0] == near(-1 / 4 / (math.sqrt(3) / 4 * of_8 + preset.eps))
    assert result.rollouts[2] == near(3 / 4 / (math.sqrt(3) / 4 * of_8 + preset.eps))
    assert result.prefixes[0] == near(5 / 8 / (math.sqrt(15) / 8 * of_8 + preset.eps))
    assert result.continuations[0][0] == near(3 / 4 / (math.sqrt(3) / 4 * of_4 + preset.eps))
    assert result.continuations[0][3] == near(-1 / 4 / (math.sqrt(3) / 4 * of_4 + preset.eps))


def test_two_prefixes_of_a_group_are_substituted_alone_or_together() -> None:
    one, both = {0: 1.0, 1: 0.0}, {0: 1.0, 1: 1.0}
    alone = prefix_advantages(GROUP, one, EXACT)
    together = prefix_advantages(GROUP, one, EXACT, "joint")
    assert (alone[0], alone[1]) == (near(math.sqrt(5 / 3)), near(-1 / math.sqrt(3)))
    assert (together[0], together[1]) == (near(math.sqrt(5 / 3)), near(-math.sqrt(3 / 5)))
    assert prefix_advantages(GROUP, both, EXACT) == {0: near(math.sqrt(5 / 3)), 1: near(math.sqrt(5 / 3))}
    assert prefix_advantages(GROUP, both, EXACT, "joint") == {0: near(1.0), 1: near(1.0)}


LOOKUP = """
K4 0 None 0.0000 | K4 1 1.7321 -0.5774 | K4 2 1.0000 -1.0000 | K4 3 0.5774 -1.7321 | K4 4 0.0000 None
N8 0 2.6458 0.0000 | N8 1 1.7321 -0.3780 | N8 2 1.2910 -0.5774 | N8 3 1.0000 -0.7746 | N8 4 0.7746 -1.0000
N8 5 0.5774 -1.2910 | N8 6 0.3780 -1.7321 | N8 7 0.0000 -2.6458
"""


@pytest.mark.parametrize("row", [row.split() for row in LOOKUP.replace("\n", "|").split("|") if row], ids="-".join)
def test_the_lookup_table_and_its_factor_for_the_sample_deviation(row: list[str]) -> None:
    count, published = int(row[1]), [None if cell == "None" else float(cell) for cell in row[2:]]

    def found(preset: Preset) -> list[float | None]:
        if row[0] == "N8":
            return [prefix_advantages([0, *ones(count, 7)], {0: reward}, preset)[0] for reward in (1.0, 0.0)]
        of_each = continuation_advantages(ones(count, 4), preset)
        return [of_each[0] if count > 0 else None, of_each[3] if count < 4 else None]

    n, factor = (8, 0.9354) if row[0] == "N8" else (4, 0.8660)
    assert math.sqrt((n - 1) / n) == pytest.approx(factor, abs=5e-5)
    for population, sample, expected in zip(found(EXACT), found(EXACT._replace(ddof=1)), published, strict=True):
        assert population == (None if expected is None else pytest.approx(expected, abs=5e-5))
        assert sample == (None if population is None else near(population * math.sqrt((n - 1) / n)))


BY_PRESET = """
1 4 1.732047 -0.577349 1.499997 -0.499999 1.499700 -0.499900
1 8 2.645743 -0.377963 2.474867 -0.353552 2.474174 -0.353453
2 8 1.732047 -0.577349 1.620182 -0.540061 1.619835 -0.539945
3 8 1.290992 -0.774595 1.207612 -0.724567 1.207381 -0.724429
"""


@pytest.mark.parametrize("row", [[float(cell) for cell in row.split()] for row in BY_PRESET.strip().splitlines()])
def test_winners_and_losers_by_preset(row: list[float]) -> None:
    rewards = ones(int(row[0]), int(row[1]))
    found = {name: group_advantages(rewards, preset) for name, preset in PRESETS.items()}
    pairs = [found[name][place] for name in ("default", "verl", "trl") for place in (0, -1)]
    assert pairs == pytest.approx(row[2:], abs=5e-7)
    assert found["rllm"].tolist() == found["default"].tolist()


@pytest.mark.parametrize("name", PRESETS)
def test_a_group_of_one_gets_what_its_preset_says(name: str) -> None:
    expected = {"default": (None, None), "verl": (0.0, 1 / 1.000001), "rllm": (0.0, 1 / 1.000001), "trl": (0.0, 0.0)}
    for reward, value in zip((0, 1), expected[name], strict=True):
        found = group_advantages([reward], PRESETS[name])
        assert value is None if found is None else found.tolist() == [value]
    result = axpo_advantages([0], [Resampled(0, [1, 0])], preset=PRESETS[name])
    assert result.prefixes == ({} if expected[name][1] is None else {0: expected[name][1]})
    assert result.recovered == {0: 1.0}
    assert len(result.continuations[0]) == 2


# --- Consequences ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS.values())
@pytest.mark.parametrize("wins", range(7))
def test_without_recovery_the_prefix_keeps_its_advantage_and_branches_get_zero(preset: Preset, wins: int) -> None:
    result = axpo_advantages([0, *ones(wins, 7)], [Resampled(0, [0, 0, 0, 0])], preset=preset)
    assert result.prefixes[0] == result.rollouts[0]
    assert (result.prefixes[0] < 0) == (wins > 0)
    assert result.continuations[0].tolist() == [0.0] * 4


@pytest.mark.parametrize("preset", PRESETS.values())
def test_when_all_succeed_only_the_prefix_is_credited(preset: Preset) -> None:
    result = axpo_advantages(GROUP, [Resampled(0, [1, 1, 1, 1])], preset=preset)
    assert result.continuations[0].tolist() == [0.0] * 4
    assert result.prefixes[0] > 0


@pytest.mark.parametrize("preset", PRESETS.values())
def test_a_recovered_prefix_gets_exactly_zero_only_if_all_others_were_correct(preset: Preset) -> None:
    credit = [prefix_advantages([0, *ones(wins, 7)], {0: 1.0}, preset)[0] for wins in range(8)]
    assert all(value > 0 for value in credit[:7])
    assert credit[7] == 0.0


def test_one_success_pays_the_prefix_as_much_as_four() -> None:
    paid = [axpo_advantages(GROUP, [Resampled(0, ones(wins, 4))]).prefixes[0] for wins in (1, 2, 3, 4)]
    assert len(set(paid)) == 1


def test_a_guess_without_an_executed_call_recovers_unless_execution_is_required() -> None:
    guessed = [Resampled(0, [1, 0, 0, 0], [False, True, True, True])]
    ran = [Resampled(0, [1, 0, 0, 0], [True, False, False, False])]
    assert axpo_advantages(GROUP, guessed).recovered == {0: 1.0}
    strict = axpo_advantages(GROUP, guessed, require_executed=True)
    assert strict.recovered == {0: 0.0}
    assert strict.prefixes[0] == strict.rollouts[0]
    assert strict.continuations[0].tolist() == continuation_advantages([1, 0, 0, 0]).tolist()
    assert axpo_advantages(GROUP, ran, require_executed=True).recovered == {0: 1.0}
    assert recovery_reward([0, 1]) == recovery_reward([0, 1], executed=[False, True]) == 1.0
    assert recovery_reward([0, 0], executed=[True, True]) == recovery_reward([0, 1], executed=[1, 0]) == 0.0


@pytest.mark.parametrize("k", [2, 4, 7])
def test_branches_learn_with_the_probability_of_a_mixed_outcome(k: int) -> None:
    p = Fraction(3, 10)
    learning = [outcome for outcome in product((0, 1), repeat=k) if continuation_advantages(outcome).any()]
    assert sum(p ** sum(outcome) * (1 - p) ** (k - sum(outcome)) for outcome in learning) == 1 - (1 - p) ** k - p**k


@pytest.mark.parametrize("preset", [EXACT, *PRESETS.values()])
def test_uniform_groups_are_exactly_zero(preset: Preset) -> None:
    for n, reward in product(range(2, 40), (0, 1)):
        assert group_advantages([reward] * n, preset).tolist() == [0.0] * n


def test_the_order_of_a_group_changes_no_bit() -> None:
    shuffled = [ones(3, 7)[place] for place in (4, 0, 6, 2, 5, 1, 3)]
    won, lost = group_advantages(ones(3, 7))[[0, 6]].tolist()
    assert group_advantages(shuffled).tolist() == [won if reward else lost for reward in shuffled]


# --- A second implementation -----------------------------------------------------------------------------


def relative(rewards: list[int], preset: Preset) -> list[float] | None:
    if len(rewards) == 1:
        return {"skipped": None, "itself": [rewards[0] / (1 + preset.eps)], "zero": [0.0]}[preset.alone]
    exact = [Fraction(reward) for reward in rewards]
    spread = float([statistics.pstdev, statistics.stdev][preset.ddof](exact))
    return [float(reward - statistics.mean(exact)) / (spread + preset.eps) for reward in exact]


def clipped(tokens: TermTokens, low: float, high: float, beta: float) -> float:
    terms = []
    for now, old, reference in zip(tokens.logprobs, tokens.old_logprobs, tokens.reference_logprobs, strict=True):
        ratio = math.exp(now) / math.exp(old)
        bounded = sorted((1 - low, ratio, 1 + high))[1]
        odds = math.exp(reference) / math.exp(now)
        terms.append(min(ratio * tokens.advantage, bounded * tokens.advantage) - beta * (odds - math.log(odds) - 1))
    return statistics.fmean(terms)


def term(draw: random.Random, advantage: float) -> TermTokens:
    n = draw.randint(1, 5)
    return TermTokens(*([draw.uniform(-3, 0) for _ in range(n)] for _ in range(2)), advantage, [-1.0] * n)


def batch(draw: random.Random) -> tuple[list[int], list[Resampled]]:
    """The rewards of a group of 1 to 12, and up to four prefixes of failed rollouts with 2 to 6 continuations."""
    chance, luck, k = draw.choice([0.0, 0.1, 0.5, 0.9]), draw.choice([0.0, 0.2, 0.6, 1.0]), draw.randint(2, 6)
    rewards = [int(draw.random() < chance) for _ in range(draw.randint(1, 12))]
    failed = [index for index, reward in enumerate(rewards) if not reward]
    return rewards, [
        Resampled(source, [int(draw.random() < luck) for _ in range(k)], [draw.random() < 0.7 for _ in range(k)])
        for source in draw.sample(failed, draw.randint(0, min(4, len(failed))))
    ]


def check(seed: int) -> None:
    draw = random.Random(seed)
    (rewards, resampled), preset = batch(draw), draw.choice(list(PRESETS.values()))
    mode, strict = draw.choice(["self", "joint"]), draw.random() < 0.5
    result = axpo_advantages(rewards, resampled, preset=preset, substitution=mode, require_executed=strict)

    original = relative(rewards, preset)
    assert (None if result.rollouts is None else result.rollouts.tolist()) == (original and near(original))
    unresampled = axpo_advantages(rewards, [], preset=preset).rollouts
    assert original is None or result.rollouts.tobytes() == unresampled.tobytes()
    won = {p.source: any(r and (ran or not strict) for r, ran in zip(*p[1:], strict=True)) for p in resampled}
    assert result.recovered == won
    assert set(result.prefixes) == (set() if original is None else set(won))
    for source, successes, _ in resampled:
        branches = relative(successes, preset)
        assert result.continuations[source].tolist() == near(branches)
        if original is None:
            continue
        swapped = [int(won[i]) if i in won and (mode == "joint" or i == source) else r for i, r in enumerate(rewards)]
        credit = relative(swapped, preset)[source]
        assert result.prefixes[source] == near(credit)
        terms = [term(draw, advantage) for advantage in (credit, *branches)]
        assert axpo_objective(terms[0], terms[1:]) == near(sum(clipped(tokens, 0.2, 0.4, 1e-3) for tokens in terms))


@pytest.mark.parametrize("block", range(10))
def test_a_second_implementation_agrees_on_a_thousand_batches(block: int) -> None:
    for seed in range(block * 100, block * 100 + 100):
        check(seed)


# --- Masks -----------------------------------------------------------------------------------------------


def test_masks_of_a_small_sequence() -> None:
    sampled = [0, 0, 1, 1, 1, 0, 1]  # Prompt, prompt, thinking, tag, call, result, answer.
    assert rollout_mask(sampled).tolist() == [False, False, True, True, True, False, True]
    assert prefix_mask(sampled, 4).tolist() == [False, False, True, True, False, False, False]
    assert continuation_mask(sampled, 4).tolist() == [False, False, False, False, True, False, True]


@pytest.mark.parametrize("seed", range(50))
def test_every_token_is_in_one_stream_or_none(seed: int) -> None:
    draw = np.random.default_rng(seed)
    source = draw.random(12) < 0.7
    branch = int(draw.integers(0, 13))
    streams = prefix_mask(source, branch).astype(int)  # Of each token of the source, shared by its continuations.
    for _ in range(4):
        sampled = np.concatenate([source[:branch], draw.random(6) < 0.7])
        mask = continuation_mask(sampled, branch)
        streams[:branch] += mask[:branch]
        assert mask[branch:].tolist() == sampled[branch:].tolist()
        assert not (mask & prefix_mask(sampled, branch)).any()
        assert ((mask | prefix_mask(sampled, branch)) == rollout_mask(sampled)).all()
    assert streams.tolist() == [int(source[place] and place < branch) for place in range(12)]


def test_a_mask_is_no_view_of_what_it_was_made_from() -> None:
    sampled = np.array([True, False])
    rollout_mask(sampled)[:] = False
    assert sampled.tolist() == [True, False]


# --- Weights ---------------------------------------------------------------------------------------------

MASKS = [np.array(mask, bool) for mask in ([0, 1], [1, 1, 1, 0], [0, 1, 0], [0, 0, 1, 1], [1, 1], [0, 0], [1])]
TERMS = ["rollout", "rollout", "prefix", "continuation", "continuation", "rollout", "rollout"]
QUESTIONS = ["a", "a", "b", "b", "b", "b", "b"]


def test_every_term_weighs_the_same_and_all_of_them_one() -> None:
    weights = token_weights(MASKS, TERMS, QUESTIONS)
    assert [sum(weight) for weight in weights] == near([1 / 6] * 5 + [0.0, 1 / 6])
    assert weights[1].tolist() == near([1 / 18, 1 / 18, 1 / 18, 0.0])


def test_every_token_weighs_the_same_and_all_of_them_one() -> None:
    weights = np.concatenate(token_weights(MASKS, TERMS, QUESTIONS, "token_mean"))
    assert weights.tolist() == near((np.concatenate(MASKS) / 10).tolist())
    assert weights.sum() == near(1.0)


def test_in_a_question_a_prefix_or_continuation_weighs_as_all_its_rollouts_would() -> None:
    weights = token_weights(MASKS, TERMS, QUESTIONS, "question_sum")
    assert [sum(weight) for weight in weights] == near([1 / 4, 1 / 4, 1 / 2, 1 / 2, 1 / 2, 0.0, 1 / 6])


def test_a_rollout_without_unmasked_tokens_counts_for_the_size_of_its_group_only() -> None:
    masks = [np.array([True]), np.array([False])]
    for weighting, expected in (("per_term_mean", 1.0), ("token_mean", 1.0), ("question_sum", 0.5)):
        weights = token_weights(masks, ["rollout"] * 2, [7, 7], weighting)
        assert [weight.tolist() for weight in weights] == [[expected], [0.0]]


@pytest.mark.parametrize("weighting", ["per_term_mean", "token_mean", "question_sum"])
def test_nothing_to_weigh_weighs_zero(weighting: str) -> None:
    assert [weight.tolist() for weight in token_weights([[0, 0], []], ["rollout"] * 2, [1, 2], weighting)] == [
        [0, 0],
        [],
    ]
    assert token_weights([], [], [], weighting) == []


@pytest.mark.parametrize("weighting", ["per_term_mean", "question_sum"])
def test_without_triggered_groups_the_objective_is_the_mean_over_rollouts_of_their_token_means(weighting: str) -> None:
    draw = random.Random(1)
    terms = [term(draw, advantage) for _ in range(3) for advantage in group_advantages([1, 0, 0, 1])]
    masks = [np.ones(len(tokens.logprobs), bool) for tokens in terms]
    weights = token_weights(masks, ["rollout"] * 12, [index // 4 for index in range(12)], weighting)
    logprobs, old, reference = (np.concatenate([tokens[place] for tokens in terms]) for place in (0, 1, 3))
    each = np.concatenate([np.full(len(tokens.logprobs), tokens.advantage) for tokens in terms])
    found = clipped_objective(logprobs, old, each, np.concatenate(weights), reference_logprobs=reference)
    assert found == near(statistics.fmean(clipped(tokens, 0.2, 0.4, 1e-3) for tokens in terms))


# --- Objective -------------------------------------------------------------------------------------------


def test_at_ratio_one_the_objective_is_the_weighted_mean_advantage() -> None:
    logprobs, each = [[-1.0, -2.0], [-0.5, 0.0]], [[1.5, -0.5], [2.0, 9.0]]
    assert clipped_objective(logprobs, logprobs, each, [[0.25, 0.25], [0.5, 0.0]]) == near(1.25)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(2.0, 1.0, 1.4), (0.5, 1.0, 0.5), (2.0, -1.0, -2.0), (0.5, -1.0, -0.8), (1.3, 2.0, 2.6), (0.9, -2.0, -1.8)],
)
def test_the_ratio_is_clipped_only_where_that_lowers_the_objective(
    ratio: float, advantage: float, expected: float
) -> None:
    assert clipped_objective([math.log(ratio)], [0.0], [advantage], [1.0]) == near(expected)


def test_the_bounds_of_the_ratio_are_the_given_ones() -> None:
    assert clipped_objective([math.log(2)], [0.0], [1.0], [1.0], eps_high=0.1) == near(1.1)
    assert clipped_objective([math.log(0.5)], [0.0], [-1.0], [1.0], eps_low=0.3) == near(-0.7)


def test_divergence_from_the_reference_is_paid_for_at_weighted_tokens() -> None:
    policy, reference = [-1.0, -1.0], [-1.0 + math.log(2), 50.0]
    found = clipped_objective(policy, policy, [1.0, 1.0], [1.0, 0.0], reference_logprobs=reference, beta=0.5)
    assert found == near(1 - 0.5 * (2 - math.log(2) - 1))
    assert clipped_objective(policy, policy, [1.0, 1.0], [1.0, 0.0], beta=0.5) == 1.0


def test_tokens_without_weight_may_have_no_numbers() -> None:
    logprobs = [None, math.nan, -1.0]
    assert clipped_objective(logprobs, logprobs, [math.inf, None, 3.0], [0.0, 0.0, 1.0]) == 3.0
    assert clipped_objective([], [], [], []) == 0.0


def test_a_prefix_and_its_continuations_are_summed_and_each_is_a_mean_over_its_tokens() -> None:
    prefix, branches = (
        TermTokens([-1, -1, -1], [-1, -1, -1], 1.5),
        [TermTokens([-2], [-2], -0.5), TermTokens([], [], 9)],
    )
    assert axpo_objective(prefix, branches) == near(1.0)
    assert axpo_objective(TermTokens([math.log(2)], [0.0], 1.0), [], eps_high=0.1) == near(1.1)


# --- Bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", [0.5, -1, 2, None, math.nan, "1", [1]])
def test_a_reward_that_is_neither_0_nor_1_is_refused_with_index_value_and_hint(reward: Any) -> None:
    for refused, of in (
        (lambda: group_advantages([0, 1, reward]), "rollout"),
        (lambda: continuation_advantages([0, 1, reward]), "continuation"),
        (lambda: recovery_reward([0, 1, reward]), "continuation"),
        (lambda: prefix_advantages([0, 1, reward], {}), "rollout"),
    ):
        with pytest.raises(CorrectnessError) as caught:
            refused()
        assert caught.value.message == f"the reward of {of} 2 is {reward!r}, which is neither 0 nor 1"
        assert "--correct" in caught.value.hint


def test_rewards_may_be_booleans_and_arrays_of_any_number() -> None:
    expected = group_advantages([1, 0, 0]).tolist()
    for dtype in (bool, np.int8, np.float32):
        assert group_advantages(np.array([1, 0, 0], dtype)).tolist() == expected
    assert group_advantages([True, False, 0.0]).tolist() == expected
    with pytest.raises(CorrectnessError, match=r"rollout 1 is 0\.5, "):
        group_advantages(np.array([1, 0.5], np.float32))


REFUSED = {
    "there is no rollout": lambda: group_advantages([]),
    "shape is (1, 2)": lambda: group_advantages([[0, 1]]),
    "shape is ()": lambda: group_advantages(1),
    "ddof=2": lambda: group_advantages([0, 1], Preset(2, 0.0, "zero")),
    "eps=nan": lambda: group_advantages([0], Preset(0, math.nan, "itself")),
    "1 continuation,": lambda: continuation_advantages([1]),
    "a prefix has 1 continuation": lambda: axpo_advantages(GROUP, [Resampled(0, [1])], preset=PRESETS["verl"]),
    "there is no continuation": lambda: recovery_reward([]),
    "given for 1 continuations, and there are 2": lambda: recovery_reward([0, 1], executed=[True]),
    "`executed` of continuation 1 is None": lambda: recovery_reward([0, 1], executed=[True, None]),
    "source 8 is not one of those that failed of the rollouts 0 to 7": lambda: prefix_advantages(GROUP, {8: 1.0}),
    "source -1 ": lambda: prefix_advantages(GROUP, {-1: 1.0}),
    "source 2 is not one of those that failed": lambda: axpo_advantages(GROUP, [Resampled(2, [0, 1])]),
    "sources [1, 1]": lambda: axpo_advantages(GROUP, [Resampled(1, [0, 1]), Resampled(1, [0, 1])]),
    "continuations of rollout 0 executed": lambda: axpo_advantages(
        GROUP, [Resampled(0, [0, 1])], require_executed=True
    ),
    "branch point 3 is outside its sequence of 2": lambda: prefix_mask([True, False], 3),
    "branch point -1 ": lambda: continuation_mask([True, False], -1),
    "`sampled` of token 1 is None": lambda: rollout_mask([True, None]),
    "1 masks, 2 terms and 1 questions": lambda: token_weights([[1]], ["rollout"] * 2, [0]),
    "mask of token 0 is 0.5": lambda: token_weights([np.array([0.5])], ["rollout"], [0]),
    "old_logprobs (1,)": lambda: clipped_objective([-1.0, -1.0], [-1.0], [1.0, 1.0], [1.0, 1.0]),
    "logprobs of token [1] is nan": lambda: clipped_objective([-1.0, None], [-1.0, -1.0], [1.0, 1.0], [0.5, 0.5]),
    "weights of token [0] is nan": lambda: clipped_objective([-1.0], [-1.0], [1.0], [math.nan]),
    "800 nats apart": lambda: clipped_objective([0.0], [-800.0], [0.0], [1.0]),
    "beta -1": lambda: clipped_objective([], [], [], [], beta=-1),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_has_no_meaning_is_refused_with_its_value(message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        REFUSED[message]()
    assert message in caught.value.message


def test_a_prefix_reward_is_0_or_1() -> None:
    with pytest.raises(CorrectnessError, match=r"prefix 1 is 0\.25"):
        prefix_advantages(GROUP, {0: 1.0, 1: 0.25}, DEFAULT)


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(UnknownName, match="unknown substitution 'Joint'"):
        prefix_advantages(GROUP, {0: 1.0}, substitution="Joint")
    with pytest.raises(UnknownName, match="unknown weighting 'mean'"):
        token_weights([], [], [], "mean")
    with pytest.raises(UnknownName, match="unknown term 'branch'"):
        token_weights([[1]], ["branch"], [0])
