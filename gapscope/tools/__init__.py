"""What executes tool calls while resampling. A new kind of tool is one file here and one entry in KINDS.

A `tools.toml` has a table for each tool. The table's name is what the policy calls it, and its kind where it is one:

```toml
[python]                       # python, image_zoom
seconds = 12
memory_mb = 1024

[code_interpreter]             # the same kind under the name that the log has
kind = "python"

[image_zoom]                   # by all the names that trainers have for it, unless `names` says by which
smallest = 28

[calc]
kind = "function"
function = "mytools:calc"      # or path/to/file.py:calc, from the current directory first
seconds = 5

[search]                       # the server's tools keep their own names
kind = "mcp"
url = "http://localhost:9000/mcp"
headers = {Authorization = "Bearer ${SEARCH_KEY}"}
only = ["tavily_search"]
rename = {tavily_search = "tavily-search"}

[files]
kind = "mcp"
command = ["python", "server.py"]
env = {API_KEY = "${FILES_KEY}"}
```

Commands and paths are those of the current directory. `${NAME}` is filled from the environment; a key that is written
out in the file works too, and is in the file.
"""

import re
import shlex
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gapscope.errors import SettingsError, UnknownName
from gapscope.sandbox import Limits
from gapscope.tools import function as functions
from gapscope.tools import image_zoom, mcp_, python
from gapscope.tools.base import Tool

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]


class _Kind(BaseModel):
    """What a table of a `tools.toml` may say. `names` are what the policy calls the tool."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PythonKind(_Kind):
    """Python code in a sandbox; what is not said is as in `gapscope.sandbox.Limits`."""

    kind: Literal["python"] = "python"
    names: Names = ("python",)
    seconds: Seconds | None = None
    memory_mb: Count | None = None
    processes: Count | None = None
    output_chars: Count | None = None
    file_mb: Count | None = None
    scratch_mb: Count | None = None

    def tool(self, name: str, *, strict: bool) -> Tool:
        """A sandbox for each continuation; `strict` refuses one that is less than it can be."""
        given = self.model_dump(exclude={"kind", "names"}, exclude_none=True)
        return python.Python(_names(self, name), limits=Limits(**given), strict=strict)


class ImageZoomKind(_Kind):
    """Crops of the images that the policy has seen."""

    kind: Literal["image_zoom"] = "image_zoom"
    names: Names = image_zoom.NAMES
    smallest: Count = image_zoom.SMALLEST

    def tool(self, name: str, *, strict: bool) -> Tool:  # noqa: ARG002 (it runs no code of the policy's)
        """A crop for each call."""
        return image_zoom.ImageZoom(_names(self, name), smallest=self.smallest)


class FunctionKind(_Kind):
    """A Python function of the user's, in a process of its own."""

    kind: Literal["function"] = "function"
    function: str
    seconds: Seconds = functions.SECONDS

    def tool(self, name: str, *, strict: bool) -> Tool:  # noqa: ARG002 (it runs no code of the policy's)
        """The function under that name."""
        return functions.Function(name, self.function, seconds=self.seconds)


class McpKind(_Kind):
    """A server of the Model Context Protocol: a command, or an address."""

    kind: Literal["mcp"] = "mcp"
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)
    url: str | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    only: tuple[str, ...] | None = None
    rename: dict[str, str] = Field(default_factory=dict)
    seconds: Seconds = mcp_.SECONDS
    starting_seconds: Seconds = mcp_.STARTING_SECONDS

    @field_validator("command", mode="before")
    @classmethod
    def _is_one_word_each(cls, command: object) -> object:
        return shlex.split(command) if isinstance(command, str) else command

    @model_validator(mode="after")
    def _is_one_server(self) -> "McpKind":
        if bool(self.command) == bool(self.url):
            message = "an MCP server has either a `command` or a `url`"
            raise ValueError(message)
        if self.url and (self.args or self.env):
            message = "`args` and `env` are for a `command`, and there is a `url`"
            raise ValueError(message)
        if self.command and self.headers:
            message = "`headers` are for a `url`, and there is a `command`"
            raise ValueError(message)
        return self

    def tool(self, name: str, *, strict: bool) -> Tool:  # noqa: ARG002 (a server is no code of the policy's)
        """The server, of which the name says which one it is."""
        return mcp_.McpServer(
            name,
            command=(*self.command, *self.args),
            env=self.env,
            url=self.url,
            headers=self.headers,
            only=self.only,
            rename=self.rename,
            seconds=self.seconds,
            starting=self.starting_seconds,
        )


