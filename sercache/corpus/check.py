"""Check a manifest: find all its problems at once, before any model is loaded."""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sercache.audio import MINIMUM_SECONDS, audio_seconds, load_audio
from sercache.corpus.columns import Columns, format_number, parse_header
from sercache.corpus.rows import SPLIT_NAMES, has_votes, parse_row
from sercache.corpus.table import RawTable, read_table
from sercache.corpus.utterance import NO_AGREEMENT, OTHER, Utterance
from sercache.errors import AudioError, Interrupted, did_you_mean
from sercache.events import QUIET, Context, Event

TASK = "check"
HEADER_LINE = 1

_DECODING_RATE_HZ = 16000
_ROUNDING_SECONDS = 0.1
_LABEL_COLUMN = "label"

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a manifest.

    ``line`` is its line (a row of a Parquet file counts like a line; 1 is the header), ``id`` the
    utterance (empty for the header). An ``error`` makes rows unusable or results untrue; a ``warning`` may be
    intended.
    """

    line: int
    id: str
    what: str
    severity: Severity


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    cells: list[str]
    utterance: Utterance


def check_corpus(path: Path, *, decode: bool = True, context: Context = QUIET) -> list[Problem]:
    """Return all problems of a manifest, in the order of its lines.

    A cell that cannot be read counts as missing, and the check goes on.

    Args:
        path: the manifest, CSV or Parquet.
        decode: decode every recording to its end; False reads headers only.
        context: receives events, and says when to stop.

    Raises:
        CorpusError: the file is not a table at all.
        Interrupted: ``context.should_stop`` returned True.
    """
    table = read_table(path)
    problems: list[Problem] = []
    columns = parse_header(
        table.header, lambda what: problems.append(Problem(HEADER_LINE, "", what, "error"))
    )
    rows = []
    for line, cells in zip(table.numbers, table.rows, strict=True):
        found: list[str] = []
        row = _Row(line, cells, parse_row(cells, columns, found.append))
        problems += [Problem(line, row.utterance.id, what, "error") for what in found]
        rows.append(row)
    problems += _check_table(table, columns, rows)
    for row in rows:
        problems += _check_row(row, columns)
    problems += _check_ids(rows)
    problems += _check_speakers(rows, columns)
    problems += _check_repeated_recordings(rows)
    problems += _check_recordings(path.parent, rows, decode, context)
    return sorted(problems, key=lambda problem: problem.line)


def _check_table(table: RawTable, columns: Columns, rows: list[_Row]) -> Iterator[Problem]:
    def warn(what: str) -> Problem:
        return Problem(HEADER_LINE, "", what, "warning")

    if not rows:
        yield Problem(HEADER_LINE, "", "the table has a header and no rows", "error")
    if not columns.classes and not columns.attributes:
        yield warn(
            "there is no column 'votes:<Class>' and none 'attribute:<name>[<low>..<high>]': features can be "
            "extracted, but nothing can be trained"
        )
    if len(columns.classes) == 1:
        yield warn("there is only one class")
    for index, name in enumerate(columns.classes):
        if rows and not any(row.utterance.votes[index] for row in rows):
            yield warn(f"class '{name}' has no vote anywhere")
    for index, attribute in enumerate(columns.attributes if not columns.classes else ()):
        if rows and all(math.isnan(row.utterance.attributes[index]) for row in rows):
            yield warn(f"attribute '{attribute.name}' has no value anywhere")
    if rows and all(row.utterance.speaker is None for row in rows):
        yield warn("no utterance names its speaker: folds cannot be speaker-disjoint")
    if "split" in columns.fields:
        position = columns.fields["split"]
        spellings = {row.cells[position].strip().lower() for row in rows if position < len(row.cells)}
        development = sorted(name for name in spellings if SPLIT_NAMES.get(name) == "development")
        if len(development) > 1:
            yield warn(f"splits {' and '.join(map(repr, development))} are all read as 'development'")


def _check_row(row: _Row, columns: Columns) -> Iterator[Problem]:
    utterance = row.utterance

    def problem(what: str, severity: Severity = "error") -> Problem:
        return Problem(row.line, utterance.id, what, severity)

    if utterance.audio is None and utterance.text is None:
        yield problem("neither audio nor text")
    if columns.classes and not any((*utterance.votes, *utterance.secondary_votes, utterance.other_votes)):
        if has_votes(row.cells, columns):
            yield problem("the votes sum to zero; leave the cells empty where nobody voted")
        elif utterance.split != "test":
            yield problem(
                "no votes: the row is left out of training"
                if not _is_rated(utterance)
                else "no votes: the row is learned from for its attributes only",
                "warning",
            )
    if columns.attributes and not columns.classes and not _is_rated(utterance) and utterance.split != "test":
        yield problem("no attribute is rated: the row is left out of training", "warning")
    for attribute, value in zip(columns.attributes, utterance.attributes, strict=True):
        if value < attribute.low or value > attribute.high:
            yield problem(
                f"{attribute.name} {format_number(value)} is out of range "
                f"[{format_number(attribute.low)}..{format_number(attribute.high)}]"
            )
    label = utterance.extras.get(_LABEL_COLUMN)
    known = (*columns.classes, NO_AGREEMENT, OTHER)
    if label is not None and columns.classes and label not in known:
        yield problem(
            f"unknown class '{label}' in column '{_LABEL_COLUMN}' (classes: {', '.join(columns.classes)})."
            f"{did_you_mean(label, known)}"
        )


def _is_rated(utterance: Utterance) -> bool:
    return not all(map(math.isnan, utterance.attributes))


def _check_ids(rows: list[_Row]) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for row in rows:
        earlier = first.setdefault(row.utterance.id, row.line)
        if earlier != row.line and row.utterance.id:
            what = f"id '{row.utterance.id}' is already on line {earlier}"
            yield Problem(row.line, row.utterance.id, what, "error")


def _check_speakers(rows: list[_Row], columns: Columns) -> Iterator[Problem]:
    """Yield every row without a speaker, and every speaker at the first row of each further split."""
    named = [row for row in rows if row.utterance.speaker is not None]
    if named:
        for row in rows:
            if row.utterance.speaker is None:
                what = "no speaker: such rows count as one speaker"
                yield Problem(row.line, row.utterance.id, what, "warning")
    first: dict[str | None, dict[str, int]] = {}
    for row in named:
        utterance = row.utterance
        if utterance.split is None:
            continue
        seen = first.setdefault(utterance.speaker, {})
        if seen and utterance.split not in seen:
            elsewhere = " and ".join(f"'{split}' (line {line})" for split, line in seen.items())
            what = f"speaker '{utterance.speaker}' is in split '{utterance.split}' and in {elsewhere}"
            yield Problem(row.line, utterance.id, what, "error")
        seen.setdefault(utterance.split, row.line)


def _check_repeated_recordings(rows: list[_Row]) -> Iterator[Problem]:
    first: dict[tuple[str, float | None, float | None], int] = {}
    for row in rows:
        utterance = row.utterance
        if utterance.audio is None:
            continue
        span = (os.path.normpath(utterance.audio), utterance.start_seconds, utterance.end_seconds)
        earlier = first.setdefault(span, row.line)
        if earlier != row.line:
            what = f"the same recording as line {earlier}: {utterance.audio}"
            yield Problem(row.line, utterance.id, what, "warning")


def _check_recordings(root: Path, rows: list[_Row], decode: bool, context: Context) -> list[Problem]:
    """Open every recording, several at a time: decoding runs outside the interpreter's lock."""
    spoken = [row for row in rows if row.utterance.audio is not None]
    problems: list[Problem] = []
    context.listener(Event("start", TASK, total=len(spoken)))
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        findings = pool.map(lambda row: _recording_problem(root, row.utterance, decode), spoken)
        try:
            for done, (row, what) in enumerate(zip(spoken, findings, strict=True), start=1):
                if what:
                    problems.append(Problem(row.line, row.utterance.id, what, "error"))
                context.listener(Event("advance", TASK, done=done, total=len(spoken)))
                if context.should_stop():
                    raise Interrupted(f"stopped after {done} of {len(spoken)} recordings")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    context.listener(Event("finish", TASK, done=len(spoken), total=len(spoken)))
    return problems


def _recording_problem(root: Path, utterance: Utterance, decode: bool) -> str | None:
    """Return the problem of an utterance's recording; None where there is none."""
    assert utterance.audio is not None
    path = root / utterance.audio
    start = utterance.start_seconds or 0.0
    try:
        length = audio_seconds(path)
        end = length if utterance.end_seconds is None else utterance.end_seconds
        if end > length + _ROUNDING_SECONDS:
            return f"{utterance.audio}: end {end:g} s lies beyond the recording, which has {length:.2f} s"
        if end - start < MINIMUM_SECONDS:
            return (
                f"{utterance.audio}: too short, {max(end - start, 0):.3f} s (minimum {MINIMUM_SECONDS:g} s)"
            )
        if decode:
            load_audio(path, _DECODING_RATE_HZ, utterance.start_seconds, utterance.end_seconds)
    except AudioError as error:
        return f"{utterance.audio}: {str(error).removeprefix(f'{path}: ')}"
    try:
        seconds = float(utterance.extras["seconds"])
    except (KeyError, ValueError):
        return None
    if seconds > end - start + _ROUNDING_SECONDS:
        return (
            f"{utterance.audio}: {end - start:.2f} s, where column 'seconds' says {seconds:.2f} s: cut off?"
        )
    return None
