"""prime-rl: what the path, `effective` and the token export say about the episodes of a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gapscope as gs
from gapscope.shapes import token_exports

IDS = [2, 3, 151644, 77091, 10, 11]
MASK = [False, False, False, False, True, True]


def trace(name: str, *, ids: list[int] = IDS, **changes: Any) -> dict[str, Any]:
    """A trace with two sampled tokens; further keys go to the node that was sampled."""
    asked = {"message": {"role": "user", "content": "5+6?"}, "token_ids": ids[:2], "mask": MASK[:2], "logprobs": []}
    answer = {
        "parent": 0,
        "message": {"role": "assistant", "content": "11"},
        "sampled": True,
        "token_ids": ids[2:],
        "mask": [False] * (len(ids) - 4) + [True, True],
        "logprobs": [-0.25, -0.5],
    }
    return {
        "id": name,
        "agent": {"config": {}, "name": "agent", "trainable": True},
        "nodes": [asked, answer | changes],
        "rewards": {"correct": {"score": 1.0, "weight": 1.0}},
        "metrics": {},
        "ok": True,
        "stop_condition": "agent_completed",
        "errors": [],
    }


def episode(*traces: dict[str, Any], step: int = 2, kind: str = "train", group: str = "g-1") -> dict[str, Any]:
    return {
        "id": "ep-1",
        "env": {"id": "adder", "name": "math"},
        "task": {"type": "T", "data": {"idx": 3, "prompt": "5+6?", "answer": "11"}, "key": "3", "hash": "h3"},
        "group": {"id": group},
        "run": {
            "type": "train",
            "id": "r1",
            "work": {"type": kind, "step": step, "policy": {"start": 1, "end": 2}},
        },
        "ok": True,
        "errors": [],
        "traces": list(traces),
    }


def exported(ids: list[int] = IDS, **changes: Any) -> dict[str, Any]:
    count = len(ids)
    mask = [False] * (count - 2) + [True, True]
    whole = {
        "schema_version": 1, "step": 3, "rank": 0, "micro_step": 0, "micro_sequence_idx": 0, "export_sequence_idx": 0,
        "env_name": "math", "token_ids": ids, "position_ids": list(range(count)), "loss_mask": mask,
        "advantages": [0.5 if own else 0.0 for own in mask], "inference_logprobs": [-0.25] * count,
        "trainer_logprobs": [-0.75] * count, "entropy": [0.125 * place for place in range(count)],
        "rl_weights": [None] * count,
    }  # fmt: skip
    return whole | changes


ALL = "run/rollouts/step_{}/train/all/traces.jsonl"
EFFECTIVE = "run/rollouts/step_{}/train/effective/traces.jsonl"
EXPORT = "run/token_exports/step_{}/rank_{}.jsonl"


def only(path: Path) -> gs.Rollout:
    (record,) = gs.read([str(path)])
    assert isinstance(record, gs.Rollout), record
    return record


def test_group_and_step_are_those_of_the_dispatch_whatever_folder_the_episode_is_in(log: Callable[..., Path]) -> None:
    rollout = only(log([episode(trace("t1"))], ALL.format(3)))
    assert rollout.format == "prime-rl"
    assert (rollout.group_id, rollout.group_origin, rollout.rollout_id) == ("g-1", "logged", "t1")
    assert (rollout.step, rollout.extra["file_step"], rollout.split) == (2, 3, "train")
    assert (rollout.data_source, rollout.ground_truth) == ("math", "11")
    assert [turn.policy_version for turn in rollout.turns] == ["1-2"]
    assert rollout.run is not None
    assert rollout.run.endswith("/run")


def test_a_group_that_lies_in_two_folders_is_one_group(
    log: Callable[..., Path], audit: Callable[..., gs.Report], tmp_path: Path
) -> None:
    log([episode(trace("t1")), episode(trace("t2"))], ALL.format(2))
    log([episode(trace("t3"))], ALL.format(3))
    assert audit(tmp_path, correct="correct").metrics["group_size_max"].value == 3


def test_an_evaluation_inside_a_run_is_validation(log: Callable[..., Path]) -> None:
    path = log([episode(trace("t1"), kind="eval", step=4)], "run/rollouts/step_4/eval/all/traces.jsonl")
    rollout = only(path)
    assert (rollout.split, rollout.step, rollout.notes) == ("validation", 4, [])


@pytest.mark.parametrize("shipped_in", [3, 4])
def test_the_advantage_is_looked_up_by_trace_id_where_it_was_shipped(log: Callable[..., Path], shipped_in: int) -> None:
    log([episode(trace("t1", advantages=[0.5, 0.5]))], EFFECTIVE.format(shipped_in))
    first, second = gs.read([str(log([episode(trace("t1"), trace("t2"))], ALL.format(3)))])
    assert isinstance(first, gs.Rollout)
    assert isinstance(second, gs.Rollout)
    assert (first.advantage, second.advantage) == (0.5, None)


def test_effective_has_its_own_advantages_and_says_that_groups_are_missing(log: Callable[..., Path]) -> None:
    rollout = only(log([episode(trace("t1", advantages=[-0.5, -0.5]))], EFFECTIVE.format(3)))
    assert (rollout.advantage, rollout.notes) == (-0.5, ["uniform_groups_dropped"])


def test_an_advantage_that_differs_by_token_is_none_of_the_rollout(log: Callable[..., Path]) -> None:
    rollout = only(log([episode(trace("t1", advantages=[-0.5, 0.5]))], EFFECTIVE.format(3)))
    assert rollout.advantage is None
    assert rollout.notes == ["advantage_differs_by_token", "uniform_groups_dropped"]


def test_effective_repeats_all_and_is_read_only_alone(log: Callable[..., Path], tmp_path: Path) -> None:
    effective = log([episode(trace("t1", advantages=[0.5, 0.5]))], EFFECTIVE.format(3))
    log([episode(trace("t1")), episode(trace("t2"))], ALL.format(3))
    files = {
        Path(record.source.file).parent.name for record in gs.read([str(tmp_path)]) if isinstance(record, gs.Rollout)
    }
    assert files == {"all"}
    assert only(effective).rollout_id == "t1"


def test_the_export_gives_entropies_by_token_ids(log: Callable[..., Path]) -> None:
    log([exported([1, 2, 3]), exported()], EXPORT.format(3, 0))
    rollout = only(log([episode(trace("t1"))], ALL.format(3)))
    assert rollout.tokens is not None
    assert rollout.tokens.entropies == [None] * 4 + [0.5, 0.625]
    assert (rollout.tokens.entropy_kind, rollout.tokens.logprob_source) == ("full", "rollout")
    assert rollout.tokens.logprobs == [None] * 4 + [-0.25, -0.5]
    assert rollout.tokens.trainer_logprobs == [None] * 4 + [-0.75, -0.75]
    assert (rollout.advantage, rollout.notes) == (0.5, [])


def test_log_probs_of_the_trainer_stand_in_where_the_episode_has_none(log: Callable[..., Path]) -> None:
    log([exported()], EXPORT.format(3, 7))
    tokens = only(log([episode(trace("t1", logprobs=[]))], ALL.format(3))).tokens
    assert tokens is not None
    assert (tokens.logprobs, tokens.logprob_source) == ([None] * 4 + [-0.75, -0.75], "trainer")
    assert tokens.trainer_logprobs is None


def test_log_probs_of_the_trainer_in_the_episode_itself_come_before_those_of_the_export(
    log: Callable[..., Path],
) -> None:
    log([exported()], EXPORT.format(3, 0))
    told = trace("t1")
    told["nodes"][-1]["trainer_logprobs"] = [-0.375, -0.625]
    tokens = only(log([episode(told)], ALL.format(3))).tokens
    assert tokens is not None
    assert (tokens.logprobs, tokens.logprob_source) == ([None] * 4 + [-0.25, -0.5], "rollout")
    assert tokens.trainer_logprobs == [None] * 4 + [-0.375, -0.625]


@pytest.mark.parametrize(("exported_in", "found"), [(2, False), (3, True), (4, True), (5, False)])
def test_only_the_steps_that_can_hold_it_are_looked_at(log: Callable[..., Path], exported_in: int, found: bool) -> None:
    log([exported()], EXPORT.format(exported_in, 0))
    tokens = only(log([episode(trace("t1"))], ALL.format(3))).tokens
    assert tokens is not None
    assert (tokens.entropies is not None) == found


def test_a_sequence_that_the_trainer_cut_is_found_by_its_beginning(log: Callable[..., Path]) -> None:
    log([exported([*IDS[:4], 10], loss_mask=[False] * 4 + [True])], EXPORT.format(3, 0))
    tokens = only(log([episode(trace("t1"))], ALL.format(3))).tokens
    assert tokens is not None
    assert tokens.entropies == [None] * 4 + [0.5, None]


def test_a_rollout_that_is_not_in_the_export_is_noted(
    log: Callable[..., Path], audit: Callable[..., gs.Report]
) -> None:
    log([exported()], EXPORT.format(3, 0))
    path = log([episode(trace("t1"), trace("t2", ids=[2, 3, 151644, 77091, 10, 12]))], ALL.format(3))
    first, second = gs.read([str(path)])
    assert isinstance(first, gs.Rollout)
    assert isinstance(second, gs.Rollout)
    assert (first.notes, second.notes) == ([], ["not_in_token_export"])


def test_two_sequences_of_the_same_ids_give_an_advantage_only_if_they_agree(log: Callable[..., Path]) -> None:
    log([exported(), exported(advantages=[-1.0] * 6)], EXPORT.format(3, 0))
    rollout = only(log([episode(trace("t1"))], ALL.format(3)))
    assert rollout.advantage is None
    assert rollout.tokens is not None
    assert rollout.tokens.entropies == [None] * 4 + [0.5, 0.625]


def test_an_export_that_is_damaged_costs_its_rows_alone(log: Callable[..., Path]) -> None:
    log([exported(entropy=[0.1]), exported(token_ids=[2**70] * 6), b"{", exported()], EXPORT.format(3, 0))
    records = list(gs.read([str(log([episode(trace("t1"))], ALL.format(3)))]))
    rollout = next(record for record in records if isinstance(record, gs.Rollout))
    assert rollout.tokens is not None
    assert rollout.tokens.entropies == [None] * 4 + [0.5, 0.625]
    refused = [record.reason for record in records if isinstance(record, gs.Refused)]
    assert len(refused) == 2
    assert refused[0] == "token_exports, which belong to it, have rows that are no sequences: 2"
    assert refused[1].startswith("rank_0.jsonl, which belongs to it, cannot be read: not JSON")


def test_of_a_huge_export_no_more_is_kept_than_there_is_room_for(
    log: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_exports, "MOST_TOKENS", 3)
    log([exported([1, 2, 3]), exported()], EXPORT.format(3, 0))
    rollout = only(log([episode(trace("t1"))], ALL.format(3)))
    assert rollout.notes == ["not_in_token_export"]


def older(**changes: Any) -> dict[str, Any]:
    task = {"type": "T", "data": {"idx": 3, "prompt": "5+6?", "answer": "11"}}
    return trace("t1") | {"task": task} | changes


@pytest.mark.parametrize(
    ("stamp", "step"),
    [
        (
            {"kind": "train", "env_name": "math", "group_id": "g-1", "policy_version": 2, "eval_step": None},
            3,
        ),
        (
            {
                "run": {"type": "train", "id": "r", "step": 3},
                "info": {"env_name": "math", "group_id": "g-1", "policy_version": 2, "episode_id": "e"},
            },
            3,
        ),
    ],
)
def test_the_traces_of_versions_0_7_and_0_8_stand_alone(
    log: Callable[..., Path], stamp: dict[str, Any], step: int
) -> None:
    rollout = only(log([older(**stamp)], ALL.format(step)))
    assert (rollout.format, rollout.group_id, rollout.step, rollout.split) == ("prime-rl", "g-1", step, "train")
    assert (rollout.data_source, rollout.reward) == ("math", 1.0)
    assert [turn.policy_version for turn in rollout.turns] == ["2"]


def test_the_export_alone_is_read_without_text(log: Callable[..., Path]) -> None:
    rollout = only(log([exported(run_id="r", loudness=3)], EXPORT.format(3, 0)))
    assert rollout.format == "prime-rl-tokens"
    assert (rollout.prompt, rollout.output, rollout.reward, rollout.group_id) == (None, "", None, None)
    assert (rollout.step, rollout.split, rollout.data_source, rollout.advantage) == (3, "train", "math", 0.5)
    assert rollout.extra == {"loudness": 3}
    assert rollout.tokens is not None
    assert rollout.tokens.ids == IDS
    assert rollout.tokens.n_prompt == 4
    assert rollout.tokens.logprobs == [None] * 4 + [-0.25, -0.25]
    assert rollout.tokens.trainer_logprobs == [None] * 4 + [-0.75, -0.75]
    assert rollout.tokens.entropies == [None] * 4 + [0.5, 0.625]
    assert rollout.tokens.sampled == MASK


def test_streams_that_the_batch_did_not_have_are_absent(log: Callable[..., Path]) -> None:
    nothing = [None] * 6
    rollout = only(log([exported(inference_logprobs=nothing, entropy=nothing, step=4)], EXPORT.format(3, 0)))
    assert rollout.tokens is not None
    assert (rollout.tokens.logprobs, rollout.tokens.logprob_source) == ([None] * 4 + [-0.75, -0.75], "trainer")
    assert (rollout.tokens.entropies, rollout.tokens.entropy_kind) == (None, None)
    assert rollout.tokens.trainer_logprobs is None
    assert (rollout.step, rollout.notes) == (4, ["step_differs_from_file_name"])


def test_the_export_is_a_part_of_the_episodes_of_its_run(log: Callable[..., Path], tmp_path: Path) -> None:
    log([exported()], EXPORT.format(3, 0))
    log([episode(trace("t1"))], ALL.format(3))
    assert [record.format for record in gs.read([str(tmp_path)]) if isinstance(record, gs.Rollout)] == ["prime-rl"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"entropy": [0.1]}, "`entropy` has 1 values for 6 `token_ids`"),
        ({"loss_mask": None}, "Expected `array`, got `null` - at `$.loss_mask`"),
        ({"token_ids": ["a"] * 6}, "Expected `int`, got `str` - at `$.token_ids[0]`"),
    ],
)
def test_arrays_that_are_not_parallel_are_refused(
    log: Callable[..., Path], changes: dict[str, Any], reason: str
) -> None:
    (refused,) = gs.read([str(log([exported(**changes)], EXPORT.format(3, 0)))])
    assert isinstance(refused, gs.Refused)
    assert refused.reason == reason


def test_an_empty_file_and_one_that_is_cut_off(log: Callable[..., Path]) -> None:
    with pytest.raises(gs.NothingScanned):
        list(gs.read([str(log([], ALL.format(3)))]))
    whole = json.dumps(episode(trace("t1"))).encode()
    read, refused = gs.read([str(log(whole + b"\n" + whole[:200], ALL.format(3)))])
    assert isinstance(read, gs.Rollout)
    assert isinstance(refused, gs.Refused)
