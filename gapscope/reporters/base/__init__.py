"""What a reporter is, and how every one of them reads a report: order, grouping and words.

The order is that of metrics, section 11. A metric that no section names is shown last, under `More`; so a
third party's metric appears in every report without a line here. `page` and `tables` lay the same things out
in terminal cells.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from gapscope.report import Measurement, Model, Report, Scalar, TableRow, Unit, show_number

M = TypeVar("M", bound=Model)


@dataclass(frozen=True, slots=True)
class Reporter:
    """One output: its name on the command line, the suffix of its files, and how to write it."""

    name: str
    suffix: str
    render: Callable[[Report], str]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a report and the metrics in it, in order: `x` is that metric, `x*` begins so, `x[]` has members."""

    title: str
    names: str

    def place(self, name: str) -> int | None:
        """Where a metric stands in this section; None when it does not belong here."""
        whole = family(name).name
        for place, pattern in enumerate(self.names.split()):
            if whole == pattern or (pattern.endswith("*") and whole.startswith(pattern[:-1])):
                return place
        return None


CORE: Final = (
    "tool_attempt_rate",
    "all_wrong_tool_group_rate",
    "all_wrong_notool_group_rate",
    "all_wrong_gap",
)
"""The Thinking-Acting Gap: how often the policy acts, and how often acting is a dead end."""

COMPANIONS: Final = ("expected", "excess", "p")
"""What stands beside an all-wrong rate: the size-matched null model of metrics, section 6."""

CENSUS: Final = "group_census"
CENSUS_ORDER: Final = ("none", "all_wrong", "mixed", "all_correct")

READING_ORDER: Final[tuple[Section, ...]] = (
    Section("Groups", "group_size_* group_singleton_rate group_mixed_prompt_rate group_merged_* group_short_rate"),
    Section(
        "Group signal",
        "group_zero_signal_rate group_all_wrong_rate group_all_correct_rate group_mixed_rate group_zero_std_rate "
        "wasted_* tool_signal_*",
    ),
    Section(
        "Accuracy",
        "accuracy tool_accuracy notool_accuracy tool_within_group_delta "
        "pass_at_k[] tool_pass_at_k[] notool_pass_at_k[] paired_*",
    ),
    Section(
        "Tool use",
        "tool_attempt_group_rate tool_closed_rate tool_parsed_rate tool_executed_rate tool_in_think_rate "
        "tool_calls_per_rollout tool_calls",
    ),
    Section("By tool", "tool_calls[] tool_call_share[] tool_failure_rate[] tool_accuracy[] tool_unused*"),
    Section("Call outcomes", "tool_failure_rate tool_model_fault_rate tool_env_fault_rate tool_outcome*"),
    Section(
        "Uncertainty at the call",
        "tool_confidence* tool_surprisal* outcome_confidence[] tool_entropy* think_* tool_think_*",
    ),
    Section("Distinct calls", "distinct_* single_call_* shared_prefix_*"),
    Section("Tokens", "logprob_* alignment_coverage entropy_coverage prefix_exact_share"),
    Section("Turns and length", "turns_* response_* truncation_rate* turn_limit_rate abort_rate"),
    Section("Trends", "trend[]* collapse[]* never_used"),
    Section(
        "Plan and recovery",
        "axpo_* recovery_rate_* recover* confidence_recovery_auc all_wrong_tool_group_rate_* continuation_* "
        "duplicate_call_rate proposition_* resampling_yield* fresh_yield*",
    ),
    Section("More", "*"),
)
"""Sections in the order in which a report is read; the first that knows a metric has it."""

DETAIL: Final = Section(
    "left out",
    "rows_* group_size_* group_mixed_rate group_zero_std_rate tool_signal_zero_share tool_signal_positive_share "
    "tool_signal_logged_* tool_closed_rate tool_parsed_rate tool_call_share[] tool_failure_rate turns_p* turns_max "
    "response_tokens_p50 response_tokens_max response_chars_p* response_chars_max tool_confidence_geometric "
    "tool_confidence_body outcome_confidence[] tool_entropy_at_tag_* tool_entropy_after_tag_* continuation_closed_rate "
    "continuation_parsed_rate resampling_yield_chars fresh_yield_chars resampling_yield_ratio_chars",
)
"""Steps on the way to others, their sums and complements: what a report for one screen leaves out."""

OUTCOME_WORDS: Final = {"passed": "passed", "failed": "FAILED", "skipped": "skipped", "could_not_judge": "UNJUDGED"}

BLOCKS: Final = "▁▂▃▄▅▆▇█"


class Family(NamedTuple):
    """A metric's name without what stands in brackets, which is `member`: `tool_accuracy[]` of `python`."""

    name: str
    member: str | None


