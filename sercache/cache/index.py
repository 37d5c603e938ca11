"""The index of a feature set: the location of every utterance, by id."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, overload

import numpy as np
import xxhash
from numpy.typing import NDArray

from sercache.cache.sources import Source

hash_of = xxhash.xxh3_64_intdigest
"""The hash that ids are sorted by; two ids may share it."""

_IDS_AT_ONCE = 1 << 16

ROW_COLUMNS = {
    "starts": "<i8",
    "counts": "<i8",
    "seconds": "<f8",
    "spans": "<f8",
    "source_hash": "|u1",
    "source_bytes": "<i8",
    "checksums": "<u8",
}
COLUMNS = ROW_COLUMNS | {
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
class ShardRows:
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
        columns: the columns of :mod:`sercache.cache.index_file`, by name; mapped or in memory.

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

    def shard_rows(self) -> Iterator["ShardRows"]:
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
            yield ShardRows(
                stamp,
                int(self.digests[shard]),
                self.frame_positions[shard],
                self.columns["ids"][begin : int(ends[-1]) if len(ends) else begin],
                np.diff(ends, prepend=begin),
                hashes[first:end],
                {name: self.columns[name][first:end] for name in ROW_COLUMNS},
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


def _encode(utterance_id: str) -> bytes:
    """Return the bytes of an id; text that is no valid Unicode becomes invalid UTF-8, which no shard has."""
    return utterance_id.encode(errors="surrogatepass")


def _cut(joined: bytes, ends: NDArray[np.int64]) -> list[bytes]:
    listed = ends.tolist()
    return [joined[begin:end] for begin, end in zip([0, *listed], listed, strict=False)]
