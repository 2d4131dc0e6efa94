"""What a plan chooses from: by step, the groups that trigger, and the prefixes of each in the order of their rank.

A group triggers if it has tool-using rollouts and none of them is correct (axpo, section 2.1).
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, get_args

from gapscope.axpo.prefixes import Confidence, prefix_query
from gapscope.errors import SettingsError
from gapscope.plan_options import PlanOptions
from gapscope.plans import Unusable

if TYPE_CHECKING:
    from gapscope.store.store import Store


class Candidate(NamedTuple):
    """A rollout that could be branched from: where it was read, its call, and how sure the policy was of that.

    `nth` counts the rollouts before it in the same place. `unusable` says why it is no candidate after all. `tokens`
    is the length of the prefix, and `begin` that of the prompt, where they are known.
    """

    id: int
    rollout_id: str | None
    sample_index: int | None
    path: str
    format: str
    line: int
    offset: int | None
    output_index: int | None
    nth: int
    text_hash: int
    call: int | None
    turn: int | None
    tool: str | None
    exact: bool
    hash: int | None
    characters: int | None
    tokens: int | None
    begin: int | None
    confidence: float | None
    logprob_source: str | None
    unusable: Unusable | None


class Group(NamedTuple):
    """A group of `n` rollouts; its tool-using rollouts are there only if it triggers.

    `candidates` are in the order of their rank. `name` is the group's id, or stands for the prompt where it has none.
    """

    cluster: int
    name: str
    data_source: str | None
    n: int
    triggered: bool
    candidates: tuple[Candidate, ...]
    others: tuple[Candidate, ...]


class Batch(NamedTuple):
    """The groups of one step of one run, in the order in which they stand in the log."""

    run: str | None
    split: str
    step: int | None
    groups: list[Group]

    def place_of(self, group_name: str) -> str:
        """What tells a group from all others, however the run is named."""
        return f"{self.step} {group_name}"


def batches(store: "Store", options: PlanOptions) -> list[Batch]:
    """What a store offers for a plan; `store.prepare` was called.

    Raises:
        SettingsError: `options.step` is no step, or none that the log has.

    """
    choose_groups(store, options)
    tool_using: dict[int, list[Candidate]] = defaultdict(list)
    for cluster, candidate in _candidates(store, options):
        tool_using[cluster].append(candidate)
    found: dict[tuple[str | None, str, int | None], Batch] = {}
    for cluster, run, split, step, name, data_source, n, triggered in store.rows(_GROUPS):
        batch = found.setdefault((run, split, step), Batch(run, split, step, []))
        own = tool_using.get(cluster, [])
        usable = [each for each in own if each.unusable is None]
        usable.sort(key=partial(_rank, options, batch.place_of(name)))
        others = tuple(each for each in own if each.unusable is not None)
        batch.groups.append(Group(cluster, name, data_source, n, triggered, tuple(usable), others))
    return list(found.values())


def identity(*parts: object) -> int:
    """A number of 256 bits that stands for these parts, in every process and on every machine."""
    return int.from_bytes(hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogatepass")).digest())


def identity_of(candidate: Candidate, place: str, seed: int | None) -> int:
    """The same for a candidate of a group: it does not hang on the line that a rollout stands in."""
    return identity(
        seed, place, candidate.sample_index, candidate.rollout_id, candidate.call, candidate.hash, candidate.text_hash
    )


def sureness(candidate: Candidate, place: str, options: PlanOptions) -> float:
    """What candidates of all questions are ordered by: their confidence, or a number drawn where the rank is random."""
    if options.rank == "random":
        return float(identity_of(candidate, place, options.seed) >> _BEYOND_A_FLOAT)
    return candidate.confidence or 0.0


_BEYOND_A_FLOAT = 256 - 53


def _rank(options: PlanOptions, place: str, each: Candidate) -> tuple[float, bool, int, str, int, int, str, int, int]:
    """The order within a group: the least sure one first, then the lower index in the group (axpo, section 2.4).

    Where a log gives no index, the rest of what a rollout is decides, and its place in the file last.
    """
    index = each.sample_index
    ties = (index is None, index or 0, each.rollout_id or "", each.hash or 0, each.text_hash)
    return (sureness(each, place, options), *ties, each.path, each.line, each.nth)


_STEPS = re.compile(r"last|all|(?P<one>\d+)|(?P<first>\d*):(?P<last>\d*)")


def choose_groups(store: "Store", options: PlanOptions) -> None:
    """Make the tables `planned_groups`, all groups of the steps asked for, and `planned_rows`, all of their rollouts.

    Raises:
        SettingsError: `options.step` is no step, or none that the log has.

    """
    match = _STEPS.fullmatch(options.step)
    if match is None:
        message = f"--step {options.step!r} is no step"
        raise SettingsError(message, hint="Write last, all, one step as 60, or a range as 40:60.")
    low = match["one"] or match["first"] or None
    high = match["one"] or match["last"] or None
    ((first, last),) = store.rows("SELECT min(step), max(step) FROM all_groups WHERE in_scope")
    bounded = low is not None or high is not None
    low_step, high_step = int(low or first or 0), int(high or last or 0)
    if bounded and (first is None or low_step > high_step or high_step < first or low_step > last):
        has = "no steps" if first is None else f"the steps {first} to {last}"
        message = f"--step {options.step} names none of the log, which has {has}"
        raise SettingsError(message, hint="Write last, all, one step as 60, or a range as 40:60.")
    chosen = "TRUE"
    if options.step == "last":
        chosen = "step IS NOT DISTINCT FROM latest"
    elif bounded:
        chosen = f"step BETWEEN {low_step} AND {min(high_step, last)}"
    uses = {"attempted": "calls", "parsed": "parsed_calls", "executed": "executed_calls"}[options.tool_using]
    store.execute(_PLANNED_MEMBERS.format(chosen=chosen, uses=uses))
    store.execute(_PLANNED_GROUPS)
    store.execute(_PLANNED_ROWS)


# One row per rollout of the steps asked for; `uses` says whether it is tool-using by the option.
_PLANNED_MEMBERS = """
CREATE OR REPLACE TEMP TABLE planned_members AS
WITH latest AS (
    SELECT run, split, max(step) AS latest FROM all_groups WHERE in_scope GROUP BY run, split
),
chosen AS (
    SELECT cluster FROM all_groups AS g JOIN latest AS l ON l.run IS NOT DISTINCT FROM g.run AND l.split = g.split
    WHERE in_scope AND ({chosen})
)
SELECT a.id, a.cluster, bool_or(a.correct) AS correct, sum(r.{uses}) > 0 AS uses, min((f.path, r.line)) AS place
FROM attempts AS a SEMI JOIN chosen USING (cluster)
    JOIN outputs AS o ON o.attempt = a.id JOIN rollouts AS r ON r.id = o.id JOIN files AS f ON f.file = r.file
