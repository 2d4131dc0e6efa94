"""`gapscope ingest`: logs into a store that can be audited again and again."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gapscope.cli.options import (
    Group,
    Jobs,
    Logs,
    Map,
    Tokenizer,
    Trainer,
    mapping_given,
    progress_bar,
    remember_mapping,
)


class Tokens(StrEnum):
    """Of which rollouts the token arrays are kept."""

    auto = "auto"
    all = "all"
    none = "none"


def ingest(
    logs: Logs,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The store, made if need be.")],
    group: Group = None,
    trainer: Trainer = None,
    jobs: Jobs = None,
    map_: Map = None,
    tokenizer: Tokenizer = None,
    tokens: Annotated[
        Tokens,
        typer.Option(
            "--tokens", help="Token arrays to keep: of rollouts that a plan may branch from, of all, or of none."
        ),
    ] = Tokens.auto,
) -> None:
    """Read logs into a DuckDB store. What it has already read is passed over, so run it as often as you like."""
    from gapscope.config import Settings
    from gapscope.ingest import ingest as run
    from gapscope.planning import ReadOptions

    settings = Settings.load()
    logs, mapping = mapping_given(logs, map_)
    options = ReadOptions.under(
        settings,
        trainer=trainer,
        group=group,
        jobs=jobs,
        mapping=mapping,
        tokenizer=tokenizer,
        tokens=tokens.value,
    )
    with progress_bar("reading") as progress, run(logs, options, into=output, progress=progress) as store:
        files, rows, refused = store.rows("""
            SELECT (SELECT count(*) FROM files), (SELECT count(*) FROM rollouts), (SELECT count(*) FROM refused)
        """)[0]
        passed_over = store.rows("SELECT path, reason FROM passed_over WHERE explicit ORDER BY path")
    print(f"{output}: {rows:,} rows of {files:,} files, {refused:,} refused", file=sys.stderr)
    remember_mapping(mapping)
    for path, reason in passed_over:
        print(f"passed over {path}: {reason}", file=sys.stderr)
