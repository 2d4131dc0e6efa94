"""A store, the metrics and the rule of correctness make a report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from gapscope.config import Settings
from gapscope.correctness import counted, decide
from gapscope.errors import NothingScanned
from gapscope.findings import find
from gapscope.ingest import Logs, Progress, paths_of, store_of
from gapscope.metrics import METRICS, Context, Evidence, family
from gapscope.metrics.base import unobserved
from gapscope.outcomes import ErrorMarkers
from gapscope.parsers import all_parsers
from gapscope.planning import ReadOptions
from gapscope.report import (
    FileReading,
    GroupCheck,
    Measurement,
    PassedOver,
    RefusedRows,
    Report,
    RowCounts,
    Scalar,
    Survivorship,
    TableRow,
    TokenReading,
)
from gapscope.rollouts import Need
from gapscope.version import VERSION

if TYPE_CHECKING:
    from gapscope.store.store import Store

MOST_DEAD_GROUPS = 200
TEXTLESS = "the log holds tokens and no text, so what was called cannot be seen"

DROPPED = "uniform_groups_dropped"
"""The note on rows of a file that by its trainer's rules holds no group without variance."""

UNIFORM_GROUPS_EXPECTED = 3.0
"""From this many on, it is suspicious that a log has no group without variance (metrics section 1, rule 9)."""


