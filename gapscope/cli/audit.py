"""`gapscope audit`: the report on a log."""

from gapscope.cli.options import (
    TERMINAL,
    Correct,
    FormatOption,
    Group,
    Jobs,
    Logs,
    Output,
    Trainer,
    progress_bar,
    write,
)


def audit(
    logs: Logs,
    output_format: FormatOption = TERMINAL,
    output: Output = None,
    correct: Correct = None,
    group: Group = None,
    trainer: Trainer = None,
    jobs: Jobs = None,
) -> None:
    """Audit rollout logs: how often tools are tried, how often that is a dead end, and whether it is chance."""
    from gapscope.audit import audit as run

    with progress_bar("reading") as progress:
        report = run(logs, correct=correct, group=group, trainer=trainer, jobs=jobs, progress=progress)
    write(report, output_format, output)
