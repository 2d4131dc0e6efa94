"""`gapscope plan`: which prefixes AXPO would resample, and what that would cost."""

import os
import re
import sys
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gapscope.cli.options import (
    Correct,
    Group,
    Map,
    Tokenizer,
    Trainer,
    mapping_given,
    progress_bar,
    remember_mapping,
)
from gapscope.errors import PlanError, SettingsError
from gapscope.plan_options import (
    MOST_CONTINUATIONS,
    Attributed,
    Guided,
    Mean,
    Order,
    PlanOptions,
    PresetName,
    Rank,
    Span,
    Substitution,
    ToolUsing,
    Weighting,
)
from gapscope.plans import Header

if TYPE_CHECKING:
    from pydantic import ValidationError

    from gapscope.store.store import Store

DEFAULT: Final = PlanOptions()
NAME: Final = Path("plan.jsonl")

_WHAT, _RANKING, _AFTER = "What to plan", "Ranking and budget", "After resampling"
_SAMPLING = "Sampling"
_BUDGET: Final = re.compile(r"[0-9]+\.?[0-9]*|\.[0-9]+")


def plan(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Files, folders, globs, or a store.", rich_help_panel=_WHAT),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help=f"Where to write; default: {NAME} here.", rich_help_panel=_WHAT
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Write nothing; print what is dead, reached, and paid.", rich_help_panel=_WHAT),
    ] = False,
    step: Annotated[
        str, typer.Option("--step", metavar="last|all|N|A:B", help="Which steps.", rich_help_panel=_WHAT)
    ] = DEFAULT.step,
    tool_using: Annotated[
        ToolUsing,
        typer.Option("--tool-using", help="What makes a rollout tool-using: a call that is.", rich_help_panel=_WHAT),
    ] = DEFAULT.tool_using,
    branch_call: Annotated[
        str,
        typer.Option(
            "--branch-call", metavar="first|N", help="The call to branch at; N is not AXPO.", rich_help_panel=_WHAT
        ),
    ] = "first",
    require_closed: Annotated[
        bool,
        typer.Option(
            "--candidate.require-closed/--no-candidate.require-closed",
            help="Branch only at calls that were closed.",
            show_default="on",
            rich_help_panel=_WHAT,
        ),
    ] = DEFAULT.candidate.require_closed,
    k: Annotated[
        int, typer.Option("--k", metavar="K", help="Continuations of each prefix.", rich_help_panel=_RANKING)
    ] = DEFAULT.k,
    budget: Annotated[
        str,
        typer.Option(
            "--budget",
            metavar="R",
            help="Continuations at most, as a share of a step's rollouts.",
            rich_help_panel=_RANKING,
        ),
    ] = str(DEFAULT.r),
    rank: Annotated[
        Rank, typer.Option("--rank", help="The least sure first, or any (needs --seed).", rich_help_panel=_RANKING)
    ] = DEFAULT.rank,
    confidence_span: Annotated[
        Span, typer.Option("--confidence.span", help="The tokens that are averaged.", rich_help_panel=_RANKING)
    ] = DEFAULT.confidence.span,
    confidence_mean: Annotated[
        Mean, typer.Option("--confidence.mean", help="Of probabilities, or of log-probs.", rich_help_panel=_RANKING)
    ] = DEFAULT.confidence.mean,
    order: Annotated[
        Order, typer.Option("--allocation.order", help="Which group is served first.", rich_help_panel=_RANKING)
    ] = DEFAULT.allocation.order,
    success: Annotated[
        float | None,
        typer.Option(
            "--success", metavar="P", help="A chance of a continuation to expect by.", rich_help_panel=_RANKING
        ),
    ] = None,
    substitution: Annotated[
        Substitution,
        typer.Option("--substitution", help="Of one prefix by itself, or of all of a group.", rich_help_panel=_AFTER),
    ] = DEFAULT.substitution,
    preset: Annotated[
        PresetName,
        typer.Option("--advantage.preset", help="Whose standard deviation and epsilon.", rich_help_panel=_AFTER),
    ] = DEFAULT.advantage.preset,
    ddof: Annotated[
        int | None,
        typer.Option("--advantage.ddof", metavar="0|1", help="Instead of the preset's.", rich_help_panel=_AFTER),
    ] = None,
    eps: Annotated[
        float | None,
        typer.Option("--advantage.eps", metavar="X", help="Instead of the preset's.", rich_help_panel=_AFTER),
    ] = None,
    weighting: Annotated[
        Weighting, typer.Option("--weighting", help="How the terms of Eq. 5 weigh.", rich_help_panel=_AFTER)
    ] = DEFAULT.weighting,
    require_executed: Annotated[
        bool,
        typer.Option(
            "--recovery.require-executed/--no-recovery.require-executed",
            help="Recovered only if the call was executed; not AXPO.",
            show_default="off",
            rich_help_panel=_AFTER,
        ),
    ] = DEFAULT.recovery.require_executed,
    recovery_tool: Annotated[
        Attributed,
        typer.Option("--recovery.tool", help="The tool of which call a recovery is of.", rich_help_panel=_AFTER),
    ] = DEFAULT.recovery.tool,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="S", help="Of continuations and a random rank.", rich_help_panel=_SAMPLING),
    ] = None,
    max_turns: Annotated[
        int | None,
        typer.Option("--max-turns", metavar="N", help="The trainer's limit of turns.", rich_help_panel=_SAMPLING),
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", metavar="T", help="As the trainer samples.", rich_help_panel=_SAMPLING)
    ] = DEFAULT.sampling.temperature,
    top_p: Annotated[
        float, typer.Option("--top-p", metavar="P", help="1: all tokens.", rich_help_panel=_SAMPLING)
    ] = DEFAULT.sampling.top_p,
    top_k: Annotated[
        int, typer.Option("--top-k", metavar="N", help="-1: all tokens.", rich_help_panel=_SAMPLING)
    ] = DEFAULT.sampling.top_k,
    min_p: Annotated[
        float, typer.Option("--min-p", metavar="P", help="0: all tokens.", rich_help_panel=_SAMPLING)
    ] = DEFAULT.sampling.min_p,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", metavar="N", help="Limit of a whole output.", rich_help_panel=_SAMPLING),
    ] = None,
    guided_decoding: Annotated[
        Guided,
        typer.Option("--guided-decoding", help="A grammar for the call; json is not AXPO.", rich_help_panel=_SAMPLING),
    ] = DEFAULT.guided_decoding,
    correct: Correct = None,
    group: Group = None,
    trainer: Trainer = None,
    map_: Map = None,
    tokenizer: Tokenizer = None,
) -> None:
    """Choose the prefixes that AXPO would resample, and write them as a plan.

    A group whose tool-using rollouts are all wrong triggers; its least sure calls are taken first, as far as the budget
    goes. Defaults are the readings closest to the paper. Exit code: 0, also for a plan without a prefix, which says
    why; 2 when no plan can be made.
    """
    from gapscope.axpo.plan import completed, drafted, plannable
    from gapscope.axpo.plan_file import write_plan
    from gapscope.config import Settings
    from gapscope.planning import ReadOptions

    options = plan_options(
        k=k,
        r=share(budget),
        tool_using=tool_using,
        branch_call=int(branch_call) if branch_call.isdecimal() else branch_call,
        candidate={"require_closed": require_closed},
        confidence={"span": confidence_span, "mean": confidence_mean},
        rank=rank,
        allocation={"order": order},
        substitution=substitution,
        advantage={"preset": preset, "ddof": ddof, "eps": eps},
        weighting=weighting,
        guided_decoding=guided_decoding,
        correctness=correct,
        recovery={"require_executed": require_executed, "tool": recovery_tool},
        step=step,
        seed=seed,
        sampling={
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "min_p": min_p,
            "max_tokens": max_tokens,
        },
        max_turns=max_turns,
        success=success,
    )
    target = output or NAME
    if not dry_run:
        _require_writable(target)
    runs, mapping = mapping_given(runs, map_)
    settings = Settings.load()
    read = ReadOptions.under(settings, group=group, trainer=trainer, mapping=mapping, tokenizer=tokenizer)
    with progress_bar("reading") as progress:
        store = plannable(runs, read, tokenizer=tokenizer, progress=progress)
    with store:
        draft = drafted(store, runs, options, read, correct=settings.correct)
        if dry_run:
            from gapscope.axpo.estimates import estimated
            from gapscope.axpo.plan_table import print_draft
            from gapscope.reporters.base.printing import terminal

            print_draft(draft, estimated(store, draft), terminal())
            return
        _keep_the_log(target, store, runs)
        _say(target, write_plan(target, draft.header, completed(store, draft, read)), named=output is not None)
    remember_mapping(mapping)


