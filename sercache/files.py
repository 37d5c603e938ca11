"""The one way in which files reach the disk: whole, or not at all."""

import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

TEMPORARY_SUFFIX = ".tmp"


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write ``content`` to ``path``: a crash, a full disk or a power cut leaves the old file or the new one.

    Temporary name in the same folder, fsync, rename, fsync of the folder. Parent folders are made.

    Raises:
        OSError: the disk is full or the folder is not writable; the temporary file is gone by then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    try:
        with temporary.open("xb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync_folder(path.parent)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock: of several processes that change one file in it, one after the other does.

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


def read_json(path: Path) -> Any:
    """Return what a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def remove_stale_temporaries(folder: Path) -> None:
    """Remove what writers that died in ``folder`` left behind; a living writer's file stays."""
    for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        match = re.search(r"\.(\d+)\.[0-9a-f]{8}\.tmp$", path.name)
        if match and not _is_running(int(match[1])):
            path.unlink(missing_ok=True)


def slug(text: str) -> str:
    """Return ``text`` as one safe path component, for people to read; never use it as a key.

    >>> slug("microsoft/wavlm-large"), slug("../../etc")
    ('microsoft-wavlm-large', 'etc')
    """
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")[:64] or "unnamed"


def _is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
