"""The read side of the cache: feature sets, and their frames as memory-mapped views."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sercache.cache.fingerprint import differences_from, encoder_name, read_spec
from sercache.cache.frames import STORED_AS
from sercache.cache.index import Ids, Index
from sercache.cache.index_file import list_shards, load_or_build_index
from sercache.cache.mapping import MappedShard, PrefetchThrottle, look_ahead
from sercache.cache.shard import ShardIndex, checksum, read_index
from sercache.cache.sources import Source
from sercache.errors import CacheError
from sercache.recipe import FeatureRecipe
from sercache.registry import Registry

DESCRIPTION_NAME = "feature_set.json"

MIRROR_NAME = ".mirror"
"""A folder in a feature set whose shards are fetched when they are read."""

MirrorFetch = Callable[[Path, str], AbstractContextManager[None]]

SHARD_FETCHERS: Registry[MirrorFetch] = Registry(
    "shard fetcher", {"mirror": "sercache.cache.remote.mirror:fetched"}, CacheError
)
"""``(folder, shard name) -> context``: inside the context, the shard's file is complete."""

_OPEN_MAPS = 256
"""Shards that are mapped at once; every map holds a file descriptor, and many systems allow 1,024."""

_STREAMED_AT_ONCE = 32
"""Utterances that :meth:`FeatureSet.stream` lets the system read together."""


def shard_path(folder: Path, task: str) -> Path:
    """Return the path of a task's shard; the task is done when this file exists."""
    return folder / f"shard-{task}.h5"


def refuse_mirror(folder: Path) -> None:
    """Raise a CacheError if a feature set is only a mirror of one in an object store."""
    if (folder / MIRROR_NAME).exists():
        raise CacheError(f"{folder} is a mirror, which is only read; sercache cache pull makes a cache of it")


def task_of(path: Path) -> str:
    """Return the task whose shard this is."""
    return path.stem.removeprefix("shard-")


