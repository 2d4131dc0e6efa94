"""What resampling has led to: the part of an audit that is about continuations, and every prefix of it.

The numbers are those of the metrics on recovery (metrics, section 9); nothing is counted here a second time.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gapscope.audit import audit_store
from gapscope.axpo.advantages import prefix_advantages, recovery_reward
from gapscope.axpo.plan_check import check_plan
from gapscope.axpo.plan_file import read_plan
from gapscope.axpo.presets import preset_of
from gapscope.config import Settings
from gapscope.errors import CorrectnessError, PlanError
from gapscope.ingest import Logs, Progress, paths_of, store_of
from gapscope.metrics import metric_named
from gapscope.plan_options import PlanOptions
from gapscope.planning import ReadOptions
from gapscope.recoveries import PlanCheck, Recovery
from gapscope.report import Measurement, Report, TableRow, show, show_interval
from gapscope.version import VERSION

if TYPE_CHECKING:
    from gapscope.store.store import Store

ABOUT = ("recovery", "continuations", "recovery_confidence", "proposition", "resampling_yield")
"""The metrics on what resampling has led to, in the order in which they are read."""


def recovery(
    logs: Logs,
    *,
    plan: Path | str | None = None,
    correct: str | None = None,
    trainer: str | None = None,
    mapping: Mapping[str, str] | None = None,
    tokenizer: str | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Recovery:
    """What a resampled log, or several files that make one, says of its continuations.

    With the `plan`, it is checked that they are of it, and the advantages of prefixes are those of its options. The
    other arguments are those of `audit`.

    Raises:
        CorrectnessError: nothing says which rollouts are correct.
        PlanError: there is no continuation in the log, none with its source, or the plan is another one.
        GapscopeError: as `audit` does.

    """
    settings = settings or Settings.load()
    options = ReadOptions.under(settings, trainer=trainer, mapping=mapping, tokenizer=tokenizer)
    paths = paths_of(logs)
    planned = None if plan is None else read_plan(plan)
    with store_of(paths, options, tokenizer=tokenizer, progress=progress) as store:
        _require_continuations(store, paths)
        report = audit_store(
            store, paths, correct=correct if correct is not None else settings.correct, settings=settings
        )
        if report.correctness.chosen == "undefined":
            raise CorrectnessError(report.correctness.message or "", hint=report.correctness.hint)
        _require_sources(store, paths)
        check = None if planned is None else check_plan(store, planned, str(plan))
        return _told(store, report, check, planned.header.options if planned else PlanOptions())


def _require_continuations(store: "Store", paths: list[str]) -> None:
    if not store.rows("SELECT 1 FROM rollouts WHERE parent_id IS NOT NULL LIMIT 1"):
        message = f"no continuation in {', '.join(paths)}: none of its rollouts names the one that it was branched from"
        raise PlanError(message, hint="Name the log that came of resampling a plan.")


def _require_sources(store: "Store", paths: list[str]) -> None:
    if not store.rows("SELECT 1 FROM continuations LIMIT 1"):
        message = f"the rollouts that were branched from are not in {', '.join(paths)}: it holds continuations alone"
        raise PlanError(message, hint="Name the log of their step as well: gapscope recovery LOG RESAMPLED.")


def _told(store: "Store", report: Report, check: PlanCheck | None, options: PlanOptions) -> Recovery:
    measurements = {name: measured for name, measured in report.metrics.items() if metric_named(name).name in ABOUT}
    ((continuations, orphans),) = store.rows(_COUNTS)
    prefixes = list(_prefixes(store, options))
    return Recovery(
        version=VERSION,
        sources=report.sources,
        plan=check,
        correctness=report.correctness,
        steps=[step for (step,) in store.rows(_STEPS)],
        groups=report.groups.groups,
        rollouts=report.rollouts,
        continuations=continuations,
        measurements=measurements,
        prefixes=prefixes,
        notes=list(_notes(measurements, check, orphans)),
    )


_COUNTS = """
SELECT (SELECT count(*) FROM continuations),
    (SELECT count(*) FROM left_out_continuations ANTI JOIN continuations USING (id))
"""
_STEPS = "SELECT DISTINCT step FROM continuations WHERE step IS NOT NULL ORDER BY step"
_PREFIXES = """
SELECT
    p.cluster, g.n, g.c, g.run, g.step, g.group_id, r.rollout_id, p.prefix, p.tool, p.data_source, p.confidence, p.k,
    p.wins, p.executed_wins
FROM resampled_prefixes AS p JOIN all_groups AS g USING (cluster) JOIN rollouts AS r ON r.id = p.source
WHERE p.in_scope
ORDER BY p.confidence NULLS LAST, g.run, g.step, g.group_id, p.prefix
"""
_COLUMNS = (
    "run", "step", "group", "rollout", "prefix", "tool", "data_source", "confidence", "k", "correct",
    "correct_executed",
)  # fmt: skip


def _prefixes(store: "Store", options: PlanOptions) -> Iterator[TableRow]:
    """One row for each prefix, with its credit (Eq. 3) and its advantage (Eq. 4) beside the mean success of the K."""
    preset, substitution = preset_of(options), options.substitution
    found: list[TableRow] = []
    of_group: dict[tuple[int, int, int], list[TableRow]] = defaultdict(list)
    for cluster, n, c, *columns in store.rows(_PREFIXES):
        row: TableRow = dict(zip(_COLUMNS, columns, strict=True))
        *_, k, wins, executed = columns
        counted = executed if options.recovery.require_executed else wins
        row |= {"success": wins / k if k else None, "credit": None, "advantage": None}
        found.append(row)
        if k:
            row["credit"] = recovery_reward([1.0] * counted + [0.0] * (k - counted))
            of_group[cluster, n, c].append(row)
    for (_, n, c), rows in of_group.items():
        # The sources are wrong, so they are some of the n - c; which of them does not matter.
        credit = {place: float(row["credit"] or 0) for place, row in enumerate(rows[: n - c])}
        advantages = prefix_advantages([0.0] * (n - c) + [1.0] * c, credit, preset, substitution)
        for place, row in enumerate(rows):
            row["advantage"] = advantages.get(place)
    yield from found


def _notes(measurements: Mapping[str, Measurement], check: PlanCheck | None, orphans: int) -> Iterator[str]:
    """What the numbers say, in sentences; the first of them is the headline."""
    prefix, executed = measurements["recovery_rate_prefix"], measurements["recovery_rate_prefix_executed"]
    before, after = (measurements[f"all_wrong_tool_group_rate_{when}"] for when in ("pre", "post"))
    if prefix.value is None:
        yield f"Nothing can be said about recovery: {prefix.reason}."
    else:
        yield (
            f"{_of(prefix)} resampled prefixes recovered: {show(prefix)} (95 % {show_interval(prefix)}). The all-wrong "
            f"rate of tool-using subgroups goes from {show(before)} to {show(after)}."
        )
        if executed.numerator is not None and prefix.numerator is not None and executed.numerator < prefix.numerator:
            yield (
                f"Only {_of(executed)} recovered by a continuation whose call was executed; in the others the policy "
                "opened the call, did not get it run, and answered right all the same."
            )
    if check is not None and check.found < check.wanted:
        yield (
            f"{check.wanted - check.found:,} of {check.wanted:,} planned continuations have no verdict here, "
            f"and {check.prefixes - check.resampled:,} of {check.prefixes:,} prefixes have none at all."
        )
    if orphans:
        yield f"{orphans:,} continuations are left out: the rollout that they were branched from is not in the log."


def _of(measured: Measurement) -> str:
    return f"{measured.numerator or 0:,.0f} of {measured.n:,}"
