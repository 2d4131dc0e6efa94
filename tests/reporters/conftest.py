"""A report as an ordinary run gives it, and an empty one to be filled in by a test; both made by hand."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from gapscope.report import (
    Check,
    Correctness,
    FileReading,
    Finding,
    GroupCheck,
    Measurement,
    PassedOver,
    RefusedRows,
    Report,
    RowCounts,
    Survivorship,
    TableRow,
    Verdict,
)


def measure(name: str, value: float | None, n: int, of: str, **rest: Any) -> Measurement:
    return Measurement(name=name, value=value, n=n, of=of, **rest)


def by_step(values: list[float | None], n: int) -> list[TableRow]:
    return [{"step": step, "value": value, "n": n} for step, value in enumerate(values, start=1)]


def check(key: str, outcome: str, text: str, **rest: Any) -> Check:
    fields = {"op": "<=", "limit": 0.4, "mode": "point", "compared": None, "n": None, "interval": None, **rest}
    return Check.model_validate({"key": key, "outcome": outcome, "text": text, **fields})


def empty(**changes: Any) -> Report:
    """A report of one step with nothing in it but what `changes` says; metrics are given as a list."""
    metrics: list[Measurement] = changes.pop("metrics", [])
    fields: dict[str, Any] = {
        "version": "0.1.0",
        "sources": ["run.jsonl"],
        "formats": [FileReading(format="verl_v1", producer="verl", dialect="hermes", files=1, rows=8, evidence="uid")],
        "passed_over": [],
        "rows": RowCounts(read=8, kept=8, refused=0, padding=0, duplicate=0),
        "rollouts": 8,
        "sub_outputs": 0,
        "same_text": 0,
        "refused": [],
        "repairs": {},
        "scope": "train",
        "steps": [1],
        "runs": ["run"],
        "data_sources": [],
        "groups": GroupCheck(key="uid", groups=2, eligible=2, size=4, sizes={"4": 2}, excluded={}),
        "correctness": Correctness(rule="acc", chosen="column", known=8, unknown=0),
        "survivorship": Survivorship(biased=False, reason=None, expected_uniform=None, observed_uniform=0),
        "error_markers": {},
        "options": {},
        "metrics": {one.name: one for one in metrics},
        "findings": [],
        "dead_groups": [],
    }
    return Report(**{**fields, **changes})


@pytest.fixture
def bare() -> Callable[..., Report]:
    return empty


@pytest.fixture
def measured() -> Callable[..., Measurement]:
    return measure


@pytest.fixture
def small() -> Report:
    """Eight rollouts of which little can be said, and a gate that does not say it."""
    return a_small_report()


@pytest.fixture
def ordinary() -> Report:
    return an_ordinary_report()


ATTEMPTS: list[float | None] = [
    0.44, 0.45, 0.43, 0.44, 0.42, 0.41, 0.42, 0.40, 0.38, 0.39, 0.37, 0.36, 0.36, 0.34, 0.33, 0.33, 0.31, 0.30,
    0.31, 0.29, 0.27, 0.28, 0.26, 0.25, 0.25, 0.23, 0.22, 0.23, 0.21, 0.21, 0.20, 0.19,
]  # fmt: skip
DEAD_ENDS: list[float | None] = [
    0.31, 0.29, 0.33, 0.30, 0.34, None, 0.33, 0.36, 0.35, 0.38, 0.37, 0.39, 0.38, 0.41, 0.40, 0.42, 0.41, 0.44,
    0.43, 0.45, 0.44, 0.46, 0.47, 0.45, 0.48, 0.49, 0.48, 0.50, 0.51, 0.50, 0.53, 0.52,
]  # fmt: skip


def an_ordinary_report() -> Report:
    """A verl run of 32 steps, 512 groups of eight: tools are used less and less, and fail together."""
    return empty(
        version="0.1.0",
        sources=["logs/rollouts"],
        formats=[
            FileReading(format="verl_v1", producer="verl 0.7", dialect="hermes", files=32, rows=4103, evidence="uid")
        ],
        passed_over=[
            PassedOver(path="logs/rollouts/README.md", reason="no format claims it", unreadable=False),
            PassedOver(path="logs/rollouts/33.jsonl.zst", reason="zstd: frame is cut off", unreadable=True),
        ],
        rows=RowCounts(read=4103, kept=4096, refused=3, padding=4, duplicate=0),
        rollouts=4096,
        same_text=35,
        refused=[
            RefusedRows(reason="`score` is missing", rows=2, file="logs/rollouts/7.jsonl", line=41, excerpt="{"),
            RefusedRows(reason="not JSON: unexpected end", rows=1, file="logs/rollouts/32.jsonl", line=128, excerpt=""),
        ],
        repairs={"nan_read_as_null": 12},
        steps=list(range(1, 33)),
        data_sources=["geometry3k", "vstar"],
        groups=GroupCheck(
            key="uid",
            groups=512,
            eligible=504,
            size=8,
            sizes={"8": 504, "7": 8},
            excluded={"partial correctness": 8},
        ),
        correctness=Correctness(rule="acc", chosen="column", known=4088, unknown=8),
        metrics=_metrics(),
        findings=[
            Finding(
                severity="problem",
                title="Tool use is a dead end more often than chance explains",
                text="In 41.3 % of the 346 groups that used a tool, no tool-using rollout is correct "
                "(95 % 36.2–46.5 %); subgroup size and difficulty alone would give 35.6 %.",
                action="Plan a resampling of the tool prefixes: gapscope plan logs/rollouts -o plan.jsonl",
                metrics=["all_wrong_tool_group_rate", "all_wrong_tool_excess", "all_wrong_tool_p"],
            ),
            Finding(
                severity="warning",
                title="Tool use is collapsing",
                text="tool_attempt_rate fell from a median of 43.5 % in the first 4 steps to 20.5 % in the last 4; "
                "it has stayed below half of its beginning since step 29.",
                action="Look for a length or format penalty that taxes tool calls; compare rewards with and without.",
                metrics=["collapse[tool_attempt_rate]"],
            ),
            Finding(
                severity="note",
                title="Most failed calls are the model's own",
                text="9.1 % of 2,310 attempted calls are malformed or name no declared tool, against 4.2 % that the "
                "environment failed.",
                metrics=["tool_model_fault_rate", "tool_env_fault_rate"],
            ),
            Finding(
                severity="good",
                title="Groups look right",
                text="504 of 512 groups have all 8 rollouts of one prompt.",
                metrics=["group_short_rate"],
            ),
        ],
        dead_groups=[
            {
                "run": "grpo-7b",
                "step": step,
                "group": group,
                "data_source": None,
                "rollouts": 8,
                "tool_using": tools,
                "correct": correct,
                "file": f"logs/rollouts/{step}.jsonl",
                "line": 8 * correct + 1,
            }
            for step, group, tools, correct in [
                (1, "6f1c0a52-11aa-4b8e-9d30-5a3b1f0f7c11", 3, 2),
                (1, "0d8811be-90f4-44d7-8a53-77e2a3d0b6a4", 1, 5),
                (2, "c2b7e9a3-5b1f-4c55-8f0e-3c8bb04d9e77", 4, 0),
                (2, "4d7f31c0-0b7e-4b43-bd0c-18f6c2b19a90", 2, 4),
                (3, "e9a15d66-2f0b-4a2a-9f7c-6f1f7b9d2e08", 2, 1),
                (3, "1b9c2d4e-8f7a-4c3b-a2d1-0e9f8a7b6c5d", 5, 0),
            ]
        ],
        verdict=Verdict(
            exit_code=1,
            text="The gate failed: 1 of 3 checks failed, 1 passed, 1 was skipped.",
            checks=[
                check(
                    "tool_attempt_rate",
                    "passed",
                    "tool_attempt_rate: lower bound 0.2967 >= 0.2 (n 4,096)",
                    op=">=",
                    limit=0.2,
                    mode="bound",
                    compared=0.2967,
                    n=4096,
                ),
                check(
                    "all_wrong_tool_group_rate",
                    "failed",
                    "all_wrong_tool_group_rate: 0.41329 is not <= 0.4 (n 346)",
                    compared=0.413295,
                    n=346,
                    interval=(0.3623, 0.4651),
                    hint="gapscope plan logs/rollouts -o plan.jsonl",
                ),
                check("wasted_token_share", "skipped", "wasted_token_share: unobserved, the log has no token counts"),
            ],
        ),
    )


def a_small_report() -> Report:
    tried = "groups with a tool-using rollout"
    thin = {"status": "thin", "reason": "only 7 groups, fewer than 20"}

    def unobserved(name: str, of: str, reason: str, setting: str | None = None) -> Measurement:
        return measure(name, None, 0, of, status="unobserved", reason=reason, setting=setting)

    return empty(
        metrics=[
            measure(
                "tool_attempt_rate",
                15 / 32,
                32,
                "rollouts",
                interval=(0.208241, 0.729259),
                table=by_step([0.5, None, 0.25], 16),
            ),
            measure("all_wrong_tool_group_rate", 4 / 7, 7, tried, interval=(0.250458, 0.841780), **thin),
            measure("all_wrong_tool_expected", 11 / 28, 7, tried, **thin),
            measure("all_wrong_tool_excess", 5 / 28, 7, tried, unit="difference", **thin),
            unobserved("all_wrong_tool_p", "informative groups", "only 4 informative groups, fewer than 10"),
            unobserved("all_wrong_notool_group_rate", "groups", "no group has a rollout without a call"),
            measure("accuracy", 15 / 32, 32, "rollouts", interval=(0.208241, 0.729259)),
            measure("truncation_rate", 0.0, 32, "rollouts", better="lower"),
            measure("pass_at_k[1]", 0.46875, 8, "groups with 1 rollouts"),
            measure("pass_at_k[2]", 0.6875, 8, "groups with 2 rollouts"),
            unobserved("wasted_token_share", "tokens", "the log has no token counts", "log_tokens=true"),
        ],
        findings=[
            Finding(
                severity="problem",
                title="Dead ends",
                text="In 57.1 % of 7 groups every tool-using rollout is wrong.",
                action="gapscope plan run.jsonl",
                metrics=["all_wrong_tool_group_rate"],
            ),
            Finding(severity="good", title="Groups look right", text="2 of 2 groups have 4 rollouts."),
        ],
        verdict=Verdict(
            exit_code=2,
            text="Could not judge 1 of 1 limits.",
            checks=[
                check(
                    "all_wrong_tool_group_rate",
                    "could_not_judge",
                    "all_wrong_tool_group_rate <= 0.4 cannot be judged: only 7 groups",
                    n=7,
                    hint="Log more groups.",
                ),
            ],
        ),
    )


METRICS = """
tool_attempt_rate                    0.3177    4096  rollouts                                     0.2967 0.3388
tool_attempt_group_rate              0.6865    504   eligible groups                              0.6448 0.7256
tool_parsed_rate                     0.2993    4096  rollouts                                     0.279 0.3196
tool_executed_rate                   0.2961    4096  rollouts                                     0.2759 0.3163
tool_in_think_rate                   0         4096  rollouts                                     0 0.0009
tool_calls_per_rollout               0.564     4096  rollouts                                     0.5195 0.6085  ratio
accuracy                             0.4712    4088  rollouts with a verdict                      0.447 0.4954
tool_accuracy                        0.3912    1298  tool-using rollouts with a verdict           0.3548 0.4276
notool_accuracy                      0.5084    2790  other rollouts with a verdict                0.4825 0.5343
tool_within_group_delta              -0.041    1201  tool-using rollouts of mixed groups          -  difference
all_wrong_tool_group_rate            0.413295  346   groups with a tool-using rollout             0.3623 0.4651
all_wrong_notool_group_rate          0.2481    496   groups with a rollout that used no tool      0.2121 0.2879
all_wrong_tool_expected              0.3561    346   groups with a tool-using rollout             -
all_wrong_tool_excess                0.0572    346   groups with a tool-using rollout             -  difference
all_wrong_tool_p                     0.0031    211   informative groups                           -  p
all_wrong_notool_expected            0.2513    496   groups with a rollout that used no tool      -
all_wrong_notool_excess              -0.0032   496   groups with a rollout that used no tool      -  difference
all_wrong_notool_p                   0.6121    211   informative groups                           -  p
all_wrong_gap                       0.1652    504   eligible groups                              0.112 0.219  difference
group_census                         504       504   eligible groups                              -  count
group_all_wrong_rate                 0.1726    504   eligible groups                              0.1422 0.2081
group_all_correct_rate               0.0992    504   eligible groups                              0.0761 0.1284
group_mixed_rate                     0.7282    504   eligible groups                              0.6877 0.7652
group_zero_signal_rate               0.2718    504   eligible groups                              0.2348 0.3123
tool_signal_negative_share           0.4661    1290  tool-using rollouts of eligible groups       0.43 0.502
tool_signal_zero_share               0.2311    1290  tool-using rollouts of eligible groups       0.197 0.265
pass_at_k[1]                         0.4712    504   groups with 1 rollouts                       0.446 0.496
pass_at_k[2]                         0.6021    504   groups with 2 rollouts                       0.574 0.63
pass_at_k[4]                         0.7243    504   groups with 4 rollouts                       0.694 0.753
pass_at_k[8]                         0.8274    504   groups with 8 rollouts                       0.794 0.86
tool_pass_at_k[1]                    0.3912    346   groups with 1 tool-using rollouts            0.351 0.432
tool_pass_at_k[2]                    0.5077    281   groups with 2 tool-using rollouts            0.456 0.557
tool_pass_at_k[4]                    0.6102    140   groups with 4 tool-using rollouts            0.532 0.687
notool_pass_at_k[1]                  0.5084    496   groups with 1 rollouts that used no tool     0.482 0.535
notool_pass_at_k[2]                  0.6288    481   groups with 2 rollouts that used no tool     0.599 0.659
notool_pass_at_k[4]                  0.7391    402   groups with 4 rollouts that used no tool     0.706 0.772
tool_calls[image_zoom_in]            1660      2101  calls with a readable name                   -  count
tool_calls[python]                   403       2101  calls with a readable name                   -  count
tool_calls[search]                   38        2101  calls with a readable name                   -  count
tool_failure_rate[image_zoom_in]     0.0843    1660  calls of image_zoom_in                       0.068 0.101
tool_failure_rate[python]            0.2109    403   calls of python                              0.16 0.26
tool_failure_rate[search]            0.5       38    calls of search                              0.31 0.69
tool_accuracy[image_zoom_in]         0.4125    1020  rollouts that call image_zoom_in             0.37 0.455
tool_accuracy[python]                0.3311    296   rollouts that call python                    0.27 0.39
tool_accuracy[search]                0.2       25    rollouts that call search                    0.04 0.36
tool_model_fault_rate                0.0909    2310  attempted calls                              0.079 0.103
tool_env_fault_rate                  0.0416    2310  attempted calls                              0.033 0.05
tool_outcome[in_think]               0         2310  attempted calls                              -
tool_outcome[opened_not_closed]      0.0234    2310  attempted calls                              -
tool_outcome[unparseable]            0.0303    2310  attempted calls                              -
tool_outcome[unknown_tool]           0         2310  attempted calls                              -
tool_outcome[bad_arguments]          0.0372    2310  attempted calls                              -
tool_outcome[no_result]              0.0104    2310  attempted calls                              -
tool_outcome[timeout]                0.0052    2310  attempted calls                              -
tool_outcome[executed_error]         0.026     2310  attempted calls                              -
tool_outcome[executed_ok]            0.8675    2310  attempted calls                              -
turns_mean                           1.52      4096  rollouts                                     1.47 1.57  ratio
truncation_rate                      0.0571    4096  rollouts with a finish reason                0.047 0.067
truncation_rate_tool                 0.0986    1298  tool-using rollouts with a finish reason     0.077 0.12
truncation_rate_notool               0.0382    2798  other rollouts with a finish reason          0.03 0.047
turn_limit_rate                      0         4096  rollouts with a finish reason                0 0.0009
abort_rate                           0         4096  rollouts with a finish reason                0 0.0009
trend[tool_attempt_rate]             -0.00851  32    steps                                        -  slope
trend[tool_calls_per_rollout]        -0.0152   32    steps                                        -  slope
trend[accuracy]                      0.00214   32    steps                                        -  slope
trend[all_wrong_tool_group_rate]     0.00741   32    steps                                        -  slope
collapse[tool_attempt_rate]          1         32    steps                                        -  flag
collapse[tool_calls_per_rollout]     0         32    steps                                        -  flag
never_used                           0         4096  rollouts                                     -  flag
axpo_trigger_rate                    0.283730  504   eligible groups                              0.2461 0.3247
"""
TREND_P = {"tool_attempt_rate": 1e-12, "tool_calls_per_rollout": 1e-11, "accuracy": 0.0312}
BIASED = ("all_wrong_tool_", "group_all_", "group_mixed_", "group_zero_", "axpo_")
LACKING = (
    (
        "no token counts",
        "verl >= 0.7",
        "wasted_token_share response_tokens_mean response_tokens_p50",
    ),
    ("no log-probs", "calculate_log_probs=True", "tool_confidence_mean tool_surprisal_mean tool_entropy_at_tag"),
    ("no list of declared tools", None, "tool_unused"),
)


def _metrics() -> list[Measurement]:
    tables = {
        "tool_attempt_rate": by_step(ATTEMPTS, 128),
        "all_wrong_tool_group_rate": by_step(DEAD_ENDS, 11),
        "group_census": _census(),
    }
    slices = {
        "tool_attempt_rate": ((0.2241, 2304), (0.4381, 1792)),
        "all_wrong_tool_group_rate": ((0.5, 150), (0.3469, 196)),
    }
    found = []
    for line in METRICS.strip().splitlines():
        name, value, n, of, interval, *unit = re.split(r"\s{2,}", line)
        extra: dict[str, Any] = {"unit": unit[0]} if unit else {}
        if interval != "-":
            extra["interval"] = tuple(map(float, interval.split()))
        if name.startswith(BIASED):
            extra |= {"status": "annotated", "reason": "dynamic sampling drops groups without variance"}
        if name.startswith("trend"):
            extra["details"] = {"p": TREND_P.get(name[6:-1], 1e-9)}
        if name in slices:
            rows = zip(("geometry3k", "vstar"), slices[name], strict=True)
            extra["by"] = {"data_source": [{"data_source": key, "value": v, "n": n} for key, (v, n) in rows]}
        found.append(measure(name, float(value), int(n), of, table=tables.get(name, []), **extra))
    for reason, setting, names in LACKING:
        rest = {"status": "unobserved", "reason": f"the log has {reason}", "setting": setting}
        found += [measure(name, None, 0, "rollouts", **rest) for name in names.split()]
    return found


def _census() -> list[TableRow]:
    counted = {
        ("none", "all_wrong"): 34,
        ("none", "mixed"): 96,
        ("none", "all_correct"): 28,
        ("all_wrong", "none"): 3,
        ("all_wrong", "all_wrong"): 50,
        ("all_wrong", "mixed"): 83,
        ("all_wrong", "all_correct"): 7,
        ("mixed", "none"): 5,
        ("mixed", "all_wrong"): 31,
        ("mixed", "mixed"): 92,
        ("mixed", "all_correct"): 6,
        ("all_correct", "all_wrong"): 8,
        ("all_correct", "mixed"): 39,
        ("all_correct", "all_correct"): 22,
    }
    return [{"tool": tool, "notool": notool, "groups": groups} for (tool, notool), groups in counted.items()]