def plan_options(**given: Any) -> PlanOptions:  # noqa: ANN401 (what users typed, before it is looked at)
    """The options of a plan, as the flags have them.

    Raises:
        SettingsError: a value has no meaning; the error names its flag.

    """
    from pydantic import ValidationError

    try:
        return PlanOptions.model_validate(given)
    except ValidationError as error:
        raise _refusal(error) from None


_FLAGS: Final = {"r": "--budget"}
_MUST_BE: Final = {
    "--k": f"K must be at least 2, because Eq. 2 compares continuations, and at most {MOST_CONTINUATIONS:,}",
    "--budget": "a share of a step's rollouts is needed, as a decimal number of 0 or more, such as 0.25",
    "--branch-call": "it must be `first`, or the number of a call, counted from 1",
    "--advantage.ddof": "it must be 0, for the deviation of a population, or 1, for that of a sample",
    "--advantage.eps": "it must be a number of 0 or more",
    "--seed": "it must be a whole number of 0 or more, of 63 bits at most",
    "--max-turns": "it must be a whole number of 1 or more, of 31 bits at most",
    "--max-tokens": "it must be a whole number of 1 or more, of 31 bits at most",
    "--success": "a probability is needed, from 0 to 1",
    "--temperature": "it must be a number of 0 or more",
    "--top-p": "it must be more than 0, and at most 1, which is all tokens",
    "--top-k": "it must be a number of tokens, or -1 for all",
    "--min-p": "it must be from 0, which is all tokens, to 1",
}


