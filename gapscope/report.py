"""What an audit finds, as `gapscope.report/1`: measurements, findings, and the verdict of a gate.

The models here are the published schema. A reporter sees a `Report` and nothing else.
"""

from html import escape
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from gapscope.errors import UnknownName

if TYPE_CHECKING:
    import polars as pl

SCHEMA: Literal["gapscope.report/1"] = "gapscope.report/1"

Scalar = bool | int | float | str | None
TableRow = dict[str, Scalar]
MeasureStatus = Literal["observed", "annotated", "thin", "unobserved"]
Unit = Literal[
    "share", "count", "ratio", "p", "probability", "nats", "tokens", "characters", "difference", "slope", "flag", "step"
]
Severity = Literal["problem", "warning", "note", "good"]


class Model(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_by_name=True,
        serialize_by_alias=True,
        json_schema_serialization_defaults_required=True,
    )


class Measurement(Model):
    """One number with everything that is needed to judge it.

    `n` counts the denominator, which `of` names; `interval` is 95 %. `table` holds the value by step,
    or the cells of a table; `by` the same by `split`, `data_source`, `run` where the log has them. A number
    that could not be computed has `value` null, the `reason`, and the trainer `setting` that would
    make it observable where one is known. `excluded` counts what was left out of `n`, by reason.
    """

    name: str
    value: float | None
    n: int
    of: str
    interval: tuple[float, float] | None = None
    interval_method: str | None = None
    status: MeasureStatus = "observed"
    reason: str | None = None
    setting: str | None = None
    unit: Unit = "share"
    better: Literal["higher", "lower"] | None = None
    numerator: float | None = None
    excluded: dict[str, int] = Field(default_factory=dict)
    details: dict[str, Scalar] = Field(default_factory=dict)
    table: list[TableRow] = Field(default_factory=list)
    by: dict[str, list[TableRow]] = Field(default_factory=dict)

    def frame(self) -> "pl.DataFrame":
        """The table as a Polars frame; no rows, no columns where there is none."""
        import polars as pl

        return pl.DataFrame(self.table, infer_schema_length=None)


class RowCounts(Model):
    """What became of every row: read = kept + refused + padding + excluded + duplicate + continuations."""

    read: int
    kept: int
    refused: int
    padding: int
    excluded: int = 0
    duplicate: int
    continuations: int = 0

    @property
    def left_out(self) -> dict[str, int]:
        """How many rows are not kept, by a word for what they are; only those that there are."""
        counts = {
            "refused": self.refused,
            "padding": self.padding,
            "excluded": self.excluded,
            "duplicate": self.duplicate,
            "resampled": self.continuations,
        }
        return {word: count for word, count in counts.items() if count}


class RefusedRows(Model):
    """Refused rows with one reason: how many, and where the first one is."""

    reason: str
    rows: int
    file: str
    line: int
    excerpt: str


class FileReading(Model):
    """Files read as one format: how many, how many rows they hold, and how format and dialect were recognised.

    `claimed` of the `sampled` first rows of the files are of the format, and `confidence` is their share.
    `dialects` counts the rows of the `dialect_sampled` looked at in which each tool-call syntax was found,
    `opened_only` those in which one was only begun, `residues` those that show what is left of one when special
    tokens are dropped. `carries` counts, of the rows that are `rollouts` and neither padding nor excluded, those that
    have what metrics may need. `drops_uniform_groups` is the trainer setting under which groups without variance do
    not reach such logs.
    """

    format: str
    producer: str
    dialect: str
    files: int
    rows: int
    evidence: str
    claimed: int = 0
    sampled: int = 0
    confidence: float | None = None
    dialects: dict[str, int] = Field(default_factory=dict)
    dialect_sampled: int = 0
    opened_only: dict[str, int] = Field(default_factory=dict)
    residues: dict[str, int] = Field(default_factory=dict)
    rollouts: int = 0
    carries: dict[str, int] = Field(default_factory=dict)
    drops_uniform_groups: str | None = None

    @property
    def doubt(self) -> str:
        """How sure the format is, where not every row that was looked at is of it; else nothing."""
        if self.confidence is None or self.confidence == 1:
            return ""
        return f", by {self.claimed:,} of {self.sampled:,} rows looked at"


class PassedOver(Model):
    """A file that was found and not read."""

    path: str
    reason: str
    unreadable: bool


class GroupCheck(Model):
    """What the groups look like before anything is measured on them (metrics section 2)."""

    key: str
    groups: int
    eligible: int
    size: int | None
    sizes: dict[str, int]
    excluded: dict[str, int]


class Correctness(Model):
    """The rule that says which rollouts are correct, and how it was come by.

    `chosen` is `explicit` (a flag or the settings), `column` (`acc`, `is_correct`), `logged` (the record
    itself says it), `implied_binary` (all scores are 0 or 1), or `undefined`.
    """

    rule: str | None
    chosen: Literal["explicit", "column", "logged", "implied_binary", "undefined"]
    known: int
    unknown: int
    disagreements: dict[str, int] = Field(default_factory=dict)
    message: str | None = None
    hint: str | None = None


class TokenReading(Model):
    """What is known of the tokens of the rollouts that were kept, counted over rollouts.

    `alignment` says how spans and tokens were brought together, or why they could not be; `logprob_source` where
    log-probs are from (`rollout` engine, `trainer`, `rescored`), and `scored_by` which model gave those that are
    re-scored. `retokenised` rollouts have ids that were made from text.
    """

    alignment: dict[str, int] = Field(default_factory=dict)
    logprob_source: dict[str, int] = Field(default_factory=dict)
    scored_by: dict[str, int] = Field(default_factory=dict)
    retokenised: int = 0


