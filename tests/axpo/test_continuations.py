"""Resampled logs: all rollouts of the planned steps as they were, and the continuations beside them."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from axpo_logs import drawn, resampled, written
from few_metrics import measure_only
from samples import MAPPING, SAMPLE_OF

import gapscope as gs
from gapscope.axpo.continuations import continuation, originals
from gapscope.axpo.plan import plan
from gapscope.errors import InputError, PlanError, RecordError
from gapscope.metrics import accuracy, all_wrong, group_signal, groups, tool_attempts, triggers, waste
from gapscope.plan_options import PlanOptions
from gapscope.plans import Plan

Audit = Callable[..., gs.Report]
Row = dict[str, Any]

FORMATS = {
    "verl-legacy": None,  # groups are known by their order
    "verl-v1": None,  # sessions
    "trl": "accuracy_reward>=1",  # parquet
    "slime": None,  # pickles, with tokens and a rollout of two samples
    "deepeyes": None,  # groups are known by the prompt, and tokens as strings
    "skyrl-eval": None,  # a validation
    "roll-rlvr": None,  # many rollouts in one line
    "roll-agentic": None,
    "mapped": None,
    "tunix": None,  # CSV
    "inspect": None,  # an archive
    "arpo": "score>=1",
}
"""Formats, with a rule of correctness where they need one."""

ORDINARY = (
    "accuracy", "tool_attempt_rate", "all_wrong_tool_group_rate", "all_wrong_notool_group_rate",
    "group_zero_signal_rate", "wasted_token_share", "axpo_trigger_rate",
)  # fmt: skip


@pytest.fixture(autouse=True)
def ordinary_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure no more than is compared, which is quicker."""
    measure_only(monkeypatch, accuracy, groups, tool_attempts, all_wrong, group_signal, triggers, waste)


class Planned(NamedTuple):
    """A plan of all rollouts of a sample."""

    name: str
    rule: str | None
    plan: Plan


@pytest.fixture(scope="module", params=FORMATS)
def planned(request: pytest.FixtureRequest) -> Planned:
    name, rule = request.param, FORMATS[request.param]
    options = PlanOptions(rank="random", seed=1, r="4", step="all", correctness=rule)
    return Planned(name, rule, plan(SAMPLE_OF[name], options, mapping=MAPPING if name == "mapped" else None))


def test_a_resampled_log_says_of_its_rollouts_what_the_log_said(audit: Audit, tmp_path: Path, planned: Planned) -> None:
    name, rule, found = planned
    assert found.prefixes
    log = resampled(tmp_path / "resampled.jsonl", found, 0.3)
    before = audit(SAMPLE_OF[name], correct=rule, mapping=MAPPING if name == "mapped" else None)
    after = audit(log)
    assert (after.rows.duplicate, after.rows.refused) == (0, 0)
    assert after.rows.continuations == 4 * len(found.prefixes)
    assert after.correctness.chosen == "logged"
    for metric in ORDINARY:
        one, other = before[metric], after[metric]
        assert (one.value, one.n, one.interval) == (other.value, other.n, other.interval), metric


def test_every_original_has_a_name_a_group_and_a_line_of_its_own_and_every_prefix_names_one(planned: Planned) -> None:
    found = planned.plan
    rollouts = list(originals(found.header))
    names = Counter((each.rollout_id, each.output_index) for each in rollouts)
    assert None not in {each.rollout_id for each in rollouts}
    assert set(names.values()) == {1}
    assert all(each.correct is None or each.correct_rule == found.header.correct for each in rollouts)
    for prefix in found.prefixes:
        own = [each for each in rollouts if each.rollout_id == prefix.rollout_id]
        (source,) = [each for each in own if (each.output_index or 0) == (prefix.source.output_index or 0)]
        assert (source.correct, source.step, source.run) == (False, prefix.step, prefix.run)
        assert source.source.line == prefix.source.line
        assert source.output.startswith(prefix.prefix.text)
        assert source.calls[prefix.call].body_start == prefix.prefix.branch_char


def test_only_the_planned_steps_are_in_a_resampled_log(audit: Audit, tmp_path: Path) -> None:
    rollouts = drawn(41, steps=6)
    log = written(tmp_path / "log.jsonl", rollouts)
    own = written(tmp_path / "own.jsonl", [each for each in rollouts if each.step in {2, 3} and not each.parent])
    found = plan(log, PlanOptions(step="2:3", r="1"))
    assert found.prefixes
    after, before = audit(resampled(tmp_path / "resampled.jsonl", found, 0.5)), audit(own)
    kept = [each for each in rollouts if each.step in {2, 3} and not each.parent and each.split == "train"]
    assert after.rows.kept == len(kept) > 10
    for metric in ORDINARY:
        assert (before[metric].value, before[metric].n) == (after[metric].value, after[metric].n), metric


def test_continuations_alone_are_groups_by_their_prefixes(audit: Audit, tmp_path: Path) -> None:
    found = plan(written(tmp_path / "log.jsonl", drawn(42, steps=6)), PlanOptions(step="all", r="1", k=3))
    log = resampled(tmp_path / "alone.jsonl", found, 0.5, whole=False)
    report = audit(log)
    assert (report.rows.kept, report.rows.continuations) == (3 * len(found.prefixes), 0)
    assert report["group_zero_signal_rate"].n == len(found.prefixes)
    assert report["tool_attempt_rate"].value == 1.0
    with gs.ingest(log) as store:
        sizes = dict(store.rows("SELECT group_id, count(*) FROM rollouts GROUP BY group_id"))
    assert sizes == {prefix.id: 3 for prefix in found.prefixes}


