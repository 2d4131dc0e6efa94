"""What a plan would do and cost, before it is paid for, for a terminal: 60 to 120 columns, with or without colour."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.cells import cell_len

from gapscope.axpo.candidates import Candidate, Group
from gapscope.axpo.estimates import Behind, Cost, Estimates, Mean
from gapscope.axpo.plan import Draft
from gapscope.plan_options import decimal_text
from gapscope.plans import Header
from gapscope.report import show_number
from gapscope.reporters.base import BLOCKS, count, visible, words
from gapscope.reporters.base.page import Line, Sheet, flowed, more, plain, squeezed, stacked, table, wrapped
from gapscope.reporters.base.printing import print_lines

if TYPE_CHECKING:
    from rich.console import Console

_MOST_ROWS = 20
_MOST_TOOLS = 8
_NOTHING = "-"
_NAMES = ("source", "tool")
_LONGEST = 30
"""Cells that the names of data source and tool may take beside all numbers; else the numbers are two tables."""


@dataclass(slots=True)
class PlanRow:
    """What is planned for one data source and one tool of the branch call; either is None where the log has none.

    A triggered group counts for the tool of its first-ranked candidate, or of its first tool-using rollout where it has
    no candidate; a prefix counts for its own.
    """

    data_source: str | None
    tool: str | None
    dead: int = 0
    reached: int = 0
    prefixes: list[Candidate] = field(default_factory=list)


def plan_rows(draft: Draft) -> list[PlanRow]:
    """The rows of the table, those with most dead groups first."""
    found: dict[tuple[str | None, str | None], PlanRow] = {}

    def row(group: Group, tool: str | None) -> PlanRow:
        return found.setdefault((group.data_source, tool), PlanRow(group.data_source, tool))

    reached = {each.group.cluster for each in draft.chosen}
    for group in (group for batch in draft.batches for group in batch.groups if group.triggered):
        own = row(group, _tool_of(group))
        own.dead += 1
        own.reached += group.cluster in reached
    for each in draft.chosen:
        row(each.group, each.candidate.tool).prefixes.append(each.candidate)
    return sorted(found.values(), key=lambda row: (-row.dead, row.data_source or "", row.tool or ""))


def _tool_of(group: Group) -> str | None:
    first = group.candidates[:1] or sorted(group.others, key=lambda each: (each.path, each.line))
    return first[0].tool


def print_draft(draft: Draft, estimates: Estimates, console: "Console") -> None:
    """Print a draft and its estimates in the console's width and colours."""
    print_lines(lambda width, blocks: compose(draft, estimates, width=width, blocks=blocks), console)


def render(draft: Draft, estimates: Estimates) -> str:
    """The same as plain text in 80 columns."""
    return "".join(plain(line) + "\n" for line in compose(draft, estimates, width=80))


def compose(draft: Draft, estimates: Estimates, *, width: int, blocks: str = BLOCKS) -> list[Line]:
    """All lines, none wider than `width` cells."""
    header, sheet = draft.header, Sheet(width, blocks, {})
    total = estimates.cost([each.candidate for each in draft.chosen])
    parts = [
        _headline(header, sheet),
        _provenance(header, sheet),
        _table(plan_rows(draft), estimates, total, sheet),
        _items("Budget", _budget(header), sheet),
        _items("Expected cost", _cost(draft, estimates, total), sheet),
        _items("Expected recovery", _recovery(header), sheet),
        _items("Not to be branched from", _noncandidates(header), sheet),
        _items("Notes", header.notes, sheet),
    ]
    return stacked(parts)


def summary(header: Header) -> list[str]:
    """What is planned, a line for each thing to know."""
    counts, budget, steps = header.counts, header.budget, _steps(header)
    of = f"of {count(counts.groups, 'group')} and {count(counts.rollouts, 'rollout')}{f' at {steps}' if steps else ''}"
    needed = f"{budget.needed_first:,} for the first of each group, {budget.needed_all:,} for all candidates"
    lines = [
        _planned(header),
        f"{of}; correct: {visible(header.correct)}",
        f"prefixes: {needed}, {budget.given:,} given",
    ]
    return [*lines, _exactness(header)] if counts.selected else lines


def _planned(header: Header) -> str:
    counts, k = header.counts, header.options.k
    if not counts.triggered:
        return "no prefix: no group is dead"
    if not counts.selected:
        return f"no prefix, for none of {count(counts.triggered, 'dead group')}"
    prefixes = "1 prefix" if counts.selected == 1 else f"{counts.selected:,} prefixes"
    return (
        f"{prefixes} × {k} = {header.budget.continuations:,} continuations, for {counts.reached:,} of "
        f"{count(counts.triggered, 'dead group')}"
    )


