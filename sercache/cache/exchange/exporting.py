"""Write cached frames as ``.npy`` files, one per utterance, or as safetensors files of many utterances."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from sercache.cache.exchange.importing import INDEX_NAME
from sercache.cache.frames import STORED_AS, from_storage
from sercache.cache.store import FeatureSet
from sercache.corpus.table import dump_csv
from sercache.errors import CacheError, Interrupted
from sercache.events import QUIET, Context, Event
from sercache.files import write_atomically, write_json

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


ExportFormat = Literal["npy", "safetensors"]

SAFETENSORS_BYTES = 256_000_000
_DESCRIPTION = "feature_set.json"


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        folder: where.
        utterances: how many.
        files: files of frames, of this call and earlier ones.
    """

    folder: Path
    utterances: int
    files: int


def export(
    feature_set: FeatureSet,
    folder: Path,
    format: ExportFormat,
    *,
    layer: str | None = None,
    as_float32: bool = False,
    context: Context = QUIET,
) -> Exported:
    """Write the frames of a feature set for other tools; ``index.csv`` says which file holds which utterance.

    In ``.npy`` files bfloat16 becomes float32, which numpy knows. Files that are there already are kept, so
    the same call goes on after an interruption. Frames are compared with their checksums first.

    Args:
        feature_set: what to export.
        folder: where to; provenance goes into its ``feature_set.json``.
        format: ``npy`` (a file per utterance, ``(T, D)``) or ``safetensors`` (some 256 MB a file, by id).
        layer: which of several kept layers; None where there is only one.
        as_float32: convert to float32.
        context: receives events, and says when to stop.

    Raises:
        CacheError: no such layer, frames are damaged, or the folder holds an export of something else.
        OSError: the folder cannot be written.
        Interrupted: ``context.should_stop`` returned True.
    """
    described = feature_set.spec.provenance() | {
        "fingerprint": feature_set.spec.fingerprint,
        "exported": {"format": format, "layer": layer or feature_set.layers[0], "as_float32": as_float32},
    }
    _refuse_another(folder, described)
    write_json(folder / _DESCRIPTION, described)
    ids = list(feature_set.ids)
    if ids:
        feature_set.check(feature_set.locate(ids))
    task = f"export {feature_set.folder.name}"
    context.listener(Event("start", task, total=len(ids)))
    write = _export_npy if format == "npy" else _export_safetensors
    rows: list[list[str]] = []
    for written in write(feature_set, ids, folder, layer, as_float32):
        rows += written
        context.listener(Event("advance", task, len(rows), len(ids)))
        if context.should_stop():
            raise Interrupted(f"export: stopped; {folder} holds what was written, the same command goes on")
    write_atomically(folder / INDEX_NAME, dump_csv(["id", "file", "frames", "seconds"], rows))
    context.listener(Event("finish", task, len(ids), len(ids)))
    return Exported(folder, len(rows), len({row[1] for row in rows}))


def _export_npy(
    feature_set: FeatureSet, ids: list[str], folder: Path, layer: str | None, as_float32: bool
) -> Iterator[list[list[str]]]:
    convert = as_float32 or feature_set.is_bfloat16
    for utterance_id, name in file_names(ids).items():
        frames = feature_set.frames(utterance_id, layer)
        path = folder / f"{name}.npy"
        if not path.exists():
            stream = BytesIO()
            np.save(stream, _as_float32(frames, feature_set) if convert else frames, allow_pickle=False)
            write_atomically(path, stream.getvalue())
        yield [_row(feature_set, utterance_id, path.name, len(frames))]


def _export_safetensors(
    feature_set: FeatureSet, ids: list[str], folder: Path, layer: str | None, as_float32: bool
) -> Iterator[list[list[str]]]:
    import json

    import torch
    from safetensors.torch import save

    provenance = {"sercache": json.dumps(feature_set.spec.provenance(), sort_keys=True)}
    for number, part in enumerate(_parts(feature_set, ids), 1):
        path = folder / f"frames-{number:05d}.safetensors"
        rows = []
        tensors: dict[str, Any] = {}
        for utterance_id in part:
            frames = feature_set.frames(utterance_id, layer)
            rows.append(_row(feature_set, utterance_id, path.name, len(frames)))
            if path.exists():
                continue
            if as_float32:
                tensors[utterance_id] = torch.from_numpy(_as_float32(frames, feature_set))
            else:
                tensor = torch.from_numpy(np.array(frames))
                tensors[utterance_id] = tensor.view(torch.bfloat16) if feature_set.is_bfloat16 else tensor
        if tensors:
            write_atomically(path, save(tensors, provenance))
        yield rows


def _parts(feature_set: FeatureSet, ids: list[str]) -> Iterator[list[str]]:
    """Cut ids into parts whose frames fill a file."""
    frame_bytes = feature_set.dim * STORED_AS[feature_set.spec.dtype or "float32"].itemsize
    part: list[str] = []
    filled = 0
    for utterance_id, count in zip(ids, feature_set.frame_counts(ids).tolist(), strict=True):
        if part and filled + count * frame_bytes > SAFETENSORS_BYTES:
            yield part
            part, filled = [], 0
        part.append(utterance_id)
        filled += count * frame_bytes
    if part:
        yield part


def _as_float32(frames: NDArray[Any], feature_set: FeatureSet) -> NDArray[np.float32]:
    return from_storage(frames, feature_set.spec.dtype or "float32")


def _row(feature_set: FeatureSet, utterance_id: str, file: str, frames: int) -> list[str]:
    rate_hz = feature_set.spec.frame_rate_hz
    seconds = "" if rate_hz is None else f"{frames * feature_set.spec.time_pool / rate_hz:.3f}"
    return [utterance_id, file, str(frames), seconds]


def _refuse_another(folder: Path, described: dict[str, Any]) -> None:
    import json

    path = folder / _DESCRIPTION
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        same = json.loads(path.read_text()) == json.loads(json.dumps(described))
    except (OSError, ValueError):
        same = False
    if not same:
        raise CacheError(f"{folder}: holds something else already; export into a folder of its own")
