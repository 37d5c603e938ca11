"""Disk use of a cache, and the encoding speed that was measured while it was made."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sercache.cache.frames import STORED_AS
from sercache.cache.ledger import Ledger
from sercache.cache.store import FeatureSet
from sercache.files import TEMPORARY_SUFFIX, read_json, write_json

SPEED_NAME = "speed.json"


@dataclass(frozen=True, slots=True)
class Usage:
    """The disk use of a feature set.

    Attributes:
        feature_set: the feature set.
        layer_bytes: frames, by layer.
        overhead_bytes: everything in its shards but frames: ids, checksums, provenance.
        other_bytes: index, ledger and description.
        temporary_bytes: files that writers left behind; the next extraction removes them.
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
        """Return the whole disk use."""
        held = sum(self.layer_bytes.values()) + self.overhead_bytes
        return held + self.other_bytes + self.temporary_bytes


def usage_of(feature_set: FeatureSet) -> Usage:
    """Return the disk use of a feature set.

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


@dataclass(frozen=True, slots=True)
class EncodingSpeed:
    """The time that an encoder took.

    Attributes:
        speech_seconds: length of the speech; of text, its estimated length when spoken.
        encode_seconds: time in the encoder, without decoding and writing.
    """

    speech_seconds: float
    encode_seconds: float

    @property
    def seconds_per_minute(self) -> float:
        """Seconds of encoding per minute of speech."""
        return 60 * self.encode_seconds / self.speech_seconds if self.speech_seconds else float("nan")


def add_speed(folder: Path, device: str, speed: EncodingSpeed) -> None:
    """Add a measurement to a feature set's ``speed.json``, for a kind of device, ``cpu`` or ``cuda``.

    Of two processes that add at once one may be lost, its speech with its time: the ratio stays.

    Raises:
        OSError: the disk is full or the folder is not writable.
    """
    totals = read_speeds(folder)
    before = totals.get(device, EncodingSpeed(0.0, 0.0))
    totals[device] = EncodingSpeed(
        before.speech_seconds + speed.speech_seconds, before.encode_seconds + speed.encode_seconds
    )
    write_json(folder / SPEED_NAME, {name: asdict(total) for name, total in totals.items()})


def read_speeds(folder: Path) -> dict[str, EncodingSpeed]:
    """Return the measured speeds by kind of device; none where there are none, or they cannot be read."""
    try:
        found: Any = read_json(folder / SPEED_NAME)
        return {
            str(device): EncodingSpeed(float(speed["speech_seconds"]), float(speed["encode_seconds"]))
            for device, speed in found.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
