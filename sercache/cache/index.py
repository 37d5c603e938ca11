"""``index.h5``: the locations of a feature set's utterances, as columns that are mapped and never parsed.

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
import math
import mmap
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, overload

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.shard import USER_BLOCK_BYTES, check_user_block, read_index, user_block
from sercache.cache.sources import Source
from sercache.errors import CacheError
from sercache.files import write_atomically

INDEX_NAME = "index.h5"

WORTH_A_FILE = 10_000
"""Utterances from which on a feature set gets an index file; fewer are read from the shards as quickly."""

hash_of = xxhash.xxh3_64_intdigest
"""The hash that ids are sorted by; two ids may share it."""

_ALIGNMENT_BYTES = 64
_IDS_AT_ONCE = 1 << 16

_ROW_COLUMNS = {
    "starts": "<i8",
    "counts": "<i8",
    "seconds": "<f8",
    "spans": "<f8",
    "source_hash": "|u1",
    "source_bytes": "<i8",
    "checksums": "<u8",
}
_COLUMNS = _ROW_COLUMNS | {
    "hashes": "<u8",
    "order": "<i8",
    "repeats": "<i8",
    "ids": "|u1",
    "id_ends": "<i8",
    "shard_names": "|u1",
    "shard_name_ends": "<i8",
    "shard_bytes": "<i8",
    "shard_modified": "<i8",
    "shard_digests": "<u8",
    "shard_rows": "<i8",
    "frame_positions": "<i8",
}


@dataclass(frozen=True, slots=True)
class ShardStamp:
    """The identity of a shard: its file's name, size in bytes, and time of modification."""

    name: str
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True)
class _ShardRows:
    """The rows of a shard in the index."""

    stamp: ShardStamp
    digest: int
    positions: NDArray[np.int64]
    ids: NDArray[np.uint8]
    id_lengths: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    columns: Mapping[str, NDArray[Any]]


