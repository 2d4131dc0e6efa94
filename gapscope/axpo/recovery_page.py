"""What resampling has led to, for a terminal: 60 to 120 columns that read the same without colour."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from gapscope.recoveries import Recovery
from gapscope.report import Measurement, Scalar, TableRow, show, show_interval, show_number
from gapscope.reporters.base import BLOCKS, cell, cleaned, condensed, count, family, marks, quantity
from gapscope.reporters.base.page import (
    Line,
    Piece,
    Sheet,
    flowed,
    plain,
    squeezed,
    stacked,
    table,
    wrapped,
)
from gapscope.reporters.base.printing import print_lines

if TYPE_CHECKING:
    from rich.console import Console

_MOST_PREFIXES = 12
_GRID = (24, 7, 14)
_BAR: Piece = ("▌ ", "bold cyan")

_RECOVERED = {
    "recovery_rate_prefix": "of prefixes",
    "recovery_rate_prefix_executed": "  with the call executed",
    "recovery_rate_selected": "of resampled groups",
    "recovery_rate_triggered": "of triggered groups",
}
_ALL_WRONG = {
    "all_wrong_tool_group_rate_pre": "before resampling",
    "all_wrong_tool_group_rate_post": "after it",
}
_CONTINUATIONS = {
    "continuation_success": "correct",
    "continuation_closed_rate": "call closed",
    "continuation_parsed_rate": "call parsed",
    "continuation_executed_rate": "call executed",
    "continuation_invalid_rate": "call invalid",
    "duplicate_call_rate": "call made before",
    "continuation_mixed_rate": "prefixes with both ends",
}
_ORDER = {"confidence_recovery_auc": "AUC of low confidence"}
_PROPOSITION = {
    "proposition_q_p_tool": "q · p_tool, pooled",
    "proposition_margin": "p less that",
    "proposition_margin_same_question": "  for the same questions",
}
_YIELD = {
    "resampling_yield": "resampled",
    "fresh_yield": "fresh rollouts",
    "resampling_yield_ratio": "ratio",
}
_YIELD_CHARS = {f"{name}_chars": label for name, label in _YIELD.items()}
"""The measurements under each title, and what they are called there."""


def render(recovery: Recovery) -> str:
    """It as plain text in 80 columns."""
    return "".join(plain(line) + "\n" for line in compose(recovery, width=80))


def print_recovery(recovery: Recovery, console: "Console") -> None:
    """Print it in the console's width and colours."""
    print_lines(lambda width, blocks: compose(recovery, width=width, blocks=blocks), console)


def compose(recovery: Recovery, *, width: int, blocks: str = BLOCKS) -> list[Line]:
    """All lines, none wider than `width` cells."""
    recovery = cleaned(recovery)
    sheet = Sheet(width, blocks, marks(recovery.measurements.values()))
    parts = [
        _notes(recovery, sheet),
        _provenance(recovery, sheet),
        _section("Recovered", _RECOVERED, recovery, sheet),
        _section("Tool-using subgroups that are all wrong", _ALL_WRONG, recovery, sheet),
        _families(recovery, sheet),
        _by(recovery, sheet),
        _bins(recovery, sheet),
        _section("Is the least sure the best to resample?", _ORDER, recovery, sheet),
        _section("Continuations", _CONTINUATIONS, recovery, sheet),
        _histogram(recovery, sheet),
        _section("Is p at least q · p_tool? (Proposition 1)", _PROPOSITION, recovery, sheet),
        _section("Correct tool-using rollouts per 1,000 sampled tokens", _YIELD, recovery, sheet)
        or _section("Correct tool-using rollouts per 1,000 sampled characters", _YIELD_CHARS, recovery, sheet),
        _prefixes(recovery, sheet),
        list(_missing(recovery, sheet)),
    ]
    return stacked(parts)


def _notes(recovery: Recovery, sheet: Sheet) -> list[Line]:
    first, *rest = recovery.notes
    lines: list[Line] = [[_BAR, (text, "bold")] for text in wrapped(first, sheet.prose - 2)]
    return lines + [[_BAR, (text, "")] for note in rest for text in wrapped(note, sheet.prose - 2)]


def _provenance(recovery: Recovery, sheet: Sheet) -> list[Line]:
    steps, rule, plan, prefixes = recovery.steps, recovery.correctness, recovery.plan, recovery.prefixes
    facts = {
        "read": [
            *recovery.sources[:2],
            count(recovery.rollouts, "rollout"),
            count(recovery.groups, "group"),
            f"{count(recovery.continuations, 'continuation')} of {count(len(prefixes), 'prefix').replace('xs', 'xes')}",
            *([f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]}–{steps[-1]}"] if steps else []),
        ],
        "judged": [f"correct: {rule.rule} ({rule.chosen})"],
    }
    if plan is not None:
        labels = [f"{each.option} = {each.value}" for each in plan.departures]
        facts["plan"] = [plan.path, f"{plan.found:,} of {plan.wanted:,} continuations with a verdict", *labels]
    lines: list[Line] = []
    for word, said in facts.items():
        texts = flowed([squeezed(fact, sheet.prose - 8) for fact in said], sheet.prose - 8)
        lines += [[(f"{'' if place else word:8}", "dim"), (text, "")] for place, text in enumerate(texts)]
    return lines


