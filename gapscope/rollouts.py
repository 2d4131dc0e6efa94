"""The one record that all parsers make, and its wire form `gapscope.rollout/1`.

One line of JSON is one rollout. Absent is null: never NaN, never 0.0 for something that was not logged.
Offsets count characters of `output`; token offsets count positions of `tokens`.
"""

from typing import Any, Literal

import msgspec

SCHEMA = "gapscope.rollout/1"

Json = Any
"""A value that JSON can hold; only ever carried, never looked into."""

SpanKind = Literal["prompt", "think", "text", "tool_call", "tool_result", "answer"]
Split = Literal["train", "validation"]
GroupOrigin = Literal["logged", "order", "prompt", "field"]
Status = Literal["ok", "error", "truncated", "masked", "excluded", "padding"]
"""`masked` rows were not trained on, and are rollouts like any other. `excluded` ones are not: the log itself says
that they count for nothing, or they are of an agent that is not the policy. `padding` fills up a batch."""

Outcome = Literal[
    "in_think",
    "opened_not_closed",
    "unparseable",
    "unknown_tool",
    "bad_arguments",
    "no_result",
    "timeout",
    "executed_error",
    "executed_ok",
    "executed_unknown",
]

Need = Literal[
    "advantage",
    "correctness",
    "data_source",
    "declared_tools",
    "entropies",
    "finish_reason",
    "ground_truth",
    "group_id",
    "images",
    "logprobs",
    "reward",
    "reward_parts",
    "step",
    "token_ids",
    "tool_calls",
    "tool_results",
    "turns",
]
"""What a metric may need and a log may lack.

`tool_calls` and `tool_results` are carried by a log that holds them as text, too. `correctness` is a field that
says it, beside the reward.
"""


class Span(msgspec.Struct, frozen=True, gc=False):
    """A stretch of a rollout of one kind, half-open; `sampled` says whether the policy wrote it.

    `turn` is null for the prompt. The spans of `output`, in order, cover it without a gap.
    """

    kind: SpanKind
    turn: int | None
    start: int
    end: int
    sampled: bool
    token_start: int | None = None
    token_end: int | None = None


class Turn(msgspec.Struct, frozen=True, gc=False):
    """One model generation and the tool results that answer it."""

    index: int
    finish_reason: str | None = None
    policy_version: str | None = None


class CallTokens(msgspec.Struct, frozen=True, gc=False):
    """Where a call lies in `tokens`: [start, end) with its delimiters, [branch, body_end) without them.

    `branch` is the branch point of AXPO, the number of tokens up to and with the opening delimiter (axpo, section
    2.2). `mixed` says that the last token of that delimiter carries text of the call as well.
    """

    start: int
    branch: int
    body_end: int
    end: int
    mixed: bool = False


class ToolCall(msgspec.Struct, frozen=True, gc=False):
    """One opening call delimiter in model-written text, and what became of it.

    An attempt is a call that is not `in_think`. `raw` is the body between the delimiters, in `output` from
    `body_start` on; `tokens` is null where it is not known which tokens the call is made of. `result` and
    `result_span` (an index into `spans`) are null when nothing answered it. `outcome` is the class of
    metrics section 3, exactly one per call; `truncated` is null where the log has no finish reason.
    """

    index: int
    turn: int
    span: int | None
    raw: str
    name: str | None
    arguments: Json
    opened: bool
    closed: bool
    parsed: bool
    executed: bool
    in_think: bool
    outcome: Outcome
    result: str | None = None
    result_span: int | None = None
    truncated: bool | None = None
    empty_result: bool = False
    repeated: bool = False
    body_start: int | None = None
    tokens: CallTokens | None = None


class RewardPart(msgspec.Struct, frozen=True, gc=False):
    """One named component of a reward, unweighted; `weight` is null where the log does not say it."""

    name: str
    value: float | None
    weight: float | None = None


EntropyKind = Literal["full", "topk", "nll"]
"""`full` is over the whole vocabulary; `topk` are bounds from the k likeliest tokens; `nll` is −ln p of the token."""


