"""What an earlier `score` has written into its output, so that a second one goes on where it was.

Rollouts are written in the order of their log, so how many of each file are there says it all.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import msgspec

from gapscope.errors import SettingsError
from gapscope.rollouts import SCHEMA, Rollout, Source

_TAG = f'{{"schema":"{SCHEMA}"'.encode()


class _Tokens(msgspec.Struct):
    scored_by: str | None = None
    entropy_kind: str | None = None


class _Written(msgspec.Struct, tag_field="schema", tag=SCHEMA):
    source: Source
    output_index: int | None = None
    tokens: _Tokens | None = None


_decode = msgspec.json.Decoder(_Written).decode


@dataclass(slots=True)
class _File:
    """How many rollouts of a file are in the output, and where the last of them began."""

    count: int = 0
    last: tuple[int, int] = (0, 0)


class Earlier:
    """The rollouts that are in an output already; empty where there is no such file.

    Raises:
        SettingsError: the file is no output of `score`, or of one that was asked for something else.

    """

    def __init__(self, output: Path, files: Iterable[str], *, model: str, top_k: int) -> None:
        self._output = output
        self._files: dict[str, _File] = {}
        self._models: set[str] = set()
        self._path, self._real = "", ""
        if output.exists():
            self._read(model, top_k)
        self._models.discard(model)
        unknown = self._files.keys() - {os.path.realpath(file) for file in files}
        if unknown:
            self._refuse(f"it holds rollouts of {min(unknown)}, which is not among the logs")

    def has(self, rollout: Rollout) -> bool:
        """Whether the rollout, the next one of its file, is in the output.

        Raises:
            SettingsError: the log is not the one that the output was written from, or another model scored it.

        """
        if rollout.source.file != self._path:
            self._path, self._real = rollout.source.file, os.path.realpath(rollout.source.file)
        file = self._files.get(self._real)
        if file is None or file.count == 0:
            self.check_model()
            return False
        file.count -= 1
        if file.count == 0 and file.last != rollout.place:
            self._refuse(f"{rollout.source.file} has changed since")
        if rollout.tokens is not None and rollout.tokens.scored_by is not None:
            self._models.discard(rollout.tokens.scored_by)
        return True

    def check_model(self) -> None:
        """To be called when all rollouts of the output have been met in the log.

        Raises:
            SettingsError: in the output there is a model that is neither this one nor one that the log names itself.

        """
        if self._models:
            self._refuse(f"it was scored by {min(self._models)}")

    def _read(self, model: str, top_k: int) -> None:
        with self._output.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                try:
                    written = _decode(line)
                except msgspec.DecodeError:
                    # A line that a killed run left unfinished; anything else was not written by us.
                    if line.startswith(_TAG) or _TAG.startswith(line.rstrip(b"\n")):
                        continue
                    self._refuse(f"line {number:,} is no rollout")
                file = self._files.setdefault(os.path.realpath(written.source.file), _File())
                file.count += 1
                place = written.source.line if written.source.offset is None else written.source.offset
                file.last = (place, written.output_index or 0)
                if written.tokens is not None and written.tokens.scored_by is not None:
                    self._models.add(written.tokens.scored_by)
                    if top_k and written.tokens.scored_by == model and written.tokens.entropy_kind is None:
                        self._refuse("it was scored without --top-k")

    def _refuse(self, why: str) -> NoReturn:
        message = f"{self._output} cannot be continued: {why}"
        raise SettingsError(message, hint="Name another file with -o, or remove this one.") from None
