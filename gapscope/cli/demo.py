"""`gapscope demo`: a run in which tool use collapses, written and audited."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from gapscope.cli.options import TERMINAL, write


def demo(
    folder: Annotated[Path, typer.Argument(help="Where to write the run.", metavar="FOLDER")] = Path("gapscope-demo"),
    seed: Annotated[int, typer.Option("--seed", help="Another seed, another run.")] = 7,
) -> None:
    """Write a simulated run in verl's format, in which tool use collapses, and audit it."""
    from gapscope.audit import audit
    from gapscope.demo import write_demo

    files = write_demo(folder, seed=seed)
    print(f"wrote {len(files)} files to {folder}; audit them again with `gapscope audit {folder}`", file=sys.stderr)
    write(audit(str(folder)), TERMINAL, None)
