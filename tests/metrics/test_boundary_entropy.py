"""Entropies at the beginning of a call: of one kind at a time."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace
from token_logs import close, drawn, first_call, in_scope, mean, values_at, written

import gapscope as gs
from gapscope.metrics import boundary_entropy, groups, tool_confidence
from gapscope.rollouts import CallTokens, EntropyKind, Span, Tokens, ToolCall

Audit = Callable[..., gs.Report]
MEASURED = (boundary_entropy, groups, tool_confidence)
PLACES = ("at_tag", "after_tag", "call_mean")


def at_the_call(rollout: gs.Rollout, place: str, kind: str, bound: str = "lower") -> float | None:
    """The number of one kind at a place of its first call."""
    call, tokens = first_call(rollout), rollout.tokens
    if call is None or call.tokens is None or tokens is None:
        return None
    start, branch, end = call.tokens.start, call.tokens.branch, call.tokens.end
    stretch = {"at_tag": (start, start + 1), "after_tag": (branch, branch + 1), "call_mean": (start, end)}[place]
    logprob = mean(values_at(rollout, tokens.logprobs, *stretch))
    if kind == "nll" and logprob is not None:
        return -logprob
    values = tokens.entropy_uppers if bound == "upper" else tokens.entropies
    return mean(values_at(rollout, values, *stretch)) if tokens.entropy_kind == kind else None


def known(rollouts: Sequence[gs.Rollout], place: str, kind: str, bound: str = "lower") -> list[float]:
    return [value for rollout in rollouts if (value := at_the_call(rollout, place, kind, bound)) is not None]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kinds", [("full", "topk", "nll", None), ("topk", "nll"), (None,)], ids=str)
def test_on_a_log_drawn_at_random_the_means_are_those_of_a_plain_script(
    kinds: Sequence[EntropyKind | None], seed: int, audit: Audit, tmp_path: Path
) -> None:
    rollouts = drawn(seed, kinds=kinds)
    report = audit(written(tmp_path / "drawn.jsonl", rollouts))
    scope = in_scope(rollouts)
    calling = [rollout for rollout in scope if first_call(rollout)]
    kind = "full" if "full" in kinds else "nll"
    for place in PLACES:
        found, values = report[f"tool_entropy_{place}"], known(scope, place, kind)
        assert (found.n, found.value) == (len(values), close(mean(values)))
        assert (found.details["kind"], found.unit) == (kind, "nats")
        assert found.details["coverage"] == len(values) / len(calling)
        for each in ("full", "nll"):
            several = [r for r in calling if any(at_the_call(r, one, each) is not None for one in PLACES)]
            assert found.details[f"calls_{each}"] == len(several)
            if each == kind:
                remade = [r for r in several if r.tokens and r.tokens.retokenised]
                assert found.details["retokenised_share"] == len(remade) / len(several)
    for place in PLACES[:2]:
        lower, upper = (report[f"tool_entropy_{place}_{bound}"] for bound in ("lower", "upper"))
        lowest, highest = (known(scope, place, "topk", bound) for bound in ("lower", "upper"))
        assert (lower.n, lower.value) == (len(lowest), close(mean(lowest)))
        if len(highest) == len(lowest):
            assert (upper.n, upper.value) == (len(highest), close(mean(highest)))
        else:
            assert (upper.value, upper.status) == (None, "unobserved")
            assert f"{len(lowest) - len(highest)} call" in str(upper.reason)
        assert lower.details["kind"] == ("topk" if lowest else None)


def calling(tokens: Tokens, group: str = "q") -> gs.Rollout:
    """A rollout that is one call of three tokens, of which the first is the tag."""
    rollout = drawn(0, kinds=[None], groups=1)[0]
    rollout.group_id, rollout.output, rollout.tokens = group, "xxx", tokens
    rollout.spans = [Span("tool_call", 0, 0, 3, True, 0, 3)]
    place = CallTokens(0, 1, 2, 3)
    rollout.calls = [ToolCall(0, 0, 0, "", "f", {}, True, True, True, False, False, "no_result", tokens=place)]
    return rollout


SCORED = Tokens([1, 2, 3], 0, logprobs=[-1.0, -2.0, -3.0], logprob_source="rollout", sampled=[True] * 3)
FULL = replace(SCORED, entropies=[0.5, 0.25, 0.0], entropy_kind="full")
TOPK = replace(SCORED, entropies=[0.5, 0.25, 0.0], entropy_kind="topk", entropy_uppers=[1.0, 2.0, 3.0])


def test_where_one_call_has_the_whole_entropy_no_estimate_of_another_is_put_beside_it(
    audit: Audit, tmp_path: Path
) -> None:
    report = audit(written(tmp_path / "log.jsonl", [calling(FULL), *(calling(SCORED, f"q{n}") for n in range(3))]))
    found = report["tool_entropy_at_tag"]
    assert (found.value, found.n, found.details["kind"], found.status) == (0.5, 1, "full", "annotated")
    assert (found.details["calls_full"], found.details["calls_nll"], found.details["coverage"]) == (1, 4, 0.25)
    assert "scored_by" not in found.details
    assert report["tool_entropy_at_tag_lower"].reason == (
        "entropies are over the whole vocabulary: see tool_entropy_at_tag"
    )


def test_one_sample_is_an_estimate_and_said_to_be_one(audit: Audit, tmp_path: Path) -> None:
    report = audit(written(tmp_path / "log.jsonl", [calling(SCORED), calling(SCORED, "q2")]))
    values = {place: report[f"tool_entropy_{place}"].value for place in PLACES}
    assert values == {"at_tag": 1.0, "after_tag": 2.0, "call_mean": 2.0}
    assert {report[f"tool_entropy_{place}"].details["kind"] for place in PLACES} == {"nll"}
    assert report["tool_entropy_call_mean"].value == report["tool_surprisal_mean"].value
    assert report["tool_entropy_at_tag_lower"].reason == "the log has no entropies of kind topk"


def test_bounds_make_no_value(audit: Audit, tmp_path: Path) -> None:
    bounds_alone = replace(TOPK, logprobs=None, logprob_source=None)
    report = audit(written(tmp_path / "log.jsonl", [calling(bounds_alone), calling(bounds_alone, "q2")]))
    for place in PLACES:
        assert report[f"tool_entropy_{place}"].value is None
        assert "there are bounds, and no value" in str(report[f"tool_entropy_{place}"].reason)
    ends = [report[f"tool_entropy_{place}_{end}"].value for place in PLACES[:2] for end in ("lower", "upper")]
    assert ends == [0.5, 1.0, 0.25, 2.0]


def test_one_upper_bound_that_is_not_known_leaves_none(audit: Audit, tmp_path: Path) -> None:
    report = audit(written(tmp_path / "log.jsonl", [calling(TOPK), calling(replace(TOPK, entropy_uppers=None), "q2")]))
    assert report["tool_entropy_after_tag_lower"].value == 0.25
    upper = report["tool_entropy_after_tag_upper"]
    assert (upper.value, upper.n, upper.status) == (None, 0, "unobserved")
    assert upper.reason == "1 call of kind topk has no upper bound: the vocabulary's size is not known"


def test_numbers_from_the_engine_and_from_a_later_model_are_counted_apart(audit: Audit, tmp_path: Path) -> None:
    later = replace(SCORED, logprob_source="rescored", scored_by="tiny", retokenised=True)
    rollouts = [calling(SCORED), calling(later, "q2"), calling(SCORED, "q3"), calling(SCORED, "q4")]
    found = audit(written(tmp_path / "log.jsonl", rollouts))["tool_entropy_at_tag"]
    assert {key: found.details[key] for key in ("calls_rollout", "calls_rescored", "scored_by")} == {
        "calls_rollout": 3,
        "calls_rescored": 1,
        "scored_by": "tiny",
    }
    assert (found.details["retokenised_share"], found.status) == (0.25, "annotated")
    assert found.reason == "log-probs of several sources: rescored (1) and rollout (3)"


def test_a_policy_that_uses_no_tool_has_no_such_entropy(audit: Audit, tmp_path: Path) -> None:
    rollouts = [rollout for rollout in drawn(1, kinds=["full"]) if first_call(rollout) is None]
    report = audit(written(tmp_path / "log.jsonl", rollouts))
    for place in (*PLACES, "at_tag_lower", "after_tag_upper"):
        assert report[f"tool_entropy_{place}"].reason == "no rollout used a tool"
