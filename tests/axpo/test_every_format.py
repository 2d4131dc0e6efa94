"""Every sample can be planned from, and its rollouts be found again, or the refusal says what to do."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from few_metrics import measure_only
from samples import SAMPLE_OF, options

import gapscope as gs
from gapscope.metrics import accuracy, all_wrong, axpo_budget, groups, tool_attempts
from gapscope.recorders import RolloutWriter

RULES = {
    "arpo": "score>=1", "nemo-gym": "score>=1", "prime-rl": "score>=1", "trl": "accuracy_reward>0.5",
    "verifiers": "score>=1", "verifiers-results": "score>=1",
}  # fmt: skip
"""For logs that do not say themselves what is correct."""

REFUSED = {
    "miles-dashboard": "what is correct is not defined: the log has no reward",
    "prime-rl-tokens": "what is correct is not defined: the log has no reward",
    "rllm-gateway": "what is correct is not defined: the log has no reward",
    "skyrl-train": "what is correct is not defined: the log has no reward",
    "rlinf-eval": "no group can be planned from: 5 of 5 have one rollout each",
    "rlinf-storage": "no group can be planned from: 3 of 3 have one rollout each",
    "verifiers-results": "no group can be planned from: 2 of 2 have one rollout each",
}


class Sample(NamedTuple):
    """A sample with what is planned from it, and its rollouts as a resampled log repeats them."""

    name: str
    plan: gs.Plan
    originals: list[gs.Rollout]


def planned(name: str) -> gs.Plan:
    everything = gs.PlanOptions(rank="random", seed=0, step="all", r="2", correctness=RULES.get(name))
    return gs.plan(SAMPLE_OF[name], everything, mapping=options(name).mapping or None)


@pytest.fixture(scope="module", params=[name for name in SAMPLE_OF if name not in REFUSED])
def sample(request: pytest.FixtureRequest) -> Sample:
    name: str = request.param
    plan = planned(name)
    return Sample(name, plan, list(gs.originals(plan.header)))


def test_the_prefixes_of_a_sample_are_the_beginnings_of_its_rollouts(sample: Sample) -> None:
    plan = sample.plan
    begun = Counter((prefix.source.file, prefix.prefix.text) for prefix in plan.prefixes)
    texts = [(each.source.file, each.output) for each in sample.originals]
    for (file, text), prefixes in begun.items():
        assert sum(path == file and output.startswith(text) for path, output in texts) >= prefixes
    for prefix in plan.prefixes:
        content = prefix.prefix
        assert content.exact or content.prompt or content.messages
        assert content.delimited or content.messages[-1]["role"] == "assistant"


def test_the_originals_of_a_sample_are_audited_like_it(
    sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = sample.name
    path = tmp_path / "originals.jsonl"
    with RolloutWriter(path) as log:
        log.write(*sample.originals)
    measure_only(monkeypatch, accuracy, all_wrong, axpo_budget, groups, tool_attempts)
    before = gs.audit(SAMPLE_OF[name], correct=RULES.get(name), mapping=options(name).mapping or None)
    after = gs.audit(path)
    for key in ("tool_attempt_rate", "all_wrong_tool_group_rate", "accuracy", "axpo_slots", "axpo_need_first"):
        assert (after[key].value, after[key].n) == (before[key].value, before[key].n), key


@pytest.mark.parametrize("name", REFUSED)
def test_a_sample_that_cannot_be_planned_from_says_why(name: str) -> None:
    with pytest.raises(gs.GapscopeError) as refusal:
        planned(name)
    assert refusal.value.message.startswith(REFUSED[name])
