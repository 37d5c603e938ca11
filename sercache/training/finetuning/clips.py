"""From utterances to what a head reads, with encoders that change: cut to learn, whole to predict."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sercache.encoders.network import batches_by_length
from sercache.encoders.protocol import Waveform
from sercache.errors import EncoderError, TrainingError
from sercache.extract.encode import (
    EncoderInput,
    FailedRow,
    prepare_input,
    read_ahead,
    read_input,
    start_encoding,
)
from sercache.heads.protocol import HeadInput
from sercache.seeds import derive_seed
from sercache.training.batches import FrameSource
from sercache.training.finetuning.live import LiveFeature, head_input, pooled

_READERS = 4
_BATCHES_AHEAD = 4

Prepared = list[list[Any]]
"""By live feature set, by clip: what its encoder's ``prepare`` returned, or None where it has no frames."""


@dataclass(frozen=True)
class Clips:
    """N utterances, and how each feature set of a member is had of them: from the cache, or live.

    Attributes:
        source: the utterances in all feature sets of the member, in its order.
        live: those feature sets whose encoders are trained, by their index in the member.
        max_seconds: longest clip to learn from.
        limit_seconds: most audio in one batch, padding included.
    """

    source: FrameSource
    live: dict[int, LiveFeature]
    max_seconds: float
    limit_seconds: float

    @property
    def ids(self) -> tuple[str, ...]:
        """The utterances."""
        return self.source.ids

    def select(self, ids: Sequence[str]) -> "Clips":
        """Return some of the utterances."""
        return Clips(self.source.select(ids), self.live, self.max_seconds, self.limit_seconds)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """How much of a batch each utterance takes in training, ``(N,)``, in milliseconds."""
        return self._lengths(whole=False)

    def _lengths(self, *, whole: bool) -> NDArray[np.int64]:
        """Return how long the longest live feature set of each utterance is, ``(N,)``."""
        limit = np.inf if whole else self.max_seconds
        seconds = [live.seconds(self.frame_counts[:, index], limit) for index, live in self.live.items()]
        milliseconds: NDArray[np.int64] = np.ceil(1000 * np.max(seconds, axis=0)).astype(np.int64)
        return milliseconds

    def batches(self, rows: NDArray[np.int64], *, whole: bool = False) -> list[NDArray[np.int64]]:
        """Cut rows into batches of similar length that fit into memory; the longest come first."""
        lengths = np.maximum((self._lengths(whole=True) if whole else self.lengths)[rows], 1)
        limit = 1000 * self.limit_seconds
        return [rows[batch] for batch in batches_by_length(lengths.tolist(), limit)]

    def read_for_training(self, batches: Sequence[NDArray[np.int64]], seed: int) -> Generator[Prepared]:
        """Yield each batch of clips, prepared; a long one is cut to a stretch, which ``seed`` decides.

        Audio is cut at the same time for all encoders. A text that a model cannot read at once is cut to one
        of the pieces that it reads.

        Raises:
            TrainingError: an utterance cannot be read.
        """

        def read(rows: NDArray[np.int64]) -> Prepared:
            clips = [self._cut_clip(int(row), seed) for row in rows]
            return [list(column) for column in zip(*clips, strict=True)]

        items = ((rows, 1.0) for rows in batches)
        with closing(read_ahead(read, items, limit=_BATCHES_AHEAD, workers=_READERS)) as ahead:
            yield from ahead

    def training_inputs(
        self, rows: NDArray[np.int64], prepared: Prepared, max_frames: int | None, seed: int
    ) -> list[HeadInput]:
        """Return what the head reads of a batch, with gradients into the trained encoders.

        Args:
            rows: ``(B,)`` of the batch.
            prepared: of its clips.
            max_frames: longest stretch of a cached feature set.
            seed: where such stretches begin.
        """
        inputs = self._cached(rows, max_frames, seed)
        for (index, live), clips in zip(self.live.items(), prepared, strict=True):
            present = [clip for clip in clips if clip is not None]
            frames = iter(live.encoder.frames(present) if present else ())
            rate = live.spec.time_pool
            clip_frames = [None if clip is None else pooled(next(frames), rate) for clip in clips]
            inputs[index] = head_input(clip_frames, live.spec, self.source.device)
        return [inputs[index] for index in sorted(inputs)]

    def whole_inputs(self, batches: Sequence[NDArray[np.int64]]) -> Generator[list[HeadInput]]:
        """Yield what the head reads of whole utterances, encoded as extraction does, windows included.

        Raises:
            TrainingError: an utterance cannot be read or encoded.
        """

        def read(rows: NDArray[np.int64]) -> list[list[Any]]:
            return [
                [
                    prepare_input(live.encoder, live.spec, self._read(live, int(row))) if has else None
                    for row, has in zip(rows, self.frame_counts[rows, index] > 0, strict=True)
                ]
                for index, live in self.live.items()
            ]

        items = ((rows, 1.0) for rows in batches)
        with closing(read_ahead(read, items, limit=_BATCHES_AHEAD, workers=_READERS)) as ahead:
            for rows, ready in zip(batches, ahead, strict=True):
                inputs = self._cached(rows, None, 0)
                for (index, live), clips in zip(self.live.items(), ready, strict=True):
                    group = [clip for clip in clips if clip is not None]
                    encoded = iter(start_encoding(live.encoder, live.spec, group)())
                    frames = []
                    for clip in clips:
                        result = next(encoded) if clip is not None else None
                        if isinstance(result, FailedRow):
                            raise _unreadable(result)
                        frames.append(None if result is None else torch.from_numpy(result.frames))
                    inputs[index] = head_input(frames, live.spec, self.source.device)
                yield [inputs[index] for index in sorted(inputs)]

    @cached_property
    def frame_counts(self) -> NDArray[np.int64]:
        """Frames of each utterance in each feature set, as they were extracted, ``(N, M)``."""
        return self.source.frame_counts

    @cached_property
    def cached_source(self) -> FrameSource | None:
        """Return the utterances in those feature sets that come from the cache; None if there are none."""
        sets = [self.source.feature_sets[index] for index in self._cached_indices]
        return self.source.select(self.ids, sets) if sets else None

    @property
    def _cached_indices(self) -> list[int]:
        return [index for index in range(len(self.source.feature_sets)) if index not in self.live]

    def _cached(self, rows: NDArray[np.int64], max_frames: int | None, seed: int) -> dict[int, HeadInput]:
        source = self.cached_source
        inputs = [] if source is None else next(source.batches([rows], max_frames, seed))
        return dict(zip(self._cached_indices, inputs, strict=True))

    def _cut_clip(self, row: int, seed: int) -> list[Any]:
        """Return what each live encoder reads of one utterance."""
        share = float(np.random.default_rng(derive_seed(seed, "stretch", self.ids[row])).random())
        decoded: dict[int | None, EncoderInput] = {}
        clip: list[Any] = []
        for index, live in self.live.items():
            if not self.frame_counts[row, index]:
                clip.append(None)
                continue
            spec = live.spec
            key = spec.sample_rate_hz
            if key is None or key not in decoded:
                decoded[key] = self._read(live, row)
            content = decoded[key].content
            if not isinstance(content, str) and key is not None:
                seconds = min(self.max_seconds, spec.window_seconds or self.max_seconds)
                content = _stretch(content, round(seconds * key), share)
            try:
                prepared = live.encoder.prepare(content)
            except EncoderError as error:
                raise TrainingError(f"utterance '{self.ids[row]}': {error}") from error
            if isinstance(content, str) and len(prepared) > 1:
                prepared = [prepared[int(share * len(prepared))]]
            clip.append(prepared)
        return clip

    def _read(self, live: LiveFeature, row: int) -> EncoderInput:
        utterance = live.corpus.by_id[self.ids[row]]
        found = read_input(live.corpus, utterance, live.spec.sample_rate_hz)
        if isinstance(found, FailedRow):
            raise _unreadable(found)
        return found


def _stretch(waveform: Waveform, samples: int, share: float) -> Waveform:
    """Return a stretch of at most so many samples that begins at a share of where it can."""
    start = int(share * (max(len(waveform) - samples, 0) + 1))
    return waveform[start : start + samples]


def _unreadable(failed: FailedRow) -> TrainingError:
    return TrainingError(
        f"utterance '{failed.utterance.id}' had features when it was extracted and now fails "
        f"({failed.stage}: {failed.error}); bring its recording back, or extract again"
    )
