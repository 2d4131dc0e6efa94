"""The tables of a report on a page: census, metrics by section, slices, free-form rows."""

import re
from collections.abc import Sequence
from itertools import groupby

from rich.cells import cell_len

from gapscope.report import Measurement, TableRow, show, show_number
from gapscope.reporters.base import (
    CENSUS,
    DETAIL,
    cell,
    cells,
    census,
    core,
    count,
    family,
    number,
    p_of,
    quantity,
    sections,
    slices,
    words,
)
from gapscope.reporters.base.page import GRID, Line, Page, clipped, more, squeezed, table

_MOST_DOWN = 5
_OF = 36
"""Width of denominators on a wide page, so that the sparklines behind them line up."""

_SPREAD = 24
"""Cells that an interval may take before it is cut."""

Grid = dict[str, dict[str, Measurement]]
"""Metrics with something in brackets: by family, then by member."""


def census_lines(page: Page) -> list[Line]:
    """Groups by what became of their tool-using rollouts and of the others."""
    states, counted = census(page.report)
    if not states:
        return []
    rows: list[Line] = [[("tool-using", "dim"), *((words(state), "dim") for state in states), ("groups", "dim")]]
    for tool in states:
        groups = [counted.get((tool, other), 0) for other in states]
        row: Line = [(words(tool), "dim"), *((f"{n:,}", "" if n else "dim") for n in groups)]
        resampled = "← AXPO resamples" if tool == "all_wrong" else ""
        rows.append([*row, (f"{sum(groups):,}", "bold"), (resampled, "dim")])
    title = page.heading(
        f"Census{page.mark(page.report.metrics[CENSUS])}", "tool-using rollouts down, the others across"
    )
    return [title, *table(rows, right=range(1, len(states) + 2), room=page.width)]


def section_lines(page: Page) -> list[Line]:
    """Every further metric, in one block: the columns line up from the first section to the last."""
    found = sections(page.report)
    lines: list[Line] = []
    for title, measurements in found:
        shown = [m for m in measurements if DETAIL.place(m.name) is None]
        if shown:
            lines += _section(title, shown, page)
    everything = [m for _, measurements in found for m in measurements]
    explained = {rate.measured.reason for rate in core(page.report)}
    lines += page.legend([m for m in everything if m.reason not in explained])
    left_out = sum(DETAIL.place(m.name) is not None for m in everything)
    return lines + page.note(f"and {count(left_out, 'more number')} in the other formats") if left_out else lines


def _section(title: str, found: list[Measurement], page: Page) -> list[Line]:
    shared = {quantity(measured) for measured in found}
    same = len(shared) == 1 and len(found) > 1
    single = [m for m in found if family(m.name).member is None]
    zeros = [m for m in single if m.value == 0 and m.better != "higher" and m.unit in {"share", "count", "flag"}]
    rows = []
    for measured in single:
        if measured not in zeros:
            of = "" if same else clipped(quantity(measured), _OF) if page.wide else quantity(measured)
            rows.append([*page.row(measured), (of, "dim"), page.spark(measured, 24) if page.wide else ("", "")])
    lines = [page.heading(title, f"of {shared.pop()}" if same else "")]
    if rows:
        # A number with a hole in it is none: rather the denominator gives way.
        spread = max(GRID[2], min(_SPREAD, max(cell_len(row[2][0]) for row in rows)))
        least = (*GRID[:2], spread, _OF) if page.wide else (*GRID[:2], spread)
        lines += table(rows, right={1}, room=page.width, least=least, prose=3)
    for grid in _grids([m for m in found if family(m.name).member is not None]):
        lines += _members(grid, page, same=same)
    for measured in single:
        if rows_of := cells(measured):
            lines += page.item(measured.name) if measured in zeros or len(rows_of[0]) > 1 else []
            lines += free_lines(rows_of, page, measured, indent=4)
    for of, alike in groupby(zeros, key=lambda m: "" if same or m.unit == "flag" else f" (n {m.n:,})"):
        names = list(alike)
        word = "no" if names[0].unit == "flag" else "none"
        lines += page.item(f"{word}: {', '.join(m.name for m in names)}{of}")
    return lines


def _grids(found: list[Measurement]) -> list[Grid]:
    """Families that share a member (the same tools, the same k) belong in one table."""
    grids: list[Grid] = []
    for measured in found:
        name, member = family(measured.name)
        member = member or ""
        for grid in grids:
            if name in grid or any(member in row for row in grid.values()):
                grid.setdefault(name, {})[member] = measured
                break
        else:
            grids.append({name: {member: measured}})
    return grids


def _members(grid: Grid, page: Page, *, same: bool) -> list[Line]:
    """One table: k across, tools down; a single family of shares flows."""
    members = list(dict.fromkeys(member for row in grid.values() for member in row))
    if all(member.isdecimal() for member in members):
        return _across(grid, sorted(members, key=int), page)
    only = list(next(iter(grid.values())).values()) if len(grid) == 1 else []
    return _flow(only, page) if only and only[0].unit == "share" else _down(grid, members, page, same=same)


