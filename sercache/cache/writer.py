"""The write side of the cache: a feature set's description and its shards, each published whole."""

from collections.abc import Collection, Sequence
from pathlib import Path

from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.shard import StoredUtterance, build_shard, read_whole
from sercache.cache.store import DESCRIPTION_NAME, FeatureSet, refuse_mirror, shard_path, task_of
from sercache.errors import CacheError
from sercache.files import write_atomically, write_json


def start_feature_set(cache_root: Path, spec: FeatureSpec) -> FeatureSet:
    """Open the feature set of ``spec`` in a cache; make its folder and description where there is none.

    Raises:
        CacheError: the folder holds something else, or cannot be written.
    """
    folder = cache_root / spec.folder_name
    refuse_mirror(folder)
    if not (folder / DESCRIPTION_NAME).exists():
        try:
            write_json(folder / DESCRIPTION_NAME, spec.provenance() | {"fingerprint": spec.fingerprint})
        except OSError as error:
            raise cannot_write(folder, error) from error
    feature_set = FeatureSet(folder)
    if feature_set.spec != spec:
        raise CacheError(f"{folder}: holds another feature set with the same 12 digits of its fingerprint")
    return feature_set


def publish_shard(feature_set: FeatureSet, task: str, utterances: Sequence[StoredUtterance]) -> None:
    """Write the shard of one task, atomically.

    Raises:
        CacheError: the disk is full, the folder is not writable, or it is a mirror; what was published
            before is untouched.
    """
    refuse_mirror(feature_set.folder)
    content = build_shard(utterances, feature_set.spec)
    path = shard_path(feature_set.folder, task)
    try:
        write_atomically(path, content)
    except OSError as error:
        raise cannot_write(path, error) from error


def drop_utterances(feature_set: FeatureSet, ids: Collection[str]) -> None:
    """Rewrite the shards that hold any of ``ids`` without them; open the feature set anew afterwards.

    Raises:
        CacheError: a shard is damaged; it is left as it is, a rewrite would give its damage a new checksum.
    """
    unwanted = set(ids)
    for path in feature_set.shards_with(unwanted):
        index, content = read_whole(path, feature_set.spec)
        kept = []
        for utterance, is_intact in index.utterances(content, feature_set.spec):
            if utterance.id in unwanted:
                continue
            if not is_intact:
                raise CacheError(
                    f"{path}: the frames of '{utterance.id}' are damaged; run sercache cache verify"
                )
            kept.append(utterance)
        publish_shard(feature_set, task_of(path), kept)


def cannot_write(path: Path, error: OSError) -> CacheError:
    """Return the one line that a full disk or a read-only cache deserves."""
    return CacheError(
        f"{path}: cannot be written ({error.strerror}); "
        "finished shards are kept, the same command goes on from there"
    )