def test_a_continuation_begins_with_the_tokens_and_the_text_of_its_prefix(tmp_path: Path) -> None:
    found = plan(written(tmp_path / "log.jsonl", drawn(43, steps=6)), PlanOptions(step="all", r="4", branch_call=2))
    exact = [prefix for prefix in found.prefixes if prefix.prefix.exact]
    assert any(prefix.prefix.masked for prefix in exact)
    for prefix in exact:
        content = prefix.prefix
        made = continuation(prefix, 1, "{}</tool_call>", correct=True, token_ids=[5, 6], logprobs=[-1.0, -2.0])
        assert made.tokens is not None
        assert made.tokens.ids == [*(content.token_ids or ()), 5, 6]
        assert made.tokens.n_prompt == content.n_prompt
        assert made.tokens.sampled is not None
        tools = {place for start, end in content.masked for place in range(start, end)}
        for place, own in enumerate(made.tokens.sampled):
            assert own == (place >= (content.n_prompt or 0) and place not in tools)
        assert made.tokens.logprobs == [*[None] * len(content.token_ids or ()), -1.0, -2.0]
        assert made.output == content.text + "{}</tool_call>"
        assert (made.reward, made.correct, made.group_id) == (1.0, True, prefix.id)
        assert made.parent is not None
        assert made.parent.rollout_id == prefix.rollout_id
        assert (made.parent.branch_char, made.parent.branch_token) == (content.branch_char, content.n_tokens)


def test_a_continuation_that_cannot_be_of_the_plan_is_refused(tmp_path: Path) -> None:
    found = plan(written(tmp_path / "log.jsonl", drawn(44, steps=9)), PlanOptions(step="all", r="4"))
    for index in (-1, 4):
        with pytest.raises(PlanError, match=f"continuation {index} of prefix 0, which has 4"):
            continuation(found.prefixes[0], index, "", correct=None)
    exact = next(prefix for prefix in found.prefixes if prefix.prefix.exact)
    with pytest.raises(RecordError, match="`mask` has"):
        continuation(exact, 0, "", correct=None, token_ids=[1, 2], mask=[True])
    text = next(prefix for prefix in found.prefixes if not prefix.prefix.exact)
    with pytest.raises(PlanError, match="token ids behind prefix"):
        continuation(text, 0, "", correct=None, token_ids=[1, 2])
    assert continuation(text, 0, "", correct=None).reward is None


# --- A log that has changed ------------------------------------------------------------------------------


def verl(step: int) -> list[Row]:
    """Two groups of four, one of which triggers."""
    called = '<tool_call>\n{"name": "calc", "arguments": {}}\n</tool_call>'
    return [
        {
            "input": f"user\nQ{step}{group}\nassistant\n", "output": f"{called if place < 2 else ''}{place}",
            "gts": "1", "score": float(group == "b" or place > 2), "step": step, "uid": f"{group}{step}_{place}_0",
        }
        for group in "ab"
        for place in range(4)
    ]  # fmt: skip


def without(place: int) -> Callable[[list[Row]], list[Row]]:
    return lambda rows: [*rows[:place], *rows[place + 1 :]]


def changed(place: int, **changes: Any) -> Callable[[list[Row]], list[Row]]:
    return lambda rows: [*rows[:place], rows[place] | changes, *rows[place + 1 :]]


def save(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "change",
    [
        without(0),
        without(7),
        changed(0, output="another"),
        changed(5, score=0.0),
        changed(2, input="user\nAnother question\nassistant\n"),
        changed(1, step=4),
        lambda rows: [*rows, rows[0] | {"uid": "a1_4_0"}],
        lambda rows: [*rows, rows[0] | {"uid": "c1_0_0"}],
    ],
)
def test_a_log_in_which_a_planned_step_has_changed_is_not_the_one_that_was_planned_from(
    tmp_path: Path, change: Callable[[list[Row]], list[Row]]
) -> None:
    log = save(tmp_path / "log.jsonl", verl(1))
    found = plan(log, PlanOptions(rank="random", seed=0, r="1", step="1"))
    assert len(list(originals(found.header))) == 8
    save(log, change(verl(1)))
    with pytest.raises(PlanError, match=r"log\.jsonl is not the log that was planned from, or has changed since"):
        list(originals(found.header))


def test_a_log_that_has_grown_by_other_steps_is_still_the_one_that_was_planned_from(tmp_path: Path) -> None:
    log = save(tmp_path / "log.jsonl", verl(1))
    one, last = (plan(log, PlanOptions(rank="random", seed=0, r="1", step=step)) for step in ("1", "last"))
    before = [each.output for each in originals(one.header)]
    save(log, [*verl(1), *verl(2)])
    assert [each.output for each in originals(one.header)] == before
    with pytest.raises(PlanError, match="is not the log that was planned from"):
        list(originals(last.header))


def test_the_order_of_a_logs_lines_is_no_change(tmp_path: Path) -> None:
    log = save(tmp_path / "log.jsonl", verl(1))
    found = plan(log, PlanOptions(rank="random", seed=0, r="1"))
    save(log, verl(1)[::-1])
    assert {each.rollout_id for each in originals(found.header)} == {row["uid"][:-2] for row in verl(1)}


def test_a_log_that_has_changed_since_a_store_was_made_of_it_is_not_taken_for_the_same(tmp_path: Path) -> None:
    log = save(tmp_path / "log.jsonl", verl(1))
    gs.ingest(log, into=tmp_path / "run.duckdb").close()
    options = PlanOptions(rank="random", seed=0, r="4")
    found = plan(tmp_path / "run.duckdb", options)
    save(log, changed(0, output=verl(1)[0]["output"].replace("calc", "clac"))(verl(1)))
    for again in (lambda: originals(found.header), lambda: plan(tmp_path / "run.duckdb", options)):
        with pytest.raises(InputError, match="line 1 holds another rollout"):
            list(again())
