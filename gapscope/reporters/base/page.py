"""A page of styled text, laid out in terminal cells: a wide character takes two of them, a mark none.

Long names are cut in the middle, because paths, tools and ids differ at their ends.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len, chop_cells

from gapscope.report import Measurement, Report, show, show_interval
from gapscope.reporters.base import count, series, sparkline

Piece = tuple[str, str]
"""A text and its style."""

Line = list[Piece]

GRID: Final = (27, 7, 13)
"""Name, value and interval stand in the same columns all the way down."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """How wide something is written, with which blocks, and the symbols of annotations."""

    width: int
    blocks: str
    symbols: dict[str, str]

    @property
    def prose(self) -> int:
        """How wide sentences run: longer lines are hard to read."""
        return min(self.width, 100)

    @property
    def wide(self) -> bool:
        """Whether every series has room for its sparkline."""
        return self.width >= 118

    def spark(self, measured: Measurement, width: int) -> Piece:
        """The sparkline of a measurement over the steps."""
        return sparkline(series(measured), width=width, blocks=self.blocks), "cyan"

    def mark(self, measured: Measurement) -> str:
        """What stands behind a number that needs a caution."""
        if measured.status == "annotated":
            return f" {self.symbols[measured.reason or 'annotated']}"
        return " thin" if measured.status == "thin" else ""

    def row(self, measured: Measurement) -> Line:
        """Name, value and interval, for the columns of the grid."""
        interval = f"{show_interval(measured)}{self.mark(measured)}".strip()
        return [(measured.name, ""), (show(measured), "bold"), (interval, "dim")]

    def heading(self, title: str, note: str = "") -> Line:
        """A title, and what holds for everything under it."""
        return [(title, "bold"), ("  ", ""), (clipped(note, self.width - cell_len(title) - 2), "dim")]

    def note(self, text: str) -> list[Line]:
        """A remark under a table."""
        return [[("  ", ""), (line, "dim italic")] for line in wrapped(text, self.prose - 2)]

    def item(self, text: str) -> list[Line]:
        """A plain entry, later lines further in."""
        first, *rest = wrapped(text, self.prose - 4) or [""]
        return [[("  ", ""), (first, "")], *([("    ", ""), (line, "")] for line in rest)]

    def legend(self, shown: Iterable[Measurement]) -> list[Line]:
        """The reasons behind the marks of these measurements, each once."""
        shown = list(shown)
        reasons = dict.fromkeys(m.reason or "annotated" for m in shown if m.status == "annotated")
        lines = [line for reason in reasons for line in self.note(f"{self.symbols[reason]} {reason}")]
        thin = {m.reason for m in shown if m.status == "thin"}
        why = f" ({next(iter(thin))})" if len(thin) == 1 and None not in thin else ""
        return lines + self.note(f"thin: too little evidence to judge by{why}") if thin else lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Sheet):
    """A sheet, and the report that is written on it."""

    report: Report


def more(n: int, thing: str) -> list[Line]:
    """That a list goes on, where it does."""
    return [[(f"  and {count(n, f'more {thing}')}", "dim")]] if n > 0 else []


def plain(line: Line) -> str:
    """The text of a line."""
    return "".join(text for text, _ in line)


def stacked(parts: Iterable[list[Line]]) -> list[Line]:
    """The parts that have any lines, an empty one between them."""
    lines: list[Line] = []
    for part in parts:
        if part:
            lines += [[], *part] if lines else part
    return [trimmed(line) for line in lines]


def trimmed(line: Line) -> Line:
    """The line without empty pieces and trailing spaces."""
    kept = [piece for piece in line if piece[0]]
    while kept and not kept[-1][0].rstrip():
        kept.pop()
    return [*kept[:-1], (kept[-1][0].rstrip(), kept[-1][1])] if kept else []


def clipped(text: str, width: int) -> str:
    """The text in at most `width` cells, its end replaced by `…` where it is longer."""
    return text if cell_len(text) <= width else f"{text[: _reach(text, width - 1)].rstrip()}…"[: max(0, width)]


def squeezed(text: str, width: int) -> str:
    """The text in at most `width` cells, where it is longer with `…` for a part before its last two thirds."""
    if cell_len(text) <= width:
        return text
    for keep in range(width - 1, 0, -1):
        head, tail = text[: _reach(text, keep // 3)], text[::-1][: _reach(text[::-1], keep - keep // 3)][::-1]
        short = f"{head}…{tail}"
        if cell_len(short) <= width:
            return short
    return "…"[:width]


def _reach(text: str, width: int) -> int:
    """How many characters from the left fit."""
    used = 0
    for place, char in enumerate(text):
        used += cell_len(char)
        if used > width:
            return place
    return len(text)


def wrapped(text: str, width: int) -> list[str]:
    """Lines of whole words; only a word that is wider than a line is broken, and no number leaves its unit."""
    lines = [""]
    for word in _UNBROKEN.sub("\xa0", text).split(" "):
        parts = chop_cells(word, width) if cell_len(word) > width else [word]
        for place, part in enumerate(parts):
            joined = f"{lines[-1]} {part}" if lines[-1] else part
            if place == 0 and cell_len(joined) <= width:
                lines[-1] = joined
            elif part:
                lines.append(part)
    return [line.replace("\xa0", " ") for line in lines if line]


_UNBROKEN: Final = re.compile(r" (?=%)|(?<=\b95 %) |(?<=\b[np]) (?=[=<] )|(?<=\b[np] [=<]) ")


def hanging(mark: str, text: str, width: int) -> list[str]:
    """Wrapped lines after a mark, the later ones under the first word."""
    room = cell_len(mark)
    return [f"{' ' * room if i else mark}{line}" for i, line in enumerate(wrapped(text, width - room))]


def flowed(facts: Iterable[str], width: int) -> list[str]:
    """Facts one after another, with line breaks between them where they fit and inside them where not."""
    lines: list[str] = []
    for fact in facts:
        joined = f"{lines[-1]} · {fact}" if lines else fact
        if cell_len(joined) <= width:
            lines[-1:] = [joined]
        else:
            lines += wrapped(fact, width)
    return lines


def table(
    rows: Sequence[Line],
    *,
    right: Collection[int],
    room: int,
    indent: int = 2,
    least: Sequence[int] = (),
    prose: int = -1,
) -> list[Line]:
    """Rows in columns two cells apart, those in `right` flush right; the widest give way to `room`.

    No column is narrower than `least` says, so that tables with the same least widths line up. Column `prose`
    is cut at its end, others in the middle. More columns than four cells each allow are left out.
    """
    columns = range(min(max(map(len, rows)), room // 4))
    floors = [least[i] if i < len(least) else 0 for i in columns]
    widths = [max([floors[i], *(min(room, cell_len(row[i][0])) for row in rows if i < len(row))]) for i in columns]
    excess = indent + sum(widths) + 2 * sum(width > 0 for width in widths) - 2 - room
    for _ in range(excess):
        widths[max([i for i in columns if widths[i] > floors[i]] or columns, key=widths.__getitem__)] -= 1
    lines: list[Line] = []
    for row in rows:
        line: Line = [(" " * indent, "")]
        for i, (text, style) in enumerate(row[: len(columns)]):
            if not widths[i]:
                continue
            short = (clipped if i == prose else squeezed)(text, widths[i])
            pad = " " * (widths[i] - cell_len(short))
            line += [(pad, ""), (short, style)] if i in right else [(short, style), (pad, "")]
            line.append(("  ", ""))
        lines.append(line)
    return lines
