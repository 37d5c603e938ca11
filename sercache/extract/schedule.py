"""Cut a corpus into tasks: one task makes one shard, and is the most that a crash loses."""

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import xxhash

from sercache.audio import audio_seconds
from sercache.cache.fingerprint import FeatureSpec, Modality
from sercache.cache.frames import STORED_AS
from sercache.corpus import Corpus, Utterance
from sercache.errors import AudioError, CorpusError

SHARD_BYTES = 256_000_000
"""A shard is held in memory while it is built; larger ones are no faster to read."""

TASK_SECONDS = 600.0
"""Ten minutes of speech: two minutes of work for a large encoder on a small CPU, seconds on a GPU."""

ROWS_WITHOUT_GROWTH = 20_000
"""Corpora beyond this get longer tasks in proportion, so that the number of files stays in the hundreds."""

CHARACTERS_PER_SECOND = 15.0
"""Of speech; so a text is planned like the recording that it is the transcript of."""

WORD_PIECES_PER_SECOND = 4.0
"""Of speech, roughly."""


@dataclass(frozen=True, slots=True)
class TimedUtterance:
    """An utterance and its expected length, known without decoding it; 0 where it is unknown."""

    utterance: Utterance
    seconds: float


@dataclass(frozen=True, slots=True)
class ShardTask:
    """Utterances that are extracted together and published as ``shard-<name>.h5``."""

    name: str
    rows: tuple[TimedUtterance, ...]


def expected_lengths(
    corpus: Corpus, utterances: Sequence[Utterance], modality: Modality
) -> list[TimedUtterance]:
    """Return the expected length of every utterance: from its span, its file's header, or its text."""

    def measured(utterance: Utterance) -> TimedUtterance:
        return TimedUtterance(utterance, _seconds_of(corpus, utterance, modality))

    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(measured, utterances))


def cut_into_tasks(
    rows: Iterable[TimedUtterance], specs: Sequence[FeatureSpec], corpus_size: int
) -> list[ShardTask]:
    """Cut rows into tasks, the longest utterances first: what does not fit into memory shows at once.

    Tasks are run in this order, and the utterances of the first ones can be taken away without moving the
    later cuts: an interrupted extraction cuts the same remaining tasks again.

    Args:
        rows: utterances that have no frames yet.
        specs: the feature sets that are filled together, of one modality; the largest one bounds a task.
        corpus_size: how many utterances the whole corpus has.
    """
    limit_seconds = min(
        TASK_SECONDS * max(1.0, corpus_size / ROWS_WITHOUT_GROWTH),
        SHARD_BYTES / max(bytes_per_second(spec) for spec in specs),
    )
    cuts: list[list[TimedUtterance]] = []
    filled_seconds = 0.0
    for row in sorted(rows, key=lambda row: (-row.seconds, row.utterance.id)):
        if not cuts or filled_seconds + row.seconds > limit_seconds:
            cuts.append([])
            filled_seconds = 0.0
        cuts[-1].append(row)
        filled_seconds += row.seconds
    return [ShardTask(_name(cut, specs[0].modality), tuple(cut)) for cut in cuts]


def restrict_tasks(tasks: Iterable[ShardTask], ids: Collection[str], modality: Modality) -> list[ShardTask]:
    """Return tasks with only the rows that are among ``ids``; a task that keeps all keeps its name."""
    kept = ([row for row in task.rows if row.utterance.id in ids] for task in tasks)
    return [ShardTask(_name(rows, modality), tuple(rows)) for rows in kept if rows]


def bytes_per_second(spec: FeatureSpec) -> float:
    """Return what a second of speech (or its transcript) takes on disk."""
    frame_rate_hz = (spec.frame_rate_hz or WORD_PIECES_PER_SECOND) / spec.time_pool
    return frame_rate_hz * len(spec.layers) * spec.dim * STORED_AS[spec.dtype or "float16"].itemsize


def _seconds_of(corpus: Corpus, utterance: Utterance, modality: Modality) -> float:
    if modality == "text":
        return len(utterance.text or "") / CHARACTERS_PER_SECOND
    start_seconds = utterance.start_seconds or 0.0
    end_seconds = utterance.end_seconds
    if end_seconds is None:
        try:
            end_seconds = audio_seconds(corpus.audio_path(utterance))
        except (AudioError, CorpusError):
            return 0.0
    return max(0.0, end_seconds - start_seconds)


def _name(rows: Sequence[TimedUtterance], modality: Modality) -> str:
    """Return 12 digits that stand for these utterances; where the corpus lies does not matter."""
    members = [_key(row.utterance, modality) for row in rows]
    return hashlib.sha256(json.dumps(members).encode()).hexdigest()[:12]


def _key(utterance: Utterance, modality: Modality) -> tuple[object, ...]:
    if modality == "text":
        return utterance.id, xxhash.xxh3_128_hexdigest((utterance.text or "").encode())
    return utterance.id, utterance.audio, utterance.start_seconds, utterance.end_seconds
