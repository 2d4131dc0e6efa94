r"""Log files: finding them, opening them whatever their compression, and cutting them into decoded rows.

Lines are cut at `\\n` only (JSON strings may hold U+2028 and its kin), decoded with msgspec, and tried once
more with the standard library when that refuses: `NaN`, lone surrogates and bytes that are not UTF-8 are
read and noted, anything else is a `Refused`.
"""

import glob
import gzip
import io
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import msgspec

from gapscope.errors import InputError
from gapscope.parsers.base import Container, Row
from gapscope.rollouts import Json, Refused, refuse

Compression = Literal["none", "gzip", "zstd"]
STDIN = "-"

LONGEST_LINE = 128 * 2**20
"""Bytes. A line beyond this is refused, so that a file without newlines cannot fill the memory."""

READ_BUFFER = 2**20
_STEP_OF_DECOMPRESSION = 2**16
HEAD_ROWS = 8
_HEAD_LINES = 200
_MAGIC: dict[bytes, Compression] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_PARQUET_MAGIC = b"PAR1"
_STEP_IN_NAME = re.compile(r"(?:.*_)?(\d+)")


class LogFile(NamedTuple):
    """One file to read: its name for people, where its bytes are, and the step that its name ends with."""

    path: str
    location: str
    size: int
    mtime_ns: int
    compression: Compression
    container: Container
    step: int | None

    @property
    def seekable(self) -> bool:
        """Whether it can be cut into pieces that are read in parallel."""
        return self.compression == "none" and self.container == "jsonl"


class Unreadable(NamedTuple):
    """A file that was passed over, with the reason."""

    path: str
    reason: str


def find(paths: list[str], *, standard_input: str | None = None) -> tuple[list[LogFile], list[Unreadable]]:
    """The files behind paths, folders (searched to the bottom), globs and `-`, each once, in natural order.

    `standard_input` is where the bytes for `-` are.

    Raises:
        InputError: a path does not exist, a folder or a glob holds no file, or nothing was given.

    """
    if not paths:
        message = "no log was given"
        raise InputError(message, hint="Give files, folders, globs, or `-` for standard input.")
    found: dict[str, str] = {}
    for path in paths:
        for file in _expand(path):
            found.setdefault(file if file == STDIN else os.path.realpath(file), file)
    files, unreadable = [], []
    for file in found.values():
        location = standard_input if file == STDIN and standard_input else file
        try:
            # Opening a pipe would wait for its writer, and a log is read in pieces.
            if not stat.S_ISREG(os.stat(location).st_mode):
                unreadable.append(
                    Unreadable(file, "a pipe or a device; give `-` and send its content to standard input")
                )
                continue
            files.append(_describe(file, location))
        except OSError as error:
            unreadable.append(Unreadable(file, error.strerror or str(error)))
    return files, unreadable


def _expand(path: str) -> list[str]:
    if path == STDIN:
        return [STDIN]
    if os.path.isdir(path):
        inside = [
            os.path.join(folder, name)
            for folder, folders, names in os.walk(path)
            if folders.sort() is None
            for name in names
            if not name.startswith(".") and not any(part.startswith(".") for part in _below(path, folder))
        ]
        if not inside:
            message = f"the folder {path} holds no file"
            raise InputError(message)
        return sorted(inside, key=_natural)
    if os.path.exists(path):
        return [path]
    matched = sorted(glob.glob(path, recursive=True), key=_natural)
    if matched:
        return [file for match in matched for file in _expand(match)]
    kind = "no file matches" if glob.has_magic(path) else "no such file or folder:"
    message = f"{kind} {path}"
    raise InputError(message)


def _below(root: str, folder: str) -> tuple[str, ...]:
    relative = os.path.relpath(folder, root)
    return () if relative == "." else Path(relative).parts


def _natural(path: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", path) if part]


def _describe(path: str, location: str) -> LogFile:
    with open(location, "rb") as file:
        start = file.read(4)
        status = os.fstat(file.fileno())
    container: Container = "parquet" if start == _PARQUET_MAGIC else "jsonl"
    return LogFile(
        path, location, status.st_size, status.st_mtime_ns, _compression(start), container, step_in_name(path)
    )


def step_in_name(path: str) -> int | None:
    """The step in names such as `12.jsonl` and `completions_00012.parquet`."""
    match = _STEP_IN_NAME.fullmatch(os.path.basename(path).split(".")[0])
    return int(match[1]) if match and len(match[1]) < 16 else None


@contextmanager
def standard_input_copied(paths: list[str]) -> Iterator[str | None]:
    """A temporary file with what standard input holds, if `-` is among the paths: a log is read in pieces."""
    if STDIN not in paths:
        yield None
        return
    with tempfile.NamedTemporaryFile(prefix="gapscope-") as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy, READ_BUFFER)
        copy.flush()
        yield copy.name


@contextmanager
def opened(file: LogFile) -> Iterator[IO[bytes]]:
    """The decompressed bytes of a file; reading them may raise OSError or EOFError when it is cut off."""
    with open(file.location, "rb", buffering=READ_BUFFER) as raw, _decompressed(raw, file.compression) as stream:
        yield stream


@contextmanager
def _decompressed(raw: IO[bytes], compression: Compression) -> Iterator[IO[bytes]]:
    if compression == "none":
        yield raw
    elif compression == "gzip":
        with gzip.GzipFile(fileobj=raw) as stream:
            yield io.BufferedReader(_AsItComes(stream.read1), READ_BUFFER)
    else:
        import pyarrow as pa

        with pa.PythonFile(raw, "r") as source, pa.CompressedInputStream(source, "zstd") as stream:
            yield io.BufferedReader(_AsItComes(stream.read), READ_BUFFER)


