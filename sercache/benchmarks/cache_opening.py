"""What it costs to open a feature set: time, and memory that no other process shares."""

import re
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from sercache.cache.index_file import INDEX_NAME
from sercache.cache.store import FeatureSet
from sercache.cache.verify import verify_shard
from sercache.errors import CacheError

_LOOKUPS = 1000
_BATCHES, _BATCH = 200, 32
_VERIFIED_SHARDS = 10


@dataclass(frozen=True, slots=True)
class Opening:
    """What opening a feature set cost a fresh process that had only imported the library.

    Attributes:
        utterances: how many the feature set holds.
        shards: in how many files.
        index_bytes: size of its index file; 0 where it is too small to have one.
        open_seconds: from the folder's name to the first frame in memory.
        private_bytes: growth of the memory that the process shares with no other, until that first frame;
            None where the system does not tell.
        lookup_seconds: to find one utterance by its id.
        batch_lookup_seconds: to find one utterance, of all that are looked up at once.
        list_seconds: to list all ids.
        verify_seconds: to verify one shard, of a sample of them.
        batch_seconds: to copy a batch of random utterances from all shards.
        peak_bytes: of memory that the process had to itself after all this; None as above.
    """

    utterances: int
    shards: int
    index_bytes: int
    open_seconds: float
    private_bytes: int | None
    lookup_seconds: float
    batch_lookup_seconds: float
    list_seconds: float
    verify_seconds: float
    batch_seconds: float
    peak_bytes: int | None


def measure_opening(folder: Path) -> Opening:
    """Open a feature set in a fresh process; its index is made first where there is none that fits.

    Raises:
        CacheError: the folder holds no feature set, one without utterances, or a damaged one.
    """
    feature_set = FeatureSet(folder)
    if not len(feature_set):
        raise CacheError(f"{folder}: holds no utterances to measure with; run sercache extract first")
    middle = feature_set.ids[len(feature_set) // 2]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(_open, folder, middle).result()


def private_bytes() -> int | None:
    """Return the memory of this process that no other process shares; None where the system does not tell."""
    try:
        content = Path("/proc/self/smaps_rollup").read_text()
    except OSError:
        return None
    return sum(int(size) for size in re.findall(r"^Private_\w+: *(\d+) kB$", content, re.MULTILINE)) * 1024


def _open(folder: Path, utterance_id: str) -> Opening:
    before, started = private_bytes(), time.perf_counter()
    feature_set = FeatureSet(folder)
    layer = feature_set.layers[0]
    feature_set.frames(utterance_id, layer)[0].copy()
    open_seconds, after = time.perf_counter() - started, private_bytes()
    step = max(1, len(feature_set) // _LOOKUPS)
    some = [feature_set.ids[row] for row in range(0, len(feature_set), step)]
    started = time.perf_counter()
    found = sum(utterance_id in feature_set for utterance_id in some)
    lookup_seconds = (time.perf_counter() - started) / found
    started = time.perf_counter()
    everyone = list(feature_set.ids)
    list_seconds = time.perf_counter() - started
    started = time.perf_counter()
    feature_set.frame_counts(everyone)
    batch_lookup_seconds = (time.perf_counter() - started) / len(everyone)
    batch_seconds = _batch_seconds(feature_set)
    verify_seconds = _verify_seconds(feature_set)
    in_the_end = private_bytes()
    index_path = folder / INDEX_NAME
    return Opening(
        utterances=len(feature_set),
        shards=len(feature_set.shard_paths),
        index_bytes=index_path.stat().st_size if index_path.exists() else 0,
        open_seconds=open_seconds,
        private_bytes=None if before is None or after is None else after - before,
        lookup_seconds=lookup_seconds,
        batch_lookup_seconds=batch_lookup_seconds,
        list_seconds=list_seconds,
        verify_seconds=verify_seconds,
        batch_seconds=batch_seconds,
        peak_bytes=None if before is None or in_the_end is None else in_the_end - before,
    )


def _batch_seconds(feature_set: FeatureSet) -> float:
    locations = feature_set.locate(feature_set.ids)
    generator = np.random.default_rng(0)
    started = time.perf_counter()
    for _ in range(_BATCHES):
        rows = generator.integers(len(locations), size=_BATCH)
        some = locations[rows]
        views = feature_set.views(some.shards, some.starts, some.counts, feature_set.layers[0])
        np.concatenate(views)
    return (time.perf_counter() - started) / _BATCHES


def _verify_seconds(feature_set: FeatureSet) -> float:
    paths = feature_set.shard_paths
    some = paths[:: max(1, len(paths) // _VERIFIED_SHARDS)][:_VERIFIED_SHARDS]
    started = time.perf_counter()
    for path in some:
        if damaged := verify_shard(path, feature_set):
            raise CacheError(f"{path}: {damaged[0].what}")
    return (time.perf_counter() - started) / len(some)