AnyKind = PythonKind | ImageZoomKind | FunctionKind | McpKind

KINDS: tuple[type[AnyKind], ...] = (PythonKind, ImageZoomKind, FunctionKind, McpKind)
"""Every kind of tool."""

__all__ = ["KINDS", "FunctionKind", "ImageZoomKind", "McpKind", "PythonKind", "tools_from"]

_BY_NAME = {kind.model_fields["kind"].default: kind for kind in KINDS}
_ALONE: dict[str, PythonKind | ImageZoomKind] = {"python": PythonKind(), "image_zoom": ImageZoomKind()}
_NAMED = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)
_FORMS = "Write python, image_zoom, NAME=module:function, NAME=python, an MCP server's http://… or a tools.toml."


def tools_from(specs: Sequence[str], *, strict: bool = False) -> list[Tool]:
    """The tools of a command line, in its order.

    Each is `python` or `image_zoom`, `NAME=python` where the policy calls it otherwise, `module:function` or
    `path/to/file.py:function`, `NAME=module:function`, the `http://…` of an MCP server, or a file `….toml`.

    Raises:
        SettingsError: one cannot be read; a line of a file has no meaning.
        UnknownName: there is no such tool, kind or key.

    """
    return [tool for spec in specs for tool in _tools(spec.strip(), strict=strict)]


def _tools(spec: str, *, strict: bool) -> list[Tool]:
    if spec.startswith(("http://", "https://")):
        return [McpKind(url=spec).tool(urlsplit(spec).hostname or "MCP", strict=strict)]
    if spec.endswith(".toml"):
        return _from_file(Path(spec), strict=strict)
    named = _NAMED.fullmatch(spec)
    name, what = named.groups() if named else (None, spec)
    if what in _ALONE:
        return [_ALONE[what].tool(name or what, strict=strict)]
    place, _, called = what.rpartition(":")
    if place and called and not what.startswith(("http://", "https://")):
        return [FunctionKind(function=what).tool(name or called.rpartition(".")[2], strict=strict)]
    if what in _BY_NAME or named:
        message = f"the tool {spec!r} cannot be made of what it says"
        raise SettingsError(message, hint=f"{_FORMS} What needs more words has a table in a tools.toml.")
    raise UnknownName("tool", spec, [*_ALONE, "NAME=module:function", "tools.toml"])


def _from_file(file: Path, *, strict: bool) -> list[Tool]:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = f"{file} cannot be read as TOML: {error}"
        raise SettingsError(message) from None
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror}"
        raise SettingsError(message) from None
    if not tables:
        message = f"{file} names no tool"
        raise SettingsError(message, hint="Each table is one: [python], or [calc] with its kind and what it needs.")
    return [_from_table(f"[{name}] in {file}", name, table).tool(name, strict=strict) for name, table in tables.items()]


def _from_table(where: str, name: str, table: object) -> AnyKind:
    if not isinstance(table, dict):
        message = f"{where} is a value, not a table"
        raise SettingsError(message, hint=f"A key belongs under the table of its tool, such as [python]: {name} = …")
    kind = table.get("kind", name if name in _BY_NAME else None)
    if kind is None:
        message = f"{where} does not say of which kind it is"
        raise SettingsError(message, hint=f"Add kind = …, one of {', '.join(_BY_NAME)}.")
    if not isinstance(kind, str) or kind not in _BY_NAME:
        wrong = f"kind of {where}"
        raise UnknownName(wrong, str(kind), _BY_NAME)
    model = _BY_NAME[kind]
    try:
        return model.model_validate(table)
    except ValidationError as error:
        # No more than the key is shown: its value may be a password.
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            wrong = f"key of {where}"
            raise UnknownName(wrong, key, model.model_fields) from None
        message = f"{where}: {key}{': ' if key else ''}{first['msg'].removeprefix('Value error, ')}"
        raise SettingsError(message, hint=f"Known keys: {', '.join(model.model_fields)}.") from None


def _names(kind: Any, name: str) -> tuple[str, ...]:  # noqa: ANN401 (either kind that has names)
    """What the policy calls a tool: what is said, or its table's name, or what everybody calls one of its kind."""
    return kind.names if "names" in kind.model_fields_set or name == kind.kind else (name,)
