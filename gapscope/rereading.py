"""Rollouts of a store read again from their logs, texts and tokens and all, by where they stand."""

import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace as replace_source

from gapscope.errors import InputError
from gapscope.files import LogFile
from gapscope.outcomes import ErrorMarkers
from gapscope.parsers import parser_named
from gapscope.pieces import Piece, place_of, read_piece
from gapscope.planning import ReadOptions
from gapscope.rollouts import Place, Rollout
from gapscope.sources import find
from gapscope.store.batch import text_hash

if TYPE_CHECKING:
    from gapscope.store.store import Store


_AGAIN = "Read it again; a store does so with `gapscope ingest`."

Spot = tuple[Place, int]
"""A place, and which of the rollouts that stand at it, from 0: a line may hold a whole batch."""


class Was(NamedTuple):
    """What a store knows of a rollout at a spot: its line, and the hash of its text."""

    line: int
    text_hash: int


def options_of(store: "Store", options: ReadOptions) -> ReadOptions:
    """How the files of a store were read into it."""
    return replace(
        options,
        markers=ErrorMarkers.from_json(store.about("error_markers") or "{}"),
        mapping=json.loads(store.about("mapping") or "{}"),
        tokenizer=options.tokenizer or store.about("tokenizer"),
    )


def reread(
    store: "Store", spots: Mapping[str, Mapping[Spot, Was]], options: ReadOptions
) -> Iterator[tuple[Spot, Rollout]]:
    """The rollouts at these spots of the files of a store, with their lines; file by file in the order of the mapping.

    Lines of an uncompressed file are found by their bytes; of any other the whole is read. What a line says about
    itself is the same as at first; what only its neighbours tell, as the number of a group that is known by order,
    is not.

    Raises:
        InputError: a file is gone, or holds no such rollout any more.

    """
    read_as = {path: (name, dialect) for path, name, dialect in store.rows("SELECT path, format, dialect FROM files")}
    options = options_of(store, options)
    for path, wanted in spots.items():
        left = dict(wanted)
        passed = Counter[Place]()
        file = _file(path)
        for piece in _pieces(file, *read_as[path], options, left):
            for record in read_piece(piece):
                if not isinstance(record, Rollout):
                    continue
                spot = record.place, passed[record.place]
                passed[record.place] += 1
                if spot in left:
                    # A stretch of a file that is read by itself has lines of its own.
                    was = left.pop(spot)
                    record.source = replace_source(record.source, line=was.line)
                    if text_hash(record.output) != was.text_hash:
                        message = f"{path} has changed since it was read: line {was.line:,} holds another rollout"
                        raise InputError(message, hint=_AGAIN)
                    yield spot, record
        if left:
            message = (
                f"{path} has changed since it was read: line {min(left.values()).line:,} holds no such rollout any more"
            )
            raise InputError(message, hint=_AGAIN)


def _file(path: str) -> LogFile:
    found = find([path])[0] if os.path.exists(path) else []
    if len(found) != 1:
        message = f"{path} is not there any more, and its texts and tokens cannot be read"
        raise InputError(message, hint="Put it back where it was, or name the log where it is now.")
    return found[0]


def _pieces(
    file: LogFile, parser_name: str, dialect: str, options: ReadOptions, wanted: Collection[Spot]
) -> Iterator[Piece]:
    parser = parser_named(parser_name)
    stretches: list[tuple[int, int | None]] = [(0, None)]
    if file.seekable and not parser.whole_file:
        stretches = [(start, start + 1) for start in sorted({start for (start, _), _ in wanted})]
    for start, stop in stretches:
        yield Piece(
            file=file,
            file_id=0,
            index=0,
            start=start,
            stop=stop,
            at_line=True,
            parser=parser_name,
            dialect=dialect,
            markers=options.markers,
            place=place_of(file, parser),
            keep_texts=True,
            group_field=None,
            mapping=dict(options.mapping),
            tokenizer=options.tokenizer,
        )