def damaged(file: LogFile, error: Exception) -> str:
    """What to say about a file whose bytes cannot be read to their end."""
    if file.compression == "none":
        return f"it cannot be read to its end: {error}"
    return f"the {file.compression} stream ends early or is damaged: {error}"


class _AsItComes(io.RawIOBase):
    """A decompressed stream read in small steps: an error costs the step that it is in, not the megabyte before it."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        super().__init__()
        self._read = read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 (a writable buffer)
        part = self._read(min(len(buffer), _STEP_OF_DECOMPRESSION))
        buffer[: len(part)] = part
        return len(part)


def _compression(start: bytes) -> Compression:
    return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), "none")


def head(file: LogFile) -> list[dict[str, Json]]:
    """The first rows that can be decoded, at most 8 among the first 200 lines."""
    rows: list[dict[str, Json]] = []
    try:
        if file.container == "parquet":
            return [row.value for row in parquet_rows(file, HEAD_ROWS)]
        with opened(file) as stream:
            for count, item in enumerate(RowReader(stream), start=1):
                if isinstance(item, Row):
                    rows.append(item.value)
                if len(rows) == HEAD_ROWS or count == _HEAD_LINES:
                    break
    except (OSError, EOFError, zlib.error):
        # Cut off in its first lines: what came before it is all there is to go by.
        pass
    return rows


def parquet_rows(file: LogFile, limit: int | None = None) -> Iterator[Row]:
    """The rows of a parquet file, numbered from 1.

    Raises:
        InputError: the file is cut off or is no parquet file.

    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file.location) as parquet:
            line = 0
            for batch in parquet.iter_batches(batch_size=min(limit or 1024, 1024)):
                for value in batch.to_pylist():
                    line += 1
                    yield Row(line, None, _without_nan(value))
                    if line == limit:
                        return
    except (pa.ArrowException, OSError, ValueError) as error:
        # ValueError: text that is not UTF-8, dates that Python has none of.
        message = f"{file.path} cannot be read as parquet: {(str(error) or type(error).__name__).splitlines()[0]}"
        raise InputError(message) from error


def _without_nan(value: dict[str, Json]) -> dict[str, Json]:
    for key, item in value.items():
        if isinstance(item, float) and item != item:  # noqa: PLR0124 (NaN is what differs from itself)
            value[key] = None
    return value


class RowReader:
    """Iterates over the rows of JSON Lines from where a stream stands.

    Lines count from 1 there, offsets from `offset`. With `stop`, ends with the line that begins before it.
    Blank lines count as lines and are no rows. `whole_lines` counts the lines that end in a newline, and
    `whole_until` is the byte after the last of them; both are valid during and after the iteration.
    """

    def __init__(self, stream: IO[bytes], *, offset: int = 0, stop: int | None = None) -> None:
        self.stream = stream
        self.offset = offset
        self.whole_until = offset
        self.stop = stop
        self.lines = 0
        self.whole_lines = 0

    def __iter__(self) -> Iterator[Row | Refused]:
        readline = self.stream.readline
        stop = self.stop
        while stop is None or self.offset < stop:
            line = readline(LONGEST_LINE)
            if not line:
                return
            self.lines += 1
            start = self.offset
            size = len(line)
            if size == LONGEST_LINE and not line.endswith(b"\n"):
                size += skip_line(self.stream)
            self.offset += size
            if line.endswith(b"\n"):
                self.whole_until = self.offset
                self.whole_lines = self.lines
            if size > len(line):
                reason = f"a line of {size:,} bytes, longer than {LONGEST_LINE:,}"
                yield refuse(self.lines, start, reason, line[:200])
            elif not line.isspace():
                yield decode(line, self.lines, start)


def skip_line(stream: IO[bytes]) -> int:
    """Read to the end of a line without keeping it; the number of bytes."""
    skipped = 0
    while part := stream.readline(READ_BUFFER):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


_decode = msgspec.json.Decoder().decode
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def decode(line: bytes, number: int, offset: int | None) -> Row | Refused:
    """One line as a row, or why it is none."""
    try:
        value = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _decode_leniently(line, number, offset)
    if isinstance(value, dict):
        return Row(number, offset, value)
    return refuse(number, offset, f"a JSON {_json_type(value)}, expected an object", line)


def _decode_leniently(line: bytes, number: int, offset: int | None) -> Row | Refused:
    repairs: list[str] = []
    body = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = body.decode(errors="replace")
        repairs.append("not_utf8")

    def no_number(_: str) -> None:
        repairs.append("not_finite")

    try:
        value = _clean(json.loads(text, parse_constant=no_number), repairs)
    except RecursionError:
        return refuse(number, offset, "nested too deeply", line)
    except json.JSONDecodeError as error:
        cut = "" if line.endswith(b"\n") else ", and the line is cut off"
        return refuse(number, offset, f"not JSON: {error.msg} at character {error.pos + 1}{cut}", line)
    except ValueError as error:
        # Of Python's limit on digits only the first half is for users.
        return refuse(number, offset, f"not readable: {str(error).split(';')[0]}", line)
    if isinstance(value, dict):
        return Row(number, offset, value, tuple(dict.fromkeys(repairs)))
    return refuse(number, offset, f"a JSON {_json_type(value)}, expected an object", line)


def _clean(value: Json, repairs: list[str]) -> Json:
    """Lone surrogates as U+FFFD, numbers beyond a double as null: nothing else could be stored."""
    if isinstance(value, str):
        if value.isascii() or not re.search("[\ud800-\udfff]", value):
            return value
        repairs.append("lone_surrogate")
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, dict):
        return {_clean(key, repairs): _clean(item, repairs) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item, repairs) for item in value]
    if isinstance(value, float) and value - value != 0:
        repairs.append("not_finite")
        return None
    return value


def _json_type(value: Json) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
