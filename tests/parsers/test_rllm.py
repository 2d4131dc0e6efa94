"""rLLM's episodes and its gateway's database: cumulative steps, groups, Python's own way to show things, tokens."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import gapscope as gs
from gapscope.detect import detect
from gapscope.rollouts import Tokens
from gapscope.sources import describe

SYSTEM = {"role": "system", "content": "Answer."}
QUESTION = {"role": "user", "content": "What is 1+1?"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "calc", "arguments": '{"expr": "1+1"}'}}],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "2"}
ANSWER = {"role": "assistant", "content": "It is 2."}
FOLDER = "run/episodes/train_step_7_epoch_0"


def step(*messages: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """One step that tells its whole conversation."""
    whole = {
        "observation": None, "thought": "", "action": None, "reward": 0.0, "done": False,
        "model_response": messages[-1]["content"] if messages else "", "chat_completions": list(messages), "timing": {},
    }  # fmt: skip
    return whole | changes


STEPS = [step(SYSTEM, QUESTION, CALL), step(SYSTEM, QUESTION, CALL, RESULT, ANSWER)]


def trajectory(*steps: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "name": "solver",
        "uid": "u1",
        "reward": 1.0,
        "num_steps": len(steps),
        "timing": {},
        "steps": list(steps),
    } | changes


def episode(**changes: Any) -> dict[str, Any]:
    """One episode, changed key by key; `...` takes a key away."""
    whole = {
        "training_step": 7, "epoch": 0, "episode_id": "task-1:3", "session_id": None,
        "task": {"question": "What is 1+1?", "ground_truth": "2"}, "task_hash": "9f86d081", "is_correct": True,
        "termination_reason": "env_done", "metrics": {"acc": 1.0}, "metadata": {}, "timing": {},
        "trajectories": [trajectory(*STEPS)],
    }  # fmt: skip
    return {key: value for key, value in (whole | changes).items() if value is not ...}


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[gs.Rollout | gs.Refused]]:
    """The records of one episode in a file as rLLM writes it."""

    def one(value: object = None, *, folder: str = FOLDER, **changes: Any) -> list[gs.Rollout | gs.Refused]:
        path = tmp_path / folder / "episode_hash9f86d081_idtask-1_3.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(episode(**changes) if value is None else value, indent=2), encoding="utf-8")
        return list(gs.read([str(path)], gs.ReadOptions(trainer="rllm-episode")))

    return one


def only(records: list[gs.Rollout | gs.Refused]) -> gs.Rollout:
    (record,) = records
    assert isinstance(record, gs.Rollout), record
    return record


def gateway(path: Path, *traces: dict[str, Any], session: str = "task-1:3") -> Path:
    """A database as the gateway makes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS traces (trace_id TEXT PRIMARY KEY, data TEXT, created_at REAL)")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS trace_sessions (trace_id TEXT, session_id TEXT, created_at REAL, "
            "PRIMARY KEY (trace_id, session_id))"
        )
        for number, trace in enumerate(traces):
            name = f"{session}-{number}"
            connection.execute("INSERT INTO traces VALUES (?, ?, ?)", (name, json.dumps(trace), number))
            connection.execute("INSERT INTO trace_sessions VALUES (?, ?, ?)", (name, session, number))
        connection.commit()
    return path


TOOLS = [{"type": "function", "function": {"name": "calc", "parameters": {"type": "object"}}}]


def trace(*messages: dict[str, Any], prompt: list[int], said: list[int], **changes: Any) -> dict[str, Any]:
    whole = {
        "messages": list(messages[:-1]), "response_message": messages[-1], "prompt_token_ids": prompt,
        "completion_token_ids": said, "logprobs": [-0.5] * len(said), "finish_reason": "stop", "weight_version": 4,
        "raw_request": {"tools": TOOLS},
    }  # fmt: skip
    return whole | changes


TRACES = (
    trace(SYSTEM, QUESTION, CALL, prompt=[1, 2], said=[3, 4]),
    trace(SYSTEM, QUESTION, CALL, RESULT, ANSWER, prompt=[1, 2, 3, 4, 5], said=[6]),
)


def test_steps_that_repeat_what_was_said_are_one_conversation(read: Callable[..., Any]) -> None:
    rollout = only(read())
    assert rollout.format == "rllm-episode"
    assert [(call.name, call.outcome, call.result) for call in rollout.calls] == [("calc", "executed_ok", "2")]
    assert len(rollout.turns) == 2
    assert rollout.output.count("1+1") == 1
    assert rollout.prompt == "system\nAnswer.\nuser\nWhat is 1+1?\n"
    assert (rollout.reward, rollout.correct, rollout.ground_truth) == (1.0, True, "2")
    assert rollout.extra["acc"] == 1.0
    assert rollout.tokens is None


