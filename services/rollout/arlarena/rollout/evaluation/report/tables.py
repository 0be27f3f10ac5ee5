"""Tables for the terminal. At any width of the terminal, all figures are complete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

# The minimum width to which a name is folded, in columns of the terminal.
NAME_WIDTH = 16
NOTHING = "-"


@dataclass(frozen=True, slots=True)
class FigureRow:
    """A row: a name and its figures. `ends_section`: True if a horizontal line follows the row."""

    name: str
    figures: Sequence[str]
    style: str = ""
    ends_section: bool = False


@dataclass(slots=True)
class FigureTable:
    """A table with a name and figures in each row. Markup in texts is not interpreted.

    Names may be folded, figures are never folded or cut. If the table is too wide for the terminal, the gaps between
    the columns get smaller. If it is still too wide, each row becomes a paragraph: the name, and the figures with their
    headings.

    Attributes:
        headings: headings of the figures. A heading may have several lines.
        rows: the rows in their order.
        name_heading: heading of the names.
        one_a_line: whether a paragraph has one figure in each line.
    """

    headings: Sequence[str]
    rows: list[FigureRow] = field(default_factory=list)
    name_heading: str = ""
    one_a_line: bool = False

    def add(self, name: str, figures: Sequence[str], style: str = "", *, ends_section: bool = False) -> None:
        """Add a row. `figures`: one text for each heading; "-" if there is no figure."""
        self.rows.append(FigureRow(name, figures, style, ends_section))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table. If the table does not fit, yield a paragraph for each row."""
        columns = zip(self.headings, *(row.figures for row in self.rows), strict=True)
        names = _width([self.name_heading, *(row.name for row in self.rows)])
        width = min(NAME_WIDTH, names) + sum(map(_width, columns))
        for gap in (2, 1):
            if width + gap * len(self.headings) <= options.max_width:
                yield self._table(gap)
                return
        for row in self.rows:
            yield Text(row.name, row.style or "bold")
            yield Padding(Text(self._paragraph(row)), (0, 0, 0, 2))

    def _table(self, gap: int) -> Table:
        """Return the table with `gap` spaces between columns."""
        # The gap after a column is one space of the box and the column's padding.
        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0))
        table.add_column(Text(self.name_heading), overflow="fold")
        for heading in self.headings:
            table.add_column(Text(heading), justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(Text(row.name), *map(Text, row.figures), style=row.style, end_section=row.ends_section)
        return table

    def _paragraph(self, row: FigureRow) -> str:
        found = [
            f"{' '.join(heading.split())}: {', '.join(figure.splitlines())}"
            for heading, figure in zip(self.headings, row.figures, strict=True)
            if figure != NOTHING
        ]
        return ("\n" if self.one_a_line else ", ").join(found)


def _width(texts: Sequence[str]) -> int:
    """Return the largest width of a line, in columns of the terminal."""
    return max((cell_len(line) for text in texts for line in text.splitlines()), default=0)
