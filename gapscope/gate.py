"""A number and a limit make a verdict. One rule, for the headline as for the exit code.

Numbers are compared as they were computed, never as they are printed. A metric that is unobserved or thin
judges nothing: by policy that is an error (exit 2), a failure, or passed over.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from gapscope.config import Limits, Mode, OnUnobserved
from gapscope.errors import UnknownName
from gapscope.metrics import known_keys
from gapscope.report import Check, Measurement, Report, Verdict, show_number

Op = Literal["<=", ">="]
_KEY = re.compile(r"(?P<name>[^\[\]]+?(?:\[.*\])?)(?:\.(?P<part>[a-z_0-9]+))?")
BOUNDS = ("value", "lo", "hi", "n")


class Limit(NamedTuple):
    """A key such as `all_wrong_tool_group_rate` or `tool_attempt_rate.lo`, and where it must stay."""

    key: str
    op: Op
    limit: float


def limits_of(settings: Limits) -> list[Limit]:
    """The limits of the settings, maxima first."""
    return [Limit(key, "<=", limit) for key, limit in settings.max.items()] + [
        Limit(key, ">=", limit) for key, limit in settings.min.items()
    ]


def judge(
    report: Report,
    limits: Sequence[Limit],
    *,
    mode: Mode = "point",
    min_groups: int | None = None,
    on_unobserved: OnUnobserved = "error",
) -> Verdict:
    """The verdict on a report.

    `mode="bound"` compares the adverse end of the interval instead of the value. With `min_groups`, a log
    with fewer eligible groups is not judged at all. An unreadable file makes the verdict 2, whatever the
    numbers say; otherwise a failed check outweighs one that could not be judged.

    Raises:
        UnknownName: a limit names no metric.

    """
    checks = [_check(report, limit, known_keys(), mode, min_groups, on_unobserved) for limit in limits]
    unreadable = [item for item in report.passed_over if item.unreadable]
    outcomes = [check.outcome for check in checks]
    if unreadable:
        text = f"Could not judge: {unreadable[0].path} could not be read ({unreadable[0].reason})."
        return Verdict(exit_code=2, checks=checks, text=text)
    if "failed" in outcomes:
        failed = outcomes.count("failed")
        return Verdict(exit_code=1, checks=checks, text=f"Failed: {failed} of {len(checks)} limits.")
    if "could_not_judge" in outcomes:
        text = f"Could not judge {outcomes.count('could_not_judge')} of {len(checks)} limits."
        return Verdict(exit_code=2, checks=checks, text=text)
    skipped = outcomes.count("skipped")
    text = f"Passed: {outcomes.count('passed')} of {len(checks)} limits" + (f", {skipped} skipped." if skipped else ".")
    return Verdict(exit_code=0, checks=checks, text=text)


def _split(key: str, measured: Mapping[str, Measurement]) -> tuple[str, str]:
    if key in measured:
        return key, "value"
    match = _KEY.fullmatch(key)
    return (match["name"], match["part"] or "value") if match else (key, "value")


def _check(
    report: Report,
    limit: Limit,
    known: Sequence[str],
    mode: Mode,
    min_groups: int | None,
    on_unobserved: OnUnobserved,
) -> Check:
    name, part = _split(limit.key, report.metrics)
    measured = report.metrics.get(name)
    if measured is None:
        if not _is_known(name, known):
            raise UnknownName("metric", name, [*known, *report.metrics])
        reason = f"{name} does not occur in this log"
        return _not_judged(limit, mode, on_unobserved, None, reason, None)
    if part not in BOUNDS and part not in measured.details and measured.value is not None:
        parts = [f"{name}.{known_part}" for known_part in (*BOUNDS, *measured.details)]
        raise UnknownName("key", limit.key, parts)
    if measured.status in {"unobserved", "thin"}:
        return _not_judged(limit, mode, on_unobserved, measured, measured.reason or measured.status, measured.setting)
    if min_groups is not None and report.groups.eligible < min_groups:
        reason = f"only {report.groups.eligible:,} eligible groups, fewer than {min_groups:,}"
        return _not_judged(limit, mode, on_unobserved, measured, reason, None)
    compared = _compared(measured, part, limit.op, mode)
    if compared is None:
        reason = "it has no interval to compare with" if mode == "bound" or part in {"lo", "hi"} else "it has no value"
        return _not_judged(limit, mode, on_unobserved, measured, reason, None)
    passed = compared <= limit.limit if limit.op == "<=" else compared >= limit.limit
    sign = limit.op if passed else {"<=": ">", ">=": "<"}[limit.op]
    what = "value" if mode == "point" or part != "value" else "upper bound" if limit.op == "<=" else "lower bound"
    shown = _shown(compared, limit.limit, measured)
    text = f"{limit.key}: {what} {shown} {sign} {_plain(limit.limit)} (n = {measured.n:,} {measured.of})"
    return Check(
        key=limit.key,
        op=limit.op,
        limit=limit.limit,
        mode=mode,
        compared=compared,
        n=measured.n,
        interval=measured.interval,
        outcome="passed" if passed else "failed",
        text=text,
    )


def _is_known(name: str, known: Sequence[str]) -> bool:
    family = f"{name.split('[', 1)[0]}[]" if name.endswith("]") else name
    return family in known


def _compared(measured: Measurement, part: str, op: Op, mode: Mode) -> float | None:
    if part == "n":
        return float(measured.n)
    if part == "lo" or (part == "value" and mode == "bound" and op == ">="):
        return measured.interval[0] if measured.interval else None
    if part == "hi" or (part == "value" and mode == "bound"):
        return measured.interval[1] if measured.interval else None
    if part == "value":
        return measured.value
    detail = measured.details.get(part)
    return float(detail) if isinstance(detail, (int, float)) else None


def _not_judged(
    limit: Limit,
    mode: Mode,
    policy: OnUnobserved,
    measured: Measurement | None,
    reason: str,
    hint: str | None,
) -> Check:
    outcomes: dict[OnUnobserved, Literal["could_not_judge", "failed", "skipped"]] = {
        "error": "could_not_judge",
        "fail": "failed",
        "skip": "skipped",
    }
    return Check(
        key=limit.key,
        op=limit.op,
        limit=limit.limit,
        mode=mode,
        compared=None,
        n=measured.n if measured else None,
        interval=measured.interval if measured else None,
        outcome=outcomes[policy],
        text=f"{limit.key} {limit.op} {_plain(limit.limit)} cannot be judged: {reason}",
        hint=hint,
    )


def _shown(compared: float, limit: float, measured: Measurement) -> str:
    """The compared number to as many digits as decide, with its usual form beside it."""
    for digits in range(3, 18):
        text = f"{compared:.{digits}g}"
        if compared == limit or ((float(text) < limit) == (compared < limit) and float(text) != limit):
            break
    usual = show_number(compared, measured.unit)
    return f"{text} ({usual})" if measured.unit in {"share", "difference"} else text


def _plain(number: float) -> str:
    return repr(number).removesuffix(".0")
