"""Batches from small resampled logs, each number checked by hand; and from drawn ones, counted a second way."""

import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import axpo_logs
import numpy as np
import pyarrow.parquet as pq
import pytest
from axpo_logs import Made
from msgspec.structs import replace

import gapscope as gs
from gapscope.axpo import batch_file, padded
from gapscope.axpo.advantages import PRESETS, group_advantages, token_weights
from gapscope.axpo.export import export
from gapscope.axpo.exported import Exported
from gapscope.axpo.plan import plan
from gapscope.axpo.plan_file import write_plan
from gapscope.axpo.term_weights import Weighed, term_weights
from gapscope.errors import CorrectnessError, InputError, NothingScanned, PlanError, SettingsError
from gapscope.ingest import ingest
from gapscope.plan_options import AdvantageOptions, PlanOptions, RecoveryOptions
from gapscope.planning import ReadOptions
from gapscope.plans import Plan
from gapscope.rollouts import Image, Parent, to_json

SETTINGS = gs.Settings()
GROUP = [0, 0, 1, 1, 0, 0, 0, 0]

# Of each tool-using rollout here: ten tokens of the prompt, three of thinking, and the delimiter.
BRANCH = 14


def original(place: int, correct: float | None, *calls: Made, group: str = "q", **fields: Any) -> gs.Rollout:
    known = None if correct is None else bool(correct)
    given = {"group_id": group, "sample_index": place, "rollout_id": f"{group}{place}", "step": 3, "correct": known}
    return axpo_logs.rollout(calls, **(given | fields))


def continued(source: gs.Rollout, number: int, correct: float | None, **fields: Any) -> gs.Rollout:
    """A continuation that calls with another argument; nothing is known of the log-probs of its prefix."""
    made = original(number, correct, Made(f'{{"name": "calc", "arguments": {{"x": {number}}}}}'), **fields)
    prefix = f"p-{source.rollout_id}"
    made.rollout_id, made.group_id = f"{prefix}:{number}", prefix
    made.step, made.split = source.step, source.split
    made.parent = Parent(source.rollout_id or "", source.calls[0].body_start, BRANCH, prefix)
    tokens = made.tokens
    assert tokens is not None
    assert tokens.logprobs is not None
    made.tokens = replace(tokens, logprobs=[None] * BRANCH + tokens.logprobs[BRANCH:])
    return made


def group_of_eight() -> list[gs.Rollout]:
    return [original(place, correct, *([Made()] * (place < 2))) for place, correct in enumerate(GROUP)]


def worked() -> list[gs.Rollout]:
    """The worked group: rollouts 0 and 1 use a tool, and one of four continuations of rollout 0 is right."""
    own = group_of_eight()
    return [*own, *(continued(own[0], number, number == 0) for number in range(4))]


@pytest.fixture
def batch(tmp_path: Path) -> Callable[..., tuple[Exported, list[dict[str, Any]]]]:
    """Write rollouts as a log, export it, and read the batch."""

    def made(*rollouts: gs.Rollout, **options: Any) -> tuple[Exported, list[dict[str, Any]]]:
        log = axpo_logs.written(tmp_path / "log.jsonl", rollouts)
        done = export([log], tmp_path / "batch", to="parquet", settings=SETTINGS, **options)
        rows: list[dict[str, Any]] = pq.read_table(done.path).to_pylist()
        return done, rows

    return made


Batch = Callable[..., tuple[Exported, list[dict[str, Any]]]]


def advantage(row: dict[str, Any]) -> float:
    """That of all its trained tokens, which is there for no other token."""
    values = {value for value, trained in zip(row["advantages"], row["response_mask"], strict=True) if trained}
    others = {value for value, trained in zip(row["advantages"], row["response_mask"], strict=True) if not trained}
    assert others == {None}
    (value,) = values
    return float(value)


def near(value: float) -> Any:
    return pytest.approx(value, abs=1e-12)


# --- The worked group -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_the_worked_group_has_its_closed_forms_in_the_batch(batch: Batch, name: Any) -> None:
    done, rows = batch(*worked(), options=PlanOptions(advantage=AdvantageOptions(preset=name)))
    of_8, of_4 = (math.sqrt(n / (n - PRESETS[name].ddof)) for n in (8, 4))
    eps = PRESETS[name].eps
    found = {row["rollout_id"]: row for row in rows}
    assert advantage(found["q0"]) == near(5 / 8 / (math.sqrt(15) / 8 * of_8 + eps))
    for place in range(1, 8):
        right = GROUP[place]
        assert advantage(found[f"q{place}"]) == near((right - 1 / 4) / (math.sqrt(3) / 4 * of_8 + eps))
    for number in range(4):
        right = number == 0
        assert advantage(found[f"p-q0:{number}"]) == near((right - 1 / 4) / (math.sqrt(3) / 4 * of_4 + eps))
    assert done.rows == {"rollout": 7, "prefix": 1, "continuation": 4}
    assert not done.left_out