def _steps(header: Header) -> str:
    """As `step 20` or `steps 1–20`; empty where the log says none."""
    steps = sorted({step.step for step in header.steps if step.step is not None})
    if not steps:
        return ""
    return f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]}–{steps[-1]}"


def _exactness(header: Header) -> str:
    exact, of = header.exactness.token_exact, header.counts.selected
    text = "" if exact == of else f", {of - exact:,} text_retokenised"
    return f"{exact:,} of {of:,} token-exact{text}"


def _headline(header: Header, sheet: Sheet) -> list[Line]:
    bar = ("▌ ", "bold cyan")
    dead = "dry run, nothing is written; a group is dead where it has tool-using rollouts and none of them is correct"
    lines: list[Line] = [[bar, (text, "bold")] for text in wrapped(_planned(header), sheet.prose - 2)]
    return lines + [[bar, (text, "")] for text in wrapped(dead, sheet.prose - 2)]


def _provenance(header: Header, sheet: Sheet) -> list[Line]:
    counts, paths = header.counts, header.source.paths
    runs = {step.run for step in header.steps}
    left_out = (f"{count(n, 'group')} left out ({words(why)})" for why, n in header.groups_left_out.items())
    facts = {
        "read": [
            *map(visible, paths[:2]),
            *([f"{len(paths) - 2:,} more"] if len(paths) > 2 else []),
            *([f"{len(runs):,} runs"] if len(runs) > 1 else []),
            *filter(None, [_steps(header)]),
            count(counts.groups, "group"),
            count(counts.rollouts, "rollout"),
        ],
        "judged": [f"correct: {visible(header.correct)}", *left_out],
        "plan": [
            f"K = {header.options.k}",
            f"r = {decimal_text(header.options.r)}",
            *(f"{each.option} = {each.value}" for each in header.departures if each.option not in {"k", "r"}),
            *([_exactness(header)] if counts.selected else []),
        ],
    }
    lines: list[Line] = []
    for word, said in facts.items():
        texts = flowed([squeezed(fact, sheet.prose - 8) for fact in said], sheet.prose - 8)
        lines += [[(f"{'' if place else word:8}", "dim"), (text, "")] for place, text in enumerate(texts)]
    return lines


def _table(rows: Sequence[PlanRow], estimates: Estimates, total: Cost, sheet: Sheet) -> list[Line]:
    if not rows:
        return []
    short = "tokens" if estimates.unit == "tokens" else "chars"
    heads = [("dead", "groups"), ("budget", "reaches"), ("", "prefixes"), ("continu-", "ations")]
    costs = [("prefill", short), ("sampled", short), ("tool", "calls")]
    shown = [*rows[:_MOST_ROWS]]
    names = [(visible(row.data_source or _NOTHING), visible(row.tool or _NOTHING)) for row in shown]
    body = [_numbers(row, estimates, estimates.cost(row.prefixes)) for row in shown]
    sums = PlanRow(None, None, sum(row.dead for row in rows), sum(row.reached for row in rows))
    sums.prefixes = [prefix for row in rows for prefix in row.prefixes]
    last = _numbers(sums, estimates, total)
    columns = [*heads, *costs]
    widths = [
        max(cell_len(text) for text in (*column, *(row[i] for row in (*body, last))))
        for i, column in enumerate(columns)
    ]
    of_names = sum(
        max(cell_len(text) for text in (head, *own)) for head, own in zip(_NAMES, zip(*names, strict=True), strict=True)
    )
    fits = sum(widths) + 2 * len(widths) + min(of_names, _LONGEST) + 4 <= sheet.width
    parts = [range(len(columns))] if fits else [range(len(heads)), range(len(heads), len(columns))]
    lines = [sheet.heading("Dead groups", "by data source and tool of the call")]
    for place, part in enumerate(parts):
        top: Line = [("", ""), ("", ""), *((columns[i][0], "dim") for i in part)]
        second: Line = [*((name, "dim") for name in _NAMES), *((columns[i][1], "dim") for i in part)]
        written: list[Line] = [
            [(source, ""), (tool, ""), *((row[i], "") for i in part)]
            for (source, tool), row in zip(names, body, strict=True)
        ]
        end: Line = [("total", "bold"), ("", ""), *((last[i], "bold") for i in part)]
        least = [0, 0, *(widths[i] for i in part)]
        grid = [top, second, *written, end]
        lines += [*([[]] if place else []), *table(grid, right=range(2, 9), room=sheet.width, least=least)]
    lines += more(len(rows) - len(shown), "row")
    if any(not row.dead for row in rows):
        lines += sheet.note("a group counts for the tool of its first prefix, a prefix for its own")
    return lines


