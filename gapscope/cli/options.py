"""Options that several commands share, and what they do with a report."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from gapscope.errors import SettingsError
from gapscope.mapping import FIELDS, parsed
from gapscope.report import Report
from gapscope.reporters import REPORTERS, reporter_named

Logs = Annotated[
    list[str],
    typer.Argument(
        help="Files, folders, globs, a store, or - for standard input.", metavar="LOG...", show_default=False
    ),
]
Correct = Annotated[
    str | None,
    typer.Option("--correct", metavar="RULE", help="What is correct: a field (acc) or a comparison (score>=1)."),
]
Group = Annotated[
    str | None,
    typer.Option("--group", metavar="KEY", help="The field that the rollouts of one question share."),
]
Trainer = Annotated[
    str | None,
    typer.Option("--trainer", metavar="NAME", help="The trainer or the format of the log; default: detected."),
]
Jobs = Annotated[int | None, typer.Option("--jobs", min=1, metavar="N", help="Processes; default: one per CPU.")]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="FIELD=PATH...",
        help="Where fields are in a log of your own: --map response=text reward=$.scores.total group=qid.",
        show_default=False,
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        metavar="PATH",
        help="The policy's tokenizer.json, or its folder: says which token ids the calls are made of.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write the report here instead of printing it."),
]

_PAIR = re.compile(rf"({'|'.join(FIELDS)})=.+")


def mapping_given(logs: list[str], pairs: list[str] | None) -> tuple[list[str], dict[str, str] | None]:
    """The logs, and the mapping if one was given: after `--map` more pairs may follow without another `--map`.

    Raises:
        SettingsError: a pair is none, or the mapping cannot be used.

    """
    if not pairs:
        return logs, None
    more = [word for word in logs if _PAIR.fullmatch(word) and not Path(word).exists()]
    given = [pair for word in pairs for pair in word.split()]
    return [word for word in logs if word not in more], parsed([*given, *more])


def remember_mapping(mapping: dict[str, str] | None) -> None:
    """Save a mapping that has worked, so that it need not be given again."""
    if not mapping:
        return
    from gapscope.config import Settings

    settings = Settings.load()
    if settings.map != mapping:
        print(f"saved the mapping in {settings.save_map(mapping)}", file=sys.stderr)


TERMINAL = "terminal"
FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="|".join(reporter.name for reporter in REPORTERS),
        help="How to write the report.",
        callback=lambda name: reporter_named(name).name,
    ),
]


def save(text: str, output: Path) -> None:
    """Write a text to a file, and say so.

    Raises:
        SettingsError: the file cannot be written.

    """
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        message = f"{output} cannot be written: {error.strerror}"
        raise SettingsError(message) from None
    print(f"wrote {output}", file=sys.stderr)


def write(report: Report, name: str, output: Path | None) -> None:
    """Print a report or write it to a file.

    Raises:
        SettingsError: the file cannot be written.

    """
    reporter = reporter_named(name)
    if output is not None:
        save(reporter.render(report), output)
        return
    if name == TERMINAL:
        from gapscope.reporters.base.printing import terminal
        from gapscope.reporters.terminal import print_report

        print_report(report, terminal())
        return
    sys.stdout.write(reporter.render(report))


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on a terminal, nothing elsewhere; gives what to call with (bytes done, bytes in all)."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn(label), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield update
