"""The first 512 bytes of our HDF5 files: what the file should be, told before the HDF5 library parses it.

Every HDF5 reader skips this user block. It is JSON with the size of the file and the digest of what follows,
so that damage is found first: some damaged files make the HDF5 library loop for ever.
"""

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import xxhash

from sercache.cache.fingerprint import FORMAT_VERSION
from sercache.errors import CacheError

USER_BLOCK_BYTES = 512
_CHUNK_BYTES = 1 << 20


def user_block(
    kind: str, size_bytes: int, covered: Iterable[memoryview | bytes], covered_bytes: int
) -> bytes:
    """Return the user block of a file.

    Args:
        kind: what the file is: ``shard``, ``index``.
        size_bytes: how long the whole file is.
        covered: what the digest covers, in pieces: all that follows the user block, or the begin of it.
        covered_bytes: how long that is together.
    """
    digest = xxhash.xxh3_128(f"{size_bytes} {covered_bytes}".encode())
    for piece in covered:
        digest.update(piece)
    stated = {
        "format": f"sercache {kind} {FORMAT_VERSION}",
        "size_bytes": size_bytes,
        "metadata_bytes": covered_bytes,
        "xxh3_128": digest.hexdigest(),
    }
    return json.dumps(stated).encode().ljust(USER_BLOCK_BYTES - 1) + b"\n"


def check_user_block(kind: str, path: Path, stream: BinaryIO) -> int:
    """Compare an open file with its user block; returns how long the file should be.

    Raises:
        CacheError: the file is damaged, truncated within what the digest covers, or of another kind.
    """
    rest_bytes = stream.seek(0, io.SEEK_END) - USER_BLOCK_BYTES
    stream.seek(0)
    block = stream.read(USER_BLOCK_BYTES)
    try:
        stated = json.loads(block)
        format_name, size_bytes = str(stated["format"]), int(stated["size_bytes"])
        covered_bytes = int(stated["metadata_bytes"])
    except (ValueError, KeyError, TypeError) as error:
        raise CacheError(f"{path}: damaged, or no {kind} (its first {USER_BLOCK_BYTES} bytes)") from error
    if not 0 <= covered_bytes <= rest_bytes:
        raise CacheError(f"{path}: truncated within its metadata")
    if format_name != f"sercache {kind} {FORMAT_VERSION}":
        raise CacheError(f"{path}: is '{format_name}'; this version reads format {FORMAT_VERSION}")
    if block != user_block(kind, size_bytes, _pieces(stream, covered_bytes), covered_bytes):
        raise CacheError(f"{path}: its metadata are damaged (digest does not match)")
    return size_bytes


def _pieces(stream: BinaryIO, size_bytes: int) -> Iterator[bytes]:
    """Yield the next ``size_bytes`` of a stream in pieces that stay in the processor's cache."""
    while size_bytes > 0 and (piece := stream.read(min(size_bytes, _CHUNK_BYTES))):
        size_bytes -= len(piece)
        yield piece
