"""Helpers of the corpus readers: options, label tables, and the search for recordings."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from sercache.corpus.table import read_table
from sercache.errors import CorpusError, did_you_mean
from sercache.validation import in_words

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aiff", ".aif")

ReaderOptions = Mapping[str, str]
"""What the user wrote after ``--option``, by name."""

LabelRow = tuple[str, Mapping[str, str]]
"""The position of a row, for messages (``labels.csv line 7``), and its cells by column."""

Model = TypeVar("Model", bound="ReaderModel")


class ReaderModel(BaseModel):
    """Base class of the options of a reader: unknown options are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _split_words(value: Any) -> Any:
    return (
        tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value
    )


def _split_pairs(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    pairs = [word.partition(":") for word in _split_words(value)]
    if not all(name.strip() and colon and meaning.strip() for name, colon, meaning in pairs):
        raise ValueError("expected pairs like 'hap:Happy,exc:Happy'")
    return {name.strip(): meaning.strip() for name, _, meaning in pairs}


Words = Annotated[tuple[str, ...], BeforeValidator(_split_words)]
"""Several words, separated by commas."""

Renamings = Annotated[dict[str, str], BeforeValidator(_split_pairs)]
"""Names in the corpus, and names to use instead: ``hap:Happy,exc:Happy``."""


def parse_options(model: type[Model], options: ReaderOptions) -> Model:
    """Return the options as an instance of ``model``.

    Raises:
        CorpusError: an option is unknown, or its value is not of its kind.
    """
    known: Sequence[str] = list(model.model_fields)
    for name in options:
        if name not in known:
            listed = ", ".join(known) if known else "none"
            raise CorpusError(f"unknown option '{name}' (options: {listed}).{did_you_mean(name, known)}")
    try:
        return model(**options)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise CorpusError(f"option {name}={options.get(name, '')}: {in_words(first)}") from None


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


def one_vote(classes: Sequence[str], label: str) -> tuple[float, ...]:
    """Return the votes of a single rater for ``label``, such as the emotion that an actor was asked for."""
    return tuple(float(name == label) for name in classes)


def require_folder(root: Path) -> None:
    """Raise a CorpusError if ``root`` is not a folder."""
    if not root.is_dir():
        raise CorpusError(f"{root} is {'a file, not a folder' if root.exists() else 'not there'}")


def find_recordings(root: Path) -> dict[str, Path]:
    """Return the recordings below ``root`` by name without suffix, as paths relative to ``root``, sorted.

    Where a name comes in several formats or folders, the first of :data:`AUDIO_SUFFIXES` wins, then the
    path that sorts first: RAVDESS comes with a second copy of all files on some sites, CREMA-D as wav and
    mp3.
    """
    require_folder(root)
    paths = [path for path in root.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file()]
    paths.sort(key=lambda path: (AUDIO_SUFFIXES.index(path.suffix.lower()), path.as_posix()))
    by_name: dict[str, Path] = {}
    for path in paths:
        by_name.setdefault(path.stem, path.relative_to(root))
    return dict(sorted(by_name.items()))


def match_recordings(
    root: Path, pattern: re.Pattern[str], corpus: str, example: str
) -> list[tuple[str, re.Match[str]]]:
    """Return the recordings whose name matches ``pattern``: their path from ``root``, and the match.

    Raises:
        CorpusError: there is none.
    """
    recordings = find_recordings(root)
    matches = [(path.as_posix(), pattern.fullmatch(name)) for name, path in recordings.items()]
    found = [(path, match) for path, match in matches if match]
    if not found:
        raise CorpusError(f"{root} holds no recording of {corpus} (names like {example})")
    return found
