"""Frames that other tools made into the cache: folders with one ``.npy`` per utterance."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import xxhash
from numpy.typing import NDArray

from sercache.cache.fingerprint import FeatureSpec, Modality, StorageDtype
from sercache.cache.frames import STORED_AS, choose_dtype, to_storage
from sercache.cache.ledger import Ledger
from sercache.cache.shard import StoredUtterance
from sercache.cache.sources import Source, read_source
from sercache.cache.store import FeatureSet
from sercache.cache.writer import cannot_write, publish_shard, start_feature_set
from sercache.corpus import Corpus, Utterance
from sercache.corpus.table import read_table
from sercache.errors import CacheError, CorpusError, Interrupted
from sercache.events import QUIET, Context, Event, ShouldStop

SHARD_BYTES = 256_000_000
LIBRARY = "imported"
INDEX_NAME = "index.csv"


@dataclass(frozen=True, slots=True)
class ForeignFrames:
    """The description of frames that sercache did not make.

    Attributes:
        encoder: what to call their encoder.
        modality: what it read.
        layers: names of the layers, for ``FeatureSpec.layers``; a file holds one plane.
        num_layers: how many hidden layers the encoder has; 0 if that does not matter.
        frame_rate_hz: frames per second; None for text.
    """

    encoder: str
    modality: Modality = "audio"
    layers: tuple[str, ...] = ("last",)
    num_layers: int = 0
    frame_rate_hz: float | None = 50.0


@dataclass(frozen=True, slots=True)
class Imported:
    """The result of an import.

    Attributes:
        feature_set: holds the frames now.
        utterances: how many it holds.
        without_file: utterances of the corpus without a file; they are in ``failures.csv``.
        unused_files: files that belong to no utterance of the corpus.
    """

    feature_set: FeatureSet
    utterances: int
    without_file: tuple[str, ...]
    unused_files: int


def import_npy(
    folder: Path,
    cache_root: Path,
    corpus: Corpus,
    foreign: ForeignFrames,
    *,
    context: Context = QUIET,
) -> Imported:
    """Bring a folder of ``.npy`` files into the cache, as a feature set whose provenance is foreign.

    A file is named after the utterance's id or after its recording, or an ``index.csv`` with the columns
    ``id`` and ``file`` says whose it is (as an export writes it). It holds ``(T, D)``, ``(1, T, D)``, or
    ``(D,)`` for features that were pooled. The fingerprint covers the content of the files: other content is
    another feature set. Nothing in them is unpickled.

    Raises:
        CacheError: a file holds something else, widths differ, two files have one name, none fits, or the
            cache cannot be written.
        Interrupted: ``context.should_stop`` returned True; the same call goes on.
    """
    files = _files(folder)
    matched = _match(files, corpus)
    if not matched:
        first = next(iter(sorted(files)), None)
        have = f"such as {files[first].name}" if first else "none"
        raise CacheError(
            f"{folder}: no .npy file is named after an utterance's id or recording (files: {have}; "
            f"ids such as '{corpus.ids[0] if corpus.ids else ''}')"
        )
    total = 2 * len(matched)
    task = f"import {folder.name}"
    context.listener(Event("start", task, total=total))
    digest, peak, dim = xxhash.xxh3_128(), 0.0, 0
    for number, (utterance, path) in enumerate(matched, 1):
        _raise_if_stopped(context.should_stop)
        frames = _read(path)
        if dim not in (0, frames.shape[1]):
            raise CacheError(f"{path}: is {frames.shape[1]} wide, the files before it are {dim} wide")
        dim, peak = frames.shape[1], max(peak, float(np.abs(frames).max()))
        digest.update(f"{utterance.id}\0{frames.shape}".encode())
        digest.update(np.ascontiguousarray(frames).data)
        context.listener(Event("advance", task, number, total))
    feature_set = start_feature_set(cache_root, _spec(foreign, digest.hexdigest(), dim, choose_dtype(peak)))
    done = len(matched)
    for name, part in _parts(matched, dim, feature_set.spec):
        _raise_if_stopped(context.should_stop)
        ids = [utterance.id for utterance, _ in part]
        if feature_set.missing(ids):
            publish_shard(feature_set, name, [_stored(feature_set, corpus, *pair) for pair in part])
        done += len(part)
        context.listener(Event("advance", task, done, total))
    here = {utterance.id for utterance, _ in matched}
    without = tuple(utterance_id for utterance_id in corpus.ids if utterance_id not in here)
    _note_missing(feature_set, without)
    context.listener(Event("finish", task, total, total))
    return Imported(FeatureSet(feature_set.folder), len(matched), without, len(files) - len(matched))


def _files(folder: Path) -> dict[str, Path]:
    """Return the ``.npy`` files below a folder by the name that stands before ``.npy``."""
    if not folder.is_dir():
        raise CacheError(f"{folder}: no such folder")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.npy")):
        if not path.is_file():
            continue
        if path.stem in files:
            raise CacheError(f"{path} and {files[path.stem]}: two files of one name; which one is it?")
        files[path.stem] = path
    if (folder / INDEX_NAME).is_file():
        return _by_index(folder, files)
    return files


def _by_index(folder: Path, files: dict[str, Path]) -> dict[str, Path]:
    """Return the files by the ids that an index gives them; those it does not name keep their own."""
    index = folder / INDEX_NAME
    try:
        table = read_table(index)
        ids, names = (table.header.index(column) for column in ("id", "file"))
    except (CorpusError, ValueError) as error:
        raise CacheError(f"{index}: not an index of files, with the columns id and file ({error})") from error
    stems = {row[ids]: row[names].removesuffix(".npy") for row in table.rows}
    for utterance_id, stem in stems.items():
        if stem not in files:
            raise CacheError(f"{index}: the file of '{utterance_id}', {stem}.npy, is not there")
    named = set(stems.values())
    others = {stem: path for stem, path in files.items() if stem not in named}
    return others | {utterance_id: files[stem] for utterance_id, stem in stems.items()}


def _match(files: dict[str, Path], corpus: Corpus) -> list[tuple[Utterance, Path]]:
    """Return the utterances that have a file, in the order of their ids."""
    recordings: dict[str, int] = {}
    for utterance in corpus.utterances:
        stem = PurePosixPath(utterance.audio or "").stem
        recordings[stem] = recordings.get(stem, 0) + 1
    matched = []
    for utterance in sorted(corpus.utterances, key=lambda row: row.id):
        stem = PurePosixPath(utterance.audio or "").stem
        path = files.get(utterance.id)
        if path is None and stem and recordings[stem] == 1:  # a recording that was cut up names no utterance
            path = files.get(stem)
        if path is not None:
            matched.append((utterance, path))
    return matched


def _read(path: Path) -> NDArray[np.float32]:
    """Return the frames in a file, ``(T, D)`` float32."""
    try:
        frames = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CacheError(f"{path}: not an array that can be read ({str(error).splitlines()[0]})") from error
    shape = frames.shape
    if frames.ndim == 1:
        frames = frames[None]
    elif frames.ndim == 3 and shape[0] == 1:
        frames = frames[0]
    if frames.ndim != 2 or 0 in frames.shape or frames.dtype.kind not in "fiu":
        raise CacheError(f"{path}: holds {frames.dtype} of shape {shape}, not frames (T, D)")
    frames = np.asarray(frames, np.float32)
    if not np.isfinite(frames).all():
        raise CacheError(f"{path}: holds values that are not finite (NaN or infinite)")
    return frames


def _spec(foreign: ForeignFrames, digest: str, dim: int, dtype: StorageDtype) -> FeatureSpec:
    is_audio = foreign.modality == "audio"
    return FeatureSpec(
        encoder=foreign.encoder,
        revision=f"foreign {digest}",
        modality=foreign.modality,
        layers=foreign.layers,
        num_layers=foreign.num_layers,
        dim=dim,
        frame_rate_hz=foreign.frame_rate_hz if is_audio else None,
        sample_rate_hz=16_000 if is_audio else None,
        normalization="unknown",
        library=LIBRARY,
        dtype=dtype,
        window_seconds=30.0 if is_audio else None,
        overlap_seconds=2.0 if is_audio else None,
    )


def _parts(
    matched: Sequence[tuple[Utterance, Path]], dim: int, spec: FeatureSpec
) -> Iterator[tuple[str, list[tuple[Utterance, Path]]]]:
    """Cut the files into shards, each with a name that stands for its utterances."""
    part: list[tuple[Utterance, Path]] = []
    filled = 0
    for utterance, path in matched:
        size = path.stat().st_size * STORED_AS[spec.dtype or "float16"].itemsize // 2
        if part and filled + size > SHARD_BYTES:
            yield _name(part), part
            part, filled = [], 0
        part.append((utterance, path))
        filled += size
    if part:
        yield _name(part), part


def _name(part: Iterable[tuple[Utterance, Path]]) -> str:
    ids = "\0".join(utterance.id for utterance, _ in part)
    return xxhash.xxh3_64_hexdigest(ids.encode())[:12]


def _stored(feature_set: FeatureSet, corpus: Corpus, utterance: Utterance, path: Path) -> StoredUtterance:
    spec = feature_set.spec
    frames = to_storage(_read(path), spec.dtype or "float32")
    seconds = len(frames) / spec.frame_rate_hz if spec.frame_rate_hz else float("nan")
    try:
        source = read_source(corpus, utterance, spec.modality)
    except (OSError, CorpusError):  # the frames are here, the recording need not be
        source = Source("0" * 32, 0, (utterance.start_seconds, utterance.end_seconds))
    return StoredUtterance(utterance.id, (frames,), seconds, source)


def _note_missing(feature_set: FeatureSet, ids: Sequence[str]) -> None:
    ledger = Ledger(feature_set.folder)
    stage: Modality = feature_set.spec.modality
    for utterance_id in ids:
        ledger.record(utterance_id, stage, CorpusError("no .npy file is named after it"), "import")
    try:
        ledger.save()
    except OSError as error:
        raise cannot_write(ledger.path, error) from error


def _raise_if_stopped(should_stop: ShouldStop) -> None:
    if should_stop():
        raise Interrupted("import: stopped; the same command goes on from there")
