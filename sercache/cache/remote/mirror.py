"""A cache whose shards come from an object store when they are read: a folder that looks like all of it.

A shard that is not here is a file without frames: as long as the whole, its head in place, the rest a hole.
So the feature set opens as any other, and no format knows of mirrors. ``.mirror/absent-<shard>`` marks such a
file. The shards that are here take at most so many bytes; those that were read longest ago make room.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sercache.cache.remote.bucket import Bucket, Commit
from sercache.cache.remote.transfer import copy_small_files, feature_set_names, fetch_checked
from sercache.cache.store import MIRROR_NAME, Cache
from sercache.errors import CacheError, Interrupted
from sercache.events import QUIET, Context, Event
from sercache.files import TEMPORARY_SUFFIX, locked, read_json, write_json

_STATE = MIRROR_NAME
_ORIGIN = "origin.json"


@dataclass(frozen=True, slots=True)
class Mirror:
    """The content of a mirror: feature sets, their shards, and the size of the whole cache."""

    feature_sets: int
    shards: int
    size_bytes: int


def make_mirror(
    url: str,
    root: Path,
    limit_bytes: int,
    *,
    context: Context = QUIET,
) -> Mirror:
    """Make a mirror, or bring it up to date: of every shard the head is fetched, some hundred bytes an
    utterance.

    Args:
        url: where the cache is.
        root: the mirror's folder, which is read as any cache.
        limit_bytes: most bytes of shards that are kept here.
        context: receives events, and says when to stop.

    Raises:
        CacheError: there is no cache, or the store does not answer.
        Interrupted: ``context.should_stop`` returned True.
    """
    bucket, shards, size = Bucket(url), 0, 0
    names = feature_set_names(bucket)
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        commits = bucket.commits(name)
        folder = root / name
        context.listener(Event("start", name, total=len(commits)))
        (folder / _STATE).mkdir(parents=True, exist_ok=True)
        write_json(folder / _STATE / _ORIGIN, {"url": url, "limit_bytes": limit_bytes})
        for number, (shard, commit) in enumerate(sorted(commits.items()), start=1):
            if context.should_stop():
                raise Interrupted("stopped before the mirror was complete; the same command goes on")
            commit_path = folder / _STATE / f"{shard}.json"
            known = _read_commit(commit_path) if commit_path.exists() else None
            if known != commit or not (folder / shard).exists():
                head = bucket.fetch(name, commit, commit.head_bytes)
                with locked(root):
                    write_json(commit_path, {key: getattr(commit, key) for key in Commit.__slots__})
                    _drop_frames(folder, commit, head, keep_time=False)
            shards, size = shards + 1, size + commit.size_bytes
            context.listener(Event("advance", name, number, len(commits)))
        copy_small_files(bucket, name, folder)
        context.listener(Event("finish", name, len(commits), len(commits)))
    return Mirror(len(names), shards, size)


@contextmanager
def fetched(folder: Path, shard: str) -> Iterator[None]:
    """Fetch a shard of a mirror, unless it is here, and keep it while it is opened.

    A shard that is open stays readable when its file makes room for others.

    Raises:
        CacheError: the store does not answer, or holds something else.
    """
    state = folder / _STATE
    with locked(folder.parent):
        if (state / f"absent-{shard}").exists():
            commit = _read_commit(state / f"{shard}.json")
            origin = read_json(state / _ORIGIN)
            content = fetch_checked(_bucket(origin["url"]), folder.name, commit)
            _free_space(folder.parent, int(origin["limit_bytes"]) - commit.size_bytes)
            _replace(folder / shard, content, commit.size_bytes, keep_time=True)
            (state / f"absent-{shard}").unlink()
        (state / f"used-{shard}").touch()
        yield


def _read_commit(path: Path) -> Commit:
    """Return the commit that a mirror keeps beside a shard.

    Raises:
        CacheError: the file is missing or damaged.
    """
    try:
        return Commit.parse(read_json(path))
    except (OSError, ValueError, RecursionError) as error:
        raise CacheError(f"{path}: damaged ({error}); sercache cache mirror makes it anew") from error


def kept_bytes(root: Path) -> int:
    """Return the size of the shards that are here."""
    return sum(size for _, size, _ in _kept(root))


_bucket = lru_cache(maxsize=4)(Bucket)


def _kept(root: Path) -> list[tuple[int, int, Path]]:
    """Return when each shard that is here was read last, its size and its path."""
    return [
        (used.stat().st_mtime_ns, path.stat().st_size, path)
        for feature_set in Cache(root).feature_sets()
        for used in (feature_set.folder / _STATE).glob("used-*")
        for path in [feature_set.folder / used.name.removeprefix("used-")]
    ]


def _free_space(root: Path, limit_bytes: int) -> None:
    kept = sorted(_kept(root))
    total = sum(size for _, size, _ in kept)
    for _, size, path in kept:
        if total <= limit_bytes:
            return
        commit = Commit(**read_json(path.parent / _STATE / f"{path.name}.json"))
        with path.open("rb") as stream:
            head = stream.read(commit.head_bytes)
        _drop_frames(path.parent, commit, head, keep_time=True)
        total -= size


def _drop_frames(folder: Path, commit: Commit, head: bytes, *, keep_time: bool) -> None:
    """Replace a shard by a file without frames; the mark that it is absent is written first."""
    (folder / _STATE / f"absent-{commit.shard}").touch()
    _replace(folder / commit.shard, head, commit.size_bytes, keep_time=keep_time)
    (folder / _STATE / f"used-{commit.shard}").unlink(missing_ok=True)


def _replace(path: Path, content: bytes, size_bytes: int, *, keep_time: bool) -> None:
    """Replace a shard by the same one with or without frames; the index knows it by size and time."""
    if len(content) > size_bytes:
        raise CacheError(f"{path}: has more bytes than its commit object names, {size_bytes:,}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("xb") as stream:
            stream.write(content)
            stream.truncate(size_bytes)
        if keep_time:
            modified_ns = path.stat().st_mtime_ns
            os.utime(temporary, ns=(modified_ns, modified_ns))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
