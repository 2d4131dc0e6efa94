"""The command line: one file per command; errors become a text and an exit code here."""

import sys

from gapscope.cli.app import app
from gapscope.errors import GapscopeError

__all__ = ["app", "main"]

COULD_NOT_JUDGE = 2
_INTERRUPTED = 130


def main() -> None:
    """Run a command. Exit codes: 0 fine, 1 the gate failed, 2 could not judge (bad input, or a crash)."""
    try:
        app()
    except GapscopeError as error:
        print_error(error)
        sys.exit(COULD_NOT_JUDGE)
    except KeyboardInterrupt:
        print("interrupted; nothing was changed", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has gone; there is nobody to tell.
        sys.stderr.close()
        sys.exit(0)


def print_error(error: GapscopeError) -> None:
    """What happened, and below it what to do."""
    print(f"gapscope: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  → {error.hint}", file=sys.stderr)
