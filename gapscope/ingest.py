"""Files into a store: which to read, with which parser, from where on; in parallel, and twice is once."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from gapscope.detect import Detected, detect
from gapscope.errors import InputError, NothingScanned, StoreError, UnknownName
from gapscope.outcomes import ErrorMarkers
from gapscope.pieces import Piece, read_piece
from gapscope.rollouts import Refused, Rollout
from gapscope.sources import STDIN, LogFile, Unreadable, find, standard_input_copied
from gapscope.store.batch import GROUPABLE, Batch
from gapscope.workers import Answer, Workers, parse_here

if TYPE_CHECKING:
    from gapscope.store.store import Store

PIECE_BYTES = 16 * 2**20
SMALL = 24 * 2**20
"""Bytes below which starting worker processes costs more than it saves."""

MOST_JOBS = 16
"""Beyond this the process that stores cannot keep up with those that parse."""

_CHECKED_BYTES = 64 * 2**10

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) as batches arrive."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How logs are read; `jobs` None means as many processes as there are CPUs to use."""

    trainer: str | None = None
    group: str | None = None
    markers: ErrorMarkers = field(default_factory=ErrorMarkers)
    jobs: int | None = None


class _Work(NamedTuple):
    """One file to read from byte `start` on, before which `lines` lines were read in an earlier ingest."""

    file: LogFile
    file_id: int
    detected: Detected
    start: int = 0
    lines: int = 0
    copy_of: str | None = None


