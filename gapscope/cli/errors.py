"""Errors as text, and the exit code that stands for them."""

import sys

from gapscope.errors import GapscopeError

COULD_NOT_JUDGE = 2


def print_error(error: GapscopeError) -> None:
    """What happened, and below it what to do."""
    print(f"gapscope: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  → {error.hint}", file=sys.stderr)
