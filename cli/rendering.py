"""What commands print on stdout: lines, notes, paths, tables, numbers and JSON.

Texts are printed as they are: square brackets in a name are no markup, and nothing is highlighted.
"""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import console

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from sercache.evaluation.bootstrap import Difference, Estimate

Part = str | tuple[str, str]
"""Text, or text with its style."""


def print_line(*parts: Part, style: str = "") -> None:
    """Print one line that is never broken, such as a path or a result that other programs read."""
    from rich.text import Text

    console.stdout_console().print(Text.assemble(*parts, style=style), soft_wrap=True)


def print_text(text: str, style: str = "") -> None:
    """Print sentences, broken between words at the width of the terminal."""
    from rich.text import Text

    console.stdout_console().print(Text(text, style))


def print_note(text: str) -> None:
    """Print what explains the results above."""
    print_text(text, "dim")


def print_heading(text: str) -> None:
    """Print what the following results are of."""
    print_line(text, style="bold")


def print_next(command: str) -> None:
    """Print what to run next, unless the command is quiet."""
    if not console.is_quiet():
        print_line(f"Next: {command}")


def print_paths(paths: Iterable[tuple[Path | str, str]]) -> None:
    """Print the files that were written, and what is in them."""
    for path, content in paths:
        print_line(f"  {path}  ", (content, "dim"))


def print_json(value: Any) -> None:
    """Print results as one JSON document: reports, mappings, sequences, arrays and paths; null for NaN."""
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False)
    if console.stdout_console().is_terminal:
        console.stdout_console().print_json(text)
    else:
        sys.stdout.write(text + "\n")


def _plain(value: Any) -> Any:
    from sercache.files import without_nan

    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {"" if key is None else str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(entry) for entry in value]
    if hasattr(value, "tolist"):  # arrays and scalars of numpy
        return without_nan(value.tolist())
    return str(value) if isinstance(value, Path) else without_nan(value)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        heading: above the column; may have several lines.
        is_number: whether its cells are aligned at the right.
        no_wrap: whether its cells stay on one line.
        overflow: what becomes of a word that is longer than the column.
        min_width: characters at least; None for as many as needed.
        max_width: characters at most; None for as many as there are.
        style: of its cells.
    """

    heading: str = ""
    is_number: bool = False
    no_wrap: bool = False
    overflow: Literal["fold", "ellipsis"] = "fold"
    min_width: int | None = None
    max_width: int | None = None
    style: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table that has a style."""

    cells: Sequence["str | Text"]
    style: str = ""


def numbers(*headings: str, no_wrap: bool = False) -> list[Column]:
    """Return columns of numbers."""
    return [Column(heading, is_number=True, no_wrap=no_wrap) for heading in headings]


def make_table(
    columns: Iterable[Column | str],
    rows: Iterable["Row | Sequence[str | Text]"],
    *,
    title: str = "",
    is_dense: bool = False,
    has_headings: bool = True,
) -> "Table":
    """Return a table without lines.

    Args:
        columns: a text is the heading of a column with default settings.
        rows: the cells of each; texts are shown as they are.
        title: above the table.
        is_dense: one space between columns instead of two.
        has_headings: whether headings are shown.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0) if is_dense else (0, 1),
        show_header=has_headings,
        title=Text(title, "bold") if title else None,
        title_justify="left",
    )
    for column in columns:
        if isinstance(column, str):
            column = Column(column)
        table.add_column(
            Text(column.heading),
            justify="right" if column.is_number else "left",
            no_wrap=column.no_wrap,
            overflow=column.overflow,
            min_width=column.min_width,
            max_width=column.max_width,
            style=column.style,
        )
    for row in rows:
        cells, style = (row.cells, row.style) if isinstance(row, Row) else (row, "")
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells), style=style)
    return table


def print_table(
    columns: Iterable[Column | str],
    rows: Iterable["Row | Sequence[str | Text]"],
    *,
    title: str = "",
    is_dense: bool = False,
    has_headings: bool = True,
) -> None:
    """Print a table without lines; for the arguments see :func:`make_table`."""
    table = make_table(columns, rows, title=title, is_dense=is_dense, has_headings=has_headings)
    console.stdout_console().print(table)


def decimal(value: float, decimals: int = 3, sign: str = "") -> str:
    """Return a number for a dense table: nothing for NaN; with two decimals or more no zero before the point.

    >>> decimal(0.525), decimal(-0.0124, sign="+"), decimal(1.2), decimal(0.5, 1), decimal(math.nan)
    ('.525', '-.012', '1.200', '0.5', '')
    """
    if math.isnan(value):
        return ""
    text = format(value, f"{sign}.{decimals}f")
    return text.replace("0.", ".", 1) if decimals > 1 and text.lstrip("+-").startswith("0.") else text


def interval(
    scored: "Estimate | Difference | None", sign: str = "", decimals: int = 3, scale: float = 1.0
) -> str:
    """Return a score with its interval for a dense table: ``.525 [.503,.547]``; nothing for None and NaN.

    Args:
        scored: the score or difference.
        sign: ``+`` for the signs of differences.
        decimals: after the point.
        scale: all numbers are multiplied by it: 100 for percent.
    """
    if scored is None or math.isnan(scored.value):
        return ""
    value = decimal(scale * scored.value, decimals, sign)
    if math.isnan(scored.low):
        return value
    return f"{value} [{decimal(scale * scored.low, decimals)},{decimal(scale * scored.high, decimals)}]"


def p_value(value: float) -> str:
    """Return a p-value for a dense table.

    >>> p_value(0.0004), p_value(0.04), p_value(math.nan)
    ('<.001', '.040', '')
    """
    return "<.001" if value < 0.001 else decimal(value)


def plural(count: int, noun: str) -> str:
    """Return a count of things.

    >>> plural(1, "member"), plural(1200, "member")
    ('1 member', '1,200 members')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def gigabytes(size_bytes: float) -> str:
    """Return a size in GB, without the unit.

    >>> gigabytes(1_234_567_890), gigabytes(12_345_678_900)
    ('1.235', '12.3')
    """
    return f"{size_bytes / 1e9:,.1f}" if size_bytes >= 1e10 else f"{size_bytes / 1e9:.3f}"
