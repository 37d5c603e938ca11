"""``index.h5``: build, write and map the index of a feature set.

====================  ===================  =================================================================
``/hashes``           ``(U,)`` uint64      xxh3-64 of each utterance's id, sorted
``/order``            ``(U,)`` int64       the row that each hash belongs to
``/repeats``          ``(N - U,)`` int64   rows whose id an earlier shard has too: the first shard counts
``/ids``              ``(bytes,)`` uint8   the ids of all rows in UTF-8, one after the other
``/id_ends``          ``(N,)`` int64       where each id ends in ``/ids``
``/starts``           ``(N,)`` int64       where in its shard an utterance begins, in frames
``/counts``           ``(N,)`` int64       how many frames it has
``/seconds``          ``(N,)`` float64     as in the shard, like the next four
``/spans``            ``(N, 2)`` float64
``/source_hash``      ``(N, 16)`` uint8
``/source_bytes``     ``(N,)`` int64
``/checksums``        ``(N,)`` uint64
``/shard_names``      ``(bytes,)`` uint8   the files' names, sorted, one after the other
``/shard_name_ends``  ``(S,)`` int64       where each name ends
``/shard_bytes``      ``(S,)`` int64       size of each file
``/shard_modified``   ``(S,)`` int64       its time of modification, in nanoseconds
``/shard_digests``    ``(S,)`` uint64      xxh3-64 of its user block, which vouches for all that it holds
``/shard_rows``       ``(S,)`` int64       where each shard's rows end
``/frame_positions``  ``(S, L)`` int64     where in the file each layer's frames begin, in bytes
====================  ===================  =================================================================

It holds nothing that the shards do not, and is made from them whenever it is absent, damaged, or not of
exactly the shards that are there (by name, size and time); only shards that it does not know are parsed then.
"""

import io
import mmap
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.index import COLUMNS, ROW_COLUMNS, Index, ShardRows, ShardStamp, hash_of
from sercache.cache.shard import USER_BLOCK_BYTES, check_user_block, read_index, user_block
from sercache.errors import CacheError
from sercache.files import write_atomically

INDEX_NAME = "index.h5"

WORTH_A_FILE = 10_000
"""Utterances from which on a feature set gets an index file; fewer are read from the shards as quickly."""

_ALIGNMENT_BYTES = 64


def load_or_build_index(folder: Path, spec: FeatureSpec) -> Index:
    """Return the index of the shards in a feature set's folder.

    The index file is mapped if it fits them; else the index is built, and written where the folder is
    writable.

    Raises:
        CacheError: a shard that the file does not know is damaged.
    """
    stamps = list_shards(folder)
    old = _read(folder / INDEX_NAME, spec)
    if old is not None and old.stamps == stamps:
        return old
    known = {} if old is None else {rows.stamp: rows for rows in old.shard_rows()}
    shards = [known.get(stamp) or _parse_shard(folder / stamp.name, stamp, spec) for stamp in stamps]
    index = Index(_assemble(shards, len(spec.layers)))
    if len(index) < WORTH_A_FILE:
        return index
    try:
        write_atomically(folder / INDEX_NAME, _index_bytes(index, spec))
    except OSError:
        return index
    written = _read(folder / INDEX_NAME, spec)
    return written if written is not None and written.stamps == stamps else index


def list_shards(folder: Path) -> list[ShardStamp]:
    """Return the published shards of a feature set, by name."""
    stamps = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("shard-") and entry.name.endswith(".h5"):
                status = entry.stat()
                stamps.append(ShardStamp(entry.name, status.st_size, status.st_mtime_ns))
    return sorted(stamps, key=lambda stamp: stamp.name)


def _parse_shard(path: Path, stamp: ShardStamp, spec: FeatureSpec) -> ShardRows:
    with path.open("rb") as stream:
        digest = xxhash.xxh3_64_intdigest(stream.read(USER_BLOCK_BYTES))
    shard = read_index(path, spec)
    ids = [utterance_id.encode() for utterance_id in shard.ids]
    return ShardRows(
        stamp,
        digest,
        np.asarray([shard.frame_positions[layer] for layer in spec.layers], np.int64),
        np.frombuffer(b"".join(ids), np.uint8),
        np.fromiter(map(len, ids), np.int64, len(ids)),
        np.fromiter(map(hash_of, ids), np.uint64, len(ids)),
        {
            "starts": shard.offsets[:-1],
            "counts": np.diff(shard.offsets),
            "seconds": shard.seconds,
            "spans": shard.spans,
            "source_hash": shard.source_hashes,
            "source_bytes": shard.source_bytes,
            "checksums": shard.checksums,
        },
    )