def _refusal(error: "ValidationError") -> SettingsError:
    first = error.errors()[0]
    parts = [str(part) for part in first["loc"]]
    if not parts:
        hint = "Give the order a number, so that it can be made again: --rank random --seed 0."
        return SettingsError("--rank random without --seed", hint=hint)
    name = parts[1] if parts[0] == "sampling" else ".".join(parts[: 2 if parts[0] == "advantage" else 1])
    flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
    return SettingsError(f"{flag} {first['input']}: {_MUST_BE.get(flag, first['msg'])}")


def share(text: str) -> Decimal:
    """The budget as it was written: 0.29 is 29/100, which no binary float is."""
    if not _BUDGET.fullmatch(text):
        message = f"--budget {text}: {_MUST_BE['--budget']}"
        raise SettingsError(message)
    return Decimal(text)


def _require_writable(target: Path) -> None:
    """What can be seen before a long log is read, and not only after it."""
    if target.is_dir():
        message = f"{target} cannot be written: it is a folder"
        raise PlanError(message, hint="Name a file: -o plan.jsonl.")
    if not target.parent.is_dir():
        message = f"{target} cannot be written: there is no folder {target.parent}"
        raise PlanError(message)


def _keep_the_log(target: Path, store: "Store", runs: list[str]) -> None:
    """A plan is not written over what it was made of."""
    if not target.exists():
        return
    read = {os.path.realpath(path) for path in [*runs, *(path for (path,) in store.rows("SELECT path FROM files"))]}
    if os.path.realpath(target) in read:
        message = f"{target} is the log itself, and would be lost"
        raise PlanError(message, hint="Name another file: -o plan.jsonl.")


def _say(target: Path, header: Header, *, named: bool) -> None:
    from gapscope.axpo.plan_table import summary

    first, *rest = summary(header)
    print(f"{target}{'' if named else ' (in this folder; -o names another)'}: {first}", file=sys.stderr)
    for text in rest:
        print(text, file=sys.stderr)
    for note in header.notes:
        print(f"note: {note}", file=sys.stderr)
    print("--dry-run says what it would cost, and `gapscope schema plan` what its lines hold", file=sys.stderr)
    print(f"next: gapscope resample {target} --endpoint URL --model NAME --tools TOOL --reward REWARD", file=sys.stderr)
