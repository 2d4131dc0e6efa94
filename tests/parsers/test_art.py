import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gapscope as gs

ANSWER = {"role": "assistant", "content": "4", "tool_calls": None, "tool_call_id": None, "trainable": True}
QUESTION = {"role": "user", "content": "2+2?", "tool_calls": None, "tool_call_id": None, "trainable": False}
CALL = '[{"id": "a", "type": "function", "function": {"name": "calc", "arguments": "{\\"x\\": 1}"}}]'


def trajectory(**changes: Any) -> dict[str, Any]:
    """A row of the parquet file; `...` takes a column away."""
    whole = {
        "group_index": 0, "group_metadata": None, "group_metrics": None, "group_logs": None, "reward": 1.0,
        "metrics": None, "metadata": None, "tools": None, "logs": None, "messages": [QUESTION, ANSWER],
    }  # fmt: skip
    return {key: value for key, value in (whole | changes).items() if value is not ...}


@pytest.fixture
def art(tmp_path: Path) -> Callable[..., list[gs.Rollout | gs.Refused]]:
    def read(*rows: dict[str, Any], name: str = "run/trajectories/train/0007.parquet") -> list[gs.Rollout | gs.Refused]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
        return list(gs.read([str(path)]))

    return read


def group(**changes: Any) -> dict[str, Any]:
    """A trajectory of the JSON Lines before parquet."""
    choice = {"finish_reason": "stop", "index": 0, "message": {"role": "assistant", "content": "4"}}
    whole = {
        "reward": 1.0, "metrics": {}, "metadata": {}, "tools": None, "additional_histories": [], "logs": [],
        "messages_and_choices": [{"role": "user", "content": "2+2?"}, choice],
    }  # fmt: skip
    return whole | changes


def only(records: list[gs.Rollout | gs.Refused]) -> gs.Rollout:
    (record,) = records
    assert isinstance(record, gs.Rollout), record
    return record


def test_split_step_and_run_are_in_the_path(art: Callable[..., Any], tmp_path: Path) -> None:
    rollout = only(art(trajectory()))
    assert (rollout.run, rollout.split, rollout.step) == (str(tmp_path / "run"), "train", 7)
    assert only(art(trajectory(), name="run/trajectories/val/0007.parquet")).split == "validation"


def test_places_in_a_group_follow_the_order_of_its_rows(art: Callable[..., Any]) -> None:
    read = art(trajectory(), trajectory(group_index=1), trajectory())
    assert [(r.group_id, r.sample_index) for r in read] == [("0", 0), ("1", 0), ("0", 1)]


def test_groups_without_variance_are_training_rollouts_of_their_own_groups(art: Callable[..., Any]) -> None:
    rollout = only(art(trajectory(), name="run/trajectories/discarded/0007.parquet"))
    assert (rollout.split, rollout.group_id, rollout.notes) == ("train", "discarded:0", ["discarded_by_the_trainer"])


def test_calls_are_json_in_a_string_and_results_answer_them_by_id(art: Callable[..., Any]) -> None:
    messages = [
        QUESTION,
        ANSWER | {"content": None, "tool_calls": CALL},
        {"role": "tool", "content": "4", "tool_calls": None, "tool_call_id": "a", "trainable": False},
        ANSWER,
    ]
    rollout = only(art(trajectory(messages=messages, tools='[{"type": "function", "function": {"name": "calc"}}]')))
    assert rollout.output == '{"name":"calc","arguments":{"x": 1}}\n4\n4\n'
    assert [(call.name, call.outcome) for call in rollout.calls] == [("calc", "executed_ok")]
    assert rollout.declared_tools == ["calc"]
    assert len(rollout.turns) == 2


def test_tools_and_prompt_are_there_as_they_were_logged(art: Callable[..., Any]) -> None:
    definition = {"type": "function", "function": {"name": "calc", "parameters": {"type": "object"}}}
    rollout = only(art(trajectory(tools=json.dumps([definition]))))
    assert (rollout.tools, rollout.messages) == ([definition], [QUESTION])
    assert only(art(trajectory(tools="[]"))).tools is None


def test_an_assistant_that_is_not_trainable_was_not_sampled(art: Callable[..., Any]) -> None:
    example = ANSWER | {"trainable": False, "content": "an example"}
    rollout = only(art(trajectory(messages=[QUESTION, example, QUESTION, ANSWER])))
    assert rollout.output == "4\n"
    assert rollout.prompt == "user\n2+2?\nassistant\nan example\nuser\n2+2?\n"


def test_without_any_trainable_message_the_role_tells_and_a_note_says_so(art: Callable[..., Any]) -> None:
    rollout = only(art(trajectory(messages=[QUESTION, ANSWER | {"trainable": False}])))
    assert (rollout.output, rollout.notes) == ("4\n", ["sampled_by_role"])


