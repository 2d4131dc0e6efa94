"""Files into a store: which to read, with which parser, from where on; in parallel, and twice is once."""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gapscope.errors import InputError, StoreError, UnknownName
from gapscope.files import LogFile
from gapscope.incremental import Work, copies_marked, remember_checksums, unchanged_files, what_is_new
from gapscope.pieces import Piece, place_of, read_piece
from gapscope.planning import Passed, ReadOptions, recognise_files, refuse_all
from gapscope.rollouts import Json, Refused, Rollout
from gapscope.sources import STDIN, Unreadable, find, standard_input_copied
from gapscope.store import is_database
from gapscope.store.batch import GROUPABLE, Batch
from gapscope.tokenizer import load_vocabulary
from gapscope.workers import Answer, Workers, parse_here

if TYPE_CHECKING:
    from gapscope.store.store import Store

PIECE_BYTES = 16 * 2**20
SMALL = 24 * 2**20
"""Bytes below which starting worker processes costs more than it saves."""

MOST_JOBS = 16
"""Beyond this the process that stores cannot keep up with those that parse."""

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) as batches arrive."""


Logs = str | Path | Sequence[str | Path]
"""Files, folders, globs, or `-` for standard input: one of them, or several."""


def paths_of(logs: Logs) -> list[str]:
    """The same as a list of strings."""
    return [str(logs)] if isinstance(logs, (str, Path)) else [str(path) for path in logs]


def ingest(
    logs: Logs,
    options: ReadOptions | None = None,
    *,
    into: Path | str | None = None,
    progress: Progress | None = None,
) -> "Store":
    """Read logs into the store at `into`, made if need be, or into a new one in memory; and return it.

    Files that the store has already read are passed over, grown ones are read on from where they ended,
    changed ones are read again. Either everything is stored or, on an error, nothing.

    Raises:
        InputError: a path does not exist, or no file holds rollouts of a known format.
        StoreError: `into` is no gapscope store, or its rows were grouped by another field.
        TokenizerError: `options.tokenizer` is no tokenizer that can be read.
        UnknownName: `options.trainer` names no parser, or `options.group` no field of the log.

    """
    paths = paths_of(logs)
    with standard_input_copied(paths) as copy:
        return _ingest(find(paths, standard_input=copy), paths, options or ReadOptions(), into, progress)


def _ingest(
    found: tuple[list[LogFile], list[Unreadable]],
    paths: list[str],
    options: ReadOptions,
    into: Path | str | None,
    progress: Progress | None,
) -> "Store":
    files, unreadable = found
    if into is not None:
        # A store can be added to from any folder: its files are known by their full paths.
        files = [file if file.path == STDIN else file._replace(path=os.path.realpath(file.path)) for file in files]
    planned, passed = recognise_files(files, options, explicit={os.path.realpath(path) for path in paths})
    passed += [Passed(item, unreadable=True) for item in unreadable]
    if not planned:
        refuse_all(passed)
    if into is None:
        work = [Work(file, number, detected) for number, (file, detected) in enumerate(planned)]
        with _parsing(copies_marked(work), options, keep_texts=False) as answers:
            # The workers are busy already: loading DuckDB beside them costs no time.
            from gapscope.store.store import Store

            store = Store.in_memory()
            _remember_options(store, options)
            # Without a transaction: there is nothing to go back to, and one would hold every row twice.
            _receive(store, work, passed, answers, progress)
            store.flush()
            _require_group(store, options)
        return store
    from gapscope.store.store import Store

    store = Store.at(into, create=True)
    try:
        with store.transaction():
            _check_options(store, options)
            work = what_is_new(store, planned)
            work = copies_marked(work, earlier=unchanged_files(store, work))
            with _parsing(work, options, keep_texts=True) as answers:
                _receive(store, work, passed, answers, progress)
            _require_group(store, options)
            remember_checksums(store, work)
    except BaseException:
        store.close()
        raise
    return store


def read(logs: Logs, options: ReadOptions | None = None) -> Iterator[Rollout | Refused]:
    """The records of logs, one after another, texts and all, as the parsers make them.

    Raises:
        InputError: a path does not exist or cannot be read, or no file holds rollouts of a known format.
        UnknownName: `options.trainer` names no parser.

    """
    options = options or ReadOptions()
    paths = paths_of(logs)
    with standard_input_copied(paths) as copy:
        files, unreadable = find(paths, standard_input=copy)
        planned, passed = recognise_files(files, options, explicit={os.path.realpath(path) for path in paths})
        # Whoever asks for records could not see otherwise that some are missing.
        missing = [Passed(item, unreadable=True) for item in unreadable] + [item for item in passed if item.unreadable]
        if missing or not planned:
            refuse_all(missing[:1] or passed)
        for number, (file, detected) in enumerate(planned):
            # Not in pieces, which count their lines each from its own beginning.
            (whole,) = _pieces(Work(file, number, detected), options, keep_texts=True, whole=True)
            yield from read_piece(whole)


def open_store(path: Path | str) -> "Store":
    """The store in a file, read-only; `frame(query)` on it gives the rows of any SQL as a Polars frame.

    Raises:
        StoreError: there is none, or it is no gapscope store of this version.

    """
    from gapscope.store.store import Store

    return Store.at(path)


def store_of(
    paths: list[str], options: ReadOptions, *, tokenizer: str | None = None, progress: Progress | None = None
) -> "Store":
    """The store that a single path leads to, read-only, or a new one in memory with what is in the logs.

    A `tokenizer` or a group that was asked for must be the one that a store was made with.

    Raises:
        GapscopeError: as `ingest` and `open_store` do.

    """
    return _stored(paths, options, tokenizer) or ingest(paths, options, progress=progress)


def _stored(paths: list[str], options: ReadOptions, tokenizer: str | None) -> "Store | None":
    """The store that a single path leads to, if it does."""
    if len(paths) != 1:
        return None
    path = Path(paths[0])
    if path.suffix != ".duckdb" and not is_database(path):
        return None
    from gapscope.store.store import Store

    store = Store.at(path)
    if options.group is not None and options.group != store.about("group"):
        before = store.about("group") or "the default key"
        store.close()
        message = f"{path} was grouped by {before} when it was ingested"
        raise StoreError(message, hint=f"Ingest the logs again with --group {options.group}.")
    if tokenizer is not None and load_vocabulary(tokenizer).path != (spelled_by := store.about("tokenizer")):
        store.close()
        message = f"the tokens in {path} were spelled by {spelled_by or 'no tokenizer'} when it was ingested"
        raise StoreError(message, hint=f"Ingest the logs again with --tokenizer {tokenizer}.")
    return store


def _check_options(store: "Store", options: ReadOptions) -> None:
    """Groups and outcomes of calls were made when a store's rows were read: they cannot be made anew later."""
    (rows,) = store.rows("SELECT count(*) FROM files")[0]
    before = store.about("group")
    if rows and before != options.group:
        message = f"the store was grouped by {before or 'the default key'}, not by {options.group or 'the default key'}"
        raise StoreError(message, hint="Ingest the logs into a new file, or leave --group as it was.")
    if rows and store.about("error_markers") != options.markers.to_json():
        message = "the calls in the store were judged by other error markers than the settings have now"
        raise StoreError(message, hint="Ingest the logs into a new file, or leave [error_markers] as they were.")
    if rows and json.loads(store.about("mapping") or "{}") != options.mapping:
        message = "the rows in the store were read by another mapping"
        raise StoreError(message, hint="Ingest the logs into a new file, or leave --map as it was.")
    if rows and (before := store.about("tokenizer")) != _tokenizer(options):
        message = f"the tokens in the store were spelled by {before or 'no tokenizer'}"
        raise StoreError(message, hint="Ingest the logs into a new file, or leave --tokenizer as it was.")
    _remember_options(store, options)