def test_each_row_says_what_it_is(batch: Batch) -> None:
    _, rows = batch(*worked())
    assert [(row["term"], row["reward"], row["group_id"], row["parent_id"]) for row in rows] == [
        ("prefix", 1.0, "q", None),
        *(("rollout", float(right), "q", None) for right in GROUP[1:]),
        *(("continuation", float(number == 0), "p-q0", "q0") for number in range(4)),
    ]
    assert {(row["step"], row["prompt_length"], row["run"]) for row in rows} == {(3, 10, None)}


def test_a_source_is_trained_up_to_its_branch_point_and_a_continuation_behind_it(batch: Batch) -> None:
    own = worked()
    done, rows = batch(*own)
    for rollout, row in zip(own, rows, strict=True):
        tokens = rollout.tokens
        assert tokens is not None
        assert tokens.sampled is not None
        assert row["token_ids"] == tokens.ids
        counted = {
            "rollout": tokens.sampled,
            "prefix": [own and place < BRANCH for place, own in enumerate(tokens.sampled)],
            "continuation": [own and place >= BRANCH for place, own in enumerate(tokens.sampled)],
        }
        assert row["response_mask"] == counted[row["term"]]
        assert row["old_logprobs"] == tokens.logprobs
    assert sum(rows[0]["response_mask"]) == done.tokens["prefix"] == 4
    # The result of a tool, three tokens, is trained on nowhere.
    assert len(rows[1]["token_ids"]) - 10 - sum(rows[1]["response_mask"]) == 3


def test_without_a_continuation_the_batch_is_plain_grpo(batch: Batch) -> None:
    done, rows = batch(*group_of_eight())
    assert [advantage(row) for row in rows] == group_advantages(GROUP).tolist()  # type: ignore[union-attr]
    assert "plain GRPO" in done.remarks()[0]


def test_two_sources_of_a_group_are_substituted_alone_or_together(batch: Batch) -> None:
    own = group_of_eight()
    log = [*own, *(continued(own[source], n, (source, n) == (0, 0)) for source in (0, 1) for n in range(4))]
    exact = AdvantageOptions(eps=0)
    _, alone = batch(*log, options=PlanOptions(advantage=exact))
    _, both = batch(*log, options=PlanOptions(advantage=exact, substitution="joint"))
    assert [advantage(row) for row in alone[:2]] == [near(math.sqrt(5 / 3)), near(-1 / math.sqrt(3))]
    assert [advantage(row) for row in both[:2]] == [near(math.sqrt(5 / 3)), near(-math.sqrt(3 / 5))]


def test_recovery_may_ask_for_a_call_that_was_executed(batch: Batch) -> None:
    own = group_of_eight()
    children = [continued(own[0], number, number == 0) for number in range(4)]
    children[0].calls = [replace(children[0].calls[0], outcome="no_result", executed=False)]
    options = PlanOptions(recovery=RecoveryOptions(require_executed=True))
    done, strict = batch(*own, *children, options=options)
    _, loose = batch(*own, *children)
    assert (strict[0]["reward"], loose[0]["reward"]) == (0.0, 1.0)
    assert advantage(strict[0]) == advantage(strict[1])
    assert done.remarks() == ["not AXPO: recovered only if the call was executed"]
    children[1].calls = []
    unseen, _ = batch(*own, *children, options=options)
    assert "continuations that show no call, and count as not executed: 1" in unseen.remarks()


# --- Weights --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", ["per_term_mean", "token_mean", "question_sum"])
def test_weights_are_those_of_the_whole_masks(batch: Batch, weighting: Any) -> None:
    other = [original(place, place == 0, group="z") for place in range(3)]
    _, rows = batch(*worked(), *other, options=PlanOptions(weighting=weighting))
    masks = [np.array(row["response_mask"]) for row in rows]
    questions = ["z" if row["group_id"] == "z" else "q" for row in rows]
    expected = token_weights(masks, [row["term"] for row in rows], questions, weighting)
    for row, mask, weights in zip(rows, masks, expected, strict=True):
        assert set(weights[mask]) == {row["weight"]}
    total = sum(row["weight"] * sum(row["response_mask"]) for row in rows)
    assert total == near(1.0 if weighting != "question_sum" else (7 / 8 + 5 + 1) / 2)


