"""When no plan can be made, and what of a plan is not as in the paper."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gapscope.audit import rows_without_uniform_groups
from gapscope.axpo.candidates import Batch, Candidate
from gapscope.errors import NothingScanned, PlanError
from gapscope.plan_options import LABELS, PlanOptions, decimal_text, departures
from gapscope.plans import StepBudget

if TYPE_CHECKING:
    from gapscope.store.store import Store

_RANDOM = "or take them in a random order, which is AXPO without uncertainty rank: --rank random --seed 0"
_UNRANKED = frozenset({"no_logprobs", "calls_unaligned"})
_STANDING = {
    "singleton": ("have one rollout each", "Say which field the rollouts of one question share: --group KEY."),
    "no_group_key": ("have no key", "Say which field the rollouts of one question share: --group KEY."),
    "merged": ("are several groups in one", "Say which field the rollouts of one question share: --group KEY."),
    "mixed_prompt": ("hold several prompts", "Say which field the rollouts of one question share: --group KEY."),
    "partial_correctness": ("have rollouts without a verdict", "Say which are correct: --correct RULE."),
    "correctness_undefined": ("have no verdict", "Say which are correct: --correct RULE."),
}


def require_groups(store: "Store") -> None:
    """There must be groups to plan from.

    Raises:
        NothingScanned: there is no rollout at all.
        PlanError: none of the groups has two rollouts or more with a verdict on each.

    """
    standings = store.rows("SELECT standing, count(*) FROM planned_groups GROUP BY standing ORDER BY 2 DESC, standing")
    if not standings:
        message = "nothing to plan from: no rollout was read"
        raise NothingScanned(message)
    if any(standing == "eligible" for standing, _ in standings):
        return
    commonest = standings[0][0]
    what, hint = _STANDING[commonest]
    total = sum(count for _, count in standings)
    message = f"no group can be planned from: {standings[0][1]:,} of {total:,} {what}"
    raise PlanError(message, hint=hint)


def refuse_unrankable(found: Sequence[Batch], options: PlanOptions) -> None:
    """Confidence is never made up: without any, there is no order.

    Raises:
        PlanError: there are prefixes to choose from, and none of them has log-probs.

    """
    groups = [group for batch in found for group in batch.groups if group.triggered]
    reasons = Counter(str(each.unusable) for group in groups for each in group.others)
    lacking = sum(reasons[reason] for reason in _UNRANKED)
    if options.rank == "random" or not lacking or any(group.candidates for group in groups):
        return
    score = "Fill them in: `gapscope score LOG --endpoint URL --model POLICY --only candidates`"
    if reasons["calls_unaligned"] >= reasons["no_logprobs"]:
        message = f"the log has log-probs, and does not say which of its tokens the calls are, in {lacking:,} rollouts"
        raise PlanError(message, hint=f"Name the policy's tokenizer: --tokenizer FOLDER; {_RANDOM}.")
    message = f"the log has no log-probs, so {lacking:,} tool-using rollouts of groups that trigger cannot be ranked"
    raise PlanError(message, hint=f"{score}; {_RANDOM}.")


def notes_on(
    store: "Store",
    steps: Sequence[StepBudget],
    chosen: Sequence[Candidate],
    options: PlanOptions,
) -> list[str]:
    """What a reader of the plan must know, one sentence each."""
    return [*_emptiness(steps, chosen, options), *_departures(options), *_quality(store, chosen, options)]


def _emptiness(steps: Sequence[StepBudget], chosen: Sequence[Candidate], options: PlanOptions) -> Iterator[str]:
    if chosen:
        return
    rollouts, triggered = sum(step.rollouts for step in steps), sum(step.triggered for step in steps)
    if not triggered:
        yield f"empty: no group triggers, of {sum(step.groups for step in steps):,}"
    elif not any(step.candidates for step in steps):
        yield f"empty: {triggered:,} groups trigger, and no rollout of theirs can be branched from"
    else:
        share = decimal_text(options.r)
        yield (
            f"empty: continuations may be {share} of {rollouts:,} rollouts, which buys no prefix of {options.k} at any "
            "step; nothing is rounded up or carried over"
        )


def _departures(options: PlanOptions) -> Iterator[str]:
    for each in departures(options):
        if each.option in LABELS:
            yield f"{each.option} = {each.value}: {LABELS[each.option]}"


def _quality(store: "Store", chosen: Sequence[Candidate], options: PlanOptions) -> Iterator[str]:
    inexact = sum(not each.exact for each in chosen)
    if inexact:
        yield (
            f"text_retokenised: {inexact:,} of {len(chosen):,} prefixes have no token ids, and an endpoint has to "
            "tokenise their text; their continuations need not begin with the tokens that were sampled"
        )
    sources = Counter(each.logprob_source for each in chosen if each.logprob_source)
    if sources["rescored"]:
        yield f"the confidence of {sources['rescored']:,} prefixes is of log-probs that a model gave afterwards"
    if sources["trainer"]:
        yield f"the confidence of {sources['trainer']:,} prefixes is of the trainer's log-probs, not the engine's"
    sampling = options.sampling
    if chosen and (sampling.temperature != 1 or sampling.top_p < 1 or sampling.top_k > 0 or sampling.min_p > 0):
        yield (
            "continuations are not sampled at temperature 1 from all tokens: log-probs before and after that differ, "
            "and the log does not say which it holds"
        )
    if chosen and options.max_turns is None:
        yield "no turn limit was given (--max-turns): continuations may take more turns than the trainer allows"
    if rows_without_uniform_groups(store):
        yield "the trainer leaves groups without variance out of such logs, and with them groups that would trigger"
