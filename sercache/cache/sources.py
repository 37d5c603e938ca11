"""The source of an utterance's frames, and whether the corpus still holds the same."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import xxhash

from sercache.cache.fingerprint import Modality
from sercache.corpus import Corpus, Utterance

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """The audio or text that frames were computed from.

    Attributes:
        digest: xxh3-128 of the audio file's bytes, or of the text in UTF-8; 32 hexadecimal digits.
        size_bytes: their number of bytes.
        span: start and end in seconds within the audio file, None where it is not cut.
    """

    digest: str
    size_bytes: int
    span: tuple[float | None, float | None] = (None, None)


def read_source(corpus: Corpus, utterance: Utterance, modality: Modality) -> Source:
    """Return an utterance's source as it is now; an audio file is read to its end.

    Raises:
        OSError: the audio file cannot be read.
        CorpusError: the utterance has no audio.
    """
    if modality == "text":
        text = (utterance.text or "").encode()
        return Source(xxhash.xxh3_128_hexdigest(text), len(text))
    path = corpus.audio_path(utterance)
    status = path.stat()
    digest = _file_digest(path, status.st_size, status.st_mtime_ns)
    return Source(digest, status.st_size, (utterance.start_seconds, utterance.end_seconds))


def has_changed(stored: Source, corpus: Corpus, utterance: Utterance, modality: Modality) -> bool:
    """Return whether an utterance differs from a stored source: in text, or in its span or its file's size.

    Audio that is no longer there, or never was, has not changed: its features stay good.
    """
    if modality == "text":
        return utterance.text is not None and read_source(corpus, utterance, modality) != stored
    if utterance.audio is None:
        return False
    try:
        size = corpus.audio_path(utterance).stat().st_size
    except OSError:
        return False
    return (size, (utterance.start_seconds, utterance.end_seconds)) != (stored.size_bytes, stored.span)


@lru_cache(maxsize=256)
def _file_digest(path: Path, size_bytes: int, modified_ns: int) -> str:
    """Return a file's digest, cached by size and time: many segments may be cut from one long recording."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
