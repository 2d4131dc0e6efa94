"""`gapscope metrics`: what each number means."""

from typing import Annotated

import typer


def metrics(
    name: Annotated[str | None, typer.Argument(help="A metric or one of its keys.", metavar="NAME")] = None,
) -> None:
    """List the metrics, or explain one: what it measures, why it matters, how to read it."""
    from gapscope.metrics import METRICS, metric_named

    if name is not None:
        metric = metric_named(name)
        print(metric.doc.strip())
        print(f"\nKeys: {', '.join(metric.keys)}.")
        return
    width = max(len(metric.name) for metric in METRICS)
    for metric in METRICS:
        print(f"{metric.name:<{width}}  {metric.question}")
        print(f"{'':<{width}}  {', '.join(metric.keys)}")
    print("\n`gapscope metrics NAME` explains one.")
