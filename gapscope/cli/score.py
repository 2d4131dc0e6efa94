"""`gapscope score`: log-probs for a log that has none, from a model that is served."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gapscope.cli.errors import COULD_NOT_JUDGE, print_error
from gapscope.cli.options import Correct, Group, Logs, Map, Trainer, mapping_given, remember_mapping
from gapscope.errors import EndpointError

if TYPE_CHECKING:
    from gapscope.axpo.scoring import Scoring

_REFRESH_SECONDS = 0.1


def score(
    logs: Logs,
    endpoint: Annotated[str, typer.Option("--endpoint", metavar="URL", help="A vLLM server: http://localhost:8000.")],
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="The model, as the server names it.")],
    only: Annotated[
        Literal["all", "candidates"],
        typer.Option("--only", help="Score tool-using rollouts of all-wrong tool subgroups alone."),
    ] = "all",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where to write; default: LOG.scored.jsonl beside the log."
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, metavar="N", help="Requests in flight.")] = 32,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", metavar="PATH", help="A tokenizer.json, or the folder of a model that has one."),
    ] = None,
    top_k: Annotated[
        int,
        typer.Option("--top-k", min=0, max=20, metavar="K", help="Bounds of entropies from the K likeliest tokens."),
    ] = 0,
    deadline: Annotated[float, typer.Option("--deadline", min=1, metavar="SECONDS", help="For one request.")] = 600,
    correct: Correct = None,
    group: Group = None,
    trainer: Trainer = None,
    map_: Map = None,
) -> None:
    """Teacher-force logged rollouts through a vLLM server, and write the log again with the log-probs it gives.

    What has log-probs keeps them. A run that was stopped goes on where it was. Exit code: 0, or 2 when nothing could
    be scored or it was interrupted. The server's key is read from VLLM_API_KEY or OPENAI_API_KEY.
    """
    import asyncio

    from gapscope.axpo.score import score as run
    from gapscope.cli.interrupt import first_interrupt_sets

    logs, mapping = mapping_given(logs, map_)

    async def stoppable() -> "Scoring":
        stop = asyncio.Event()
        with first_interrupt_sets(stop), _progress() as progress:
            return await run(
                logs,
                endpoint=endpoint,
                model=model,
                output=output,
                only=only,
                correct=correct,
                concurrency=concurrency,
                tokenizer=tokenizer,
                top_k=top_k,
                deadline=deadline,
                group=group,
                trainer=trainer,
                mapping=mapping,
                progress=progress,
                stop=stop,
            )

    result = asyncio.run(stoppable())
    remember_mapping(mapping)
    for line in result.summary():
        print(line, file=sys.stderr)
    for remark in result.remarks():
        print(f"note: {remark}", file=sys.stderr)
    if result.interrupted:
        print_error(EndpointError("interrupted", hint="Run the same command again to go on; what is scored is kept."))
    elif result.is_empty:
        message, hint = result.failure()
        print_error(EndpointError(message, hint=hint))
    else:
        return
    raise typer.Exit(COULD_NOT_JUDGE)


@contextmanager
def _progress() -> Iterator[Callable[[int, int | None, int], None] | None]:
    """Rollouts and tokens per second on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    speed = TextColumn("{task.fields[speed]:,.0f} tokens/s")
    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), speed, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, speed=0.0)
        began = shown = time.perf_counter()

        def update(done: int, total: int | None, tokens: int) -> None:
            nonlocal shown
            now = time.perf_counter()
            if now - shown >= _REFRESH_SECONDS:
                shown = now
                bar.update(task, completed=done, total=total, speed=tokens / (now - began))

        yield update
