"""What of a resampled log is trained on, and with which advantage: one entry for each row of the log.

An untouched rollout has the advantage of its group as it was sampled, a selected source that of its prefix, and a
continuation its own among the continuations of that prefix (axpo, section 3.1). Selected is a source with two or more
continuations that have a verdict; of several prefixes of one source the shortest counts. Groups are those of the store:
one in which a verdict is missing has no advantages at all.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Literal, NamedTuple

from gapscope.axpo.advantages import AxpoAdvantages, Preset, Resampled, Substitution, Term, axpo_advantages

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gapscope.store.store import Store

LeftOut = Literal[
    "correctness_undefined",
    "duplicate",
    "group_of_one",
    "impossible_ids",
    "inexact_prefix",
    "merged",
    "mixed_prompt",
    "no_branch_point",
    "no_group_key",
    "no_logprobs",
    "no_mask",
    "no_prompt",
    "no_token_ids",
    "no_verdict",
    "nothing_sampled",
    "other_output",
    "other_prefix",
    "padding",
    "partial_correctness",
    "prefix_not_selected",
    "retokenised",
    "source_correct",
    "source_not_in_log",
    "validation",
]
"""Why a row of the log is no row of the batch."""

APART = 1e-3
"""Advantages that differ by more are of another formula; by less, of another rounding."""


class Training(NamedTuple):
    """How one row of the log is trained on.

    `key` tells its term from all others: the outputs of one session are one term. `question` stands for its group, of
    `n` rollouts. `reward` is what `advantage` was made of: the verdict, or that of Eq. 3. A prefix and its
    continuations have a `source`; `branch` counts the tokens of the prefix, and `identity` is the hash of their ids in
    the source, both None where they are not known.
    """

    term: Term
    key: int
    question: int
    n: int
    reward: float
    advantage: float
    source: int | None = None
    branch: int | None = None
    identity: int | None = None


@dataclass(slots=True)
class Assignment:
    """The rows of a store that are trained on, by id, and why the others are not.

    Of the untouched rollouts, `compared` have an advantage in the log; `apart` of these are not the one computed here,
    and the largest difference is `farthest`. Of `unseen` continuations it is not known what they called, if anything.
    """

    rows: dict[int, Training] = field(default_factory=dict)
    left_out: Counter[LeftOut] = field(default_factory=Counter)
    compared: int = 0
    apart: int = 0
    farthest: float = 0.0
    unseen: int = 0

    def leave_out(self, reason: LeftOut, rows: int) -> None:
        """Count rows that are not trained on."""
        if rows:
            self.left_out[reason] += rows

    def compare(self, logged: float | None, computed: float) -> None:
        """Take note of an advantage that the log has for an untouched rollout."""
        if logged is None:
            return
        difference = abs(logged - computed)
        self.compared += 1
        self.apart += difference > APART
        self.farthest = max(self.farthest, difference)


class _Continuation(NamedTuple):
    """A row of the view `continuations`, with where its source was branched."""

    cluster: int
    source: int
    prefix: str
    id: int
    correct: bool | None
    seen: bool
    executed: bool
    branched: int | None
    branch: int | None
    identity: int | None


class _Member(NamedTuple):
    """A rollout of a group: its first row in the log, its verdict, and the advantage that the log has for it."""

    cluster: int
    standing: str
    id: int
    correct: bool | None
    logged: float | None


class _Selected(NamedTuple):
    """A source, and the continuations of its prefix that have a verdict."""

    source: int
    continuations: list[_Continuation]


def assigned(
    store: "Store", preset: Preset, *, substitution: Substitution = "self", require_executed: bool = False
) -> Assignment:
    """Which rows of a store are trained on, and with which advantages; `store.prepare` was called."""
    found = Assignment()
    for reason, rows in store.rows(_OUTSIDE):
        found.leave_out(reason, rows)
    continued: dict[int, list[_Continuation]] = defaultdict(list)
    for row in store.rows(_CONTINUATIONS):
        continued[row[0]].append(_Continuation(*row))
    outputs: dict[int, list[int]] = defaultdict(list)
    for attempt, output in store.rows("SELECT attempt, id FROM other_outputs ORDER BY id"):
        outputs[attempt].append(output)
    for cluster, rows in groupby(store.rows(_MEMBERS), key=itemgetter(0)):
        group = _Group([_Member(*row) for row in rows], continued.get(cluster, []), outputs, found)
        group.assign(preset, substitution, require_executed=require_executed)
    return found


_OUTSIDE = """
SELECT reason, count(*)
FROM (
    SELECT CASE
        WHEN coalesce(status, 'ok') IN ('padding', 'excluded') THEN 'padding'
        WHEN id IN (SELECT id FROM duplicates) THEN 'duplicate'
        WHEN split = 'validation' THEN 'validation'
        WHEN parent_id IS NOT NULL AND id NOT IN (SELECT id FROM continuations) THEN 'source_not_in_log'
    END AS reason
    FROM rollouts
)
WHERE reason IS NOT NULL GROUP BY reason ORDER BY reason
"""
_MEMBERS = """
SELECT g.cluster, g.standing, a.id, a.correct, r.advantage
FROM all_groups AS g JOIN attempts AS a USING (cluster) JOIN rollouts AS r ON r.id = a.id
WHERE g.split <> 'validation'
ORDER BY g.cluster, a.id
"""
_CONTINUATIONS = """
SELECT
    c.cluster, c.source, c.prefix, c.id, c.correct, c.outcome IS NOT NULL, c.executed, c.branched,
    CASE WHEN NOT t.mixed AND coalesce(k.body_start = r.parent_branch, r.parent_branch IS NULL) THEN t.branch END,
    t.prefix_hash
