"""`gapscope recovery`: what resampling has led to."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from gapscope.cli.options import (
    Correct,
    Logs,
    Map,
    Output,
    Tokenizer,
    Trainer,
    mapping_given,
    progress_bar,
    remember_mapping,
    save,
)


def recovery(
    logs: Logs,
    plan: Annotated[
        Path | None,
        typer.Option("--plan", metavar="FILE", help="The plan that was resampled: checked, and its options are used."),
    ] = None,
    output_format: Annotated[
        Literal["terminal", "json"], typer.Option("--format", help="How to write it.")
    ] = "terminal",
    output: Output = None,
    correct: Correct = None,
    trainer: Trainer = None,
    map_: Map = None,
    tokenizer: Tokenizer = None,
) -> None:
    """Say how many resampled prefixes recovered, by tool, data source and confidence, and what it was worth.

    LOG holds continuations and the rollouts that they were branched from, in one file or in several. Exit code: 0, or
    2 when nothing can be said.
    """
    from gapscope.axpo.recovery import recovery as run

    logs, mapping = mapping_given(logs, map_)
    with progress_bar("reading") as progress:
        found = run(
            logs, plan=plan, correct=correct, trainer=trainer, mapping=mapping, tokenizer=tokenizer, progress=progress
        )
    remember_mapping(mapping)
    if output_format == "json":
        text = found.to_json()
    elif output is None:
        from gapscope.axpo.recovery_page import print_recovery
        from gapscope.reporters.base.printing import terminal

        print_recovery(found, terminal())
        return
    else:
        from gapscope.axpo.recovery_page import render

        text = render(found)
    if output is None:
        sys.stdout.write(text)
    else:
        save(text, output)
