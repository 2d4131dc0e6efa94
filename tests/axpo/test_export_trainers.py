"""The arrays of `export` in the real classes of verl and TRL: what they load, and the loss that they make of them."""

import math
import os
import random
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import axpo_logs
import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_policy
import tiny_run
from axpo_logs import Made
from msgspec.structs import replace

import gapscope as gs
from gapscope.axpo.advantages import clipped_objective
from gapscope.axpo.export import export
from gapscope.plan_options import PlanOptions, Weighting
from gapscope.rollouts import Parent

REQUIRED = os.environ.get("GAPSCOPE_REQUIRE_TRAINERS") == "1"
CLIPPING = {"eps_low": 0.2, "eps_high": 0.4}
VOCABULARY = 500


def real(trainer: str, needs: str) -> Callable[[Any], Any]:
    """Mark a test that takes the real trainer; it and PyTorch warn of many things."""

    def marked(test: Any) -> Any:
        for mark in (
            getattr(pytest.mark, trainer),
            pytest.mark.filterwarnings("ignore"),
            pytest.mark.skipif(find_spec(trainer) is None and not REQUIRED, reason=needs),
        ):
            test = mark(test)
        return test

    return marked


in_verl = real("verl", "needs verl: tests/recorders/verl.txt and trainers.txt")
in_trl = real("trl", "needs TRL: pip install 'gapscope[trl]'")


def resampled() -> list[gs.Rollout]:
    """A group of eight with a source and four continuations, and one of three with a longer prompt."""
    rng = random.Random(1)
    rewards = [0, 0, 1, 1, 0, 0, 0, 0]
    rollouts = [made(rng, "q", place, right, tool=place < 2) for place, right in enumerate(rewards)]
    source = rollouts[0]
    place = source.calls[0].tokens
    assert place is not None
    for number in range(4):
        child = made(rng, "p", number, number == 0, tool=True, argument=number)
        child.parent = Parent("q0", source.calls[0].body_start, place.branch, "p")
        assert child.tokens is not None
        assert child.tokens.logprobs is not None
        child.tokens = replace(child.tokens, logprobs=[None] * place.branch + child.tokens.logprobs[place.branch :])
        rollouts.append(child)
    longer = "What is 1 + 1, if I may ask?"
    return rollouts + [made(rng, "z", number, number == 0, tool=False, prompt=longer) for number in range(3)]


def made(
    rng: random.Random, group: str, number: int, correct: float, *, tool: bool, argument: int = 9, **fields: Any
) -> gs.Rollout:
    calls = [Made(f'{{"name": "calc", "arguments": {{"x": {argument}}}}}')] * tool
    rollout = axpo_logs.rollout(
        calls, answer=f"{number}", logprob=lambda: -rng.uniform(0.5, 8.0), correct=bool(correct), group_id=group,
        sample_index=number, rollout_id=f"{group}{number}", step=1, **fields,
    )  # fmt: skip
    tokens = rollout.tokens
    assert tokens is not None
    assert tokens.ids is not None
    rollout.tokens = replace(tokens, ids=[one % VOCABULARY for one in tokens.ids])
    return rollout


class Row(NamedTuple):
    """A row of the Parquet batch: what the reference is computed from."""

    ids: list[int]
    n_prompt: int
    mask: np.ndarray[Any, Any]
    advantages: np.ndarray[Any, Any]
    old: np.ndarray[Any, Any]
    weight: float


def exported(folder: Path, trainer: Any, weighting: Weighting) -> tuple[dict[str, Any], list[Row]]:
    """The arrays for a trainer, and the rows that they are made of."""
    log = axpo_logs.written(folder / "log.jsonl", resampled())
    options, settings = PlanOptions(weighting=weighting), gs.Settings()
    arrays = dict(np.load(export([log], folder / "arrays", to=trainer, options=options, settings=settings).path))
    table = pq.read_table(export([log], folder / "rows", to="parquet", options=options, settings=settings).path)
    rows = [
        Row(
            row["token_ids"],
            row["prompt_length"],
            np.array(row["response_mask"]),
            np.array([value or 0.0 for value in row["advantages"]]),
            np.array([value or 0.0 for value in row["old_logprobs"]]),
            row["weight"],
        )
        for row in table.to_pylist()
    ]
    assert len(rows) == 15
    return arrays, rows


def objective(rows: list[Row], policy: list[Any]) -> float:
    """Eq. 6 over all rows, from the log-probs of the policy in training for each token of each row."""
    whole = [
        np.concatenate(parts)
        for parts in (
            policy,
            [row.old for row in rows],
            [row.advantages for row in rows],
            [np.where(row.mask, row.weight, 0.0) for row in rows],
        )
    ]
    return clipped_objective(*whole, **CLIPPING)


def drifted(rows: list[Row]) -> list[Any]:
    """Log-probs of a policy that has moved on, by so much that both bounds of the ratio are met."""
    rng = np.random.default_rng(2)
    return [row.old + rng.uniform(-0.6, 0.6, len(row.old)) for row in rows]


