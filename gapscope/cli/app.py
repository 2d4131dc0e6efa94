"""The commands, put together."""

from typing import Annotated

import typer

from gapscope.cli import (
    audit,
    axpo,
    demo,
    doctor,
    export,
    formats,
    gate,
    ingest,
    metrics,
    plan,
    recovery,
    resample,
    schema,
    score,
)
from gapscope.cli.panels import PanelCommand
from gapscope.version import VERSION

app = typer.Typer(
    name="gapscope",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="The profiler for agentic RL: is your policy's tool use dying, and is that more than chance?",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"gapscope {VERSION}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


app.command("audit")(audit.audit)
app.command("gate")(gate.gate)
app.command("ingest")(ingest.ingest)
app.command("score")(score.score)
app.command("plan", cls=PanelCommand)(plan.plan)
app.command("resample", cls=PanelCommand)(resample.resample)
app.command("recovery")(recovery.recovery)
app.command("axpo", cls=PanelCommand)(axpo.axpo)
app.command("export")(export.export)
app.command("metrics")(metrics.metrics)
app.command("doctor")(doctor.doctor)
app.command("formats")(formats.formats)
app.command("schema")(schema.schema)
app.command("demo")(demo.demo)
