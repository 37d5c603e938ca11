"""The shard, format version 1: a plain HDF5 file that is written once and then only read.

It begins with a user block: 512 bytes of JSON with the file's size and a digest of its metadata, so that
damage is found before the HDF5 library parses anything. The index file has such a block too.
"""

import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from sercache.cache.fingerprint import FORMAT_VERSION, FeatureSpec, StorageDtype
from sercache.cache.frames import STORED_AS
from sercache.cache.sources import Source
from sercache.errors import CacheError

USER_BLOCK_BYTES = 512

_COLUMNS = ("ids", "id_ends", "offsets", "seconds", "spans", "source_hash", "source_bytes", "checksums")
_ALIGNMENT_BYTES = 64
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class StoredUtterance:
    """One utterance on its way into a shard.

    Attributes:
        id: the utterance's id.
        frames: one ``(T, D)`` array per layer of the feature set, in the dtype that lies on disk.
        seconds: length of the audio; NaN for text.
        source: the audio or text that it was computed from.
    """

    id: str
    frames: tuple[NDArray[np.generic], ...]
    seconds: float
    source: Source


@dataclass(frozen=True)
class ShardIndex:
    """Everything in a shard but its frames, and the positions of those.

    Attributes:
        ids: the utterance ids, N of them.
        offsets: ``(N + 1,)`` int64, in frames.
        seconds: ``(N,)`` float64.
        spans: ``(N, 2)`` float64.
        source_hashes: ``(N, 16)`` uint8.
        source_bytes: ``(N,)`` int64.
        checksums: ``(N,)`` uint64.
        frame_positions: for every layer, where its frames begin in the file, in bytes.
        size_bytes: size of the whole file.
    """

    ids: tuple[str, ...]
    offsets: NDArray[np.int64]
    seconds: NDArray[np.float64]
    spans: NDArray[np.float64]
    source_hashes: NDArray[np.uint8]
    source_bytes: NDArray[np.int64]
    checksums: NDArray[np.uint64]
    frame_positions: Mapping[str, int]
    size_bytes: int

    def source(self, row: int) -> Source:
        """Return the source of the utterance in ``row``."""
        start, end = (None if math.isnan(time) else time for time in self.spans[row].tolist())
        return Source(self.source_hashes[row].tobytes().hex(), int(self.source_bytes[row]), (start, end))

    def frames(self, content: bytes | mmap, spec: FeatureSpec, layer: str) -> NDArray[np.generic]:
        """Return the frames of one layer, ``(sum T, D)``, as a view of the file's ``content``."""
        shape = (int(self.offsets[-1]), spec.dim)
        dtype = STORED_AS[_dtype_of(spec)]
        if shape[0] == 0:
            return np.empty(shape, dtype)
        return np.ndarray(shape, dtype, content, self.frame_positions[layer])

    def utterances(self, content: bytes, spec: FeatureSpec) -> Iterator[tuple[StoredUtterance, bool]]:
        """Yield every utterance as it was stored, and whether its frames still match their checksum."""
        planes = [self.frames(content, spec, layer) for layer in spec.layers]
        for row, (utterance_id, start, end) in enumerate(
            zip(self.ids, self.offsets[:-1], self.offsets[1:], strict=True)
        ):
            frames = tuple(plane[start:end] for plane in planes)
            stored = StoredUtterance(utterance_id, frames, float(self.seconds[row]), self.source(row))
            yield stored, checksum(frames) == int(self.checksums[row])


def build_shard(utterances: Sequence[StoredUtterance], spec: FeatureSpec) -> bytes:
    """Return the bytes of a shard; the same utterances give the same bytes, anywhere and at any time."""
    image = io.BytesIO()
    with h5py.File(
        image,
        "w",
        libver=("v108", "v110"),
        userblock_size=USER_BLOCK_BYTES,
        alignment_threshold=1,
        alignment_interval=_ALIGNMENT_BYTES,
    ) as shard:
        frames_position, frames_bytes = _fill(shard, utterances, spec)
    size = image.getbuffer().nbytes
    metadata_end = frames_position if frames_bytes else size
    if size - metadata_end >= frames_bytes + len(spec.layers) * _ALIGNMENT_BYTES:
        raise CacheError("the HDF5 library placed metadata behind the frames; please report its version")
    with image.getbuffer() as content, content[USER_BLOCK_BYTES:metadata_end] as metadata:
        block = user_block("shard", size, [metadata], len(metadata))
    image.seek(0)
    image.write(block)
    return image.getvalue()


