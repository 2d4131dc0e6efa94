"""How many different calls there are, in a group and after a prefix."""

from collections import defaultdict
from collections.abc import Callable, Hashable
from pathlib import Path

import pytest
from call_logs import cluster_bounds, drawn, first_call, groups_of, in_scope, of_one_prompt
from msgspec.structs import replace
from token_logs import close, written

import gapscope as gs
from gapscope.metrics import call_diversity, groups
from gapscope.rollouts import Source, ToolCall, Turn
from gapscope.statistics import wilson

Audit = Callable[..., gs.Report]
MEASURED = (call_diversity, groups)
Pairs = list[tuple[float, float]]


def meaning(call: ToolCall) -> str:
    """What is left of a call when case and blanks do not count."""
    what = call.raw if call.name is None else call.arguments["what"]
    return f"{call.name} {' '.join(what.lower().split())}"


def prefix_of(rollout: gs.Rollout, call: ToolCall) -> Hashable:
    """The token ids, where the policy saw them and they begin with a prompt; else the text."""
    tokens = rollout.tokens
    if call.tokens and tokens and tokens.ids and tokens.n_prompt and not tokens.retokenised:
        return tuple(tokens.ids[: call.tokens.branch])
    return None if call.body_start is None else rollout.output[: call.body_start]


def expected(groups: list[list[gs.Rollout]]) -> dict[str, Pairs]:
    """Per key the numerator and the denominator of each group."""
    found: dict[str, Pairs] = defaultdict(list)
    for group in groups:
        acting = [(rollout, call) for rollout in group if (call := first_call(rollout))]
        calls = [call for _, call in acting]
        several = len(calls) > 1
        for suffix, kinds in (("", {call.raw for call in calls}), ("_normalised", set(map(meaning, calls)))):
            found[f"distinct_first_calls{suffix}"].append((len(kinds) * several, several))
            found[f"distinct_call_share{suffix}"].append((len(kinds) * several, len(calls) * several))
        found["single_call_group_share"].append((several and len(set(map(meaning, calls))) == 1, several))
        after: dict[Hashable, list[ToolCall]] = defaultdict(list)
        for rollout, call in acting:
            after[prefix_of(rollout, call)].append(call)
        after.pop(None, None)
        shared = [set(map(meaning, some)) for some in after.values() if len(some) > 1]
        found["distinct_calls_per_prefix"].append((sum(map(len, shared)), len(shared)))
        found["single_call_prefix_share"].append((sum(len(kinds) == 1 for kinds in shared), len(shared)))
        sharing = sum(len(some) for some in after.values() if len(some) > 1)
        found["shared_prefix_share"].append((sharing, sum(map(len, after.values()))))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_on_a_log_drawn_at_random_all_numbers_are_those_of_a_plain_script(
    seed: int, audit: Audit, tmp_path: Path
) -> None:
    rollouts = drawn(seed)
    report = audit(written(tmp_path / "drawn.jsonl", rollouts))
    groups = of_one_prompt(groups_of(in_scope(rollouts)))
    for key, pairs in expected(groups).items():
        found = report[key]
        x, m = (sum(each) for each in zip(*pairs, strict=True))
        assert (found.value, found.numerator, found.n) == (close(x / m), x, m), key
        if key == "single_call_group_share":
            assert found.interval == wilson(x, m)
        else:
            bounds = cluster_bounds(pairs, share="share" in key)
            assert found.interval == pytest.approx(bounds, rel=0, abs=1e-9), key
        of_steps = [[group for group in groups if group[0].step == step] for step in range(3)]
        by_step = {
            step: [sum(part) for part in zip(*expected(of)[key], strict=True)] for step, of in enumerate(of_steps)
        }
        assert {row["step"]: (row["value"], row["n"]) for row in found.table} == {
            step: (close(x / m), m) for step, (x, m) in by_step.items() if m
        }, key


def test_details_say_how_large_the_subgroups_are_and_how_many_calls_were_cut_off(audit: Audit, tmp_path: Path) -> None:
    rollouts = drawn(4)
    report = audit(written(tmp_path / "drawn.jsonl", rollouts))
    acting = [
        [(rollout, call) for rollout in group if (call := first_call(rollout))]
        for group in of_one_prompt(groups_of(in_scope(rollouts)))
    ]
    large = [group for group in acting if len(group) > 1]
    calls = [call for group in large for _, call in group]
    details = report["distinct_first_calls"].details
    assert details["tool_using_mean"] == close(len(calls) / len(large))
    assert details["unclosed_share"] == close(sum(not call.closed for call in calls) / len(calls))
    assert report["distinct_first_calls"].excluded["fewer than two tool-using"] == len(acting) - len(large)
    prefixes = [prefix_of(rollout, call) for group in acting for rollout, call in group]
    details = report["shared_prefix_share"].details
    placed = [prefix for prefix in prefixes if prefix is not None]
    assert details["coverage"] == close(len(placed) / len(prefixes))
    assert details["by_token_ids_share"] == close(sum(isinstance(prefix, tuple) for prefix in placed) / len(placed))


def calling(number: int, raw: str = "find(Rome)", **call: object) -> gs.Rollout:
    """One rollout of one group that calls a tool and carries nothing more."""
    made = ToolCall(
        0, 0, None, raw, "find", {"what": raw[5:-1]}, opened=True, closed=True, parsed=True, executed=True,
        in_think=False, outcome="executed_ok",
    )  # fmt: skip
    return gs.Rollout(
        format="made",
        source=Source("made", number),
        group_id="q",
        output=raw,
        turns=[Turn(0)],
        calls=[replace(made, **call)],
    )


def test_without_texts_and_tokens_it_is_not_known_who_shares_a_prefix(audit: Audit, tmp_path: Path) -> None:
    report = audit(written(tmp_path / "made.jsonl", [calling(1), calling(2)]))
    assert report["distinct_first_calls"].value == 1
    for key in ("distinct_calls_per_prefix", "single_call_prefix_share", "shared_prefix_share"):
        assert report[key].reason == "the log has neither the text nor the tokens before a call"


def test_prefixes_of_which_none_is_shared_are_a_share_of_zero(audit: Audit, tmp_path: Path) -> None:
    made = [replace(calling(n), output=f"{n}find(Rome)") for n in (1, 2)]
    rollouts = [replace(rollout, calls=[replace(rollout.calls[0], body_start=1)]) for rollout in made]
    report = audit(written(tmp_path / "made.jsonl", rollouts))
    assert (report["shared_prefix_share"].value, report["shared_prefix_share"].n) == (0, 2)
    assert report["single_call_prefix_share"].reason == "no two tool-using rollouts of a group share their prefix"


def test_one_call_per_group_and_none_at_all_are_different_reasons(audit: Audit, tmp_path: Path) -> None:
    one = audit(written(tmp_path / "one.jsonl", [calling(1), replace(calling(2), calls=[])]))
    assert one["distinct_first_calls"].reason == "no group has two tool-using rollouts"
    thought = [calling(n, in_think=True, outcome="in_think", executed=False) for n in (1, 2)]
    none = audit(written(tmp_path / "none.jsonl", thought))
    assert none["distinct_first_calls"].reason == "no call was attempted"
