"""Tables in files: a header and rows of text cells, with the line numbers that editors show."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sercache.errors import CorpusError, not_there

PARQUET_SUFFIXES = (".parquet", ".pq")

Numbered = tuple[int, list[str]]


@dataclass(frozen=True)
class RawTable:
    """The text cells of a table.

    Attributes:
        path: where it was read from.
        unit: the unit of ``numbers``: ``line`` in a text file, ``row`` in a Parquet file (1 is the header).
        header: column names, stripped of surrounding blanks.
        numbers: for every row, the line on which it starts.
        rows: cells as written; a missing cell is the empty string.
    """

    path: Path
    unit: str
    header: tuple[str, ...]
    numbers: tuple[int, ...]
    rows: tuple[list[str], ...]

    def where(self, number: int) -> str:
        """Return how an error message names a row: ``corpus.csv line 41``."""
        return f"{self.path.name} {self.unit} {number}"


def read_table(path: Path, delimiter: str = ",", *, strict: bool = True) -> RawTable:
    """Read a CSV (UTF-8, with or without a byte-order mark) or Parquet file.

    A quote that is never closed would swallow all rows below it; ``strict`` refuses that and any other
    doubtful quoting.

    Raises:
        CorpusError: the file is missing, empty or not such a table.
    """
    if not path.is_file():
        raise CorpusError(f"{path} is a folder, not a table" if path.is_dir() else not_there(path))
    if path.suffix.lower() in PARQUET_SUFFIXES:
        return _read_parquet(path)
    return _read_csv(path, delimiter, strict)


def dump_csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a CSV text that :func:`read_table` reads back to the very same cells.

    The ``csv`` module's writer leaves a lone carriage return unquoted, and its reader then ends the row
    there.
    """
    lines = (",".join(map(_quoted, row)) for row in (header, *rows))
    return "\n".join(lines) + "\n"


def _quoted(cell: str) -> str:
    if any(character in cell for character in ',"\n\r'):
        return '"' + cell.replace('"', '""') + '"'
    return cell


def _read_csv(path: Path, delimiter: str, strict: bool) -> RawTable:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path.name} is not UTF-8 text (byte {error.start}); save it as CSV in UTF-8"
        ) from None
    numbered = list(_numbered_rows(path, text, delimiter, strict))
    if not numbered:
        raise CorpusError(f"{path.name} is empty")
    header = tuple(name.strip() for name in numbered[0][1])
    if len(header) == 1:
        for separator, name in ((";", "a semicolon"), ("\t", "a tab")):
            if separator in header[0]:
                raise CorpusError(f"{path.name} is separated by {name}; a manifest is separated by commas")
    return RawTable(
        path, "line", header, tuple(line for line, _ in numbered[1:]), tuple(row for _, row in numbered[1:])
    )


def _numbered_rows(path: Path, text: str, delimiter: str, strict: bool) -> Iterator[Numbered]:
    """Yield the rows that are not blank with the line on which each starts."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict)
    start = 1
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise CorpusError(f"{path.name} line {start}: {error}") from None
        if row is None:
            return
        if row:
            yield start, row
        start = reader.line_num + 1


def _read_parquet(path: Path) -> RawTable:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{path.name} is not a Parquet file: {str(error).splitlines()[0]}") from None
    columns = [[_cell(value) for value in column.to_pylist()] for column in table.columns]
    rows = tuple(list(cells) for cells in zip(*columns, strict=True))
    header = tuple(name.strip() for name in table.column_names)
    return RawTable(path, "row", header, tuple(range(2, len(rows) + 2)), rows)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else str(value)
