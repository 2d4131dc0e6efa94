"""What a plan is, as `gapscope.plan/1`: a header, and one line for each prefix that is to be resampled.

The models here are the published schema.
"""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from gapscope.plan_options import Departure, PlanOptions, Sampling
from gapscope.report import Model
from gapscope.rollouts import Json, Split

SCHEMA: Literal["gapscope.plan/1"] = "gapscope.plan/1"

Unusable = Literal[
    "boundary_token_mixed",
    "unclosed",
    "no_logprobs",
    "calls_unaligned",
    "no_such_call",
    "no_turns_left",
    "no_tokens_left",
    "no_prompt",
]
"""Why a tool-using rollout of a triggered group cannot be branched from, or not be ranked."""


class PlanFile(Model):
    """A file that planned rollouts are from."""

    path: str
    format: str
    size: int


class PlanSource(Model):
    """What was planned from, and with which of the options of `audit` it was read.

    `digest` is a SHA-256 over the groups of the planned steps, whatever file they are in.
    """

    paths: list[str]
    files: list[PlanFile]
    digest: str
    trainer: str | None = None
    group: str | None = None
    mapping: dict[str, str] = Field(default_factory=dict)
    tokenizer: str | None = None


class Counts(Model):
    """How many there are, over all planned steps.

    `groups` are those of two rollouts or more of one prompt; of them `triggered` ones have a verdict on every rollout,
    tool-using rollouts, and no correct one among these. Of their tool-using rollouts `candidates` can be ranked and
    branched from. `slots` is what the budget buys, `selected` what was taken of it, and `reached` counts the triggered
    groups that got a slot.
    """

    groups: int
    rollouts: int
    triggered: int
    tool_using: int
    candidates: int
    slots: int
    selected: int
    reached: int


class StepBudget(Model):
    """The same for one step of one run: nothing is carried over from one to another."""

    run: str | None
    step: int | None
    groups: int
    rollouts: int
    triggered: int
    candidates: int
    slots: int
    selected: int


class Budget(Model):
    """Prefixes needed and given, and the continuations that are to be sampled, also as a share of all rollouts.

    `needed_first` is one for each triggered group, `needed_all` all candidates.
    """

    needed_first: int
    needed_all: int
    given: int
    continuations: int
    share: float | None


class Expectation(Model):
    """How many groups are expected to recover if each continuation is correct with probability `p`, independently."""

    p: float
    assumption: str
    groups: float


class Exactness(Model):
    """How many of the prefixes are token ids as they were sampled, and how many are text, and so retokenised."""

    token_exact: int
    text_retokenised: int


class Header(Model):
    """The first line of a plan.

    `rule` is the rule of correctness where one was given, and `correct` the one in force with how it was come by.
    `notes` say what is not as in the paper. `digest` is a SHA-256 over all other lines, and this one without it.
    """

    schema_name: Literal["gapscope.plan/1"] = Field(default=SCHEMA, alias="schema")
    kind: Literal["header"] = "header"
    version: str
    options: PlanOptions
    departures: list[Departure]
    rule: str | None
    correct: str
    source: PlanSource
    counts: Counts
    steps: list[StepBudget]
    budget: Budget
    noncandidates: dict[Unusable, int]
    groups_left_out: dict[str, int]
    duplicates: int
    expected_recovered: list[Expectation]
    exactness: Exactness
    logprob_source: dict[str, int]
    notes: list[str]
    digest: str


class Origin(Model):
    """The row of the log that a prefix is of: `line` counts from 1, `offset` is its first byte (decompressed)."""

    file: str
    line: int
    offset: int | None
    output_index: int | None


class PrefixContent(Model):
    """What is frozen: everything up to and with the opening delimiter of the call.

    `exact` says that `token_ids` are those that were sampled: the first `n_prompt` are the prompt, the stretches
    [start, end) in `masked` were written by tools, and blanks that share the delimiter's last token are part of it.
    Otherwise there are none, and an endpoint has to tokenise text, which need not give the same tokens. `text` is all
    of the output before character `branch_char`. Where the log holds messages, `messages` are those of the prompt and
    those after it; where it holds calls apart from the text, the last one is what the assistant's turn begins with, and
    `delimited` is false: nothing in the log shows the delimiter.
    """

    exact: bool
    token_ids: list[int] | None
    n_tokens: int | None
    n_prompt: int | None
    masked: list[tuple[int, int]]
    prompt: str | None
    messages: Json
    text: str
    branch_char: int
    delimited: bool


class PlannedImage(Model):
    """An image that the policy saw, by the SHA-256 of its bytes, which are in `messages` where the log has them."""

    sha256: str
    media_type: str | None


class PlannedPrefix(Model):
    """One prefix to resample.

    `rank` is its place among the `candidates` of its group, from 1; `order` its place in the plan. `confidence` is in
    [0, 1], of the call that was sampled at first. `seeds` has one for each of the `k` continuations, consecutive, so
    that one request for `k` samples with the first of them is the same. `remaining_turns` counts the turn in which the
    prefix ends; it and `remaining_tokens` are null where no limit was given. `rollout_id` is the log's, or where it has
    none the name of the file and the line. `ground_truth`, `data_source` and `extra` are what rewards may need.
    """

    kind: Literal["prefix"] = "prefix"
    order: int
    id: str
    run: str | None
    step: int | None
    split: Split | None
    group_id: str
    rollout_id: str
    sample_index: int | None
    source: Origin
    call: int
    tool: str | None
    confidence: float | None
    rank: int
    candidates: int
    why: str
    k: int
    seeds: list[int]
    prefix: PrefixContent
    dialect: str | None
    images: list[PlannedImage]
    declared_tools: list[str] | None
    tools: Json
    sampling: Sampling
    remaining_turns: int | None
    remaining_tokens: int | None
    ground_truth: Json
    data_source: str | None
    extra: dict[str, Json]


class Plan(Model):
    """A plan as it is in memory."""

    header: Header
    prefixes: tuple[PlannedPrefix, ...]

    def to_jsonl(self) -> bytes:
        """The lines of the file, the header first; equal plans, equal bytes."""
        return line(self.header) + b"".join(map(line, self.prefixes))


def line(record: Header | PlannedPrefix) -> bytes:
    """One line of a plan."""
    return record.model_dump_json().encode() + b"\n"


def json_schema() -> dict[str, Json]:
    """The JSON Schema of one line of `gapscope.plan/1`: a header or a prefix."""
    either = Annotated[Header | PlannedPrefix, Field(discriminator="kind")]
    lines: TypeAdapter[Header | PlannedPrefix] = TypeAdapter(either)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA,
        "title": "One line of a plan of prefixes to resample",
        **lines.json_schema(mode="serialization"),
    }