def read_index(path: Path, spec: FeatureSpec) -> ShardIndex:
    """Read everything but the frames; damage is found before the HDF5 library sees the file.

    Raises:
        CacheError: the file is damaged, truncated, or no shard of this feature set.
    """
    with path.open("rb") as stream:
        declared_bytes = check_user_block("shard", path, stream)
        size = stream.seek(0, io.SEEK_END)
        if size != declared_bytes:
            raise CacheError(f"{path}: truncated ({size:,} of {declared_bytes:,} bytes are there)")
        stream.seek(0)
        return _parse(path, stream, spec, declared_bytes)


def read_whole(path: Path, spec: FeatureSpec) -> tuple[ShardIndex, bytes]:
    """Read a shard whose frames may be damaged or missing; returns the index and the content.

    What a truncated file lacks is zero in the content, so its checksums tell which utterances that cost.

    Raises:
        CacheError: the metadata are damaged too, or the file is no shard of this feature set.
    """
    content = path.read_bytes()
    declared_bytes = check_user_block("shard", path, io.BytesIO(content))
    content = content[:declared_bytes].ljust(declared_bytes, b"\0")
    return _parse(path, io.BytesIO(content), spec, declared_bytes), content


def checksum(frames: Sequence[NDArray[np.generic]]) -> int:
    """Return the xxh3-64 of one utterance's frames, layer after layer."""
    digest = xxhash.xxh3_64()
    for plane in frames:
        digest.update(np.ascontiguousarray(plane).data)
    return digest.intdigest()


def user_block(
    kind: str, size_bytes: int, covered: Iterable[memoryview | bytes], covered_bytes: int
) -> bytes:
    """Return the user block of a file.

    Args:
        kind: ``shard`` or ``index``.
        size_bytes: size of the whole file.
        covered: the bytes that the digest covers, in pieces: all that follow the user block, or the first.
        covered_bytes: their number.
    """
    digest = xxhash.xxh3_128(f"{size_bytes} {covered_bytes}".encode())
    for piece in covered:
        digest.update(piece)
    stated = {
        "format": f"sercache {kind} {FORMAT_VERSION}",
        "size_bytes": size_bytes,
        "metadata_bytes": covered_bytes,
        "xxh3_128": digest.hexdigest(),
    }
    return json.dumps(stated).encode().ljust(USER_BLOCK_BYTES - 1) + b"\n"


def check_user_block(kind: str, path: Path, stream: BinaryIO) -> int:
    """Compare an open file with its user block; return the size that the file should have.

    Raises:
        CacheError: the file is damaged, truncated within what the digest covers, or of another kind.
    """
    rest_bytes = stream.seek(0, io.SEEK_END) - USER_BLOCK_BYTES
    stream.seek(0)
    block = stream.read(USER_BLOCK_BYTES)
    try:
        stated = json.loads(block)
        format_name, size_bytes = str(stated["format"]), int(stated["size_bytes"])
        covered_bytes = int(stated["metadata_bytes"])
    except (ValueError, KeyError, TypeError) as error:
        raise CacheError(f"{path}: damaged, or no {kind} (its first {USER_BLOCK_BYTES} bytes)") from error
    if not 0 <= covered_bytes <= rest_bytes:
        raise CacheError(f"{path}: truncated within its metadata")
    if format_name != f"sercache {kind} {FORMAT_VERSION}":
        raise CacheError(f"{path}: is '{format_name}'; this version reads format {FORMAT_VERSION}")
    if block != user_block(kind, size_bytes, _pieces(stream, covered_bytes), covered_bytes):
        raise CacheError(f"{path}: its metadata are damaged (digest does not match)")
    return size_bytes


def _pieces(stream: BinaryIO, size_bytes: int) -> Iterator[bytes]:
    """Yield the next ``size_bytes`` of a stream in pieces that stay in the processor's cache."""
    while size_bytes > 0 and (piece := stream.read(min(size_bytes, _CHUNK_BYTES))):
        size_bytes -= len(piece)
        yield piece