@pytest.mark.parametrize("seed", range(20))
def test_weights_from_counts_are_those_from_masks(seed: int) -> None:
    rng = random.Random(seed)
    rows = [
        Weighed(rng.choice(["rollout", "prefix", "continuation"]), key, rng.randrange(3), 0, rng.randrange(4))
        for key in range(9)
    ]
    sizes = Counter(row.question for row in rows if row.term != "continuation")
    rows = [row._replace(n=sizes[row.question]) for row in rows]
    masks = [np.array([True] * row.tokens, dtype=bool) for row in rows]
    for weighting in ("per_term_mean", "token_mean", "question_sum"):
        expected = token_weights(masks, [row.term for row in rows], [row.question for row in rows], weighting)
        for row, weight, whole in zip(rows, term_weights(rows, weighting), expected, strict=True):
            assert whole.tolist() == [weight] * row.tokens


def test_the_outputs_of_one_session_are_one_term(batch: Batch) -> None:
    own = group_of_eight()
    halves = [replace(own[7], output_index=index) for index in (0, 1)]
    done, rows = batch(*own[:7], *halves)
    trained = [sum(row["response_mask"]) for row in rows]
    assert done.rows["rollout"] == 9
    assert rows[7]["weight"] == rows[8]["weight"] == near(1 / (8 * (trained[7] + trained[8])))
    assert advantage(rows[7]) == advantage(rows[8]) == advantage(rows[6])


def test_a_rollout_without_tokens_counts_in_its_group_all_the_same(batch: Batch) -> None:
    own = worked()
    untokened(own[2])
    done, rows = batch(*own, options=PlanOptions(weighting="question_sum"))
    _, whole = batch(*worked(), options=PlanOptions(weighting="question_sum"))
    assert done.left_out == {"no_token_ids": 1}
    kept = [row for row in whole if row["rollout_id"] != "q2"]
    assert rows == kept


# --- What is left out -----------------------------------------------------------------------------------


def tokens_of(rollout: gs.Rollout, **changes: Any) -> gs.Rollout:
    assert rollout.tokens is not None
    rollout.tokens = replace(rollout.tokens, **changes)
    return rollout


def without_a_logprob(rollout: gs.Rollout) -> gs.Rollout:
    assert rollout.tokens is not None
    assert rollout.tokens.logprobs is not None
    return tokens_of(rollout, logprobs=[*rollout.tokens.logprobs[:-1], None])


FAULTS: dict[str, Callable[[gs.Rollout], Any]] = {
    "no_token_ids": lambda it: tokens_of(it, ids=None, strings=["x"] * len(it.tokens or ())),
    "retokenised": lambda it: tokens_of(it, retokenised=True),
    "no_mask": lambda it: tokens_of(it, sampled=None),
    "impossible_ids": lambda it: tokens_of(it, ids=[-1] * len(it.tokens or ())),
    "no_prompt": lambda it: tokens_of(it, n_prompt=0),
    "nothing_sampled": lambda it: tokens_of(it, sampled=[False] * len(it.tokens or ())),
    "no_logprobs": without_a_logprob,
}


@pytest.mark.parametrize("reason", FAULTS)
def test_a_rollout_that_cannot_be_trained_on_is_left_out_and_counted(batch: Batch, reason: str) -> None:
    own = worked()
    FAULTS[reason](own[5])
    done, rows = batch(*own)
    assert done.left_out == {reason: 1}
    assert "q5" not in {row["rollout_id"] for row in rows}
    assert len(rows) == 11
    assert any(line.startswith("1 left out: ") for line in done.summary())


def test_a_log_prob_may_be_missing_where_nothing_is_trained(batch: Batch) -> None:
    own = worked()
    without_a_logprob(own[0])
    done, rows = batch(*own)
    assert not done.left_out
    assert rows[0]["old_logprobs"][-1] is None


def untokened(rollout: gs.Rollout) -> gs.Rollout:
    """The same as text alone."""
    rollout.tokens = None
    rollout.spans = [replace(span, token_start=None, token_end=None) for span in rollout.spans]
    rollout.calls = [replace(call, tokens=None) for call in rollout.calls]
    return rollout


def renamed(rollout: gs.Rollout, **fields: Any) -> gs.Rollout:
    for name, value in fields.items():
        setattr(rollout, name, value)
    return rollout


def test_rows_that_are_no_rollouts_of_the_step_are_counted(batch: Batch) -> None:
    own = worked()
    more = [
        renamed(original(0, 0, group="pad"), status="padding"),
        renamed(original(1, 0), rollout_id="q1"),
        original(0, 1, group="v", split="validation"),
        renamed(continued(own[0], 9, 1), parent=Parent("nobody", None, BRANCH, "p-nobody")),
        renamed(original(0, 1), group_id=None, prompt=None, rollout_id="x", sample_index=None),
    ]
    done, rows = batch(*own, *more)
    expected = {"padding": 1, "duplicate": 1, "validation": 1, "source_not_in_log": 1, "no_group_key": 1}
    assert done.left_out == expected
    assert len(rows) + sum(done.left_out.values()) == len(own) + len(more)


