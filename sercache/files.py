"""Read and write files: a file is written whole or not at all."""

import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

TEMPORARY_SUFFIX = ".tmp"


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write ``content`` to ``path``: a crash, a full disk or a power cut leaves the old file or the new one.

    Temporary name in the same folder, fsync, rename, fsync of the folder. Parent folders are made. The
    temporary file is locked while its writer lives; :func:`remove_stale_temporaries` goes by that.

    Raises:
        OSError: the disk is full or the folder is not writable; the temporary file is gone by then.
    """
    with new_file(path) as temporary, temporary.open("wb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside ``path``, and give it that name when the block ends without an error.

    The content is on the disk before the file has its name. After an error the temporary file is removed.

    Raises:
        OSError: the disk is full or the folder is not writable.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, stream = _open_temporary(path)
    with stream:
        try:
            yield temporary
            os.fsync(stream.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    _fsync_folder(path.parent)


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """Write lines as they come, and give the file its name when they end; return how many there were.

    If they end in an error, those that came are kept under that name all the same: they took long.

    Raises:
        OSError: the disk is full or the folder is not writable.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, stream = _open_temporary(path)
    count = 0
    with stream:
        try:
            for line in lines:
                stream.write(f"{line}\n".encode())
                count += 1
        finally:
            if count:
                stream.flush()
                os.fsync(stream.fileno())
                temporary.replace(path)
            else:
                temporary.unlink(missing_ok=True)
    _fsync_folder(path.parent)
    return count


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock: processes that change a file in it do so one after another.

    File systems without locks, and Windows, go on without one.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys, atomically."""
    write_atomically(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def without_nan(value: Any) -> Any:
    """Return a JSON value: None for NaN and infinity, text for a path.

    >>> without_nan({"score": float("nan"), "rows": (1, 2)})
    {'score': None, 'rows': [1, 2]}
    """
    if isinstance(value, dict):
        return {key: without_nan(nested) for key, nested in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(nested) for nested in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def read_json(path: Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def remove_stale_temporaries(folder: Path) -> None:
    """Remove temporary files of killed writers in ``folder``; those of running writers stay.

    A lock tells them apart, in whatever container the writer lives: process ids are other ones there. A file
    that cannot be locked or removed (a read-only folder, a file system without locks) stays as well.
    """
    if fcntl is None:
        return
    for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        if not re.search(r"\.\d+\.[0-9a-f]{8}\.tmp$", path.name):
            continue
        with suppress(OSError), path.open("r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def slug(text: str) -> str:
    """Return ``text`` as one safe path component, for people to read; never use it as a key.

    >>> slug("microsoft/wavlm-large"), slug("../../etc")
    ('microsoft-wavlm-large', 'etc')
    """
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")[:64] or "unnamed"


def _open_temporary(path: Path) -> tuple[Path, BinaryIO]:
    """Make and lock a new file beside ``path``."""
    while True:
        temporary = path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
        stream = temporary.open("xb")
        if fcntl is None:
            return temporary, stream
        with suppress(OSError):  # where there are no locks, nobody removes temporaries either
            fcntl.flock(stream, fcntl.LOCK_EX)
        if os.fstat(stream.fileno()).st_nlink > 0:  # else it was taken for stale before it was locked
            return temporary, stream
        stream.close()


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(folder: Path) -> int:
    """Return the free bytes on the disk of a folder, which need not exist."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free


_SAMPLE_FILES = ("corpus.csv", "recipe.yaml", "README.md")


def copy_sample(folder: Path) -> Path:
    """Copy the bundled sample corpus (``data/README.md``) into ``folder``; return the path of its recipe.

    Files with the same content are left alone; a recipe that was changed is kept.
    """
    recipe_path = folder / "recipe.yaml"
    with as_file(files("sercache.data")) as sample:
        sources = [sample / name for name in _SAMPLE_FILES] + sorted((sample / "audio").glob("*.ogg"))
        for source in sources:
            target = folder / source.relative_to(sample)
            if target == recipe_path and target.exists():
                continue
            content = source.read_bytes()
            if not target.exists() or target.read_bytes() != content:
                write_atomically(target, content)
    return recipe_path
