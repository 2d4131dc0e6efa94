"""What resampling has led to, as `gapscope.recovery/1`: the measurements of a resampled log, and its prefixes."""

from typing import Literal

from pydantic import Field

from gapscope.plan_options import Departure
from gapscope.report import Correctness, Measurement, Model, TableRow

SCHEMA: Literal["gapscope.recovery/1"] = "gapscope.recovery/1"


class PlanCheck(Model):
    """How a resampled log stands to its plan: of its `prefixes` how many were `resampled`, with how many continuations.

    `wanted` continuations were planned, and `found` have a verdict.
    """

    path: str
    prefixes: int
    resampled: int
    wanted: int
    found: int
    departures: list[Departure]


class Recovery(Model):
    """Everything that is known of what resampling has led to.

    `rollouts` are those that were branched from and the others of their steps. `measurements` are those of the report
    that are about continuations and the triggers before them. `prefixes` has one row for each that was resampled, the
    least sure first.
    """

    schema_name: Literal["gapscope.recovery/1"] = Field(default=SCHEMA, alias="schema")
    version: str
    sources: list[str]
    plan: PlanCheck | None
    correctness: Correctness
    steps: list[int]
    groups: int
    rollouts: int
    continuations: int
    measurements: dict[str, Measurement]
    prefixes: list[TableRow]
    notes: list[str]

    @property
    def headline(self) -> str:
        """The first of the notes."""
        return self.notes[0] if self.notes else ""

    def to_json(self) -> str:
        """All of it as `gapscope.recovery/1`, indented."""
        return self.model_dump_json(indent=2) + "\n"
