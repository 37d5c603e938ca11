"""Predictions as other systems write them, matched with a corpus by utterance id and by column name.

CSV or Parquet, one row per utterance, in one of these forms; letters may be of either case::

    id, p:<Class>..., attribute:<name>...      ours; fold and origin may stand beside them
    id, <Class>..., <attribute>...             probabilities under the classes' names
    FileName, Prediction                       decisions: names of classes, or MSP-Podcast's letters
    FileName, EmoAct, EmoVal, EmoDom           attributes as MSP-Podcast calls them

An id is an utterance id, or a file name: then folder and extension do not count.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from sercache.corpus import Corpus
from sercache.corpus.readers.msp_podcast import LETTERS
from sercache.corpus.table import RawTable, read_table
from sercache.errors import CorpusError, StackingError, did_you_mean
from sercache.posteriors import Origin

ID_COLUMNS = ("id", "filename", "file", "utterance", "utterance_id", "name", "path")
DECISION_COLUMNS = ("prediction", "predicted", "label", "emoclass", "emotion")
_ATTRIBUTE_ALIASES = {"emoact": "arousal", "emoval": "valence", "emodom": "dominance"}
_FURTHEST_SUM = 0.02
"""How far rounded probabilities may be from adding up to 1."""


@dataclass(frozen=True)
class Predictions:
    """What one file says, N rows in the file's order.

    Attributes:
        name: what the member is called.
        path: where it was read.
        ids: utterance ids of the corpus.
        unknown_ids: as the file writes them; their rows are not here.
        class_probabilities: ``(N, C)`` in the corpus's order, rows sum to 1; None if the file has no classes.
        is_hard: the file has decisions, not probabilities.
        attribute_values: ``(N, A)`` in the corpus's order; a column of NaN for an attribute it has not.
        origins: ``(N,)`` of :data:`~sercache.posteriors.Origin`, where the file says.
    """

    name: str
    path: Path
    ids: tuple[str, ...]
    unknown_ids: tuple[str, ...]
    class_probabilities: NDArray[np.float64] | None
    is_hard: bool
    attribute_values: NDArray[np.float64]
    origins: NDArray[np.str_] | None


def member_names(paths: Sequence[Path]) -> list[str]:
    """Return what to call files: their names without extension, with folders before them where they coincide.

    Raises:
        StackingError: a file is given twice.
    """
    resolved = [path.resolve() for path in paths]
    for place, path in enumerate(resolved):
        if path in resolved[:place]:
            raise StackingError(
                f"{paths[place]} is given twice: its predictions are identical with themselves"
            )
    names = [path.stem for path in resolved]
    for depth in range(1, max((len(path.parts) for path in resolved), default=0)):
        if len(set(names)) == len(names):
            break
        names = [
            name if names.count(name) == 1 else "-".join([*path.parent.parts[-depth:], path.stem])
            for name, path in zip(names, resolved, strict=True)
        ]
    return names


def read_predictions(path: Path, corpus: Corpus, name: str | None = None) -> Predictions:
    """Read one file of predictions.

    Args:
        path: CSV or Parquet.
        corpus: says which classes, attributes and utterances there are.
        name: of the member; the file's without its extension unless given.

    Raises:
        StackingError: the file cannot be understood; says where and what to do.
    """
    try:
        table = read_table(path)
    except CorpusError as error:
        raise StackingError(str(error)) from None
    id_column = _first(table, ID_COLUMNS)
    if id_column is None:
        raise StackingError(
            f"{path.name}: no column names the utterances (looked for {', '.join(ID_COLUMNS)})"
        )
    ids, unknown = _matched_ids(table, id_column, corpus)
    kept = [place for place, utterance_id in enumerate(ids) if utterance_id is not None]
    if not kept:
        first = f", first '{unknown[0]}'" if unknown else ""
        raise StackingError(f"{path.name}: none of its {len(ids)} utterances is in the corpus{first}")
    probabilities, is_hard = _classes(table, corpus, kept)
    attributes = _attributes(table, corpus, kept)
    if probabilities is None and np.isnan(attributes).all():
        wanted = f"a column for each of {', '.join(corpus.classes)}, or one called Prediction"
        if not corpus.classes:
            wanted = f"a column for each of {', '.join(corpus.attribute_names)}"
        raise StackingError(f"{path.name}: it has no predictions: it needs {wanted}")
    return Predictions(
        name=name or path.stem,
        path=path,
        ids=tuple(str(ids[place]) for place in kept),
        unknown_ids=unknown,
        class_probabilities=probabilities,
        is_hard=is_hard,
        attribute_values=attributes,
        origins=_origins(table, kept),
    )


def _first(table: RawTable, names: Sequence[str]) -> int | None:
    """Return the index of the first column that has one of the names."""
    lowered = [column.lower() for column in table.header]
    return next((lowered.index(name) for name in names if name in lowered), None)


def _matched_ids(table: RawTable, column: int, corpus: Corpus) -> tuple[list[str | None], tuple[str, ...]]:
    """Return each row's utterance id, None where the corpus has none; and the unknown ids as written."""
    by_name: Mapping[str, set[str]] | None = None
    ids: list[str | None] = []
    unknown = []
    line_of: dict[str, int] = {}
    for number, row in zip(table.numbers, table.rows, strict=True):
        written = row[column].strip()
        found: str | None = written if written in corpus.by_id else None
        if found is None:
            by_name = _ids_by_file_name(corpus) if by_name is None else by_name
            candidates = by_name.get(_file_name(written), set())
            if len(candidates) > 1:
                raise StackingError(
                    f"{table.where(number)}: '{written}' may be any of {', '.join(sorted(candidates)[:3])}; "
                    "write utterance ids"
                )
            found = next(iter(candidates), None)
        if found is None:
            unknown.append(written)
        elif found in line_of:
            raise StackingError(
                f"{table.where(number)}: '{written}' was predicted before, in {table.unit} {line_of[found]}"
            )
        else:
            line_of[found] = number
        ids.append(found)
    return ids, tuple(unknown)