def _tokenizer(options: ReadOptions) -> str | None:
    return None if options.tokenizer is None else load_vocabulary(options.tokenizer).path


def _remember_options(store: "Store", options: ReadOptions) -> None:
    store.set_about("error_markers", options.markers.to_json())
    store.set_about("mapping", json.dumps(dict(options.mapping)))
    if options.group is not None:
        store.set_about("group", options.group)
    if (tokenizer := _tokenizer(options)) is not None:
        store.set_about("tokenizer", tokenizer)


def _require_group(store: "Store", options: ReadOptions) -> None:
    """The field to group by must be in the log, if only in some rows."""
    store.flush()
    if options.group is None or not store.rows("SELECT 1 FROM rollouts LIMIT 1"):
        return
    if not store.rows("SELECT 1 FROM rollouts WHERE group_origin = 'field' LIMIT 1"):
        names = store.rows("SELECT name FROM fields UNION SELECT name FROM other_fields")
        known = {*GROUPABLE, *(name for (name,) in names)}
        raise UnknownName("field", options.group, known)


@contextmanager
def _parsing(work: list[Work], options: ReadOptions, *, keep_texts: bool) -> Iterator[Iterator[Answer]]:
    pieces = (piece for item in work for piece in _pieces(item, options, keep_texts=keep_texts))
    jobs = _jobs(work, options.jobs)
    if jobs == 1:
        yield parse_here(pieces)
        return
    with Workers(pieces, jobs) as workers:
        yield iter(workers)


