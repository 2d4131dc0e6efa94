"""Every sample can be planned from, and its rollouts be found again, or the refusal says what to do."""

from collections import Counter
from pathlib import Path

import pytest
from samples import SAMPLE_OF, options

import gapscope as gs
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


def planned(name: str) -> gs.Plan:
    everything = gs.PlanOptions(rank="random", seed=0, step="all", r="2", correctness=RULES.get(name))
    return gs.plan(SAMPLE_OF[name], everything, mapping=options(name).mapping or None)


@pytest.mark.parametrize("name", [name for name in SAMPLE_OF if name not in REFUSED])
def test_the_prefixes_of_a_sample_are_the_beginnings_of_its_rollouts(name: str) -> None:
    plan = planned(name)
    begun = Counter((prefix.source.file, prefix.prefix.text) for prefix in plan.prefixes)
    texts = [(each.source.file, each.output) for each in gs.originals(plan.header)]
    for (file, text), prefixes in begun.items():
        assert sum(path == file and output.startswith(text) for path, output in texts) >= prefixes
    for prefix in plan.prefixes:
        content = prefix.prefix
        assert content.exact or content.prompt or content.messages
        assert content.delimited or content.messages[-1]["role"] == "assistant"


@pytest.mark.parametrize("name", [name for name in SAMPLE_OF if name not in REFUSED])
def test_the_originals_of_a_sample_are_audited_like_it(name: str, tmp_path: Path) -> None:
    plan = planned(name)
    path = tmp_path / "originals.jsonl"
    with RolloutWriter(path) as log:
        log.write(*gs.originals(plan.header))
    before = gs.audit(SAMPLE_OF[name], correct=RULES.get(name), mapping=options(name).mapping or None)
    after = gs.audit(path)
    for key in ("tool_attempt_rate", "all_wrong_tool_group_rate", "accuracy", "axpo_slots", "axpo_need_first"):
        assert (after[key].value, after[key].n) == (before[key].value, before[key].n), key


@pytest.mark.parametrize("name", REFUSED)
def test_a_sample_that_cannot_be_planned_from_says_why(name: str) -> None:
    with pytest.raises(gs.GapscopeError) as refusal:
        planned(name)
    assert refusal.value.message.startswith(REFUSED[name])
