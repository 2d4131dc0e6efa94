"""Plans: the worked examples, a second implementation of the whole selection, and what holds for every plan."""

import gzip
import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from axpo_logs import Made, drawn, rollout, written
from axpo_selection import planned, selection
from msgspec.structs import replace

import gapscope as gs
from gapscope.axpo.plan import plan
from gapscope.errors import PlanError
from gapscope.plan_options import PlanOptions
from gapscope.plans import Plan
from gapscope.rollouts import Tokens

FIX8 = {
    "G1": ("1000", "0110"), "G2": ("1100", "0010"), "G3": ("1000", "0111"), "G4": ("1110", "0000"),
    "G5": ("1100", "1111"), "G6": ("0000", "1010"), "G7": ("1111", "1001"), "G8": ("1100", "1000"),
}  # fmt: skip


# --- Worked examples -------------------------------------------------------------------------------------


def fix8() -> Iterator[gs.Rollout]:
    """Four rollouts of each group; a later one is less sure of its call."""
    for group, (tool, correct) in FIX8.items():
        for place in range(4):
            calls = [Made(logprobs=[math.log(0.9 - 0.2 * place)])] if tool[place] == "1" else []
            yield rollout(
                calls, prompt=group, group_id=group, sample_index=place, rollout_id=f"{group}.{place}", step=1,
                correct=correct[place] == "1",
            )  # fmt: skip


def test_the_plan_of_the_worked_groups_is_the_published_one(tmp_path: Path) -> None:
    found = plan(written(tmp_path / "log.jsonl", fix8()), PlanOptions(success=0.1))
    header = found.header
    counts = header.counts
    assert (counts.groups, counts.rollouts, counts.triggered, counts.candidates) == (8, 32, 4, 7)
    assert (counts.slots, counts.selected, counts.reached) == (2, 2, 2)
    budget = header.budget
    assert (budget.needed_first, budget.needed_all, budget.given, budget.continuations) == (4, 7, 2, 8)
    assert budget.share == 0.25
    assert [(p.group_id, p.rollout_id, p.rank, p.candidates) for p in found.prefixes] == [
        ("G1", "G1.0", 1, 1),
        ("G2", "G2.1", 1, 2),
    ]
    assert [p.confidence for p in found.prefixes] == pytest.approx([0.9, 0.7], abs=1e-12)
    expected = {each.p: each.groups for each in header.expected_recovered}
    assert expected[0.0315] == pytest.approx(0.240341, abs=5e-7)
    assert expected[0.1] == pytest.approx(0.687800, abs=5e-7)


def test_two_prefixes_of_one_group_recover_it_less_often_than_two_groups(tmp_path: Path) -> None:
    log = written(tmp_path / "log.jsonl", (r for r in fix8() if r.group_id in {"G2", "G5", "G6", "G7"}))
    found = plan(log, PlanOptions(r="0.5", success=0.1))
    assert [p.rollout_id for p in found.prefixes] == ["G2.1", "G2.0"]
    expected = {each.p: each.groups for each in found.header.expected_recovered}
    assert expected[0.1] == pytest.approx(1 - 0.9**8, abs=1e-12)
    assert pytest.approx(0.569533, abs=5e-7) == 1 - 0.9**8


def test_the_two_means_rank_the_worked_calls_in_opposite_orders(tmp_path: Path) -> None:
    # Of a call without a body and with three tokens: delimiter, one word, delimiter.
    first, second = ([math.log(p) for p in values] for values in ((0.9, 0.9, 0.1), (0.6, 0.6, 0.6)))
    members = [
        rollout([Made(body="x", logprobs=values)], group_id="g", sample_index=place, correct=False, rollout_id=name)
        for place, (name, values) in enumerate([("first", first), ("second", second)])
    ]
    log = written(tmp_path / "log.jsonl", members)
    arithmetic = plan(log, PlanOptions(r="4")).prefixes
    assert [p.rollout_id for p in arithmetic] == ["second", "first"]
    assert [p.confidence for p in arithmetic] == pytest.approx([0.6, 1.9 / 3], abs=1e-12)
    geometric = plan(log, PlanOptions(r="4", confidence={"mean": "geometric"})).prefixes
    assert [p.rollout_id for p in geometric] == ["first", "second"]
    assert [p.confidence for p in geometric] == pytest.approx([0.081 ** (1 / 3), 0.6], abs=1e-12)


# --- A second implementation -----------------------------------------------------------------------------


