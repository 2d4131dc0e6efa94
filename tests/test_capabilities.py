"""What is said of a format must be true of its sample; what is said of a metric must be true of its numbers."""

from functools import cache
from typing import get_args

import pytest
from samples import SAMPLE_OF, options

import gapscope as gs
from gapscope.cli import main
from gapscope.doctor import Diagnosis, diagnose
from gapscope.metrics import METRICS, Metric
from gapscope.metrics import family as family_of
from gapscope.parsers import PARSERS, Parser
from gapscope.rollouts import Need

pytestmark = pytest.mark.slow

LOW = gs.Settings(min_groups=1, min_rollouts=1, min_informative=1, min_steps=2)
by_parser = pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
# Whether tools were offered is known of a file, not of its rows.
COUNTED = frozenset(get_args(Need)) - {"declared_tools"}


@cache
def diagnosis(name: str) -> Diagnosis:
    return diagnose([str(SAMPLE_OF[name])], settings=LOW, mapping=options(name).mapping)


@by_parser
def test_every_log_of_a_format_carries_what_the_format_always_carries(parser: Parser) -> None:
    (reading,) = diagnosis(parser.name).report.formats
    assert {need for need in COUNTED & set(parser.carries) if not reading.carries[need]} == set()


@by_parser
def test_no_log_of_a_format_carries_what_the_format_never_carries(parser: Parser) -> None:
    (reading,) = diagnosis(parser.name).report.formats
    assert {need for need in COUNTED & set(parser.lacks) if reading.carries[need]} == set()


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_requires_something_only_for_keys_that_it_has(metric: Metric) -> None:
    for keys, any_of in metric.requires:
        assert set(keys) <= set(metric.keys)
        assert set(any_of) <= set(get_args(Need))


@by_parser
def test_a_blind_spot_is_a_number_that_the_audit_cannot_give(parser: Parser) -> None:
    found = diagnosis(parser.name)
    blind = {key for spot in found.blind_spots[parser.name] for key in spot.metrics}
    measured = found.report.metrics
    assert {name for name in measured if family_of(name) in blind and measured[name].value is not None} == set()


@by_parser
def test_the_doctor_explains_every_sample(
    parser: Parser, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.chdir(str(tmp_path))
    pairs = [word for field, path in options(parser.name).mapping.items() for word in ("--map", f"{field}={path}")]
    monkeypatch.setattr("sys.argv", ["gapscope", "doctor", str(SAMPLE_OF[parser.name]), *pairs])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ending:
        main()
    assert ending.value.code == 0
    printed = capsys.readouterr().out
    for heading in (
        f"Read as {parser.name}",
        "What its rows carry",
        "Tool-call syntax",
        "Survivor bias",
        "Rows, groups",
    ):
        assert heading in printed
    for need, advice in parser.lacks.items():
        if need in COUNTED:
            assert " ".join(f"none: {advice}".split()) in " ".join(printed.split())


@pytest.mark.parametrize("name", ["skyrl-train", "prime-rl-tokens", "miles-dashboard"])
def test_where_there_are_tokens_and_no_text_no_rate_of_calls_is_zero(name: str) -> None:
    found = diagnosis(name).report
    for metric in METRICS:
        for key in metric.keys_that_need({"tool_calls", "turns"}):
            for measured in found.metrics.values():
                if family_of(measured.name) == key:
                    assert (measured.value, measured.status) == (None, "unobserved")
                    assert "tokens and no text" in (measured.reason or "")
    assert found["tool_attempt_rate"].setting
    assert found["response_tokens_mean"].value
