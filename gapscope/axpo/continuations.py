"""What a plan leads to, as rollouts: the continuations of its prefixes, and the rollouts they were branched from.

A resampled log holds both: all rollouts of the planned steps, with the verdicts of the plan's rule, and each
continuation with its source as `parent`. Its `group_id` is the prefix, whose continuations are compared with one
another.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from gapscope.axpo.candidates import choose_groups
from gapscope.axpo.plan import digest_of_groups, made_id, plannable
from gapscope.config import Settings
from gapscope.correctness import decide
from gapscope.errors import PlanError
from gapscope.planning import ReadOptions
from gapscope.plans import Header, PlannedPrefix
from gapscope.rereading import Spot, Was, reread
from gapscope.rollouts import GroupOrigin, Parent, Rollout, Split, Tokens
from gapscope.tokenizer import Vocabulary

if TYPE_CHECKING:
    from gapscope.store.store import Store


def continuation(
    prefix: PlannedPrefix,
    index: int,
    text: str,
    *,
    correct: bool | None,
    rule: str = "the reward of the continuation",
    token_ids: Sequence[int] | None = None,
    mask: Sequence[bool] | None = None,
    logprobs: Sequence[float | None] | None = None,
    prefix_ids: Sequence[int] | None = None,
    finish_reason: str | None = None,
    tokenizer: Vocabulary | str | None = None,
    policy_version: str | None = None,
) -> Rollout:
    """The rollout that begins with a planned prefix and goes on with `text`, number `index` (from 0) of its `k`.

    `token_ids` are those after the prefix, with `mask` true where the policy wrote them and natural `logprobs` of the
    sampling policy there. The reward is 1 where it is `correct`, else 0; None where there is no verdict. A prefix that
    is text in the plan was made `prefix_ids` of by a tokenizer; the record says so (`retokenised`).

    Raises:
        RecordError: the lengths of ids, mask and log-probs differ, or ids come without those of the prefix.
        PlanError: there is no continuation of that number in the plan.

    """
    from gapscope.recorders import recorded

    if not 0 <= index < prefix.k:
        message = f"continuation {index} of prefix {prefix.order}, which has {prefix.k}, counted from 0"
        raise PlanError(message)
    frozen = prefix.prefix
    rollout = recorded(
        frozen.prompt,
        frozen.text + text,
        step=prefix.step,
        group=prefix.id,
        sample_index=index,
        reward=None if correct is None else float(correct),
        correct=correct,
        correct_rule=rule,
        ground_truth=prefix.ground_truth,
        data_source=prefix.data_source,
        finish_reason=finish_reason,
        tools=prefix.tools or prefix.declared_tools,
        tokenizer=tokenizer,
        dialect=prefix.dialect,
        policy_version=policy_version,
        run=prefix.run,
        rollout_id=f"{prefix.id}:{index}",
        **(_tokens(prefix, token_ids, mask, logprobs) if prefix_ids is None or frozen.exact else {}),
    )
    if prefix_ids is not None and not frozen.exact:
        rollout.tokens = _retokenised(prefix_ids, token_ids or (), mask, logprobs)
    rollout.split = prefix.split
    branch_token = len(prefix_ids) if prefix_ids is not None and not frozen.exact else frozen.n_tokens
    rollout.parent = Parent(prefix.rollout_id, frozen.branch_char, branch_token, prefix.id)
    return rollout


class _Tokens(TypedDict, total=False):
    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    mask: Sequence[bool]
    logprobs: Sequence[float | None]


def _tokens(
    prefix: PlannedPrefix,
    token_ids: Sequence[int] | None,
    mask: Sequence[bool] | None,
    logprobs: Sequence[float | None] | None,
) -> _Tokens:
    """The prefix's tokens and those behind it, as `recorded` takes them; nothing is known of the prefix's log-probs."""
    if token_ids is None:
        return {}
    frozen = prefix.prefix
    if frozen.token_ids is None:
        message = f"token ids behind prefix {prefix.order}, which itself has none"
        raise PlanError(message, hint="Leave them out: how its text was tokenised is not in the plan.")
    n_prompt = frozen.n_prompt or 0
    own = [True] * len(frozen.token_ids)
    for start, end in frozen.masked:
        own[start:end] = [False] * (end - start)
    own = own[n_prompt:]
    found: _Tokens = {
        "prompt_ids": frozen.token_ids[:n_prompt],
        "completion_ids": [*frozen.token_ids[n_prompt:], *token_ids],
        "mask": [*own, *(mask if mask is not None else [True] * len(token_ids))],
    }
    if logprobs is not None:
        found["logprobs"] = [*[None] * len(own), *logprobs]
    return found


def _retokenised(
    prefix_ids: Sequence[int],
    token_ids: Sequence[int],
    mask: Sequence[bool] | None,
    logprobs: Sequence[float | None] | None,
) -> Tokens:
    """Tokens of which nothing is known up to the branch point but that a tokenizer made them of text."""
    before = len(prefix_ids)
    own = list(mask) if mask is not None else [True] * len(token_ids)
    likely = None if logprobs is None else [*[None] * before, *logprobs]
    return Tokens(
        [*prefix_ids, *token_ids],
        logprobs=likely,
        logprob_source=None if likely is None else "rollout",
        sampled=[False] * before + own,
        retokenised=True,
    )


def originals(header: Header) -> Iterator[Rollout]:
    """The rollouts of all groups of a plan's steps, read again from its log, with the verdicts of the plan's rule.

    What the log says of them only together with others, the group and the place in it, is filled in, and a name where
    they have none.

    Raises:
        GapscopeError: as `audit` does.
        PlanError: the log is not the one that was planned from.

    """
    source = header.source
    read = ReadOptions.under(
        Settings.load(), trainer=source.trainer, group=source.group, mapping=source.mapping, tokenizer=source.tokenizer
    )
    with plannable(source.paths, read) as store:
        decide(store, header.rule)
        store.prepare()
        choose_groups(store, header.options)
        if digest_of_groups(store) != header.source.digest:
            message = f"{', '.join(source.paths)} is not the log that was planned from, or has changed since"
            raise PlanError(message, hint="Make the plan again with `gapscope plan`.")
        yield from _with_facts(store, read, header)


class _Facts(NamedTuple):
    """What a store knows of a rollout."""

    run: str | None
    step: int | None
    split: Split | None
    group_id: str | None
    group_origin: GroupOrigin | None
    sample_index: int | None
    correct: bool | None


_FACTS = """
SELECT f.path, coalesce(r.byte_offset, r.line), coalesce(r.output_index, 0), w.nth, r.line, r.text_hash,
    r.run, r.step, r.split, r.group_id, r.group_origin, r.sample_index, a.correct