def _section(title: str, labels: Mapping[str, str], recovery: Recovery, sheet: Sheet) -> list[Line]:
    measured = {name: recovery.measurements[name] for name in labels if name in recovery.measurements}
    found = {name: each for name, each in measured.items() if each.value is not None}
    if not found:
        return []
    rows: list[Line] = [
        [(labels[name], ""), *sheet.row(each)[1:], (quantity(each), "dim")] for name, each in found.items()
    ]
    lines: list[Line] = [[(title, "bold")], *table(rows, right={1}, room=sheet.width, least=_GRID, prose=3)]
    return lines + sheet.legend(found.values()) + _details(found.values(), sheet)


def _details(found: Iterable[Measurement], sheet: Sheet) -> list[Line]:
    """The verdict on the proposition, and the credit of prefixes beside what their continuations are worth."""
    said = []
    for measured in found:
        if (verdict := measured.details.get("verdict")) is not None:
            against = "the same questions" if measured.name.endswith("same_question") else "all questions"
            said.append(f"{verdict} against {against}")
        if isinstance(credit := measured.details.get("prefix_credit"), float):
            said.append(f"prefixes get a credit of {show_number(credit, 'share')} on average (Eq. 3)")
    return [line for text in said for line in sheet.note(text)]


def _families(recovery: Recovery, sheet: Sheet) -> list[Line]:
    titles = {
        "recovery_rate_prefix[]": "By tool of the rollout that was branched from",
        "recovery_rate_prefix_resampled[]": "By tool of the resampled call",
    }
    lines: list[Line] = []
    for name, title in titles.items():
        members = [m for m in recovery.measurements.values() if family(m.name).name == name]
        rows: list[Line] = [
            [(family(m.name).member or "", ""), (show(m), "bold"), (show_interval(m), "dim"), (_counted(m), "dim")]
            for m in members
        ]
        lines += [[(title, "bold")], *table(rows, right={1}, room=sheet.width, least=_GRID)] if rows else []
    return lines


def _counted(measured: Measurement) -> str:
    return f"{measured.numerator or 0:,.0f} of {measured.n:,} prefixes"


def _by(recovery: Recovery, sheet: Sheet) -> list[Line]:
    """The rate by data source; where there is one or none, it is the rate of them all."""
    measured = recovery.measurements["recovery_rate_prefix"]
    rows = [row for row in measured.by.get("data_source", []) if row.get("n")]
    if not rows:
        return []
    lines: list[Line] = [
        [
            ("(none)" if row["data_source"] is None else str(row["data_source"]), ""),
            (cell("value", row["value"], "share"), "bold"),
            (_interval(row), "dim"),
            (f"of {row['n']:,} prefixes", "dim"),
        ]
        for row in rows
    ]
    return [[("By data source", "bold")], *table(lines, right={1}, room=sheet.width, least=_GRID)]


def _interval(row: TableRow) -> str:
    if not isinstance(row.get("lo"), float) or not isinstance(row.get("hi"), float):
        return ""
    low, high = (cell("lo", row[bound], "share") for bound in ("lo", "hi"))
    return f"{low.removesuffix(' %')}–{high}"


def _bins(recovery: Recovery, sheet: Sheet) -> list[Line]:
    measured = recovery.measurements.get("recovery_by_confidence")
    if measured is None or not measured.table:
        return []
    rows: list[Line] = [
        [
            (_range(row["from"], row["to"]), ""),
            (cell("value", row.get("value"), "share"), "bold"),
            (_interval(row), "dim"),
            (f"of {row.get('n'):,} prefixes", "dim"),
        ]
        for row in measured.table
    ]
    return [[("By confidence of the first call", "bold")], *table(rows, right={1}, room=sheet.width, least=_GRID)]


def _range(low: Scalar, high: Scalar) -> str:
    return f"{low:.3f}" if low == high else f"{low:.3f}–{high:.3f}"


def _histogram(recovery: Recovery, sheet: Sheet) -> list[Line]:
    measured = recovery.measurements.get("recovered_k_histogram")
    if measured is None or not measured.table:
        return []
    shown = [row for row in measured.table if row["prefixes"]]
    rows: list[Line] = [
        [(f"{row['correct']} of {row['k']}", ""), (cell("prefixes", row["prefixes"]), "bold")] for row in shown
    ]
    title = sheet.heading("Prefixes by correct continuations", "none or all: no gradient for these")
    return [title, *table(rows, right={1}, room=sheet.width, least=_GRID)]


_SHOWN = ("group", "tool", "confidence", "correct", "correct_executed", "k", "credit", "advantage")


def _prefixes(recovery: Recovery, sheet: Sheet) -> list[Line]:
    rows = recovery.prefixes[:_MOST_PREFIXES]
    if not rows:
        return []
    head: Line = [(key.replace("correct_executed", "executed"), "dim") for key in _SHOWN]
    body: list[Line] = [[(cell(key, row[key]), "") for key in _SHOWN] for row in rows]
    title = sheet.heading("Prefixes", "the least sure first; advantage by Eq. 4")
    return [title, *table([head, *body], right=range(2, len(_SHOWN)), room=sheet.width), *_rest(recovery)]


def _rest(recovery: Recovery) -> list[Line]:
    left = len(recovery.prefixes) - _MOST_PREFIXES
    return [[(f"  and {left:,} more in --format json", "dim")]] if left > 0 else []


def _missing(recovery: Recovery, sheet: Sheet) -> Iterator[Line]:
    reasons: dict[str, list[str]] = {}
    for measured in recovery.measurements.values():
        if measured.status == "unobserved":
            reasons.setdefault(measured.reason or "not in the log", []).append(measured.name)
    if reasons:
        yield [("Not in this log", "bold")]
    for reason, names in reasons.items():
        yield from sheet.item(f"{reason}: {', '.join(condensed(names))}")
