"""One log explained: what it was taken for and why, what it carries, and what it cannot tell."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import get_args

from pydantic import Field

from gapscope.audit import audit
from gapscope.capabilities import blind_spots
from gapscope.config import Settings
from gapscope.dialects import DIALECTS
from gapscope.ingest import Logs, Progress
from gapscope.parsers import Parser, all_parsers
from gapscope.report import FileReading, Model, Report
from gapscope.rollouts import Need
from gapscope.syntax import UNRECOGNISABLE


class Carried(Model):
    """How many of the rows meet a need; where none does, what would make them."""

    need: Need
    rows: int
    of: int
    advice: str | None = None


class BlindSpot(Model):
    """Metrics that cannot be computed from this log, what is missing, and what would supply it."""

    metrics: list[str]
    missing: list[Need]
    advice: str


class Diagnosis(Model):
    """What `gapscope doctor` says. `report` is the audit that it rests on."""

    report: Report
    carries: dict[str, list[Carried]]
    blind_spots: dict[str, list[BlindSpot]]
    survivors: list[str]
    syntax: list[str] = Field(default_factory=list)


def diagnose(
    logs: Logs,
    *,
    correct: str | None = None,
    group: str | None = None,
    trainer: str | None = None,
    mapping: Mapping[str, str] | None = None,
    tokenizer: str | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    """Audit logs and explain how they were read and what they cannot tell.

    Raises:
        GapscopeError: as `audit` does.

    """
    report = audit(
        logs,
        correct=correct,
        group=group,
        trainer=trainer,
        mapping=mapping,
        tokenizer=tokenizer,
        settings=settings,
        progress=progress,
    )
    parsers = {parser.name: parser for parser in all_parsers()}
    known = [(reading, parsers[reading.format]) for reading in report.formats if reading.format in parsers]
    return Diagnosis(
        report=report,
        carries={reading.format: _carried(reading, parser) for reading, parser in known},
        blind_spots={reading.format: _blind(reading, parser) for reading, parser in known},
        survivors=_survivors(report),
        syntax=[line for reading in report.formats for line in _syntax(reading)],
    )


def _carried(reading: FileReading, parser: Parser) -> list[Carried]:
    found = []
    for need in get_args(Need):
        rows = reading.carries.get(need)
        if rows is not None:
            found.append(
                Carried(need=need, rows=rows, of=reading.rollouts, advice=None if rows else parser.advice(need))
            )
    return found


def _blind(reading: FileReading, parser: Parser) -> list[BlindSpot]:
    """What the rows of this log were not seen to carry; the tools that were offered are not counted by row."""
    needs: tuple[Need, ...] = get_args(Need)
    seen: set[Need] = {need for need in needs if reading.carries.get(need)} | {"declared_tools"}
    if "turns" in seen:
        # Where there is text, calls can be seen, even if there is none to see.
        seen.add("tool_calls")
    keys: dict[tuple[tuple[Need, ...], str], list[str]] = defaultdict(list)
    for blind in blind_spots(parser, seen=frozenset(seen)):
        keys[blind.any_of, blind.advice] += [key for key in blind.keys if key not in keys[blind.any_of, blind.advice]]
    return [
        BlindSpot(metrics=metrics, missing=list(any_of), advice=advice) for (any_of, advice), metrics in keys.items()
    ]


def _survivors(report: Report) -> list[str]:
    """Whether groups without variance may be missing, by the trainer's setting and by the log itself."""
    settings: Sequence[str] = sorted({r.drops_uniform_groups for r in report.formats if r.drops_uniform_groups})
    lines = [
        f"`{name}`, where it is in force, drops groups without variance before they are logged; all-wrong rates are "
        f"then lower bounds"
        for name in settings
    ]
    seen = report.survivorship
    if seen.biased:
        lines.append(f"this log is {seen.reason}")
    elif seen.expected_uniform is not None:
        found = f"{seen.observed_uniform:,} uniform {'group' if seen.observed_uniform == 1 else 'groups'}"
        told = "none seem to be missing" if seen.observed_uniform else "too few groups to tell whether any are missing"
        lines.append(f"this log holds {found}, and by accuracy alone {seen.expected_uniform:.1f} are expected: {told}")
    return lines or ["nothing can be said without a verdict on each rollout"]


def _syntax(reading: FileReading) -> list[str]:
    """What was found of tool-call syntaxes, and what cannot be found."""
    looked_at = _rows(reading.dialect_sampled)
    lines = [f"{name}: calls in {rows:,} of {looked_at}" for name, rows in reading.dialects.items()]
    lines += [f"{name}: only begun, in {_rows(rows)}" for name, rows in reading.opened_only.items()]
    lines += [f"special tokens were dropped: {name} in {_rows(rows)}" for name, rows in reading.residues.items()]
    special = [d.name for d in DIALECTS if d.special and d.name in reading.dialect.split("+")]
    lines += [f"the delimiters of {name} are special tokens: keep them when decoding" for name in special]
    if not reading.dialects and reading.carries.get("tool_calls"):
        lines.append(f"{reading.format}: the calls are structured; text is read as {reading.dialect}")
    elif not reading.dialects:
        lines.append(f"{reading.format}: no call was found in {looked_at}; read as {reading.dialect}")
        if reading.residues:
            lost = UNRECOGNISABLE.items()
            lines += [f"{name} cannot be told once special tokens are dropped: {why}" for name, why in lost]
    return lines


def _rows(count: int) -> str:
    return f"{count:,} {'row' if count == 1 else 'rows'}"
