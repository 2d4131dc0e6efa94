"""One rule decides the verdict and the exit code."""

from pathlib import Path

import pytest

import gapscope as gs
from gapscope.config import Limits
from gapscope.gate import Limit, judge, limits_of

SAMPLES = Path(__file__).parent.parent / "sample_logs"
RATE = "all_wrong_tool_group_rate"


@pytest.fixture(scope="module")
def collapse() -> gs.Report:
    return gs.audit(SAMPLES / "collapse")


@pytest.fixture(scope="module")
def thin() -> gs.Report:
    return gs.audit(SAMPLES / "verl-legacy")


def verdict(report: gs.Report, *limits: Limit, **options: object) -> gs.Verdict:
    return judge(report, limits, **options)  # type: ignore[arg-type]


def test_a_limit_is_passed_at_the_value_itself_and_failed_just_below_it(collapse: gs.Report) -> None:
    value = collapse[RATE].value
    assert value is not None
    assert verdict(collapse, Limit(RATE, "<=", value)).exit_code == 0
    failed = verdict(collapse, Limit(RATE, "<=", value - 1e-15))
    assert failed.exit_code == 1
    assert failed.checks[0].compared == value


def test_the_numbers_in_a_failure_show_as_many_digits_as_decide(collapse: gs.Report) -> None:
    value = collapse[RATE].value
    assert value is not None
    text = verdict(collapse, Limit(RATE, "<=", value - 1e-12)).checks[0].text
    shown = float(text.split("value ")[1].split(" ")[0])
    assert shown > value - 1e-12


def test_the_bound_mode_compares_the_adverse_end_of_the_interval(collapse: gs.Report) -> None:
    low, high = collapse[RATE].interval or (0.0, 0.0)
    assert verdict(collapse, Limit(RATE, "<=", high), mode="bound").exit_code == 0
    assert verdict(collapse, Limit(RATE, "<=", (high + low) / 2), mode="bound").exit_code == 1
    assert verdict(collapse, Limit(RATE, ">=", low), mode="bound").exit_code == 0
    assert verdict(collapse, Limit(RATE, ">=", (high + low) / 2), mode="bound").exit_code == 1


def test_parts_of_a_metric_can_be_limited(collapse: gs.Report) -> None:
    measured = collapse[RATE]
    low, high = measured.interval or (0.0, 0.0)
    limits = [Limit(f"{RATE}.lo", ">=", low), Limit(f"{RATE}.hi", "<=", high), Limit(f"{RATE}.n", ">=", measured.n)]
    assert verdict(collapse, *limits).exit_code == 0
    assert verdict(collapse, Limit(f"{RATE}.n", ">=", measured.n + 1)).exit_code == 1


def test_details_and_members_of_families_can_be_limited(collapse: gs.Report) -> None:
    limits = [
        Limit("trend[tool_attempt_rate].p", "<=", 0.05),
        Limit("trend[tool_attempt_rate].slope", "<=", 0.0),
        Limit("collapse[tool_attempt_rate]", ">=", 1),
        Limit("pass_at_k[4]", ">=", 0.5),
        Limit("tool_failure_rate[calculator]", "<=", 0.9),
    ]
    assert [check.outcome for check in verdict(collapse, *limits).checks] == ["passed"] * 5


@pytest.mark.parametrize(("policy", "code"), [("error", 2), ("fail", 1), ("skip", 0)])
def test_a_metric_that_is_not_observed_is_judged_by_policy(collapse: gs.Report, policy: str, code: int) -> None:
    assert verdict(collapse, Limit("truncation_rate", "<=", 0.1), on_unobserved=policy).exit_code == code


@pytest.mark.parametrize(("policy", "code"), [("error", 2), ("fail", 1), ("skip", 0)])
def test_a_thin_metric_counts_as_unobserved(thin: gs.Report, policy: str, code: int) -> None:
    result = verdict(thin, Limit(RATE, "<=", 0.9), on_unobserved=policy)
    assert result.exit_code == code
    assert "only 4 groups" in result.checks[0].text


def test_too_few_groups_are_not_judged(collapse: gs.Report) -> None:
    assert verdict(collapse, Limit(RATE, "<=", 0.9), min_groups=320).exit_code == 0
    result = verdict(collapse, Limit(RATE, "<=", 0.9), min_groups=321)
    assert result.exit_code == 2
    assert "only 320 eligible groups" in result.checks[0].text


def test_a_failed_check_outweighs_one_that_cannot_be_judged(collapse: gs.Report) -> None:
    assert verdict(collapse, Limit("truncation_rate", "<=", 0.1), Limit(RATE, "<=", 0.0)).exit_code == 1


def test_an_unreadable_file_outweighs_everything(collapse: gs.Report) -> None:
    lost = collapse.model_copy(update={"passed_over": [_passed_over()]})
    assert verdict(lost, Limit(RATE, "<=", 0.0)).exit_code == 2


def _passed_over() -> object:
    from gapscope.report import PassedOver

    return PassedOver(path="7.jsonl", reason="Permission denied", unreadable=True)


def test_a_member_of_a_family_that_this_log_lacks_cannot_be_judged(collapse: gs.Report) -> None:
    result = verdict(collapse, Limit("tool_failure_rate[telescope]", "<=", 0.1))
    assert (result.exit_code, result.checks[0].outcome) == (2, "could_not_judge")


def test_an_unknown_metric_is_an_error_with_near_misses(collapse: gs.Report) -> None:
    with pytest.raises(gs.UnknownName, match="all_wrong_tool_group_rat") as caught:
        verdict(collapse, Limit("all_wrong_tool_group_rat", "<=", 0.4))
    assert RATE in (caught.value.hint or "")


def test_limits_come_from_the_settings() -> None:
    limits = limits_of(Limits(max={RATE: 0.4}, min={"tool_attempt_rate": 0.2}))
    assert limits == [Limit(RATE, "<=", 0.4), Limit("tool_attempt_rate", ">=", 0.2)]
