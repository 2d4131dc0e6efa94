"""What TRLRecorder writes of a real GRPO run, beside what TRL itself writes and what the weights that sampled say."""

import asyncio
import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import tiny_policy
import tiny_run

import gapscope as gs
from gapscope.errors import RecordError
from gapscope.ingest import read
from gapscope.recorders import TRLRecorder
from gapscope.rollouts import Rollout, Tokens

needs_trl = pytest.mark.skipif(
    find_spec("trl") is None and os.environ.get("GAPSCOPE_REQUIRE_TRAINERS") != "1",
    reason="needs TRL: pip install 'gapscope[trl]'",
)


def real(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that trains; TRL and PyTorch warn of many things."""
    for mark in (pytest.mark.trl, pytest.mark.filterwarnings("ignore"), needs_trl):
        test = mark(test)
    return test


class Tiny(NamedTuple):
    tokenizer: Any
    model: Any


@pytest.fixture(scope="module")
def tiny() -> Iterator[Tiny]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tokenizer = tiny_policy.tokenizer()
    yield Tiny(tokenizer, tiny_policy.policy(tokenizer))
    torch.set_num_threads(threads)


class Run(NamedTuple):
    """A run with its log, and the weights that sampled by step."""

    folder: Path
    rollouts: list[Rollout]
    weights: dict[int, Any]
    tiny: Tiny


def trained(tiny: Tiny, folder: Path, *, logprobs: bool = True, **options: Any) -> Run:
    from transformers import TrainerCallback

    weights: dict[int, Any] = {}

    class Keep(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, _: Any, state: Any, *__: Any, **given: Any) -> None:
            weights[state.global_step + 1] = copy.deepcopy(given["model"].state_dict())

    recorder = TRLRecorder(folder / "rollouts.jsonl", logprobs=logprobs, ground_truth="answer", run="tiny")
    rewards = [recorder.wrap(tiny_run.right), tiny_run.short]
    trainer = tiny_run.trainer(folder, tiny.tokenizer, copy.deepcopy(tiny.model), rewards, **options)
    trainer.add_callback(Keep())
    recorder.attach(trainer)
    trainer.train()
    return Run(folder, rollouts_in(folder), weights, tiny)


def rollouts_in(folder: Path) -> list[Rollout]:
    records = list(read([folder / "rollouts.jsonl"]))
    assert all(isinstance(record, Rollout) for record in records)
    return records  # type: ignore[return-value]


@pytest.fixture(scope="module")
def run(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tiny, tmp_path_factory.mktemp("run"))


def tokens_of(rollout: Rollout) -> Tokens:
    assert rollout.tokens is not None
    return rollout.tokens


def told_by(run: Run, rollout: Rollout, step: int, temperature: float = 0.8) -> tuple[list[float], list[float]]:
    """Log-probs and entropies of the completion, by the model alone and from the logits of its whole vocabulary."""
    import torch

    model, tokens = copy.deepcopy(run.tiny.model), tokens_of(rollout)
    model.load_state_dict(run.weights[step])
    model.eval()
    assert tokens.ids is not None
    with torch.no_grad():
        logits = model(torch.tensor([tokens.ids])).logits[0, tokens.n_prompt - 1 : -1].double()  # type: ignore[operator]
    likely = torch.log_softmax(logits / temperature, dim=-1)
    own = torch.tensor(tokens.ids[tokens.n_prompt :])
    return likely.gather(1, own[:, None])[:, 0].tolist(), (-likely.exp() * likely).sum(-1).tolist()


@real
def test_every_rollout_is_recorded_once_with_its_place(run: Run) -> None:
    # Two steps of two questions and four rollouts each.
    assert len(run.rollouts) == len({rollout.rollout_id for rollout in run.rollouts}) == 16
    assert [rollout.step for rollout in run.rollouts] == [1] * 8 + [2] * 8
    assert [rollout.sample_index for rollout in run.rollouts] == [0, 1, 2, 3] * 4
    groups = [rollout.group_id for rollout in run.rollouts]
    assert groups == [group for first in range(0, 16, 4) for group in [groups[first]] * 4]
    assert len(set(groups)) == 4
    assert {rollout.group_origin for rollout in run.rollouts} == {"logged"}
    assert {(rollout.split, rollout.run) for rollout in run.rollouts} == {("train", "tiny")}


@real
def test_some_rollouts_use_the_tool_and_some_do_not(run: Run) -> None:
    used = [bool(rollout.calls) for rollout in run.rollouts]
    assert any(used)
    assert not all(used)


@real
def test_rewards_and_advantages_are_those_in_the_file_of_trl(run: Run) -> None:
    import pandas as pd

    files = sorted((run.folder / "completions").glob("*.parquet"))
    rows = [row for file in files for row in pd.read_parquet(file).to_dict("records")]
    assert len(rows) == len(run.rollouts)
    for row, rollout in zip(rows, run.rollouts, strict=True):
        assert row["step"] == rollout.step
        assert row["prompt"][0]["content"] == rollout.messages[0]["content"]
        assert row["advantage"] == rollout.advantage
        parts = {part.name: (part.value, part.weight) for part in rollout.reward_parts}
        assert parts == {"right": (row["right"], 1.0), "short": (row["short"], 0.5)}
        assert rollout.reward == pytest.approx(row["right"] + 0.5 * row["short"])
        said = row["completion"]
        assert sum(bool(message.get("tool_calls") is not None) for message in said) == len(
            [call for call in rollout.calls if call.parsed]
        )


@real
def test_columns_of_the_data_set_are_recorded(run: Run) -> None:
    for rollout in run.rollouts:
        question = rollout.messages[0]["content"]
        assert (rollout.ground_truth, rollout.extra["level"]) == (("3", 1) if question == "1+2?" else ("4", 2))
        assert rollout.extra.keys() == {"answer", "level"}


@real
def test_token_ids_are_those_of_the_texts(run: Run) -> None:
    for rollout in run.rollouts:
        tokens, decode = tokens_of(rollout), run.tiny.tokenizer.decode
        assert tokens.ids is not None
        assert decode(tokens.ids[: tokens.n_prompt]) == rollout.prompt
        assert decode(tokens.ids[tokens.n_prompt :]) == rollout.output
        assert rollout.prompt is not None
        assert rollout.prompt.endswith("<|im_start|>assistant\n")
        assert rollout.declared_tools == ["add"]
        assert rollout.finish_reason == ("stop" if rollout.output.endswith("<|im_end|>") else "length")


@real
def test_what_the_tool_wrote_is_not_sampled(run: Run) -> None:
    results = 0
    for rollout in run.rollouts:
        tokens, decode = tokens_of(rollout), run.tiny.tokenizer.decode
        assert tokens.ids is not None
        assert tokens.sampled is not None
        others = [token for token, own in zip(tokens.ids, tokens.sampled, strict=True) if not own]
        answers = [
            f"\n<|im_start|>user\n<tool_response>\n{call.result}\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
            for call in rollout.calls
            if call.result is not None
        ]
        assert decode(others) == "".join([rollout.prompt or "", *answers])
        results += len(answers)
    assert results


@real
def test_spans_and_calls_say_which_tokens_they_are_made_of(run: Run) -> None:
    for rollout in run.rollouts:
        tokens, decode = tokens_of(rollout), run.tiny.tokenizer.decode
        assert tokens.ids is not None
        for span in rollout.spans:
            assert decode(tokens.ids[span.token_start : span.token_end]) == rollout.output[span.start : span.end]
        for call in rollout.calls:
            assert call.tokens is not None
            assert (
                decode(tokens.ids[call.tokens.start : call.tokens.branch]) == "<tool_call>\n"[: 11 + call.tokens.mixed]
            )
            assert decode(tokens.ids[call.tokens.branch : call.tokens.body_end]).strip() == call.raw.strip()


@real
def test_logprobs_and_entropies_are_those_of_the_weights_that_sampled(run: Run) -> None:
    for rollout in run.rollouts:
        assert rollout.step is not None
        tokens = tokens_of(rollout)
        assert (tokens.logprob_source, tokens.entropy_kind, tokens.trainer_logprobs) == ("trainer", "full", None)
        agree(rollout, *told_by(run, rollout, rollout.step))


def agree(rollout: Rollout, logprobs: list[float], entropies: list[float] | None) -> None:
    tokens = tokens_of(rollout)
    assert tokens.sampled is not None
    assert tokens.logprobs is not None
    own = tokens.sampled[tokens.n_prompt :]
    for recorded, told in ((tokens.logprobs, logprobs), (tokens.entropies, entropies)):
        if told is None:
            assert recorded is None
            continue
        assert recorded is not None
        assert recorded[: tokens.n_prompt] == [None] * (tokens.n_prompt or 0)
        for value, expected, sampled in zip(recorded[tokens.n_prompt :], told, own, strict=True):
            assert value == (pytest.approx(expected, abs=1e-4) if sampled else None)


OF_TOKENS = (
    "tool_confidence_mean",
    "tool_surprisal_mean",
    "tool_entropy_at_tag",
    "tool_entropy_after_tag",
    "think_confidence_mean",
    "tool_think_surprisal_gap",
    "response_tokens_mean",
    "truncation_rate",
    "group_zero_std_rate",
)
COVERAGE = ("logprob_coverage", "entropy_coverage", "prefix_exact_share")


@real
def test_the_log_gives_the_metrics_of_tokens_and_the_file_of_trl_says_what_it_lacks(
    run: Run, audit: Callable[..., gs.Report]
) -> None:
    own, theirs = audit(run.folder / "rollouts.jsonl"), audit(run.folder / "completions")
    assert (own.rollouts, theirs.rollouts) == (16, 16)
    assert own.tokens.alignment == {"logged": 16}
    assert [name for name in OF_TOKENS if own[name].value is None] == []
    assert [own[name].value for name in COVERAGE] == [1.0, 1.0, 1.0]
    assert [name for name in OF_TOKENS if theirs[name].value is not None or not theirs[name].reason] == []
    assert [theirs[name].value for name in COVERAGE] == [0.0, 0.0, 0.0]
    assert own["tool_attempt_rate"].value == theirs["tool_attempt_rate"].value


@real
def test_a_batch_that_is_trained_on_for_long_has_the_logprobs_of_its_first_step(tiny: Tiny, tmp_path: Path) -> None:
    # Eight rollouts are generated for two optimiser steps of one micro-batch, and used twice.
    options = {"gradient_accumulation_steps": 1, "steps_per_generation": 2, "num_iterations": 2, "max_steps": 8}
    run = trained(tiny, tmp_path, **options)
    assert [rollout.step for rollout in run.rollouts] == [1] * 8 + [5] * 8
    for rollout in run.rollouts[4:12]:
        assert rollout.step is not None
        agree(rollout, *told_by(run, rollout, rollout.step))


@real
def test_without_a_pass_of_its_own_only_the_logprobs_that_trl_has_are_recorded(tiny: Tiny, tmp_path: Path) -> None:
    run = trained(tiny, tmp_path / "aligned", logprobs=False, max_steps=1)
    assert {tokens_of(rollout).logprobs for rollout in run.rollouts} == {None}
    options = {"gradient_accumulation_steps": 1, "steps_per_generation": 2, "max_steps": 2}
    run = trained(tiny, tmp_path / "apart", logprobs=False, **options)
    for rollout in run.rollouts[:4]:
        agree(rollout, told_by(run, rollout, 1)[0], None)


@real
def test_training_is_the_same_with_and_without_the_recorder(tiny: Tiny, tmp_path: Path) -> None:
    def weights(*, record: bool) -> list[Any]:
        model, recorder = copy.deepcopy(tiny.model), TRLRecorder(tmp_path / "rollouts.jsonl")
        right = recorder.wrap(tiny_run.right) if record else tiny_run.right
        trainer = tiny_run.trainer(tmp_path, tiny.tokenizer, model, [right])
        if record:
            recorder.attach(trainer)
        trainer.train()
        return [parameter.detach().tolist() for parameter in model.parameters()]

    assert weights(record=True) == weights(record=False)


@real
def test_an_evaluation_is_recorded_as_text_with_rewards(tiny: Tiny, tmp_path: Path) -> None:
    run = trained(tiny, tmp_path, evaluate=True, max_steps=2, eval_strategy="steps", eval_steps=1)
    validation = [rollout for rollout in run.rollouts if rollout.split == "validation"]
    assert [rollout.step for rollout in validation] == [1] * 8 + [2] * 8
    assert len({rollout.group_id for rollout in validation}) == 4
    assert all(rollout.tokens is None and rollout.reward is not None and rollout.output for rollout in validation)
    assert len([rollout for rollout in run.rollouts if rollout.split == "train" and rollout.tokens]) == 16


@real
def test_what_the_loss_leaves_out_is_recorded_as_masked(tiny: Tiny, tmp_path: Path) -> None:
    run = trained(tiny, tmp_path, max_steps=1, mask_truncated_completions=True, max_completion_length=12)
    masked = [rollout for rollout in run.rollouts if rollout.status == "masked"]
    assert masked
    assert [rollout.finish_reason for rollout in masked] == ["length"] * len(masked)
    for rollout in masked:
        agree(rollout, *told_by(run, rollout, 1))


@real
def test_prompts_that_are_plain_text_and_no_tools(tiny: Tiny, tmp_path: Path) -> None:
    run = trained(tiny, tmp_path, max_steps=1, tools=(), plain=True)
    assert {rollout.prompt for rollout in run.rollouts} == {"1+2?", "2+2?"}
    assert {tuple(rollout.declared_tools or "?") for rollout in run.rollouts} == {("?",)}
    for rollout in run.rollouts[:3]:
        assert all(tokens_of(rollout).sampled[tokens_of(rollout).n_prompt :])  # type: ignore[index]
        agree(rollout, *told_by(run, rollout, 1))


@real
def test_a_group_of_two_processes_has_one_name(tiny: Tiny, tmp_path: Path) -> None:
    import pandas as pd

    tiny.model.save_pretrained(tmp_path / "model")
    tiny.tokenizer.save_pretrained(tmp_path / "model")
    script = Path(__file__).parent.parent / "shared" / "one_of_many.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    subprocess.run(
        [*command, str(tmp_path / "model"), str(tmp_path)],
        check=True,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    rollouts = sorted(rollouts_in(tmp_path), key=lambda rollout: rollout.sample_index or 0)
    assert [rollout.sample_index for rollout in rollouts] == list(range(8))
    assert len({rollout.group_id for rollout in rollouts}) == 1
    (file,) = (tmp_path / "completions").glob("*.parquet")
    assert [rollout.advantage for rollout in rollouts] == pd.read_parquet(file)["advantage"].tolist()
    assert all(rollout.tokens and rollout.tokens.logprobs for rollout in rollouts)


@real
def test_a_recorder_that_was_not_attached_says_so_at_once(tiny: Tiny, tmp_path: Path) -> None:
    recorder = TRLRecorder(tmp_path / "rollouts.jsonl")
    model = copy.deepcopy(tiny.model)
    trainer = tiny_run.trainer(tmp_path, tiny.tokenizer, model, [recorder.wrap(tiny_run.right)])
    with pytest.raises(RecordError, match="knows no trainer"):
        trainer.train()


class Judge:
    def __call__(self, completions: list[str], **_: Any) -> list[float]:
        return [1.0 for _ in completions]


def test_a_wrapped_function_keeps_its_name_its_kind_and_its_answer(tmp_path: Path) -> None:
    recorder = TRLRecorder(tmp_path / "rollouts.jsonl")

    async def later(completions: list[str], **_: Any) -> list[float]:
        return [2.0 for _ in completions]

    assert recorder.wrap(tiny_run.right).__name__ == "right"
    assert recorder.wrap(Judge()).__name__ == "Judge"
    assert recorder.wrap(Judge())(completions=["a"]) == [1.0]
    waiting = recorder.wrap(later)
    assert (waiting.__name__, asyncio.iscoroutinefunction(waiting)) == ("later", True)
    assert asyncio.run(waiting(completions=["a", "b"])) == [2.0, 2.0]


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        (SimpleNamespace(), "SimpleNamespace has no `_logs`"),
        (
            SimpleNamespace(
                _logs={},
                _buffered_inputs=None,
                is_deepspeed_enabled=True,
                args=SimpleNamespace(gradient_accumulation_steps=1),
            ),
            "DeepSpeed changes the weights",
        ),
        (
            SimpleNamespace(
                _logs={}, _buffered_inputs=None, is_deepspeed_enabled=False, reward_func_names=["<lambda>", "<lambda>"]
            ),
            "two reward functions share a name",
        ),
    ],
)
def test_a_trainer_that_cannot_be_recorded_is_refused(tmp_path: Path, trainer: Any, said: str) -> None:
    with pytest.raises(RecordError, match=said):
        TRLRecorder(tmp_path / "rollouts.jsonl").attach(trainer)
