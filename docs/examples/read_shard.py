"""Read a feature set by the specification of the cache format; sercache itself is not needed.

python read_shard.py CACHE/FEATURE_SET
"""

import hashlib
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash

USER_BLOCK_BYTES = 512
STORED_AS = {"float16": "<f2", "bfloat16": "<u2", "float32": "<f4"}


def read_description(folder: Path) -> dict[str, Any]:
    """Step 1: what the feature set is, and whether its description fits its fingerprint."""
    described = json.loads((folder / "feature_set.json").read_text(encoding="utf-8"))
    fingerprint = described.pop("fingerprint")
    assert described["format_version"] == 1, "another version of the format"
    canonical = json.dumps(described, sort_keys=True)  # ASCII; ", " and ": " between
    assert hashlib.sha256(canonical.encode()).hexdigest() == fingerprint, "the description was changed"
    return described | {"fingerprint": fingerprint}


def list_shards(folder: Path) -> list[Path]:
    """Step 2: the shards, by name; where an id is in several, the first one counts."""
    return sorted(folder.glob("shard-*.h5"))


def check_user_block(content: np.ndarray, kind: str) -> None:
    """Step 3: whether the file is whole, before HDF5 sees it."""
    block = content[:USER_BLOCK_BYTES].tobytes()
    stated = json.loads(block)
    size, covered = stated["size_bytes"], stated["metadata_bytes"]
    assert stated.get("format") == f"sercache {kind} 1", "another kind of file, or another version"
    assert size == len(content), "truncated"
    digest = xxhash.xxh3_128(f"{size} {covered}".encode())
    digest.update(content[USER_BLOCK_BYTES : USER_BLOCK_BYTES + covered].tobytes())
    assert digest.hexdigest() == stated["xxh3_128"], "its metadata are damaged"
    signature, _superblock = struct.unpack_from("<8sB", content, USER_BLOCK_BYTES)
    assert signature == b"\x89HDF\r\n\x1a\n"


def read_shard(path: Path, described: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Steps 4 to 6: yield ids and their frames, float32 ``(L, T, D)``."""
    content = np.memmap(path, np.uint8, "r")
    check_user_block(content, "shard")
    layers, dim, dtype = described["layers"], described["dim"], described["dtype"]
    names = ["frames"] if len(layers) == 1 else [f"frames/{layer}" for layer in layers]
    with h5py.File(path, "r") as shard:
        assert shard.attrs["fingerprint"].decode() == described["fingerprint"], "of another feature set"
        ids, id_ends = shard["ids"][:].tobytes(), shard["id_ends"][:].tolist()
        offsets, checksums = shard["offsets"][:].tolist(), shard["checksums"][:].tolist()
        positions = [shard[name].id.get_offset() for name in names]  # None where there are no frames
    frame_bytes = dim * np.dtype(STORED_AS[dtype]).itemsize
    for row, end in enumerate(id_ends):
        utterance_id = ids[id_ends[row - 1] if row else 0 : end].decode("utf-8")
        first, last = offsets[row], offsets[row + 1]
        digest, planes = xxhash.xxh3_64(), []
        for position in positions:
            begin = (position or 0) + first * frame_bytes
            plane = content[begin : begin + (last - first) * frame_bytes].tobytes()
            digest.update(plane)
            planes.append(np.frombuffer(plane, STORED_AS[dtype]).reshape(-1, dim))
        assert digest.intdigest() == checksums[row], f"the frames of '{utterance_id}' are damaged"
        yield utterance_id, as_float32(np.stack(planes), dtype)


def as_float32(stored: np.ndarray, dtype: str) -> np.ndarray:
    """A bfloat16 is the upper half of a float32."""
    if dtype == "bfloat16":
        return (stored.astype("<u4") << 16).view("<f4")
    return stored.astype("<f4")


def main(folder: Path) -> dict[str, np.ndarray]:
    described = read_description(folder)
    frames: dict[str, np.ndarray] = {}
    for path in list_shards(folder):
        for utterance_id, utterance_frames in read_shard(path, described):
            frames.setdefault(utterance_id, utterance_frames)
    total = sum(frame.shape[1] for frame in frames.values())
    print(f"{described['encoder']}: {len(frames)} utterances, {total} frames")
    return frames


if __name__ == "__main__":
    main(Path(sys.argv[1]))