def some_options(seed: int) -> PlanOptions:
    """Options of the choice drawn at random; the ordinary ones more often than others."""
    rng = random.Random(seed)
    return PlanOptions(
        k=rng.choice([2, 3, 4, 4]),
        r=rng.choice(["0.25", "0.25", "0.29", "0.5", "1"]),
        tool_using=rng.choice(["attempted", "attempted", "parsed", "executed"]),
        branch_call=rng.choice(["first", "first", "first", 1, 2]),
        candidate={"require_closed": rng.random() < 0.7},
        confidence={
            "span": rng.choice(["first_call_with_tags", "first_call_no_tags", "all_calls"]),
            "mean": rng.choice(["arithmetic", "geometric"]),
        },
        allocation={"order": rng.choice(["batch", "global_confidence"])},
        max_turns=rng.choice([None, None, 1, 2]),
        step="all",
    )


def check(seed: int, folder: Path, *, steps: int) -> int:
    """Compare the two on one log under several options; gives how many batches that were."""
    rollouts = drawn(seed, steps=steps)
    store = gs.ingest(written(folder / f"{seed}.jsonl", rollouts), into=folder / f"{seed}.duckdb")
    store.close()
    for number in range(4):
        options = some_options(4 * seed + number)
        found, expected = plan(folder / f"{seed}.duckdb", options), selection(rollouts, options)
        assert [planned(prefix) for prefix in found.prefixes] == expected.chosen
        assert found.header.counts.triggered == expected.triggered
        assert found.header.noncandidates == dict(expected.unusable)
        assert found.header.counts.selected == len(expected.chosen)
    return 4 * len({each.step for each in rollouts})


def test_a_second_implementation_selects_the_same_prefixes(tmp_path: Path) -> None:
    assert sum(check(seed, tmp_path, steps=25) for seed in range(3)) >= 290


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [range(first, first + 5) for first in range(3, 33, 5)], ids=str)
def test_a_second_implementation_selects_the_same_prefixes_of_thousands_of_batches(
    tmp_path: Path, seeds: range
) -> None:
    """Of 2,900 in all; in parts, which two processes can share."""
    assert sum(check(seed, tmp_path, steps=25) for seed in seeds) >= 484


# --- What holds for every plan ---------------------------------------------------------------------------


def lines(found: Plan) -> list[dict[str, Any]]:
    """What a plan says, but for where each rollout stood."""
    header = found.header.model_dump(mode="json")
    header["source"].pop("files")
    header["source"].pop("paths")
    del header["digest"]
    prefixes = [json.loads(prefix.model_dump_json()) for prefix in found.prefixes]
    for prefix in prefixes:
        del prefix["source"]
    return [header, *prefixes]


def shuffled_within_groups(rng: random.Random, rollouts: Sequence[gs.Rollout]) -> list[gs.Rollout]:
    """The same places for each group, and other members in them."""
    places = defaultdict(list)
    for place, each in enumerate(rollouts):
        places[each.step, each.group_id].append(place)
    found = list(rollouts)
    for own in places.values():
        for place, other in zip(own, rng.sample(own, len(own)), strict=True):
            found[place] = rollouts[other]
    return found


def shuffled_groups(rng: random.Random, rollouts: Sequence[gs.Rollout]) -> list[gs.Rollout]:
    groups = defaultdict(list)
    for each in rollouts:
        groups[each.step, each.group_id].append(each)
    order = list(groups)
    rng.shuffle(order)
    return [each for key in order for each in groups[key]]


@pytest.mark.parametrize("order", ["batch", "global_confidence"])
@pytest.mark.parametrize("rank", ["uncertainty", "random"])
def test_no_budget_is_exceeded_and_each_question_has_its_first_prefix_before_any_has_a_second(
    tmp_path: Path, order: str, rank: str
) -> None:
    store = tmp_path / "run.duckdb"
    gs.ingest(written(tmp_path / "log.jsonl", drawn(101)), into=store).close()
    for r in ("0", "0.1", "0.25", "0.6", "2"):
        found = plan(store, PlanOptions(r=r, allocation={"order": order}, rank=rank, seed=3, step="all"))
        own = defaultdict(list)
        for prefix in found.prefixes:
            own[prefix.step].append(prefix)
        for step in found.header.steps:
            prefixes = own[step.step]
            assert len(prefixes) == step.selected
            assert 4 * len(prefixes) <= Fraction(r) * step.rollouts
            assert len(prefixes) == min(step.slots, step.candidates)
            ranks = [prefix.rank for prefix in prefixes]
            assert ranks == sorted(ranks)
            taken = Counter(prefix.group_id for prefix in prefixes)
            assert sorted(ranks) == sorted(rank + 1 for each in taken.values() for rank in range(each))
            ends = {prefix.group_id: prefix.candidates for prefix in prefixes}
            most = max(taken.values(), default=0)
            assert all(count in {most, most - 1, ends[group]} for group, count in taken.items())
        assert [prefix.order for prefix in found.prefixes] == list(range(len(found.prefixes)))


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_order_of_rows_inside_a_group_never_changes_a_plan(tmp_path: Path, seed: int, *, indexed: bool) -> None:
    rollouts = drawn(seed, indexed=indexed)
    options = some_options(seed).model_copy(update={"rank": "random" if seed == 3 else "uncertainty", "seed": 5})
    options = options.model_copy(update={"confidence": options.confidence.model_copy(update={"span": "all_calls"})})
    first = lines(plan(written(tmp_path / "first.jsonl", rollouts), options))
    other = shuffled_within_groups(random.Random(seed), rollouts)
    assert other != rollouts
    second = lines(plan(written(tmp_path / "second.jsonl", other), options))
    if not indexed:
        for prefix in first[1:] + second[1:]:
            # Rollouts without a name are called by their lines.
            del prefix["rollout_id"]
    assert len(first) > 10
    assert first == second