# --- verl -----------------------------------------------------------------------------------------------


def proto(arrays: dict[str, Any]) -> Any:
    """As the docstring of gapscope.axpo.padded has it."""
    import torch
    from verl import DataProto

    texts = {name: array.astype(object) for name, array in arrays.items() if array.dtype.kind == "U"}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items() if name not in texts}
    return DataProto.from_dict(tensors=tensors, non_tensors=texts)


@in_verl
def test_verls_dataproto_takes_slices_and_joins_the_arrays(tmp_path: Path) -> None:
    import torch
    from verl import DataProto
    from verl.utils.model import compute_position_id_with_mask
    from verl.workers.utils.padding import left_right_2_no_padding

    arrays, rows = exported(tmp_path, "verl", "per_term_mean")
    batch = proto(arrays)
    assert len(batch) == len(rows)
    assert torch.equal(batch.batch["position_ids"], compute_position_id_with_mask(batch.batch["attention_mask"]))
    again = DataProto.concat([batch[:4], batch[4:]])
    assert torch.equal(again.batch["advantages"], batch.batch["advantages"])
    assert again.non_tensor_batch["uid"].tolist() == ["q"] * 8 + ["p"] * 4 + ["z"] * 3
    assert [len(part) for part in batch.chunk(5)] == [3] * 5
    bare = left_right_2_no_padding(batch.to_tensordict())
    assert [ids.tolist() for ids in bare["input_ids"].unbind()] == [row.ids for row in rows]


def verl_loss(batch: Any, policy: list[Any], mode: str) -> tuple[Any, Any]:
    """What verl's actor makes of a batch, and the leaf that it can be derived by: the model's log-probs, unpadded."""
    import torch
    from verl.utils import tensordict_utils as tu
    from verl.workers.config import ActorConfig
    from verl.workers.utils.losses import ppo_loss
    from verl.workers.utils.padding import left_right_2_no_padding

    config = ActorConfig(
        strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, loss_agg_mode=mode, clip_ratio_c=1e6,
        clip_ratio_low=CLIPPING["eps_low"], clip_ratio_high=CLIPPING["eps_high"],
    )  # fmt: skip
    # A model says at each place what it holds of the next token.
    shifted = torch.from_numpy(np.concatenate([np.append(values[1:], 0.0) for values in policy])).requires_grad_()
    data = left_right_2_no_padding(batch.to_tensordict())
    tu.assign_non_tensor(data, dp_size=1, batch_num_tokens=None, global_batch_size=None)
    offsets = torch.tensor([0, *np.cumsum([len(values) for values in policy])])
    nested = torch.nested.nested_tensor_from_jagged(shifted, offsets=offsets)
    loss, _ = ppo_loss(config, {"log_probs": nested}, data)
    return loss, shifted


SAME: list[tuple[Weighting, str]] = [("per_term_mean", "seq-mean-token-mean"), ("token_mean", "token-mean")]


@in_verl
@pytest.mark.parametrize(("weighting", "mode"), SAME)
def test_verls_actor_loss_is_the_objective_by_its_own_sum(tmp_path: Path, weighting: Weighting, mode: str) -> None:
    arrays, rows = exported(tmp_path, "verl", weighting)
    policy = drifted(rows)
    loss, _ = verl_loss(proto(arrays), policy, mode)
    assert loss.item() == pytest.approx(-objective(rows, policy), abs=1e-6)
    assert abs(loss.item()) > 1e-3


@in_verl
@pytest.mark.parametrize("weighting", ["per_term_mean", "token_mean", "question_sum"])
def test_weights_folded_into_the_advantages_are_the_objective_in_mini_batches_as_well(
    tmp_path: Path, weighting: Weighting
) -> None:
    arrays, rows = exported(tmp_path, "verl", weighting)
    policy = drifted(rows)
    batch = proto(arrays)
    batch.batch["advantages"] *= batch.batch["weight"][:, None]
    parts = [verl_loss(batch[start:end], policy[start:end], "token-sum")[0].item() for start, end in ((0, 6), (6, 15))]
    assert math.fsum(parts) == pytest.approx(-objective(rows, policy), abs=1e-6)


