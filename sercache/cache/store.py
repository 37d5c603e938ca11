"""The read side of the cache: which feature sets there are, and their frames as memory-mapped views."""

import mmap
import os
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sercache.cache.fingerprint import FORMAT_VERSION, FeatureSpec
from sercache.cache.layers import parse_layers
from sercache.cache.shard import ShardIndex, read_index
from sercache.cache.sources import Source
from sercache.errors import CacheError, EncoderError
from sercache.files import read_json
from sercache.recipe import FeatureRecipe

DESCRIPTION_NAME = "feature_set.json"

_OPEN_MAPS = 256
"""Shards that are mapped at once; every map holds a file descriptor, and many systems allow 1,024."""


def shard_path(folder: Path, task: str) -> Path:
    """Return where the shard of a task lies; the task is done when this file exists."""
    return folder / f"shard-{task}.h5"


def task_of(path: Path) -> str:
    """Return the task whose shard this is."""
    return path.stem.removeprefix("shard-")


class FeatureSet:
    """One folder of the cache: the frames of one encoder with one setting, by utterance id.

    The ids are read when they are first asked for. Shards that other processes publish later are not seen.
    """

    def __init__(self, folder: Path) -> None:
        """Open a feature set by its folder.

        Raises:
            CacheError: the folder is no feature set, or its description is damaged.
        """
        self.folder = folder
        self.spec = _read_spec(folder / DESCRIPTION_NAME)
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
        return sorted(self.folder.glob("shard-*.h5"))

    @cached_property
    def shards(self) -> list[tuple[Path, ShardIndex]]:
        """Every shard's path and index.

        Raises:
            CacheError: a shard is damaged.
        """
        try:
            return [(path, read_index(path, self.spec)) for path in self.shard_paths]
        except CacheError as error:
            raise CacheError(
                f"{error}; 'sercache cache verify {self.folder}' tells what it costs; "
                "remove the file and extract again to mend it"
            ) from error

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Ids of all utterances, shard after shard."""
        return tuple(self._places)

    @property
    def size_bytes(self) -> int:
        """What the shards take on disk."""
        return sum(index.size_bytes for _, index in self.shards)

    @property
    def seconds(self) -> float:
        """Length of all audio; 0 for text."""
        return float(sum(np.nansum(index.seconds) for _, index in self.shards))

    def __contains__(self, utterance_id: object) -> bool:
        return utterance_id in self._places

    def __len__(self) -> int:
        return len(self._places)

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Return those of ``ids`` that have no frames here, in order."""
        return [utterance_id for utterance_id in ids if utterance_id not in self._places]

    def frame_counts(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return how many frames each utterance has, ``(len(ids),)``."""
        counts = np.empty(len(ids), np.int64)
        for place, utterance_id in enumerate(ids):
            shard, row = self._place(utterance_id)
            offsets = self.shards[shard][1].offsets
            counts[place] = offsets[row + 1] - offsets[row]
        return counts

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
        shard, row = self._place(utterance_id)
        offsets = self.shards[shard][1].offsets
        return self._map(shard, self._layer(layer))[offsets[row] : offsets[row + 1]]

    def source(self, utterance_id: str) -> Source:
        """Return what the frames of an utterance were computed from."""
        shard, row = self._place(utterance_id)
        return self.shards[shard][1].source(row)

    def source_hash(self, utterance_id: str) -> str:
        """Return the xxh3-128 of the audio file or text that the frames were computed from."""
        return self.source(utterance_id).digest

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        """Shard and row of every id; of an id in two shards (two extractions at once) the first counts."""
        places: dict[str, tuple[int, int]] = {}
        for shard, (_, index) in enumerate(self.shards):
            for row, utterance_id in enumerate(index.ids):
                places.setdefault(utterance_id, (shard, row))
        return places

    def _place(self, utterance_id: str) -> tuple[int, int]:
        try:
            return self._places[utterance_id]
        except KeyError:
            raise CacheError(
                f"{self.folder} holds no frames of utterance '{utterance_id}' (of {len(self):,}); "
                "its failures.csv tells whether it failed, sercache extract adds it"
            ) from None

    def _layer(self, layer: str | None) -> str:
        if layer is None and len(self.layers) == 1:
            return self.layers[0]
        if layer not in self.layers:
            asked = "none was named" if layer is None else f"not '{layer}'"
            raise CacheError(f"{self.folder} holds the layers {', '.join(self.layers)}; {asked}")
        return layer

    def _map_shard(self, shard: int, layer: str) -> NDArray[np.generic]:
        """Map one layer of one shard, ``(sum T, D)``; reading past a file's end would crash."""
        path, index = self.shards[shard]
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size != index.size_bytes:
                raise CacheError(f"{path}: has {size:,} bytes now, {index.size_bytes:,} when it was opened")
            content = mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_READ)
        return index.frames(content, self.spec, layer)


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
                f"{self.root}: the cache holds no features of {encoder} (it holds: {held}); "
                "run sercache extract"
            )
        differences = {
            feature_set: differences_from(recipe, feature_set.spec) for feature_set in same_encoder
        }
        matches = [feature_set for feature_set in same_encoder if not differences[feature_set]]
        if not matches:
            nearest = min(same_encoder, key=lambda feature_set: len(differences[feature_set]))
            raise CacheError(
                f"{self.root}: the cache holds {encoder} with {'; '.join(differences[nearest])}; "
                "run sercache extract with the setting you want"
            )
        return the_one(matches, recipe)


