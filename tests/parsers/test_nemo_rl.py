import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gapscope as gs
from gapscope.parsers import nemo_rl

PROMPT = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
CALL = '<tool_call>\n{"name": "calc", "arguments": {"x": "2+2"}}\n</tool_call>'


def row(*contents: Any, mask: list[int] | None = None, **changes: Any) -> dict[str, Any]:
    """A training row, three tokens for each text, and two of padding; `...` takes a key away."""
    mask = [int(index % 2 == 1) for index in range(len(contents)) for _ in range(3)] if mask is None else mask
    size = len(mask)
    whole = {
        "content": [list(contents)],
        "rewards": [1.0],
        "input_lengths": [size],
        "token_ids": [[*range(5, 5 + size), 0, 0]],
        "token_loss_mask": [[*mask, 0, 0]],
        "sample_loss_mask": [1.0],
        "advantages": [[0.5] * (size + 2)],
        "generation_logprobs": [[-0.25 * item for item in mask] + [0.0, 0.0]],
        "prev_logprobs": [[-0.125 * item for item in mask] + [0.0, 0.0]],
        "idx": 0,
    } | changes
    return {key: value for key, value in whole.items() if value is not ...}


def validation(*messages: tuple[str, str], **changes: Any) -> dict[str, Any]:
    content = [{"role": role, "content": text} for role, text in messages]
    return {"content": [content], "rewards": [1.0], "idx": 0} | changes


Read = Callable[..., list[gs.Rollout | gs.Refused]]


@pytest.fixture
def nemo(log: Callable[..., Path]) -> Read:
    def read(*rows: Any, name: str = "exp_001/train_data_step12.jsonl") -> list[gs.Rollout | gs.Refused]:
        return list(gs.read(log(rows, name)))

    return read


def only(records: list[gs.Rollout | gs.Refused]) -> gs.Rollout:
    (record,) = records
    assert isinstance(record, gs.Rollout), record
    return record


def reason(records: list[gs.Rollout | gs.Refused]) -> str:
    (record,) = records
    assert isinstance(record, gs.Refused), record
    return record.reason


def groups(records: list[gs.Rollout | gs.Refused]) -> list[tuple[str | None, int | None]]:
    return [(record.group_id, record.sample_index) for record in records if isinstance(record, gs.Rollout)]


def test_step_split_and_run_are_in_the_path(nemo: Read, tmp_path: Path) -> None:
    rollout = only(nemo(row(PROMPT, "4")))
    assert (rollout.run, rollout.split, rollout.step) == (str(tmp_path / "exp_001"), "train", 12)
    rollout = only(nemo(validation(("user", PROMPT), ("assistant", "4")), name="exp_001/val_data_step3.jsonl"))
    assert (rollout.run, rollout.split, rollout.step) == (str(tmp_path / "exp_001"), "validation", 3)


def test_padding_is_cut_and_zeros_that_nobody_sampled_are_no_log_probs(nemo: Read) -> None:
    tokens = only(nemo(row(PROMPT, "4"))).tokens
    assert tokens is not None
    assert tokens.ids == [5, 6, 7, 8, 9, 10]
    assert tokens.n_prompt == 3
    assert tokens.sampled == [False, False, False, True, True, True]
    assert tokens.logprobs == [None, None, None, -0.25, -0.25, -0.25]
    assert tokens.logprob_source == "rollout"
    assert tokens.trainer_logprobs == [None, None, None, -0.125, -0.125, -0.125]


def test_without_those_of_the_rollout_the_log_probs_are_the_trainers(nemo: Read) -> None:
    tokens = only(nemo(row(PROMPT, "4", generation_logprobs=...))).tokens
    assert tokens is not None
    assert (tokens.logprobs, tokens.logprob_source) == ([None, None, None, -0.125, -0.125, -0.125], "trainer")
    assert tokens.trainer_logprobs is None
    neither = only(nemo(row(PROMPT, "4", generation_logprobs=..., prev_logprobs=...))).tokens
    assert neither is not None
    assert (neither.logprobs, neither.logprob_source, neither.trainer_logprobs) == (None, None, None)


