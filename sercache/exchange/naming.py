"""File names for utterances: ids are data, and may hold slashes, dots or anything else."""

import re
from collections.abc import Iterable

import xxhash

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def file_names(ids: Iterable[str]) -> dict[str, str]:
    """Return a safe name for every id, all different even where case does not count.

    An id that is a safe name keeps it; another one is cleaned and gets a digest of itself.

    >>> [name[:11] for name in file_names(["clip-1", "../etc/passwd", "CLIP-1"]).values()]
    ['clip-1', 'etc-passwd-', 'CLIP-1-d1c9']
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for utterance_id in ids:
        name = utterance_id
        if not _SAFE.fullmatch(name) or name.endswith(".") or name.lower() in taken:
            cleaned = re.sub(r"[^A-Za-z0-9_]+", "-", utterance_id).strip("-")[:60]
            name = f"{cleaned}-{xxhash.xxh3_64_hexdigest(utterance_id.encode())}".lstrip("-")
        taken.add(name.lower())
        names[utterance_id] = name
    return names
