"""Ways to keep the frames of a feature set, and to read training batches from them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from sercache.cache.frames import STORED_AS
from sercache.cache.mapping import look_ahead
from sercache.cache.store import FeatureSet, Locations

RowBatch = NDArray[np.int64]

Way = Callable[[Sequence[RowBatch]], Iterator[Iterable[NDArray[Any]]]]
"""From batches of rows to their clips, batch by batch: ``(T_i, D)`` arrays to be copied into the batch."""

_FILE_UTTERANCES = 1000
_ALIGNMENT_BYTES = 64


@dataclass(frozen=True)
class Sample:
    """The utterances that are measured with.

    Attributes:
        folder: of their feature set.
        layer: whose frames.
        locations: where the N utterances lie.
        dim: features per frame, D.
        dtype: how frames are stored.
    """

    folder: Path
    layer: str
    locations: Locations
    dim: int
    dtype: np.dtype[Any]

    @classmethod
    def draw(cls, feature_set: FeatureSet, limit_bytes: int, generator: np.random.Generator) -> "Sample":
        """Return random utterances of a feature set, all of them where they fit into ``limit_bytes``."""
        dtype = STORED_AS[feature_set.spec.dtype or "float32"]
        everyone = feature_set.locate(feature_set.ids)
        rows = generator.permutation(len(everyone))
        sizes = np.cumsum(everyone.counts[rows]) * feature_set.dim * dtype.itemsize
        chosen = np.sort(rows[: max(1, int(sizes.searchsorted(limit_bytes, side="right")))])
        return cls(feature_set.folder, feature_set.layers[0], everyone[chosen], feature_set.dim, dtype)

    def payload_bytes(self, rows: RowBatch) -> int:
        """Return what the frames of some of the utterances take."""
        return int(self.locations.counts[rows].sum()) * self.dim * self.dtype.itemsize

    def clips(self) -> Iterator[NDArray[Any]]:
        """Yield the frames of every utterance."""
        return FeatureSet(self.folder).stream(self.locations, self.layer)


def plain_memory(sample: Sample) -> Way:
    """Return the reference way: frames copied from one array of this process."""
    frames = aligned_memory((int(sample.locations.counts.sum()), sample.dim), sample.dtype)
    np.concatenate(list(sample.clips()), out=frames)
    ends = np.cumsum(sample.locations.counts)
    begins = ends - sample.locations.counts

    def read(batches: Sequence[RowBatch]) -> Iterator[Iterable[NDArray[Any]]]:
        for rows in batches:
            spans = zip(begins[rows].tolist(), ends[rows].tolist(), strict=True)
            yield [frames[begin:end] for begin, end in spans]

    return read


def aligned_memory(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return memory that begins where torch's does, at a multiple of 64 bytes: else copies are slower."""
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.zeros(size + _ALIGNMENT_BYTES, np.uint8)
    begin = -memory.ctypes.data % _ALIGNMENT_BYTES
    return memory[begin : begin + size].view(dtype).reshape(shape)


def cached(sample: Sample, *, is_announced: bool = True) -> Way:
    """Return the way of training: views of the mapped shards, announced ahead of their batch or not."""
    feature_set, locations = FeatureSet(sample.folder), sample.locations

    def read(batches: Sequence[RowBatch]) -> Iterator[Iterable[NDArray[Any]]]:
        for rows, coming in look_ahead(batches):
            for announced in coming if is_announced else ():
                feature_set.prefetch(locations, announced, sample.layer)
            yield feature_set.views(
                locations.shards[rows], locations.starts[rows], locations.counts[rows], sample.layer
            )

    return read


def unadvised_maps(sample: Sample) -> Way:
    """Return the way of mapping the shards without advice to the system."""
    paths = FeatureSet(sample.folder).shard_paths
    planes: dict[int, NDArray[Any]] = {}

    def plane(shard: int) -> NDArray[Any]:
        if shard not in planes:
            with h5py.File(paths[shard], "r") as file:
                dataset = _frames(file, sample.layer)
                offset, shape = dataset.id.get_offset(), dataset.shape
            planes[shard] = np.memmap(paths[shard], sample.dtype, "r", offset, shape)
        return planes[shard]

    def read(batches: Sequence[RowBatch]) -> Iterator[Iterable[NDArray[Any]]]:
        for rows in batches:
            locations = sample.locations[rows]
            yield (plane(shard)[start : start + count] for shard, start, count in locations)

    return read


def npy_files(sample: Sample, folder: Path) -> Way:
    """Return the way of one ``.npy`` file per utterance; the files are written first."""
    for row, frames in enumerate(sample.clips()):
        np.save(folder / f"{row}.npy", frames)

    def read(batches: Sequence[RowBatch]) -> Iterator[Iterable[NDArray[Any]]]:
        for rows in batches:
            yield (np.load(folder / f"{row}.npy") for row in rows.tolist())

    return read


def safetensors_files(sample: Sample, folder: Path, opened: ExitStack) -> Way:
    """Return the way of safetensors files with a tensor per utterance; the files are written first."""
    files: list[Any] = []
    tensors: dict[str, NDArray[Any]] = {}
    last = len(sample.locations) - 1
    for row, frames in enumerate(sample.clips()):
        tensors[str(row)] = frames
        if len(tensors) == _FILE_UTTERANCES or row == last:
            path = folder / f"{len(files)}.safetensors"
            save_file(tensors, path)
            files.append(opened.enter_context(safe_open(path, "numpy")))
            tensors = {}

    def read(batches: Sequence[RowBatch]) -> Iterator[Iterable[NDArray[Any]]]:
        for rows in batches:
            yield (files[row // _FILE_UTTERANCES].get_tensor(str(row)) for row in rows.tolist())

    return read


def h5py_slices(sample: Sample, opened: ExitStack) -> Way:
    """Return the way of asking h5py for slices of the shards."""
    paths = FeatureSet(sample.folder).shard_paths
    datasets: dict[int, h5py.Dataset] = {}

    def dataset(shard: int) -> h5py.Dataset:
        if shard not in datasets:
            datasets[shard] = _frames(opened.enter_context(h5py.File(paths[shard], "r")), sample.layer)
        return datasets[shard]

    def read(batches: Sequence[RowBatch]) -> Iterator[Iterable[NDArray[Any]]]:
        for rows in batches:
            locations = sample.locations[rows]
            yield (dataset(shard)[start : start + count] for shard, start, count in locations)

    return read


def _frames(shard: h5py.File, layer: str) -> h5py.Dataset:
    frames = shard["frames"]
    return frames if isinstance(frames, h5py.Dataset) else frames[layer]