class Tokens(msgspec.Struct, frozen=True, gc=False):
    """The tokens of prompt and output: parallel arrays, null at positions that have no value.

    A log has `ids`, or only the `strings` of its tokens. The first `n_prompt` are the prompt. `sampled` is true where
    the policy wrote the token. `logprobs` are natural logs under the policy that sampled, as the engine gave them;
    where a model has scored the rollout afterwards, `logprob_source` is `rescored` and `scored_by` names it.
    `trainer_logprobs` are the trainer's own for the same tokens. `entropy_kind` is mandatory beside `entropies`, in
    nats; those of kind `topk` are lower bounds, with the upper ones in `entropy_uppers`. `retokenised` says that the
    ids were made from text, and need not be those that were sampled.
    """

    ids: list[int] | None = None
    n_prompt: int | None = None
    logprobs: list[float | None] | None = None
    logprob_source: str | None = None
    entropies: list[float | None] | None = None
    entropy_kind: EntropyKind | None = None
    sampled: list[bool] | None = None
    strings: list[str] | None = None
    entropy_uppers: list[float | None] | None = None
    trainer_logprobs: list[float | None] | None = None
    scored_by: str | None = None
    retokenised: bool = False

    def __len__(self) -> int:
        """How many tokens there are."""
        return len(self.ids if self.ids is not None else self.strings or ())


class Image(msgspec.Struct, frozen=True, gc=False):
    """An image that the policy saw, by the SHA-256 of its bytes."""

    sha256: str
    media_type: str | None = None


class Parent(msgspec.Struct, frozen=True, gc=False):
    """Where a resampled rollout branched off: the source rollout, and the end of the frozen prefix."""

    rollout_id: str
    branch_char: int | None = None
    branch_token: int | None = None
    prefix_id: str | None = None


class Source(msgspec.Struct, frozen=True, gc=False):
    """The row that a rollout was read from: `line` counts from 1, `offset` is its first byte (decompressed)."""

    file: str
    line: int
    offset: int | None = None


Place = tuple[int, int]
"""Where a rollout stands in its file: its first byte, or its line where there are no bytes, and its `output_index`."""


class Rollout(msgspec.Struct, kw_only=True, gc=False, tag_field="schema", tag=SCHEMA):
    """One complete attempt at a prompt.

    `group_id` names the rollouts that were compared with one another, inside one run, split and step;
    `group_origin` says how it is known. `reward` is the total as logged; `correct` is set only by a log
    that states it together with `correct_rule`. `output_index` counts the sub-outputs of one session.
    `output_origin` is `joined` when the log held messages and `output` is merely their concatenation.
    `source` is the row this was read from; `origin` is the trainer's own row when that file was a conversion.
    `declared_tools` are the names of the tools that the policy was offered, `tools` their definitions as logged, for
    logs that hold them apart from the prompt. `notes` name repairs that were needed to read the row.
    """

    format: str
    source: Source
    rollout_id: str | None = None
    run: str | None = None
    step: int | None = None
    split: Split | None = None
    group_id: str | None = None
    group_origin: GroupOrigin | None = None
    sample_index: int | None = None
    output_index: int | None = None
    status: Status | None = None
    finish_reason: str | None = None
    reward: float | None = None
    reward_parts: list[RewardPart] = []
    correct: bool | None = None
    correct_rule: str | None = None
    advantage: float | None = None
    ground_truth: Json = None
    data_source: str | None = None
    prompt: str | None = None
    messages: Json = None
    output: str = ""
    output_origin: Literal["logged", "joined"] = "logged"
    dialect: str | None = None
    declared_tools: list[str] | None = None
    tools: Json = None
    turns: list[Turn] = []
    spans: list[Span] = []
    calls: list[ToolCall] = []
    tokens: Tokens | None = None
    images: list[Image] = []
    parent: Parent | None = None
    origin: Source | None = None
    extra: dict[str, Json] = {}
    notes: list[str] = []

    @property
    def place(self) -> Place:
        """Where in its file it was read."""
        source = self.source
        return (source.line if source.offset is None else source.offset), self.output_index or 0


class Refused(msgspec.Struct, frozen=True, gc=False):
    """A row that could not be read, with the reason; stored, counted, and never silently dropped."""

    line: int
    offset: int | None
    reason: str
    excerpt: str = ""


def refuse(line: int, offset: int | None, reason: str, raw: bytes | str = b"") -> Refused:
    """A `Refused` whose excerpt is the printable beginning (80 characters) of the row."""
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    return Refused(line, offset, reason, "".join(c if c.isprintable() else "·" for c in text[:80]))


_encoder = msgspec.json.Encoder()


def to_json(rollout: Rollout) -> bytes:
    """One line of `gapscope.rollout/1`, without the newline."""
    return _encoder.encode(rollout)


def json_schema() -> dict[str, Json]:
    """The JSON Schema of one line of `gapscope.rollout/1`."""
    schema = msgspec.json.schema(Rollout)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA,
        "title": "One rollout, as gapscope exchanges it",
        **schema,
    }
