"""`gapscope gate`: an audit with limits, for CI."""

import re
import sys
from enum import StrEnum
from typing import Annotated

import typer

from gapscope.cli.options import (
    TERMINAL,
    Correct,
    FormatOption,
    Group,
    Jobs,
    Logs,
    Map,
    Output,
    Tokenizer,
    Trainer,
    mapping_given,
    progress_bar,
    remember_mapping,
    write,
)
from gapscope.errors import SettingsError
from gapscope.gate import Limit, Op

_LIMIT = re.compile(r"(?P<key>.+)=(?P<number>[^=]+)")


class Mode(StrEnum):
    """What is compared with a limit."""

    point = "point"
    bound = "bound"


class OnUnobserved(StrEnum):
    """What an unobserved or thin metric does to the gate."""

    error = "error"
    fail = "fail"
    skip = "skip"


def gate(
    logs: Logs,
    max_all_wrong: Annotated[
        float | None,
        typer.Option("--max-all-wrong", metavar="SHARE", help="Limit of all_wrong_tool_group_rate."),
    ] = None,
    maxima: Annotated[
        list[str] | None,
        typer.Option("--max", metavar="NAME=VALUE", help="A metric that must stay at or below a value; repeatable."),
    ] = None,
    minima: Annotated[
        list[str] | None,
        typer.Option("--min", metavar="NAME=VALUE", help="A metric that must stay at or above a value; repeatable."),
    ] = None,
    mode: Annotated[
        Mode | None,
        typer.Option("--mode", help="Compare the value, or the adverse bound of its interval. [default: point]"),
    ] = None,
    min_groups: Annotated[
        int | None,
        typer.Option("--min-groups", min=1, metavar="N", help="Fewer eligible groups than this are not judged."),
    ] = None,
    on_unobserved: Annotated[
        OnUnobserved | None,
        typer.Option("--on-unobserved", help="What a metric that cannot be judged does. [default: error]"),
    ] = None,
    output_format: FormatOption = TERMINAL,
    output: Output = None,
    correct: Correct = None,
    group: Group = None,
    trainer: Trainer = None,
    jobs: Jobs = None,
    map_: Map = None,
    tokenizer: Tokenizer = None,
) -> None:
    """Fail when a metric breaks its limit; `gapscope metrics` lists the names.

    Exit code: 0 passed, 1 failed, 2 could not judge.
    """
    from gapscope.audit import audit
    from gapscope.config import Settings
    from gapscope.gate import judge, limits_of

    settings = Settings.load()
    limits = [_parse(text, "<=") for text in maxima or []] + [_parse(text, ">=") for text in minima or []]
    if max_all_wrong is not None:
        limits.insert(0, Limit("all_wrong_tool_group_rate", "<=", max_all_wrong))
    given = {(limit.key, limit.op) for limit in limits}
    limits += [limit for limit in limits_of(settings.gate) if (limit.key, limit.op) not in given]
    if not limits:
        message = "the gate has no limit"
        raise SettingsError(message, hint="Give --max-all-wrong 0.4, --max NAME=VALUE, or [gate.max] in gapscope.toml.")
    least = min_groups or settings.gate.min_groups
    settings = settings if least is None else settings.model_copy(update={"min_groups": least})
    logs, mapping = mapping_given(logs, map_)
    with progress_bar("reading") as progress:
        report = audit(
            logs,
            correct=correct,
            group=group,
            trainer=trainer,
            jobs=jobs,
            mapping=mapping,
            tokenizer=tokenizer,
            settings=settings,
            progress=progress,
        )
    remember_mapping(mapping)
    verdict = judge(
        report,
        limits,
        mode=mode.value if mode else settings.gate.mode,
        min_groups=least,
        on_unobserved=on_unobserved.value if on_unobserved else settings.gate.on_unobserved,
    )
    write(report.model_copy(update={"verdict": verdict}), output_format, output)
    if output is not None:
        print(verdict.text, file=sys.stderr)
    raise typer.Exit(verdict.exit_code)


def _parse(text: str, op: Op) -> Limit:
    match = _LIMIT.fullmatch(text)
    try:
        number = float(match["number"]) if match else None
    except ValueError:
        number = None
    if match is None or number is None or number - number != 0:
        message = f"the limit {text!r} is not NAME=VALUE with a number"
        raise SettingsError(message, hint="Write for example --max all_wrong_tool_group_rate=0.4.")
    return Limit(match["key"].strip(), op, number)