def test_groups_without_an_advantage_are_left_out_with_their_continuations(batch: Batch) -> None:
    lone = original(0, 0, Made(), group="one")
    unknown = [original(0, None, group="none"), original(1, None, group="none")]
    partly = [original(0, 0, Made(), group="part"), original(1, None, group="part")]
    mixed = [original(0, 0, group="mix"), original(1, 0, group="mix", prompt="Who am I?")]
    children = [continued(source, number, 0) for source in (lone, partly[0]) for number in range(2)]
    done, _ = batch(*group_of_eight(), lone, *unknown, *partly, *mixed, *children)
    expected = {"group_of_one": 3, "correctness_undefined": 2, "partial_correctness": 4, "mixed_prompt": 2}
    assert done.left_out == expected


@pytest.mark.parametrize(("preset", "expected"), [("verl", 1 / (1 + 1e-6)), ("rllm", 1 / (1 + 1e-6)), ("trl", 0.0)])
def test_a_group_of_one_has_what_the_preset_says(batch: Batch, preset: Any, expected: float) -> None:
    options = PlanOptions(advantage=AdvantageOptions(preset=preset))
    done, rows = batch(original(0, 1, group="one"), options=options)
    assert not done.left_out
    assert advantage(rows[0]) == near(expected)


def test_a_prefix_with_one_verdict_is_not_selected(batch: Batch) -> None:
    own = worked()
    for child in own[9:]:
        child.correct = child.correct_rule = None
    done, rows = batch(*own)
    assert done.left_out == {"no_verdict": 3, "prefix_not_selected": 1}
    assert [advantage(row) for row in rows] == group_advantages(GROUP).tolist()  # type: ignore[union-attr]
    assert {row["term"] for row in rows} == {"rollout"}


def test_a_source_that_was_right_keeps_its_own_advantage(batch: Batch) -> None:
    own = group_of_eight()
    own[2] = original(2, 1, Made())
    done, rows = batch(*own, *(continued(own[2], number, 0) for number in range(3)))
    assert done.left_out == {"source_correct": 3}
    assert [row["term"] for row in rows] == ["rollout"] * 8


def test_of_two_prefixes_of_a_source_the_shorter_one_counts(batch: Batch) -> None:
    own = group_of_eight()
    own[0] = original(0, 0, Made(), Made())
    first = [continued(own[0], number, number == 0) for number in range(2)]
    later = own[0].calls[1]
    assert later.tokens is not None
    second = [continued(own[0], number, 0) for number in range(2)]
    for child in second:
        child.rollout_id, child.group_id = f"a-{child.rollout_id}", "a"
        child.parent = Parent("q0", later.body_start, later.tokens.branch, "a")
    done, rows = batch(*own, *second, *first)
    assert done.left_out == {"other_prefix": 2}
    assert [row["group_id"] for row in rows if row["term"] == "continuation"] == ["p-q0", "p-q0"]


def test_of_a_source_with_several_outputs_only_the_one_that_was_branched_is_trained_on(batch: Batch) -> None:
    own = group_of_eight()
    answered = replace(original(0, 0), output_index=1)
    children = [continued(own[0], number, number == 0) for number in range(2)]
    done, rows = batch(replace(own[0], output_index=0), answered, *own[1:], *children)
    assert done.left_out == {"other_output": 1}
    assert [row["rollout_id"] for row in rows if row["term"] == "prefix"] == ["q0"]


def test_a_continuation_of_other_tokens_is_left_out_and_its_source_is_still_credited(batch: Batch) -> None:
    own = worked()
    for child in own[8:]:
        tokens = child.tokens
        assert tokens is not None
        assert tokens.ids is not None
        child.tokens = replace(tokens, ids=[tokens.ids[0] + 1, *tokens.ids[1:]])
    done, rows = batch(*own)
    assert done.left_out == {"inexact_prefix": 4}
    assert done.rows == {"rollout": 7, "prefix": 1}
    assert advantage(rows[0]) == near(5 / 8 / (math.sqrt(15) / 8 + 1e-6))
    assert done.remarks() == ["prefixes that are trained on without their continuations, which were left out: 1"]


