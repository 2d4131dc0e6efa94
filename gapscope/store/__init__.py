"""The DuckDB store: schema.sql and views.sql say what is in it."""

from pathlib import Path

_MAGIC = (8, b"DUCK")


def is_database(path: Path) -> bool:
    """Whether a file begins like a DuckDB database, judged without loading DuckDB."""
    if not path.is_file():
        return False
    offset, magic = _MAGIC
    try:
        with path.open("rb") as stream:
            return stream.read(offset + len(magic))[offset:] == magic
    except OSError:
        return False