def test_metrics_are_kept_by_their_names_and_metadata_as_it_is(art: Callable[..., Any]) -> None:
    rollout = only(
        art(trajectory(metrics='{"acc": true, "took": NaN}', metadata='{"id": "q7"}', group_metrics='{"kl": 0.5}'))
    )
    assert rollout.extra == {"acc": True, "took": None, "metadata": {"id": "q7"}, "group_metrics": {"kl": 0.5}}
    assert rollout.notes == ["not_finite"]


def test_a_metric_can_be_what_is_correct(
    art: Callable[..., Any], tmp_path: Path, audit: Callable[..., gs.Report]
) -> None:
    art(*(trajectory(reward=0.3, metrics=json.dumps({"acc": n % 2})) for n in range(4)))
    correctness = audit(tmp_path).correctness
    assert (correctness.rule, correctness.chosen, correctness.known) == ("acc", "column", 4)


def test_a_migrated_file_has_the_histories_of_sub_agents(art: Callable[..., Any]) -> None:
    more = json.dumps([{"messages_and_choices": group()["messages_and_choices"], "tools": None}])
    main, sub = art(trajectory(additional_histories=more, group_metadata=..., group_metrics=..., group_logs=...))
    assert main.rollout_id == sub.rollout_id is not None
    assert main.output_index == 0
    assert (sub.output_index, sub.output, sub.finish_reason, sub.reward) == (1, "4\n", "stop", 1.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tools": "[1"}, "`tools` is not JSON"),
        ({"messages": [QUESTION | {"role": None}]}, "a message is"),
        ({"group_index": None}, "`group_index` is None, expected a whole number"),
    ],
)
def test_a_row_that_cannot_be_read_is_refused(art: Callable[..., Any], changes: Any, reason: str) -> None:
    _, refused = art(trajectory(), trajectory(**changes))
    assert isinstance(refused, gs.Refused)
    assert refused.reason.startswith(reason)


def test_a_line_before_parquet_is_a_group(log: Callable[..., Path]) -> None:
    rows = [{"trajectories": [group(), group(reward=0.0)]}, {"trajectories": [group(metadata={"id": 1})]}]
    read = [r for r in gs.read([str(log(rows, "run/trajectories/train/0003.jsonl"))]) if isinstance(r, gs.Rollout)]
    assert [(r.group_id, r.sample_index, r.reward, r.step) for r in read] == [
        ("0", 0, 1.0, 3),
        ("0", 1, 0.0, 3),
        ("1", 0, 1.0, 3),
    ]
    assert [r.finish_reason for r in read] == ["stop"] * 3
    assert read[2].extra == {"metadata": {"id": 1}}


def test_a_trajectory_that_cannot_be_read_costs_its_group_nothing_else(log: Callable[..., Path]) -> None:
    rows = [{"trajectories": [group(), 3, group(reward="high"), group()]}]
    read = list(gs.read([str(log(rows, "trajectories/train/3.jsonl"))]))
    assert [r.reason if isinstance(r, gs.Refused) else r.sample_index for r in read] == [
        0,
        "trajectory 1 of the group is 3, expected an object",
        "`reward` is 'high', expected a number",
        3,
    ]


def test_a_group_of_which_every_trajectory_failed_is_refused(log: Callable[..., Path]) -> None:
    rows = [{"trajectories": [group()]}, {"trajectories": []}]
    _, refused = gs.read([str(log(rows, "trajectories/train/3.jsonl"))])
    assert isinstance(refused, gs.Refused)
    assert refused.reason == "`trajectories` is [], a group without any"


def test_what_was_migrated_and_left_is_read_once(
    art: Callable[..., Any], log: Callable[..., Path], tmp_path: Path
) -> None:
    art(trajectory())
    log([{"trajectories": [group()]}], "run/trajectories/train/0007.jsonl")
    assert only(list(gs.read([str(tmp_path)]))).finish_reason == "stop"


def test_episodes_of_other_trainers_are_not_claimed(log: Callable[..., Path]) -> None:
    path = log([{"trajectories": [{"steps": []}], "training_step": 3}], "trajectories/train/3.jsonl")
    with pytest.raises(gs.InputError, match="no rollouts of a known format"):
        list(gs.read([str(path)]))


def test_a_truncated_line_is_refused_and_the_others_are_read(log: Callable[..., Path]) -> None:
    whole = json.dumps({"trajectories": [group()]}).encode()
    read = list(gs.read([str(log(whole + b"\n" + whole[:90], "trajectories/train/3.jsonl"))]))
    assert [type(r).__name__ for r in read] == ["Rollout", "Refused"]
