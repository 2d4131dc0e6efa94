"""The one place that talks to DuckDB."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Self
from uuid import uuid4

import duckdb
import polars as pl

from gapscope.errors import StoreError
from gapscope.rollouts import Json, Refused
from gapscope.store import is_database
from gapscope.store.batch import (
    CALL_COLUMNS,
    FILE_COLUMNS,
    KEPT_COLUMNS,
    ROLLOUT_COLUMNS,
    SPAN_COLUMNS,
    TEXT_COLUMNS,
    Batch,
)
from gapscope.store.token_rows import ARRAY_COLUMNS, MISMATCH_COLUMNS
from gapscope.store.token_rows import CALL_COLUMNS as CALL_TOKEN_COLUMNS
from gapscope.store.token_rows import SPAN_COLUMNS as SPAN_TOKEN_COLUMNS
from gapscope.store.waiting import Waiting

FORMAT = "gapscope.store/1"
_ROWS_AT_ONCE = 25_000
_TOKENS_LIKE_A_ROW = 20
"""So many tokens of kept arrays take about as much memory as a row."""

_MEMORY_LIMIT = "128MB"
_MOST_THREADS = 4
"""Each thread needs memory of its own."""

_SCHEMA = files("gapscope.store").joinpath("schema.sql").read_text(encoding="utf-8")
_VIEWS = files("gapscope.store").joinpath("views.sql").read_text(encoding="utf-8")


class Store:
    """A DuckDB database of rollouts, in memory or in a file; close it, or use it as a context manager."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, *, keeps_texts: bool) -> None:
        self._connection = connection
        self.keeps_texts = keeps_texts
        self._next_id = 0
        self._waiting: dict[str, Waiting] = {}
        self._waiting_rows = 0
        self._declared: dict[int, set[str]] = {}
        # Memory stays flat: beyond this much DuckDB moves what it does not need to a temporary folder. Order is
        # stated where it matters.
        connection.execute("SET preserve_insertion_order = false")
        connection.execute(f"SET memory_limit = '{_MEMORY_LIMIT}'")
        connection.execute(f"SET threads = {min(_MOST_THREADS, os.cpu_count() or 1)}")
        # DuckDB makes this folder when it needs it, and removes it on closing.
        connection.execute("SET temp_directory = $folder", {"folder": f"{gettempdir()}/gapscope-{uuid4().hex}"})
        # A store may come from anybody, and its views and macros are queries: they get no other file, and no network.
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")

    @classmethod
    def in_memory(cls) -> "Store":
        """An empty store that lives as long as this object and keeps no texts."""
        store = cls(duckdb.connect(":memory:"), keeps_texts=False)
        store._create()
        return store

    @classmethod
    def at(cls, path: Path | str, *, create: bool = False) -> "Store":
        """The store in a file; without `create` it must exist and is opened read-only.

        Raises:
            StoreError: there is none, it is no gapscope store or one of another version, or it is in use.

        """
        path = Path(path)
        exists = path.exists()
        if not exists and not create:
            message = f"no store at {path}"
            raise StoreError(message, hint="Run `gapscope ingest LOGS -o run.duckdb` first.")
        if exists and path.is_file() and not is_database(path):
            # DuckDB itself would try to download what it takes to open an SQLite file.
            message = f"{path} is no DuckDB database"
            raise StoreError(message, hint="Choose another file; this one is left as it is.")
        try:
            connection = duckdb.connect(str(path), read_only=not create)
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            message = f"{path} cannot be opened as a store: {reason}"
            hint = "Another process may be writing to it." if "lock" in reason.lower() else None
            raise StoreError(message, hint=hint) from error
        store = cls(connection, keeps_texts=True)
        # A database without tables is what is left of an ingest that was killed as it began.
        if not exists or (create and not store.rows("SELECT 1 FROM information_schema.tables LIMIT 1")):
            store._create()
        else:
            store._check(path)
        return store

    def _create(self) -> None:
        with self.transaction():
            self._connection.execute(_SCHEMA)
            self.set_about("format", FORMAT)

    def _check(self, path: Path) -> None:
        try:
            found = self.about("format")
        except duckdb.Error:
            self.close()
            message = f"{path} is a DuckDB database and no gapscope store"
            raise StoreError(message, hint="Choose another file; this one is left as it is.") from None
        if found != FORMAT:
            self.close()
            message = f"{path} is of format {found}, this gapscope reads {FORMAT}"
            raise StoreError(message, hint="Ingest the logs again into a new file.")
        (last,) = self.rows("SELECT coalesce(max(id), -1) FROM rollouts")[0]
        self._next_id = last + 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing: an error, an interrupt or a kill leaves what was there before."""
        self._connection.execute("BEGIN")
        try:
            yield
            self.flush()
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def about(self, key: str) -> str | None:
        """An option that the rows depend on."""
        found = self.rows("SELECT value FROM about WHERE key = $key", key=key)
        return found[0][0] if found else None

    def set_about(self, key: str, value: str) -> None:
        """Record an option that the rows depend on."""
        self.execute("DELETE FROM about WHERE key = $key", key=key)
        self.execute("INSERT INTO about VALUES ($key, $value)", key=key, value=value)

    def execute(self, statement: str, **values: Json) -> None:
        """Run a statement that returns nothing, with named values bound."""
        self._connection.execute(statement, values or None)

    def rows(self, query: str, **values: Json) -> list[tuple[Any, ...]]:
        """The rows of a query, with named values bound."""
        return self._connection.execute(query, values or None).fetchall()

    def frame(self, query: str, **values: Json) -> pl.DataFrame:
        """The rows of a query as a Polars frame."""
        try:
            frame: pl.DataFrame = self._connection.sql(query, params=values or None).pl()
        except duckdb.Error as error:
            message = f"the query failed: {str(error).splitlines()[0]}"
            hint = "schema.sql lists the tables of a store; those of views.sql are there after `audit(store)`."
            raise StoreError(message, hint=hint) from error
        return frame

    def arrays(self, query: str) -> dict[str, Any]:
        """The columns of a query as NumPy arrays, masked where there is NULL."""
        return self._connection.execute(query).fetchnumpy()

    def prepare(self) -> None:
        """Make the tables of views.sql; `verdicts` must exist."""
        self._connection.execute(_VIEWS)

    def add(self, file: int, batch: Batch, *, first_line: int) -> None:
        """Take in a batch; `first_line` is the number of lines before its piece in the file.

        `flush` writes what is waiting.
        """
        first = self._next_id
        self._next_id += batch.rows
        self._wait("rollouts", ROLLOUT_COLUMNS, batch.rollouts, first=first, file=file, first_line=first_line)
        self._wait("calls", CALL_COLUMNS, batch.calls, first=first)
        for name, column in batch.fields.items():
            self._wait("fields", ("row", "value"), column, first=first, name=name)
        self._wait("kept_texts", KEPT_COLUMNS, batch.kept, first=first)
        self._wait("call_texts", TEXT_COLUMNS, batch.texts, first=first)
        self._wait("spans", SPAN_COLUMNS, batch.spans, first=first)
        self._wait("span_tokens", SPAN_TOKEN_COLUMNS, batch.span_tokens, first=first)
        self._wait("call_tokens", CALL_TOKEN_COLUMNS, batch.call_tokens, first=first)
        self._wait("logprob_mismatch", MISMATCH_COLUMNS, batch.mismatches, first=first)
        self._wait("token_arrays", ARRAY_COLUMNS, batch.arrays, first=first)
        self._waiting_rows += batch.kept_tokens // _TOKENS_LIKE_A_ROW
        self._wait("prompts", ("prompt_hash", "prompt"), _pairs(batch.prompts))
        self._wait("refused", ("line", "offset", "reason", "excerpt"), _columns(batch.refused, first_line), file=file)
        self._wait("other_fields", ("name", "rows"), _pairs(batch.other_fields), file=file)
        self._wait("notes", ("note", "rows"), _pairs(batch.notes), file=file)
        new_tools = batch.declared_tools - self._declared.get(file, set())
        self._declared.setdefault(file, set()).update(new_tools)
        self._wait("declared_tools", ("name",), [list(new_tools)], file=file)
        if self._waiting_rows >= _ROWS_AT_ONCE:
            self.flush()

    def add_files(self, rows: Sequence[tuple[Json, ...]]) -> None:
        """Remember files that were read, in place of what was known of them before; the columns are FILE_COLUMNS."""
        if rows:
            columns = list(zip(*rows, strict=True))
            self.execute("DELETE FROM files WHERE file IN (SELECT unnest($ids))", ids=list(columns[0]))
            self._wait("files", FILE_COLUMNS, columns)
            self.flush()

    def _wait(self, table: str, names: Sequence[str], columns: Sequence[Sequence[Json]], **constants: Json) -> None:
        rows = len(columns[0])
        if rows:
            if table not in self._waiting:
                self._waiting[table] = Waiting(table, names, tuple(constants))
            self._waiting[table].add(columns, constants)
            self._waiting_rows += rows

    def flush(self) -> None:
        """Write the batches that wait."""
        for table, waiting in self._waiting.items():
            self._connection.register("incoming", _ArrowStream(waiting.taken()))
            self._connection.execute(_INSERT[table])
            self._connection.unregister("incoming")
        self._waiting.clear()
        self._waiting_rows = 0

    def forget(self, file: int, *, since: int = 0) -> None:
        """Remove what was read from a file, from byte `since` on."""
        for table in _BY_ID:
            self.execute(
                f"""DELETE FROM {table} WHERE id IN (
                    SELECT id FROM rollouts WHERE file = $file AND coalesce(byte_offset, 0) >= $since)""",  # noqa: S608
                file=file,
                since=since,
            )
        for table in ("rollouts", "refused"):
            self.execute(
                f"DELETE FROM {table} WHERE file = $file AND coalesce(byte_offset, 0) >= $since",  # noqa: S608
                file=file,
                since=since,
            )
        if since == 0:
            for table in ("other_fields", "notes", "declared_tools", "files"):
                self.execute(f"DELETE FROM {table} WHERE file = $file", file=file)  # noqa: S608


def _pairs(items: Mapping[Any, Any]) -> list[list[Json]]:
    """Keys and values as two columns."""
    return [list(items), list(items.values())]


def _columns(refused: Sequence[Refused], first_line: int) -> list[list[Json]]:
    """Refused rows as columns."""
    return [
        [row.line + first_line for row in refused],
        [row.offset for row in refused],
        [row.reason for row in refused],
        [row.excerpt for row in refused],
    ]


_BY_ID = (
    "calls", "fields", "call_texts", "spans", "kept_texts", "span_tokens", "call_tokens", "logprob_mismatch",
    "token_arrays",
)  # fmt: skip
"""The tables whose rows belong to one rollout each."""


class _ArrowStream:
    """A frame seen as nothing but Arrow's stream interface.

    Given a frame as it is, DuckDB would convert it with PyArrow, which imports Pandas wherever that is
    installed: half a second that nobody needs.
    """

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame = frame

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._frame.__arrow_c_stream__(requested_schema)


_OF_ROWS = """
    INSERT INTO {table} BY NAME SELECT "row" + first AS id, * EXCLUDE ("row", first) FROM incoming
