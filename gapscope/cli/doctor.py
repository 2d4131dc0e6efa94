"""`gapscope doctor`: one log explained."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gapscope.cli.options import (
    Correct,
    Group,
    Logs,
    Map,
    Tokenizer,
    Trainer,
    mapping_given,
    progress_bar,
    remember_mapping,
)
from gapscope.cli.sections import plain_console, print_section

if TYPE_CHECKING:
    from rich.console import Console

    from gapscope.doctor import BlindSpot, Carried, Diagnosis
    from gapscope.report import FileReading, Report


def doctor(
    logs: Logs,
    correct: Correct = None,
    group: Group = None,
    trainer: Trainer = None,
    map_: Map = None,
    tokenizer: Tokenizer = None,
) -> None:
    """Explain a log: what it was taken for and why, what cannot be computed, and which setting would add it."""
    from gapscope.doctor import diagnose

    logs, mapping = mapping_given(logs, map_)
    with progress_bar("reading") as progress:
        diagnosis = diagnose(
            logs,
            correct=correct,
            group=group,
            trainer=trainer,
            mapping=mapping,
            tokenizer=tokenizer,
            progress=progress,
        )
    remember_mapping(mapping)
    print_diagnosis(diagnosis, plain_console())


def print_diagnosis(diagnosis: "Diagnosis", console: "Console") -> None:
    """Print a diagnosis, section by section."""
    from gapscope.reporters.base import cleaned

    report = cleaned(diagnosis.report)
    for reading in report.formats:
        print_section(console, f"Read as {reading.format}", _verdict(reading))
        print_section(console, "What its rows carry", _carries(diagnosis.carries.get(reading.format, [])))
        print_section(console, "What it cannot tell", _blind(diagnosis.blind_spots.get(reading.format, [])))
    print_section(console, "Tool-call syntax", [("", line) for line in diagnosis.syntax])
    print_section(console, "Survivor bias", [("", line) for line in diagnosis.survivors])
    print_section(console, "Rows, groups and correctness", _rows(report))


def _verdict(reading: "FileReading") -> Sequence[tuple[str, str]]:
    sure = "" if reading.confidence is None else f", confidence {reading.confidence:.0%}"
    return [
        ("written by", reading.producer),
        ("because", f"{reading.evidence}{sure}"),
        ("files", f"{reading.files:,}, with {reading.rows:,} rows"),
    ]


def _carries(carried: "list[Carried]") -> Iterable[tuple[str, str]]:
    from gapscope.reporters.base import words

    for item in sorted(carried, key=lambda item: (item.rows == 0, item.need)):
        name = words(item.need)
        whole = f"all {item.of:,} rows" if item.rows == item.of else f"{item.rows:,} of {item.of:,} rows"
        yield name, whole if item.rows else f"none: {item.advice}"


def _blind(spots: "list[BlindSpot]") -> Iterable[tuple[str, str]]:
    from gapscope.reporters.base import condensed, words

    for spot in spots:
        missing = " or ".join(map(words, spot.missing))
        yield f"no {missing}", f"{', '.join(condensed(spot.metrics))}: {spot.advice}"


def _rows(report: "Report") -> Iterable[tuple[str, str]]:
    from gapscope.reporters.base import words
    from gapscope.reporters.base.provenance import tokens

    rows, groups, rule = report.rows, report.groups, report.correctness
    others = "".join(f", {count:,} {word}" for word, count in rows.left_out.items())
    yield "rows", f"{rows.read:,} read, {rows.kept:,} kept{others}"
    for refused in report.refused:
        yield "refused", f"{refused.rows:,} rows: {refused.reason} (first: {refused.file}, line {refused.line:,})"
    for note, count in report.repairs.items():
        yield "noted", f"{words(note)}: {count:,} rows"
    for passed in report.passed_over:
        yield "passed over", f"{passed.path}: {passed.reason}"
    if told := tokens(report):
        yield "tokens", ", ".join(told)
    sizes = ", ".join(f"{count:,} of {size}" for size, count in groups.sizes.items())
    yield "groups", f"{groups.groups:,} ({sizes}), known by {groups.key}" if groups.groups else "none"
    for reason, count in groups.excluded.items():
        yield "left out", f"{count:,} groups: {words(reason)}"
    yield (
        "correct",
        f"{rule.rule} ({rule.chosen})"
        if rule.rule
        else "; ".join(filter(None, ("undefined", rule.message, rule.hint))),
    )
