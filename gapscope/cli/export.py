"""`gapscope export`: a training batch from a resampled log."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from gapscope.cli.options import (
    Correct,
    Group,
    Map,
    Tokenizer,
    Trainer,
    mapping_given,
    progress_bar,
    remember_mapping,
)
from gapscope.cli.plan import plan_options
from gapscope.plan_options import PresetName, Substitution, Weighting


def export(
    logs: Annotated[list[str], typer.Argument(metavar="RESAMPLED...", help="Files, folders, globs, or a store.")],
    to: Annotated[
        Literal["verl", "trl", "parquet"],
        typer.Option("--for", help="Padded arrays for a trainer (.npz), or one row for each sequence."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The batch; a suffix is added.")],
    plan: Annotated[
        Path | None,
        typer.Option("--plan", metavar="FILE", help="The plan that was resampled: checked, and its options are used."),
    ] = None,
    preset: Annotated[
        PresetName | None,
        typer.Option("--advantage.preset", help="Whose deviation advantages are divided by; default: the paper's."),
    ] = None,
    ddof: Annotated[
        int | None, typer.Option("--advantage.ddof", min=0, max=1, metavar="0|1", help="In place of the preset's.")
    ] = None,
    eps: Annotated[
        float | None, typer.Option("--advantage.eps", min=0, metavar="X", help="In place of the preset's.")
    ] = None,
    substitution: Annotated[
        Substitution | None,
        typer.Option("--substitution", help="Rewards that Eq. 4 substitutes; default: the prefix's own."),
    ] = None,
    weighting: Annotated[
        Weighting | None,
        typer.Option("--weighting", help="How terms weigh; default: each the same."),
    ] = None,
    require_executed: Annotated[
        bool | None,
        typer.Option(
            "--recovery.require-executed/--no-recovery.require-executed",
            help="Count only continuations whose call was executed in Eq. 3; not AXPO.",
        ),
    ] = None,
    correct: Correct = None,
    group: Group = None,
    trainer: Trainer = None,
    map_: Map = None,
    tokenizer: Tokenizer = None,
) -> None:
    """Write a training batch: originals, prefixes and continuations with their advantages, masks and log-probs.

    RESAMPLED holds continuations and all rollouts of their steps, in one file or in several. Exit code: 0, or 2 when
    there is nothing to train on.
    """
    from gapscope.axpo.export import export as run

    # Only what was said, so that it can be compared with the plan.
    advantage = {name: value for name, value in (("preset", preset), ("ddof", ddof), ("eps", eps)) if value is not None}
    given = {
        "advantage": advantage or None,
        "substitution": substitution,
        "weighting": weighting,
        "recovery": None if require_executed is None else {"require_executed": require_executed},
        "correctness": correct,
    }
    options = plan_options(**{name: value for name, value in given.items() if value is not None})
    logs, mapping = mapping_given(logs, map_)
    with progress_bar("reading") as progress:
        done = run(
            logs,
            output,
            to=to,
            options=options,
            plan=plan,
            group=group,
            trainer=trainer,
            mapping=mapping,
            tokenizer=tokenizer,
            progress=progress,
        )
    remember_mapping(mapping)
    for line in done.summary():
        print(line, file=sys.stderr)
    for remark in done.remarks():
        print(f"note: {remark}", file=sys.stderr)
