"""Finding the recordings of a corpus below its folder."""

import re
from collections.abc import Sequence
from pathlib import Path

from sercache.errors import CorpusError

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aiff", ".aif")


def require_folder(root: Path) -> None:
    """Raise a CorpusError if ``root`` is not a folder."""
    if not root.is_dir():
        raise CorpusError(f"{root} is {'a file, not a folder' if root.exists() else 'not there'}")


def find_recordings(root: Path) -> dict[str, Path]:
    """Return the recordings below ``root`` by name without suffix, as paths relative to ``root``, sorted.

    Where one name lies there in several formats or places, the first of :data:`AUDIO_SUFFIXES` wins, then the
    path that sorts first: RAVDESS comes with a second copy of all files on some sites, CREMA-D as wav and
    mp3.
    """
    require_folder(root)
    paths = [path for path in root.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file()]
    paths.sort(key=lambda path: (AUDIO_SUFFIXES.index(path.suffix.lower()), path.as_posix()))
    by_name: dict[str, Path] = {}
    for path in paths:
        by_name.setdefault(path.stem, path.relative_to(root))
    return dict(sorted(by_name.items()))


def match_recordings(
    root: Path, pattern: re.Pattern[str], corpus: str, example: str
) -> list[tuple[str, re.Match[str]]]:
    """Return the recordings whose name is of ``pattern``: their path from ``root``, and the match.

    Raises:
        CorpusError: there is none.
    """
    recordings = find_recordings(root)
    matches = [(path.as_posix(), pattern.fullmatch(name)) for name, path in recordings.items()]
    found = [(path, match) for path, match in matches if match]
    if not found:
        raise CorpusError(f"{root} holds no recording of {corpus} (names like {example})")
    return found


def one_vote(classes: Sequence[str], label: str) -> tuple[float, ...]:
    """Return the votes of a single judge, here the actor who meant ``label``."""
    return tuple(float(name == label) for name in classes)
