"""Reading a publisher's label tables."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sercache.corpus.table import read_table
from sercache.errors import CorpusError, did_you_mean

LabelRow = tuple[str, Mapping[str, str]]
"""Where a row stands, for messages (``labels.csv line 7``), and its cells by column."""


def read_labels(
    path: Path, required: Sequence[str] = (), delimiter: str = ",", *, strict: bool = False
) -> Iterator[LabelRow]:
    """Yield the rows of a label table.

    Raises:
        CorpusError: the file is no table, misses a column, or a row has too few or too many cells.
    """
    table = read_table(path, delimiter, strict=strict)
    for name in required:
        if name not in table.header:
            hint = did_you_mean(name, table.header)
            raise CorpusError(
                f"{path.name} has no column '{name}' (columns: {', '.join(table.header)}).{hint}"
            )
    for line, cells in zip(table.numbers, table.rows, strict=True):
        if len(cells) != len(table.header):
            raise CorpusError(
                f"{table.where(line)}: {len(cells)} cells where the header has {len(table.header)}"
            )
        yield table.where(line), dict(zip(table.header, cells, strict=True))


def first_file(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    """Return the first of ``names`` that exists in the first of ``folders`` that has one."""
    paths = (folder / name for folder in folders for name in names)
    return next((path for path in paths if path.is_file()), None)


def parse_float(cell: str, name: str, where: str) -> float:
    """Return the number in a cell, NaN where it is empty.

    Raises:
        CorpusError: it is not a number.
    """
    if cell.strip() in ("", "NA", "nan", "NaN"):
        return float("nan")
    try:
        return float(cell)
    except ValueError:
        raise CorpusError(f"{where}: {name} '{cell}' is not a number") from None
