"""What a feature set is, and the fingerprint that names its place in the cache."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sercache.files import slug

FORMAT_VERSION = 1

Modality = Literal["audio", "text"]
StorageDtype = Literal["float16", "bfloat16", "float32"]


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """Everything that changes the numbers of a feature set, and nothing else (no batch size, device or path).

    Attributes:
        encoder: registry name or hub name (``logmel``, ``microsoft/wavlm-large``).
        revision: hub commit, digest of local weights, or the version of an embedded encoder.
        modality: what the encoder reads.
        layers: names of the frames that are kept, one dataset each (``("last",)``, ``("sum-21-24",)``,
            ``("layer-0", ..., "layer-23", "last")``).
        num_layers: how many hidden layers the encoder has; 0 for an embedded encoder.
        dim: features per frame, D.
        frame_rate_hz: frames per second before time pooling; None for text.
        sample_rate_hz: what audio is resampled to; None for text.
        normalization: what is done to the waveform or text before the encoder.
        library: library and version that computed the frames (``transformers 5.23.0``).
        options: further settings of an embedded encoder.
        time_pool: frames averaged into one.
        dtype: how frames are stored; None while it is still to be decided from a first sample.
        window_seconds: longest stretch that is encoded at once; longer audio goes in overlapping windows.
        overlap_seconds: how much neighbouring windows share.
    """

    encoder: str
    revision: str
    modality: Modality
    layers: tuple[str, ...]
    num_layers: int
    dim: int
    frame_rate_hz: float | None
    sample_rate_hz: int | None
    normalization: str
    library: str
    options: Mapping[str, float | int | str | bool] = field(default_factory=dict)
    time_pool: int = 1
    dtype: StorageDtype | None = None
    window_seconds: float | None = None
    overlap_seconds: float | None = None

    def provenance(self) -> dict[str, Any]:
        """Return what the fingerprint hashes, as JSON values."""
        return asdict(self) | {"layers": list(self.layers), "format_version": FORMAT_VERSION}

    @property
    def fingerprint(self) -> str:
        """Return 64 hexadecimal digits; two specs share them only if every field is equal."""
        canonical = json.dumps(self.provenance(), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def folder_name(self) -> str:
        """Return the name of the feature set's folder: readable slug, then 12 digits of the fingerprint."""
        return f"{slug(self.encoder)}-{self.fingerprint[:12]}"

    @classmethod
    def from_provenance(cls, provenance: Mapping[str, Any]) -> "FeatureSpec":
        """Return the spec that :meth:`provenance` described."""
        fields = {key: value for key, value in provenance.items() if key != "format_version"}
        return cls(**(fields | {"layers": tuple(fields["layers"])}))
