"""`gapscope axpo`: from a log to what resampling recovers, in one command."""

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gapscope.cli.options import Group, Map, Tokenizer, Trainer, mapping_given, progress_bar, remember_mapping, save
from gapscope.cli.plan import DEFAULT, plan_options, share
from gapscope.cli.resample import (
    Concurrency,
    Deadline,
    Endpoint,
    Images,
    KeyFile,
    Malformed,
    Model,
    Resume,
    RewardName,
    Sandbox,
    Tools,
    carried_out,
    say,
)
from gapscope.errors import SettingsError
from gapscope.plan_options import PlanOptions, Rank

if TYPE_CHECKING:
    from gapscope.planning import ReadOptions
    from gapscope.plans import Header

FOLDER: Final = Path("axpo")
_SHOWN: Final = ("tool_attempt_rate", "all_wrong_tool_group_rate")
_PLAN = "Plan"


def axpo(
    runs: Annotated[
        list[str], typer.Argument(metavar="LOG...", help="Files, folders, globs, or a store.", rich_help_panel=_PLAN)
    ],
    endpoint: Endpoint,
    model: Model,
    reward: RewardName,
    tools: Tools = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="A folder for what each part writes.", rich_help_panel=_PLAN
        ),
    ] = FOLDER,
    correct: Annotated[
        str | None,
        typer.Option(
            "--correct",
            metavar="RULE",
            help="What is correct, in the log and of what a reward function gives: score>=1.",
            rich_help_panel=_PLAN,
        ),
    ] = None,
    step: Annotated[
        str, typer.Option("--step", metavar="last|all|N|A:B", help="Which steps.", rich_help_panel=_PLAN)
    ] = DEFAULT.step,
    k: Annotated[
        int, typer.Option("--k", metavar="K", help="Continuations of each prefix.", rich_help_panel=_PLAN)
    ] = DEFAULT.k,
    budget: Annotated[
        str,
        typer.Option("--budget", metavar="R", help="As a share of a step's rollouts.", rich_help_panel=_PLAN),
    ] = str(DEFAULT.r),
    rank: Annotated[
        Rank, typer.Option("--rank", help="The least sure first, or any (needs --seed).", rich_help_panel=_PLAN)
    ] = DEFAULT.rank,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="S", help="Of continuations and a random rank.", rich_help_panel=_PLAN),
    ] = None,
    max_turns: Annotated[
        int | None,
        typer.Option("--max-turns", metavar="N", help="The trainer's limit of turns.", rich_help_panel=_PLAN),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", metavar="N", help="Limit of a whole output.", rich_help_panel=_PLAN),
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", metavar="T", help="As the trainer samples.", rich_help_panel=_PLAN)
    ] = DEFAULT.sampling.temperature,
    resume: Resume = False,
    concurrency: Concurrency = 64,
    deadline: Deadline = 600,
    malformed: Malformed = "trainer",
    sandbox: Sandbox = "best",
    images: Images = None,
    key_file: KeyFile = None,
    group: Group = None,
    trainer: Trainer = None,
    map_: Map = None,
    tokenizer: Tokenizer = None,
) -> None:
    """Audit a log, plan, resample, and say what recovered: the parts `audit`, `plan`, `resample` and `recovery` in one.

    DIR holds audit.json, plan.jsonl, resampled.jsonl and recovery.json. With --resume the plan that is there is gone on
    with. Exit code: 0, or 2 when a part could not judge; the files of the parts before it stay.
    """
    from gapscope.axpo.recovery import recovery
    from gapscope.axpo.recovery_page import print_recovery
    from gapscope.config import Settings
    from gapscope.planning import ReadOptions
    from gapscope.reporters.base.printing import terminal
    from gapscope.resampler.resample import resample as run

    options = plan_options(
        k=k,
        r=share(budget),
        rank=rank,
        correctness=correct,
        step=step,
        seed=seed,
        sampling={"temperature": temperature, "max_tokens": max_tokens},
        max_turns=max_turns,
    )
    runs, mapping = mapping_given(runs, map_)
    read = ReadOptions.under(Settings.load(), group=group, trainer=trainer, mapping=mapping, tokenizer=tokenizer)
    plan, resampled = output / "plan.jsonl", output / "resampled.jsonl"
    if not (resume and plan.exists()):
        _require_free(output, plan)
        header = _audited_and_planned(runs, options, read, output, tokenizer)
        remember_mapping(mapping)
        if not header.counts.selected:
            return

    result = carried_out(
        partial(
            run,
            plan,
            endpoint=endpoint,
            model=model,
            tools=tools or (),
            reward=reward,
            correct=correct if ":" in reward or reward == "f1" else None,
            output=resampled,
            resume=resume,
            concurrency=concurrency,
            malformed=malformed,
            strict=sandbox == "strict",
            images=images,
            key_file=key_file,
            deadline=deadline,
            tokenizer=tokenizer,
        )
    )
    say(result)
    found = recovery([str(resampled)], plan=plan, tokenizer=tokenizer)
    save(found.to_json(), output / "recovery.json")
    print_recovery(found, terminal())


def _require_free(folder: Path, plan: Path) -> None:
    if plan.exists():
        message = f"{plan} is there already, from an earlier run"
        raise SettingsError(message, hint="Go on with --resume, or name another folder with -o.")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        message = f"no folder {folder} can be made: {error.strerror}"
        raise SettingsError(message, hint="Name another one with -o.") from None


def _audited_and_planned(
    runs: list[str], options: PlanOptions, read: "ReadOptions", folder: Path, tokenizer: str | None
) -> "Header":
    """Read the log once for both; both files are kept."""
    from gapscope.audit import audit_store
    from gapscope.axpo.plan import completed, drafted, plannable
    from gapscope.axpo.plan_file import write_plan
    from gapscope.axpo.plan_table import summary
    from gapscope.config import Settings
    from gapscope.report import show, show_interval

    settings = Settings.load()
    correct = options.correctness if options.correctness is not None else settings.correct
    with progress_bar("reading") as progress:
        store = plannable(runs, read, tokenizer=tokenizer, progress=progress)
    with store:
        report = audit_store(store, runs, correct=correct, settings=settings)
        save(report.to_json(), folder / "audit.json")
        for name in _SHOWN:
            measured = report[name]
            interval = f" (95 % {show_interval(measured)})" if measured.interval else ""
            print(f"{name}: {show(measured)}{interval}, n = {measured.n:,}", file=sys.stderr)
        draft = drafted(store, runs, options, read, correct=settings.correct)
        header = write_plan(folder / "plan.jsonl", draft.header, completed(store, draft, read))
    first, *rest = summary(header)
    for sentence in (f"{folder / 'plan.jsonl'}: {first}", *rest, *(f"note: {note}" for note in header.notes)):
        print(sentence, file=sys.stderr)
    return header
