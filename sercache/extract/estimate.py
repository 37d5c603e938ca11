"""``extract --dry-run``: how long an extraction will take and how much it will store."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.frames import STORED_AS
from sercache.cache.ledger import Ledger
from sercache.cache.store import Cache, FeatureSet
from sercache.corpus import Corpus
from sercache.devices import resolve_devices
from sercache.encoders.protocol import Encoder
from sercache.events import Event, Listener, ignore
from sercache.extract.autotune import clips_to_time, sample_inputs
from sercache.extract.resolve import pending_utterances, resolve_feature
from sercache.extract.schedule import (
    CHARACTERS_PER_SECOND,
    TimedUtterance,
    bytes_per_second,
    expected_lengths,
)
from sercache.files import free_bytes
from sercache.recipe import FeatureRecipe

_LONGEST_SHOWN = 3
_SAMPLED = 12


@dataclass(frozen=True, slots=True)
class FeatureEstimate:
    """The estimated cost of a feature set.

    Attributes:
        name: what the recipe calls it.
        spec: what it would hold.
        utterances: how many are still to be extracted.
        in_cache: how many of the corpus are there already.
        seconds: length of what is to be extracted; of text, as it would be spoken.
        unreadable: how many files give no length; they will fail, or take longer than expected.
        longest: the longest clips, longest first: id and seconds.
        size_bytes: what it will add to the disk.
        alternatives: what it would add with another choice, by its description.
        padded_bytes: what it would add if every clip kept the 30 s that Whisper reads; None for others.
        takes_seconds: how long one device will need for it alone; None where nothing could be timed.
        speed: seconds of speech that one device encodes in a second.
    """

    name: str
    spec: FeatureSpec
    utterances: int
    in_cache: int
    seconds: float
    unreadable: int
    longest: tuple[tuple[str, float], ...]
    size_bytes: float
    alternatives: Mapping[str, float]
    padded_bytes: float | None
    takes_seconds: float | None
    speed: float | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimated cost of an extraction.

    Attributes:
        features: by feature set.
        free_bytes: what is free where the cache lies.
        takes_seconds: all feature sets, shared by the devices.
    """

    features: tuple[FeatureEstimate, ...]
    free_bytes: int
    takes_seconds: float

    @property
    def size_bytes(self) -> float:
        """Return what all feature sets will add to the disk."""
        return sum(feature.size_bytes for feature in self.features)


def estimate(
    corpus: Corpus,
    features: Mapping[str, FeatureRecipe],
    cache_root: Path,
    *,
    devices: Sequence[str] = ("auto",),
    retry_failed: bool = False,
    listener: Listener = ignore,
) -> Estimate:
    """Estimate an extraction: lengths come from headers, the speed from a few clips that are encoded for it.

    Nothing is written.

    Raises:
        CacheError: the cache is damaged.
        EncoderError: an encoder cannot be loaded.
    """
    devices = resolve_devices(devices)
    estimates = []
    for name, recipe in features.items():
        listener(
            Event(
                "note", name, message=f"{name}: encoding a few clips on {devices[0]} to see how fast that is"
            )
        )
        estimates.append(_estimate_feature(name, recipe, corpus, Cache(cache_root), devices[0], retry_failed))
    takes_seconds = sum(feature.takes_seconds or 0.0 for feature in estimates) / len(devices)
    return Estimate(tuple(estimates), free_bytes(cache_root), takes_seconds)


def _estimate_feature(
    name: str, recipe: FeatureRecipe, corpus: Corpus, cache: Cache, device: str, retry_failed: bool
) -> FeatureEstimate:
    corpus = corpus if recipe.text_column is None else corpus.with_text_of(recipe.text_column)
    resolved = resolve_feature(cache, recipe, corpus, device)
    spec, folder = resolved.spec, cache.root / resolved.spec.folder_name
    pending = list(corpus.utterances)
    in_cache = 0
    if folder.exists():
        feature_set = FeatureSet(folder)
        pending = pending_utterances(feature_set, Ledger(folder), corpus, retry_failed=retry_failed)
        in_cache = len(corpus) - len(feature_set.missing(corpus.ids))
    rows = expected_lengths(corpus, pending, spec.modality)
    seconds = sum(row.seconds for row in rows)
    speed = _speed(resolved.encoder, corpus)
    longest = sorted(rows, key=lambda row: -row.seconds)[:_LONGEST_SHOWN]
    return FeatureEstimate(
        name=name,
        spec=spec,
        utterances=len(rows),
        in_cache=in_cache,
        seconds=seconds,
        unreadable=sum(row.seconds == 0.0 for row in rows),
        longest=tuple((row.utterance.id, row.seconds) for row in longest),
        size_bytes=seconds * bytes_per_second(spec),
        alternatives=_alternatives(spec, seconds),
        padded_bytes=_padded_bytes(spec, rows),
        takes_seconds=None if speed is None else seconds / speed,
        speed=speed,
    )


def _alternatives(spec: FeatureSpec, seconds: float) -> dict[str, float]:
    """Return what other layers, dtypes and poolings would take, in bytes."""
    here = seconds * bytes_per_second(spec)
    choices: dict[str, float] = {}
    if spec.num_layers:
        choices[f"all {spec.num_layers + 1} layers"] = here * (spec.num_layers + 1) / len(spec.layers)
    stored = STORED_AS[spec.dtype or "float16"].itemsize
    choices["float32" if stored == 2 else "float16"] = here * (2 if stored == 2 else 0.5)
    choices.update({f"time_pool {k}": here * spec.time_pool / k for k in (2, 4) if k > spec.time_pool})
    return choices


def _padded_bytes(spec: FeatureSpec, rows: Sequence[TimedUtterance]) -> float | None:
    """Return what Whisper's frames would take untrimmed: 1,500 a clip, however short it is."""
    if spec.normalization != "whisper log-mel" or spec.window_seconds is None:
        return None
    windows = sum(max(1.0, row.seconds / spec.window_seconds) for row in rows)
    return windows * spec.window_seconds * bytes_per_second(spec)


def _speed(encoder: Encoder, corpus: Corpus) -> float | None:
    """Return how many seconds of speech the encoder takes in a second; None where no clip can be encoded."""
    candidates = list(islice(sample_inputs(corpus, encoder.spec.sample_rate_hz), _SAMPLED))
    rows = clips_to_time(candidates) if encoder.spec.modality == "audio" else candidates
    contents: list[Any] = [row.content for row in rows]
    if not contents:
        return None
    seconds = sum(
        len(row.content) / CHARACTERS_PER_SECOND if isinstance(row.content, str) else row.seconds
        for row in rows
    )
    encoder.encode(contents)
    started = time.perf_counter()
    encoder.encode(contents)
    return seconds / max(time.perf_counter() - started, 1e-9)