def test_a_continuation_sampled_from_text_is_left_out_and_its_source_is_still_credited(batch: Batch) -> None:
    own = worked()
    for child in own[8:]:
        untokened(child)
        assert child.parent is not None
        child.parent = replace(child.parent, branch_token=None)
    done, rows = batch(*own)
    assert (done.left_out, done.alone) == ({"no_token_ids": 4}, 1)
    assert (rows[0]["term"], sum(rows[0]["response_mask"])) == ("prefix", 4)


def test_a_source_whose_call_is_not_found_in_its_tokens_is_left_out_with_its_continuations(batch: Batch) -> None:
    own = worked()
    own[0].calls = [replace(own[0].calls[0], tokens=None)]
    done, _ = batch(*own)
    assert done.left_out == {"no_branch_point": 1, "inexact_prefix": 4}


def test_a_branch_point_that_is_not_where_the_source_has_a_call_is_no_branch_point(batch: Batch) -> None:
    own = worked()
    for child in own[8:]:
        assert child.parent is not None
        child.parent = replace(child.parent, branch_char=1)
    done, _ = batch(*own)
    assert done.left_out == {"no_branch_point": 1, "inexact_prefix": 4}


def test_a_log_of_which_nothing_can_be_trained_on_says_what_to_do(batch: Batch, tmp_path: Path) -> None:
    own = [untokened(each) for each in worked()]
    with pytest.raises(PlanError, match="no row can be trained on: 12 of 12 are left out: no token ids") as caught:
        batch(*own)
    assert "recorders" in (caught.value.hint or "")
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_continuations_alone_are_no_batch(batch: Batch) -> None:
    with pytest.raises(PlanError, match="it holds continuations alone"):
        batch(*worked()[8:])


# --- Verdicts -------------------------------------------------------------------------------------------


def shaped(reward: float, place: int) -> gs.Rollout:
    return original(place, None, reward=reward)


def test_shaped_rewards_are_refused_without_a_rule(batch: Batch) -> None:
    rollouts = [shaped(0.5, 0), shaped(1.0, 1)]
    with pytest.raises(CorrectnessError, match="it may be shaped"):
        batch(*rollouts)
    _, rows = batch(*rollouts, options=PlanOptions(correctness="score>=1"))
    assert [row["reward"] for row in rows] == [0.0, 1.0]


def test_verdicts_of_the_log_go_before_the_rule_of_the_settings(tmp_path: Path) -> None:
    log = axpo_logs.written(tmp_path / "log.jsonl", worked())
    done = export([log], tmp_path / "batch", to="parquet", settings=gs.Settings(correct="acc"))
    assert done.rows.total() == 12


def test_an_advantage_of_another_formula_is_noticed(batch: Batch) -> None:
    own = worked()
    logged = group_advantages(GROUP, PRESETS["verl"])
    assert logged is not None
    for rollout, value in zip(own, logged.tolist(), strict=False):
        rollout.advantage = value
    done, _ = batch(*own)
    assert (done.compared, done.apart) == (7, 7)
    assert done.farthest == pytest.approx(1.732047 - 1.620182, abs=1e-6)
    same, _ = batch(*own, options=PlanOptions(advantage=AdvantageOptions(preset="verl")))
    assert (same.compared, same.apart, same.farthest) == (7, 0, 0.0)


def test_what_to_know_of_a_batch_is_said(batch: Batch) -> None:
    own = worked()
    more = [original(place, place, group="later", step=4) for place in range(2)]
    tokens_of(more[0], logprob_source="rescored")
    more[1].images = [Image("00")]
    done, _ = batch(*own, *more)
    assert (done.rescored, done.images, done.steps) == (1, 1, {3, 4})
    assert len(done.remarks()) == 3


# --- Plans ----------------------------------------------------------------------------------------------


OPTIONS = PlanOptions(step="all", r=Decimal("0.5"), k=2)


class Planned(NamedTuple):
    """A plan of a drawn log, its file, and the log that it leads to."""

    plan: Plan
    file: Path
    log: Path


def planned(folder: Path, seed: int = 1, options: PlanOptions = OPTIONS) -> Planned:
    drawn = axpo_logs.written(folder / f"{seed}.jsonl", axpo_logs.drawn(seed, steps=10))
    made = plan([drawn], options, settings=SETTINGS)
    write_plan(folder / "plan.jsonl", made.header, made.prefixes)
    return Planned(made, folder / "plan.jsonl", axpo_logs.resampled(folder / "resampled.jsonl", made, 0.4, seed=seed))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """One of them, which is only read."""
    return planned(tmp_path_factory.mktemp("planned"))