def test_the_group_is_the_task_and_the_name_of_the_trajectory(read: Callable[..., Any]) -> None:
    records = read(trajectories=[trajectory(*STEPS), trajectory(*STEPS[:1], name="judge", uid="u2", reward=0.0)])
    assert [(r.group_id, r.group_origin, r.sample_index, r.rollout_id) for r in records] == [
        ("task-1:solver", "logged", 3, "u1"),
        ("task-1:judge", "logged", 3, "u2"),
    ]
    # Whether the episode is right says nothing about one of its agents.
    assert [r.correct for r in records] == [None, None]


def test_an_episode_of_another_name_is_grouped_by_its_task(read: Callable[..., Any]) -> None:
    rollout = only(read(episode_id="0b9f"))
    assert (rollout.group_id, rollout.sample_index) == ("9f86d081:solver", None)
    assert only(read(episode_id="0b9f", task_hash=...)).group_id is None


def test_step_and_split_are_those_of_the_folder_and_the_row(read: Callable[..., Any], tmp_path: Path) -> None:
    train = only(read())
    validation = only(read(folder="run/episodes/val_step_7_epoch_0"))
    assert [(r.step, r.split, r.run) for r in (train, validation)] == [
        (7, "train", str(tmp_path / "run")),
        (7, "validation", str(tmp_path / "run")),
    ]


def test_the_layout_is_seen_in_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / FOLDER / "episode_hash1_id2.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(episode(), indent=2), encoding="utf-8")
    monkeypatch.chdir(tmp_path / "run")
    (rollout,) = gs.read(["episodes"])
    assert isinstance(rollout, gs.Rollout)
    assert (rollout.run, rollout.split) == (".", "train")


def test_steps_that_do_not_continue_one_another_are_outputs_of_one_trajectory(read: Callable[..., Any]) -> None:
    other = step({"role": "user", "content": "Summarise."}, {"role": "assistant", "content": "A sum."})
    records = read(trajectories=[trajectory(*STEPS, other)])
    assert [(r.rollout_id, r.output_index, len(r.turns)) for r in records] == [("u1", 0, 2), ("u1", 1, 1)]


def test_an_answer_that_comes_back_changed_is_still_the_same_conversation(read: Callable[..., Any]) -> None:
    first = {**ANSWER, "reasoning": "long thoughts"}
    later = step(SYSTEM, QUESTION, ANSWER, QUESTION, ANSWER)
    rollout = only(read(trajectories=[trajectory(step(SYSTEM, QUESTION, first), later)]))
    assert [span.kind for span in rollout.spans] == ["think", "text", "prompt", "text"]


@pytest.mark.parametrize(
    ("shown", "arguments"),
    [
        ("ToolCall(name='calc', arguments={'expr': '1+1', 'n': None})", {"expr": "1+1", "n": None}),
        (
            "ToolCall(id='c', function=Function(arguments='{\"expr\": \"it\\'s\"}', name='calc'), type='function')",
            {"expr": "it's"},
        ),
    ],
)
def test_tool_calls_that_were_logged_as_python_shows_them_are_read(
    read: Callable[..., Any], shown: str, arguments: dict[str, Any]
) -> None:
    (call,) = only(read(trajectories=[trajectory(step(SYSTEM, QUESTION, {**CALL, "tool_calls": [shown]}))])).calls
    assert (call.name, call.arguments) == ("calc", arguments)


@pytest.mark.parametrize(
    "shown",
    [
        "ToolCall(",
        "ToolCall(name=__import__('os'))",
        "ToolCall(name='a', arguments=" + "(" * 9000 + ")",
        "<object at 0x7f>",
        "",
    ],
)
def test_what_python_shows_is_never_carried_out(read: Callable[..., Any], shown: str) -> None:
    (call,) = only(read(trajectories=[trajectory(step(SYSTEM, QUESTION, {**CALL, "tool_calls": [shown]}))])).calls
    assert (call.name, call.outcome) == (None, "unparseable")


@pytest.mark.parametrize(
    ("logged", "reason", "status"),
    [
        ("env_done", "stop", None),
        ("max_turns_exceeded", "turn_limit", None),
        ("max_response_length_exceeded", "length", "truncated"),
        ("timeout", "timeout", None),
        ("error", "error", "error"),
        ("unknown", None, None),
        (None, None, None),
    ],
)
def test_the_end_of_an_episode_is_said_in_our_words(
    read: Callable[..., Any], logged: str | None, reason: str | None, status: str | None
) -> None:
    rollout = only(read(termination_reason=logged))
    assert (rollout.finish_reason, rollout.status) == (reason, status)