def _across(grid: Grid, ks: list[str], page: Page) -> list[Line]:
    fitting = max(2, (page.width - 46) // 8)
    ks = ks if len(ks) <= fitting else [*ks[: fitting - 1], ks[-1]]
    rows: list[Line] = [[("", ""), *((f"k = {k}", "dim") for k in ks), ("", "")]]
    for name, row in grid.items():
        ns = sorted({measured.n for measured in row.values()})
        total = f"{ns[0]:,}–{ns[-1]:,}" if len(ns) > 1 else f"{ns[0]:,}"
        of = dict.fromkeys(re.sub(rf"\b{k}\b", "k", measured.of) for k, measured in row.items())
        values = [(f"{show(row[k])}{page.mark(row[k])}" if k in row else "", "bold") for k in ks]
        rows.append([(name.removesuffix("[]"), ""), *values, (f"{total} {next(iter(of))}", "dim")])
    return table(rows, right=range(1, len(ks) + 1), room=page.width, prose=len(ks) + 1)


def _down(grid: Grid, members: list[str], page: Page, *, same: bool) -> list[Line]:
    of_member = {m: [row[m] for row in grid.values() if m in row and row[m].unit != "count"] for m in members}
    flat = [m for m, found in of_member.items() if found and all(map(_is_flat, found))]
    thin = [m for m, found in of_member.items() if found and all(one.status == "thin" for one in found)]
    told = [m for m in members if m not in flat and m not in thin] or thin
    rows: list[Line] = [[("", ""), *((name.replace("[]", ""), "dim") for name in grid), ("", "")]]
    for member in told[:_MOST_DOWN]:
        series_of = page.report.metrics.get(member)
        texts = [_with_evidence(row[member], page, same=same) if member in row else "" for row in grid.values()]
        spark = page.spark(series_of, 16) if series_of else ("", "")
        rows.append([(member, ""), *((text, "") for text in texts), spark])
    lines = table(rows, right=range(1, len(grid) + 1), room=page.width) if told else []
    lines += more(len(told) - _MOST_DOWN, "row")
    lines += page.item(f"thin: {', '.join(thin)}") if thin and told is not thin else []
    return lines + (page.item(f"no clear trend: {', '.join(flat)}") if flat else [])


def _is_flat(measured: Measurement) -> bool:
    """Whether this is a slope that may well be none."""
    p = number(measured.details.get("p"))
    return measured.unit == "slope" and p is not None and p > 0.05


def _with_evidence(measured: Measurement, page: Page, *, same: bool) -> str:
    """A number with the p that its details hold, or with its n."""
    p = p_of(measured)
    of = "" if same or measured.unit in {"count", "slope", "flag"} else f" of {measured.n:,}"
    return f"{show(measured)}{f'  {p}' if p else of}{page.mark(measured)}"


def _flow(found: list[Measurement], page: Page) -> list[Line]:
    """Several to a line, the largest first; what never happened is only named."""
    named = {family(m.name).member or "": m for m in found}
    present = sorted(((name, m) for name, m in named.items() if m.value), key=lambda item: -(item[1].value or 0))
    absent = [name for name, m in named.items() if not m.value]
    width = min(40, max((cell_len(name) for name, _ in present), default=0))
    texts = []
    for name, m in present:
        short = squeezed(name, width)
        texts.append(f"{short}{' ' * (width - cell_len(short))} {show(m) + page.mark(m):>6}")
    across = max(1, page.width // (width + 9))
    rows: list[Line] = [[(text, "") for text in texts[i : i + across]] for i in range(0, len(texts), across)]
    lines = table(rows, right=(), room=page.width) if rows else []
    return lines + (page.item(f"none: {', '.join(absent)}") if absent else [])


def slice_lines(page: Page) -> list[Line]:
    """The headline rates by split, data source and run."""
    lines: list[Line] = []
    for key, rates, labelled in slices(page.report):
        rows: list[Line] = [[(f"By {words(key)}", "bold"), *((rate.name, "dim") for rate in rates)]]
        for label, by_rate in labelled[:6]:
            values = [_in_slice(rate, row) for rate, row in zip(rates, by_rate, strict=True)]
            rows.append([(f"  {label}", ""), *((value, "") for value in values)])
        lines += table(rows, right={1, 2}, room=page.width, indent=0)
        lines += more(len(labelled) - 6, "row")
    return lines


def _in_slice(rate: Measurement, row: TableRow | None) -> str:
    n = number(row.get("n")) if row else None
    value = show_number(number(row.get("value")) if row else None, rate.unit)
    return value if n is None else f"{value} of {n:,.0f}"


def free_lines(
    rows: Sequence[TableRow], page: Page, measured: Measurement | None = None, *, most: int = 6, indent: int = 2
) -> list[Line]:
    """Rows whose keys nobody promised: a column per key, or one line where there is one key."""
    keys = list(dict.fromkeys(key for row in rows for key in row))[: page.width // 8]
    unit = measured.unit if measured else "ratio"
    shown = [[cell(key, row.get(key), unit) for key in keys] for row in rows[:most]]
    if len(keys) == 1:
        rest = [f"and {len(rows) - most:,} more"] if len(rows) > most else []
        return page.item(f"{words(keys[0])}: {', '.join([*(row[0] for row in shown), *rest])}")
    right = {i for i, key in enumerate(keys) if all(number(row.get(key)) is not None for row in rows[:most])}
    lines: list[Line] = [[(words(key), "dim") for key in keys], *([(text, "") for text in row] for row in shown)]
    return table(lines, right=right, room=page.width, indent=indent)
