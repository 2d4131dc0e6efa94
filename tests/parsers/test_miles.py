import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import gapscope as gs
from gapscope.beside import whole_of
from gapscope.parsers import parser_named

CALL = '<tool_call>\n{"name": "calc", "arguments": {"x": 1}}\n</tool_call>'
ASKED = {"role": "user", "content": "2+2?"}
SCHEMA = {
    "sample_index": pl.Int32, "response_length": pl.Int32, "total_length": pl.Int32, "tokens": pl.List(pl.Int32),
    "loss_mask": pl.List(pl.Int8), "rollout_log_probs": pl.List(pl.Float32),
}  # fmt: skip


def sample(**changes: Any) -> dict[str, Any]:
    whole = {
        "sample_index": 7, "group_index": 2, "status": "completed", "reward": 1.0, "prompt": [ASKED],
        "messages": [ASKED, {"role": "assistant", "content": "4"}],
    }  # fmt: skip
    return whole | changes


def columns(**changes: Any) -> dict[str, Any]:
    whole = {
        "sample_index": 7, "response_length": 3, "total_length": 5, "tokens": [1, 2, 3, 4, 5],
        "loss_mask": [1, 0, 1], "rollout_log_probs": [-0.5, 0.0, -0.25],
    }  # fmt: skip
    return whole | changes


@pytest.fixture
def miles(log: Callable[..., Path], tmp_path: Path) -> Callable[..., list[Any]]:
    """Read a dump of samples and of columns."""

    def read(*samples: Any, tokens: list[dict[str, Any]] | None = None, name: str = "5") -> list[Any]:
        if samples:
            log(samples, f"dump/trajectory/{name}.jsonl")
        if tokens is not None:
            path = tmp_path / "dump" / "dashboard_columns" / f"rollout_{name}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pl.DataFrame(tokens, schema=SCHEMA).write_parquet(path)
        return list(gs.read([str(tmp_path)]))

    return read


def test_run_step_and_split_are_in_the_path(miles: Callable[..., Any], tmp_path: Path) -> None:
    (rollout,) = miles(sample())
    assert (rollout.run, rollout.step, rollout.split) == (str(tmp_path / "dump"), 5, "train")
    assert (rollout.group_id, rollout.group_origin, rollout.sample_index) == ("2", "logged", 7)


def test_evaluation_has_no_groups(miles: Callable[..., Any]) -> None:
    (rollout,) = miles(sample(group_index=None), name="eval_5")
    assert (rollout.step, rollout.split, rollout.group_id, rollout.group_origin) == (5, "validation", None, None)


def test_tokens_come_from_the_columns_beside_by_the_index_of_the_sample(miles: Callable[..., Any]) -> None:
    other, rollout = miles(sample(sample_index=6), sample(), tokens=[columns(), columns(sample_index=9)])
    assert other.tokens is None
    assert rollout.tokens == gs.rollouts.Tokens(
        [1, 2, 3, 4, 5],
        n_prompt=2,
        logprobs=[None, None, -0.5, None, -0.25],
        logprob_source="rollout",
        sampled=[False, False, True, False, True],
    )


def test_without_a_mask_all_of_the_response_was_sampled(miles: Callable[..., Any]) -> None:
    (rollout,) = miles(sample(), tokens=[columns(loss_mask=None, rollout_log_probs=None)])
    assert rollout.tokens.sampled == [False, False, True, True, True]
    assert (rollout.tokens.logprobs, rollout.tokens.logprob_source) == (None, None)


def test_an_index_that_comes_twice_names_no_tokens(miles: Callable[..., Any]) -> None:
    (rollout,) = miles(sample(), tokens=[columns(), columns()], name="eval_5")
    assert (rollout.tokens, rollout.notes) == (None, ["tokens_of_several_samples"])


def test_tokens_that_contradict_each_other_cost_the_text_nothing(miles: Callable[..., Any]) -> None:
    (rollout,) = miles(sample(), tokens=[columns(loss_mask=[1])])
    assert (rollout.output, rollout.tokens, rollout.notes) == ("4\n", None, ["tokens_cannot_be_read"])


def test_a_call_left_in_the_text_is_answered_by_the_message_after_it(miles: Callable[..., Any]) -> None:
    answer = {"role": "tool", "tool_call_id": "call00000", "content": "4", "name": "calc"}
    said = [ASKED, {"role": "assistant", "content": CALL}, answer, {"role": "assistant", "content": "4"}]
    (rollout,) = miles(sample(messages=said))
    assert [(c.name, c.outcome, c.result, c.turn) for c in rollout.calls] == [("calc", "executed_ok", "4", 0)]
    assert rollout.spans[rollout.calls[0].result_span].kind == "tool_result"


