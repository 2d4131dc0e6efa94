"""What is said of a format must be true of its sample; what is said of a metric must be true of its numbers."""

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
from command_line import gapscope
from samples import SAMPLE_OF, options

from gapscope.doctor import Diagnosis
from gapscope.metrics import METRICS, Metric, known_keys
from gapscope.metrics import family as family_of
from gapscope.parsers import PARSERS, Parser, parser_named
from gapscope.rollouts import Need

pytestmark = pytest.mark.slow

LOW = "min_groups = 1\nmin_rollouts = 1\nmin_informative = 1\nmin_steps = 2\n"
# Whether tools were offered is known of a file, not of its rows.
COUNTED = frozenset(get_args(Need)) - {"declared_tools"}


class Explained(NamedTuple):
    """A sample as the doctor sees it: what is said of its format, what was found, and what was printed of it."""

    parser: Parser
    found: Diagnosis
    printed: str


def explain(parser: Parser, folder: Path) -> Explained:
    """Run the doctor in a folder whose settings ask for as little evidence as there is."""
    (folder / "gapscope.toml").write_text(LOW, encoding="utf-8")
    pairs = [word for field, path in options(parser.name).mapping.items() for word in ("--map", f"{field}={path}")]
    doctor = import_module("gapscope.doctor")
    diagnose = doctor.diagnose
    found: list[Diagnosis] = []

    def remembered(*arguments: Any, **given: Any) -> Diagnosis:
        found.append(diagnose(*arguments, **given))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "diagnose", remembered)
        ended = gapscope("doctor", SAMPLE_OF[parser.name], *pairs, cwd=folder, columns=200)
    assert ended.returncode == 0
    return Explained(parser, found[0], ended.stdout)


@pytest.fixture(scope="module", params=PARSERS, ids=lambda parser: parser.name)
def explained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Explained:
    return explain(request.param, tmp_path_factory.mktemp("doctor"))


def test_every_log_of_a_format_carries_what_the_format_always_carries(explained: Explained) -> None:
    parser = explained.parser
    (reading,) = explained.found.report.formats
    assert {need for need in COUNTED & set(parser.carries) if not reading.carries[need]} == set()


def test_no_log_of_a_format_carries_what_the_format_never_carries(explained: Explained) -> None:
    parser = explained.parser
    (reading,) = explained.found.report.formats
    assert {need for need in COUNTED & set(parser.lacks) if reading.carries[need]} == set()


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_requires_something_only_for_keys_that_it_has(metric: Metric) -> None:
    for keys, any_of in metric.requires:
        assert set(keys) <= set(metric.keys)
        assert set(any_of) <= set(get_args(Need))


def test_every_number_measured_on_a_sample_belongs_to_a_declared_key(explained: Explained) -> None:
    assert {family_of(name) for name in explained.found.report.metrics} <= set(known_keys())


def test_a_blind_spot_is_a_number_that_the_audit_cannot_give(explained: Explained) -> None:
    found = explained.found
    blind = {key for spot in found.blind_spots[explained.parser.name] for key in spot.metrics}
    measured = found.report.metrics
    assert {name for name in measured if family_of(name) in blind and measured[name].value is not None} == set()


def test_the_doctor_explains_every_sample(explained: Explained) -> None:
    parser, printed = explained.parser, explained.printed
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
def test_where_there_are_tokens_and_no_text_no_rate_of_calls_is_zero(name: str, tmp_path: Path) -> None:
    found = explain(parser_named(name), tmp_path).found.report
    for metric in METRICS:
        for key in metric.keys_that_need({"tool_calls", "turns"}):
            for measured in found.metrics.values():
                if family_of(measured.name) == key:
                    assert (measured.value, measured.status) == (None, "unobserved")
                    assert "tokens and no text" in (measured.reason or "")
    assert found["tool_attempt_rate"].setting
    assert found["response_tokens_mean"].value
