"""The manifest: a corpus as one CSV or Parquet file.

Columns: ``id, audio, text, speaker, split, start, end``, ``votes:<Class>`` (class order is column order),
``votes2:<Class>`` for secondary choices, ``votes:O`` for votes outside the class set,
``attribute:<name>[<low>..<high>]``; any further column travels along in ``Utterance.extras``.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NoReturn

import xxhash

from sercache.corpus.columns import (
    ATTRIBUTE,
    SECONDARY_VOTES,
    VOTES,
    attribute_column,
    format_number,
    parse_header,
)
from sercache.corpus.rows import parse_row
from sercache.corpus.table import PARQUET_SUFFIXES, dump_csv, read_table
from sercache.corpus.utterance import NO_AGREEMENT, OTHER, Corpus, Utterance
from sercache.errors import CorpusError
from sercache.files import write_atomically


def read_corpus(path: Path) -> Corpus:
    """Read a manifest; audio paths are relative to its folder.

    Raises:
        CorpusError: the first thing that makes the table unreadable, with its line. ``check_corpus`` finds
            all.
    """
    table = read_table(path)
    columns = parse_header(table.header, partial(_refuse, path.name))
    if not table.rows:
        raise CorpusError(f"{table.path.name} has a header and no rows")
    utterances: dict[str, Utterance] = {}
    for line, cells in zip(table.numbers, table.rows, strict=True):
        utterance = parse_row(cells, columns, partial(_refuse, table.where(line)))
        if utterance.id in utterances:
            earlier = table.numbers[list(utterances).index(utterance.id)]
            _refuse(table.where(line), f"id '{utterance.id}' is already on {table.unit} {earlier}")
        utterances[utterance.id] = utterance
    return Corpus(columns.classes, columns.attributes, tuple(utterances.values()), path.parent)


def write_corpus(corpus: Corpus, path: Path) -> None:
    """Write a manifest; audio paths become relative to its folder. The suffix says CSV or Parquet.

    Raises:
        CorpusError: an id comes twice, or a class, attribute or extra has a name that would not read back.
    """
    columns = _columns(corpus, path.parent)
    if path.suffix.lower() in PARQUET_SUFFIXES:
        write_atomically(path, _parquet(columns))
    else:
        write_atomically(path, dump_csv(list(columns), zip(*columns.values(), strict=True)))


def corpus_digest(corpus: Corpus) -> str:
    """Return the hex digest of everything in a corpus that affects training.

    Where the recordings lie, the order of the rows, and the extras do not count.
    """
    digest = xxhash.xxh3_128()
    attributes = [(attribute.name, attribute.low, attribute.high) for attribute in corpus.attributes]
    digest.update(json.dumps([corpus.classes, attributes]).encode())
    for row in sorted(corpus.utterances, key=lambda utterance: utterance.id):
        secondary = row.secondary_votes if any(row.secondary_votes) else ()
        span = (row.start_seconds, row.end_seconds)
        values = (row.votes, secondary, row.other_votes, row.attributes, span)
        digest.update(json.dumps([row.id, row.text, row.speaker, row.split, values]).encode())
    return digest.hexdigest()


def _refuse(where: str, problem: str) -> NoReturn:
    raise CorpusError(f"{where}: {problem}")


def _columns(corpus: Corpus, folder: Path) -> dict[str, list[str]]:
    """Return the manifest of ``corpus`` in ``folder`` as text cells by column."""
    rows = corpus.utterances
    rated = [any(row.votes) or row.other_votes > 0 for row in rows]
    columns: dict[str, list[str]] = {
        "id": [row.id for row in rows],
        "audio": _relative_audio(corpus, folder),
        "text": [row.text or "" for row in rows],
        "speaker": [row.speaker or "" for row in rows],
        "split": [row.split or "" for row in rows],
        "start": [_optional(row.start_seconds) for row in rows],
        "end": [_optional(row.end_seconds) for row in rows],
    }
    for index, name in enumerate(corpus.classes):
        votes = [
            _optional(row.votes[index] if known else None) for row, known in zip(rows, rated, strict=True)
        ]
        columns[VOTES + name] = votes
    if any(row.other_votes for row in rows):
        votes = [
            _optional(row.other_votes if known else None) for row, known in zip(rows, rated, strict=True)
        ]
        columns[VOTES + OTHER] = votes
    if any(row.secondary_votes for row in rows):
        for index, name in enumerate(corpus.classes):
            chosen = (row.secondary_votes[index] if row.secondary_votes else None for row in rows)
            columns[SECONDARY_VOTES + name] = [_optional(votes) for votes in chosen]
    for index, attribute in enumerate(corpus.attributes):
        columns[attribute_column(attribute)] = [_optional(row.attributes[index]) for row in rows]
    extras = dict.fromkeys(name for row in rows for name in row.extras)
    _require_readable(corpus, [*columns, *extras])
    return columns | {name: [row.extras.get(name, "") for row in rows] for name in extras}


def _require_readable(corpus: Corpus, header: Sequence[str]) -> None:
    """Make sure that reading the manifest gives these classes, attributes and extras again."""
    refuse = partial(_refuse, "this corpus cannot be written as a manifest")
    for utterance_id, times in Counter(corpus.ids).items():
        if times > 1 or not utterance_id.strip():
            refuse(f"id '{utterance_id}' comes {times} times" if utterance_id.strip() else "an id is empty")
    for name in {OTHER, NO_AGREEMENT} & set(corpus.classes):
        refuse(
            f"no class can be called '{name}'; {OTHER} stands for no class, {NO_AGREEMENT} for no agreement"
        )
    for name in header:
        if not name.strip() or name != name.strip():
            refuse(f"'{name}' is no name for a column")
    read_back = parse_header(header, refuse)
    if (read_back.classes, read_back.attributes) != (corpus.classes, corpus.attributes):
        refuse("a class or an extra is named like a column of another kind")


def _relative_audio(corpus: Corpus, folder: Path) -> list[str]:
    root, folder = corpus.root.resolve(), folder.resolve()

    @cache
    def relative(parent: str) -> str:
        return os.path.relpath(root / parent, folder)

    pairs = (os.path.split(row.audio or "") for row in corpus.utterances)
    return [(Path(relative(parent)) / name).as_posix() if name else "" for parent, name in pairs]


def _parquet(columns: Mapping[str, list[str]]) -> bytes:
    """Numbers as float64, everything else as text; a missing cell is null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numeric = ("start", "end")
    arrays = {
        name: pa.array([float(cell) if cell else None for cell in cells], pa.float64())
        if name in numeric or name.startswith((VOTES, SECONDARY_VOTES, ATTRIBUTE))
        else pa.array([cell or None for cell in cells], pa.string())
        for name, cells in columns.items()
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(arrays), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _optional(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else format_number(value)