def test_a_trajectory_without_steps_is_masked_and_not_lost(read: Callable[..., Any]) -> None:
    rollout = only(read(trajectories=[trajectory()]))
    assert (rollout.status, rollout.output, rollout.prompt) == ("masked", "", None)


def test_an_absent_reward_stays_absent(read: Callable[..., Any]) -> None:
    assert only(read(trajectories=[trajectory(*STEPS, reward=None)])).reward is None


def test_a_task_that_was_logged_as_python_shows_it_has_no_ground_truth(read: Callable[..., Any]) -> None:
    assert only(read(task="Task(id='1', instruction='What is 1+1?')")).ground_truth is None


def test_a_nan_is_no_number(read: Callable[..., Any]) -> None:
    rollout = only(read(metrics={"acc": float("nan")}, trajectories=[trajectory(*STEPS, reward=float("nan"))]))
    assert (rollout.reward, rollout.extra["acc"]) == (None, None)
    assert "not_finite" in rollout.notes


@pytest.mark.parametrize("hostile", [None, [], "x", {"a": 1}, [None], [{"steps": "x"}], [{"steps": [{"a": 1}]}]])
def test_a_trajectory_that_is_none_is_refused_with_its_value(read: Callable[..., Any], hostile: object) -> None:
    (refused,) = read(trajectories=hostile)
    assert isinstance(refused, gs.Refused)
    assert "`" in refused.reason


def test_a_bad_trajectory_costs_no_other(read: Callable[..., Any]) -> None:
    refused, rollout = read(trajectories=[trajectory(steps=7), trajectory(*STEPS)])
    assert isinstance(refused, gs.Refused)
    assert isinstance(rollout, gs.Rollout)


def test_summaries_are_no_episodes(tmp_path: Path) -> None:
    for name, value in (
        ("batch_summary.json", {"training_step": 7, "epoch": 0, "num_episodes": 1, "episode_files": ["a.json"]}),
        ("meta.json", {"dataset": "sums", "model": "tiny"}),
    ):
        path = tmp_path / name
        path.write_text(json.dumps(value, indent=2), encoding="utf-8")
        assert isinstance(detect(describe(str(path), str(path))), str)


def eval_episode(**changes: Any) -> dict[str, Any]:
    steps = [
        {**STEPS[0], "prompt_ids": [1, 2], "response_ids": [3, 4], "logprobs": [-0.5, -0.25]},
        {**STEPS[1], "prompt_ids": [1, 2, 3, 4, 5], "response_ids": [6], "logprobs": []},
    ]
    whole = {
        "id": "task-1:0", "eval_idx": 12, "task": {"id": "task-1", "metadata": {"ground_truth": "2"}},
        "termination_reason": "env_done", "is_correct": False, "session_id": "eval-12", "artifacts": {}, "metrics": {},
        "trajectories": [trajectory(*steps, signals={"accuracy": 0.0})],
    }  # fmt: skip
    return whole | changes


def test_an_episode_of_an_evaluation_has_its_tokens_with_it(read: Callable[..., Any]) -> None:
    rollout = only(read(eval_episode(), folder="evals/episodes"))
    assert (rollout.step, rollout.split, rollout.group_id, rollout.correct) == (
        None, "validation", "task-1:solver", False
    )  # fmt: skip
    assert [(part.name, part.value) for part in rollout.reward_parts] == [("accuracy", 0.0)]
    assert rollout.ground_truth == "2"
    assert rollout.tokens == Tokens(
        [1, 2, 3, 4, 5, 6],
        n_prompt=2,
        logprobs=[None, None, -0.5, -0.25, None, None],
        logprob_source="rollout",
        sampled=[False, False, True, True, False, True],
    )


def test_prompts_that_do_not_repeat_the_tokens_make_no_sequence(read: Callable[..., Any]) -> None:
    value = eval_episode()
    value["trajectories"][0]["steps"][1]["prompt_ids"] = [1, 9, 3, 4, 5]
    rollout = only(read(value, folder="evals/episodes"))
    assert rollout.tokens is None
    assert "tokens_are_not_one_sequence" in rollout.notes


def test_as_many_logprobs_as_tokens_are_asked_for(read: Callable[..., Any]) -> None:
    value = eval_episode()
    value["trajectories"][0]["steps"][0]["logprobs"] = [-0.5]
    (refused,) = read(value, folder="evals/episodes")
    assert isinstance(refused, gs.Refused)
    assert "1 log-probs for 2 tokens" in refused.reason


