"""Find leaks: speakers, recordings, spans and texts that parts of a corpus share.

Parts are the splits; where there are none, they are the speakers, which folds keep apart.
"""

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import xxhash

from sercache.corpus.utterance import SPLITS, Corpus, Utterance
from sercache.errors import Interrupted
from sercache.events import QUIET, Context, Event

TASK = "compare recordings"
SPEAKERS = "speakers"

Kind = Literal["speaker", "audio", "span", "text", "sentence"]
Boundary = Literal["splits", "speakers"]

_CHUNK_BYTES = 1 << 20
_SHOWN = 3
_SENTENCE_WORDS = 4
_TOUCHING_SECONDS = 0.02
"""Spans that only round into each other do not overlap."""


@dataclass(frozen=True)
class Leak:
    """Something that two parts share.

    Attributes:
        kind: ``speaker``; ``audio`` (the same content, under one name or several); ``span`` (parts of one
            recording that overlap); ``text`` (the same words); ``sentence`` (the same, of four words or more,
            which hardly recur by chance).
        between: the two splits, or ``speakers``.
        shared: how many speakers, recordings, spans or texts.
        rows: how many utterances they are in, for each of ``between``.
        examples: the first few of them.
    """

    kind: Kind
    between: tuple[str, ...]
    shared: int
    rows: tuple[int, ...]
    examples: tuple[str, ...]


def boundary_of(corpus: Corpus) -> Boundary:
    """Return what separates training rows from evaluated ones: splits, or else speakers.

    A row without split is a training row.
    """
    return "splits" if len({row.split or "train" for row in corpus.utterances}) > 1 else "speakers"


def find_leaks(corpus: Corpus, *, context: Context = QUIET) -> tuple[Leak, ...]:
    """Return the leaks between the parts of a corpus, those of speakers first.

    Recordings are compared by xxh3 of their bytes; only those are read that have the size of another one. One
    that cannot be read counts by its path.

    Raises:
        Interrupted: ``context.should_stop`` returned True.
    """
    boundary = boundary_of(corpus)
    rows = [row for row in corpus.utterances if boundary == "splits" or row.speaker is not None]
    recordings = _recordings(corpus, rows, context)
    leaks = list(_shared("speaker", [(row.speaker, row) for row in rows], boundary))
    same, overlapping = _overlaps(rows, recordings)
    leaks += _shared("audio", same, boundary)
    leaks += _shared("span", overlapping, boundary)
    words = [(tuple(re.findall(r"\w+", (row.text or "").casefold())), row) for row in rows]
    texts = [(" ".join(spoken) or None, row) for spoken, row in words]
    leaks += _shared("text", texts, boundary)
    sentences = [(" ".join(spoken) if len(spoken) >= _SENTENCE_WORDS else None, row) for spoken, row in words]
    leaks += _shared("sentence", sentences, boundary)
    return tuple(leaks)


def _shared(
    kind: Kind, pairs: Iterable[tuple[Hashable | None, Utterance]], boundary: Boundary
) -> Iterable[Leak]:
    """Yield a leak for each pair of parts that have something in common; None is nothing."""
    groups: dict[Hashable, dict[str, list[Utterance]]] = defaultdict(lambda: defaultdict(list))
    for key, row in pairs:
        part = (row.split or "train") if boundary == "splits" else row.speaker
        if key is not None and part is not None:
            groups[key][part].append(row)
    if boundary == "speakers":
        shared = {key: parts for key, parts in groups.items() if len(parts) > 1}
        if shared:
            rows = sum(len(row) for parts in shared.values() for row in parts.values())
            firsts = ([parts[name][0] for name in list(parts)[:2]] for parts in shared.values())
            yield Leak(kind, (SPEAKERS,), len(shared), (rows,), _examples(kind, firsts))
        return
    for first, second in combinations(SPLITS, 2):
        both = [parts for parts in groups.values() if first in parts and second in parts]
        if both:
            counts = tuple(sum(len(parts[split]) for parts in both) for split in (first, second))
            firsts = ([parts[first][0], parts[second][0]] for parts in both)
            yield Leak(kind, (first, second), len(both), counts, _examples(kind, firsts))


def _examples(kind: Kind, firsts: Iterable[Sequence[Utterance]]) -> tuple[str, ...]:
    examples: list[str] = []
    for rows in firsts:
        if len(examples) == _SHOWN:
            break
        if kind == "speaker":
            examples.append(str(rows[0].speaker))
        elif kind in ("text", "sentence"):
            examples.append(_printable(rows[0].text or ""))
        else:
            examples.append(" = ".join(row.id for row in rows))
    return tuple(examples)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text).strip()


def _overlaps(
    rows: Sequence[Utterance], recordings: Mapping[str, str]
) -> tuple[list[tuple[Hashable, Utterance]], list[tuple[Hashable, Utterance]]]:
    """Return the rows whose spans of one recording are the same, and those whose spans overlap otherwise."""
    by_recording: dict[str, list[tuple[float, float, Utterance]]] = defaultdict(list)
    for row in rows:
        if row.audio is not None:
            start = row.start_seconds or 0.0
            end = float("inf") if row.end_seconds is None else row.end_seconds
            by_recording[recordings[row.audio]].append((start, end, row))
    same: list[tuple[Hashable, Utterance]] = []
    overlapping: list[tuple[Hashable, Utterance]] = []
    for recording, spans in by_recording.items():
        spans.sort(key=lambda span: span[:2])
        run, reach = -1, float("-inf")
        groups: dict[int, list[tuple[float, float, Utterance]]] = defaultdict(list)
        for span in spans:
            if span[0] >= reach - _TOUCHING_SECONDS:
                run, reach = run + 1, float("-inf")
            groups[run].append(span)
            reach = max(reach, span[1])
        for number, group in groups.items():
            kept = same if len({span[:2] for span in group}) == 1 else overlapping
            kept += [((recording, number), row) for _, _, row in group]
    return same, overlapping


def _recordings(corpus: Corpus, rows: Sequence[Utterance], context: Context) -> dict[str, str]:
    """Return one name per recording for each path; equal names mean equal bytes."""
    by_size: dict[int, list[str]] = defaultdict(list)
    names: dict[str, str] = {}
    for row in rows:
        if row.audio is None or row.audio in names:
            continue
        path = corpus.audio_path(row)
        names[row.audio] = str(path.absolute())
        try:
            status = path.stat()
        except OSError:
            continue
        if path.is_file():  # a pipe or a device has no end
            by_size[status.st_size].append(row.audio)
    candidates = [audio for group in by_size.values() if len(group) > 1 for audio in group]
    context.listener(Event("start", TASK, total=len(candidates)))
    for done, audio in enumerate(candidates, start=1):
        if context.should_stop():
            raise Interrupted(f"stopped after {done - 1} of {len(candidates)} recordings")
        try:
            names[audio] = _digest(names[audio])
        except OSError:
            continue
        context.listener(Event("advance", TASK, done=done, total=len(candidates)))
    context.listener(Event("finish", TASK, done=len(candidates), total=len(candidates)))
    return names


def _digest(path: str) -> str:
    digest = xxhash.xxh3_128()
    with Path(path).open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