def _jobs(work: list[Work], wanted: int | None) -> int:
    size = sum(item.file.size - item.start for item in work)
    if wanted is not None:
        return wanted
    if size < SMALL:
        return 1
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, MOST_JOBS)


def _pieces(item: Work, options: ReadOptions, *, keep_texts: bool, whole: bool = False) -> Iterator[Piece]:
    """The pieces that a file is read in, or the `whole` of it as one."""
    parser = item.detected.parser
    place = place_of(item.file, parser)

    def piece(index: int, start: int, stop: int | None) -> Piece:
        return Piece(
            file=item.file,
            file_id=item.file_id,
            index=index,
            start=start,
            stop=stop,
            at_line=index == 0,
            parser=parser.name,
            dialect=item.detected.syntax.dialect.name,
            markers=options.markers,
            place=place,
            keep_texts=keep_texts,
            group_field=parser.own_names.get(options.group, options.group) if options.group else None,
            mapping=dict(options.mapping),
            tokenizer=options.tokenizer,
            keep_tokens=options.tokens if keep_texts else "none",
        )

    if item.file.seekable and not (parser.whole_file or whole):
        for index, start in enumerate(range(item.start, item.file.size, PIECE_BYTES)):
            yield piece(index, start, min(start + PIECE_BYTES, item.file.size))
    else:
        yield piece(0, item.start, None)


def _receive(
    store: "Store",
    work: list[Work],
    passed: list[Passed],
    answers: Iterable[Answer],
    progress: Progress | None,
) -> None:
    """Store batches as they come; those of one file in the order of its pieces, so that lines can be counted."""
    store.execute("DELETE FROM passed_over")
    for item in passed:
        _pass_over(store, item.file, unreadable=item.unreadable)
    files = {item.file_id: _Arriving(item) for item in work}
    total = sum(item.file.size - item.start for item in work)
    done = 0
    for piece, batch, last in answers:
        arriving = files[piece.file_id]
        for ready in arriving.in_order(piece.index, batch, last=last):
            if isinstance(ready, Batch):
                store.add(piece.file_id, ready, first_line=arriving.lines_before)
            else:
                _pass_over(store, Unreadable(piece.file.path, ready.message), unreadable=True)
        if last and progress:
            done += (piece.stop or piece.file.size) - piece.start
            progress(min(done, total), total)
    store.add_files([_file_row(arrived) for arrived in files.values()])


class _Arriving:
    """The batches of one file on their way in."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.lines = self.lines_before = work.lines
        self.whole_until = work.start
        self._next = 0
        self._waiting: dict[int, list[tuple[Batch | InputError, bool]]] = defaultdict(list)

    def in_order(self, index: int, batch: Batch | InputError, *, last: bool) -> Iterator[Batch | InputError]:
        """The batches that can be stored now; `lines_before` is right while each of them is yielded."""
        self._waiting[index].append((batch, last))
        while self._next in self._waiting:
            arrived = self._waiting.pop(self._next)
            for ready, _ in arrived:
                if isinstance(ready, Batch):
                    self.lines += ready.lines
                    self.whole_until = max(self.whole_until, ready.end or 0)
                yield ready
            if not arrived[-1][1]:
                return
            self._next += 1
            self.lines_before = self.lines


def _file_row(arrived: _Arriving) -> tuple[Json, ...]:
    """What is remembered of a file, in the order of FILE_COLUMNS."""
    file, detected = arrived.work.file, arrived.work.detected
    syntax = json.dumps(detected.syntax._asdict() | {"dialect": detected.syntax.dialect.name})
    return (
        arrived.work.file_id, file.path, file.size, file.mtime_ns, detected.parser.name, detected.syntax.dialect.name,
        file.step, detected.evidence, detected.claimed, detected.sampled, syntax, arrived.whole_until, arrived.lines,
        arrived.work.copy_of,
    )  # fmt: skip


def _pass_over(store: "Store", file: Unreadable, *, unreadable: bool) -> None:
    store.execute(
        "INSERT INTO passed_over VALUES ($path, $reason, $unreadable)",
        path=file.path,
        reason=file.reason,
        unreadable=unreadable,
    )
