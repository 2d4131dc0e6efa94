"""Examples that can be checked by hand: one in every metric's file, and those of the metrics' reference."""

import ast
import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from example_notation import example_lines, log_of

import gapscope as gs
from gapscope.metrics import METRICS, Metric, family, known_keys
from gapscope.statistics import all_wrong_probability, pass_at_k, student_t_quantile, wilson

Audit = Callable[..., gs.Report]
SAMPLES = Path(__file__).parent.parent / "sample_logs"


@pytest.fixture(scope="module")
def measured(audit: Audit, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], gs.Report]:
    """The report on an example."""

    def run(text: str) -> gs.Report:
        return audit(log_of(text, tmp_path_factory.mktemp("example") / "rollouts.jsonl"))

    return run


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_the_example_of_a_metric_gives_its_numbers(metric: Metric, measured: Callable[[str], gs.Report]) -> None:
    report = measured(metric.example.rollouts)
    values = {name: report[name].value for name in metric.example.expected}
    assert values == pytest.approx(dict(metric.example.expected), rel=0, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_an_example_is_small_and_about_the_keys_of_its_metric(metric: Metric) -> None:
    assert 6 <= len(example_lines(metric.example.rollouts)) <= 10
    assert {family(name) for name in metric.example.expected} <= set(metric.keys)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_the_file_of_a_metric_explains_it(metric: Metric) -> None:
    path = Path(gs.__file__).parent / "metrics" / f"{metric.name}.py"
    assert metric.doc == ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")), clean=False)
    headings = re.findall(r"^\*\*(.+?)\.\*\* \S", metric.doc, re.MULTILINE)
    assert headings == ["What it measures", "Why it matters", "How to read it", "Reference"]
    assert metric.question.endswith("?")


@pytest.fixture(scope="module")
def names_measured(audit: Audit) -> set[str]:
    """The names of all measurements on samples that have the most of them; test_capabilities.py looks at all others."""
    reports = [audit(SAMPLES / name) for name in ("collapse", "resampled/resampled.jsonl", "deepeyes", "slime")]
    return {name for report in reports for name in report.metrics}


def test_every_number_measured_belongs_to_a_declared_key(names_measured: set[str]) -> None:
    assert {family(name) for name in names_measured} <= set(known_keys())


def test_every_declared_key_is_measured_on_some_sample(names_measured: set[str]) -> None:
    assert {family(name) for name in names_measured} >= set(known_keys())


# --- Metrics, section 13 ---------------------------------------------------------------------------------

FIX8 = """
group,tool,correct,t,c,a,b,tool_side,notool_side
G1,1000,0110,1,2,0,2,all_wrong,mixed
G2,1100,0010,2,1,0,1,all_wrong,mixed
G3,1000,0111,1,3,0,3,all_wrong,all_correct
G4,1110,0000,3,0,0,0,all_wrong,all_wrong
G5,1100,1111,2,4,2,2,all_correct,all_correct
G6,0000,1010,0,2,0,2,none,mixed
G7,1111,1001,4,2,2,0,mixed,none
G8,1100,1000,2,1,1,0,mixed,all_wrong
"""
FIX8_METRICS = """
key,value,numerator,denominator,lo,hi,interval
tool_attempt_rate,0.468750,15,32,0.208241,0.729259,cluster
tool_attempt_group_rate,0.875000,7,8,0.529112,0.977583,wilson
accuracy,0.468750,15,32,0.208241,0.729259,cluster
tool_accuracy,0.333333,5,15,0.000000,0.685729,cluster
notool_accuracy,0.588235,10,17,0.271700,0.904771,cluster
all_wrong_tool_group_rate,0.571429,4,7,0.250458,0.841780,wilson
all_wrong_notool_group_rate,0.285714,2,7,0.082219,0.641066,wilson
group_all_wrong_rate,0.125000,1,8,0.022417,0.470888,wilson
group_all_correct_rate,0.125000,1,8,0.022417,0.470888,wilson
group_mixed_rate,0.750000,6,8,0.409275,0.928521,wilson
group_zero_signal_rate,0.250000,2,8,0.071479,0.590725,wilson
tool_signal_negative_share,0.466667,7,15,0.090411,0.842922,cluster
tool_signal_zero_share,0.333333,5,15,,,
tool_signal_positive_share,0.200000,3,15,,,
wasted_token_share,0.265823,1050,3950,,,
axpo_trigger_rate,0.500000,4,8,0.215216,0.784784,wilson
"""
FIX8_ERRORS = """
key,error,clusters
tool_attempt_rate,0.110169,8
tool_accuracy,0.144016,7
notool_accuracy,0.129361,7
tool_signal_negative_share,0.153768,7
"""
FIX8_NULL = """
group,p_tool,obs_tool,p_notool,obs_notool,informative
G1,0.5,1,0,0,1
G2,0.5,1,0.5,0,1
G3,0.25,1,0,0,1
G4,1,1,1,1,0
G5,0,0,0,0,0
G6,,,0,0,0
G7,0,0,,,0
G8,0.5,0,0.5,1,1
"""
PASS_AT_K = """
n,c,k,value
8,3,1,0.375000
8,3,2,0.642857
8,3,4,0.928571
8,3,6,1.000000
4,1,2,0.500000
4,0,4,0.000000
"""
WILSON = """
x,n,lo,hi
0,20,0.000000,0.161125
20,20,0.838875,1.000000
3,25,0.041668,0.299558
4,7,0.250458,0.841780
1,2,0.094531,0.905469
1,4,0.045587,0.699358
3,7,0.158220,0.749542
"""
close = pytest.approx


def rows(table: str) -> list[dict[str, str]]:
    return list(csv.DictReader(table.strip().splitlines()))


def groups_of(table: str) -> Iterator[str]:
    """A line for each rollout of groups in the notation of FIX8."""
    for group in rows(table):
        for tool, correct in zip(group["tool"], group["correct"], strict=True):
            acts = "tool tokens=150" if tool == "1" else "- tokens=100"
            first, *rest = acts.split()
            yield " ".join((group["group"], first, "right" if correct == "1" else "wrong", *rest))


@pytest.fixture(scope="module")
def fix8(measured: Callable[[str], gs.Report]) -> gs.Report:
    return measured("\n".join(groups_of(FIX8)))


def test_every_metric_of_fix8_has_its_value_and_its_interval(fix8: gs.Report) -> None:
    for row in rows(FIX8_METRICS):
        found = fix8[row["key"]]
        assert found.value == close(float(row["value"]), abs=1e-6), row
        assert (found.numerator, found.n) == (float(row["numerator"]), int(row["denominator"])), row
        assert found.value == float(row["numerator"]) / int(row["denominator"]), row
        if row["interval"]:
            assert found.interval == close((float(row["lo"]), float(row["hi"])), abs=1e-6), row
            assert found.interval_method == row["interval"], row


def test_the_standard_errors_of_fix8_are_behind_its_intervals(fix8: gs.Report) -> None:
    for row in rows(FIX8_ERRORS):
        found = fix8[row["key"]]
        assert found.interval is not None
        assert found.value is not None
        assert found.details["clusters"] == int(row["clusters"])
        error = (found.interval[1] - found.value) / student_t_quantile(0.975, int(row["clusters"]) - 1)
        assert error == close(float(row["error"]), abs=1e-6), row


def test_the_census_of_fix8_has_its_seven_cells(fix8: gs.Report) -> None:
    expected: dict[tuple[str, str], int] = {}
    for row in rows(FIX8):
        cell = (row["tool_side"], row["notool_side"])
        expected[cell] = expected.get(cell, 0) + 1
    table = fix8["group_census"].table
    assert {(row["tool"], row["notool"]): row["groups"] for row in table if row["groups"]} == expected
    assert len(table) == 16
    assert fix8["group_census"].value == 8


def test_the_chances_of_the_groups_of_fix8_are_as_listed() -> None:
    for group, chance in zip(rows(FIX8), rows(FIX8_NULL), strict=True):
        n, t, c = len(group["tool"]), int(group["t"]), int(group["c"])
        for size, side in ((t, "tool"), (n - t, "notool")):
            assert (size > 0) == bool(chance[f"p_{side}"]), group
            if size:
                assert all_wrong_probability(n, c, size) == float(chance[f"p_{side}"]), group
        assert (0 < t < n and 0 < c < n) == (chance["informative"] == "1"), group


def test_the_null_of_fix8_on_the_tool_side(fix8: gs.Report) -> None:
    expected, excess, p = (fix8[f"all_wrong_tool_{what}"] for what in ("expected", "excess", "p"))
    assert (expected.value, expected.numerator, expected.n) == (close(11 / 28, abs=1e-12), close(11 / 4), 7)
    assert excess.value == close(5 / 28, abs=1e-12)
    assert excess.details == {"excess_informative": close(0.3125, abs=1e-12), "informative_groups": 4}
    assert (p.value, p.n) == (close(7 / 32, abs=1e-12), 4)
    exact = {"p_lower": close(31 / 32, abs=1e-12), "p_two": close(0.4375, abs=1e-12), "p_method": "exact"}
    normal = {"z": close(0.774597, abs=1e-6), "p_normal": close(0.219289, abs=1e-6)}
    assert p.details == exact | normal | {"observed_groups": 4, "expected_groups": close(2.75)}


def test_the_null_of_fix8_on_the_other_side(fix8: gs.Report) -> None:
    expected, excess, p = (fix8[f"all_wrong_notool_{what}"].value for what in ("expected", "excess", "p"))
    assert (expected, excess, p) == close((2 / 7, 0, 0.75), abs=1e-12)


def test_inside_the_groups_of_fix8_tools_do_worse(fix8: gs.Report) -> None:
    """Five of the tool-using rollouts are right and 6.25 were to be expected; in G7 there is nothing to compare."""
    delta = fix8["tool_within_group_delta"]
    assert (delta.value, delta.n) == (close((5 - 6.25) / 11, abs=1e-12), 11)
    assert delta.details["z"] == close(-1.290994, abs=1e-6)


def test_pass_at_k_of_fix8(fix8: gs.Report) -> None:
    exact = {"pass_at_k[1]": 15 / 32, "pass_at_k[2]": 11 / 16, "pass_at_k[4]": 7 / 8}
    exact |= {"tool_pass_at_k[2]": (0 + 0 + 1 + 5 / 6 + 1) / 5, "notool_pass_at_k[2]": (1 + 1 + 1 + 1 + 5 / 6 + 0) / 6}
    assert {name: fix8[name].value for name in exact} == close(exact, abs=1e-12)
    paired = fix8["paired_pass_at_k[2]"]
    assert (paired.value, paired.n) == (close(0, abs=1e-12), 3)
    assert (paired.details["tool"], paired.details["notool"]) == close((2 / 3, 2 / 3), abs=1e-12)


def test_the_demand_for_resampling_of_fix8(fix8: gs.Report) -> None:
    """Four groups to resample, with seven prefixes: G1 to G4."""
    assert fix8["axpo_trigger_rate"].numerator == 4
    assert sorted((row["group"], row["tool_using"]) for row in fix8.dead_groups) == [
        ("G1", 1), ("G2", 2), ("G3", 1), ("G4", 3),
    ]  # fmt: skip


def test_forty_equal_groups_show_how_good_the_normal_approximation_is(measured: Callable[[str], gs.Report]) -> None:
    dead = "tool,correct\n" + "11000000,00111000\n"
    alive = "tool,correct\n" + "11000000,10110000\n"
    lines = []
    for number in range(40):
        ((group),) = rows(dead if number < 20 else alive)
        for tool, correct in zip(group["tool"], group["correct"], strict=True):
            lines.append(f"g{number} {'tool' if tool == '1' else '-'} {'right' if correct == '1' else 'wrong'}")
    report = measured("\n".join(lines))
    assert report["all_wrong_tool_expected"].value == close(10 / 28, abs=1e-12)
    assert report["all_wrong_tool_expected"].numerator == close(14.285714, abs=1e-6)
    p = report["all_wrong_tool_p"]
    assert (p.value, p.details["z"], p.details["p_normal"]) == close((0.044727, 1.720627, 0.042659), abs=1e-6)


def test_the_trend_and_the_collapse_of_the_reference(measured: Callable[[str], gs.Report]) -> None:
    rates = (0.30, 0.31, 0.28, 0.29, 0.24, 0.22, 0.18, 0.19, 0.13, 0.12)
    lines = [
        f"s{step} {'tool' if number < round(100 * rate) else '-'} right step={step}"
        for step, rate in zip(range(0, 100, 10), rates, strict=True)
        for number in range(100)
    ]
    report = measured("\n".join(lines))
    trend, collapse = report["trend[tool_attempt_rate]"], report["collapse[tool_attempt_rate]"]
    assert (trend.value, trend.details["s"]) == (close(-0.002285714, abs=1e-9), -39)
    assert (trend.details["p"], trend.details["p_falling"]) == close((0.000677, 0.000338), abs=1e-6)
    assert collapse.value == 1.0
    assert (collapse.details["reference"], collapse.details["recent"]) == close((0.30, 0.13), abs=1e-12)
    assert collapse.details["onset"] == 90


def test_the_tables_of_the_reference_for_pass_at_k_and_wilson() -> None:
    for row in rows(PASS_AT_K):
        assert pass_at_k(int(row["n"]), int(row["c"]), int(row["k"])) == close(float(row["value"]), abs=1e-6), row
    for row in rows(WILSON):
        assert wilson(int(row["x"]), int(row["n"])) == close((float(row["lo"]), float(row["hi"])), abs=1e-6), row


def resampled_groups() -> Iterator[str]:
    """FIX8 with log-probs of its calls, and four continuations each of the least sure prefix of G1 and of G2."""
    for group in rows(FIX8):
        for place, (tool, correct) in enumerate(zip(group["tool"], group["correct"], strict=True)):
            acts = f"tool {'right' if correct == '1' else 'wrong'} probs=0.{5 + place},0.{5 + place},0.{5 + place}"
            rests = f"- {'right' if correct == '1' else 'wrong'}"
            yield f"{group['group']} {acts if tool == '1' else rests} rollout_id={group['group']}.{place}"
    for source, wins in (("G1.0", 1), ("G2.0", 0)):
        for number in range(4):
            yield f"of-{source} tool {'right' if number < wins else 'wrong'} parent={source}"


@pytest.fixture(scope="module")
def resampled(measured: Callable[[str], gs.Report]) -> gs.Report:
    return measured("\n".join(resampled_groups()))


RECOVERY = """
key,numerator,denominator,lo,hi
recovery_rate_prefix,1,2,0.094531,0.905469
recovery_rate_selected,1,2,0.094531,0.905469
recovery_rate_triggered,1,4,0.045587,0.699358
all_wrong_tool_group_rate_pre,4,7,0.250458,0.841780
all_wrong_tool_group_rate_post,3,7,0.158220,0.749542
continuation_success,1,8,,
proposition_q_p_tool,5,32,,
axpo_budget_cover,2,4,,
axpo_extra_share,8,32,,
"""


def test_the_budget_and_the_recovery_of_fix8(resampled: gs.Report) -> None:
    for row in rows(RECOVERY):
        found = resampled[row["key"]]
        assert (found.numerator, found.n) == (float(row["numerator"]), int(row["denominator"])), row
        assert found.value == close(float(row["numerator"]) / int(row["denominator"]), rel=0, abs=1e-12), row
        if row["lo"]:
            assert found.interval == close((float(row["lo"]), float(row["hi"])), abs=1e-6), row
            assert found.interval_method == "wilson", row
    counts = {"axpo_slots": 2, "axpo_need_first": 4, "axpo_need_all": 1 + 2 + 1 + 3}
    assert {name: resampled[name].value for name in counts} == counts


def test_on_fix8_the_condition_of_proposition_1_is_neither_supported_nor_contradicted(resampled: gs.Report) -> None:
    margin = resampled["proposition_margin"]
    assert margin.value == close(0.125 - 0.15625, rel=0, abs=1e-12)
    assert margin.details["verdict"] == "inconclusive"
    assert (margin.details["p"], margin.details["q_p_tool"]) == close((0.125, 0.15625), rel=0, abs=1e-12)


def test_continuations_change_none_of_the_other_numbers_of_fix8(resampled: gs.Report) -> None:
    for row in rows(FIX8_METRICS):
        if not row["key"].startswith("wasted"):
            found = resampled[row["key"]]
            assert (found.numerator, found.n) == (float(row["numerator"]), int(row["denominator"])), row
