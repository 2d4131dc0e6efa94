"""Where a bare interpreter begins: into the sandbox, and then to work."""

import sys

from . import confine, namespaces, supervise

TYPE_CHECKING = False  # as in `typing`, which takes longer to import than a sandbox to make
if TYPE_CHECKING:
    from typing import Any


def main(
    enter: "dict[str, Any] | None",
    rules: "dict[str, Any]",
    bounds: "dict[str, Any]",
    path: list[str],
) -> None:
    """Never returns; `enter` is None where something else has made the namespaces, or there are none."""
    sys.path += path
    if enter is not None:
        namespaces.enter(**enter)
    supervise.supervise(confine.Rules(**rules), supervise.Bounds(**bounds))
