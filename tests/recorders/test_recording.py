"""A rollout that a training loop records of its own is what a reader of logs would have made of it."""

from array import array
from pathlib import Path
from typing import Any

import pytest
from tiny_tokenizer import byte_level

from gapscope.errors import RecordError, TokenizerError, UnknownName
from gapscope.ingest import read
from gapscope.recorders import RolloutWriter, recorded
from gapscope.rollouts import RewardPart, Rollout, Span, Tokens
from gapscope.tokenizer import load_vocabulary

CALL = '<tool_call>\n{"name": "calc", "arguments": {"x": 1}}\n</tool_call>'
RESULT = "<|im_end|>\n<|im_start|>user\n<tool_response>\n7\n</tool_response><|im_end|>\n<|im_start|>assistant\n"


def test_a_text_is_cut_as_a_log_is_cut() -> None:
    rollout = recorded("1+6?", f"<think>\nhm\n</think>\n\n{CALL}{RESULT}7", tools=["calc"], finish_reason="stop")
    assert rollout.dialect == "hermes"
    assert [span.kind for span in rollout.spans] == ["think", "text", "tool_call", "tool_result", "text"]
    assert [(call.name, call.result, call.outcome) for call in rollout.calls] == [("calc", "7", "executed_ok")]
    assert [turn.finish_reason for turn in rollout.turns] == [None, "stop"]
    assert rollout.output_origin == "logged"


def test_messages_are_joined_as_those_of_a_log_are_joined() -> None:
    call = {"type": "function", "function": {"name": "calc", "arguments": {"x": 1}}}
    rollout = recorded(
        [{"role": "user", "content": "1+6?"}],
        [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "7"},
            {"role": "assistant", "content": "7"},
        ],
        tools=[{"type": "function", "function": {"name": "search"}}],
        policy_version=3,
    )
    assert (rollout.prompt, rollout.output_origin, rollout.declared_tools) == ("user\n1+6?\n", "joined", ["search"])
    assert [(call.result, call.outcome) for call in rollout.calls] == [("7", "unknown_tool")]
    assert [turn.policy_version for turn in rollout.turns] == ["3", "3"]


def test_definitions_of_tools_are_kept_and_shared_and_names_alone_are_none() -> None:
    tools = [{"type": "function", "function": {"name": "calc", "parameters": {"type": "object"}}}]
    rollout = recorded("1+6?", "7", tools=tools)
    assert rollout.tools is tools
    assert rollout.declared_tools == ["calc"]
    assert recorded("1+6?", "7", tools=tuple(tools)).tools == tools
    assert recorded("1+6?", "7", tools=["calc"]).tools is None


def test_all_that_a_loop_knows_arrives_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    with RolloutWriter(path) as writer:
        writer.write(
            recorded(
                "2+2?",
                "4",
                step=3,
                group=7,
                sample_index=1,
                prompt_ids=[5, 6],
                completion_ids=array("i", [8, 9, 2]),
                mask=[1, 0, 1],
                logprobs=array("d", [-0.5, 0.0, -0.25]),
                trainer_logprobs=[-0.5, float("nan"), 5e-7],
                entropies=[1.5, None, 0.0],
                reward=float("nan"),
                reward_parts={"right": 1, "form": float("nan")},
                reward_weights={"right": 0.5},
                advantage=1.5,
                correct=True,
                ground_truth="4",
                data_source="sums",
                run="r",
                split="train",
                extra={"level": 2},
            )
        )
    (read_again,) = read([path])
    assert isinstance(read_again, Rollout)
    assert read_again.tokens == Tokens(
        [5, 6, 8, 9, 2],
        n_prompt=2,
        logprobs=[None, None, -0.5, None, -0.25],
        logprob_source="rollout",
        entropies=[None, None, 1.5, None, 0.0],
        entropy_kind="full",
        sampled=[False, False, True, False, True],
        trainer_logprobs=[None, None, -0.5, None, 0.0],
    )
    assert read_again.reward_parts == [RewardPart("right", 1.0, 0.5), RewardPart("form", None)]
    assert (read_again.step, read_again.group_id, read_again.group_origin, read_again.sample_index) == (
        3,
        "7",
        "logged",
        1,
    )
    assert (read_again.reward, read_again.advantage, read_again.correct_rule) == (None, 1.5, "as recorded")
    assert (read_again.run, read_again.split, read_again.data_source) == ("r", "train", "sums")
    assert (read_again.ground_truth, read_again.extra) == ("4", {"level": 2})
    assert read_again.rollout_id