class Survivorship(Model):
    """Whether groups without variance seem to be missing from the log."""

    biased: bool
    reason: str | None
    expected_uniform: float | None
    observed_uniform: int


class Finding(Model):
    """One plain sentence, the numbers behind it, and what to do."""

    severity: Severity
    title: str
    text: str
    action: str | None = None
    metrics: list[str] = Field(default_factory=list)


class Check(Model):
    """One limit of a gate and how the measured number stands to it."""

    key: str
    op: Literal["<=", ">="]
    limit: float
    mode: Literal["point", "bound"]
    compared: float | None
    n: int | None
    interval: tuple[float, float] | None
    outcome: Literal["passed", "failed", "skipped", "could_not_judge"]
    text: str
    hint: str | None = None


class Verdict(Model):
    """All checks of a gate; `exit_code` is 0 passed, 1 failed, 2 could not judge."""

    exit_code: Literal[0, 1, 2]
    checks: list[Check]
    text: str


class Report(Model):
    """Everything an audit found."""

    schema_name: Literal["gapscope.report/1"] = Field(default=SCHEMA, alias="schema")
    version: str
    sources: list[str]
    formats: list[FileReading]
    passed_over: list[PassedOver]
    rows: RowCounts
    rollouts: int
    sub_outputs: int
    same_text: int
    refused: list[RefusedRows]
    repairs: dict[str, int]
    scope: str
    steps: list[int]
    runs: list[str]
    data_sources: list[str]
    groups: GroupCheck
    correctness: Correctness
    survivorship: Survivorship
    tokens: TokenReading = TokenReading()
    error_markers: dict[str, list[str]]
    options: dict[str, Scalar]
    metrics: dict[str, Measurement]
    findings: list[Finding]
    dead_groups: list[TableRow]
    verdict: Verdict | None = None

    def __getitem__(self, name: str) -> Measurement:
        """The measurement of that name.

        Raises:
            UnknownName: no such metric; the error names the nearest ones.

        """
        if name not in self.metrics:
            raise UnknownName("metric", name, self.metrics)
        return self.metrics[name]

    @property
    def headline(self) -> str:
        """The first finding's sentence."""
        return self.findings[0].text if self.findings else "Nothing to report."

    def frame(self, name: str) -> "pl.DataFrame":
        """The table of one metric as a Polars frame."""
        return self[name].frame()

    def dead_groups_frame(self) -> "pl.DataFrame":
        """Groups whose tool-using rollouts all failed, as a Polars frame."""
        import polars as pl

        return pl.DataFrame(self.dead_groups, infer_schema_length=None)

    def to_json(self) -> str:
        """The report as `gapscope.report/1`, indented, every key in its place and absent as null."""
        return self.model_dump_json(indent=2) + "\n"

    def _repr_html_(self) -> str:
        findings = "".join(f"<li><b>{escape(f.title)}</b>: {escape(f.text)}</li>" for f in self.findings)
        first = [self.metrics[name] for name in _HEADLINE_RATES if name in self.metrics]
        rest = [m for m in self.metrics.values() if m.status != "unobserved" and m.name not in _HEADLINE_RATES]
        return (
            f"{_html_table(first)}<ul>{findings}</ul>"
            f"<details><summary>{len(rest)} more metrics</summary>{_html_table(rest)}</details>"
        )


_HEADLINE_RATES = (
    "tool_attempt_rate",
    "all_wrong_tool_group_rate",
    "all_wrong_tool_expected",
    "all_wrong_tool_p",
    "all_wrong_notool_group_rate",
)


def _html_table(measurements: list[Measurement]) -> str:
    right = "style='text-align:right'"
    head = "".join(f"<th>{title}</th>" for title in ("metric", "value", "95 %", "n", "of", "note"))
    rows = "".join(
        f"<tr><td>{escape(m.name)}</td><td {right}>{show(m)}</td><td {right}>{show_interval(m)}</td>"
        f"<td {right}>{m.n:,}</td><td>{escape(m.of)}</td><td>{escape(m.reason or '')}</td></tr>"
        for m in measurements
    )
    return f"<table><tr>{head}</tr>{rows}</table>"


def show(measured: Measurement) -> str:
    """A value as people read it: `43.2 %`, `1.38`, or a dash; 0 % and 100 % only when exact."""
    return show_number(measured.value, measured.unit)


def show_interval(measured: Measurement) -> str:
    """The interval as people read it, empty where there is none."""
    if measured.interval is None:
        return ""
    low, high = (show_number(bound, measured.unit) for bound in measured.interval)
    if measured.unit == "share":
        return f"{low.removesuffix(' %')}–{high}"
    return f"{low.removesuffix(' pp')} … {high}"


def show_number(value: float | None, unit: Unit) -> str:
    """One number in its unit; rounding never turns something into nothing or into everything."""
    if value is None:
        return "–"
    if unit == "flag":
        return "yes" if value else "no"
    if unit == "share":
        return f"{_percent(value)} %"
    if unit == "difference":
        return f"{100 * value:+.1f} pp"
    if unit == "p":
        return "< 0.0001" if 0 < value < 0.0001 else f"{value:.4f}"
    if unit in {"count", "step"} and value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= _WHOLE else f"{value:.3g}"


_WHOLE = 999.5
"""From here on three digits would be written with an exponent."""


def _percent(value: float) -> str:
    if value in {0.0, 1.0}:
        return f"{100 * value:.0f}"
    shown = f"{100 * value:.1f}"
    return {"0.0": "< 0.1", "100.0": "> 99.9"}.get(shown, shown)