def test_the_policy_and_its_environment_take_turns(nemo: Read) -> None:
    result = "\n<|im_start|>user\n<tool_response>\n4\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    rollout = only(nemo(row(PROMPT, CALL, result, "It is 4.", "Environment: correct")))
    assert rollout.prompt == PROMPT
    assert rollout.output == f"{CALL}{result}It is 4.Environment: correct"
    assert [(span.kind, span.turn, span.sampled) for span in rollout.spans] == [
        ("tool_call", 0, True), ("tool_result", 0, False), ("text", 1, True), ("prompt", 1, False),
    ]  # fmt: skip
    assert [(call.outcome, call.result) for call in rollout.calls] == [("executed_ok", "4")]


def test_a_result_without_tags_is_the_whole_of_what_the_environment_said(nemo: Read) -> None:
    rollout = only(nemo(row(PROMPT, CALL, "Error: no such thing", "Hm.")))
    assert [(call.outcome, call.result) for call in rollout.calls] == [("executed_error", "Error: no such thing")]


def test_prompts_of_several_messages_are_told_by_the_token_mask(nemo: Read) -> None:
    system = "<|im_start|>system\nBe brief.<|im_end|>\n"
    rollouts = nemo(*[row(system, PROMPT, "4", mask=[0, 0, 0, 1]) for _ in range(3)])
    assert [(r.prompt, r.output) for r in rollouts if isinstance(r, gs.Rollout)] == [(system + PROMPT, "4")] * 3


def test_a_row_whose_last_observation_was_cut_off_is_read_like_the_others(nemo: Read) -> None:
    usual = row(PROMPT, "4", "Environment: correct", mask=[0, 0, 1, 0])
    cut = row(PROMPT, "4 and so on", "Environment: incorrect", mask=[0, 0, 1, 1])
    rollouts = nemo(usual, cut, usual)
    assert [r.prompt for r in rollouts if isinstance(r, gs.Rollout)] == [PROMPT] * 3


def test_rows_that_were_all_cut_off_are_told_by_the_prompt_that_they_share(nemo: Read) -> None:
    cut = [row(PROMPT, text, "Environment: incorrect", mask=[0, 0, 1, 1]) for text in ("so and so", "on and on")]
    assert [record.prompt for record in nemo(*cut) if isinstance(record, gs.Rollout)] == [PROMPT] * 2


def test_an_environment_may_say_nothing_after_the_last_generation(nemo: Read) -> None:
    system = "<|im_start|>system\nBe brief.<|im_end|>\n"
    rollouts = nemo(*[row(system, PROMPT, "4", "", mask=[0, 0, 1]) for _ in range(2)])
    assert [(r.prompt, r.output) for r in rollouts if isinstance(r, gs.Rollout)] == [(system + PROMPT, "4")] * 2


def test_groups_follow_the_order_of_the_rows(nemo: Read) -> None:
    other = PROMPT.replace("2+2", "3+3")
    rows = [row(prompt, "4") for prompt in (PROMPT, PROMPT, other, other, other, other)]
    assert groups(nemo(*rows)) == [("0", 0), ("0", 1), ("2", 0), ("2", 1), ("4", 0), ("4", 1)]


def test_with_dynamic_sampling_the_prompt_is_the_group_and_the_reward_the_filtered_one(nemo: Read) -> None:
    records = nemo(row(PROMPT, "4", filtered_rewards=[0.5]), row(PROMPT, "5", filtered_rewards=[0.25], rewards=[]))
    assert groups(records) == [(None, None), (None, None)]
    assert [record.reward for record in records if isinstance(record, gs.Rollout)] == [0.5, 0.25]


def test_prompts_that_were_sampled_once_are_no_groups_of_one(nemo: Read) -> None:
    assert groups(nemo(row(PROMPT, "4"), row(PROMPT.replace("2+2", "3+3"), "4"))) == [(None, None), (None, None)]


def test_an_advantage_is_one_if_all_sampled_tokens_have_the_same(nemo: Read) -> None:
    assert only(nemo(row(PROMPT, "4"))).advantage == 0.5
    rollout = only(nemo(row(PROMPT, "4", advantages=[[0.0, 0.0, 0.0, 0.5, 0.5, -2.0, 0.0, 0.0]])))
    assert (rollout.advantage, rollout.notes) == (None, ["advantage_differs_by_token"])


