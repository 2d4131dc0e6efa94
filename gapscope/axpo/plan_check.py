"""Whether a resampled log is of a plan: of the same rollouts, and of no other prefixes."""

from typing import TYPE_CHECKING

from gapscope.axpo.candidates import choose_groups
from gapscope.axpo.plan import digest_of_groups
from gapscope.errors import PlanError
from gapscope.plans import Plan
from gapscope.recoveries import PlanCheck

if TYPE_CHECKING:
    from gapscope.store.store import Store


def check_plan(store: "Store", plan: Plan, path: str) -> PlanCheck:
    """How the log in a store stands to the plan at `path`; `store.prepare` was called.

    Raises:
        PlanError: the rollouts are not those that were planned from, or a continuation is of no prefix of the plan.

    """
    _require_groups(store, plan, path)
    planned = {prefix.id for prefix in plan.prefixes}
    found = dict(store.rows("SELECT prefix, count(correct) FROM continuations GROUP BY prefix ORDER BY prefix"))
    if foreign := [prefix for prefix in found if prefix not in planned]:
        message = f"{path} is another plan: {len(foreign):,} of {len(found):,} prefixes in the log are not in it"
        raise PlanError(message, hint=f"The first of them is {foreign[0]}. Name the plan that was resampled.")
    return PlanCheck(
        path=path,
        prefixes=len(planned),
        resampled=sum(count > 0 for count in found.values()),
        wanted=sum(prefix.k for prefix in plan.prefixes),
        found=sum(found.values()),
        departures=plan.header.departures,
    )


def _require_groups(store: "Store", plan: Plan, path: str) -> None:
    """The groups of the planned steps must be there as they were, alone or among those of other steps."""
    for step in ("all", plan.header.options.step):
        choose_groups(store, plan.header.options.model_copy(update={"step": step}))
        if digest_of_groups(store) == plan.header.source.digest:
            return
    message = f"{path} is a plan of another log: the rollouts are not those that were planned from"
    hint = f"It was made from {', '.join(plan.header.source.paths)}. Name the plan that was resampled."
    raise PlanError(message, hint=hint)