def ingest(
    paths: list[str],
    options: ReadOptions,
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
        UnknownName: `options.trainer` names no parser, or `options.group` no field of the log.

    """
    with standard_input_copied(paths) as copy:
        return _ingest(find(paths, standard_input=copy), paths, options, into, progress)


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
    planned, passed = _recognise(files, options, explicit={os.path.realpath(path) for path in paths})
    passed += [_Passed(item, unreadable=True) for item in unreadable]
    if not planned:
        _refuse_all(passed)
    if into is None:
        work = [_Work(file, number, detected) for number, (file, detected) in enumerate(planned)]
        with _parsing(_copies_marked(work), options, keep_texts=False) as answers:
            # The workers are busy already: loading DuckDB beside them costs no time.
            from gapscope.store.store import Store

            store = Store.in_memory()
            with store.transaction():
                _receive(store, work, passed, answers, progress)
                _require_group(store, options)
        return store
    from gapscope.store.store import Store

    store = Store.at(into, create=True)
    try:
        with store.transaction():
            _check_options(store, options)
            work = _what_is_new(store, planned)
            work = _copies_marked(work, earlier=_unchanged(store, work))
            with _parsing(work, options, keep_texts=True) as answers:
                _receive(store, work, passed, answers, progress)
            _require_group(store, options)
            _remember_checksums(store, work)
    except BaseException:
        store.close()
        raise
    return store


def read(paths: list[str], options: ReadOptions | None = None) -> Iterator[Rollout | Refused]:
    """The records of logs, one after another, texts and all, as the parsers make them.

    Raises:
        InputError: a path does not exist, or no file holds rollouts of a known format.
        UnknownName: `options.trainer` names no parser.

    """
    options = options or ReadOptions()
    files, _ = find(paths)
    planned, passed = _recognise(files, options, explicit={os.path.realpath(path) for path in paths})
    if not planned:
        _refuse_all(passed)
    for number, (file, detected) in enumerate(planned):
        for piece in _pieces(_Work(file, number, detected), options, keep_texts=True):
            yield from read_piece(piece)


def open_store(path: Path | str) -> "Store":
    """The store in a file, read-only; `frame(query)` on it gives the rows of any SQL as a Polars frame.

    Raises:
        StoreError: there is none, or it is no gapscope store of this version.

    """
    from gapscope.store.store import Store

    return Store.at(path)


class _Passed(NamedTuple):
    file: Unreadable
    unreadable: bool


def _recognise(
    files: list[LogFile],
    options: ReadOptions,
    explicit: set[str],
) -> tuple[list[tuple[LogFile, Detected]], list[_Passed]]:
    """Files of a known format, and the others; one that was named itself and is none counts as unreadable."""
    planned, passed = [], []
    for file in files:
        detected = detect(file, trainer=options.trainer) if file.size else "an empty file"
        if isinstance(detected, Detected):
            planned.append((file, detected))
        else:
            named = os.path.realpath(file.path) in explicit and file.size > 0
            passed.append(_Passed(Unreadable(file.path, detected), unreadable=named))
    return planned, passed


def _refuse_all(passed: list[_Passed]) -> NoReturn:
    first = passed[0].file
    if len(passed) == 1:
        message = f"{first.path} cannot be audited: {first.reason}"
    else:
        message = f"none of {len(passed):,} files can be audited; {first.path}: {first.reason}"
    error = NothingScanned if all(item.file.reason == "an empty file" for item in passed) else InputError
    raise error(message, hint="`gapscope formats` lists what can be read; --trainer NAME skips the detection.")


def _what_is_new(store: "Store", planned: list[tuple[LogFile, Detected]]) -> list[_Work]:
    known = {row[0]: row[1:] for row in store.rows(_KNOWN_FILES)}
    (next_id,) = store.rows("SELECT coalesce(max(file), -1) + 1 FROM files")[0]
    work = []
    for file, detected in planned:
        if file.path not in known:
            work.append(_Work(file, next_id, detected))
            next_id += 1
            continue
        file_id, size, mtime_ns, whole_until, lines, checksum, torn_row_kept = known[file.path]
        if (file.size, file.mtime_ns) == (size, mtime_ns):
            continue
        same_start = checksum == _checksum(file, whole_until)
        if file.path == STDIN:
            # Another stream under the same name; the same one again has the same size and checksum.
            if not same_start or file.size != size:
                work.append(_Work(file, next_id, detected))
                next_id += 1
            continue
        grown = file.seekable and file.size > size and same_start and not torn_row_kept
        start = whole_until if grown else 0
        store.forget(file_id, since=start)
        work.append(_Work(file, file_id, detected, start, lines if grown else 0))
    return work


# A last line without its newline can still be a whole row, and what was noted about it cannot be taken back.
_KNOWN_FILES = """
SELECT path, file, size, mtime_ns, whole_until, lines, checksum, EXISTS (
    SELECT 1 FROM rollouts AS r WHERE r.file = f.file AND r.byte_offset >= f.whole_until
)
FROM files AS f ORDER BY file
"""


def _checksum(file: LogFile, until: int) -> str:
    """Over the first and the last 64 kB before a byte, or of the whole where bytes are not those of the lines."""
    until = until if file.seekable else file.size
    digest = hashlib.sha1(usedforsecurity=False)
    with open(file.location, "rb") as stream:
        digest.update(stream.read(min(until, _CHECKED_BYTES)))
        stream.seek(max(0, until - _CHECKED_BYTES))
        digest.update(stream.read(min(until, _CHECKED_BYTES)))
    return digest.hexdigest()


def _unchanged(store: "Store", work: list[_Work]) -> list[str]:
    """Files read before that are still what they were; the first copy of one that is not takes its place."""
    changed = {item.file.path for item in work}
    unchanged = []
    heirs: dict[str, str] = {}
    for path, size, mtime_ns, copy_of in store.rows("SELECT path, size, mtime_ns, copy_of FROM files ORDER BY file"):
        if path not in changed and copy_of in changed:
            store.execute("UPDATE files SET copy_of = $heir WHERE path = $path", path=path, heir=heirs.get(copy_of))
            heirs.setdefault(copy_of, path)
        if path in changed or path == STDIN or not os.path.isfile(path):
            continue
        status = os.stat(path)
        if (status.st_size, status.st_mtime_ns) == (size, mtime_ns):
            unchanged.append(path)
    return unchanged


def _remember_checksums(store: "Store", work: list[_Work]) -> None:
    for item in work:
        ((until,),) = store.rows("SELECT whole_until FROM files WHERE file = $file", file=item.file_id)
        checksum = _checksum(item.file, until or 0)
        store.execute("UPDATE files SET checksum = $sum WHERE file = $file", file=item.file_id, sum=checksum)


def _copies_marked(work: list[_Work], earlier: Sequence[str] = ()) -> list[_Work]:
    """Files with the bytes of an earlier one: only files of the same size are compared."""
    by_size: dict[int, list[tuple[str, str, int | None]]] = defaultdict(list)
    for path in earlier:
        by_size[os.path.getsize(path)].append((path, path, None))
    for index, item in enumerate(work):
        if item.file.size > 0 and item.start == 0:
            by_size[item.file.size].append((item.file.path, item.file.location, index))
    for candidates in by_size.values():
        if len(candidates) == 1:
            continue
        first: dict[bytes, str] = {}
        for path, location, number in candidates:
            with open(location, "rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").digest()
            if number is not None and digest in first:
                work[number] = work[number]._replace(copy_of=first[digest])
            first.setdefault(digest, path)
    return work


def _check_options(store: "Store", options: ReadOptions) -> None:
    """A store's groups were made when its rows were read: they cannot be made from another field later."""
    (rows,) = store.rows("SELECT count(*) FROM files")[0]
    before = store.about("group")
    if rows and before != options.group:
        message = f"the store was grouped by {before or 'the default key'}, not by {options.group or 'the default key'}"
        raise StoreError(message, hint="Ingest the logs into a new file, or leave --group as it was.")
    if options.group is not None:
        store.set_about("group", options.group)


def _require_group(store: "Store", options: ReadOptions) -> None:
    """The field to group by must be in the log, if only in some rows."""
    store.flush()
    if options.group is None or not store.rows("SELECT 1 FROM rollouts LIMIT 1"):
        return
    if not store.rows("SELECT 1 FROM rollouts WHERE group_origin = 'field' LIMIT 1"):
        names = store.rows("SELECT name FROM fields UNION SELECT name FROM other_fields")
        raise UnknownName("field to group by", options.group, {*GROUPABLE, *(name for (name,) in names)})


@contextmanager
def _parsing(work: list[_Work], options: ReadOptions, *, keep_texts: bool) -> Iterator[Iterator[Answer]]:
    pieces = (piece for item in work for piece in _pieces(item, options, keep_texts=keep_texts))
    jobs = _jobs(work, options.jobs)
    if jobs == 1:
        yield parse_here(pieces)
        return
    with Workers(pieces, jobs) as workers:
        yield iter(workers)


def _jobs(work: list[_Work], wanted: int | None) -> int:
    size = sum(item.file.size - item.start for item in work)
    if wanted is not None:
        return wanted
    if size < SMALL:
        return 1
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, MOST_JOBS)


