"""Any label table: a CSV with a row per utterance, beside a folder of recordings."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from sercache.corpus.columns import ATTRIBUTE, parse_attribute
from sercache.corpus.readers.sources import (
    LabelRow,
    ReaderModel,
    ReaderOptions,
    Renamings,
    Words,
    find_recordings,
    one_vote,
    parse_float,
    parse_options,
    read_labels,
)
from sercache.corpus.rows import parse_split
from sercache.corpus.utterance import NO_AGREEMENT, OTHER, Attribute, Corpus, Utterance
from sercache.errors import CorpusError, did_you_mean

USUAL_NAMES = {
    "id": ("id", "utterance_id", "key", "name", "filename", "file"),
    "audio": ("audio", "path", "file", "filename", "wav", "file_path", "audio_path"),
    "text": ("text", "transcript", "transcription", "utterance", "sentence"),
    "speaker": ("speaker", "speaker_id", "spk", "spkrid", "actor"),
    "split": ("split", "split_set", "partition", "set"),
    "start": ("start", "start_time", "begin"),
    "end": ("end", "end_time", "stop"),
    "label": ("label", "emotion", "emo", "class"),
}
"""Column names that need no option; case does not matter, the first that is there is taken."""

_DELIMITERS = {"tab": "\t", "semicolon": ";", "comma": ","}


def _split_vote_columns(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    pairs = (word.strip().partition(":") for word in value.split(",") if word.strip())
    return {column.strip(): (name or column).strip() for column, _, name in pairs}


class PlainOptions(ReaderModel):
    """Options of the reader of plain tables: mostly the meaning of columns."""

    table: str | None = None
    """The table's file, where the folder holds several."""
    delimiter: str = "comma"
    """``comma``, ``semicolon``, ``tab``, or a single character."""
    id: Words | None = None
    """Column of the id; several are joined with '-'."""
    audio: str | None = None
    text: str | None = None
    speaker: str | None = None
    split: str | None = None
    start: str | None = None
    end: str | None = None
    label: str | None = None
    """Column of a single label, which counts as one vote."""
    votes: Annotated[dict[str, str], BeforeValidator(_split_vote_columns)] | None = None
    """Columns that count votes: ``neutral,joy`` or, with other class names, ``N:neutral,J:joy,else:O``."""
    classes: Words | None = None
    """The classes in order; without it, those of the vote columns, or all labels by alphabet."""
    rename: Renamings = Field({})
    """Other names for labels: ``hap:Happy,exc:Happy,xxx:O``; O is no class, X is no agreement."""
    splits: Renamings = Field({})
    """Other names for splits: ``Test1:test,Test2:test``."""
    attributes: Words = ()
    """Columns of attributes with their range: ``arousal[1..7],V:valence[1..5]``."""
    audio_folder: Path = Path()
    """Where audio paths start, from the folder of the corpus."""


def read_plain(root: Path, options: ReaderOptions) -> Corpus:
    """Read a folder that holds a label table and recordings, or the table itself.

    Columns go by their usual names (:data:`USUAL_NAMES`) or by option. Audio may be a path, or a bare name
    that is then looked for in all folders below. Columns without a meaning become extras.
    """
    wanted = parse_options(PlainOptions, options)
    path = _find_table(root, wanted)
    folder = root if root.is_dir() else root.parent
    delimiter = _DELIMITERS.get(wanted.delimiter, wanted.delimiter)
    if len(delimiter) != 1:
        raise CorpusError(
            f"option delimiter={wanted.delimiter}: expected comma, semicolon, tab, or a character"
        )
    rows = list(read_labels(path, delimiter=delimiter, strict=True))
    if not rows:
        raise CorpusError(f"{path.name} has no rows")
    layout = _Layout(wanted, path.name, list(rows[0][1]))
    classes = _classes(wanted, layout, rows)
    recordings = _RecordingFinder(folder, wanted.audio_folder)
    utterances = tuple(_utterance(row, layout, classes, recordings) for row in rows)
    return Corpus(classes, tuple(layout.attributes.values()), utterances, folder)


def _find_table(root: Path, wanted: PlainOptions) -> Path:
    if root.is_file():
        return root
    if wanted.table:
        return root / wanted.table
    tables = sorted(path for path in root.glob("*") if path.suffix.lower() in (".csv", ".tsv"))
    if len(tables) != 1:
        listed = f" ({', '.join(path.name for path in tables)})" if tables else ""
        raise CorpusError(
            f"{root} holds {len(tables)} tables{listed}; say which with: --option table=labels.csv"
        )
    return tables[0]


