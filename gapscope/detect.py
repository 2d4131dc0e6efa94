"""Which format and which dialect a log is written in, judged by its first rows and never by its name."""

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gapscope.dialects import DIALECTS, Dialect
from gapscope.errors import InputError, UnknownName
from gapscope.parsers import PARSERS, Parser
from gapscope.rollouts import Json
from gapscope.sources import LogFile, damaged, head, opened

_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class Detected(NamedTuple):
    """The verdict on one file: `claimed` of `sampled` first rows are of the format."""

    parser: Parser
    dialect: Dialect
    claimed: int
    sampled: int
    evidence: str


def detect(file: LogFile, *, trainer: str | None = None) -> Detected | str:
    """The format of a file, or the reason why it is none that gapscope reads.

    `trainer` names a parser, which is then taken whatever the rows look like, or a trainer, among whose
    parsers the rows decide.

    Raises:
        UnknownName: `trainer` names neither.

    """
    candidates = _candidates(trainer)
    try:
        rows = head(file)
    except InputError as error:
        return error.message.removeprefix(f"{file.path} ")
    votes: Counter[str] = Counter()
    for row in rows:
        for parser in candidates:
            if parser.container == file.container and parser.claims(row):
                votes[parser.name] += 1
    if votes:
        (name, claimed) = votes.most_common(1)[0]
        parser = next(parser for parser in candidates if parser.name == name)
        keys = ", ".join(f"`{key}`" for key in sorted(rows[0])[:8])
        evidence = f"{claimed} of the first {len(rows)} rows; keys such as {keys}"
    elif len(candidates) == 1 and candidates[0].container == file.container:
        parser, claimed, evidence = candidates[0], 0, f"--trainer {trainer}"
    else:
        return _reason(file, rows, candidates)
    return Detected(parser, _dialect(rows), claimed, len(rows), evidence)


def _candidates(trainer: str | None) -> tuple[Parser, ...]:
    if trainer is None:
        return PARSERS
    wanted = trainer.lower()
    named = tuple(p for p in PARSERS if p.name == wanted) or tuple(p for p in PARSERS if p.trainer.lower() == wanted)
    if not named:
        raise UnknownName("trainer", trainer, {p.name for p in PARSERS} | {p.trainer.lower() for p in PARSERS})
    return named


def _dialect(rows: Sequence[dict[str, Json]]) -> Dialect:
    """The dialect whose opening delimiter stands in most of the first rows."""
    counts = {
        dialect.name: sum(any(dialect.occurs_in(text) for text in _texts(row)) for row in rows) for dialect in DIALECTS
    }
    return max(DIALECTS, key=lambda dialect: counts[dialect.name])


def _texts(value: Json) -> Iterator[str]:
    """All strings in a value, however deep: what can be decoded may be deeper than Python recurses."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, (dict, list)):
            waiting.extend(item.values() if isinstance(item, dict) else item)


def _reason(file: LogFile, rows: Sequence[dict[str, Json]], candidates: Sequence[Parser]) -> str:
    if rows:
        keys = ", ".join(sorted(rows[0])[:12])
        known = "a known format" if len(candidates) == len(PARSERS) else " or ".join(p.name for p in candidates)
        return f"no rollouts of {known}; its rows have the keys {keys}"
    if file.container == "parquet":
        return "a parquet file without rows"
    try:
        with opened(file) as stream:
            start = stream.read(256).lstrip()
    except (OSError, EOFError, zlib.error) as error:
        return damaged(file, error)
    if start.startswith(_UTF16_MARKS):
        return "UTF-16 text, and rollout logs are UTF-8; convert it with `iconv -f UTF-16 -t UTF-8`"
    if start.startswith(b"["):
        return "one JSON array, and rollout logs have one object per line; convert it with `jq -c '.[]'`"
    if b"\0" in start:
        return "binary data, no rollout log"
    return "no line of it is a JSON object"