FROM planned_groups AS g JOIN attempts AS a USING (cluster) JOIN outputs AS o ON o.attempt = a.id
    JOIN rollouts AS r ON r.id = o.id JOIN planned_rows AS w ON w.id = r.id JOIN files AS f ON f.file = r.file
ORDER BY g.run, g.split, g.step, f.path, r.line, w.nth
"""


def _with_facts(store: "Store", read: ReadOptions, header: Header) -> Iterator[Rollout]:
    known: dict[tuple[str, Spot], _Facts] = {}
    spots: dict[str, dict[Spot, Was]] = defaultdict(dict)
    for path, place, output, nth, line, text_hash, *columns in store.rows(_FACTS):
        spot = (place, output), nth
        known[path, spot], spots[path][spot] = _Facts(*columns), Was(line, text_hash)
    for spot, rollout in reread(store, spots, read):
        facts = known[rollout.source.file, spot]
        rollout.run, rollout.step, rollout.split = facts.run, facts.step, facts.split
        rollout.group_id, rollout.group_origin = facts.group_id, facts.group_origin
        rollout.sample_index, rollout.correct = facts.sample_index, facts.correct
        rollout.correct_rule = None if facts.correct is None else header.correct
        rollout.rollout_id = rollout.rollout_id or made_id(rollout, spot[1])
        yield rollout
