"""The published schemas are those of the models, and what gapscope writes conforms to them."""

import json
from pathlib import Path

import jsonschema
import pytest

import gapscope as gs
from gapscope.rollouts import to_json
from gapscope.schemas import SCHEMAS, file_name, schema_named

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "sample_logs"


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_file_is_what_the_command_prints(name: str) -> None:
    published = (ROOT / "schemas" / file_name(name)).read_text(encoding="utf-8")
    assert published == json.dumps(SCHEMAS[name](), indent=2, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_a_valid_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name]())
    assert SCHEMAS[name]()["$id"] == name


@pytest.mark.parametrize("sample", ["verl-legacy", "verl-v1", "trl", "collapse"])
def test_a_report_conforms_to_its_schema(sample: str) -> None:
    report = json.loads(gs.audit(SAMPLES / sample).to_json())
    jsonschema.validate(report, SCHEMAS["gapscope.report/1"](), jsonschema.Draft202012Validator)
    assert report["schema"] == "gapscope.report/1"


@pytest.mark.parametrize("sample", ["verl-legacy", "verl-v1", "trl"])
def test_rollouts_conform_to_their_schema(sample: str) -> None:
    validator = jsonschema.Draft202012Validator(SCHEMAS["gapscope.rollout/1"]())
    rollouts = [r for r in gs.read([str(SAMPLES / sample)]) if isinstance(r, gs.Rollout)]
    assert len(rollouts) == 32
    for rollout in rollouts:
        validator.validate(json.loads(to_json(rollout)))


def test_a_schema_is_found_by_its_short_name() -> None:
    assert schema_named("report") == schema_named("gapscope.report/1")
    with pytest.raises(gs.UnknownName, match="reprot"):
        schema_named("reprot")