GROUP BY a.id, a.cluster
"""
_PLANNED_GROUPS = """
CREATE OR REPLACE TEMP TABLE planned_groups AS
SELECT
    c.cluster, any_value(c.run) AS run, any_value(c.split) AS split, any_value(c.step) AS step,
    any_value(coalesce(c.group_id, printf('prompt:%x', r.prompt_hash))) AS name,
    any_value(c.data_source) AS data_source, any_value(c.n) AS n, c.standing,
    c.standing IN ('eligible', 'partial_correctness', 'correctness_undefined') AS valid,
    min(m.place) AS place,
    c.standing = 'eligible' AND count(*) FILTER (m.uses) > 0 AND count(*) FILTER (m.uses AND m.correct) = 0 AS triggered
FROM all_groups AS c JOIN planned_members AS m USING (cluster) JOIN rollouts AS r ON r.id = c.first_id
GROUP BY c.cluster, c.standing
"""
_PLANNED_ROWS = """
CREATE OR REPLACE TEMP TABLE planned_rows AS
WITH own AS (
    SELECT r.id, r.file, r.line
    FROM planned_members AS m JOIN outputs AS o ON o.attempt = m.id JOIN rollouts AS r ON r.id = o.id
),
numbered AS (
    SELECT id, (row_number() OVER (
        PARTITION BY file, coalesce(byte_offset, line), coalesce(output_index, 0) ORDER BY id
    )) - 1 AS nth
    FROM rollouts SEMI JOIN own USING (file, line)
)
SELECT id, nth FROM numbered SEMI JOIN own USING (id)
"""
_GROUPS = """
SELECT cluster, run, split, step, name, data_source, n, triggered FROM planned_groups WHERE valid
ORDER BY run, split, step, place
"""
_CANDIDATES = """
WITH prefixes AS (
    SELECT * FROM ({prefixes})
)
SELECT
    m.cluster, coalesce(p.id, m.id), r.rollout_id, r.sample_index, f.path, f.format, r.line, r.byte_offset,
    r.output_index, w.nth, r.text_hash, p.call, c.turn, p.tool, coalesce(p.exactness = 'token_exact', false), p.hash,
    p.characters, p.tokens, s.begin, p.confidence, r.logprob_source,
    CASE
        WHEN p.id IS NULL THEN 'no_such_call'
        WHEN p.unusable IN $hopeless THEN p.unusable
        WHEN p.characters IS NULL OR (p.exactness <> 'token_exact' AND r.prompt_hash IS NULL) THEN 'no_prompt'
        WHEN c.turn >= $max_turns THEN 'no_turns_left'
        WHEN p.tokens - s.begin >= $max_tokens THEN 'no_tokens_left'
    END
FROM planned_members AS m SEMI JOIN (SELECT cluster FROM planned_groups WHERE triggered) USING (cluster)
    LEFT JOIN (
        SELECT p.*, o.attempt FROM prefixes AS p JOIN outputs AS o USING (id) WHERE p.number = $number
    ) AS p ON p.attempt = m.id
    JOIN rollouts AS r ON r.id = coalesce(p.id, m.id) JOIN planned_rows AS w ON w.id = r.id
    JOIN files AS f ON f.file = r.file
    LEFT JOIN calls AS c ON c.id = p.id AND c.call = p.call
    LEFT JOIN (SELECT id, min(token_start) AS begin FROM span_tokens GROUP BY id) AS s ON s.id = p.id
WHERE m.uses
"""


def _candidates(store: "Store", options: PlanOptions) -> Iterator[tuple[int, Candidate]]:
    """The tool-using rollouts of triggered groups, each with its cluster, in no order."""
    confidence = Confidence(options.confidence.span, options.confidence.mean, options.candidate.require_closed)
    hopeless: Iterable[str] = get_args(Unusable)
    if options.rank == "random":
        hopeless = [reason for reason in hopeless if reason not in {"no_logprobs", "calls_unaligned"}]
    rows = store.rows(
        _CANDIDATES.format(prefixes=prefix_query(confidence)),
        require_closed=options.candidate.require_closed,
        hopeless=list(hopeless),
        max_turns=options.max_turns,
        max_tokens=options.sampling.max_tokens,
        number=1 if options.branch_call == "first" else options.branch_call,
    )
    for cluster, *fields in rows:
        yield cluster, Candidate(*fields)