def _assemble(shards: Sequence[ShardRows], num_layers: int) -> dict[str, NDArray[Any]]:
    """Return the columns of an index over ``shards``."""
    shapes = {"spans": (0, 2), "source_hash": (0, 16)}
    columns: dict[str, NDArray[Any]] = {
        name: np.concatenate(
            [np.empty(shapes.get(name, (0,)), dtype), *(shard.columns[name] for shard in shards)]
        )
        for name, dtype in ROW_COLUMNS.items()
    }
    names = [shard.stamp.name.encode() for shard in shards]
    columns["ids"] = np.concatenate([np.empty(0, np.uint8), *(shard.ids for shard in shards)])
    lengths = [shard.id_lengths for shard in shards]
    columns["id_ends"] = np.cumsum(np.concatenate([np.empty(0, np.int64), *lengths]))
    columns["shard_names"] = np.frombuffer(b"".join(names), np.uint8)
    columns["shard_name_ends"] = np.cumsum([len(name) for name in names], dtype=np.int64)
    columns["shard_bytes"] = np.asarray([shard.stamp.size_bytes for shard in shards], np.int64)
    columns["shard_modified"] = np.asarray([shard.stamp.modified_ns for shard in shards], np.int64)
    columns["shard_digests"] = np.asarray([shard.digest for shard in shards], np.uint64)
    columns["shard_rows"] = np.cumsum([len(shard.id_lengths) for shard in shards], dtype=np.int64)
    positions = [shard.positions for shard in shards]
    columns["frame_positions"] = np.asarray(positions, np.int64).reshape(-1, num_layers)
    hashes = np.concatenate([np.empty(0, np.uint64), *(shard.hashes for shard in shards)])
    order = np.argsort(hashes, kind="stable")
    is_repeat = _repeats(hashes[order], order, columns)
    columns["order"] = order[~is_repeat]
    columns["hashes"] = hashes[columns["order"]]
    columns["repeats"] = np.sort(order[is_repeat])
    return columns


def _repeats(
    hashes: NDArray[np.uint64], order: NDArray[np.int64], columns: Mapping[str, NDArray[Any]]
) -> NDArray[np.bool_]:
    """Return which of the sorted ``hashes`` belong to an id that an earlier row has too, ``(N,)``."""
    is_repeat = np.zeros(len(hashes), np.bool_)
    ids, ends = columns["ids"].data, columns["id_ends"]
    seen: set[bytes] = set()
    for first in np.flatnonzero(hashes[1:] == hashes[:-1]).tolist():
        for rank in (first, first + 1):
            row = int(order[rank])
            utterance_id = ids[int(ends[row - 1]) if row else 0 : int(ends[row])].tobytes()
            is_repeat[rank] |= rank > first and utterance_id in seen
            seen.add(utterance_id)
    return is_repeat


def _index_bytes(index: Index, spec: FeatureSpec) -> bytes:
    image = io.BytesIO()
    with h5py.File(
        image,
        "w",
        libver=("v108", "v110"),
        userblock_size=USER_BLOCK_BYTES,
        alignment_threshold=1,
        alignment_interval=_ALIGNMENT_BYTES,
    ) as file:
        file.attrs["fingerprint"] = np.bytes_(spec.fingerprint)
        for name, dtype in COLUMNS.items():
            file.create_dataset(name, data=index.columns[name].astype(dtype, copy=False))
    with image.getbuffer() as content, content[USER_BLOCK_BYTES:] as covered:
        block = user_block("index", len(content), [covered], len(covered))
    image.seek(0)
    image.write(block)
    return image.getvalue()


def _read(path: Path, spec: FeatureSpec) -> Index | None:
    """Map an index file; None where there is none, or nothing that can be trusted."""
    try:
        with path.open("rb") as stream:
            if check_user_block("index", path, stream) != os.fstat(stream.fileno()).st_size:
                return None
            stream.seek(0)
            with h5py.File(stream, "r") as file:
                if file.attrs["fingerprint"].decode() != spec.fingerprint:
                    return None
                found = {name: (file[name].shape, file[name].id.get_offset()) for name in COLUMNS}
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except (CacheError, OSError, KeyError, ValueError, RuntimeError):
        return None
    return Index(
        {
            name: np.ndarray(shape, COLUMNS[name], content, offset or 0)  # an empty column has no offset
            for name, (shape, offset) in found.items()
        }
    )
