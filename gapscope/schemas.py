"""The JSON Schemas of what gapscope reads and writes, made from the models themselves."""

from collections.abc import Callable, Mapping
from functools import partial

from gapscope.errors import UnknownName
from gapscope.plans import SCHEMA as PLAN
from gapscope.plans import json_schema as plan_schema
from gapscope.recoveries import SCHEMA as RECOVERY
from gapscope.recoveries import Recovery
from gapscope.report import SCHEMA as REPORT
from gapscope.report import Model, Report
from gapscope.rollouts import SCHEMA as ROLLOUT
from gapscope.rollouts import Json, json_schema


def _of_model(name: str, model: type[Model]) -> dict[str, Json]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": name,
        **model.model_json_schema(mode="serialization"),
    }


SCHEMAS: Mapping[str, Callable[[], dict[str, Json]]] = {
    REPORT: partial(_of_model, REPORT, Report),
    ROLLOUT: json_schema,
    PLAN: plan_schema,
    RECOVERY: partial(_of_model, RECOVERY, Recovery),
}


def schema_named(name: str) -> dict[str, Json]:
    """The schema of that name, also without its version.

    Raises:
        UnknownName: there is none.

    """
    for full, make in SCHEMAS.items():
        if name in {full, full.split("/")[0], full.split("/")[0].removeprefix("gapscope.")}:
            return make()
    raise UnknownName("schema", name, SCHEMAS)


def file_name(name: str) -> str:
    """The file of a schema in schemas/: `gapscope.report/1` is in `report-1.json`."""
    return f"{name.removeprefix('gapscope.').replace('/', '-')}.json"
