"""How fast training batches come out of a cache, against other ways to keep the same frames.

Absolute figures tell about the machine and the minute. So every way fills the same batches, in turn, in one
process, and is reported as a share of the rate of the same copies from plain memory.
"""

import gc
import os
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sercache.benchmarks import ways
from sercache.benchmarks.ways import RowBatch, Sample, Way, aligned_memory
from sercache.cache.frames import pad_into
from sercache.cache.store import FeatureSet
from sercache.errors import CacheError, Interrupted
from sercache.events import QUIET, Context, Event, ShouldStop, never
from sercache.training.rows import epoch_batches

_TASK = "reading a cache"

_COLD_BYTES = 128 << 20
"""Frames that are read from disk per way: enough to tell, little enough for a way that reads page by page."""


@dataclass(frozen=True, slots=True)
class WarmReading:
    """One way to fill batches whose files are all in memory already.

    Attributes:
        way: its name.
        bytes_per_second: frames that came, padding not counted; the median of the rounds.
        share_of_memory: against the same copies from plain memory in the same round, likewise.
    """

    way: str
    bytes_per_second: float
    share_of_memory: float


@dataclass(frozen=True, slots=True)
class ColdReading:
    """One way to fill batches whose files are on disk alone.

    Attributes:
        way: its name.
        bytes_per_second: frames that came, padding not counted.
        read_per_byte: bytes that the disk gave for each byte of frames.
    """

    way: str
    bytes_per_second: float
    read_per_byte: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What :func:`measure_reading` found.

    Attributes:
        utterances: how many were read.
        payload_bytes: what their frames take.
        batch_size: rows per batch.
        warm: one entry per way, plain memory first.
        cold: likewise; empty where files cannot be driven out of memory, or nothing tells what was read.
    """

    utterances: int
    payload_bytes: int
    batch_size: int
    warm: tuple[WarmReading, ...]
    cold: tuple[ColdReading, ...]


def measure_reading(
    feature_set: FeatureSet,
    *,
    limit_bytes: int = 1 << 30,
    batch_size: int = 32,
    rounds: int = 7,
    seed: int = 0,
    context: Context = QUIET,
) -> Reading:
    """Fill random length-bucketed padded batches from a feature set, and from copies of it in other forms.

    The copies lie in a temporary folder while it runs, and one in memory.

    Args:
        feature_set: whose frames; of several layers, the first.
        limit_bytes: of frames that are read; of a larger feature set, a sample is.
        batch_size: rows per batch.
        rounds: how often all batches are filled in each way.
        seed: of the sample and the batches.
        context: receives events, and can stop the work.

    Raises:
        CacheError: the feature set has no frames, or is damaged.
        Interrupted: ``context.should_stop`` returned True.
    """
    if not len(feature_set):
        raise CacheError(f"{feature_set.folder}: holds no utterances to measure with; run sercache extract")
    generator = np.random.default_rng(seed)
    sample = Sample.draw(feature_set, limit_bytes, generator)
    ranks = generator.permutation(len(sample.locations))
    batches = epoch_batches(sample.locations.counts, ranks, batch_size, generator)
    warm = _read_warm(sample, batches, rounds, context)
    cold = _read_cold(sample, batches)  # only now no way holds the shards in memory any more
    payload = sample.payload_bytes(np.arange(len(sample.locations)))
    return Reading(len(sample.locations), payload, batch_size, warm, cold)


class _Filling:
    """Assembles batches in memory that is used again and again, as training does."""

    def __init__(self, sample: Sample, batches: Sequence[RowBatch]) -> None:
        self.batches = batches
        counts = sample.locations.counts
        shapes = [(len(rows), max(1, int(counts[rows].max())), sample.dim) for rows in batches]
        memory = aligned_memory((max(int(np.prod(shape)) for shape in shapes),), sample.dtype)
        self._targets = [memory[: int(np.prod(shape))].reshape(shape) for shape in shapes]

    def seconds(self, chosen: Sequence[Way], should_stop: ShouldStop = never) -> NDArray[np.float64]:
        """Return how long all batches take in each of several ways, ``(len(those),)``.

        Every batch is filled in every way before the next one is, in an order drawn by lot: what else
        the machine does in the meantime meets all of them.
        """
        reading = [way(self.batches) for way in chosen]
        taken = np.zeros(len(reading))
        order = np.random.default_rng(0)
        for target in self._targets:
            if should_stop():
                raise Interrupted("stopped before everything was measured")
            for index in order.permutation(len(reading)).tolist():
                started = time.perf_counter()
                pad_into(target, next(reading[index]))
                taken[index] += time.perf_counter() - started
        return taken


def _read_warm(
    sample: Sample,
    batches: Sequence[RowBatch],
    rounds: int,
    context: Context,
) -> tuple[WarmReading, ...]:
    """Read all batches in each way, in turn."""
    filling = _Filling(sample, batches)
    payload = sample.payload_bytes(np.arange(len(sample.locations)))
    with tempfile.TemporaryDirectory(prefix="sercache-bench-") as folder, ExitStack() as opened:
        chosen = {
            "plain memory": ways.plain_memory(sample),
            "sercache": ways.cached(sample),
            "h5py slices of the shards": ways.h5py_slices(sample, opened),
            "safetensors shards": ways.safetensors_files(sample, Path(folder), opened),
            "one .npy per utterance": ways.npy_files(sample, Path(folder)),
        }
        context.listener(Event("start", _TASK, total=rounds + 1))
        taken = []
        for number in range(rounds + 1):
            taken.append(filling.seconds(list(chosen.values()), context.should_stop))
            context.listener(Event("advance", _TASK, number + 1, rounds + 1))
        context.listener(Event("finish", _TASK, rounds + 1, rounds + 1))
    seconds = np.stack(taken[1:])  # the first round only warms up
    speeds = np.median(payload / seconds, axis=0).tolist()
    shares = np.median(seconds[:, :1] / seconds, axis=0).tolist()
    return tuple(WarmReading(*measured) for measured in zip(chosen, speeds, shares, strict=True))


def _read_cold(sample: Sample, batches: Sequence[RowBatch]) -> tuple[ColdReading, ...]:
    """Read some of the batches from disk, in each way that needs nothing but the shards."""
    sizes = np.cumsum([sample.payload_bytes(rows) for rows in batches])
    some = batches[: max(1, int(sizes.searchsorted(_COLD_BYTES, side="right")))]
    filling = _Filling(sample, some)
    payload = sample.payload_bytes(np.concatenate(some))
    chosen: dict[str, Callable[[Sample], Way]] = {
        "sercache, looking ahead": ways.cached,
        "sercache, not looking ahead": partial(ways.cached, is_announced=False),
        "memory map without advice": ways.unadvised_maps,
    }
    found = []
    for name, prepare in chosen.items():
        if not _forget_files(sample.folder):
            return ()
        before = _bytes_from_disk()
        seconds = float(filling.seconds([prepare(sample)])[0])
        after = _bytes_from_disk()
        if before is None or after is None or after - before < payload // 2:
            return ()
        found.append(ColdReading(name, payload / seconds, (after - before) / payload))
    return tuple(found)


def _forget_files(folder: Path) -> bool:
    """Drive the shards out of memory; returns whether the system offers that at all."""
    if not hasattr(os, "posix_fadvise"):
        return False
    gc.collect()  # a page that is still mapped stays
    for path in FeatureSet(folder).shard_paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    return True


def _bytes_from_disk() -> int | None:
    """Return what this process has had read from disk so far; None where the system does not tell."""
    try:
        match = re.search(r"^read_bytes: (\d+)$", Path("/proc/self/io").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) if match else None