def test_a_sample_outside_the_loss_is_masked(nemo: Read) -> None:
    assert only(nemo(row(PROMPT, "4", sample_loss_mask=[0.0]))).status == "masked"


def test_the_text_of_a_tensor_is_a_number_or_nothing(nemo: Read) -> None:
    rollout = only(nemo(row(PROMPT, "4", rewards=["tensor(0.5000)"], token_ids=["tensor([1, 2, 3])"])))
    assert (rollout.reward, rollout.tokens) == (0.5, None)
    assert only(nemo(row(PROMPT, "4", rewards=["tensor(-1., device='cuda:0')"]))).reward == -1.0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rewards": ["good"]}, "`rewards` is 'good', expected a number"),
        ({"content": [3]}, "`content` is int, expected a list of one list of messages"),
        ({"token_loss_mask": [[0, 1]]}, "`token_loss_mask` has 2 values for the 6 tokens of `input_lengths`"),
        ({"token_ids": [["a"] * 9]}, "`token_ids` is ['a', 'a', 'a', 'a', 'a', 'a'], expected a list of token ids"),
    ],
)
def test_a_row_of_another_shape_is_refused_with_key_and_value(nemo: Read, changes: Any, expected: str) -> None:
    assert reason(nemo(row(PROMPT, "4", **changes))) == expected


def test_rollouts_of_gym_have_no_text_here_and_are_refused(nemo: Read) -> None:
    assert reason(nemo(row("", "", "", ""))) == (
        "`content` holds no text: of NeMo-Gym's rollouts only tokens are written; read its own `rollouts.jsonl`"
    )


def test_a_refused_row_does_not_cost_the_others_their_places(nemo: Read) -> None:
    good = row(PROMPT, "4")
    records = nemo(good, row(PROMPT, "4", rewards=["bad"]), good)
    assert [type(record) for record in records] == [gs.Rollout, gs.Refused, gs.Rollout]


def test_validation_rows_have_roles_and_no_tokens(nemo: Read) -> None:
    said = (("system", "Be brief."), ("user", PROMPT), ("assistant", "4"), ("environment", "Environment: correct"))
    rollout = only(nemo(validation(*said), name="val_data_step0.jsonl"))
    assert (rollout.prompt, rollout.output, rollout.tokens) == (f"Be brief.{PROMPT}", "4Environment: correct", None)
    assert (rollout.step, rollout.reward, len(rollout.turns)) == (0, 1.0, 1)


def test_rows_of_distillation_have_no_reward(nemo: Read) -> None:
    rollout = only(nemo({"content": [[PROMPT, "4"]], "input_lengths": [7], "idx": 0}))
    assert (rollout.reward, rollout.output) == (None, "4")


def test_the_agent_is_the_data_source_and_new_keys_are_kept(nemo: Read) -> None:
    rollout = only(nemo(row(PROMPT, "4", agent_ref=[{"name": "calc_agent"}], entropy=[[0.5]])))
    assert (rollout.data_source, rollout.extra) == ("calc_agent", {"entropy": [[0.5]]})


def test_other_rows_with_an_index_are_not_claimed() -> None:
    others: list[dict[str, Any]] = [
        {"idx": 3, "content": "4", "rewards": 1.0},
        {"content": [["4"]], "rewards": [1.0], "input_lengths": [3]},
        {"idx": True, "content": [["4"]], "rewards": [1.0]},
        {"idx": 3, "completion": ["4", "5"], "rewards": [0.0, 1.0], "content": ["a", "b"]},
        {"idx": 3, "content": [["4"]]},
    ]
    assert not any(nemo_rl.PARSER.claims(other) for other in others)


def test_a_file_that_was_cut_off_keeps_its_whole_rows(log: Callable[..., Path]) -> None:
    line = json.dumps(row(PROMPT, "4")).encode()
    whole, cut = gs.read(log(line + b"\n" + line[:200], "train_data_step1.jsonl"))
    assert isinstance(whole, gs.Rollout)
    assert isinstance(cut, gs.Refused)
