"""Merge caches that were made on several machines."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash

from sercache.cache.ledger import Ledger
from sercache.cache.shard import StoredUtterance, read_whole
from sercache.cache.store import Cache, FeatureSet, shard_path, task_of
from sercache.cache.writer import cannot_write, publish_shard, start_feature_set
from sercache.errors import CacheError, Interrupted
from sercache.events import QUIET, Context, Event


@dataclass(frozen=True, slots=True)
class Merged:
    """The result for a feature set.

    Attributes:
        feature_set: as it is now, in the target.
        added: how many utterances were added to it.
        known: how many it had already, with the same frames.
    """

    feature_set: FeatureSet
    added: int
    known: int


def merge(
    target: Path,
    sources: Sequence[Path],
    *,
    context: Context = QUIET,
) -> list[Merged]:
    """Copy everything in the source caches into the target; the sources are not changed.

    All frames are compared with their checksums on the way. Utterances that several caches hold must have
    the same frames, made from the same audio or text. A success beats a failure. Where it was interrupted,
    the same call goes on.

    Raises:
        CacheError: two caches hold different frames of one utterance (nothing was changed then), a shard is
            damaged, a source holds no feature set, or the target cannot be written.
        Interrupted: ``context.should_stop`` returned True.
    """
    pairs = []
    for source in sources:
        if source.resolve() == target.resolve():
            raise CacheError(f"{source}: cannot be merged into itself")
        found = Cache(source).feature_sets()
        if not found:
            raise CacheError(f"{source}: holds no feature sets")
        pairs += [(feature_set, start_feature_set(target, feature_set.spec)) for feature_set in found]
    for feature_set, into in pairs:
        _refuse_conflicts(feature_set, into)
    _refuse_conflicts_between([feature_set for feature_set, _ in pairs])
    return [_merge_feature_set(source, target, context) for source, _ in pairs]


def _refuse_conflicts(feature_set: FeatureSet, other: FeatureSet) -> None:
    """Raise a CacheError where two feature sets hold different frames or sources of one utterance."""
    ids = list(feature_set.ids)
    lacking = set(other.missing(ids))
    shared = [utterance_id for utterance_id in ids if utterance_id not in lacking]
    if not shared:
        return
    checksums = zip(
        feature_set.locate(shared).checksums.tolist(), other.locate(shared).checksums.tolist(), strict=True
    )
    for utterance_id, (here, there) in zip(shared, checksums, strict=True):
        if feature_set.source(utterance_id) != other.source(utterance_id):
            what = "was made from other audio or text"
        elif here != there:
            what = "has other frames"
        else:
            continue
        raise CacheError(
            f"utterance '{utterance_id}' {what} in {feature_set.folder} than in {other.folder}; "
            "nothing was merged: extract it again in one of them (--replace-changed), or prune it"
        )


def _refuse_conflicts_between(feature_sets: Sequence[FeatureSet]) -> None:
    for index, feature_set in enumerate(feature_sets):
        for other in feature_sets[:index]:
            if feature_set.spec == other.spec:
                _refuse_conflicts(feature_set, other)


def _merge_feature_set(source: FeatureSet, target: Path, context: Context) -> Merged:
    into = start_feature_set(target, source.spec)
    added = known = 0
    paths = source.shard_paths
    task = f"merge {source.folder}"
    context.listener(Event("start", task, total=len(paths)))
    for number, path in enumerate(paths, 1):
        if context.should_stop():
            raise Interrupted("merge: stopped; what was merged is in the target, the same command goes on")
        index, content = read_whole(path, source.spec)
        new = set(into.missing(index.ids))
        kept: list[StoredUtterance] = []
        for utterance, is_intact in index.utterances(content, source.spec):
            if not is_intact:
                raise CacheError(
                    f"{path}: the frames of '{utterance.id}' are damaged; run sercache cache repair"
                )
            if utterance.id in new:
                kept.append(utterance)
        is_whole = len(kept) == len(index.ids)
        name = task_of(path) if is_whole else _name(kept)
        if kept or (is_whole and not shard_path(into.folder, name).exists()):
            publish_shard(into, name, kept)
        added, known = added + len(kept), known + len(index.ids) - len(kept)
        context.listener(Event("advance", task, number, len(paths), values={"added": f"{added:,}"}))
    merged = FeatureSet(into.folder)
    adopt_failures(source, merged)
    context.listener(Event("finish", task, len(paths), len(paths)))
    return Merged(merged, added, known)


def adopt_failures(source: FeatureSet, target: FeatureSet, among: Collection[str] | None = None) -> None:
    """Bring the failures of one feature set into another's ledger; what has frames there has not failed.

    Args:
        source: whose failures.
        target: where they go.
        among: only those of these utterances; None for all.

    Raises:
        CacheError: the ledger cannot be written.
    """
    ledger = Ledger(target.folder)
    for failure in Ledger(source.folder).failures.values():
        if failure.utterance not in target and (among is None or failure.utterance in among):
            ledger.adopt(failure)
    for utterance_id in [failed for failed in ledger.failures if failed in target]:
        ledger.forget(utterance_id)
    try:
        ledger.save()
    except OSError as error:
        raise cannot_write(ledger.path, error) from error


def _name(utterances: Sequence[StoredUtterance]) -> str:
    """Return a task's name for a part of another shard: always the same for the same utterances."""
    digest = xxhash.xxh3_64()
    for utterance in utterances:
        digest.update(f"{utterance.id}\0".encode())
    return digest.hexdigest()[:12]