def test_a_tokenizer_gives_the_text_of_tokens_and_the_tokens_of_spans(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    prompt, said, result, end = (tokenizer.encode(text).ids for text in ("1+6?", CALL, RESULT, "7"))
    rollout = recorded(
        prompt_ids=prompt,
        completion_ids=said + result + end,
        mask=[1] * len(said) + [0] * len(result) + [1] * len(end),
        tokenizer=tmp_path,
    )
    assert (rollout.prompt, rollout.output) == ("1+6?", f"{CALL}{RESULT}7")
    assert rollout.spans[0] == Span(
        "tool_call", 0, 0, len(CALL), sampled=True, token_start=len(prompt), token_end=len(prompt) + len(said)
    )
    (call,) = rollout.calls
    assert call.tokens is not None
    assert tokenizer.decode((prompt + said)[call.tokens.start : call.tokens.branch]).startswith("<tool_call>")
    assert rollout.notes == []


def test_tokens_of_another_text_are_noted_and_not_matched(tmp_path: Path) -> None:
    ids = byte_level(tmp_path).encode("5").ids
    rollout = recorded("2+2?", "4", completion_ids=ids, tokenizer=load_vocabulary(tmp_path))
    assert rollout.notes == ["tokens_other_text"]
    assert rollout.spans[0].token_start is None


def test_ids_that_the_tokenizer_lacks_are_refused(tmp_path: Path) -> None:
    byte_level(tmp_path)
    with pytest.raises(TokenizerError, match="the token id 4000 is not in"):
        recorded(completion_ids=[3, 4000], tokenizer=tmp_path)


def test_ids_alone_are_kept_for_a_reader_with_a_tokenizer() -> None:
    rollout = recorded(completion_ids=[3, 4])
    assert (rollout.output, rollout.spans, rollout.tokens) == ("", [], Tokens([3, 4], sampled=[True, True]))


def test_each_rollout_has_an_id_of_its_own() -> None:
    assert recorded("a", "b").rollout_id != recorded("a", "b").rollout_id


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "without a completion"),
        ({"completion_ids": [1, 2], "mask": [1]}, "`mask` has 1 values, and there are 2 completion ids"),
        ({"completion_ids": [1, 2], "logprobs": [-1.0] * 3}, "`logprobs` has 3 values"),
        ({"completion_ids": [1, 2], "entropies": []}, "`entropies` has 0 values"),
        ({"completion_ids": [1, 2], "mask": [1, 2]}, r"`mask\[1\]` is 2, expected 0 or 1"),
        (
            {"completion_ids": [1, 2], "logprobs": [-1.0, 0.5]},
            r"`logprobs\[1\]` is 0.5, expected a number of 0 or less",
        ),
        ({"completion_ids": [1, 2], "logprobs": [float("nan"), -1.0]}, r"`logprobs\[0\]` is nan"),
        ({"completion_ids": [1], "trainer_logprobs": [float("-inf")]}, r"`trainer_logprobs\[0\]` is -inf"),
        ({"completion_ids": [1], "entropies": [-0.1]}, r"`entropies\[0\]` is -0.1, expected a number of 0 or more"),
        ({"completion_ids": [1], "logprobs": ["x"]}, r"`logprobs\[0\]` is 'x'"),
        ({"completion_ids": [1, -2]}, r"`completion_ids\[1\]` is -2, which is no token id"),
        ({"completion_ids": [1.5]}, r"`completion_ids\[0\]` is 1.5"),
        ({"completion": "4", "logprobs": [-1.0]}, "`logprobs` without `completion_ids`"),
        ({"completion": "4", "prompt_ids": [1]}, "`prompt_ids` without `completion_ids`"),
        ({"completion": f"{CALL}{RESULT}7", "completion_ids": [1]}, "no mask says which tokens"),
        ({"completion": [{"content": "4"}]}, "expected an object with a role"),
        ({"completion": "4", "reward": "good"}, "`reward` is 'good', expected a number"),
        ({"completion": "4", "step": 1.5}, "`step` is 1.5, expected a whole number"),
        ({"completion": "4", "reward_weights": {"right": 1.0}}, "a weight for 'right'"),
    ],
)
def test_what_contradicts_itself_is_refused_with_the_value(given: dict[str, Any], said: str) -> None:
    with pytest.raises(RecordError, match=said):
        recorded(**given)


def test_an_unknown_dialect_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UnknownName, match="hermes"):
        recorded("a", "b", dialect="hermés")