def _numbers(row: PlanRow, estimates: Estimates, cost: Cost) -> list[str]:
    return [
        f"{row.dead:,}",
        f"{row.reached:,}",
        f"{len(row.prefixes):,}",
        f"{estimates.k * len(row.prefixes):,}",
        _NOTHING if cost.prefill is None else f"{cost.prefill:,}",
        _NOTHING if cost.sampled is None else f"{cost.sampled:,.0f}",
        _NOTHING if cost.executed is None else f"{cost.executed:,.1f}" if row.prefixes else "0",
    ]


def _items(title: str, texts: Iterable[str], sheet: Sheet) -> list[Line]:
    lines = [line for text in texts for line in sheet.item(text)]
    return [sheet.heading(title), *lines] if lines else []


def _budget(header: Header) -> Iterator[str]:
    counts, budget, options, steps = header.counts, header.budget, header.options, len(header.steps)
    first, every = f"{budget.needed_first:,}", f"{budget.needed_all:,}"
    most = f"{decimal_text(options.r)} of {count(counts.rollouts, 'rollout')}"
    down = f"rounded down at each of {steps:,} steps" if steps > 1 else "rounded down"
    yield f"needed: {first} for the first prefix of each dead group, {every} for all candidates"
    yield f"given: {budget.given:,}, as continuations may be {most}, {options.k} for each prefix, {down}"
    of = "these steps" if steps > 1 else "this step"
    share = "" if budget.share is None else f", {show_number(budget.share, 'share')} of the rollouts of {of}"
    yield f"taken: {counts.selected:,}, for {count(budget.continuations, 'continuation')}{share}"


def _cost(draft: Draft, estimates: Estimates, total: Cost) -> list[str]:
    if not draft.chosen:
        return []
    tools = {each.candidate.tool for each in draft.chosen}
    special = sorted((tool for tool in tools if tool in estimates.tools), key=lambda tool: tool or "")
    texts = [_sampled(estimates, total)]
    texts += [
        _means(visible(tool or "calls without a name"), estimates.tools[tool], estimates)
        for tool in special[:_MOST_TOOLS]
    ]
    if len(special) < len(tools) or len(special) > _MOST_TOOLS:
        name = "all tools together" if special else "tool-using rollouts"
        texts.append(_means(name, estimates.pooled, estimates))
    if estimates.unit == "characters":
        texts.append(
            "the tokens of these prefixes are not in the log: characters are shown instead, and of the prefixes only "
            "those of the output, because prompts are not counted"
        )
    return texts


def _sampled(estimates: Estimates, total: Cost) -> str:
    unit, share = estimates.unit, estimates.share(total)
    if total.sampled is None:
        return f"how many {unit} will be sampled is not known: no tool-using rollout tells what it sampled"
    of = count(estimates.rollouts, "rollout")
    if share is None:
        return f"{total.sampled:,.0f} {unit} to sample; of what {of} sampled not all is known, so no share is given"
    return (
        f"{total.sampled:,.0f} {unit} to sample, +{show_number(share, 'share')} of the {estimates.logged:,} that all "
        f"{of} of the planned steps sampled"
    )


def _means(name: str, behind: Behind, estimates: Estimates) -> str:
    sampled = "not known" if behind.sampled is None else f"{_mean(behind.sampled)} {estimates.unit}"
    calls = "not known" if behind.executed is None else f"{_mean(behind.executed)} executed calls"
    n = "".join(f", n = {each.n:,}" for each in _once(behind))
    return f"{name}: from the branch point on, {sampled} and {calls} on average{n}"


def _mean(mean: Mean) -> str:
    return show_number(mean.value, "ratio") if mean.value >= 1000 else f"{mean.value:.4g}"


def _once(behind: Behind) -> list[Mean]:
    """The means whose n have to be said: one of them where both have the same."""
    means = [each for each in behind if each is not None]
    return means[:1] if len({each.n for each in means}) == 1 else means


def _recovery(header: Header) -> list[str]:
    if not header.counts.selected:
        return []
    return [
        f"{each.groups:.2f} of {count(header.counts.reached, 'group')} with p = {each.p:g} for each continuation, "
        f"{each.assumption}"
        for each in header.expected_recovered
    ]


def _noncandidates(header: Header) -> list[str]:
    found = header.noncandidates
    if not found:
        return []
    reasons = ", ".join(f"{n:,} {reason}" for reason, n in found.items())
    of = count(header.counts.tool_using, "tool-using rollout")
    return [f"{sum(found.values()):,} of {of} of dead groups: {reasons}"]
