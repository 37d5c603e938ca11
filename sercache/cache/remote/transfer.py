"""Push a cache to an object store, and pull it back."""

import json
from dataclasses import dataclass
from pathlib import Path

import xxhash

from sercache.cache.remote.bucket import SMALL_FILES, Bucket, Commit
from sercache.cache.shard import USER_BLOCK_BYTES
from sercache.cache.store import DESCRIPTION_NAME, Cache, FeatureSet
from sercache.errors import CacheError, Interrupted
from sercache.events import QUIET, Context, Event
from sercache.files import write_atomically

_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Transfer:
    """The result of a transfer: shards moved, their bytes, and shards that were there before."""

    shards: int
    size_bytes: int
    were_there: int


def push(root: Path, url: str, *, context: Context = QUIET) -> Transfer:
    """Upload what an object store lacks of a cache; several machines may push their parts at once.

    Args:
        root: folder of the cache.
        url: where it goes.
        context: receives events, and says when to stop.

    Raises:
        CacheError: the store holds something else there, or does not take it.
        Interrupted: ``context.should_stop`` returned True; the same call goes on from there.
    """
    bucket, feature_sets = Bucket(url), Cache(root).feature_sets()
    if not feature_sets:
        raise CacheError(f"{root}: no cache, there is no feature set in it")
    moved, size, there = 0, 0, 0
    for feature_set in feature_sets:
        name = feature_set.folder.name
        _write_description(bucket, feature_set)
        known = bucket.commits(name)
        paths = feature_set.shard_paths
        context.listener(Event("start", name, total=len(paths)))
        for number, path in enumerate(paths, start=1):
            if context.should_stop():
                raise Interrupted(
                    f"stopped; {moved} shards are in {url}, the same command goes on from there"
                )
            commit = commit_of(path)
            if known.get(path.name) == commit:
                there += 1
            else:
                bucket.publish(name, path, commit)
                moved, size = moved + 1, size + commit.size_bytes
            context.listener(Event("advance", name, number, len(paths)))
        for small in SMALL_FILES[1:]:
            if (feature_set.folder / small).exists():
                bucket.write(name, small, (feature_set.folder / small).read_bytes())
        context.listener(Event("finish", name, len(paths), len(paths)))
    return Transfer(moved, size, there)


def pull(url: str, root: Path, *, context: Context = QUIET) -> Transfer:
    """Download what a cache lacks of an object store; arguments and errors are those of :func:`push`."""
    bucket = Bucket(url)
    moved, size, there = 0, 0, 0
    for name in feature_set_names(bucket):
        folder = root / name
        commits = bucket.commits(name)
        context.listener(Event("start", name, total=len(commits)))
        for number, (shard, commit) in enumerate(sorted(commits.items()), start=1):
            if context.should_stop():
                raise Interrupted(
                    f"stopped; {moved} shards are in {root}, the same command goes on from there"
                )
            path = folder / shard
            if path.exists() and path.stat().st_size == commit.size_bytes and _digest(path) == commit.digest:
                there += 1
            else:
                write_atomically(path, fetch_checked(bucket, name, commit))
                moved, size = moved + 1, size + commit.size_bytes
            context.listener(Event("advance", name, number, len(commits)))
        copy_small_files(bucket, name, folder)
        context.listener(Event("finish", name, len(commits), len(commits)))
    return Transfer(moved, size, there)


def feature_set_names(bucket: Bucket) -> list[str]:
    """Return the names of a bucket's feature sets.

    Raises:
        CacheError: it has none.
    """
    names = bucket.feature_sets()
    if not names:
        raise CacheError(f"{bucket.url}: holds no cache; sercache cache push CACHE {bucket.url} makes one")
    return names


def fetch_checked(bucket: Bucket, feature_set: str, commit: Commit) -> bytes:
    """Fetch a shard, and compare it with its commit.

    Raises:
        CacheError: it is not what was pushed.
    """
    content = bucket.fetch(feature_set, commit)
    if len(content) != commit.size_bytes or xxhash.xxh3_128_hexdigest(content) != commit.digest:
        raise CacheError(
            f"{bucket.url}/{feature_set}: {commit.object_name} is not what was pushed; push it again"
        )
    return content


def copy_small_files(bucket: Bucket, feature_set: str, folder: Path) -> None:
    """Write what lies beside the shards, the description last: only then there is a feature set."""
    for small in reversed(SMALL_FILES):
        content = bucket.read(feature_set, small)
        if content is not None:
            write_atomically(folder / small, content)


def _digest(path: Path) -> str:
    """Return the xxh3-128 of a file."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def commit_of(path: Path) -> Commit:
    """Return the commit of a shard."""
    found = _digest(path)
    with path.open("rb") as stream:
        head = stream.read(USER_BLOCK_BYTES)
    try:
        head_bytes = USER_BLOCK_BYTES + int(json.loads(head)["metadata_bytes"])
    except (ValueError, KeyError, TypeError) as error:
        raise CacheError(f"{path}: damaged (its first {USER_BLOCK_BYTES} bytes); not pushed") from error
    name = f"{path.stem}-{found[:12]}{path.suffix}"
    return Commit(path.name, name, path.stat().st_size, head_bytes, found)


def _write_description(bucket: Bucket, feature_set: FeatureSet) -> None:
    """Write a feature set's description, or make sure that it is this one's."""
    name, description = feature_set.folder.name, (feature_set.folder / DESCRIPTION_NAME).read_bytes()
    there = bucket.read(name, DESCRIPTION_NAME)
    if there is None:
        bucket.write(name, DESCRIPTION_NAME, description)
    elif json.loads(there)["fingerprint"] != feature_set.spec.fingerprint:
        raise CacheError(f"{bucket.url}/{name}: holds another feature set; push to another URL")