@pytest.mark.parametrize("place", ["run/gateway.db", "run/gateway_traces.db", f"{FOLDER}/gateway.db"])
def test_tokens_are_those_of_the_gateway_beside_the_episodes(
    read: Callable[..., Any], tmp_path: Path, place: str
) -> None:
    gateway(tmp_path / place, *TRACES)
    rollout = only(read())
    assert rollout.tokens is not None
    assert rollout.tokens.ids == [1, 2, 3, 4, 5, 6]
    assert rollout.tokens.sampled == [False, False, True, True, False, True]
    assert (rollout.declared_tools, rollout.tools) == (["calc"], TOOLS)
    assert (rollout.finish_reason, rollout.turns[-1].policy_version) == ("stop", "4")


def test_a_session_of_another_name_is_looked_up_by_it(read: Callable[..., Any], tmp_path: Path) -> None:
    gateway(tmp_path / "run/gateway.db", *TRACES, session="s'; DROP TABLE traces; --")
    assert only(read()).tokens is None
    assert only(read(session_id="s'; DROP TABLE traces; --")).tokens is not None


@pytest.mark.parametrize(
    "traces",
    [
        TRACES[:1],
        (*TRACES, TRACES[1]),
        (TRACES[0], {**TRACES[1], "response_message": {"role": "assistant", "content": "Something else."}}),
    ],
)
def test_calls_that_are_not_those_of_the_steps_are_left_alone(
    read: Callable[..., Any], tmp_path: Path, traces: tuple[dict[str, Any], ...]
) -> None:
    gateway(tmp_path / "run/gateway.db", *traces)
    rollout = only(read())
    assert rollout.tokens is None
    assert "gateway_calls_differ" in rollout.notes


def test_a_last_call_that_gave_nothing_is_no_step(read: Callable[..., Any], tmp_path: Path) -> None:
    gateway(tmp_path / "run/gateway.db", *TRACES, trace(SYSTEM, QUESTION, ANSWER, prompt=[], said=[]))
    assert only(read()).tokens is not None


def test_a_damaged_gateway_is_told_and_the_episode_is_read(read: Callable[..., Any], tmp_path: Path) -> None:
    path = gateway(tmp_path / "run/gateway.db", *TRACES)
    path.write_bytes(path.read_bytes()[:5000])
    rollout, refused = read()
    assert isinstance(rollout, gs.Rollout)
    assert isinstance(refused, gs.Refused)
    assert "gateway.db, which belongs to it" in refused.reason


def test_a_gateway_beside_its_episodes_is_not_read_by_itself(
    read: Callable[..., Any], tmp_path: Path, audit: Callable[..., gs.Report]
) -> None:
    gateway(tmp_path / "run/gateway.db", *TRACES)
    read()
    assert audit(tmp_path / "run").rollouts == 1


def test_a_gateway_alone_gives_a_rollout_per_session(tmp_path: Path) -> None:
    path = gateway(tmp_path / "gateway_traces.db", *TRACES)
    gateway(path, *TRACES[:1], session="mine")
    records = [record for record in gs.read([str(path)]) if isinstance(record, gs.Rollout)]
    assert [(r.format, r.rollout_id, r.group_id, r.sample_index, len(r.turns), r.reward) for r in records] == [
        ("rllm-gateway", "mine", None, None, 1, None),
        ("rllm-gateway", "task-1:3", "task-1", 3, 2, None),
    ]
    assert [call.outcome for call in records[1].calls] == ["executed_ok"]
    assert records[1].tokens is not None


def test_a_trace_that_is_none_costs_its_session_and_no_other(tmp_path: Path) -> None:
    path = gateway(tmp_path / "gateway_traces.db", *TRACES)
    gateway(path, {"messages": "x"}, TRACES[0], session="bad")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO trace_sessions VALUES ('nowhere', 'lost', 0)")
        connection.commit()
    records = list(gs.read([str(path)]))
    assert [type(record) for record in records].count(gs.Rollout) == 1
    assert {record.reason.split(":")[0] for record in records if isinstance(record, gs.Refused)} == {
        "session 'bad'", "session 'lost'"
    }  # fmt: skip


def test_a_view_in_the_place_of_the_traces_is_no_gateway(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE trace_sessions (trace_id, session_id, created_at)")
        connection.execute("CREATE VIEW traces AS SELECT 'a' AS trace_id, '{}' AS data, 0 AS created_at")
        connection.commit()
    assert isinstance(detect(describe(str(path), str(path))), str)
    with pytest.raises(gs.InputError, match="cannot be read as an SQLite database"):
        list(gs.read([str(path)], gs.ReadOptions(trainer="rllm-gateway")))
