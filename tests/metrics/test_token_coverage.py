"""What of each number about tokens is there, and why the rest is not."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from token_logs import Values, drawn, first_call, in_scope, values_at, written

import gapscope as gs
from gapscope.metrics import groups, token_coverage
from gapscope.rollouts import Tokens, ToolCall

Audit = Callable[..., gs.Report]
MEASURED = (groups, token_coverage)
KEYS = ("logprob_coverage", "alignment_coverage", "entropy_coverage", "prefix_exact_share")


def unplaced(rollout: gs.Rollout, call: ToolCall) -> str | None:
    if rollout.tokens is None:
        return "no_tokens"
    if rollout.spans[0].token_start is None:
        return "no_tokenizer"
    return "call_not_in_tokens" if call.tokens is None else None


def without_values(rollout: gs.Rollout, call: ToolCall, values: Values | None, name: str) -> str | None:
    """Why the call has no such numbers: nothing has, it is not known which tokens it is, or it alone has none."""
    if rollout.tokens is None:
        return "no_tokens"
    if not values_at(rollout, values, 0, len(rollout.tokens)):
        return f"no_{name}"
    if call.tokens is None:
        return unplaced(rollout, call)
    return None if values_at(rollout, values, call.tokens.start, call.tokens.end) else f"no_{name}_of_the_call"


def inexact(rollout: gs.Rollout, call: ToolCall) -> str | None:
    if call.tokens is None or rollout.tokens is None:
        return unplaced(rollout, call)
    if call.tokens.mixed:
        return "boundary_token_mixed"
    if rollout.tokens.ids is None or not rollout.tokens.n_prompt:
        return "no_token_ids"
    return "retokenised" if rollout.tokens.retokenised else None


def lacking(rollout: gs.Rollout, call: ToolCall) -> dict[str, str | None]:
    """Per key why it does not count; nothing where it does."""
    tokens = rollout.tokens or Tokens([])
    entropies = without_values(rollout, call, tokens.entropies, "entropies")
    if tokens.entropy_kind == "nll" and entropies != "no_entropies":
        entropies = "one_sample_estimates"
    return {
        "logprob_coverage": without_values(rollout, call, tokens.logprobs, "logprobs"),
        "alignment_coverage": unplaced(rollout, call),
        "entropy_coverage": entropies,
        "prefix_exact_share": inexact(rollout, call),
    }


@pytest.mark.parametrize("seed", range(2))
def test_on_a_log_drawn_at_random_shares_and_reasons_are_those_of_a_plain_script(
    seed: int, audit: Audit, tmp_path: Path
) -> None:
    rollouts = drawn(seed, kinds=["full", "topk", "nll", None], groups=60)
    report = audit(written(tmp_path / "drawn.jsonl", rollouts))
    found = [lacking(rollout, call) for rollout in in_scope(rollouts) if (call := first_call(rollout))]
    for key in KEYS:
        reasons = Counter(reason for each in found if (reason := each[key]))
        left_out = {"no_tokens": reasons.pop("no_tokens")} if key == "alignment_coverage" else {}
        n = len(found) - sum(left_out.values())
        measured = report[key]
        assert (measured.numerator, measured.n) == (n - reasons.total(), n)
        assert measured.value == (n - reasons.total()) / n
        details = {name: count for name, count in measured.details.items() if name != "clusters"}
        assert (details, measured.excluded) == (dict(reasons), left_out)


def test_a_log_of_texts_alone_has_nothing_that_could_be_aligned(audit: Audit, samples: Path) -> None:
    report = audit(samples / "verl-v1")
    assert {key: report[key].value for key in KEYS} == {
        "logprob_coverage": 0.0,
        "alignment_coverage": None,
        "entropy_coverage": 0.0,
        "prefix_exact_share": 0.0,
    }
    alignment = report["alignment_coverage"]
    assert (alignment.status, alignment.reason) == ("unobserved", "no tool-using rollout has tokens")
    assert alignment.setting
    assert report["logprob_coverage"].details["no_tokens"] == report["logprob_coverage"].n


def test_token_ids_without_a_tokenizer_are_said_to_want_one(audit: Audit, tmp_path: Path) -> None:
    rollouts = [r for r in drawn(2, kinds=[None], groups=40) if r.tokens and r.spans[0].token_start is None]
    calling = [rollout for rollout in in_scope(rollouts) if first_call(rollout)]
    assert len(calling) > 1
    report = audit(written(tmp_path / "drawn.jsonl", calling))
    alignment = report["alignment_coverage"]
    assert (alignment.value, alignment.details["no_tokenizer"]) == (0.0, len(calling))


def test_where_no_tool_is_used_there_is_nothing_to_cover(audit: Audit, tmp_path: Path) -> None:
    rollouts = [rollout for rollout in drawn(1, kinds=["full"]) if first_call(rollout) is None]
    report = audit(written(tmp_path / "drawn.jsonl", rollouts))
    assert {report[key].value for key in KEYS} == {None}
    assert report["logprob_coverage"].reason == "no rollout used a tool"
