"""The rollouts that AXPO may act on: the tool-using ones of groups in which none of them is correct."""

from collections import defaultdict
from typing import TYPE_CHECKING

from gapscope.correctness import decide
from gapscope.errors import CorrectnessError
from gapscope.rollouts import Place

if TYPE_CHECKING:
    from gapscope.store.store import Store

Places = dict[str, set[Place]]
"""Where rollouts stand, by file."""


def candidates(store: "Store", correct: str | None) -> Places:
    """Where the tool-using rollouts of triggered groups (axpo, section 2.1) stand in their files.

    Only groups with a verdict on each member can trigger. Of a rollout with several sub-outputs all of them count.

    Raises:
        CorrectnessError: nothing says which rollouts are correct.
        UnknownName: `correct` names a field that the log does not have.

    """
    correctness = decide(store, correct)
    if correctness.chosen == "undefined":
        raise CorrectnessError(correctness.message or "what is correct is not defined", hint=correctness.hint)
    store.prepare()
    found: Places = defaultdict(set)
    for path, place, output_index in store.rows(_CANDIDATES):
        found[path].add((place, output_index))
    return dict(found)


_CANDIDATES = """
WITH chosen AS (
    SELECT r.id, r.rollout_id, r.run, r.split, r.step
    FROM attempts AS a JOIN rollouts AS r USING (id)
    SEMI JOIN (SELECT cluster FROM eligible WHERE in_scope AND t > 0 AND a = 0) USING (cluster)
    WHERE EXISTS (SELECT 1 FROM whole_attempts AS w WHERE w.id = a.id AND w.calls > 0)
)
SELECT DISTINCT f.path, coalesce(r.byte_offset, r.line), coalesce(r.output_index, 0)
FROM chosen AS c JOIN rollouts AS r ON r.id = c.id OR (
    r.rollout_id = c.rollout_id AND r.run IS NOT DISTINCT FROM c.run
    AND r.split IS NOT DISTINCT FROM c.split AND r.step IS NOT DISTINCT FROM c.step
)
JOIN files AS f ON f.file = r.file
ANTI JOIN duplicates AS d ON d.id = r.id
WHERE coalesce(r.status, 'ok') NOT IN ('padding', 'excluded')
"""
