"""`gapscope audit`: the report on a log."""

import typer

from gapscope.cli.errors import COULD_NOT_JUDGE, print_error
from gapscope.cli.options import (
    TERMINAL,
    Correct,
    FormatOption,
    Group,
    Jobs,
    Logs,
    Map,
    Output,
    Tokenizer,
    Trainer,
    mapping_given,
    progress_bar,
    remember_mapping,
    write,
)
from gapscope.errors import CorrectnessError


def audit(
    logs: Logs,
    output_format: FormatOption = TERMINAL,
    output: Output = None,
    correct: Correct = None,
    group: Group = None,
    trainer: Trainer = None,
    jobs: Jobs = None,
    map_: Map = None,
    tokenizer: Tokenizer = None,
) -> None:
    """Audit rollout logs: how often tools are tried, how often that is a dead end, and whether it is chance.

    Exit code: 0, or 2 when what is correct is not defined.
    """
    from gapscope.audit import audit as run

    logs, mapping = mapping_given(logs, map_)
    with progress_bar("reading") as progress:
        report = run(
            logs,
            correct=correct,
            group=group,
            trainer=trainer,
            jobs=jobs,
            mapping=mapping,
            tokenizer=tokenizer,
            progress=progress,
        )
    remember_mapping(mapping)
    write(report, output_format, output)
    if report.correctness.chosen == "undefined":
        # The report says what can be said; what was asked for above all, it cannot.
        print_error(CorrectnessError(report.correctness.message or "", hint=report.correctness.hint))
        raise typer.Exit(COULD_NOT_JUDGE)
