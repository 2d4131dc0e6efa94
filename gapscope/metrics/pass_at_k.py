"""The chance that k rollouts hold a correct one.

**What it measures.** `pass_at_k[k]`: 1 − C(n−c, k)/C(n, k), the unbiased estimate, averaged over groups with at least
k rollouts; `tool_pass_at_k[k]` and `notool_pass_at_k[k]` the same inside each subgroup; and
`paired_pass_at_k[k]`, the tool-using minus the other value on the groups that have k of both.

**Why it matters.** It separates a policy that cannot from one that only seldom does. 1 − pass@k on paired groups is
an all-wrong rate for subgroups of equal size.

**How to read it.** The groups differ from key to key: `coverage` in the details is the share that could be used.
Only the paired difference compares like with like. Groups with fewer than k rollouts are left out, never padded.

**Reference.** arXiv:2107.03374; metrics section 5.4.
"""

from collections.abc import Callable, Iterator

from gapscope.bootstraps import bootstrap_mean
from gapscope.metrics.base import VERDICTS, Context, Counts, Example, Metric, Requirement, judge_evidence, unobserved
from gapscope.report import Measurement, Scalar, TableRow, Unit
from gapscope.statistics import pass_at_k

KS = (1, 2, 4, 8, 16, 32, 64)

Estimate = Callable[[Counts, int], float | None]


def _all(counts: Counts, k: int) -> float | None:
    n, c, _, _, _ = counts
    return pass_at_k(n, c, k)


def _tool(counts: Counts, k: int) -> float | None:
    _, _, t, a, _ = counts
    return pass_at_k(t, a, k)


def _notool(counts: Counts, k: int) -> float | None:
    n, c, t, a, _ = counts
    return pass_at_k(n - t, c - a, k)


def _paired(counts: Counts, k: int) -> float | None:
    tool, notool = _tool(counts, k), _notool(counts, k)
    return None if tool is None or notool is None else tool - notool


FAMILIES: tuple[tuple[str, Estimate, str, Unit], ...] = (
    ("pass_at_k", _all, "groups with {k} rollouts", "share"),
    ("tool_pass_at_k", _tool, "groups with {k} tool-using rollouts", "share"),
    ("notool_pass_at_k", _notool, "groups with {k} rollouts that used no tool", "share"),
    ("paired_pass_at_k", _paired, "groups with {k} of both", "difference"),
)


def measure(context: Context) -> Iterator[Measurement]:
    """Each family for k = 1, 2, 4, … as far as any group reaches, and at least for 1 and 2."""
    largest = max((n for n, *_ in context.counts), default=0)
    for family, estimate, of, unit in FAMILIES:
        for k in KS:
            if k <= max(largest, 2):
                yield _measure(context, f"{family}[{k}]", estimate, of.format(k=k), unit, k)


def _measure(context: Context, name: str, estimate: Estimate, of: str, unit: Unit, k: int) -> Measurement:
    if missing := context.no_verdicts():
        return unobserved(name, of, *missing, unit=unit, better="higher")
    usable = [(counts, value) for counts in context.counts if (value := estimate(counts, k)) is not None]
    groups = sum(counts[-1] for counts, _ in usable)
    if groups == 0:
        return unobserved(name, of, f"there are no {of}", unit=unit, better="higher")
    status, reason = judge_evidence(context, groups, "groups")
    details: dict[str, Scalar] = {"k": k, "coverage": groups / context.eligible}
    if estimate is _paired:
        for side, own in (("tool", _tool), ("notool", _notool)):
            details[side] = sum((own(counts, k) or 0.0) * counts[-1] for counts, _ in usable) / groups
    return Measurement(
        name=name,
        value=sum(value * counts[-1] for counts, value in usable) / groups,
        n=groups,
        of=of,
        interval=bootstrap_mean([value for _, value in usable], [counts[-1] for counts, _ in usable]),
        interval_method="bootstrap_groups",
        status=status,
        reason=reason,
        unit=unit,
        better="higher",
        excluded={**context.excluded_groups, f"fewer than {k}": context.eligible - groups},
        details=details,
        table=_by_step(context, {counts[:-1]: value for counts, value in usable}) if estimate is _all else [],
    )


def _by_step(context: Context, values: dict[tuple[int, ...], float]) -> list[TableRow]:
    steps: dict[int, tuple[float, int]] = {}
    for cell in context.cells:
        value = values.get((cell.n, cell.c, cell.t, cell.a))
        if value is not None and cell.step is not None:
            total, groups = steps.get(cell.step, (0.0, 0))
            steps[cell.step] = (total + value * cell.groups, groups + cell.groups)
    return [{"step": step, "value": total / groups, "n": groups} for step, (total, groups) in sorted(steps.items())]


METRIC = Metric(
    name="pass_at_k",
    question="How often do k rollouts hold a correct one?",
    keys=tuple(f"{family}[]" for family, *_ in FAMILIES),
    measure=measure,
    doc=__doc__ or "",
    requires=(
        Requirement(tuple(f"{family}[]" for family, *_ in FAMILIES), VERDICTS),
        Requirement(tuple(f"{family}[]" for family, *_ in FAMILIES if family != "pass_at_k"), ("tool_calls",)),
    ),
    survivors=True,
    example=Example(
        """
        q1 tool wrong
        q1 tool right
        q1 -    wrong
        q1 -    wrong
        q2 tool wrong
        q2 tool wrong
        q2 -    right
        q2 -    right
        """,
        # q1: 1 of 4 correct, q2: 2 of 4. Tool side 1 of 2 and 0 of 2, other side 0 of 2 and 2 of 2.
        {
            "pass_at_k[1]": (1 / 4 + 2 / 4) / 2,
            "pass_at_k[2]": (1 / 2 + 5 / 6) / 2,
            "tool_pass_at_k[2]": (1 + 0) / 2,
            "notool_pass_at_k[2]": (0 + 1) / 2,
            "paired_pass_at_k[1]": (1 / 2 + 0) / 2 - (0 + 1) / 2,
            "paired_pass_at_k[2]": 0.0,
        },
    ),
)
