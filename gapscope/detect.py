"""Which format and which dialect a log is written in, judged by its first rows and never by its name."""

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from gapscope.alignment import Aligner
from gapscope.containers import HEAD_ROWS, head, mostly_other, rows_of
from gapscope.dialects import DIALECTS, dialect_named
from gapscope.errors import InputError, UnknownName
from gapscope.files import LogFile, damaged, opened
from gapscope.parsers import Parser, all_parsers, mapped
from gapscope.rollouts import Json, Rollout
from gapscope.rows import Reading, Row
from gapscope.syntax import Recognised, recognise
from gapscope.tokenizer import Vocabulary

DIALECT_ROWS = 200
"""Rows of a run in which its dialects are looked for."""

_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class Detected(NamedTuple):
    """The verdict on one file: `claimed` of `sampled` first rows are of the format.

    `syntax` is the dialects of the whole run that the file belongs to.
    """

    parser: Parser
    claimed: int
    sampled: int
    evidence: str
    syntax: Recognised = Recognised(DIALECTS[0], {}, 0, {}, {})


def detect(file: LogFile, *, trainer: str | None = None, mapping: Mapping[str, str] | None = None) -> Detected | str:
    """The format of a file, or the reason why it is none that gapscope reads.

    `trainer` names a parser, which is then taken whatever the rows look like, or a trainer, among whose
    parsers the rows decide. With a `mapping`, rows in which it finds a response are read by it.

    Raises:
        UnknownName: `trainer` names neither.

    """
    candidates = _candidates(trainer)
    try:
        rows = [row.value for row in head(file)]
    except InputError as error:
        return error.message.removeprefix(file.path).lstrip(": ")
    if mapping and trainer is None and file.container in mapped.PARSER.containers:
        claimed = sum(mapped.fits(row, mapping) for row in rows)
        if claimed:
            return Detected(mapped.PARSER, claimed, len(rows), f"{claimed} of the first {len(rows)} rows; the mapping")
    votes: Counter[str] = Counter()
    for row in rows:
        for parser in candidates:
            if file.container in parser.containers and parser.claims(row):
                votes[parser.name] += 1
    if votes and trainer is None and len(rows) < HEAD_ROWS and (reason := mostly_other(file)):
        return reason
    if votes:
        ((name, claimed),) = votes.most_common(1)
        parser = next(parser for parser in candidates if parser.name == name)
        keys = ", ".join(f"`{key}`" for key in sorted(rows[0])[:8])
        evidence = f"{claimed} of the first {len(rows)} rows; keys such as {keys}"
    elif len(candidates) == 1 and file.container in candidates[0].containers:
        parser, claimed, evidence = candidates[0], 0, f"--trainer {trainer}"
    else:
        return _reason(file, rows, candidates, mapping or {})
    return Detected(parser, claimed, len(rows), evidence)


def _candidates(trainer: str | None) -> tuple[Parser, ...]:
    parsers = all_parsers()
    if trainer is None:
        return parsers
    wanted = trainer.lower()
    named = tuple(p for p in parsers if p.name == wanted) or tuple(p for p in parsers if p.trainer.lower() == wanted)
    if not named:
        raise UnknownName("trainer", trainer, {p.name for p in parsers} | {p.trainer.lower() for p in parsers})
    return named


def dialects_in(
    files: Sequence[LogFile],
    parser: Parser,
    mapping: Mapping[str, str] | None = None,
    vocabulary: Vocabulary | None = None,
) -> Recognised:
    """The dialects in the first rows of a run, whose files are given in order.

    Rows that were logged as tokens alone are spelled out by the `vocabulary`.
    """
    if parser.dialect is not None:
        return Recognised(dialect_named(parser.dialect), {}, 0, {}, {})
    outputs: list[str] = []
    for file in files:
        outputs += _outputs(file, parser, DIALECT_ROWS - len(outputs), mapping or {}, vocabulary)
        if len(outputs) >= DIALECT_ROWS:
            break
    return recognise(outputs)


def _outputs(
    file: LogFile, parser: Parser, most: int, mapping: Mapping[str, str], vocabulary: Vocabulary | None
) -> Iterator[str]:
    """What the policy and its environment wrote, of the first rows."""
    rows = (item for item in rows_of(file, limit=DIALECT_ROWS, query=parser.query) if isinstance(item, Row))
    reading = Reading(file.path, DIALECTS[0], mapping=mapping)
    aligner = Aligner(reading.dialect, reading.markers, vocabulary)
    try:
        # One after another: a row may be megabytes.
        for record in parser.parse(islice(rows, most), reading):
            if isinstance(record, Rollout):
                if not record.output:
                    aligner.align(record)
                yield record.output if record.output_origin == "logged" else _content(record)
    except InputError:
        # Why will be said when it is read.
        return


def _content(rollout: Rollout) -> str:
    """The text of the messages of a rollout, without the calls that were structured and so of no dialect."""
    texts = (rollout.output[span.start : span.end] for span in rollout.spans)
    return "".join(text for text in texts if not text.startswith('{"'))


def _reason(
    file: LogFile, rows: Sequence[dict[str, Json]], candidates: Sequence[Parser], mapping: Mapping[str, str]
) -> str:
    if rows and mapping:
        path = mapping.get("response") or mapping.get("messages")
        keys = ", ".join(sorted(rows[0])[:12])
        return f"no rollouts by the mapping: no row has a text or messages at `{path}`; its rows have the keys {keys}"
    if rows:
        keys = ", ".join(sorted(rows[0])[:12])
        known = "a known format" if len(candidates) == len(all_parsers()) else " or ".join(p.name for p in candidates)
        return f"no rollouts of {known}; its rows have the keys {keys}"
    if file.container != "jsonl":
        return f"a {file.container} file without rows"
    try:
        with opened(file) as stream:
            start = stream.read(256).lstrip()
    except (OSError, EOFError, zlib.error) as error:
        return damaged(file, error)
    if start.startswith(_UTF16_MARKS):
        return "UTF-16 text, and rollout logs are UTF-8; convert it with `iconv -f UTF-16 -t UTF-8`"
    if b"\0" in start:
        return "binary data, no rollout log"
    return "no line of it is a JSON object"
