"""A cache in an object store, through fsspec: shards become visible only when they are complete.

::

    URL/<feature set>/feature_set.json             as on disk
    URL/<feature set>/failures.csv                 as on disk, of the last push
    URL/<feature set>/objects/<shard>-<digest>.h5  the shard; an upload that was killed leaves at most this
    URL/<feature set>/commits/<shard>.json         names that object, its size and digest; written last

A shard is there once its commit object is. An object store replaces an object whole or not at all, so readers
see a shard or none, and one that is rewritten changes from the old to the new at once.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from sercache.cache.ledger import LEDGER_NAME
from sercache.cache.store import DESCRIPTION_NAME
from sercache.errors import CacheError

_SHARD_NAME = re.compile(r"shard-[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}\.h5")
_MAX_BYTES = 1 << 42
_LIBRARIES = ("aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "huggingface_hub", "s3fs")


@dataclass(frozen=True, slots=True)
class Commit:
    """The content of a commit object.

    Attributes:
        shard: name of the shard's file.
        object_name: of the object that holds it.
        size_bytes: its size.
        head_bytes: size of its head, the user block and the metadata.
        digest: xxh3-128 of all of it.
    """

    shard: str
    object_name: str
    size_bytes: int
    head_bytes: int
    digest: str

    @classmethod
    def parse(cls, content: object) -> "Commit":
        """Return the commit that a JSON value states.

        Whoever wrote it may be a stranger, and its names become paths: only plain file names of shards pass.

        Raises:
            ValueError: a key is missing or unknown, a name is no shard's, or a number is out of range.
        """
        if not isinstance(content, dict) or content.keys() != set(cls.__slots__):
            raise ValueError(f"its keys are not {', '.join(cls.__slots__)}")
        for key in ("shard", "object_name"):
            if not isinstance(content[key], str) or not _SHARD_NAME.fullmatch(content[key]):
                raise ValueError(f"{key} {content[key]!r} is not the file name of a shard")
        sizes = content["head_bytes"], content["size_bytes"]
        if not all(type(size) is int for size in sizes) or not 0 < sizes[0] <= sizes[1] < _MAX_BYTES:
            raise ValueError(f"head_bytes and size_bytes are {sizes[0]!r} and {sizes[1]!r}")
        if not isinstance(content["digest"], str):
            raise ValueError("digest is no text")
        return cls(**content)


class Bucket:
    """A folder of an object store that holds a cache.

    Args:
        url: ``s3://bucket/prefix``, ``gs://...``, ``hf://...``: whatever fsspec has a driver for.

    Raises:
        CacheError: there is no driver for it.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        self.url = url.rstrip("/")
        with self._errors_translated():
            # What was listed before may have changed since: another process pushes.
            self._files, path = url_to_fs(self.url, use_listings_cache=False)
        if isinstance(self._files, LocalFileSystem):
            self._files.auto_mkdir = True  # object stores have no folders to make
        self._root = path.rstrip("/")

    def feature_sets(self) -> list[str]:
        """Return the names of the feature sets' folders."""
        with self._errors_translated():
            found = self._files.glob(f"{self._root}/*/{DESCRIPTION_NAME}")
        names = sorted(path.split("/")[-2] for path in found)
        for name in names:
            if name in ("", ".", "..") or "\\" in name or Path(name).name != name:
                raise CacheError(f"{self.url}: {name!r} is not the name of a feature set's folder")
        return names

    def commits(self, feature_set: str) -> dict[str, Commit]:
        """Return the commits of a feature set, by the shard's name.

        Raises:
            CacheError: a commit object is not one, or the store does not answer.
        """
        folder = f"{self._root}/{feature_set}/commits"
        with self._errors_translated():
            paths = self._files.glob(f"{folder}/*.json")
            contents = self._files.cat(paths) if paths else {}
        try:
            found = [Commit.parse(json.loads(content)) for content in contents.values()]
        except (ValueError, RecursionError) as error:
            raise CacheError(f"{self.url}/{feature_set}/commits: damaged ({error})") from error
        return {commit.shard: commit for commit in found}

    def publish(self, feature_set: str, path: Path, commit: Commit) -> None:
        """Upload a shard, and make it visible once all of it is there.

        Raises:
            CacheError: the store does not take it; nothing is visible then.
        """
        folder = f"{self._root}/{feature_set}"
        target = f"{folder}/objects/{commit.object_name}"
        with self._errors_translated():
            self._files.put_file(str(path), target)
            size = self._files.info(target)["size"]
        if size != commit.size_bytes:
            raise CacheError(
                f"{self.url}/{feature_set}: {commit.shard} arrived with {size:,} bytes; push again"
            )
        with self._errors_translated():
            self._files.pipe_file(
                f"{folder}/commits/{commit.shard}.json", json.dumps(asdict(commit)).encode()
            )

    def fetch(self, feature_set: str, commit: Commit, end: int | None = None) -> bytes:
        """Return a shard, or its first ``end`` bytes.

        Raises:
            CacheError: it is not there, or the store does not answer.
        """
        path = f"{self._root}/{feature_set}/objects/{commit.object_name}"
        with self._errors_translated():
            content: bytes = self._files.cat_file(path, start=None if end is None else 0, end=end)
        return content

    def write(self, feature_set: str, name: str, content: bytes) -> None:
        """Write a small file beside the shards."""
        with self._errors_translated():
            self._files.pipe_file(f"{self._root}/{feature_set}/{name}", content)

    def read(self, feature_set: str, name: str) -> bytes | None:
        """Return a small file; None where there is none."""
        path = f"{self._root}/{feature_set}/{name}"
        with self._errors_translated():
            if not self._files.exists(path):
                return None
            content: bytes = self._files.cat_file(path)
            return content

    @contextmanager
    def _errors_translated(self) -> Iterator[None]:
        """Turn the exceptions of stores into a CacheError of one line."""
        try:
            yield
        except CacheError:
            raise
        except Exception as error:
            library = type(error).__module__.partition(".")[0]
            if not isinstance(error, OSError | ValueError | ImportError) and library not in _LIBRARIES:
                raise
            message = (str(error).splitlines() or [type(error).__name__])[0]
            hint = " (pip install 'sercache[s3]')" if isinstance(error, ImportError) else ""
            raise CacheError(f"{self.url}: {message or type(error).__name__}{hint}") from error


SMALL_FILES = (DESCRIPTION_NAME, LEDGER_NAME)
"""The files of a feature set that are transferred with its shards."""
