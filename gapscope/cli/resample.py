"""`gapscope resample`: a plan, run against a server."""

import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from gapscope.cli.errors import COULD_NOT_JUDGE, print_error
from gapscope.errors import EndpointError, PlanError

if TYPE_CHECKING:
    from gapscope.resampler.resampling import Resampling
    from gapscope.resampler.workload import Progress

NAME: Final = Path("resampled.jsonl")
_REFRESH_SECONDS = 0.1

_MODEL, _TOOLS, _RUN = "Model", "Tools and reward", "The run"

Endpoint = Annotated[
    str,
    typer.Option("--endpoint", metavar="URL", help="A server: http://localhost:8000.", rich_help_panel=_MODEL),
]
Model = Annotated[
    str,
    typer.Option("--model", metavar="NAME", help="The policy, as the server names it.", rich_help_panel=_MODEL),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        metavar="FILE",
        help="Holds the server's key; else VLLM_API_KEY or OPENAI_API_KEY.",
        rich_help_panel=_MODEL,
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        "--images", metavar="DIR", help="Images that the log has only hashes of, by any names.", rich_help_panel=_MODEL
    ),
]
Tools = Annotated[
    list[str] | None,
    typer.Option(
        "--tools",
        metavar="TOOL",
        help="python, image_zoom, NAME=module:function, an MCP server's URL, or a tools.toml; again for more.",
        rich_help_panel=_TOOLS,
        show_default=False,
    ),
]
RewardName = Annotated[
    str,
    typer.Option(
        "--reward",
        metavar="REWARD",
        help="exact_match, math, multiple_choice, f1, or module:function as verl or TRL call it.",
        rich_help_panel=_TOOLS,
    ),
]
RewardRule = Annotated[
    str | None,
    typer.Option(
        "--correct", metavar="RULE", help="When a reward that is not 0 or 1 is: reward>=0.8.", rich_help_panel=_TOOLS
    ),
]
Sandbox = Annotated[
    Literal["best", "strict"],
    typer.Option(
        "--sandbox", help="Isolate the model's code as well as can be, or wholly or not at all.", rich_help_panel=_TOOLS
    ),
]
Malformed = Annotated[
    Literal["trainer", "ends", "continues"],
    typer.Option(
        "--malformed", help="What a call that cannot be read does; as the log shows it, or.", rich_help_panel=_TOOLS
    ),
]
Concurrency = Annotated[
    int,
    typer.Option("--concurrency", min=1, metavar="N", help="Continuations in flight at most.", rich_help_panel=_RUN),
]
Deadline = Annotated[
    float, typer.Option("--deadline", min=1, metavar="SECONDS", help="For one request.", rich_help_panel=_RUN)
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, metavar="N", help="The first N prefixes of the plan alone.", rich_help_panel=_RUN),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on where a run of the same output was.", rich_help_panel=_RUN)
]
PolicyTokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        metavar="PATH",
        help="The policy's tokenizer.json: says which tokens the new calls are made of.",
        show_default=False,
        rich_help_panel=_MODEL,
    ),
]


def resample(
    plan: Annotated[
        Path, typer.Argument(metavar="PLAN", help="What `gapscope plan` has written.", rich_help_panel=_MODEL)
    ],
    endpoint: Endpoint,
    model: Model,
    reward: RewardName,
    tools: Tools = None,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="The resampled log.", rich_help_panel=_RUN),
    ] = NAME,
    correct: RewardRule = None,
    resume: Resume = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Sample nothing; say how it would go.", rich_help_panel=_RUN)
    ] = False,
    limit: Limit = None,
    concurrency: Concurrency = 64,
    deadline: Deadline = 600,
    malformed: Malformed = "trainer",
    sandbox: Sandbox = "best",
    images: Images = None,
    key_file: KeyFile = None,
    tokenizer: PolicyTokenizer = None,
) -> None:
    """Run a plan: freeze each prefix, sample its continuations, execute their calls, and judge their answers.

    What is finished is in FILE.journal at once: a run that was stopped, or killed, goes on with --resume. FILE is a log
    for `audit`, `recovery` and `export`. Exit code: 0, or 2 when nothing could be judged or it was interrupted.
    """
    from gapscope.resampler.resample import resample as run

    result = carried_out(
        partial(
            run,
            plan,
            endpoint=endpoint,
            model=model,
            tools=tools or (),
            reward=reward,
            correct=correct,
            output=output,
            resume=resume,
            dry_run=dry_run,
            limit=limit,
            concurrency=concurrency,
            malformed=malformed,
            strict=sandbox == "strict",
            images=images,
            key_file=key_file,
            deadline=deadline,
            tokenizer=tokenizer,
        )
    )
    if dry_run:
        print(result.prospect(), file=sys.stderr)
        return
    if not result.planned:
        print(result.failure(), file=sys.stderr)
        return
    say(result)
    print(f"next: gapscope recovery {output} --plan {plan}", file=sys.stderr)


def carried_out(run: "Callable[..., Coroutine[object, object, Resampling]]") -> "Resampling":
    """Await a run that is told how to announce, to show its progress, and to stop at Ctrl-C."""
    import asyncio

    from gapscope.cli.interrupt import first_interrupt_sets

    async def stoppable() -> "Resampling":
        stop = asyncio.Event()
        with first_interrupt_sets(stop), _progress() as progress:
            return await run(announce=_announce, progress=progress, stop=stop)

    return asyncio.run(stoppable())


def _announce(sentences: Sequence[str]) -> None:
    """Print what is in force, before anything is sampled."""
    for sentence in sentences:
        print(f"note: {sentence}", file=sys.stderr)


def say(result: "Resampling") -> None:
    """Print what a run has done.

    Raises:
        Exit: it has led to nothing, or it is not at its end.

    """
    for sentence in result.summary():
        print(sentence, file=sys.stderr)
    if result.interrupted:
        hint = "Run the same command with --resume to go on; what is finished is kept."
        print_error(EndpointError("interrupted", hint=hint))
    elif result.is_empty and result.planned:
        print_error(PlanError(result.failure(), hint="What gave no sample is tried again with --resume."))
    else:
        return
    raise typer.Exit(COULD_NOT_JUDGE)


@contextmanager
def _progress() -> "Iterator[Callable[[Progress], None] | None]":
    """How far a run is, on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("resampling"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[recovered]}"),
        TextColumn("{task.fields[speed]:,.0f} tokens/s"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=None, recovered="", speed=0.0)
        began = shown = time.perf_counter()

        def update(far: "Progress") -> None:
            nonlocal shown
            now = time.perf_counter()
            if now - shown >= _REFRESH_SECONDS or far.done in {0, far.planned}:
                shown = now
                recovered = f"{far.recovered:,} of {far.prefixes:,} prefixes recovered" if far.prefixes else ""
                speed = far.sampled / max(now - began, _REFRESH_SECONDS)
                bars.update(task, completed=far.done, total=far.planned, recovered=recovered, speed=speed)

        yield update
