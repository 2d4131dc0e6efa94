"""Settings: `gapscope.toml`, or `[tool.gapscope]` in pyproject.toml, from here upwards; flags win.

```toml
correct = "acc"
group = "question_id"
jobs = 4
tokenizer = "models/policy"
[map]
response = "$.choices[0].text"
reward = "score"
[error_markers]
"*" = ["^Error"]
[gate]
mode = "bound"
min_groups = 20
on_unobserved = "error"
[gate.max]
all_wrong_tool_group_rate = 0.4
[gate.min]
tool_attempt_rate = 0.2
```
"""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator

from gapscope.errors import SettingsError
from gapscope.mapping import checked
from gapscope.outcomes import DEFAULT_MARKERS, ErrorMarkers

FILE = "gapscope.toml"

Mode = Literal["point", "bound"]
OnUnobserved = Literal["error", "fail", "skip"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Model):
    """The limits of a gate: names of metrics, or `name.lo` / `name.hi`, with numbers."""

    max: dict[str, float] = Field(default_factory=dict)
    min: dict[str, float] = Field(default_factory=dict)
    mode: Mode = "point"
    min_groups: int | None = Field(default=None, ge=1)
    on_unobserved: OnUnobserved = "error"


class Settings(_Model):
    """What can be set once for a project. `error_markers` are regular expressions by tool name.

    `map` says where in a row of a log of your own the fields of a rollout are. `tokenizer` is the folder or the
    `tokenizer.json` that spells out token ids. Numbers of tokens that fewer than `min_coverage` of the tool-using
    rollouts have are annotated.
    """

    correct: str | None = None
    group: str | None = None
    trainer: str | None = None
    jobs: int | None = Field(default=None, ge=1)
    min_groups: int = Field(default=20, ge=1)
    min_rollouts: int = Field(default=50, ge=1)
    min_informative: int = Field(default=10, ge=1)
    min_steps: int = Field(default=8, ge=2)
    error_markers: dict[str, list[str]] | None = None
    map: dict[str, str] = Field(default_factory=dict)
    tokenizer: str | None = None
    min_coverage: float = Field(default=0.8, ge=0, le=1)
    gate: Limits = Limits()
    _file: str | None = PrivateAttr(default=None)

    @property
    def file(self) -> str | None:
        """The file that these settings were read from, if they were."""
        return self._file

    def markers(self) -> ErrorMarkers:
        """The markers in force: the built-in ones and those set here; an empty table turns them all off."""
        if self.error_markers is None:
            return ErrorMarkers()
        if not self.error_markers:
            return ErrorMarkers({})
        merged = dict(DEFAULT_MARKERS)
        for tool, patterns in self.error_markers.items():
            merged[tool] = (*merged.get(tool, ()), *patterns)
        return ErrorMarkers(merged)

    @field_validator("error_markers")
    @classmethod
    def _are_patterns(cls, markers: dict[str, list[str]] | None) -> dict[str, list[str]] | None:
        for pattern in (pattern for patterns in (markers or {}).values() for pattern in patterns):
            try:
                re.compile(pattern)
            except re.error as error:
                message = f"{pattern!r} is no regular expression: {error}"
                raise ValueError(message) from None
        return markers

    @field_validator("map")
    @classmethod
    def _is_mapping(cls, mapping: dict[str, str]) -> dict[str, str]:
        try:
            return checked(mapping)
        except SettingsError as error:
            raise ValueError(error.message) from None

    @classmethod
    def load(cls, start: Path | None = None) -> "Settings":
        """The settings in force in a folder: the nearest file from there upwards, or the defaults.

        Raises:
            SettingsError: the file is no TOML, or a line in it has no meaning.

        """
        folder = (start or Path.cwd()).resolve()
        for place in (folder, *folder.parents):
            file = place / FILE
            if file.is_file():
                return cls.read(file)
            project = place / "pyproject.toml"
            if project.is_file() and (table := _toml(project).get("tool", {}).get("gapscope")) is not None:
                return cls._validated(table, f"[tool.gapscope] in {project}", project)
        return cls()

    @classmethod
    def read(cls, file: Path) -> "Settings":
        """The settings in one file.

        Raises:
            SettingsError: the file is no TOML, or a line in it has no meaning.

        """
        return cls._validated(_toml(file), str(file), file)

    def save_map(self, mapping: Mapping[str, str]) -> Path:
        """Write a mapping into the file of these settings, or into a new one here, and leave the rest of it as it is.

        Raises:
            SettingsError: the file cannot be written.

        """
        file = Path(self.file or FILE)
        header = "[tool.gapscope.map]" if file.name == "pyproject.toml" else "[map]"
        table = "".join(f"{key} = {json.dumps(path, ensure_ascii=False)}\n" for key, path in mapping.items())
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        before, found, after = text.partition(f"{header}\n")
        rest = after[next_header.start() :] if (next_header := re.search(r"^\[", after, re.MULTILINE)) else ""
        gap = "" if found or not before else "\n"
        try:
            file.write_text(f"{before}{gap}{header}\n{table}{rest}", encoding="utf-8")
        except OSError as error:
            message = f"{file} cannot be written: {error.strerror}"
            raise SettingsError(message) from None
        return file

    @classmethod
    def _validated(cls, table: object, origin: str, file: Path) -> "Settings":
        try:
            settings = cls.model_validate(table)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            message = f"{origin}: {where}: {first['msg']}"
            raise SettingsError(message, hint=f"Known settings: {', '.join(cls.model_fields)}.") from None
        settings._file = str(file)  # noqa: SLF001 (an instance of this very class)
        return settings


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        message = f"{file} cannot be read as TOML: {error}"
        raise SettingsError(message) from None