@dataclass(frozen=True, slots=True)
class Locations:
    """Where the frames of N utterances are stored, looked up once for many reads.

    Attributes:
        shards: ``(N,)`` int64, number of each utterance's shard in the feature set; -1 where it is lacking.
        starts: ``(N,)`` int64, where in its shard each utterance begins, in frames.
        counts: ``(N,)`` int64, how many frames it has; 0 for one that is lacking.
        checksums: ``(N,)`` uint64, of all its frames, for :meth:`FeatureSet.check`.
    """

    shards: NDArray[np.int64]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    checksums: NDArray[np.uint64]

    def __getitem__(self, rows: NDArray[np.int64] | slice) -> "Locations":
        return Locations(self.shards[rows], self.starts[rows], self.counts[rows], self.checksums[rows])

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Yield shard, start and count of each utterance as Python integers: those index fastest."""
        return zip(self.shards.tolist(), self.starts.tolist(), self.counts.tolist(), strict=True)

    def __len__(self) -> int:
        return len(self.shards)


class FeatureSet:
    """One folder of the cache: the frames of one encoder with one setting, by utterance id.

    The ids are looked up in its index when they are first asked for, see :mod:`sercache.cache.index_file`.
    Shards that other processes publish later are not seen.
    """

    def __init__(self, folder: Path) -> None:
        """Open a feature set by its folder.

        Raises:
            CacheError: the folder is no feature set, or its description is damaged.
        """
        self.folder = folder
        self.spec = read_spec(folder / DESCRIPTION_NAME)
        self._throttle = PrefetchThrottle()
        self._map = lru_cache(maxsize=_OPEN_MAPS)(self._map_shard)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the kept layers."""
        return self.spec.layers

    @property
    def dim(self) -> int:
        """Features per frame, D."""
        return self.spec.dim

    @property
    def is_bfloat16(self) -> bool:
        """Whether frames come as uint16 that hold the bits of bfloat16."""
        return self.spec.dtype == "bfloat16"

    @property
    def shard_paths(self) -> list[Path]:
        """The published shards, by name."""
        return [self.folder / stamp.name for stamp in list_shards(self.folder)]

    @property
    def shards(self) -> list[tuple[Path, ShardIndex]]:
        """Every shard's path and index, read from the shards themselves.

        Raises:
            CacheError: a shard is damaged.
        """
        return [(path, read_index(path, self.spec)) for path in self._indexed_paths]

    @cached_property
    def _index(self) -> Index:
        try:
            return load_or_build_index(self.folder, self.spec)
        except CacheError as error:
            raise CacheError(
                f"{error}; 'sercache cache verify {self.folder}' tells what it costs; "
                "sercache cache repair extracts it again"
            ) from error

    @property
    def _indexed_paths(self) -> list[Path]:
        return [self.folder / stamp.name for stamp in self._index.stamps]

    @cached_property
    def ids(self) -> Ids:
        """Ids of all utterances, shard after shard; decoded when they are asked for."""
        return self._index.ids

    @property
    def size_bytes(self) -> int:
        """What the shards take on disk."""
        return sum(stamp.size_bytes for stamp in self._index.stamps)

    @property
    def seconds(self) -> float:
        """Length of all audio; 0 for text."""
        return float(np.nansum(self._index.seconds))

    def __contains__(self, utterance_id: object) -> bool:
        return utterance_id in self.ids

    def __len__(self) -> int:
        return len(self._index)

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Return those of ``ids`` that have no frames here, in order."""
        return [ids[index] for index in np.flatnonzero(self._index.rows(ids) < 0).tolist()]

    def frame_counts(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return how many frames each utterance has, ``(len(ids),)``.

        Raises:
            CacheError: an utterance is not here.
        """
        counts: NDArray[np.int64] = self._index.counts[self._rows(ids)]
        return counts

    def locate(self, ids: Sequence[str]) -> Locations:
        """Return where the frames of many utterances are stored; those that are not here have count 0."""
        index = self._index
        rows = index.rows(ids)
        is_here = rows >= 0
        if not len(index):
            return Locations(rows, np.zeros_like(rows), np.zeros_like(rows), np.zeros_like(rows, np.uint64))
        return Locations(
            np.where(is_here, index.shards_of(rows), -1),
            np.where(is_here, index.starts[rows], 0),
            np.where(is_here, index.counts[rows], 0),
            index.checksums[rows],
        )

    def frames(self, utterance_id: str, layer: str | None = None) -> NDArray[Any]:
        """Return the frames of one utterance without copying them.

        Args:
            utterance_id: whose frames.
            layer: which of several kept layers; None where there is only one.

        Returns:
            ``(T, D)``, read-only, in the stored dtype; bfloat16 comes as uint16.

        Raises:
            CacheError: no such utterance or layer, or the shard is not what it was when it was opened.
        """
        row, number = self._row(utterance_id), self._layer(layer)
        start, count = int(self._index.starts[row]), int(self._index.counts[row])
        shard = self._map(self._index.shard_of(row))
        if self._throttle.count_and_decide():
            shard.prefetch(number, start, count)
        return shard.planes[number][start : start + count]

    def views(
        self,
        shards: NDArray[np.int64],
        starts: NDArray[np.int64],
        counts: NDArray[np.int64],
        layer: str | None = None,
    ) -> list[NDArray[Any]]:
        """Return stretches of frames without copying them, ``(T_i, D)`` each.

        Args:
            shards: ``(B,)`` as in :class:`Locations`.
            starts: ``(B,)`` where in its shard each stretch begins, in frames.
            counts: ``(B,)`` how many frames it has; where 0, the shard may be -1.
            layer: which of several kept layers; None where there is only one.

        Raises:
            CacheError: no such layer, or a shard is not what it was when it was opened.
        """
        number = self._layer(layer)
        nothing = np.empty((0, self.dim), STORED_AS[self.spec.dtype or "float32"])
        mapped = self._map
        return [
            mapped(shard).planes[number][start : start + count] if count else nothing
            for shard, start, count in zip(shards.tolist(), starts.tolist(), counts.tolist(), strict=True)
        ]

    def check(self, locations: Locations) -> None:
        """Compare frames, of all layers, with the checksums that were stored with them.

        Raises:
            CacheError: some are not what was written, or a shard is not what it was when it was opened.
        """
        planes = [
            self.views(locations.shards, locations.starts, locations.counts, layer) for layer in self.layers
        ]
        stored = zip(locations.shards.tolist(), locations.checksums.tolist(), strict=True)
        for (shard, wanted), frames in zip(stored, zip(*planes, strict=True), strict=True):
            if shard >= 0 and checksum(frames) != wanted:
                raise CacheError(
                    f"{self._indexed_paths[shard]}: frames are not what was written; 'sercache cache verify "
                    f"{self.folder}' tells whose, sercache cache repair extracts it again"
                )

    def prefetch(
        self, locations: Locations, rows: NDArray[np.int64] | slice, layer: str | None = None
    ) -> None:
        """Let the system read frames whose views are touched soon, without waiting for them.

        Args:
            locations: of many utterances.
            rows: which of them.
            layer: which of several kept layers; None where there is only one.

        Raises:
            CacheError: no such layer, or a shard is not what it was when it was opened.
        """
        number = self._layer(layer)
        if not self._throttle.count_and_decide():
            return
        for shard, start, count in locations[rows]:
            if count:
                self._map(shard).prefetch(number, start, count)

    def stream(self, locations: Locations, layer: str | None = None) -> Iterator[NDArray[Any]]:
        """Yield what :meth:`views` returns, and let the system read ahead of it.

        Raises:
            CacheError: no such layer, or a shard is not what it was when it was opened.
        """
        starts = range(0, len(locations), _STREAMED_AT_ONCE)
        for rows, coming in look_ahead([slice(start, start + _STREAMED_AT_ONCE) for start in starts]):
            for rows_ahead in coming:
                self.prefetch(locations, rows_ahead, layer)
            yield from self.views(
                locations.shards[rows], locations.starts[rows], locations.counts[rows], layer
            )

    def source(self, utterance_id: str) -> Source:
        """Return what the frames of an utterance were computed from.

        Raises:
            CacheError: the utterance is not here.
        """
        return self._index.source(self._row(utterance_id))

    def source_hash(self, utterance_id: str) -> str:
        """Return the xxh3-128 of the audio file or text that the frames were computed from."""
        return self.source(utterance_id).digest

    def shards_with(self, ids: Collection[str]) -> list[Path]:
        """Return every shard that holds frames of any of ``ids``."""
        paths = self._indexed_paths
        return [paths[shard] for shard in self._index.shards_with(ids)]

    def _row(self, utterance_id: str) -> int:
        row = self._index.row(utterance_id)
        if row < 0:
            raise self._lacks(utterance_id)
        return row

    def _rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        rows = self._index.rows(ids)
        if (rows < 0).any():
            raise self._lacks(ids[int(np.argmin(rows))])
        return rows

    def _lacks(self, utterance_id: str) -> CacheError:
        return CacheError(
            f"{self.folder} holds no frames of utterance '{utterance_id}' (of {len(self):,}); "
            "its failures.csv tells whether it failed, sercache extract adds it"
        )

    def _layer(self, layer: str | None) -> int:
        if layer is None and len(self.layers) == 1:
            return 0
        if layer not in self.layers:
            asked = "none was named" if layer is None else f"not '{layer}'"
            raise CacheError(f"{self.folder} holds the layers {', '.join(self.layers)}; {asked}")
        return self.layers.index(layer)

    def _map_shard(self, shard: int) -> MappedShard:
        if not (self.folder / MIRROR_NAME).exists():
            return MappedShard(self.folder, self._index, shard, self.spec)
        with SHARD_FETCHERS["mirror"](self.folder, self._index.stamps[shard].name):
            return MappedShard(self.folder, self._index, shard, self.spec)


