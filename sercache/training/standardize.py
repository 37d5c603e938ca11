"""Statistics that frames are standardised with: of each speaker, and of the training rows of one fold.

Speaker normalisation standardises every speaker's frames with the speaker's own clips. It uses no labels, but
it uses other clips of the speaker that is predicted.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from sercache.cache.frames import from_storage
from sercache.cache.store import FeatureSet, Locations
from sercache.corpus import Corpus
from sercache.errors import CacheError, Interrupted, TrainingError
from sercache.events import QUIET, Context, Event
from sercache.heads.protocol import HeadInput
from sercache.training.checkpoint import load_tensors, save_tensors

MIN_CLIPS = 3
"""Of fewer clips, words and emotions would be taken for the speaker's voice."""

_AVERAGE = 0
"""The row of a table that normalises clips of no known speaker, or of one with too few clips."""

_CLIPS_AT_ONCE = 64


class FrameSums:
    """Sums over the frames of some clips, in float64, for their mean and deviation.

    >>> sums = FrameSums()
    >>> sums.add(np.array([[[1.0], [3.0]]], np.float32))  # one layer, two frames, one feature
    >>> [values.tolist() for values in sums.moments((1, 1))]
    [[[2.0]], [[1.0]]]
    """

    def __init__(self) -> None:
        self.clips = 0
        self.frames = 0
        self.total: NDArray[np.float64] | float = 0.0
        self.squares: NDArray[np.float64] | float = 0.0

    def add(self, frames: NDArray[np.float32]) -> None:
        """Add a clip's frames, ``(L, T, D)``."""
        exact = frames.astype(np.float64)
        self.clips += 1
        self.frames += exact.shape[1]
        self.total = self.total + exact.sum(axis=1)  # (L, D)
        self.squares = self.squares + np.einsum("ltd,ltd->ld", exact, exact)

    def merge(self, other: "FrameSums") -> None:
        """Add all clips of ``other``."""
        self.clips += other.clips
        self.frames += other.frames
        self.total = self.total + other.total
        self.squares = self.squares + other.squares

    def moments(self, shape: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the mean, and one over the deviation, of all frames; 0 and 1 without any.

        Args:
            shape: ``(L, D)``, which is the shape of both.

        Returns:
            A constant feature has scale 1.
        """
        count = max(1, self.frames)
        mean = np.broadcast_to(np.asarray(self.total) / count, shape)
        deviation = np.sqrt(np.maximum(np.asarray(self.squares) / count - mean**2, 0))
        varies = deviation > 1e-5 * np.maximum(np.abs(mean), 1)
        scale = np.divide(1.0, deviation, out=np.ones(shape), where=varies)
        return mean.astype(np.float32), scale.astype(np.float32)


@dataclass(frozen=True)
class SpeakerStatistics:
    """Mean and scale of the frames of each speaker in one feature set with L layers of D features.

    Attributes:
        ids: N utterances.
        rows: ``(N,)`` which row of the tables normalises an utterance; row 0 is the average speaker.
        mean: ``(K + 1, L, D)`` float32: the average speaker, then K speakers.
        scale: of the same shape: one over the deviation.
        averaged: how many utterances with frames are normalised as the average speaker.
        digest: of the speakers and of all frames that the tables were computed from.
    """

    ids: tuple[str, ...]
    rows: NDArray[np.int64]
    mean: Tensor
    scale: Tensor
    averaged: int
    digest: str

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return dict(zip(self.ids, self.rows.tolist(), strict=True))

    def rows_of(self, ids: tuple[str, ...]) -> NDArray[np.int64]:
        """Return the row of each of ``ids``, ``(len(ids),)``."""
        return np.asarray([self._row_of[utterance_id] for utterance_id in ids], dtype=np.int64)

    def normalize(self, given: HeadInput, rows: NDArray[np.int64]) -> HeadInput:
        """Return a batch with every clip normalised by its row of the tables; ``given`` stays as it is.

        Args:
            given: B clips, ``(B, T, D)``, or ``(B, T, L, D)`` of several layers.
            rows: ``(B,)``.
        """
        chosen = torch.from_numpy(rows)
        mean, scale = (table[chosen].to(given.frames.device) for table in (self.mean, self.scale))
        if given.frames.ndim == 3:
            mean, scale = mean.squeeze(1), scale.squeeze(1)  # (B, D)
        frames = (given.frames - mean.unsqueeze(1)).mul_(scale.unsqueeze(1))
        return HeadInput(frames, given.mask)


def speaker_statistics(
    feature_set: FeatureSet,
    corpus: Corpus,
    folder: Path,
    *,
    context: Context = QUIET,
) -> SpeakerStatistics:
    """Measure every speaker with at least ``MIN_CLIPS`` clips over all frames of all clips of the speaker.

    Clips of all splits and folds count; labels are not looked at. The average speaker, who stands in for
    speakers that are not known or have fewer clips, is measured over the frames of the training split.

    Args:
        feature_set: with L kept layers of D features.
        corpus: who speaks in which utterance.
        folder: where the tables are kept; a later call finds them there.
        context: receives events, and says when to stop.

    Raises:
        CacheError: frames are damaged, or not finite.
        Interrupted: ``context.should_stop`` returned True.
        OSError: the disk is full or the folder is not writable.
    """
    ids = tuple(sorted(corpus.ids))
    utterances = [corpus.by_id[utterance_id] for utterance_id in ids]
    locations = feature_set.locate(ids)
    held = locations.counts > 0
    clips = Counter(
        row.speaker for row, has in zip(utterances, held, strict=True) if has and row.speaker is not None
    )
    numbers = {speaker: number for number, speaker in enumerate(_enough(clips), _AVERAGE + 1)}
    rows = np.asarray([numbers.get(row.speaker or "", _AVERAGE) for row in utterances], dtype=np.int64)
    is_train = np.asarray([(row.split or "train") == "train" for row in utterances])
    digest = _digest(feature_set, ids, rows, is_train, locations)
    path = folder / f"{digest[:24]}.safetensors"
    averaged = int((held & (rows == _AVERAGE)).sum())
    if kept := _kept_tables(path):
        return SpeakerStatistics(ids, rows, *kept, averaged, digest)
    reading = _Reading(feature_set, ids, locations, int(held.sum()), context)
    shape = (len(feature_set.layers), feature_set.dim)
    mean = np.zeros((len(numbers) + 1, *shape), np.float32)
    scale = np.ones_like(mean)
    average = FrameSums()
    for number in range(len(numbers) + 1):
        speaker = FrameSums()
        for training in (True, False):
            part = reading.sums(np.flatnonzero(held & (rows == number) & (is_train == training)))
            speaker.merge(part)
            if training:
                average.merge(part)
        mean[number], scale[number] = speaker.moments(shape)
    mean[_AVERAGE], scale[_AVERAGE] = average.moments(shape)
    tables = {"mean": torch.from_numpy(mean), "scale": torch.from_numpy(scale)}
    save_tensors(path, tables, {"checksum": _checksum(tables)})
    return SpeakerStatistics(ids, rows, tables["mean"], tables["scale"], averaged, digest)


def _kept_tables(path: Path) -> tuple[Tensor, Tensor] | None:
    """Return mean and scale from an earlier call; None where they are not there or damaged."""
    try:
        tensors, stated = load_tensors(path)
    except TrainingError:
        return None
    tables = {name: tensor.clone() for name, tensor in tensors.items()}  # no longer the file's pages
    return (tables["mean"], tables["scale"]) if stated.get("checksum") == _checksum(tables) else None


def _checksum(tables: dict[str, Tensor]) -> str:
    hashed = xxhash.xxh3_128()
    for name in sorted(tables):
        hashed.update(tables[name].numpy().tobytes())
    return hashed.hexdigest()


@dataclass
class _Reading:
    """One pass over the clips of a feature set, a speaker's at a time."""

    feature_set: FeatureSet
    ids: tuple[str, ...]
    locations: Locations
    total: int
    context: Context
    done: int = 0

    def sums(self, clips: NDArray[np.int64]) -> FrameSums:
        """Return the sums over the frames of some clips, by their positions in ``ids``."""
        sums, dtype = FrameSums(), self.feature_set.spec.dtype or "float32"
        for first in range(0, len(clips), _CLIPS_AT_ONCE):
            if self.context.should_stop():
                raise Interrupted("stopped while speakers were measured; nothing was written")
            part = clips[first : first + _CLIPS_AT_ONCE]
            self.feature_set.check(self.locations[part])
            streams = [
                self.feature_set.stream(self.locations[part], layer) for layer in self.feature_set.layers
            ]
            for clip, planes in zip(part, zip(*streams, strict=True), strict=True):
                sums.add(np.stack([from_storage(plane, dtype) for plane in planes]))  # (L, T, D)
                if not np.isfinite(sums.total).all():
                    raise CacheError(
                        f"{self.feature_set.folder}: utterance '{self.ids[clip]}' has frames that are no "
                        "finite numbers; extract it again, or take it out of the corpus"
                    )
            self.done += len(part)
            task = f"measuring speakers in {self.feature_set.folder.name}"
            self.context.listener(Event("advance", task, self.done, self.total))
        return sums


def _enough(clips: Counter[str]) -> list[str]:
    return sorted(speaker for speaker, count in clips.items() if count >= MIN_CLIPS)


def _digest(
    feature_set: FeatureSet,
    ids: tuple[str, ...],
    rows: NDArray[np.int64],
    is_train: NDArray[np.bool_],
    locations: Locations,
) -> str:
    """Return a digest of all that the tables follow from."""
    hashed = hashlib.sha256("\n".join([feature_set.spec.fingerprint, *ids]).encode())
    for values in (rows, is_train, locations.counts, np.where(locations.counts > 0, locations.checksums, 0)):
        hashed.update(values.tobytes())
    return hashed.hexdigest()


SAMPLED_UTTERANCES = 2000
"""More would not change the statistics, and on a large corpus would read all of it once per fold."""


class InputStatistics(NamedTuple):
    """``mean`` and ``deviation`` of each feature, ``(D,)``, or ``(L, D)`` of several layers; float64."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]


def input_statistics(
    feature_set: FeatureSet, ids: Sequence[str], seed: int, speakers: SpeakerStatistics | None = None
) -> InputStatistics:
    """Return the statistics of the valid frames of at most ``SAMPLED_UTTERANCES`` training rows.

    Args:
        feature_set: with one or more layers.
        ids: the training rows of the fold, and no others; those without frames do not count.
        seed: which rows are sampled.
        speakers: what normalises the frames first; None leaves them as they are.

    Returns:
        A constant feature, which carries nothing, has deviation 1; so has everything where no row has frames.
    """
    locations = feature_set.locate(ids)
    held = np.flatnonzero(locations.counts > 0)
    sample = np.random.default_rng(seed).permutation(len(held))[:SAMPLED_UTTERANCES]
    rows = held[np.sort(sample)]
    sampled = locations[rows]
    speaker_rows = None if speakers is None else speakers.rows_of(tuple(ids[row] for row in rows))
    count = max(1, int(sampled.counts.sum()))
    layers = feature_set.layers
    total, squares = (np.zeros((len(layers), feature_set.dim)) for _ in range(2))
    for number, layer in enumerate(layers):
        for clip, stored in enumerate(feature_set.stream(sampled, layer)):
            frames = from_storage(stored, feature_set.spec.dtype or "float32").astype(np.float64)
            if speakers is not None and speaker_rows is not None:
                where = speaker_rows[clip], number
                frames = (frames - speakers.mean[where].numpy()) * speakers.scale[where].numpy()
            total[number] += frames.sum(axis=0)
            squares[number] += np.einsum("td,td->d", frames, frames)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    deviation[deviation < 1e-5 * np.maximum(np.abs(mean), 1)] = 1.0
    if len(layers) == 1:
        return InputStatistics(mean[0], deviation[0])
    return InputStatistics(mean, deviation)