def test_several_calls_in_the_text_are_answered_in_their_order(miles: Callable[..., Any]) -> None:
    answers = [{"role": "tool", "tool_call_id": f"c{n}", "content": str(n)} for n in range(2)]
    (rollout,) = miles(sample(messages=[ASKED, {"role": "assistant", "content": CALL + CALL}, *answers]))
    assert [call.result for call in rollout.calls] == ["0", "1"]


def test_a_rendered_prompt_is_the_prompt_of_messages_that_begin_with_the_answer(miles: Callable[..., Any]) -> None:
    (rollout,) = miles(sample(prompt="<|im_start|>user\n2+2?", messages=[{"role": "assistant", "content": "4"}]))
    assert (rollout.prompt, rollout.messages) == ("<|im_start|>user\n2+2?", None)


def test_messages_before_the_answer_are_those_of_the_prompt(miles: Callable[..., Any]) -> None:
    (rollout,) = miles(sample())
    assert rollout.messages == [ASKED]
    (rollout,) = miles(sample(prompt=[ASKED, ASKED], messages=[{"role": "assistant", "content": "4"}]))
    assert rollout.messages == [ASKED, ASKED]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("completed", ("ok", "stop")),
        ("truncated", ("truncated", "length")),
        ("aborted", ("error", "abort")),
        ("failed", ("error", "error")),
        ("pending", (None, None)),
    ],
)
def test_how_a_sample_ended(miles: Callable[..., Any], status: str, said: Any) -> None:
    (rollout,) = miles(sample(status=status))
    assert (rollout.status, rollout.finish_reason) == said


def test_a_reward_that_was_a_dictionary_is_absent(miles: Callable[..., Any]) -> None:
    (rollout,) = miles(sample(reward=None))
    assert rollout.reward is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": "done"}, "`status` is 'done', expected one of completed, truncated, aborted, failed, pending"),
        ({"messages": None}, "`messages` is NoneType, expected a list of messages"),
    ],
)
def test_a_row_that_cannot_be_read_is_refused(miles: Callable[..., Any], changes: Any, reason: str) -> None:
    _, refused = miles(sample(), sample(**changes))
    assert refused.reason == reason


def test_columns_alone_are_rollouts_of_tokens(miles: Callable[..., Any]) -> None:
    (rollout,) = miles(tokens=[columns()])
    assert (rollout.format, rollout.step, rollout.split, rollout.output) == ("miles-dashboard", 5, "train", "")
    assert (rollout.sample_index, rollout.tokens.n_prompt) == (7, 2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"loss_mask": [1]}, "`loss_mask` has 1 items, and `response_length` is 3"),
        ({"rollout_log_probs": [0.5] * 4}, "`rollout_log_probs` has 4 items, and `response_length` is 3"),
        ({"response_length": 6}, "`response_length` is 6, and `tokens` has 5"),
        ({"total_length": 6}, "`total_length` is 6, and `tokens` has 5"),
        ({"tokens": None}, "`tokens` is None, a sample without any"),
    ],
)
def test_columns_of_unequal_length_are_refused(miles: Callable[..., Any], changes: Any, reason: str) -> None:
    (refused,) = miles(tokens=[columns(**changes)])
    assert refused.reason == reason


def test_a_log_prob_that_is_no_number_is_absent(miles: Callable[..., Any]) -> None:
    (rollout,) = miles(tokens=[columns(rollout_log_probs=[float("nan"), 0.0, -1.0])])
    assert rollout.tokens.logprobs == [None, None, None, None, -1.0]


def test_columns_of_evaluation_belong_to_its_conversations(miles: Callable[..., Any]) -> None:
    (rollout,) = miles(sample(), tokens=[columns()], name="eval_5")
    assert (rollout.format, rollout.split, rollout.tokens.n_prompt) == ("miles-trajectory", "validation", 2)


@pytest.mark.parametrize("name", ["5", "eval_5"])
def test_the_pickle_of_the_same_id_is_read_in_place_of_both(log: Callable[..., Path], name: str) -> None:
    whole = log(b"", f"dump/rollout_data/{name}.pt")
    log(b"", "dump/rollout_data/6.pt")
    said = log(b"", f"dump/trajectory/{name}.jsonl")
    tokens = log(b"", f"dump/dashboard_columns/rollout_{name}.parquet")
    for path, parser in ((said, "miles-trajectory"), (tokens, "miles-dashboard")):
        found = whole_of(str(path), parser_named(parser))
        assert found is not None
        assert Path(found).resolve() == whole


def test_a_line_that_is_cut_off_is_refused(miles: Callable[..., Any]) -> None:
    read = miles(json.dumps(sample()).encode(), json.dumps(sample()).encode()[:50])
    assert [type(record).__name__ for record in read] == ["Rollout", "Refused"]