def test_the_options_are_those_of_the_plan(tmp_path: Path) -> None:
    given = PlanOptions(
        step="all", r=Decimal("0.5"), k=2, advantage=AdvantageOptions(preset="trl"), weighting="token_mean"
    )
    made, file, log = planned(tmp_path, options=given)
    done = export([log], tmp_path / "b", to="parquet", plan=file, settings=SETTINGS)
    about = json.loads(pq.read_schema(done.path).metadata[b"gapscope.batch"])
    assert (about["advantage.preset"], about["weighting"], about["plan"]) == ("trl", "token_mean", made.header.digest)
    same = PlanOptions(weighting="token_mean", advantage=AdvantageOptions(ddof=1, eps=1e-4))
    again = export([log], tmp_path / "again.parquet", to="parquet", plan=file, options=same, settings=SETTINGS)
    assert again.path.read_bytes() == done.path.read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        PlanOptions(substitution="joint"),
        PlanOptions(weighting="token_mean"),
        PlanOptions(advantage=AdvantageOptions(preset="verl")),
        PlanOptions(advantage=AdvantageOptions(ddof=1)),
        PlanOptions(recovery=RecoveryOptions(require_executed=True)),
        PlanOptions(correctness="score>=2"),
    ],
    ids=lambda options: "-".join(options.model_fields_set),
)
def test_an_option_that_contradicts_the_plan_is_refused(first: Planned, tmp_path: Path, options: PlanOptions) -> None:
    with pytest.raises(SettingsError, match="the plan"):
        export([first.log], tmp_path / "b", to="parquet", plan=first.file, options=options, settings=SETTINGS)


def test_a_log_of_another_plan_is_refused(first: Planned, tmp_path: Path) -> None:
    other = plan(first.plan.header.source.paths, PlanOptions(step="all", k=2, seed=9), settings=SETTINGS)
    write_plan(tmp_path / "other.jsonl", other.header, other.prefixes)
    with pytest.raises(PlanError, match="is another plan"):
        export([first.log], tmp_path / "b", to="parquet", plan=tmp_path / "other.jsonl", settings=SETTINGS)


def test_a_plan_of_another_log_is_refused(first: Planned, tmp_path: Path) -> None:
    other = planned(tmp_path, 2)
    with pytest.raises(PlanError, match="is a plan of another log"):
        export([first.log], tmp_path / "b", to="parquet", plan=other.file, settings=SETTINGS)


def test_a_rule_of_the_plan_is_not_asked_of_continuations(tmp_path: Path) -> None:
    rollouts = [
        renamed(original(place, None, Made()), extra={"acc": float(place > 1)}, correct_rule=None) for place in range(8)
    ]
    rollouts[2] = renamed(original(2, None), extra={"acc": 1.0})
    log = axpo_logs.written(tmp_path / "log.jsonl", [*rollouts[:3], renamed(original(3, None), extra={"acc": 0.0})])
    made = plan([log], PlanOptions(correctness="acc", k=2, r=Decimal("0.5")), settings=SETTINGS)
    write_plan(tmp_path / "plan.jsonl", made.header, made.prefixes)
    resampled = axpo_logs.resampled(tmp_path / "resampled.jsonl", made, 1.0)
    done = export(
        [resampled],
        tmp_path / "b",
        to="parquet",
        plan=tmp_path / "plan.jsonl",
        options=PlanOptions(correctness="acc"),
        settings=SETTINGS,
    )
    assert (done.rows, done.missing) == ({"rollout": 3, "prefix": 1, "continuation": 2}, 0)


# --- Drawn logs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_no_token_is_in_two_streams_and_untouched_rollouts_keep_their_advantage_to_the_bit(
    tmp_path: Path, seed: int
) -> None:
    made, file, log = planned(tmp_path, seed)
    done = export([log], tmp_path / "b", to="parquet", plan=file, settings=SETTINGS)
    rows = pq.read_table(done.path).to_pylist()
    logged = {each.rollout_id: each for each in gs.read([log]) if isinstance(each, gs.Rollout)}
    assert len(rows) + sum(done.left_out.values()) == len(logged)
    groups: dict[Any, list[gs.Rollout]] = defaultdict(list)
    for each in logged.values():
        if each.parent is None and each.split != "validation":
            groups[each.step, each.group_id].append(each)
    sources = {prefix.rollout_id: prefix.prefix.n_tokens for prefix in made.prefixes}
    streams: Counter[tuple[Any, int]] = Counter()
    for row in rows:
        rollout = logged[row["rollout_id"]]
        branch = 0 if rollout.parent is None else rollout.parent.branch_token or 0
        assert rollout.tokens is not None
        for place, trained in enumerate(row["response_mask"]):
            if not trained:
                continue
            assert rollout.tokens.sampled is not None
            assert rollout.tokens.sampled[place]
            # What a continuation has up to the branch point are tokens of its source.
            streams[rollout.parent.rollout_id if rollout.parent and place < branch else row["rollout_id"], place] += 1
        if row["term"] == "rollout":
            members = groups[rollout.step, rollout.group_id]
            expected = group_advantages([float(bool(each.correct)) for each in members])
            assert expected is not None
            assert advantage(row) == expected[[each.rollout_id for each in members].index(row["rollout_id"])]
            assert row["rollout_id"] not in sources
        elif row["term"] == "prefix":
            assert sum(row["response_mask"]) == sum(rollout.tokens.sampled[: sources[row["rollout_id"]]])
    assert set(streams.values()) == {1}
    assert done.tokens.total() == len(streams)


