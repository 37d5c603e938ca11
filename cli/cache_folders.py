"""Which feature sets a path on the command line means."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sercache.cache.store import FeatureSet


def describe_feature_set(feature_set: "FeatureSet") -> dict[str, object]:
    """Return what ``--json`` says of a feature set."""
    from sercache.cache.ledger import Ledger

    return {
        "folder": feature_set.folder,
        "fingerprint": feature_set.spec.fingerprint,
        "utterances": len(feature_set),
        "failed": len(Ledger(feature_set.folder).failures),
        "seconds": feature_set.seconds,
        "size_bytes": feature_set.size_bytes,
        "shards": len(feature_set.shard_paths),
        **feature_set.spec.provenance(),
    }


def open_feature_sets(path: Path, *, only_one: bool = False) -> "list[FeatureSet]":
    """Return the feature set that lies at ``path``, or all of the cache that does.

    Raises:
        CacheError: there is none, or there are several where only one can be meant.
    """
    from sercache.cache.store import DESCRIPTION_NAME, Cache, FeatureSet
    from sercache.errors import CacheError

    if (path / DESCRIPTION_NAME).exists():
        return [FeatureSet(path)]
    feature_sets = Cache(path).feature_sets()
    if not feature_sets:
        raise CacheError(f"{path}: neither a cache nor a feature set; sercache extract makes one")
    if only_one and len(feature_sets) > 1:
        names = ", ".join(feature_set.folder.name for feature_set in feature_sets)
        raise CacheError(f"{path}: holds {len(feature_sets)} feature sets, name one of them: {names}")
    return feature_sets
