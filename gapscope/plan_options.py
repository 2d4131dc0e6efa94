"""The options that a plan and the advantages after it depend on, under the names of axpo, section 6."""

from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, PlainSerializer, field_validator, model_validator

from gapscope.report import Model, Scalar

ToolUsing = Literal["attempted", "parsed", "executed"]
Span = Literal["first_call_with_tags", "first_call_no_tags", "all_calls"]
"""Over which tokens confidence is averaged: the call with its delimiters, without them, or all calls with theirs."""
Mean = Literal["arithmetic", "geometric"]
"""How: the mean of the probabilities, or exp of the mean log-prob. The two can order prefixes differently."""
Rank = Literal["uncertainty", "random"]
Order = Literal["batch", "global_confidence"]
"""Whose turn it is within a pass over the questions: that of the batch, or the least sure candidate's first."""
PresetName = Literal["default", "verl", "rllm", "trl"]
Substitution = Literal["self", "joint"]
Weighting = Literal["per_term_mean", "token_mean", "question_sum"]
Guided = Literal["none", "json"]
Attributed = Literal["source", "resampled"]


def decimal_text(number: Decimal) -> str:
    """A decimal number as people write it."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


Share = Annotated[Decimal, PlainSerializer(decimal_text, return_type=str)]
"""A number that was written as a decimal, and is never a binary float."""

Count = Annotated[int, Field(ge=1, lt=2**31)]
MOST_CONTINUATIONS = 2**16
"""Of one prefix; each has its own seed."""


class CandidateOptions(Model):
    """Which tool-using rollouts may be branched from."""

    require_closed: bool = True


class ConfidenceOptions(Model):
    """Which confidence ranks them (axpo, section 2.4)."""

    span: Span = "first_call_with_tags"
    mean: Mean = "arithmetic"


class AllocationOptions(Model):
    """Whose turn it is when slots run out within a pass (axpo, section 2.5)."""

    order: Order = "batch"


class AdvantageOptions(Model):
    """The deviation that advantages are divided by (axpo, section 3.3); `ddof` and `eps` go before the preset's."""

    preset: PresetName = "default"
    ddof: Literal[0, 1] | None = None
    eps: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class RecoveryOptions(Model):
    """What counts as recovery in Eq. 3, and to which tool it is attributed."""

    require_executed: bool = False
    tool: Attributed = "source"


class Sampling(Model):
    """How continuations are sampled; the names are vLLM's. `max_tokens` limits the tokens of a rollout's output."""

    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=-1, ge=-1)
    min_p: float = Field(default=0.0, ge=0, le=1)
    max_tokens: Count | None = None


class PlanOptions(Model):
    """Everything that a plan and the advantages after it depend on; the defaults are the readings closest to the paper.

    `k` continuations for each prefix, and in all at most the share `r` of a step's rollouts, a decimal number.
    `branch_call` is the first attempted call, or the N-th, counted from 1, which is not AXPO. `max_turns` is the limit
    of the trainer. `success` is the chance of a continuation that expected recovery is stated for. `seed` seeds the
    continuations, and the order where `rank` is random.
    """

    k: int = Field(default=4, ge=2, le=MOST_CONTINUATIONS)
    r: Share = Field(default=Decimal("0.25"), ge=0, allow_inf_nan=False)
    tool_using: ToolUsing = "attempted"
    branch_call: Literal["first"] | Count = "first"
    candidate: CandidateOptions = CandidateOptions()
    confidence: ConfidenceOptions = ConfidenceOptions()
    rank: Rank = "uncertainty"
    allocation: AllocationOptions = AllocationOptions()
    substitution: Substitution = "self"
    advantage: AdvantageOptions = AdvantageOptions()
    weighting: Weighting = "per_term_mean"
    guided_decoding: Guided = "none"
    correctness: str | None = None
    recovery: RecoveryOptions = RecoveryOptions()
    step: str = "last"
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    sampling: Sampling = Sampling()
    max_turns: Count | None = None
    success: float | None = Field(default=None, ge=0, le=1)

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @field_validator("r", mode="before")
    @classmethod
    def _as_written(cls, value: object) -> object:
        """0.29 is 29/100: a float is taken as it is written."""
        return repr(value) if isinstance(value, float) else value

    @model_validator(mode="after")
    def _random_is_seeded(self) -> Self:
        if self.rank == "random" and self.seed is None:
            message = "a random rank needs a seed"
            raise ValueError(message)
        return self


class Departure(Model):
    """An option that is not at its default, and what the method is called then where it is no longer AXPO."""

    option: str
    value: Scalar
    default: Scalar
    label: str | None = None


LABELS: dict[str, str] = {
    "branch_call": "experimental, not AXPO: a later call is branched at",
    "guided_decoding": "not AXPO: a grammar constrains the resampled call",
    "recovery.require_executed": "not AXPO: recovered only if the call was executed",
    "rank": "AXPO without uncertainty rank (arXiv:2605.28774, table 2)",
}
"""What the method is called when one of these options is not at its default."""

_NO_METHOD = frozenset({"step", "seed", "sampling", "max_turns", "success", "correctness"})
"""Options that say what is planned, and not how."""


def departures(options: PlanOptions) -> list[Departure]:
    """The options of the method that are not at their defaults."""
    default = flat(PlanOptions())
    return [
        Departure(option=name, value=value, default=default[name], label=LABELS.get(name))
        for name, value in flat(options).items()
        if value != default[name] and name.split(".")[0] not in _NO_METHOD
    ]


def flat(options: PlanOptions) -> dict[str, Scalar]:
    """Options by their full names, `confidence.span` for example."""
    found: dict[str, Scalar] = {}
    for name, value in options.model_dump(mode="json").items():
        if isinstance(value, dict):
            found |= {f"{name}.{key}": item for key, item in value.items()}
        else:
            found[name] = value
    return found
