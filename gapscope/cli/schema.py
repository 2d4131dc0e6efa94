"""`gapscope schema`: the published JSON Schemas."""

import json
from typing import Annotated

import typer


def schema(
    name: Annotated[str | None, typer.Argument(help="A schema, such as report.", metavar="NAME")] = None,
) -> None:
    """List the JSON Schemas, or print one."""
    from gapscope.schemas import SCHEMAS, schema_named

    if name is None:
        print("\n".join(SCHEMAS))
        return
    print(json.dumps(schema_named(name), indent=2, ensure_ascii=False))
