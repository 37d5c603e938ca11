"""Feature sets of random frames, to measure with."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sercache.cache.fingerprint import FeatureSpec, StorageDtype
from sercache.cache.frames import STORED_AS, to_storage
from sercache.cache.shard import StoredUtterance
from sercache.cache.sources import Source
from sercache.cache.store import FeatureSet
from sercache.cache.writer import publish_shard, start_feature_set
from sercache.errors import Interrupted
from sercache.events import QUIET, Context, Event

_SHARD_BYTES = 256 << 20
_SHARD_UTTERANCES = 20_000
_FRAME_RATE_HZ = 50.0


def synthetic_feature_set(
    root: Path,
    utterances: int,
    mean_frames: int,
    dim: int,
    *,
    dtype: StorageDtype = "float16",
    shards: int = 1,
    seed: int = 0,
    context: Context = QUIET,
) -> FeatureSet:
    """Write a feature set of random frames into a cache folder.

    Args:
        root: the cache's folder.
        utterances: how many, N.
        mean_frames: frames of an utterance, on average; the lengths are log-normal, as those of speech are.
        dim: features per frame, D.
        dtype: how frames are stored.
        shards: at least so many.
        seed: of lengths and frames.
        context: receives events, and can stop the work.

    Raises:
        CacheError: the disk is full.
        Interrupted: ``context.should_stop`` returned True.
    """
    spec = FeatureSpec(
        encoder="synthetic",
        revision=f"seed {seed}",
        modality="audio",
        layers=("last",),
        num_layers=0,
        dim=dim,
        frame_rate_hz=_FRAME_RATE_HZ,
        sample_rate_hz=16_000,
        normalization="none",
        library="numpy",
        window_seconds=30.0,
        overlap_seconds=2.0,
        options={"utterances": utterances, "mean_frames": mean_frames},
        dtype=dtype,
    )
    generator = np.random.default_rng(seed)
    spread = 0.5
    lengths = generator.lognormal(np.log(max(mean_frames, 1)) - spread**2 / 2, spread, utterances)
    counts = np.maximum(1, np.rint(lengths)).astype(np.int64)
    feature_set = start_feature_set(root, spec)
    task = "synthetic features"
    context.listener(Event("start", task, total=utterances))
    frame_bytes = dim * STORED_AS[dtype].itemsize
    by_size = np.cumsum(counts) * frame_bytes // _SHARD_BYTES
    in_a_shard = max(1, min(_SHARD_UTTERANCES, utterances // shards))
    shard_of = np.maximum(by_size, np.arange(utterances) // in_a_shard)
    for shard in np.unique(shard_of).tolist():
        if context.should_stop():
            raise Interrupted("stopped before the synthetic features were written")
        rows = np.flatnonzero(shard_of == shard)
        publish_shard(feature_set, f"{shard:06d}", list(_utterances(rows, counts, spec, generator)))
        context.listener(Event("advance", task, int(rows[-1]) + 1, utterances))
    context.listener(Event("finish", task, utterances, utterances))
    return FeatureSet(feature_set.folder)


def utterance_id(number: int) -> str:
    """Return the id of a synthetic utterance."""
    return f"podcast_{number // 100:05d}/segment_{number % 100:02d}"


def _utterances(
    rows: NDArray[np.int64],
    counts: NDArray[np.int64],
    spec: FeatureSpec,
    generator: np.random.Generator,
) -> Iterator[StoredUtterance]:
    longest = int(counts[rows].max())
    normal = generator.standard_normal((2 * longest, spec.dim), np.float32)
    noise = to_storage(normal, spec.dtype or "float32")
    for row in rows.tolist():
        start = int(generator.integers(longest))
        frames = noise[start : start + int(counts[row])]
        source = Source(f"{row:032x}", 1000, (None, None))
        yield StoredUtterance(utterance_id(row), (frames,), len(frames) / _FRAME_RATE_HZ, source)
