"""The command line: one file per command; errors become a text and an exit code here."""

import sys
import traceback

from gapscope.cli.app import app
from gapscope.cli.errors import COULD_NOT_JUDGE, print_error
from gapscope.errors import GapscopeError

__all__ = ["app", "main"]

_INTERRUPTED = 130


def main() -> None:
    """Run a command. Exit codes: 0 fine, 1 the gate failed, 2 could not judge (bad input, or a crash)."""
    try:
        app()
    except GapscopeError as error:
        print_error(error)
        sys.exit(COULD_NOT_JUDGE)
    except SystemExit as ending:
        # Typer turns Ctrl-C into this code and says nothing.
        if ending.code == _INTERRUPTED:
            print("gapscope: interrupted; nothing was changed", file=sys.stderr)
        raise
    except BrokenPipeError:
        # The reader of our output has gone; there is nobody to tell.
        sys.stderr.close()
        sys.exit(0)
    except Exception:  # noqa: BLE001 (Python would exit with 1, which here means that the gate has failed)
        traceback.print_exc()
        print("gapscope: this is a bug in gapscope, not in your log; nothing was judged", file=sys.stderr)
        sys.exit(COULD_NOT_JUDGE)