def family(name: str) -> Family:
    """`tool_accuracy[python]` is the member `python` of `tool_accuracy[]`; `accuracy` has no member."""
    found = re.fullmatch(r"([^\[]*)\[(.*)\](\.\w+)?", name, re.DOTALL)
    if found is None:
        return Family(name, None)
    return Family(f"{found[1]}[]{found[3] or ''}", found[2])


class Rate(NamedTuple):
    """A rate of the core, and what chance alone would give where the report has it."""

    measured: Measurement
    companions: tuple[tuple[str, Measurement], ...]


def core(report: Report) -> list[Rate]:
    """The rates of the Thinking-Acting Gap that the report has, also those that the log could not show."""
    return [Rate(report.metrics[name], _companions(report, name)) for name in CORE if name in report.metrics]


def _companions(report: Report, name: str) -> tuple[tuple[str, Measurement], ...]:
    found = ((word, report.metrics.get(name.removesuffix("group_rate") + word)) for word in COMPANIONS)
    return tuple((word, measured) for word, measured in found if measured and measured.value is not None)


def sections(report: Report) -> list[tuple[str, list[Measurement]]]:
    """Everything outside the core and the census that has a value or cells, by section."""
    shown = {CENSUS, *CORE, *(name.removesuffix("group_rate") + word for name in CORE for word in COMPANIONS)}
    placed: dict[str, list[tuple[int, Measurement]]] = {section.title: [] for section in READING_ORDER}
    for name, measured in report.metrics.items():
        if name in shown or measured.status == "unobserved" or (measured.value is None and not cells(measured)):
            continue
        for section in READING_ORDER:
            place = section.place(name)
            if place is not None:
                placed[section.title].append((place, measured))
                break
    return [
        (title, [measured for _, measured in sorted(found, key=lambda pair: pair[0])])
        for title, found in placed.items()
        if found
    ]


def observed(report: Report) -> list[Measurement]:
    """Every measurement that a report shows, in reading order."""
    of_core = [m for rate in core(report) for m in (rate.measured, *(m for _, m in rate.companions))]
    return of_core + [measured for _, found in sections(report) for measured in found]


class Missing(NamedTuple):
    """Metrics that one missing field, or one shortage, made unobservable, and the setting that would add it."""

    reason: str
    setting: str | None
    names: list[str]


def missing(report: Report) -> list[Missing]:
    """Unobserved metrics by reason; those that a trainer setting would bring come first."""
    found: dict[tuple[str, str | None], list[str]] = {}
    for name, measured in report.metrics.items():
        if measured.status == "unobserved":
            found.setdefault((measured.reason or "not in the log", measured.setting), []).append(name)
    rows = [Missing(reason, setting, condensed(names)) for (reason, setting), names in found.items()]
    return sorted(rows, key=lambda row: (row.setting is None, -len(row.names)))


def condensed(names: Iterable[str]) -> list[str]:
    """Names, with the members of one family taken together: `pass_at_k[…]`."""
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(family(name).name, []).append(name)
    return [own[0] if len(own) == 1 else whole.replace("[]", "[…]") for whole, own in members.items()]


def marks(measurements: Iterable[Measurement]) -> dict[str, str]:
    """A symbol for each reason for which a number is annotated, in order of appearance."""
    reasons = dict.fromkeys(m.reason or "annotated" for m in measurements if m.status == "annotated")
    return {reason: "†‡§¶"[place] if place < 4 else f"†{place}" for place, reason in enumerate(reasons)}


def cells(measured: Measurement) -> list[TableRow]:
    """The rows of a table that is not a series over steps."""
    return [row for row in measured.table if "step" not in row]


def series(measured: Measurement) -> list[float | None]:
    """The value at each step, in step order; runs at the same step are pooled by their n."""
    steps: dict[float, list[tuple[float, float]]] = {}
    for row in measured.table:
        step, value, n = number(row.get("step")), number(row.get("value")), number(row.get("n"))
        if step is not None:
            steps.setdefault(step, []).extend([] if value is None else [(value, 1.0 if n is None else n)])
    return [_pooled(steps[step]) for step in sorted(steps)]


def _pooled(weighted: list[tuple[float, float]]) -> float | None:
    total = sum(weight for _, weight in weighted)
    if not weighted or total <= 0:
        return weighted[0][0] if weighted else None
    return sum(value * weight for value, weight in weighted) / total