@pytest.mark.parametrize("order", ["batch", "global_confidence"])
def test_the_order_of_groups_changes_only_who_gets_the_last_slots_of_a_pass(tmp_path: Path, order: str) -> None:
    compared = Counter[bool]()
    for seed in range(4):
        rollouts = drawn(200 + seed, ties=False)
        other = shuffled_groups(random.Random(seed), rollouts)
        options = PlanOptions(r="0.4", k=2, allocation={"order": order}, step="all")
        first, second = (plan(written(tmp_path / "log.jsonl", each), options) for each in (rollouts, other))
        assert first.header.counts == second.header.counts
        for step in first.header.steps:
            same = of_step(first, step.step) == of_step(second, step.step)
            cut = order == "batch" and is_cut_within_a_pass(first, step.step)
            assert same or cut
            compared[same] += bool(step.selected)
    assert compared[True] > 40
    assert (compared[False] > 0) == (order == "batch")


def of_step(found: Plan, step: int | None) -> set[str]:
    return {prefix.rollout_id for prefix in found.prefixes if prefix.step == step}


def is_cut_within_a_pass(found: Plan, step: int | None) -> bool:
    """Whether some question that has another candidate got fewer prefixes than another one."""
    (budget,) = (each for each in found.header.steps if each.step == step)
    return budget.selected == budget.slots < budget.candidates


def test_equal_logs_and_options_give_equal_bytes(tmp_path: Path) -> None:
    log = written(tmp_path / "log.jsonl", drawn(7))
    for seed in range(4):
        options = some_options(seed)
        assert plan(log, options).to_jsonl() == plan(log, options).to_jsonl()


def test_a_plan_is_the_same_from_a_store_a_compressed_file_and_several_files(tmp_path: Path) -> None:
    rollouts = drawn(8)
    options = PlanOptions(step="all", r="1")
    log = written(tmp_path / "log.jsonl", rollouts)
    expected = lines(plan(log, options))
    gs.ingest(log, into=tmp_path / "run.duckdb").close()
    assert lines(plan(tmp_path / "run.duckdb", options)) == expected
    (tmp_path / "log.jsonl.gz").write_bytes(gzip.compress(log.read_bytes()))
    assert lines(plan(tmp_path / "log.jsonl.gz", options)) == expected
    parts = []
    for step in range(25):
        own = [each for each in rollouts if each.step == step]
        parts.append(written(tmp_path / f"{step}.jsonl", own))
    assert lines(plan(parts, options)) == expected
    assert lines(plan(parts[::-1], options)) == expected


def test_every_continuation_has_its_own_seed_of_32_bits_and_those_of_a_prefix_are_consecutive(tmp_path: Path) -> None:
    log = written(tmp_path / "log.jsonl", [each for each in drawn(9, steps=60) if each.group_id != "q0-0"])
    of_seed = {}
    for seed in (None, 0, 1):
        found = plan(log, PlanOptions(step="all", r="2", k=5, seed=seed))
        seeds = [each for prefix in found.prefixes for each in prefix.seeds]
        assert len(found.prefixes) > 100
        assert len(set(seeds)) == len(seeds) == 5 * len(found.prefixes)
        assert all(0 <= each < 2**31 for each in seeds)
        for prefix in found.prefixes:
            assert prefix.seeds == list(range(prefix.seeds[0], prefix.seeds[0] + 5))
        of_seed[seed] = seeds
    assert of_seed[None] == of_seed[0]
    assert not set(of_seed[0]) & set(of_seed[1])


def test_a_random_rank_takes_other_prefixes_with_another_seed_and_is_called_by_its_name(tmp_path: Path) -> None:
    log = written(tmp_path / "log.jsonl", drawn(10))
    plans = [plan(log, PlanOptions(step="all", rank="random", seed=seed)) for seed in (1, 1, 2)]
    assert plans[0] == plans[1]
    assert {p.rollout_id for p in plans[0].prefixes} != {p.rollout_id for p in plans[2].prefixes}
    (departure,) = plans[0].header.departures
    assert departure.label == "AXPO without uncertainty rank (arXiv:2605.28774, table 2)"
    assert any("without uncertainty rank" in note for note in plans[0].header.notes)