def _pieces(item: _Work, options: ReadOptions, *, keep_texts: bool) -> Iterator[Piece]:
    def piece(index: int, start: int, stop: int | None) -> Piece:
        return Piece(
            file=item.file,
            file_id=item.file_id,
            index=index,
            start=start,
            stop=stop,
            at_line=index == 0,
            parser=item.detected.parser.name,
            dialect=item.detected.dialect.name,
            markers=options.markers,
            # Files of one folder are one run, whatever they are called.
            run=None if item.file.path == STDIN else os.path.normpath(os.path.dirname(item.file.path) or "."),
            keep_texts=keep_texts,
            group_field=item.detected.parser.own_names.get(options.group, options.group) if options.group else None,
        )

    if item.file.seekable and not item.detected.parser.whole_file:
        for index, start in enumerate(range(item.start, item.file.size, PIECE_BYTES)):
            yield piece(index, start, min(start + PIECE_BYTES, item.file.size))
    else:
        yield piece(0, item.start, None)


def _receive(
    store: "Store",
    work: list[_Work],
    passed: list[_Passed],
    answers: Iterable[Answer],
    progress: Progress | None,
) -> None:
    """Store batches as they come; those of one file in the order of its pieces, so that lines can be counted."""
    store.execute("DELETE FROM passed_over")
    for item in passed:
        _pass_over(store, item.file, unreadable=item.unreadable)
    files = {item.file_id: _Arriving(item) for item in work}
    for arriving in files.values():
        _add_file(store, arriving.work)
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
    for arriving in files.values():
        store.execute(
            "UPDATE files SET whole_until = $until, lines = $lines WHERE file = $file",
            until=arriving.whole_until,
            lines=arriving.lines,
            file=arriving.work.file_id,
        )


class _Arriving:
    """The batches of one file on their way in."""

    def __init__(self, work: _Work) -> None:
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


def _add_file(store: "Store", item: _Work) -> None:
    file, detected = item.file, item.detected
    store.execute("DELETE FROM files WHERE file = $file", file=item.file_id)
    store.execute(
        """INSERT INTO files VALUES ($file, $path, $size, $mtime_ns, $format, $dialect, $step, $evidence,
            $claimed, $sampled, $whole_until, $lines, NULL, $copy_of)""",
        file=item.file_id,
        path=file.path,
        size=file.size,
        mtime_ns=file.mtime_ns,
        format=detected.parser.name,
        dialect=detected.dialect.name,
        step=file.step,
        evidence=detected.evidence,
        claimed=detected.claimed,
        sampled=detected.sampled,
        whole_until=item.start,
        lines=item.lines,
        copy_of=item.copy_of,
    )


def _pass_over(store: "Store", file: Unreadable, *, unreadable: bool) -> None:
    store.execute(
        "INSERT INTO passed_over VALUES ($path, $reason, $unreadable)",
        path=file.path,
        reason=file.reason,
        unreadable=unreadable,
    )
