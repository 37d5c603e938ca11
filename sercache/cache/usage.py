"""What a cache takes on disk, and for what."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sercache.cache.ledger import Ledger
from sercache.cache.precision import STORED_AS
from sercache.cache.store import FeatureSet
from sercache.files import TEMPORARY_SUFFIX


@dataclass(frozen=True, slots=True)
class Usage:
    """What one feature set takes.

    Attributes:
        feature_set: which one.
        layer_bytes: frames, by layer.
        overhead_bytes: what its shards hold beside frames: ids, checksums, provenance.
        other_bytes: index, ledger and description.
        temporary_bytes: what writers left behind; the next extraction removes it.
        failures: utterances without features.
    """

    feature_set: FeatureSet
    layer_bytes: Mapping[str, int]
    overhead_bytes: int
    other_bytes: int
    temporary_bytes: int
    failures: int

    @property
    def total_bytes(self) -> int:
        """Return all of it."""
        held = sum(self.layer_bytes.values()) + self.overhead_bytes
        return held + self.other_bytes + self.temporary_bytes


def usage_of(feature_set: FeatureSet) -> Usage:
    """Return what a feature set takes on disk.

    Raises:
        CacheError: a shard is damaged.
    """
    spec = feature_set.spec
    frames = int(feature_set.frame_counts(feature_set.ids).sum()) if len(feature_set) else 0
    layer_bytes = frames * spec.dim * STORED_AS[spec.dtype or "float32"].itemsize
    temporary = other = 0
    for path in feature_set.folder.iterdir():
        if path.name.endswith(TEMPORARY_SUFFIX):
            temporary += _size(path)
        elif not (path.name.startswith("shard-") and path.suffix == ".h5"):
            other += _size(path)
    return Usage(
        feature_set=feature_set,
        layer_bytes=dict.fromkeys(spec.layers, layer_bytes),
        overhead_bytes=max(0, feature_set.size_bytes - layer_bytes * len(spec.layers)),
        other_bytes=other,
        temporary_bytes=temporary,
        failures=len(Ledger(feature_set.folder).failures),
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # a writer has just finished with it