FROM continuations AS c JOIN rollouts AS r ON r.id = c.id
    LEFT JOIN calls AS k ON k.id = c.branched AND k.call = c.branched_call
    LEFT JOIN call_tokens AS t ON t.id = k.id AND t.call = k.call
WHERE c.split <> 'validation'
ORDER BY c.cluster, c.source, c.prefix, c.id
"""


class _Group:
    """One group, with the continuations of its rollouts."""

    def __init__(
        self,
        members: list[_Member],
        continuations: list[_Continuation],
        outputs: dict[int, list[int]],
        found: Assignment,
    ) -> None:
        self._members = members
        self._continuations = continuations
        self._outputs = outputs
        self._found = found

    def assign(self, preset: Preset, substitution: Substitution, *, require_executed: bool) -> None:
        """Give each row its advantage, or say why it has none."""
        if any(member.correct is None for member in self._members) or self._members[0].standing not in _COMPARABLE:
            standing = self._members[0].standing
            self._leave_out(_STANDINGS.get(standing, "partial_correctness"))
            return
        place = {member.id: index for index, member in enumerate(self._members)}
        selected = list(self._selected())
        advantages = axpo_advantages(
            [float(bool(member.correct)) for member in self._members],
            [
                Resampled(
                    place[each.source],
                    [float(bool(row.correct)) for row in each.continuations],
                    [row.executed for row in each.continuations],
                )
                for each in selected
            ],
            preset=preset,
            substitution=substitution,
            require_executed=require_executed,
        )
        if advantages.rollouts is None:
            self._found.leave_out("group_of_one", self._rows() + sum(len(each.continuations) for each in selected))
            return
        for each in selected:
            self._source(each, place[each.source], advantages)
        sources = {each.source for each in selected}
        for member, advantage in zip(self._members, advantages.rollouts.tolist(), strict=True):
            if member.id not in sources:
                self._untouched(member, advantage)

    def _selected(self) -> "Iterator[_Selected]":
        """The sources with a prefix to train on; continuations of no such prefix are left out."""
        verdicts = {member.id: member.correct for member in self._members}
        for source, of_source in groupby(self._continuations, key=itemgetter(1)):
            prefixes = [list(rows) for _, rows in groupby(of_source, key=itemgetter(2))]
            judged = [[row for row in rows if row.correct is not None] for rows in prefixes]
            self._found.leave_out("no_verdict", sum(map(len, prefixes)) - sum(map(len, judged)))
            if verdicts[source]:
                self._found.leave_out("source_correct", sum(map(len, judged)))
                continue
            self._found.leave_out("prefix_not_selected", sum(len(rows) for rows in judged if len(rows) < _FEWEST))
            enough = sorted((rows for rows in judged if len(rows) >= _FEWEST), key=_shortest_first)
            self._found.leave_out("other_prefix", sum(map(len, enough[1:])))
            if enough:
                yield _Selected(source, enough[0])

    def _source(self, selected: _Selected, index: int, advantages: AxpoAdvantages) -> None:
        """The prefix of a source and its continuations."""
        source, continuations = selected
        first = continuations[0]
        trained = source if first.branched is None else first.branched
        size = len(self._members)
        self._found.rows[trained] = Training(
            "prefix", trained, first.cluster, size, advantages.recovered[index], advantages.prefixes[index],
            source, first.branch, first.identity,
        )  # fmt: skip
        self._found.leave_out("other_output", len(self._outputs.get(source, ())))
        self._found.unseen += sum(not row.seen for row in continuations)
        for row, advantage in zip(continuations, advantages.continuations[index].tolist(), strict=True):
            self._found.rows[row.id] = Training(
                "continuation", row.id, row.cluster, size, float(bool(row.correct)), advantage,
                source, first.branch, first.identity,
            )  # fmt: skip

    def _untouched(self, member: _Member, advantage: float) -> None:
        reward = float(bool(member.correct))
        self._found.compare(member.logged, advantage)
        for row in (member.id, *self._outputs.get(member.id, ())):
            self._found.rows[row] = Training(
                "rollout", member.id, member.cluster, len(self._members), reward, advantage
            )

    def _leave_out(self, reason: LeftOut) -> None:
        self._found.leave_out(reason, self._rows() + len(self._continuations))

    def _rows(self) -> int:
        return sum(1 + len(self._outputs.get(member.id, ())) for member in self._members)


_FEWEST = 2
"""Continuations with a verdict, so that Eq. 2 compares any."""

_COMPARABLE = frozenset({"eligible", "singleton"})
_STANDINGS: dict[str, LeftOut] = {
    "mixed_prompt": "mixed_prompt",
    "merged": "merged",
    "no_group_key": "no_group_key",
    "correctness_undefined": "correctness_undefined",
    "singleton": "correctness_undefined",
}


def _shortest_first(rows: "Iterable[_Continuation]") -> tuple[bool, int, str]:
    first = next(iter(rows))
    return first.branch is None, first.branch or 0, first.prefix