def sparkline(values: list[float | None], *, width: int, blocks: str = BLOCKS) -> str:
    """A series as blocks from 0 (or the lowest value below it) to its highest, one gap per missing value.

    Longer than `width`, neighbours are averaged. Fewer than two values are no series: an empty string.
    """
    if sum(value is not None for value in values) < 2:
        return ""
    count = min(width, len(values))
    slots = [values[i * len(values) // count : (i + 1) * len(values) // count] for i in range(count)]
    heights = [_pooled([(value, 1.0) for value in slot if value is not None]) for slot in slots]
    known = [height for height in heights if height is not None]
    low, high = min(0.0, *known), max(0.0, *known)
    top = len(blocks) - 1
    return "".join(
        " " if height is None else blocks[round(top * (height - low) / (high - low)) if high > low else 0]
        for height in heights
    )


def number(item: Scalar) -> float | None:
    """A cell as a number; None for text, flags and nothing."""
    return float(item) if isinstance(item, (int, float)) and not isinstance(item, bool) else None


def cell(key: str, item: Scalar, unit: Unit = "ratio") -> str:
    """A cell of a free-form table as people read it; `value` is in the metric's own unit."""
    if item is None:
        return "–"
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, str):
        return item
    if key in {"value", "lo", "hi", "low", "high"}:
        return show_number(item, unit)
    return f"{item:,}" if isinstance(item, int) else show_number(item, "ratio")


def count(n: int, thing: str) -> str:
    """`1 file`, `40 files`."""
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"


def p_of(measured: Measurement) -> str:
    """The p in the details of a slope, as `p < 0.0001`; empty where there is none."""
    p = number(measured.details.get("p")) if measured.unit == "slope" else None
    shown = show_number(p, "p")
    return "" if p is None else f"p {shown}" if shown.startswith("<") else f"p = {shown}"


def quantity(measured: Measurement) -> str:
    """The denominator with its name: `512 eligible groups`."""
    return f"{measured.n:,} {measured.of}".rstrip()


class Slices(NamedTuple):
    """The two headline rates by one column of the log; a rate that a slice does not have is None."""

    key: str
    rates: list[Measurement]
    rows: list[tuple[str, list[TableRow | None]]]


def slices(report: Report) -> list[Slices]:
    """The headline rates by split, data source and run, where there is more than one of them."""
    rates = [report.metrics[name] for name in CORE[:2] if name in report.metrics]
    found = []
    for key in dict.fromkeys(key for rate in rates for key in rate.by):
        by_label = [{_label(row, key): row for row in rate.by.get(key, [])} for rate in rates]
        labels = list(dict.fromkeys(label for rows in by_label for label in rows))
        if len(labels) > 1:
            found.append(Slices(key, rates, [(label, [rows.get(label) for rows in by_label]) for label in labels]))
    return found


def _label(row: TableRow, key: str) -> str:
    item = row.get(key)
    return "(none)" if item is None else str(item)


def census(report: Report) -> tuple[list[str], dict[tuple[str, str], int]]:
    """States of a subgroup in order, and groups by (tool side, no-tool side); empty where there is no census."""
    rows = report.metrics[CENSUS].table if CENSUS in report.metrics else []
    counted: dict[tuple[str, str], int] = {}
    for row in rows:
        groups = number(row.get("groups"))
        if "tool" in row and "notool" in row and groups is not None:
            place = (str(row["tool"]), str(row["notool"]))
            counted[place] = counted.get(place, 0) + int(groups)
    others = dict.fromkeys(state for place in counted for state in place)
    return list(dict.fromkeys((*CENSUS_ORDER, *others))) if counted else [], counted


def dead_groups(report: Report) -> list[TableRow]:
    """Groups whose tool-using rollouts all failed, without empty columns and texts that are the same in all of them."""
    rows = report.dead_groups
    values = {key: {row.get(key) for row in rows} for row in rows for key in row}
    dull = {key for key, own in values.items() if own == {None}}
    dull |= {key for key, own in values.items() if len(rows) > 1 == len(own) and isinstance(min(own, key=str), str)}
    return [_placed({key: item for key, item in row.items() if key not in dull}) for row in rows]


def _placed(row: TableRow) -> TableRow:
    place = {"at": f"{row['file']}:{row['line']}"} if {"file", "line"} <= row.keys() else {}
    return {key: item for key, item in row.items() if not place or key not in {"file", "line"}} | place


def words(state: str) -> str:
    """`all_wrong` as it is said."""
    return state.replace("_", " ")


def cleaned(report: M) -> M:
    """What is shown, every text of it on one line and without characters that steer a terminal or break a file.

    Logs hold whatever a model wrote: escapes, newlines, bidirectional marks, half of a surrogate pair.
    """
    return type(report).model_validate(_clean(report.model_dump(by_alias=False)))


def _clean(item: object) -> object:
    if isinstance(item, str):
        return visible(item)
    if isinstance(item, dict):
        return {visible(str(key)): _clean(value) for key, value in item.items()}
    if isinstance(item, (list, tuple)):
        return [_clean(value) for value in item]
    return item


def visible(text: str) -> str:
    """One line of text: white space is a space, a control character is its picture (`␛`), the rest `�`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char.isprintable() else _stand_in(char) for char in text)


def _stand_in(char: str) -> str:
    if char in "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029" or unicodedata.category(char) == "Zs":
        return " "
    if ord(char) < 0x20:
        return chr(0x2400 + ord(char))
    return "␡" if char == "\x7f" else "�"