class Index:
    """The location of every utterance of a feature set.

    Args:
        columns: what the table above lists, by name; mapped or in memory.

    Attributes:
        starts: ``(N,)`` int64, in frames, within the utterance's shard.
        counts: ``(N,)`` int64, in frames.
        seconds: ``(N,)`` float64.
        checksums: ``(N,)`` uint64, of the frames.
        stamps: the S shards.
        digests: ``(S,)`` uint64, of their user blocks.
        frame_positions: ``(S, L)`` int64, in bytes.
    """

    def __init__(self, columns: Mapping[str, NDArray[Any]]) -> None:
        self.columns = columns
        self.starts, self.counts, self.seconds = columns["starts"], columns["counts"], columns["seconds"]
        self.checksums: NDArray[np.uint64] = columns["checksums"]
        self.digests, self.frame_positions = columns["shard_digests"], columns["frame_positions"]
        self._hashes, self._order = columns["hashes"], columns["order"]
        self._ids, self._id_ends = columns["ids"].data, columns["id_ends"]
        names = _cut(columns["shard_names"].tobytes(), columns["shard_name_ends"])
        sizes, times = columns["shard_bytes"].tolist(), columns["shard_modified"].tolist()
        self.stamps = [
            ShardStamp(name.decode(), size, time)
            for name, size, time in zip(names, sizes, times, strict=True)
        ]

    def __len__(self) -> int:
        """Return how many different ids there are, U."""
        return len(self._hashes)

    @property
    def ids(self) -> "Ids":
        """All ids, shard after shard."""
        return Ids(self)

    def row(self, utterance_id: str) -> int:
        """Return the row of an utterance; -1 where there is none."""
        wanted = _encode(utterance_id)
        hashed = np.uint64(hash_of(wanted))
        rank = int(self._hashes.searchsorted(hashed))
        while rank < len(self._hashes) and self._hashes[rank] == hashed:
            row = int(self._order[rank])
            if self._ids[self._id_begin(row) : int(self._id_ends[row])] == wanted:
                return row
            rank += 1
        return -1

    def rows(self, ids: Iterable[str]) -> NDArray[np.int64]:
        """Return the row of each utterance, -1 where there is none, ``(len(ids),)``."""
        if isinstance(ids, Ids) and ids.held_in is self:
            return self.kept_rows()
        listed = ids if isinstance(ids, Sequence) else list(ids)
        found = [
            self._rows_of(listed[first : first + _IDS_AT_ONCE])
            for first in range(0, len(listed), _IDS_AT_ONCE)
        ]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def kept_rows(self) -> NDArray[np.int64]:
        """Return the rows of all different ids, in order, ``(U,)``."""
        return np.delete(np.arange(len(self._id_ends)), self.columns["repeats"])

    def kept_row(self, number: int) -> int:
        """Return the row of the id with this number among all different ids."""
        repeats: NDArray[np.int64] = self.columns["repeats"]
        kept_before = repeats - np.arange(len(repeats))
        return number + int(kept_before.searchsorted(number, side="right"))

    def utterance_id(self, row: int) -> str:
        """Return the id in a row."""
        return str(self._ids[self._id_begin(row) : int(self._id_ends[row])], "utf-8")

    def utterance_ids(self, first: int, last: int) -> list[str]:
        """Return the ids in the rows from ``first`` to before ``last``."""
        begin = self._id_begin(first)
        ends = self._id_ends[first:last] - begin
        return [part.decode() for part in _cut(self._ids[begin : begin + int(ends[-1])].tobytes(), ends)]

    def shards_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which shard each row lies in, ``(len(rows),)``."""
        shards: NDArray[np.int64] = self.columns["shard_rows"].searchsorted(rows, side="right")
        return shards

    def shard_of(self, row: int) -> int:
        """Return which shard a row lies in."""
        return int(self.columns["shard_rows"].searchsorted(row, side="right"))

    def num_frames(self, shard: int) -> int:
        """Return how many frames a shard holds."""
        end = int(self.columns["shard_rows"][shard])
        if end == (int(self.columns["shard_rows"][shard - 1]) if shard else 0):
            return 0
        return int(self.starts[end - 1] + self.counts[end - 1])

    def shards_with(self, ids: Collection[str]) -> list[int]:
        """Return every shard that holds any of ``ids``, repeats included."""
        wanted = set(ids)
        rows = self.rows(list(wanted))
        repeated = [row for row in self.columns["repeats"].tolist() if self.utterance_id(row) in wanted]
        return sorted({self.shard_of(row) for row in [*rows[rows >= 0].tolist(), *repeated]})

    def source(self, row: int) -> Source:
        """Return the source of the utterance in a row."""
        start, end = (None if math.isnan(time) else time for time in self.columns["spans"][row].tolist())
        digest = self.columns["source_hash"][row].tobytes().hex()
        return Source(digest, int(self.columns["source_bytes"][row]), (start, end))

    def shard_rows(self) -> Iterator["_ShardRows"]:
        """Yield the rows of every shard, to build a newer index of them."""
        hashes = np.zeros(len(self._id_ends), np.uint64)
        hashes[self._order] = self._hashes
        for repeat in self.columns["repeats"].tolist():
            hashes[repeat] = hash_of(self.utterance_id(repeat).encode())
        first = 0
        for shard, (stamp, end) in enumerate(
            zip(self.stamps, self.columns["shard_rows"].tolist(), strict=True)
        ):
            begin = self._id_begin(first)
            ends = self._id_ends[first:end]
            yield _ShardRows(
                stamp,
                int(self.digests[shard]),
                self.frame_positions[shard],
                self.columns["ids"][begin : int(ends[-1]) if len(ends) else begin],
                np.diff(ends, prepend=begin),
                hashes[first:end],
                {name: self.columns[name][first:end] for name in _ROW_COLUMNS},
            )
            first = end

    def _rows_of(self, ids: Sequence[str]) -> NDArray[np.int64]:
        encoded = [_encode(utterance_id) for utterance_id in ids]
        hashes = np.fromiter(map(hash_of, encoded), np.uint64, len(encoded))
        ranks = self._hashes.searchsorted(hashes)
        hits = np.flatnonzero(ranks < len(self._hashes))
        hits = hits[self._hashes[ranks[hits]] == hashes[hits]]
        rows = np.full(len(encoded), -1)
        rows[hits] = self._order[ranks[hits]]
        for other in hits[~self._have_ids(rows[hits], [encoded[hit] for hit in hits.tolist()])].tolist():
            rows[other] = self.row(ids[other])  # another id has the same hash
        return rows

    def _have_ids(self, rows: NDArray[np.int64], wanted: list[bytes]) -> NDArray[np.bool_]:
        """Return whether each row has the id that is wanted, byte by byte, ``(len(rows),)``."""
        lengths = np.fromiter(map(len, wanted), np.int64, len(wanted))
        begins = np.where(rows > 0, self._id_ends[rows - 1], 0)
        are_equal: NDArray[np.bool_] = self._id_ends[rows] - begins == lengths
        begins, lengths, ends = begins[are_equal], lengths[are_equal], np.cumsum(lengths[are_equal])
        asked = np.frombuffer(b"".join(compress(wanted, are_equal.tolist())), np.uint8)
        held = self.columns["ids"][np.repeat(begins - (ends - lengths), lengths) + np.arange(len(asked))]
        differing = np.concatenate([[0], np.cumsum(held != asked)])
        are_equal[are_equal] = differing[ends] == differing[ends - lengths]
        return are_equal

    def _id_begin(self, row: int) -> int:
        return int(self._id_ends[row - 1]) if row else 0


class Ids(Sequence[str]):
    """The ids of a feature set, decoded when they are asked for: a million strings would take 100 MB."""

    def __init__(self, index: Index) -> None:
        self.held_in = index

    def __len__(self) -> int:
        return len(self.held_in)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[number] for number in range(*index.indices(len(self))))
        positive = index + len(self) if index < 0 else index
        if not 0 <= positive < len(self):
            raise IndexError(f"id {index} of {len(self):,}")
        return self.held_in.utterance_id(self.held_in.kept_row(positive))

    def __iter__(self) -> Iterator[str]:
        kept = self.held_in.kept_rows()
        for first in range(0, len(kept), _IDS_AT_ONCE):
            rows = kept[first : first + _IDS_AT_ONCE]
            listed = self.held_in.utterance_ids(int(rows[0]), int(rows[-1]) + 1)
            yield from map(listed.__getitem__, (rows - rows[0]).tolist())

    def __contains__(self, utterance_id: object) -> bool:
        return isinstance(utterance_id, str) and self.held_in.row(utterance_id) >= 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(
            mine == theirs for mine, theirs in zip(self, other, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"Ids({shown}{', ...' if len(self) > 3 else ''}; {len(self):,})"


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


def _parse_shard(path: Path, stamp: ShardStamp, spec: FeatureSpec) -> _ShardRows:
    with path.open("rb") as stream:
        digest = xxhash.xxh3_64_intdigest(stream.read(USER_BLOCK_BYTES))
    shard = read_index(path, spec)
    ids = [utterance_id.encode() for utterance_id in shard.ids]
    return _ShardRows(
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


def _assemble(shards: Sequence[_ShardRows], num_layers: int) -> dict[str, NDArray[Any]]:
    """Return the columns of an index over ``shards``."""
    shapes = {"spans": (0, 2), "source_hash": (0, 16)}
    columns: dict[str, NDArray[Any]] = {
        name: np.concatenate(
            [np.empty(shapes.get(name, (0,)), dtype), *(shard.columns[name] for shard in shards)]
        )
        for name, dtype in _ROW_COLUMNS.items()
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
        for name, dtype in _COLUMNS.items():
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
                found = {name: (file[name].shape, file[name].id.get_offset()) for name in _COLUMNS}
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except (CacheError, OSError, KeyError, ValueError, RuntimeError):
        return None
    return Index(
        {
            name: np.ndarray(shape, _COLUMNS[name], content, offset or 0)  # an empty column has no offset
            for name, (shape, offset) in found.items()
        }
    )


def _encode(utterance_id: str) -> bytes:
    """Return the bytes of an id; text that is no valid Unicode becomes invalid UTF-8, which no shard has."""
    return utterance_id.encode(errors="surrogatepass")


def _cut(joined: bytes, ends: NDArray[np.int64]) -> list[bytes]:
    listed = ends.tolist()
    return [joined[begin:end] for begin, end in zip([0, *listed], listed, strict=False)]