def _ids_by_file_name(corpus: Corpus) -> Mapping[str, set[str]]:
    by_name: dict[str, set[str]] = defaultdict(set)
    for row in corpus.utterances:
        by_name[_file_name(row.id)].add(row.id)
        if row.audio is not None:
            by_name[_file_name(row.audio)].add(row.id)
    return by_name


def _file_name(written: str) -> str:
    return PurePosixPath(written.replace("\\", "/")).stem


def _classes(table: RawTable, corpus: Corpus, kept: Sequence[int]) -> tuple[NDArray[np.float64] | None, bool]:
    if not corpus.classes:
        return None, False
    lowered = [column.lower() for column in table.header]
    columns = [
        next((lowered.index(name) for name in (f"p:{label.lower()}", label.lower()) if name in lowered), None)
        for label in corpus.classes
    ]
    places = [column for column in columns if column is not None]
    if not places:
        decisions = _first(table, DECISION_COLUMNS)
        return (None, False) if decisions is None else (_one_hot(table, decisions, corpus, kept), True)
    if len(places) < len(columns):
        missing = ", ".join(
            name for name, column in zip(corpus.classes, columns, strict=True) if column is None
        )
        raise StackingError(f"{table.path.name}: no column for the class {missing}")
    values = _numbers(table, places, kept)
    if (values < 0).any():
        row = int((values < 0).any(axis=1).argmax())
        raise StackingError(
            f"{_line(table, kept[row])}: a probability is negative; write the softmax of logits"
        )
    sums = values.sum(axis=1)
    if (np.abs(sums - 1) > _FURTHEST_SUM).any():
        row = int(np.abs(sums - 1).argmax())
        raise StackingError(
            f"{_line(table, kept[row])}: the probabilities add up to {sums[row]:.3g}, not to 1; "
            "write the softmax of logits"
        )
    return values / sums[:, None], bool((np.isin(values, (0.0, 1.0))).all())


def _one_hot(table: RawTable, column: int, corpus: Corpus, kept: Sequence[int]) -> NDArray[np.float64]:
    named = {name.lower(): index for index, name in enumerate(corpus.classes)}
    letters = {
        letter.lower(): named[name.lower()] for letter, name in LETTERS.items() if name.lower() in named
    }
    known = letters | named
    values = np.zeros((len(kept), len(corpus.classes)))
    for row, place in enumerate(kept):
        written = table.rows[place][column].strip()
        if written.lower() not in known:
            raise StackingError(
                f"{_line(table, place)}: '{written}' is no class of the corpus "
                f"({', '.join(corpus.classes)}).{did_you_mean(written, corpus.classes)}"
            )
        values[row, known[written.lower()]] = 1.0
    return values


def _attributes(table: RawTable, corpus: Corpus, kept: Sequence[int]) -> NDArray[np.float64]:
    columns = {}
    for place, column in enumerate(table.header):
        bare = column.lower().removeprefix("attribute:").partition("[")[0]
        columns[_ATTRIBUTE_ALIASES.get(bare, bare)] = place
    values = np.full((len(kept), len(corpus.attributes)), np.nan)
    for index, attribute in enumerate(corpus.attributes):
        if attribute.name.lower() in columns:
            values[:, index] = _numbers(table, [columns[attribute.name.lower()]], kept)[:, 0]
    return values


def _numbers(table: RawTable, columns: Sequence[int], kept: Sequence[int]) -> NDArray[np.float64]:
    values = np.empty((len(kept), len(columns)))
    for row, place in enumerate(kept):
        for index, column in enumerate(columns):
            values[row, index] = _number(table, place, column)
    return values


def _number(table: RawTable, place: int, column: int) -> float:
    cell = table.rows[place][column]
    try:
        value = float(cell)
    except ValueError:
        raise StackingError(f"{_line(table, place)}: '{cell}' is not a number") from None
    if not np.isfinite(value):
        raise StackingError(f"{_line(table, place)}: {cell} is not a finite number")
    return value


def _origins(table: RawTable, kept: Sequence[int]) -> NDArray[np.str_] | None:
    column = _first(table, ("origin",))
    if column is None:
        return None
    origins = np.asarray([table.rows[place][column] for place in kept], dtype=np.str_)
    for row, origin in enumerate(origins.tolist()):
        if origin not in get_args(Origin):
            known = ", ".join(get_args(Origin))
            raise StackingError(f"{_line(table, kept[row])}: unknown origin '{origin}' (there are {known})")
    return origins


def _line(table: RawTable, place: int) -> str:
    return table.where(table.numbers[place])