def test_the_order_of_the_log_is_that_of_the_batch_and_changes_nothing_else(first: Planned, tmp_path: Path) -> None:
    lines = first.log.read_bytes().splitlines(keepends=True)
    random.Random(0).shuffle(lines)
    (tmp_path / "mixed.jsonl").write_bytes(b"".join(lines))
    tables = [
        pq.read_table(export([path], tmp_path / path.stem, to="parquet", settings=SETTINGS).path).to_pylist()
        for path in (first.log, tmp_path / "mixed.jsonl")
    ]
    by_name = [{row["rollout_id"]: row for row in rows} for rows in tables]
    assert by_name[0] == by_name[1]
    written = [json.loads(line)["rollout_id"] for line in lines]
    assert [row["rollout_id"] for row in tables[1]] == [name for name in written if name in by_name[1]]


# --- Files ----------------------------------------------------------------------------------------------


def test_a_store_gives_the_batch_of_its_logs(tmp_path: Path) -> None:
    log = axpo_logs.written(tmp_path / "log.jsonl", worked())
    ingest([log], ReadOptions(), into=tmp_path / "run.duckdb").close()
    first = export([log], tmp_path / "1.parquet", to="parquet", settings=SETTINGS)
    second = export([tmp_path / "run.duckdb"], tmp_path / "2.parquet", to="parquet", settings=SETTINGS)
    assert first.path.read_bytes() == second.path.read_bytes()
    log.write_bytes(b"".join(to_json(each) + b"\n" for each in worked()[1:]))
    with pytest.raises(InputError, match="has changed since it was read"):
        export([tmp_path / "run.duckdb"], tmp_path / "3.parquet", to="parquet", settings=SETTINGS)


def test_rollouts_that_stand_in_one_line_have_each_their_own_tokens(tmp_path: Path, samples: Path) -> None:
    logs = samples / "rllm-episode"
    done = export([logs], tmp_path / "b", to="parquet", settings=SETTINGS)
    logged = {each.rollout_id: each for each in gs.read([logs]) if isinstance(each, gs.Rollout)}
    rows = pq.read_table(done.path).to_pylist()
    assert {row["reward"] for row in rows} == {0.0, 1.0}
    for row in rows:
        rollout = logged[row["rollout_id"]]
        assert rollout.tokens is not None
        assert (row["token_ids"], row["reward"]) == (rollout.tokens.ids, float(bool(rollout.correct)))


def test_a_log_without_rollouts_is_no_batch(tmp_path: Path) -> None:
    row = json.loads(to_json(original(0, 1))) | {"output": 1}
    (tmp_path / "log.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(NothingScanned, match="no rollout was read"):
        export([tmp_path / "log.jsonl"], tmp_path / "b", to="parquet", settings=SETTINGS)


def test_row_groups_and_parts_of_any_size_are_one_batch(
    tmp_path: Path, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = batch(*worked())
    arrays = {to: dict(np.load(written(tmp_path, to))) for to in ("verl", "trl")}
    monkeypatch.setattr(batch_file, "_TOKENS_AT_ONCE", 100)
    monkeypatch.setattr(padded, "_CELLS_AT_ONCE", 1)
    done, parts = batch(*worked())
    assert pq.ParquetFile(done.path).num_row_groups >= 3
    assert parts == whole
    for to, expected in arrays.items():
        found = dict(np.load(written(tmp_path, to)))
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("given", "to", "name"), [("b", "verl", "b.npz"), ("b.x", "trl", "b.x"), ("b", "parquet", "b.parquet")]
)
def test_a_suffix_is_added_where_there_is_none(tmp_path: Path, given: str, to: Any, name: str) -> None:
    log = axpo_logs.written(tmp_path / "log.jsonl", worked())
    assert export([log], tmp_path / given, to=to, settings=SETTINGS).path.name == name
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["log.jsonl", name])


