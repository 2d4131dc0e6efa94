"""Lines on a terminal, in its width and colours, with ASCII stand-ins where it has no UTF-8."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len

from gapscope.reporters.base import BLOCKS
from gapscope.reporters.base.page import Line

if TYPE_CHECKING:
    from rich.console import Console

NARROWEST: Final = 60
WIDEST: Final = 120

_ASCII_BLOCKS: Final = "_.:-=+*#"
_PLAINER: Final = dict(zip("→←▌·–…×†‡§¶≤≥−", "><|;-~x*#$&<>-", strict=True))


def terminal() -> "Console":
    """Standard output; where its reader has gone, BrokenPipeError is raised, and not an exit code that means more."""
    from rich.console import Console

    class Terminal(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Terminal()


def print_lines(compose: Callable[[int, str], list[Line]], console: "Console") -> None:
    """Print what `compose` makes of a width in cells, from 60 to 120, and of the blocks of sparklines."""
    from rich.text import Text

    encoding = console.encoding or "ascii"
    unicode = encoding.lower().startswith("utf")
    width = max(NARROWEST, min(console.width, WIDEST))
    for line in compose(width, BLOCKS if unicode else _ASCII_BLOCKS):
        pieces = line if unicode else [(_encodable(text, encoding), style) for text, style in line]
        console.print(Text.assemble(*pieces), soft_wrap=True, highlight=False)


def _encodable(text: str, encoding: str) -> str:
    """The text in an encoding that may lack some of it, in as many cells."""
    return "".join(char if _fits(char, encoding) else _PLAINER.get(char, "?" * cell_len(char)) for char in text)


def _fits(char: str, encoding: str) -> bool:
    try:
        char.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
