"""Make the frames that heads read from segments: encode, pool, and round as the cache rounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from sercache.bundle.clips import Segment
from sercache.cache.fingerprint import FeatureSpec, StorageDtype
from sercache.cache.frames import from_storage, pad_into, to_storage
from sercache.cache.shard import StoredUtterance
from sercache.cache.sources import Source
from sercache.cache.store import FeatureSet
from sercache.cache.writer import publish_shard, start_feature_set
from sercache.corpus import Utterance
from sercache.encoders.protocol import Encoder, Frames
from sercache.errors import CacheError, SercacheError
from sercache.extract.encode import EncodedUtterance, EncoderInput, FailedRow, encode_rows
from sercache.heads.protocol import HeadInput
from sercache.training.finetuning.overlay import EncoderOverlay

_SECONDS_AT_ONCE = 60.0
_ENCODING_ERRORS = (SercacheError, RuntimeError, ValueError, IndexError, MemoryError)


@dataclass(frozen=True)
class Encoded:
    """The frames of N segments in one feature set.

    Attributes:
        frames: ``(L, T_i, D)`` float32 per segment; None where there are none.
        errors: why there are no frames, by index; a segment without a text has no error.
        normalized: the same frames normalised per speaker; empty where no member reads them.
    """

    frames: tuple[Frames | None, ...]
    errors: Mapping[int, str] = field(default_factory=dict)
    normalized: tuple[Frames | None, ...] = ()


class FeatureExtractor:
    """One encoder, and what is applied to its frames before a head reads them.

    Args:
        name: of the feature set.
        encoder: loaded.
        spec: of the cached feature set that heads were trained on.
        cache_root: where frames are stored and looked up; None to store none.

    Raises:
        CacheError: stored frames cannot be read.
    """

    def __init__(self, name: str, encoder: Encoder, spec: FeatureSpec, cache_root: Path | None) -> None:
        self.name = name
        self.encoder = encoder
        self.spec = spec
        self._kept = None if cache_root is None else start_feature_set(cache_root, spec)
        if self._kept is not None:
            len(self._kept)  # a shard that cannot be read is an error now, not at some recording

    def keeping_in(self, cache_root: Path) -> "FeatureExtractor":
        """Return an extractor that stores frames in a folder; this one where it already stores them."""
        if self._kept is not None:
            return self
        return FeatureExtractor(self.name, self.encoder, self.spec, cache_root)

    @property
    def reads_text(self) -> bool:
        """Whether the encoder reads text instead of audio."""
        return self.spec.modality == "text"

    @property
    def column(self) -> str:
        """The column of transcripts that heads learnt from; empty for the plain text."""
        return str(self.spec.options.get("text_column") or "")

    def has_input(self, segment: Segment) -> bool:
        """Return whether a segment has the text or audio that the encoder reads."""
        return segment.text_for(self.column) is not None if self.reads_text else bool(segment.waveforms)

    def encode(self, segments: Sequence[Segment]) -> Encoded:
        """Return the frames of segments as a cache stores them; equal segments are encoded once."""
        keys = {
            index: self._key(segment) for index, segment in enumerate(segments) if self.has_input(segment)
        }
        found: dict[str, Frames] = {}
        missing: dict[str, Segment] = {}
        for index, key in keys.items():
            if key not in found and (kept := self._from_cache(key)) is not None:
                found[key] = kept
            elif key not in found:
                missing.setdefault(key, segments[index])
        rows = [self._input(segment, key) for key, segment in missing.items()]
        made: dict[str, StoredUtterance] = {}
        errors: dict[str, str] = {}
        for key, encoded in zip(missing, self._encoded(rows), strict=True):
            try:
                if not isinstance(encoded, EncodedUtterance):
                    raise encoded.error
                stored = tuple(to_storage(plane, self._dtype) for plane in encoded.frames)
            except _ENCODING_ERRORS as error:
                errors[key] = _first_line(error)
                continue
            found[key] = np.stack([from_storage(plane, self._dtype) for plane in stored])
            made[key] = StoredUtterance(key, stored, encoded.row.seconds, encoded.row.source)
        self._keep(made)
        return Encoded(
            tuple(found.get(keys.get(index, "")) for index in range(len(segments))),
            {index: errors[key] for index, key in keys.items() if key in errors},
        )

    def encode_with(self, overlay: EncoderOverlay, segments: Sequence[Segment]) -> Encoded:
        """Return the frames of segments as a fine-tuned encoder makes them: never rounded, never cached.

        Raises:
            EncoderError: the encoder has no such weights.
        """
        indices = [index for index, segment in enumerate(segments) if self.has_input(segment)]
        rows = [self._input(segments[index], str(index)) for index in indices]
        # The bundle's digests have established the weights; an included encoder has another name.
        spec = self.encoder.spec
        description = replace(overlay.description, encoder=spec.encoder, revision=spec.revision)
        with replace(overlay, description=description).applied_to(self.encoder):
            encoded = dict(zip(indices, self._encoded(rows), strict=True))
        frames = {index: row.frames for index, row in encoded.items() if isinstance(row, EncodedUtterance)}
        errors = {
            index: _first_line(row.error) for index, row in encoded.items() if isinstance(row, FailedRow)
        }
        return Encoded(tuple(frames.get(index) for index in range(len(segments))), errors)

    def batch(self, frames: Sequence[Frames | None], device: torch.device) -> HeadInput:
        """Return frames of B segments as a head reads them, padded and masked, on the device."""
        planes, dim = len(self.spec.layers), self.spec.dim
        counts = np.asarray([0 if planes is None else planes.shape[1] for planes in frames])
        padded = np.zeros((len(frames), max(1, int(counts.max())), planes, dim), np.float32)
        for plane in range(planes):
            empty = np.zeros((0, dim), np.float32)
            pad_into(padded[:, :, plane], (empty if planes is None else planes[plane] for planes in frames))
        mask = torch.arange(padded.shape[1]) < torch.from_numpy(counts)[:, None]
        values = torch.from_numpy(padded if planes > 1 else padded[:, :, 0])
        return HeadInput(values.to(device), mask.to(device))

    def pooled(self, frames: Frames | None) -> NDArray[np.float64]:
        """Return the mean over time of the last kept layer, ``(D,)``; NaN where there are no frames."""
        if frames is None:
            return np.full(self.spec.dim, np.nan)
        mean: NDArray[np.float64] = frames[-1].astype(np.float64).mean(axis=0)
        return mean

    def _input(self, segment: Segment, key: str) -> EncoderInput:
        utterance = Utterance(key)
        if self.reads_text:
            text = segment.text_for(self.column) or ""
            return EncoderInput(utterance, text, float("nan"), Source(key, 0))
        rate = self.spec.sample_rate_hz or 0
        return EncoderInput(utterance, segment.waveforms[rate], segment.seconds, Source(key, 0))

    def _key(self, segment: Segment) -> str:
        """Return a digest of what the encoder reads: a name or a path would give another file's frames."""
        if self.reads_text:
            return xxhash.xxh3_128_hexdigest((segment.text_for(self.column) or "").encode())
        return xxhash.xxh3_128_hexdigest(segment.waveforms[self.spec.sample_rate_hz or 0].tobytes())

    @property
    def _dtype(self) -> StorageDtype:
        return self.spec.dtype or "float32"

    def _encoded(self, rows: Sequence[EncoderInput]) -> list[EncodedUtterance | FailedRow]:
        return list(encode_rows(self.encoder, self.spec, rows, _SECONDS_AT_ONCE))

    def _from_cache(self, key: str) -> Frames | None:
        """Return stored frames; None where there are none or they are damaged."""
        if self._kept is None or key not in self._kept:
            return None
        try:
            self._kept.check(self._kept.locate([key]))
            planes = [self._kept.frames(key, layer) for layer in self._kept.layers]
        except CacheError:
            return None
        return np.stack([from_storage(plane, self._dtype) for plane in planes])

    def _keep(self, made: Mapping[str, StoredUtterance]) -> None:
        """Store frames that are not stored yet; damaged ones are left to ``sercache cache repair``."""
        if self._kept is None:
            return
        fresh = [key for key in sorted(made) if key not in self._kept]
        if fresh:
            task = xxhash.xxh3_64_hexdigest("".join(fresh).encode())[:12]
            publish_shard(self._kept, task, [made[key] for key in fresh])
            self._kept = FeatureSet(self._kept.folder)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