def encoder_name(encoder: str) -> str:
    """Return what feature sets call an encoder: a local checkpoint goes by its folder's name, not its path.

    >>> encoder_name("microsoft/wavlm-large"), encoder_name("/models/wavlm-tiny/")
    ('microsoft/wavlm-large', 'wavlm-tiny')
    """
    folder = Path(encoder).expanduser()
    is_local = folder.is_dir() or encoder.startswith((".", "/", "~"))
    return folder.resolve().name if is_local else encoder


def the_one(matches: Sequence[FeatureSet], recipe: FeatureRecipe) -> FeatureSet:
    """Return the only feature set among ``matches``.

    Raises:
        CacheError: there are several; the message names in what they differ.
    """
    if len(matches) == 1:
        return matches[0]
    described = [feature_set.spec.provenance() for feature_set in matches]
    fields = [name for name in described[0] if any(one[name] != described[0][name] for one in described)]
    listed = ", ".join(
        f"{feature_set.spec.fingerprint[:12]} ({', '.join(f'{name} {one[name]}' for name in fields)})"
        for feature_set, one in zip(matches, described, strict=True)
    )
    raise CacheError(
        f"{len(matches)} feature sets of {recipe.encoder} fit: {listed}; "
        "name one in the recipe with the first digits of its 'fingerprint'"
    )


def differences_from(recipe: FeatureRecipe, spec: FeatureSpec) -> list[str]:
    """Return where a feature set is not what a recipe asks for: ``layers sum-21-24, not layer-12``."""
    wanted: dict[str, object] = {"time_pool": recipe.time_pool}
    if recipe.dtype != "auto":
        wanted["dtype"] = recipe.dtype
    if spec.modality == "audio":
        wanted |= {"window_seconds": recipe.window_seconds, "overlap_seconds": recipe.overlap_seconds}
    asked = _layer_names(recipe.layers, spec.num_layers)
    differences = []
    if asked != spec.layers:
        differences = [f"layers {shortened(spec.layers)}, not {shortened(asked)}"]
    differences += [
        f"{name} {getattr(spec, name)}, not {value}"
        for name, value in wanted.items()
        if getattr(spec, name) != value
    ]
    precision = spec.options.get("precision", recipe.precision)
    if recipe.precision not in ("auto", precision):
        differences.append(f"precision {precision}, not {recipe.precision}")
    text_column = spec.options.get("text_column")
    if spec.modality == "text" and text_column != recipe.text_column:
        differences.append(f"text_column {text_column or 'text'}, not {recipe.text_column or 'text'}")
    if recipe.fingerprint and not spec.fingerprint.startswith(recipe.fingerprint):
        differences.append(f"fingerprint {spec.fingerprint[:12]}, not {recipe.fingerprint}")
    return differences


def shortened(layers: Sequence[str]) -> str:
    """Return names of layers as one short text.

    >>> shortened(["layer-0", "last"]), shortened(["layer-0", "layer-1", "layer-2", "last"])
    ('layer-0, last', 'layer-0 ... last (4 layers)')
    """
    return ", ".join(layers) if len(layers) <= 3 else f"{layers[0]} ... {layers[-1]} ({len(layers)} layers)"


def _layer_names(request: str, num_layers: int) -> tuple[str, ...]:
    """Return what a request means for an encoder; one that it cannot mean stays as it is."""
    try:
        return parse_layers(request, num_layers).names
    except EncoderError:
        return (request,)


def _read_spec(path: Path) -> FeatureSpec:
    try:
        described = read_json(path)
    except FileNotFoundError:
        raise CacheError(f"{path.parent} is no feature set: it has no {path.name}") from None
    except (ValueError, OSError) as error:
        raise CacheError(f"{path}: cannot be read ({error})") from error
    try:
        fingerprint, version = described.pop("fingerprint"), described["format_version"]
        if version != FORMAT_VERSION:
            raise CacheError(f"{path}: has format {version}; this version reads format {FORMAT_VERSION}")
        spec = FeatureSpec.from_provenance(described)
    except (AttributeError, KeyError, TypeError) as error:
        raise CacheError(f"{path}: does not describe a feature set ({error})") from error
    if spec.fingerprint != fingerprint:
        raise CacheError(f"{path}: was changed: its content does not fit its fingerprint {fingerprint[:12]}")
    return spec
