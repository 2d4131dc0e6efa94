"""Which files are read, by which parser and in which dialects, and why the others are not."""

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

from gapscope.beside import whole_of
from gapscope.config import Settings
from gapscope.detect import Detected, detect, dialects_in
from gapscope.errors import InputError, NothingScanned
from gapscope.files import LogFile
from gapscope.mapping import checked
from gapscope.outcomes import ErrorMarkers
from gapscope.parsers import parser_named
from gapscope.pieces import place_of
from gapscope.sources import Unreadable
from gapscope.store.token_rows import Keep
from gapscope.tokenizer import load_vocabulary


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How logs are read.

    `jobs` None means as many processes as there are CPUs to use. `mapping` says where in a row the fields of the
    record are, for logs of no known format. `tokenizer` is a file or folder that says what token ids spell, and
    `tokens` of which rollouts a store on disk keeps the token arrays.
    """

    trainer: str | None = None
    group: str | None = None
    markers: ErrorMarkers = field(default_factory=ErrorMarkers)
    jobs: int | None = None
    mapping: Mapping[str, str] = field(default_factory=dict)
    tokenizer: str | None = None
    tokens: Keep = "auto"

    @classmethod
    def under(
        cls,
        settings: Settings,
        *,
        trainer: str | None = None,
        group: str | None = None,
        jobs: int | None = None,
        mapping: Mapping[str, str] | None = None,
        tokenizer: str | None = None,
        tokens: Keep = "auto",
    ) -> "ReadOptions":
        """What was asked for, and for the rest the settings."""
        return cls(
            trainer=trainer or settings.trainer,
            group=group or settings.group,
            markers=settings.markers(),
            jobs=jobs or settings.jobs,
            mapping=checked(mapping) if mapping else settings.map,
            tokenizer=tokenizer or settings.tokenizer,
            tokens=tokens,
        )


class Passed(NamedTuple):
    """A file that is not read; `unreadable` says that somebody may miss it."""

    file: Unreadable
    unreadable: bool


def recognise_files(
    files: list[LogFile],
    options: ReadOptions,
    explicit: set[str],
) -> tuple[list[tuple[LogFile, Detected]], list[Passed]]:
    """Files of a known format, and the others; one that was named itself and is none counts as unreadable.

    A file that another one tells all of is passed over, unless it was named itself and the other was not.
    """
    planned: list[tuple[LogFile, Detected]] = []
    passed: list[Passed] = []
    found = {os.path.realpath(file.path) for file in files}
    for file in files:
        named = os.path.realpath(file.path) in explicit and file.size > 0
        detected = detect(file, trainer=options.trainer, mapping=options.mapping) if file.size else "an empty file"
        if not isinstance(detected, Detected):
            passed.append(Passed(Unreadable(file.path, detected), unreadable=named))
        elif (whole := whole_of(file.path, detected.parser)) and (not named or os.path.realpath(whole) in found):
            passed.append(Passed(Unreadable(file.path, f"a part of {whole}, which is read"), unreadable=False))
        else:
            planned.append((file, detected))
    return _with_dialects(planned, options), passed


def _with_dialects(planned: list[tuple[LogFile, Detected]], options: ReadOptions) -> list[tuple[LogFile, Detected]]:
    """The same, with the dialects: those of a run, because a single file may hold no call."""
    keys = [(place_of(file, found.parser).run, found.parser.name) for file, found in planned]
    runs: dict[tuple[str | None, str], list[LogFile]] = defaultdict(list)
    for key, (file, _) in zip(keys, planned, strict=True):
        runs[key].append(file)
    vocabulary = None if options.tokenizer is None else load_vocabulary(options.tokenizer)
    syntaxes = {
        run: dialects_in(files, parser_named(run[1]), options.mapping, vocabulary) for run, files in runs.items()
    }
    return [(file, found._replace(syntax=syntaxes[key])) for key, (file, found) in zip(keys, planned, strict=True)]


def refuse_all(passed: list[Passed]) -> NoReturn:
    """Say why none of the files can be read.

    Raises:
        InputError: they are no logs of a known format; NothingScanned, which is one, where all are empty.

    """
    first = passed[0].file
    if len(passed) == 1:
        message = f"{first.path} cannot be audited: {first.reason}"
    else:
        message = f"none of {len(passed):,} files can be audited; {first.path}: {first.reason}"
    error = NothingScanned if all(item.file.reason == "an empty file" for item in passed) else InputError
    raise error(message, hint="`gapscope formats` lists what can be read; --map reads any other log.")
