"""How far the log-probs of engine and trainer are apart."""

from collections.abc import Callable
from pathlib import Path

import pytest
from call_logs import cluster_bounds, drawn, groups_of, in_scope
from token_logs import close, written

import gapscope as gs
from gapscope.metrics import groups, logprob_mismatch

Audit = Callable[..., gs.Report]
MEASURED = (groups, logprob_mismatch)
LIMITS = {"logprob_mismatch_share[0.01]": 0.01, "logprob_mismatch_share[0.1]": 0.1, "logprob_mismatch_share[1]": 1.0}


def apart(rollout: gs.Rollout) -> list[float]:
    """The differences at the tokens that the policy wrote; none where a model has scored them afterwards."""
    tokens = rollout.tokens
    if tokens is None or not tokens.logprobs or not tokens.trainer_logprobs or tokens.logprob_source == "rescored":
        return []
    both = zip(tokens.logprobs, tokens.trainer_logprobs, strict=True)
    return [abs(engine - trainer) for engine, trainer in both if engine is not None and trainer is not None]


@pytest.mark.parametrize("seed", range(3))
def test_on_a_log_drawn_at_random_all_numbers_are_those_of_a_plain_script(
    seed: int, audit: Audit, tmp_path: Path
) -> None:
    rollouts = drawn(seed)
    report = audit(written(tmp_path / "drawn.jsonl", rollouts))
    scope = in_scope(rollouts)
    groups = [[found for rollout in group if (found := apart(rollout))] for group in groups_of(scope)]
    pairs = {
        key: [(sum(d > limit for found in group for d in found), sum(map(len, group))) for group in groups]
        for key, limit in LIMITS.items()
    }
    pairs["logprob_mismatch_rollout_share"] = [(sum(max(found) > 1 for found in group), len(group)) for group in groups]
    for key, each in pairs.items():
        x, m = (sum(column) for column in zip(*each, strict=True))
        assert (report[key].value, report[key].numerator, report[key].n) == (close(x / m), x, m)
        assert report[key].interval == pytest.approx(cluster_bounds(each, share=True), rel=0, abs=1e-9)
    largest = report["logprob_mismatch_max"]
    everything = [d for group in groups for found in group for d in found]
    assert (largest.value, largest.n) == (close(max(everything)), len(everything))
    assert [row["step"] for row in largest.table] == [0, 1, 2]
    assert max(row["value"] for row in largest.table) == largest.value
    with_both = sum(map(len, groups))
    assert largest.details == {"rollouts": with_both, "coverage": with_both / len(scope)}
    assert largest.reason == f"only {with_both} of {len(scope)} rollouts have both log-probs"


def test_without_the_log_probs_of_the_trainer_the_trainers_that_log_both_are_named(
    audit: Audit, tmp_path: Path
) -> None:
    rollouts = drawn(1)
    for rollout in rollouts:
        if rollout.tokens is not None:
            rollout.tokens = type(rollout.tokens)(rollout.tokens.ids, strings=["x"] * 9, sampled=[True] * 9)
    report = audit(written(tmp_path / "drawn.jsonl", rollouts))
    for key in (*LIMITS, "logprob_mismatch_rollout_share", "logprob_mismatch_max"):
        assert (report[key].value, report[key].status) == (None, "unobserved")
        assert "both the engine and the trainer" in (report[key].reason or "")
        assert "trainer.enable_token_export=true" in (report[key].setting or "")
