"""The unit of parallel work: a stretch of one log file, parsed into batches.

This module and all that it imports stay light (msgspec and the standard library), because every worker
process imports them before it can begin.
"""

import zlib
from collections.abc import Iterator
from typing import IO

import msgspec

from gapscope.dialects import dialect_named
from gapscope.outcomes import ErrorMarkers
from gapscope.parsers import Reading, Row, parser_named
from gapscope.rollouts import Refused, Rollout, refuse
from gapscope.sources import LogFile, RowReader, damaged, opened, parquet_rows, skip_line
from gapscope.store.batch import Batch, BatchBuilder

BATCH_ROWS = 8192
"""Rows after which a batch is handed on, so that memory does not grow with the length of a file."""


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
    run: str | None
    keep_texts: bool
    group_field: str | None


def parse_piece(piece: Piece) -> Iterator[Batch]:
    """Batches of one piece, at least one.

    Raises:
        InputError: the file as a whole cannot be read.

    """
    builder = BatchBuilder(keep_texts=piece.keep_texts, group_field=piece.group_field)
    reader = _Records(piece)
    lines = 0
    for record in reader:
        builder.add(record)
        if len(builder.rollouts) >= BATCH_ROWS:
            yield builder.finish(lines=reader.whole_lines - lines, end=reader.whole_until)
            lines = reader.whole_lines
    yield builder.finish(lines=reader.whole_lines - lines, end=reader.whole_until)


def read_piece(piece: Piece) -> Iterator[Rollout | Refused]:
    """The records of one piece.

    Raises:
        InputError: the file as a whole cannot be read.

    """
    return iter(_Records(piece))


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
        reading = Reading(piece.file.path, dialect_named(piece.dialect), piece.markers, piece.run, piece.file.step)
        if parser.container == "parquet":
            yield from parser.parse(parquet_rows(piece.file), reading)
            return
        with opened(piece.file) as stream:
            reader = RowReader(stream, offset=_begin(piece, stream), stop=piece.stop)
            try:
                for record in parser.parse(self._rows(reader), reading):
                    self.whole_lines, self.whole_until = reader.whole_lines, reader.whole_until
                    yield record
            except (EOFError, OSError, zlib.error) as error:
                self._refused.append(refuse(reader.lines + 1, reader.offset, damaged(piece.file, error)))
            self.whole_lines, self.whole_until = reader.whole_lines, reader.whole_until
            yield from self._refused

    def _rows(self, reader: RowReader) -> Iterator[Row]:
        """Rows for the parser; what could not be decoded goes past it."""
        for item in reader:
            if isinstance(item, Row):
                yield item
            else:
                self._refused.append(item)


def _begin(piece: Piece, stream: IO[bytes]) -> int:
    """Stand at the first line that begins in the piece; its offset."""
    if piece.start == 0:
        return 0
    if piece.at_line:
        stream.seek(piece.start)
        return piece.start
    stream.seek(piece.start - 1)
    return piece.start - 1 + skip_line(stream)
