"""The unit of parallel work: a stretch of one log file, parsed into batches.

This module and all that it imports stay light (msgspec and the standard library), because every worker
process imports them before it can begin.
"""

import os
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, NamedTuple

import msgspec

from gapscope.alignment import Aligner
from gapscope.beside import Beside
from gapscope.containers import rows_of
from gapscope.dialects import dialect_named
from gapscope.errors import InputError
from gapscope.files import LogFile, damaged, opened
from gapscope.json_rows import RowReader, skip_line
from gapscope.outcomes import ErrorMarkers
from gapscope.parsers import Parser, parser_named
from gapscope.rollouts import Refused, Rollout, Split, refuse
from gapscope.rows import Reading, Row
from gapscope.sources import LONGEST_STEP, STDIN
from gapscope.store.batch import Batch, BatchBuilder
from gapscope.store.token_rows import Keep
from gapscope.tokenizer import load_vocabulary


class Place(NamedTuple):
    """What the path of a file says about its rows."""

    run: str | None
    step: int | None
    split: Split | None


def place_of(file: LogFile, parser: Parser) -> Place:
    """Run, step and split by the layout of the trainer's folders; without one, the files of a folder are a run."""
    if file.path == STDIN:
        return Place(None, None, None)
    path = os.path.normpath(file.path)
    match = parser.layout.search(path.replace(os.sep, "/")) if parser.layout else None
    if match is None:
        return Place(os.path.dirname(path) or ".", file.step, None)
    named = match.groupdict()
    step, split = named.get("step"), named.get("split")
    return Place(
        os.path.normpath(path[: match.start()] or "."),
        int(step) if step and len(step) < LONGEST_STEP else file.step,
        None if split is None else "train" if split == "train" else "validation",
    )


class Piece(msgspec.Struct, frozen=True):
    """Lines of one file that begin in [start, stop).

    `at_line` is set where `start` is the beginning of a line; elsewhere the line that `start` falls into
    belongs to the piece before.
    """

    file: LogFile
    file_id: int
    index: int
    start: int
    stop: int | None
    at_line: bool
    parser: str
    dialect: str
    markers: ErrorMarkers
    place: Place
    keep_texts: bool
    group_field: str | None
    mapping: dict[str, str] = {}
    tokenizer: str | None = None
    keep_tokens: Keep = "none"


def parse_piece(piece: Piece) -> Iterator[Batch]:
    """Batches of one piece, at least one.

    Raises:
        InputError: the file as a whole cannot be read.

    """
    builder = BatchBuilder(
        _aligner(piece),
        keep_texts=piece.keep_texts,
        keep_tokens=piece.keep_tokens,
        group_field=piece.group_field,
    )
    reader = _Records(piece)
    lines = 0
    for record in reader:
        builder.add(record)
        if builder.full:
            yield builder.finish(lines=reader.whole_lines - lines, end=reader.whole_until)
            lines = reader.whole_lines
    yield builder.finish(lines=reader.whole_lines - lines, end=reader.whole_until)


def read_piece(piece: Piece) -> Iterator[Rollout | Refused]:
    """The records of one piece, with the tokens of spans and calls where they can be told.

    Raises:
        InputError: the file as a whole cannot be read.

    """
    aligner = _aligner(piece)
    for record in _Records(piece):
        if isinstance(record, Rollout):
            aligner.align(record)
        yield record


def _aligner(piece: Piece) -> Aligner:
    vocabulary = None if piece.tokenizer is None else load_vocabulary(piece.tokenizer)
    return Aligner(dialect_named(piece.dialect), piece.markers, vocabulary)


class _Records:
    """Iterates over the records of a piece, and knows how far it has come."""

    def __init__(self, piece: Piece) -> None:
        self.piece = piece
        self.whole_lines = 0
        self.whole_until = piece.start
        self._refused: list[Refused] = []

    def __iter__(self) -> Iterator[Rollout | Refused]:
        piece = self.piece
        parser = parser_named(piece.parser)
        beside = Beside(piece.file)
        reading = Reading(
            piece.file.path,
            dialect_named(piece.dialect),
            piece.markers,
            piece.place.run,
            piece.place.step,
            piece.place.split,
            beside,
            piece.mapping,
        )
        if piece.file.container != "jsonl":
            rows = rows_of(piece.file, query=parser.query)
            yield from parser.parse(self._readable(rows), reading)
            yield from self._refused + beside.refused
            return
        with opened(piece.file) as stream:
            reader = RowReader(stream, offset=_begin(piece, stream), stop=piece.stop)
            try:
                for record in parser.parse(self._readable(reader), reading):
                    self.whole_lines, self.whole_until = reader.whole_lines, reader.whole_until
                    yield record
            except (EOFError, OSError, zlib.error) as error:
                self._refused.append(refuse(reader.lines + 1, reader.offset, damaged(piece.file, error)))
            self.whole_lines, self.whole_until = reader.whole_lines, reader.whole_until
            yield from self._refused + beside.refused

    def _readable(self, items: Iterable[Row | Refused]) -> Iterator[Row]:
        """Rows for the parser; what could not be decoded goes past it, and a file that breaks off ends there."""
        last = None
        try:
            for item in items:
                if isinstance(item, Row):
                    last = item
                    yield item
                else:
                    self._refused.append(item)
        except InputError as error:
            if last is None:
                raise
            reason = error.message.removeprefix(self.piece.file.path).lstrip(": ")
            self._refused.append(refuse(last.line + 1, None, f"the rest of the file: {reason}"))


def _begin(piece: Piece, stream: IO[bytes]) -> int:
    """Stand at the first line that begins in the piece; its offset."""
    if piece.start == 0:
        return 0
    if piece.at_line:
        stream.seek(piece.start)
        return piece.start
    stream.seek(piece.start - 1)
    return piece.start - 1 + skip_line(stream)