def test_a_batch_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "b.npz").write_text("before")
    bad = axpo_logs.written(tmp_path / "bad.jsonl", [untokened(each) for each in worked()])
    with pytest.raises(PlanError):
        export([bad], tmp_path / "b", to="verl", settings=SETTINGS)
    assert (tmp_path / "b.npz").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.npz", "bad.jsonl"]


@pytest.mark.parametrize(
    ("target", "why"), [("log.jsonl", "the log that is read"), ("a.b", "a folder"), ("c/b", "there is no folder")]
)
def test_a_batch_is_not_written_where_it_cannot_be(tmp_path: Path, target: str, why: str) -> None:
    log = axpo_logs.written(tmp_path / "log.jsonl", worked())
    (tmp_path / "a.b").mkdir()
    with pytest.raises(SettingsError, match=why):
        export([log], tmp_path / target, to="parquet", settings=SETTINGS)
    assert len(log.read_bytes().splitlines()) == 12


# --- Padded arrays --------------------------------------------------------------------------------------


def written(tmp_path: Path, to: Any) -> Path:
    """The worked group with a longer prompt in one rollout of another group, padded."""
    other = [original(place, place, group="z", prompt="What is 1 + 1, if you please?") for place in range(2)]
    log = axpo_logs.written(tmp_path / "padded.jsonl", [*worked(), *other])
    return export([log], tmp_path / f"{to}.npz", to=to, settings=SETTINGS).path


def test_arrays_for_verl_hold_what_the_rows_hold(tmp_path: Path) -> None:
    found = np.load(written(tmp_path, "verl"), allow_pickle=False)
    rows = pq.read_table(
        export([tmp_path / "padded.jsonl"], tmp_path / "p", to="parquet", settings=SETTINGS).path
    ).to_pylist()
    n, (_, width), (_, length) = len(rows), found["prompts"].shape, found["responses"].shape
    assert width == max(row["prompt_length"] for row in rows) > 10
    assert np.array_equal(found["input_ids"], np.hstack([found["prompts"], found["responses"]]))
    assert np.array_equal(found["returns"], found["advantages"])
    assert np.array_equal(found["token_level_rewards"], found["token_level_scores"])
    assert found["token_level_scores"].sum(axis=1).tolist() == [row["reward"] for row in rows]
    assert found["uid"].tolist() == [row["group_id"] for row in rows]
    assert found["parent_id"].tolist() == [row["parent_id"] or "" for row in rows]
    assert {found[name].shape for name in ("advantages", "old_log_probs", "response_mask")} == {(n, length)}
    for number, row in enumerate(rows):
        prompt, size = row["prompt_length"], len(row["token_ids"])
        left, right = width - prompt, width - prompt + size
        attention = [left <= place < right for place in range(width + length)]
        assert found["attention_mask"][number].tolist() == attention
        assert found["input_ids"][number].tolist() == [
            row["token_ids"][place - left] if here else 0 for place, here in enumerate(attention)
        ]
        assert found["position_ids"][number].tolist() == [
            max(sum(attention[: place + 1]) - 1, 0) for place in range(width + length)
        ]
        out = [
            row[name][prompt:] + [None] * (length - size + prompt)
            for name in ("response_mask", "advantages", "old_logprobs")
        ]
        assert found["response_mask"][number].tolist() == [int(value or 0) for value in out[0]]
        assert found["advantages"][number].tolist() == [np.float32(value or 0) for value in out[1]]
        assert found["old_log_probs"][number].tolist() == [np.float32(value or 0) for value in out[2]]
        assert np.flatnonzero(found["token_level_scores"][number]).tolist() == [size - prompt - 1] * int(row["reward"])


def test_arrays_for_trl_are_the_same_batch(tmp_path: Path) -> None:
    verl, trl = (np.load(written(tmp_path, to), allow_pickle=False) for to in ("verl", "trl"))
    width = verl["prompts"].shape[1]
    assert np.array_equal(trl["prompt_ids"], verl["prompts"])
    assert np.array_equal(trl["completion_ids"], verl["responses"])
    assert np.array_equal(np.hstack([trl["prompt_mask"], trl["completion_mask"]]), verl["attention_mask"])
    assert trl["prompt_mask"].shape == (14, width)
    assert np.array_equal(trl["tool_mask"], verl["response_mask"])
    assert np.array_equal(trl["old_per_token_logps"], verl["old_log_probs"])
    assert np.array_equal(trl["advantages"][:, None] * trl["tool_mask"], verl["advantages"])
    assert np.array_equal(trl["weight"], verl["weight"])
    assert np.array_equal(trl["group_id"], verl["uid"])
    assert trl["num_items_in_batch"].shape == ()
    assert trl["num_items_in_batch"] == verl["response_mask"].sum()
