"""Help of commands with many options, under several headings."""

from typing import TYPE_CHECKING

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from typer._click import HelpFormatter

READING = "Reading the log"
_OTHER = "Other"


class PanelCommand(TyperCommand):
    """A command whose options stand under the headings that they name; those without are about reading the log."""

    def format_options(self, ctx: typer.Context, formatter: "HelpFormatter") -> None:  # type: ignore[override]
        """Write arguments and options, panel by panel."""
        panels: dict[str, list[tuple[str, str]]] = {}
        last: dict[str, list[tuple[str, str]]] = {READING: [], _OTHER: []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            panel = getattr(param, "rich_help_panel", None)
            if record is not None and panel is not None:
                panels.setdefault(panel, []).append(record)
            elif record is not None:
                last[_OTHER if param.name == "help" else READING].append(record)
        for title, records in {**panels, **last}.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