def _fill(shard: h5py.File, utterances: Sequence[StoredUtterance], spec: FeatureSpec) -> tuple[int, int]:
    """Write everything into an open file; return where the frames begin, and their size in bytes."""
    dtype = _dtype_of(spec)
    counts = [len(utterance.frames[0]) for utterance in utterances]
    offsets = np.cumsum([0, *counts], dtype=np.int64)
    shard.attrs["format_version"] = FORMAT_VERSION
    shard.attrs["fingerprint"] = np.bytes_(spec.fingerprint)
    shard.attrs["provenance"] = np.bytes_(json.dumps(spec.provenance(), sort_keys=True))
    planes = []
    for name in _frame_datasets(spec):
        plane = shard.create_dataset(name, (int(offsets[-1]), spec.dim), STORED_AS[dtype])
        plane.attrs["dtype"] = np.bytes_(dtype)
        planes.append(plane)
    for name, column in zip(_COLUMNS, _columns(utterances, offsets), strict=True):
        shard.create_dataset(name, data=column)
    shard.flush()  # only now the library lays out the metadata: before the frames
    for layer, plane in enumerate(planes):
        for utterance, start, end in zip(utterances, offsets[:-1], offsets[1:], strict=True):
            if end > start:
                plane[start:end] = utterance.frames[layer]
    return _position(planes[0]), sum(plane.nbytes for plane in planes)


def _dtype_of(spec: FeatureSpec) -> StorageDtype:
    """Return the dtype of a feature set; raise a CacheError where it is not resolved."""
    if spec.dtype is None:
        raise CacheError("a feature set without a dtype cannot be stored")
    return spec.dtype


def _frame_datasets(spec: FeatureSpec) -> list[str]:
    return ["frames"] if len(spec.layers) == 1 else [f"frames/{layer}" for layer in spec.layers]


def _columns(
    utterances: Sequence[StoredUtterance], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.generic], ...]:
    """Return the columns that ``_COLUMNS`` names, in its order."""
    ids = [utterance.id.encode() for utterance in utterances]
    spans = [[np.nan if time is None else time for time in utterance.source.span] for utterance in utterances]
    hashes = b"".join(bytes.fromhex(utterance.source.digest) for utterance in utterances)
    return (
        np.frombuffer(b"".join(ids), np.uint8),
        np.cumsum([len(utterance_id) for utterance_id in ids], dtype=np.int64),
        offsets,
        np.asarray([utterance.seconds for utterance in utterances], np.float64),
        np.asarray(spans, np.float64).reshape(-1, 2),
        np.frombuffer(hashes, np.uint8).reshape(-1, 16),
        np.asarray([utterance.source.size_bytes for utterance in utterances], np.int64),
        np.asarray([checksum(utterance.frames) for utterance in utterances], np.uint64),
    )


def _parse(path: Path, stream: BinaryIO, spec: FeatureSpec, size_bytes: int) -> ShardIndex:
    try:
        with h5py.File(stream, "r") as shard:
            if (fingerprint := shard.attrs["fingerprint"].decode()) != spec.fingerprint:
                raise CacheError(f"{path}: belongs to another feature set (fingerprint {fingerprint[:12]})")
            column = {name: plain_dataset(shard, name)[...] for name in _COLUMNS}
            positions = {
                layer: _position(plain_dataset(shard, name))
                for layer, name in zip(spec.layers, _frame_datasets(spec), strict=True)
            }
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise CacheError(f"{path}: not a readable shard ({error})") from error
    ends = column["id_ends"].tolist()
    ids = column["ids"].tobytes()
    starts = [0, *ends][: len(ends)]
    return ShardIndex(
        ids=tuple(ids[start:end].decode() for start, end in zip(starts, ends, strict=True)),
        offsets=column["offsets"],
        seconds=column["seconds"],
        spans=column["spans"],
        source_hashes=column["source_hash"],
        source_bytes=column["source_bytes"],
        checksums=column["checksums"],
        frame_positions=positions,
        size_bytes=size_bytes,
    )


def plain_dataset(shard: h5py.File, name: str) -> h5py.Dataset:
    """Return a dataset whose bytes lie in this very file: no link, no virtual or external storage."""
    group = shard
    for part in name.split("/"):
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise ValueError(f"/{name} is missing or a link")
        group = group[part]
    if not isinstance(group, h5py.Dataset) or group.is_virtual or group.external or group.chunks:
        raise ValueError(f"/{name} is not a contiguous dataset of this file")
    return group


def _position(dataset: h5py.Dataset) -> int:
    """Return where a dataset's bytes begin in the file; 0 where it is empty and has no offset."""
    return int(dataset.id.get_offset()) if dataset.size else 0