"""
_INSERT = {
    **{
        table: _OF_ROWS.format(table=table)
        for table in ("calls", "span_tokens", "call_tokens", "logprob_mismatch", "token_arrays")
    },
    "rollouts": """
        INSERT INTO rollouts BY NAME
        SELECT
            "row" + first AS id, line + first_line AS line, "offset" AS byte_offset,
            * EXCLUDE ("row", first, line, first_line, "offset")
        FROM incoming
    """,
    "fields": 'INSERT INTO fields SELECT "row" + first, name, value FROM incoming',
    "kept_texts": 'INSERT INTO kept_texts SELECT "row" + first, ground_truth, answer, extra FROM incoming',
    "call_texts": """
        INSERT INTO call_texts
        SELECT "row" + first, call, raw, arguments, result, "start", "end" FROM incoming
    """,
    "spans": """
        INSERT INTO spans
        SELECT "row" + first, span, kind, turn, "start", "end", sampled, token_start, token_end FROM incoming
    """,
    "refused": 'INSERT INTO refused SELECT file, line, "offset", reason, excerpt FROM incoming',
    "other_fields": "INSERT INTO other_fields SELECT file, name, rows FROM incoming",
    "notes": "INSERT INTO notes SELECT file, note, rows FROM incoming",
    "declared_tools": "INSERT INTO declared_tools SELECT file, name FROM incoming",
    "files": "INSERT INTO files BY NAME SELECT * FROM incoming",
    "prompts": """
        INSERT INTO prompts
        SELECT prompt_hash, any_value(prompt) FROM incoming ANTI JOIN prompts USING (prompt_hash) GROUP BY prompt_hash
    """,
}
