"""Make a cache smaller: fewer layers, fewer utterances, fewer feature sets."""

import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from sercache.cache.layers import parse_layers
from sercache.cache.merge import adopt_failures
from sercache.cache.shard import StoredUtterance, read_whole
from sercache.cache.store import FeatureSet, shard_path, task_of
from sercache.cache.writer import cannot_write, drop_utterances, publish_shard, start_feature_set
from sercache.errors import CacheError, EncoderError, Interrupted
from sercache.events import QUIET, Context, Event

_REMOVED = ".removed"


def kept_layers(feature_set: FeatureSet, request: str) -> tuple[str, ...]:
    """Return the names of the layers that ``request`` asks to keep (``6,9,12``, ``last``).

    Raises:
        CacheError: the feature set does not hold them all, each on its own.
    """
    try:
        names = parse_layers(request, feature_set.spec.num_layers).names
    except EncoderError as error:
        raise CacheError(f"{feature_set.folder}: {error}") from error
    for name in names:
        if name not in feature_set.layers:
            raise CacheError(
                f"{feature_set.folder} holds the layers {', '.join(feature_set.layers)}, not '{name}'"
            )
    return names


def freed_by_layers(feature_set: FeatureSet, kept: Collection[str]) -> float:
    """Return how many bytes are freed when only these layers are kept."""
    return feature_set.size_bytes * (1 - len(kept) / len(feature_set.layers))


def freed_by_utterances(feature_set: FeatureSet, dropped: Collection[str]) -> float:
    """Return how many bytes are freed when these utterances are dropped, by their share of the frames."""
    frames = int(feature_set.frame_counts(list(feature_set.ids)).sum())
    return feature_set.size_bytes * float(feature_set.frame_counts(list(dropped)).sum()) / max(1, frames)


def keep_layers(
    feature_set: FeatureSet,
    names: Collection[str],
    *,
    context: Context = QUIET,
) -> FeatureSet:
    """Replace a feature set by one with some of its layers, named as if only those had been extracted.

    The old one goes once the new one is whole; interrupted, the same call goes on.

    Args:
        feature_set: keeps several layers.
        names: those to keep, as :func:`kept_layers` returns them.
        context: receives events, and says when to stop.

    Raises:
        CacheError: a shard is damaged, or the cache cannot be written.
        Interrupted: ``context.should_stop`` returned True; the old feature set is still there.
    """
    layers = tuple(names)
    if layers == feature_set.layers:
        return feature_set
    planes = [feature_set.layers.index(name) for name in layers]
    smaller = start_feature_set(feature_set.folder.parent, replace(feature_set.spec, layers=layers))
    task, paths = f"prune {feature_set.folder.name}", feature_set.shard_paths
    context.listener(Event("start", task, total=len(paths)))
    for number, path in enumerate(paths, 1):
        if context.should_stop():
            raise Interrupted("prune: stopped; nothing was removed, the same command goes on")
        if not shard_path(smaller.folder, task_of(path)).exists():
            publish_shard(smaller, task_of(path), _with_planes(path, feature_set, planes))
        context.listener(Event("advance", task, number, len(paths)))
    smaller = FeatureSet(smaller.folder)
    adopt_failures(feature_set, smaller)
    if lacking := smaller.missing(list(feature_set.ids)):
        raise CacheError(f"{smaller.folder}: lacks '{lacking[0]}' still; {feature_set.folder} was kept")
    remove_feature_set(feature_set)
    context.listener(Event("finish", task, len(paths), len(paths)))
    return smaller


def keep_utterances(feature_set: FeatureSet, ids: Collection[str]) -> int:
    """Drop every utterance that is not among ``ids``; return how many were dropped.

    Raises:
        CacheError: a shard is damaged, or the cache cannot be written.
    """
    unwanted = set(feature_set.ids) - set(ids)
    if unwanted:
        drop_utterances(feature_set, unwanted)
    return len(unwanted)


def remove_feature_set(feature_set: FeatureSet) -> None:
    """Remove a feature set; a kill in between leaves a renamed one to :func:`remove_leftovers`.

    Raises:
        CacheError: it cannot be removed.
    """
    folder = feature_set.folder
    aside = folder.with_name(f".{folder.name}{_REMOVED}")
    try:
        if aside.exists():
            shutil.rmtree(aside)
        folder.rename(aside)
        shutil.rmtree(aside)
    except OSError as error:
        raise cannot_write(folder, error) from error


def remove_leftovers(cache_root: Path) -> None:
    """Remove the folders that a killed removal left behind."""
    for path in cache_root.glob(f".*{_REMOVED}"):
        shutil.rmtree(path, ignore_errors=True)


def _with_planes(path: Path, feature_set: FeatureSet, planes: list[int]) -> list[StoredUtterance]:
    index, content = read_whole(path, feature_set.spec)
    kept = []
    for utterance, is_intact in index.utterances(content, feature_set.spec):
        if not is_intact:
            raise CacheError(f"{path}: the frames of '{utterance.id}' are damaged; run sercache cache repair")
        kept.append(replace(utterance, frames=tuple(utterance.frames[plane] for plane in planes)))
    return kept