class _Layout:
    """The columns of a table by meaning."""

    def __init__(self, wanted: PlainOptions, table: str, header: Sequence[str]) -> None:
        self._table, self._header = table, header
        self.rename, self.splits = wanted.rename, wanted.splits
        self.vote_columns = wanted.votes or {}
        self.columns = {
            name: self._require(named) if (named := getattr(wanted, name)) else self._usual(name)
            for name in USUAL_NAMES
            if name != "id"
        }
        self.id = tuple(map(self._require, wanted.id)) if wanted.id else self._usual_id()
        for column in self.vote_columns:
            self._require(column)
        self.attributes: dict[str, Attribute] = {}
        for spec in wanted.attributes:
            column, renamed, rest = spec.partition(":")
            attribute = parse_attribute(ATTRIBUTE + (rest if renamed else spec))
            self.attributes[self._require(column if renamed else attribute.name)] = attribute
        if self.vote_columns and not wanted.label:
            self.columns["label"] = None  # where votes are counted, a label follows from them
        taken = {*self.columns.values(), *self.vote_columns, *self.attributes}
        taken |= set(self.id) if len(self.id) == 1 else set()
        self.extras = [name for name in header if name and name not in taken]

    def cell(self, row: Mapping[str, str], name: str) -> str:
        """Return the cell with that meaning, empty where the table has no such column."""
        column = self.columns[name]
        return row[column].strip() if column else ""

    def _usual(self, name: str) -> str | None:
        by_lower = {column.lower(): column for column in reversed(self._header)}
        return next((by_lower[usual] for usual in USUAL_NAMES[name] if usual in by_lower), None)

    def _usual_id(self) -> tuple[str, ...]:
        usual = self._usual("id") or self.columns["audio"]
        if usual is None:
            raise CorpusError(
                f"{self._table} has no column that could be the id (columns: {', '.join(self._header)}); "
                "say which with: --option id=COLUMN, or several: id=COLUMN,COLUMN"
            )
        return (usual,)

    def _require(self, column: str) -> str:
        if column not in self._header:
            known = ", ".join(self._header)
            hint = did_you_mean(column, self._header)
            raise CorpusError(f"{self._table} has no column '{column}' (columns: {known}).{hint}")
        return column


class _RecordingFinder:
    """Finds recordings by path, or by bare name; a missing one keeps its path, for ``check`` to report."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root, self._folder = root, folder
        self._by_name: dict[str, Path] | None = None

    def find(self, cell: str) -> str | None:
        """Return the path of a recording from the corpus's root; None where the cell is empty."""
        if not cell:
            return None
        path = self._folder / cell
        if (self._root / path).is_file():
            return path.as_posix()
        if Path(cell).name == cell:
            if self._by_name is None:
                self._by_name = find_recordings(self._root / self._folder)
            if found := self._by_name.get(cell) or self._by_name.get(Path(cell).stem):
                return (self._folder / found).as_posix()
        return path.as_posix()


def _classes(wanted: PlainOptions, layout: _Layout, rows: Sequence[LabelRow]) -> tuple[str, ...]:
    if layout.vote_columns:
        found = tuple(name for name in dict.fromkeys(layout.vote_columns.values()) if name != OTHER)
    elif layout.columns["label"]:
        labels = (layout.cell(row, "label") for _, row in rows)
        named = {layout.rename.get(label, label) for label in labels if label}
        found = tuple(sorted(named - {OTHER, NO_AGREEMENT}))
    else:
        found = ()
    if wanted.classes is None or not found:
        return wanted.classes or found
    if layout.vote_columns:
        for name in found:
            if name not in wanted.classes:
                raise CorpusError(_unknown_class(name, wanted.classes))
    return wanted.classes


def _utterance(
    labelled: LabelRow, layout: _Layout, classes: tuple[str, ...], recordings: _RecordingFinder
) -> Utterance:
    where, row = labelled

    def refuse(problem: str) -> None:
        raise CorpusError(f"{where}: {problem}")

    utterance_id = "-".join(row[column].strip() for column in layout.id)
    if layout.id == (layout.columns["audio"],):
        utterance_id = re.sub(r"\.\w{2,4}$", "", utterance_id)
    votes, other = _votes(row, layout, classes, where)
    audio, split = layout.cell(row, "audio"), layout.cell(row, "split")
    return Utterance(
        id=utterance_id,
        audio=recordings.find(audio),
        text=layout.cell(row, "text") or None,
        speaker=layout.cell(row, "speaker") or None,
        split=parse_split(layout.splits.get(split, split), refuse),
        start_seconds=_seconds(layout.cell(row, "start"), "start", where),
        end_seconds=_seconds(layout.cell(row, "end"), "end", where),
        votes=votes,
        other_votes=other,
        attributes=tuple(parse_float(row[column], column, where) for column in layout.attributes),
        extras={_extra_name(name): row[name] for name in layout.extras if row[name]},
    )


def _votes(
    row: Mapping[str, str], layout: _Layout, classes: tuple[str, ...], where: str
) -> tuple[tuple[float, ...], float]:
    """Return the votes for the classes and those for none of them."""
    if not layout.vote_columns:
        label = layout.cell(row, "label")
        label = layout.rename.get(label, label)
        if label and label not in (*classes, OTHER, NO_AGREEMENT):
            raise CorpusError(f"{where}: {_unknown_class(label, classes)}")
        return one_vote(classes, label), float(label == OTHER)
    counts = dict.fromkeys((*classes, OTHER), 0.0)
    for column, name in layout.vote_columns.items():
        votes = parse_float(row[column], column, where)
        if votes < 0:
            raise CorpusError(f"{where}: {row[column]} votes in column '{column}': votes cannot be negative")
        counts[name] += votes if votes == votes else 0.0
    other = counts.pop(OTHER)
    return tuple(counts.values()), other


def _unknown_class(name: str, classes: Sequence[str]) -> str:
    return f"unknown class '{name}' (classes: {', '.join(classes)}).{did_you_mean(name, classes)}"


def _seconds(cell: str, name: str, where: str) -> float | None:
    return parse_float(cell, name, where) if cell else None


def _extra_name(column: str) -> str:
    """Return a column's name as an extra: one that the manifest itself uses is set apart."""
    return f"{column}_published" if column in USUAL_NAMES else column
