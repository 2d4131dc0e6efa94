"""What AXPO selects of rollouts, written out from the definitions by a plain script (axpo, sections 1, 2 and 9)."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

from axpo_logs import attempts, uses

import gapscope as gs
from gapscope.plan_options import PlanOptions
from gapscope.plans import PlannedPrefix
from gapscope.rollouts import ToolCall


class Chosen(NamedTuple):
    """What a plan says of a prefix, as far as it is a choice."""

    step: int | None
    group: str
    rollout: str
    call: int
    rank: int
    candidates: int
    confidence: float
    exact: bool
    characters: int
    token_ids: list[int] | None
    masked: list[tuple[int, int]]


class Selection(NamedTuple):
    chosen: list[Chosen]
    triggered: int
    unusable: Counter[str]


def selection(rollouts: Iterable[gs.Rollout], options: PlanOptions) -> Selection:
    """The whole of the choice written out from the definitions, over one run."""
    steps: dict[int, dict[str, list[gs.Rollout]]] = defaultdict(lambda: defaultdict(list))
    for each in rollouts:
        if each.parent is None and each.split != "validation":
            steps[each.step or 0][each.group_id or ""].append(each)
    chosen, unusable, triggered = [], Counter[str](), 0
    for _, batch in sorted(steps.items()):
        groups = [g for g in batch.values() if len(g) > 1 and len({r.prompt for r in g}) == 1]
        due = []
        for group in [g for g in groups if all(r.correct is not None for r in g)]:
            using = [r for r in group if uses(r, options)]
            if not using or any(r.correct for r in using):
                continue
            triggered += 1
            reasons = {id(r): why_not(r, options) for r in using}
            unusable.update(reason for reason in reasons.values() if reason)
            usable = [r for r in using if not reasons[id(r)]]
            due.append(sorted(usable, key=lambda r: (sure(r, options), r.sample_index)))
        budget = math.floor(Fraction(str(options.r)) * sum(map(len, groups)))
        chosen += [as_chosen(rank, own, options) for own, rank in breadth_first(due, budget // options.k, options)]
    return Selection(chosen, triggered, unusable)


def breadth_first(
    due: list[list[gs.Rollout]], slots: int, options: PlanOptions
) -> Iterator[tuple[list[gs.Rollout], int]]:
    for depth in range(max(map(len, due), default=0)):
        turn = [own for own in due if len(own) > depth]
        if options.allocation.order == "global_confidence":
            turn = sorted(turn, key=lambda own: sure(own[depth], options))
        for own in turn:
            if slots > 0:
                yield own, depth
                slots -= 1


def branch(each: gs.Rollout, options: PlanOptions) -> ToolCall | None:
    number = 1 if options.branch_call == "first" else options.branch_call
    return attempts(each)[number - 1] if len(attempts(each)) >= number else None


def is_exact(each: gs.Rollout, call: ToolCall) -> bool:
    tokens = each.tokens
    return bool(tokens and tokens.ids and tokens.n_prompt and not tokens.retokenised and call.tokens)


def why_not(each: gs.Rollout, options: PlanOptions) -> str | None:
    call, tokens = branch(each, options), each.tokens
    if call is None:
        return "no_such_call"
    if tokens and call.tokens and call.tokens.mixed:
        return "boundary_token_mixed"
    if not call.closed and options.candidate.require_closed:
        return "unclosed"
    if tokens and tokens.logprobs and call.tokens is None:
        return "calls_unaligned"
    if not (tokens and tokens.logprobs):
        return "no_logprobs"
    if not is_exact(each, call) and each.prompt is None:
        return "no_prompt"
    if options.max_turns is not None and call.turn >= options.max_turns:
        return "no_turns_left"
    return None


def sure(each: gs.Rollout, options: PlanOptions) -> float:
    """Rounded, so that it does not hang on the order in which floats are added whether two are as sure."""
    call, tokens = branch(each, options), each.tokens
    assert call
    assert call.tokens
    assert tokens
    assert tokens.logprobs
    spans = [(call.tokens.start, call.tokens.end)]
    if options.confidence.span == "first_call_no_tags":
        spans = [(call.tokens.branch, call.tokens.body_end)]
    if options.confidence.span == "all_calls":
        spans = [(at.tokens.start, at.tokens.end) for at in attempts(each) if at.tokens]
    values = [v for start, end in spans for v in tokens.logprobs[start:end] if v is not None]
    if options.confidence.mean == "geometric":
        return round(math.exp(sum(values) / len(values)), 12)
    return round(sum(map(math.exp, values)) / len(values), 12)


def as_chosen(rank: int, own: list[gs.Rollout], options: PlanOptions) -> Chosen:
    each = own[rank]
    call, tokens = branch(each, options), each.tokens
    assert call
    exact = is_exact(each, call)
    token_ids, masked = None, []
    if exact and tokens and tokens.ids and call.tokens:
        token_ids = tokens.ids[: call.tokens.branch]
        masked = [
            (span.token_start or 0, span.token_end or 0)
            for span in each.spans
            if not span.sampled and (span.token_end or 0) <= call.tokens.branch
        ]
    return Chosen(
        each.step, each.group_id or "", each.rollout_id or "", call.index, rank + 1, len(own), sure(each, options),
        exact, call.body_start or 0, token_ids, masked,
    )  # fmt: skip


def planned(prefix: PlannedPrefix) -> Chosen:
    content = prefix.prefix
    assert prefix.confidence is not None
    return Chosen(
        prefix.step, prefix.group_id, prefix.rollout_id, prefix.call, prefix.rank, prefix.candidates,
        round(prefix.confidence, 12), content.exact, content.branch_char, content.token_ids, content.masked,
    )  # fmt: skip