class Cache:
    """A folder of feature sets."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def feature_sets(self) -> list[FeatureSet]:
        """Return all feature sets, by folder name; none where the folder does not exist."""
        return [FeatureSet(path.parent) for path in sorted(self.root.glob(f"*/{DESCRIPTION_NAME}"))]

    def find(self, recipe: FeatureRecipe) -> FeatureSet:
        """Return the one feature set that a recipe asks for.

        Raises:
            CacheError: there is none (the message names what differs in the nearest one), or several.
        """
        feature_sets = self.feature_sets()
        encoder = encoder_name(recipe.encoder)
        same_encoder = [feature_set for feature_set in feature_sets if feature_set.spec.encoder == encoder]
        if not same_encoder:
            held = ", ".join(sorted({feature_set.spec.encoder for feature_set in feature_sets})) or "nothing"
            raise CacheError(
                f"the cache {self.root} holds no features of {encoder} (it holds: {held}); "
                "run sercache extract"
            )
        differences = {
            feature_set: differences_from(recipe, feature_set.spec) for feature_set in same_encoder
        }
        matches = [feature_set for feature_set in same_encoder if not differences[feature_set]]
        if not matches:
            nearest = min(same_encoder, key=lambda feature_set: len(differences[feature_set]))
            raise CacheError(
                f"the cache {self.root} holds {encoder} with {'; '.join(differences[nearest])}; "
                "run sercache extract with the setting you want"
            )
        return only_match(matches, recipe)


def open_feature_sets(path: Path, *, only_one: bool = False) -> list[FeatureSet]:
    """Return the feature set at ``path``, or all feature sets of the cache at ``path``.

    Raises:
        CacheError: there is none, or there are several and ``only_one`` is wanted.
    """
    if (path / DESCRIPTION_NAME).exists():
        return [FeatureSet(path)]
    feature_sets = Cache(path).feature_sets()
    if not feature_sets:
        raise CacheError(f"{path}: neither a cache nor a feature set; sercache extract makes one")
    if only_one and len(feature_sets) > 1:
        names = ", ".join(feature_set.folder.name for feature_set in feature_sets)
        raise CacheError(f"{path}: holds {len(feature_sets)} feature sets, name one of them: {names}")
    return feature_sets


def only_match(matches: Sequence[FeatureSet], recipe: FeatureRecipe) -> FeatureSet:
    """Return the only feature set among ``matches``.

    Raises:
        CacheError: there are several; the message names in what they differ.
    """
    if len(matches) == 1:
        return matches[0]
    described = [feature_set.spec.provenance() for feature_set in matches]
    fields = [
        name for name, first in described[0].items() if any(other[name] != first for other in described)
    ]
    listed = ", ".join(
        f"{feature_set.spec.fingerprint[:12]} ({', '.join(f'{name} {values[name]}' for name in fields)})"
        for feature_set, values in zip(matches, described, strict=True)
    )
    raise CacheError(
        f"{len(matches)} feature sets of {recipe.encoder} fit: {listed}; "
        "name one in the recipe with the first digits of its 'fingerprint'"
    )