@in_verl
def test_verls_gradient_is_that_of_the_objective_token_by_token(tmp_path: Path) -> None:
    arrays, rows = exported(tmp_path, "verl", "per_term_mean")
    policy = drifted(rows)
    loss, shifted = verl_loss(proto(arrays), policy, "seq-mean-token-mean")
    loss.backward()
    found = np.concatenate([np.append(0.0, part[:-1]) for part in np.split(shifted.grad.numpy(), _ends(rows))])
    mask = np.concatenate([row.mask for row in rows])
    assert not found[~mask].any()
    step = 1e-5
    flat, lengths = np.concatenate(policy), _ends(rows)
    for place in random.Random(0).sample(np.flatnonzero(mask).tolist(), 60):
        moved = [flat.copy(), flat.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        up, down = (objective(rows, np.split(each, lengths)) for each in moved)
        assert found[place] == pytest.approx(-(up - down) / (2 * step), abs=1e-6)
    assert found[mask].any()


def _ends(rows: list[Row]) -> list[int]:
    return np.cumsum([len(row.ids) for row in rows])[:-1].tolist()


# --- TRL ------------------------------------------------------------------------------------------------


class Tiny(NamedTuple):
    tokenizer: Any
    model: Any


@pytest.fixture(scope="module")
def tiny() -> Iterator[Tiny]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tokenizer = tiny_policy.tokenizer()
    # In double precision, so that its derivative can be taken by differences.
    yield Tiny(tokenizer, tiny_policy.policy(tokenizer, steps=0).double().eval())
    torch.set_num_threads(threads)


def logprobs(model: Any, rows: list[Row]) -> list[Any]:
    """What the model says of each token, row by row and without padding."""
    import torch

    found = []
    with torch.no_grad():
        for row in rows:
            said = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
            own = said[:-1].gather(1, torch.tensor(row.ids[1:])[:, None])[:, 0]
            found.append(np.append(0.0, own.numpy()))
    return found


def trl_inputs(arrays: dict[str, Any]) -> dict[str, Any]:
    """As the docstring of gapscope.axpo.padded has it."""
    import torch

    return {name: torch.from_numpy(array) for name, array in arrays.items() if array.dtype.kind != "U"}


def trl_loss(tiny: Tiny, folder: Path, inputs: dict[str, Any], loss_type: str) -> Any:
    trainer = tiny_run.trainer(
        folder, tiny.tokenizer, tiny.model, [tiny_run.short], tools=(), loss_type=loss_type, temperature=1.0,
        epsilon=CLIPPING["eps_low"], epsilon_high=CLIPPING["eps_high"], beta=0.0,
    )  # fmt: skip
    trainer.model.eval()
    return trainer._compute_loss(trainer.model, inputs)


def beside_the_model(tiny: Tiny, folder: Path, weighting: Weighting) -> tuple[dict[str, Any], list[Row]]:
    """The batch, with a sampling policy that is near the model."""
    arrays, rows = exported(folder, "trl", weighting)
    rng = np.random.default_rng(3)
    rows = [
        row._replace(old=values + rng.uniform(-0.6, 0.6, len(values)))
        for row, values in zip(rows, logprobs(tiny.model, rows), strict=True)
    ]
    inputs = trl_inputs(arrays)
    width = inputs["completion_ids"].shape[1]
    own = [np.pad(row.old[row.n_prompt :], (0, width - len(row.ids) + row.n_prompt)) for row in rows]
    inputs["old_per_token_logps"] = inputs["old_per_token_logps"].new_tensor(np.array(own)).double()
    return inputs, rows


@in_trl
@pytest.mark.parametrize(
    ("weighting", "loss_type"), [("per_term_mean", "grpo"), ("token_mean", "bnpo"), ("token_mean", "dapo")]
)
def test_trls_loss_is_the_objective_by_its_own_sum(
    tiny: Tiny, tmp_path: Path, weighting: Weighting, loss_type: str
) -> None:
    inputs, rows = beside_the_model(tiny, tmp_path, weighting)
    loss = trl_loss(tiny, tmp_path, inputs, loss_type).item()
    assert loss == pytest.approx(-objective(rows, logprobs(tiny.model, rows)), abs=1e-5)
    assert abs(loss) > 1e-3


@in_trl
@pytest.mark.parametrize("weighting", ["per_term_mean", "question_sum"])
def test_weights_folded_into_trls_advantages_are_the_objective(
    tiny: Tiny, tmp_path: Path, weighting: Weighting
) -> None:
    import torch

    inputs, rows = beside_the_model(tiny, tmp_path, weighting)
    inputs["advantages"] = inputs["advantages"] * inputs["weight"]
    inputs["num_items_in_batch"] = torch.tensor(1.0)
    loss = trl_loss(tiny, tmp_path, inputs, "dapo").item()
    assert loss == pytest.approx(-objective(rows, logprobs(tiny.model, rows)), abs=1e-5)


@in_trl
def test_trls_gradient_is_that_of_the_objective(tiny: Tiny, tmp_path: Path) -> None:
    import torch

    inputs, rows = beside_the_model(tiny, tmp_path, "per_term_mean")
    tiny.model.zero_grad()
    trl_loss(tiny, tmp_path, inputs, "grpo").backward()
    moved = [(weight, weight.grad.clone()) for weight in tiny.model.parameters() if weight.grad is not None]
    length = math.sqrt(sum(float((grad**2).sum()) for _, grad in moved))
    step = 1e-5 / length

    def after(steps: float) -> float:
        with torch.no_grad():
            for values, grad in moved:
                values.add_(grad, alpha=steps * step)
            value = objective(rows, logprobs(tiny.model, rows))
            for values, grad in moved:
                values.sub_(grad, alpha=steps * step)
        return -value

    # Along its gradient, of one unit's length, a loss rises by the length of the gradient.
    assert (after(1) - after(-1)) / 2e-5 == pytest.approx(length, rel=1e-4)
