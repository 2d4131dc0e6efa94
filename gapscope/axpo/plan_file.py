"""Plans as files of `gapscope.plan/1`: written whole or not at all, and read only if nobody has changed them."""

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from gapscope.errors import PlanError
from gapscope.plans import SCHEMA, Header, Plan, PlannedPrefix, line

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

M = TypeVar("M", bound=BaseModel)

_AGAIN = "Make it again with `gapscope plan`: what the options cannot say, an edited file should not."


def sealed(header: Header, prefixes: "Hash") -> Header:
    """The header with the digest of its plan, of whose other lines `prefixes` is the hash."""
    whole = prefixes.copy()
    whole.update(line(header.model_copy(update={"digest": ""})))
    return header.model_copy(update={"digest": whole.hexdigest()})


def write_plan(path: Path, header: Header, prefixes: Iterable[PlannedPrefix]) -> Header:
    """Write a plan, with its prefixes as they come; gives the header with their digest.

    What was at `path` stays there until all of the new one is written.

    Raises:
        PlanError: the file cannot be written.

    """
    digest = hashlib.sha256()
    with _writing(path), TemporaryFile(dir=path.parent) as lines:
        for prefix in prefixes:
            written = line(prefix)
            digest.update(written)
            lines.write(written)
        header = sealed(header, digest)
        new = path.with_name(f".{path.name}.new")
        try:
            with new.open("wb") as target:
                target.write(line(header))
                lines.seek(0)
                shutil.copyfileobj(lines, target)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
    return header


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror or error}"
        raise PlanError(message) from None


def read_plan(path: Path | str) -> Plan:
    """The plan in a file.

    Raises:
        PlanError: there is none, or it is not as `gapscope plan` has written it.

    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            first = stream.readline()
            header = _header(path, first)
            prefixes = tuple(_prefixes(path, stream, header, first))
    except OSError as error:
        message = f"no plan at {path}: {error.strerror}"
        raise PlanError(message, hint="Make one with `gapscope plan LOG -o plan.jsonl`.") from None
    return Plan(header=header, prefixes=prefixes)


def _header(path: Path, first: bytes) -> Header:
    if f'"{SCHEMA}"'.encode() not in first:
        message = f"{path} is no plan: its first line does not name {SCHEMA}"
        raise PlanError(message, hint="Make one with `gapscope plan LOG -o plan.jsonl`.")
    return _valid(path, 1, Header, first)


def _prefixes(path: Path, stream: IO[bytes], header: Header, first: bytes) -> Iterator[PlannedPrefix]:
    digest = hashlib.sha256()
    found = 0
    for number, written in zip(count(2), stream, strict=False):
        digest.update(written)
        prefix = _valid(path, number, PlannedPrefix, written)
        if prefix.order != found:
            message = f"{path}, line {number:,}: prefix {prefix.order:,} stands where number {found:,} should"
            raise PlanError(message, hint=_AGAIN)
        found += 1
        yield prefix
    if found != header.counts.selected:
        message = f"{path} holds {found:,} prefixes, and its header counts {header.counts.selected:,}"
        raise PlanError(message, hint=_AGAIN)
    digest.update(first.replace(header.digest.encode(), b""))
    if digest.hexdigest() != header.digest:
        message = f"{path} was changed after it was written: its lines are not those that its header has the hash of"
        raise PlanError(message, hint=_AGAIN)


def _valid(path: Path, number: int, model: type[M], written: bytes) -> M:
    try:
        return model.model_validate_json(written)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        message = f"{path}, line {number:,}{f', {where}' if where else ''}: {first['msg']}"
        raise PlanError(message, hint=_AGAIN) from None