def audit(
    logs: "Logs | Store",
    *,
    correct: str | None = None,
    group: str | None = None,
    trainer: str | None = None,
    jobs: int | None = None,
    mapping: Mapping[str, str] | None = None,
    tokenizer: str | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Report:
    """Audit logs, or a store that `ingest` has made.

    `logs` are files, folders, globs or `-`; what is not given here comes from `settings`, by default those in
    force in the current folder. `correct` is a rule such as `acc` or `score>=1`, `group` a field that the
    rollouts of one question share, `trainer` a format or a trainer whose formats to choose from; `mapping` says where
    in a row the fields of a rollout are, for logs of no known format, as `{"reward": "$.scores.total"}`; `tokenizer`
    is the folder or file that says what token ids spell.

    Raises:
        GapscopeError: one of the errors of gapscope.errors, with a message and a hint.

    """
    settings = settings or Settings.load()
    rule = correct if correct is not None else settings.correct
    options = ReadOptions.under(settings, trainer=trainer, group=group, jobs=jobs, mapping=mapping, tokenizer=tokenizer)
    if not isinstance(logs, (str, Path, Sequence)):
        return audit_store(logs, ["a store"], correct=rule, settings=settings)
    paths = paths_of(logs)
    with store_of(paths, options, tokenizer=tokenizer, progress=progress) as store:
        return audit_store(store, paths, correct=rule, settings=settings)


def audit_store(
    store: "Store",
    sources: list[str],
    *,
    correct: str | None = None,
    settings: Settings | None = None,
) -> Report:
    """Everything that can be said about the rollouts in a store.

    Raises:
        CorrectnessError: `correct` cannot be used on this log.
        NothingScanned: there is no rollout in the store.
        UnknownName: `correct` names a field that the log does not have.

    """
    settings = settings or Settings()
    evidence = Evidence(
        settings.min_groups,
        settings.min_rollouts,
        settings.min_informative,
        settings.min_steps,
        settings.min_coverage,
    )
    # What became of a call was decided when its row was read.
    markers = ErrorMarkers.from_json(store.about("error_markers") or "{}")
    if not store.rows("SELECT 1 FROM rollouts WHERE coalesce(status, 'ok') NOT IN ('padding', 'excluded') LIMIT 1"):
        _nothing(store)
    correctness = decide(store, correct)
    store.prepare()
    correctness = counted(store, correctness)
    rows = _rows(store)
    formats = _formats(store)
    context = Context(
        store,
        correctness,
        evidence,
        advice=_advice(formats),
        has_markers=bool(markers.patterns),
    )
    survivorship = _survivorship(context)
    measured = _measure(context, survivorship)
    (rollouts, sub_outputs, same_text, scope) = store.rows(_OVERVIEW)[0]
    report = Report(
        version=VERSION,
        sources=sources,
        formats=formats,
        passed_over=[
            PassedOver(path=path, reason=reason, unreadable=unreadable)
            for path, reason, unreadable in store.rows("SELECT * FROM passed_over ORDER BY explicit DESC, path")
        ],
        rows=rows,
        rollouts=rollouts,
        sub_outputs=sub_outputs,
        same_text=0 if context.textless else same_text,
        refused=_refused(store),
        repairs=dict(store.rows("SELECT note, sum(rows)::BIGINT FROM notes GROUP BY note ORDER BY note")),
        scope=scope,
        steps=[step for (step,) in store.rows(_STEPS)],
        runs=[run for (run,) in store.rows(_RUNS)],
        data_sources=[name for (name,) in store.rows(_SOURCES)],
        groups=_groups(context),
        correctness=correctness,
        survivorship=survivorship,
        tokens=_tokens(store),
        error_markers={tool: list(patterns) for tool, patterns in markers.patterns.items()},
        options={**_options(evidence), "settings": settings.file},
        metrics=measured,
        findings=[],
        dead_groups=_dead_groups(store),
    )
    return report.model_copy(update={"findings": find(report)})


def _measure(context: Context, survivorship: Survivorship) -> dict[str, Measurement]:
    for metric in METRICS:
        unseen = metric.keys_that_need({"tool_calls", "turns"}) if context.textless else frozenset()
        for measurement in metric.measure(context):
            if family(measurement.name) in unseen:
                setting = context.advice.get("tool_calls")
                context.measured[measurement.name] = unobserved(
                    measurement.name,
                    measurement.of,
                    TEXTLESS,
                    setting,
                    unit=measurement.unit,
                    better=measurement.better,
                )
                continue
            if metric.survivors and survivorship.biased and measurement.status == "observed":
                reason = survivorship.reason
                measurement = measurement.model_copy(update={"status": "annotated", "reason": reason})  # noqa: PLW2901
            context.measured[measurement.name] = measurement
    return context.measured


_OVERVIEW = """
SELECT
    coalesce(sum(n) FILTER (in_scope), 0)::BIGINT,
    coalesce(sum(sub_outputs), 0)::BIGINT,
    coalesce(sum(same_text), 0)::BIGINT,
    coalesce(string_agg(DISTINCT split, ' and ' ORDER BY split) FILTER (in_scope), '')
FROM all_groups
"""
_STEPS = "SELECT DISTINCT step FROM all_groups WHERE in_scope AND step IS NOT NULL ORDER BY step"
_RUNS = "SELECT DISTINCT run FROM all_groups WHERE in_scope AND run IS NOT NULL ORDER BY run"
_SOURCES = "SELECT DISTINCT data_source FROM all_groups WHERE in_scope AND data_source IS NOT NULL ORDER BY data_source"


def _rows(store: "Store") -> RowCounts:
    (rows, padding, excluded, duplicate, refused, continuations) = store.rows("""
        SELECT
            (SELECT count(*) FROM rollouts), (SELECT count(*) FROM rollouts WHERE status = 'padding'),
            (SELECT count(*) FROM rollouts WHERE status = 'excluded'),
            (SELECT count(*) FROM duplicates), (SELECT count(*) FROM refused),
            (SELECT count(*) FROM left_out_continuations)
    """)[0]
    return RowCounts(
        read=rows + refused,
        kept=rows - padding - excluded - duplicate - continuations,
        refused=refused,
        padding=padding,
        excluded=excluded,
        duplicate=duplicate,
        continuations=continuations,
    )


def _nothing(store: "Store") -> NoReturn:
    unreadable = store.rows("SELECT path, reason FROM passed_over ORDER BY explicit DESC, path LIMIT 1")
    (padding, excluded, refused) = store.rows("""
        SELECT (SELECT count(*) FROM rollouts WHERE status = 'padding'),
            (SELECT count(*) FROM rollouts WHERE status = 'excluded'), (SELECT count(*) FROM refused)
    """)[0]
    if padding + excluded + refused == 0:
        reason = f"; {unreadable[0][0]}: {unreadable[0][1]}" if unreadable else ""
        message = f"nothing to audit: no row was read{reason}"
        raise NothingScanned(message)
    first = store.rows("SELECT line, reason FROM refused ORDER BY file, line LIMIT 1")
    why = f"; the first refusal, line {first[0][0]:,}: {first[0][1]}" if first else ""
    message = (
        f"nothing to audit: rows read {padding + excluded + refused:,}, of them refused {refused:,}, "
        f"padding {padding:,}, excluded {excluded:,}{why}"
    )
    raise NothingScanned(message)


def _formats(store: "Store") -> list[FileReading]:
    parsers = {parser.name: parser for parser in all_parsers()}
    carried = {(name, used): counts for name, used, *counts in store.rows(_CARRIED_ROWS)}
    readings = []
    for name, dialect, files, rows, evidence, claimed, sampled, syntax in store.rows(_FORMATS):
        parser = parsers.get(name)
        found = json.loads(syntax)
        rollouts, *counts = carried.get((name, dialect), (0, *([0] * len(_CARRIED))))
        readings.append(
            FileReading(
                format=name,
                producer=parser.producer if parser else name,
                dialect=dialect,
                files=files,
                rows=rows,
                evidence=evidence,
                claimed=claimed,
                sampled=sampled,
                confidence=claimed / sampled if sampled else None,
                dialects=found["rows"],
                dialect_sampled=found["sampled"],
                opened_only=found["opened_only"],
                residues=found["residues"],
                rollouts=rollouts,
                carries=dict(zip(_CARRIED, counts, strict=True)),
                drops_uniform_groups=parser.drops_uniform_groups if parser else None,
            ),
        )
    return readings


_FORMATS = """
SELECT format, dialect, count(*), coalesce(sum(r.rows), 0)::BIGINT, any_value(evidence ORDER BY file),
    sum(claimed)::BIGINT, sum(sampled)::BIGINT, any_value(syntax ORDER BY file)
FROM files LEFT JOIN (SELECT file, count(*) AS rows FROM rollouts GROUP BY file) AS r USING (file)
GROUP BY format, dialect ORDER BY 4 DESC, format
"""
_CARRIED: tuple[Need, ...] = (
    "advantage", "correctness", "data_source", "entropies", "finish_reason", "ground_truth", "group_id", "images",
    "logprobs", "reward", "reward_parts", "step", "token_ids", "tool_calls", "tool_results", "turns",
)  # fmt: skip
_CARRIED_ROWS = """
SELECT f.format, f.dialect, count(*),
    count(advantage), count(correct), count(data_source), count(*) FILTER (entropy_tokens > 0), count(finish_reason),
    count(truth_hash), count(*) FILTER (group_origin = 'logged'), count(image_hash),
    count(*) FILTER (logprob_tokens > 0), count(reward), count(*) FILTER (r.reward_parts > 0), count(r.step),
    count(*) FILTER (has_ids), count(*) FILTER (r.calls > 0), count(*) FILTER (executed_calls > 0),
    count(*) FILTER (turns > 0)
FROM rollouts AS r JOIN files AS f USING (file)
WHERE coalesce(r.status, 'ok') NOT IN ('padding', 'excluded')
GROUP BY f.format, f.dialect
"""


def _advice(formats: list[FileReading]) -> Mapping[Need, str]:
    """What the trainer of the commonest format would have to be told."""
    if not formats:
        return {}
    parser = next((parser for parser in all_parsers() if parser.name == formats[0].format), None)
    return {} if parser is None else {**parser.optional, **parser.lacks}


def _refused(store: "Store") -> list[RefusedRows]:
    """Refused rows by reason; positions inside a line differ from row to row and are no reason of their own."""
    found = store.rows("""
        SELECT regexp_replace(reason, ' at character [0-9]+', ''), count(*), arg_min(f.path, (r.file, r.line)),
            arg_min(r.line, (r.file, r.line)), arg_min(r.excerpt, (r.file, r.line))
        FROM refused AS r JOIN files AS f USING (file)
        GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 20
    """)
    return [
        RefusedRows(reason=reason, rows=rows, file=file, line=line, excerpt=excerpt)
        for reason, rows, file, line, excerpt in found
    ]


def _tokens(store: "Store") -> TokenReading:
    def counts(column: str) -> dict[str, int]:
        query = f"SELECT {column}, count(*) FROM {_KEPT} AND {column} IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"  # noqa: S608
        return dict(store.rows(query))

    ((retokenised,),) = store.rows(f"SELECT count(*) FROM {_KEPT} AND retokenised")  # noqa: S608
    return TokenReading(
        alignment=counts("alignment"),
        logprob_source=counts("logprob_source"),
        scored_by=counts("scored_by"),
        retokenised=retokenised,
    )


_KEPT = "rollouts JOIN outputs USING (id) JOIN attempts AS a ON a.id = attempt WHERE in_scope"


def _groups(context: Context) -> GroupCheck:
    store = context.store
    sizes = store.rows("SELECT n, count(*) FROM all_groups WHERE in_scope GROUP BY n ORDER BY n")
    origins = [origin for (origin,) in store.rows("SELECT DISTINCT origin FROM all_groups WHERE in_scope ORDER BY 1")]
    largest = context.measured["group_size_mode"].value
    return GroupCheck(
        key=", ".join(_KEYS.get(origin, origin) for origin in origins),
        groups=sum(count for _, count in sizes),
        eligible=context.eligible,
        size=None if largest is None else int(largest),
        sizes={str(size): count for size, count in sizes},
        excluded=context.excluded_groups,
    )


_KEYS = {
    "logged": "the trainer's group id",
    "order": "the order of the rows",
    "prompt": "step, prompt and ground truth (fallback)",
    "field": "the field given with --group",
    "none": "none",
}


def _survivorship(context: Context) -> Survivorship:
    """Metrics section 1, rule 9: no uniform group although by accuracy alone some must be expected."""
    uniform = sum(cell.groups for cell in context.cells if cell.c in {0, cell.n})
    rollouts = sum(cell.n * cell.groups for cell in context.cells)
    if not rollouts:
        return Survivorship(biased=False, reason=None, expected_uniform=None, observed_uniform=0)
    p = sum(cell.c * cell.groups for cell in context.cells) / rollouts
    expected = sum((p**cell.n + (1 - p) ** cell.n) * cell.groups for cell in context.cells)
    dropped = rows_without_uniform_groups(context.store)
    biased = dropped > 0 or (uniform == 0 and expected >= UNIFORM_GROUPS_EXPECTED)
    reason = None
    if dropped:
        reason = f"survivor-biased: {dropped:,} rows are of files from which the trainer leaves uniform groups out"
    elif biased:
        reason = (
            f"survivor-biased: none of {context.eligible:,} groups is all wrong or all correct, although at least "
            f"{expected:.1f} must be expected; they were probably dropped before the log was written"
        )
    return Survivorship(biased=biased, reason=reason, expected_uniform=expected, observed_uniform=uniform)


def rows_without_uniform_groups(store: "Store") -> int:
    """How many rows are of files from which the trainer leaves groups without variance out."""
    ((rows,),) = store.rows("SELECT coalesce(sum(rows), 0)::BIGINT FROM notes WHERE note = $note", note=DROPPED)
    return int(rows)


def _options(evidence: Evidence) -> dict[str, Scalar]:
    return {
        "tool_using": "attempted",
        "min_groups": evidence.groups,
        "min_rollouts": evidence.rollouts,
        "min_informative": evidence.informative,
        "min_steps": evidence.steps,
        "min_coverage": evidence.coverage,
    }


_DEAD_GROUPS = """
SELECT g.run, g.step, g.group_id, g.data_source, g.n, g.t, g.c, f.path, r.line
FROM eligible AS g JOIN rollouts AS r ON r.id = g.first_id JOIN files AS f USING (file)
WHERE g.in_scope AND g.t > 0 AND g.a = 0
ORDER BY g.step DESC NULLS LAST, g.c DESC, f.path, r.line
LIMIT $most
"""


def _dead_groups(store: "Store") -> list[TableRow]:
    """Groups whose tool-using rollouts are all wrong, latest step first, with the row of their first rollout."""
    names = ("run", "step", "group", "data_source", "rollouts", "tool_using", "correct", "file", "line")
    return [dict(zip(names, row, strict=True)) for row in store.rows(_DEAD_GROUPS, most=MOST_DEAD_GROUPS)]