def test_a_random_rank_needs_no_logprobs_and_a_rank_by_confidence_is_refused_without(tmp_path: Path) -> None:
    rollouts = drawn(11)
    for each in rollouts:
        if each.tokens is not None:
            each.tokens = replace(each.tokens, logprobs=None, logprob_source=None)
    log = written(tmp_path / "log.jsonl", rollouts)
    with pytest.raises(PlanError, match="no log-probs") as caught:
        plan(log, PlanOptions(step="all"))
    assert caught.value.hint is not None
    assert "gapscope score" in caught.value.hint
    assert "--rank random" in caught.value.hint
    found = plan(log, PlanOptions(step="all", rank="random", seed=0))
    assert len(found.prefixes) > 10
    assert {prefix.confidence for prefix in found.prefixes} == {None}


def test_of_two_questions_and_one_slot_the_order_of_the_batch_or_the_confidence_decides(tmp_path: Path) -> None:
    for first, second in (("surer", "less sure"), ("less sure", "surer")):
        members = [
            rollout(
                [Made(logprobs=[-0.1 if name == "surer" else -1.0])], group_id=name, sample_index=place, correct=False
            )
            for name in (first, second)
            for place in range(2)
        ]
        log = written(tmp_path / "log.jsonl", members)
        for order, expected in (("batch", first), ("global_confidence", "less sure")):
            found = plan(log, PlanOptions(r="0.5", k=2, allocation={"order": order}))
            assert [prefix.group_id for prefix in found.prefixes] == [expected]


@pytest.mark.parametrize(
    "tokens",
    [
        None,
        Tokens([1, 2, 3], 1, retokenised=True),
        Tokens([1, 2, 3], 1, sampled=[False, True, True]),
        Tokens(None, 1, strings=["Q", "<tool_call>", "x"]),
    ],
    ids=["no tokens", "made from text", "calls not found in them", "strings alone"],
)
def test_a_prefix_without_the_ids_that_were_sampled_is_never_exact(tmp_path: Path, tokens: Tokens | None) -> None:
    members = [rollout([Made()], group_id="g", sample_index=place, correct=False) for place in range(2)]
    for each in members:
        each.tokens = tokens
        each.spans = [replace(span, token_start=None, token_end=None) for span in each.spans]
        each.calls = [replace(call, tokens=None) for call in each.calls]
    found = plan(written(tmp_path / "log.jsonl", members), PlanOptions(r="2", k=2, rank="random", seed=0))
    assert len(found.prefixes) == 2
    for prefix in found.prefixes:
        content = prefix.prefix
        assert (content.exact, content.token_ids, content.n_tokens, content.masked) == (False, None, None, [])
        assert (content.prompt, content.text) == ("What is 1 + 1?", "<think>hm</think><tool_call>")
    assert found.header.exactness.text_retokenised == 2
    assert any(note.startswith("text_retokenised: 2 of 2") for note in found.header.notes)


def test_a_prefix_says_how_many_turns_and_tokens_are_left(tmp_path: Path) -> None:
    members = [
        rollout([Made(), Made()], group_id="g", sample_index=place, rollout_id=f"{place}", correct=False)
        for place in range(2)
    ]
    log = written(tmp_path / "log.jsonl", members)
    first = plan(log, PlanOptions(r="4", k=2, max_turns=3, sampling={"max_tokens": 5})).prefixes
    # Three tokens of thinking and the delimiter; the second call is in the second turn.
    assert [(prefix.remaining_turns, prefix.remaining_tokens) for prefix in first] == [(3, 1), (3, 1)]
    second = plan(log, PlanOptions(r="4", k=2, max_turns=3, branch_call=2)).prefixes
    assert [(prefix.remaining_turns, prefix.remaining_tokens) for prefix in second] == [(2, None), (2, None)]
    for options, reason in (
        ({"sampling": {"max_tokens": 4}}, "no_tokens_left"),
        ({"max_turns": 1, "branch_call": 2}, "no_turns_left"),
        ({"branch_call": 3}, "no_such_call"),
    ):
        empty = plan(log, PlanOptions.model_validate({"r": "4", "k": 2} | options))
        assert empty.prefixes == ()
        assert empty.header.noncandidates == {reason: 2}


def test_rollouts_that_are_equal_in_all_they_say_are_told_apart(tmp_path: Path) -> None:
    log = written(tmp_path / "log.jsonl", [rollout([Made()], group_id="g", correct=False) for _ in range(3)])
    found = plan(log, PlanOptions(r="4", k=3))
    assert len({prefix.id for prefix in found.prefixes}) == 3
    assert len({seed for prefix in found.prefixes for seed in prefix.seeds}) == 9
    assert found.header.duplicates == 2
