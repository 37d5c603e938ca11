"""From segments to the frames that heads learnt from: encoded, pooled, and rounded as the cache rounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from sercache.bundle.clips import Segment
from sercache.cache.fingerprint import FeatureSpec, StorageDtype
from sercache.cache.padding import pad_into
from sercache.cache.precision import from_storage, to_storage
from sercache.cache.shard import StoredUtterance
from sercache.cache.sources import Source
from sercache.cache.store import FeatureSet
from sercache.cache.writer import publish_shard, start_feature_set
from sercache.corpus import Utterance
from sercache.encoders.protocol import Encoder, Frames
from sercache.errors import CacheError
from sercache.extract.encoding import EncodedUtterance, encode_rows
from sercache.extract.inputs import EncoderInput
from sercache.finetuning.overlay import EncoderOverlay
from sercache.heads.protocol import HeadInput

_SECONDS_AT_ONCE = 60.0


@dataclass(frozen=True)
class Encoded:
    """What one feature set has of N segments.

    Attributes:
        frames: ``(L, T_i, D)`` float32 of each, None where there is nothing.
        errors: why there is nothing, by position; nothing is said of a segment without a text.
    """

    frames: tuple[Frames | None, ...]
    errors: Mapping[int, str] = field(default_factory=dict)


class FeatureMaker:
    """One encoder, and what is done to its frames before a head reads them.

    Args:
        name: the feature set's.
        encoder: loaded.
        spec: of the cached feature set that heads were trained on.
        cache_root: where frames are kept and looked up; None to keep none.
    """

    def __init__(self, name: str, encoder: Encoder, spec: FeatureSpec, cache_root: Path | None) -> None:
        self.name = name
        self.encoder = encoder
        self.spec = spec
        self._kept = None if cache_root is None else start_feature_set(cache_root, spec)

    @property
    def reads_text(self) -> bool:
        """Whether it reads words, and not sound."""
        return self.spec.modality == "text"

    def encode(self, segments: Sequence[Segment]) -> Encoded:
        """Return the frames of segments, each as it would come out of the cache."""
        keys = {
            place: self._key(segment) for place, segment in enumerate(segments) if self.has_input(segment)
        }
        frames: list[Frames | None] = [None] * len(segments)
        errors: dict[int, str] = {}
        made: dict[str, StoredUtterance] = {}
        missing = []
        for place, key in keys.items():
            if self._kept is not None and key in self._kept:
                frames[place] = self._from_cache(self._kept, key)
            else:
                missing.append(place)
        rows = [self._input(segments[place], keys[place]) for place in missing]
        for place, encoded in zip(
            missing, encode_rows(self.encoder, self.spec, rows, _SECONDS_AT_ONCE), strict=True
        ):
            if not isinstance(encoded, EncodedUtterance):
                errors[place] = str(encoded.error).splitlines()[0]
                continue
            try:
                stored = tuple(to_storage(plane, self._dtype) for plane in encoded.frames)
            except CacheError as error:
                errors[place] = str(error)
                continue
            frames[place] = np.stack([from_storage(plane, self._dtype) for plane in stored])
            key, row = keys[place], encoded.source
            made[key] = StoredUtterance(key, stored, row.seconds, row.source)
        if self._kept is not None and made:
            self._keep(self._kept, made)
        return Encoded(tuple(frames), errors)

    def encode_with(self, overlay: EncoderOverlay, segments: Sequence[Segment]) -> tuple[Frames | None, ...]:
        """Return the frames of segments as a fine-tuned encoder makes them: never rounded, never cached.

        A segment that cannot be encoded has none.

        Raises:
            EncoderError: the encoder has no such weights.
        """
        places = [place for place, segment in enumerate(segments) if self.has_input(segment)]
        rows = [self._input(segments[place], str(place)) for place in places]
        # The bundle's digests have told whose weights these are; an included encoder has another name.
        spec = self.encoder.spec
        mine = replace(overlay.description, encoder=spec.encoder, revision=spec.revision)
        frames: list[Frames | None] = [None] * len(segments)
        with replace(overlay, description=mine).applied_to(self.encoder):
            encoded = list(encode_rows(self.encoder, self.spec, rows, _SECONDS_AT_ONCE))
        for place, one in zip(places, encoded, strict=True):
            frames[place] = one.frames if isinstance(one, EncodedUtterance) else None
        return tuple(frames)

    def batch(self, frames: Sequence[Frames | None], device: torch.device) -> HeadInput:
        """Return frames of B segments as a head reads them, padded and masked, on the device."""
        planes, dim = len(self.spec.layers), self.spec.dim
        counts = np.asarray([0 if one is None else one.shape[1] for one in frames])
        padded = np.zeros((len(frames), max(1, int(counts.max())), planes, dim), np.float32)
        for plane in range(planes):
            empty = np.zeros((0, dim), np.float32)
            pad_into(padded[:, :, plane], (empty if one is None else one[plane] for one in frames))
        mask = torch.arange(padded.shape[1]) < torch.from_numpy(counts)[:, None]
        values = torch.from_numpy(padded if planes > 1 else padded[:, :, 0])
        return HeadInput(values.to(device), mask.to(device))

    def pooled(self, frames: Frames | None) -> NDArray[np.float64]:
        """Return the mean over time of the last kept layer, ``(D,)``; NaN where there are no frames."""
        if frames is None:
            return np.full(self.spec.dim, np.nan)
        mean: NDArray[np.float64] = frames[-1].astype(np.float64).mean(axis=0)
        return mean

    def has_input(self, segment: Segment) -> bool:
        """Return whether there is anything of a segment that the encoder reads."""
        return segment.text is not None if self.reads_text else bool(segment.waveforms)

    def _input(self, segment: Segment, key: str) -> EncoderInput:
        utterance = Utterance(key)
        if self.reads_text:
            return EncoderInput(utterance, segment.text or "", float("nan"), Source(key, 0))
        rate = self.spec.sample_rate_hz or 0
        return EncoderInput(utterance, segment.waveforms[rate], segment.seconds, Source(key, 0))

    def _key(self, segment: Segment) -> str:
        """Return a digest of what the encoder reads: a name or a path would give another file's frames."""
        if self.reads_text:
            return xxhash.xxh3_128_hexdigest((segment.text or "").encode())
        return xxhash.xxh3_128_hexdigest(segment.waveforms[self.spec.sample_rate_hz or 0].tobytes())

    @property
    def _dtype(self) -> StorageDtype:
        return self.spec.dtype or "float32"

    def _from_cache(self, kept: FeatureSet, key: str) -> Frames:
        kept.check(kept.places([key]))
        return np.stack([from_storage(kept.frames(key, layer), self._dtype) for layer in kept.layers])

    def _keep(self, kept: FeatureSet, made: Mapping[str, StoredUtterance]) -> None:
        task = xxhash.xxh3_64_hexdigest("".join(sorted(made)).encode())[:12]
        publish_shard(kept, task, [made[key] for key in sorted(made)])
        self._kept = FeatureSet(kept.folder)
