"""Finding what rotted in a feature set, and which sources have changed since."""

import stat
from dataclasses import dataclass
from pathlib import Path

from sercache.cache.shard import read_whole
from sercache.cache.sources import read_source
from sercache.cache.store import FeatureSet, refuse_mirror
from sercache.corpus import Corpus
from sercache.errors import CacheError, Interrupted
from sercache.events import QUIET, Context, Event, ShouldStop


@dataclass(frozen=True, slots=True)
class Damage:
    """One shard or source that is no longer what was stored.

    Attributes:
        path: the shard, or the audio file.
        utterance_id: whose frames; None where the damage hides even the ids of the shard.
        what: what is wrong, for people.
    """

    path: Path
    utterance_id: str | None
    what: str


def verify(feature_set: FeatureSet, *, context: Context = QUIET) -> list[Damage]:
    """Read every byte of a feature set and compare it with its checksums.

    Raises:
        CacheError: it is a mirror, whose shards are checked as they come.
        Interrupted: ``context.should_stop`` returned True.
    """
    refuse_mirror(feature_set.folder)
    task, paths = f"verify {feature_set.folder.name}", feature_set.shard_paths
    context.listener(Event("start", task, total=len(paths)))
    damaged: list[Damage] = []
    for number, path in enumerate(paths, 1):
        _raise_if_stopped(context.should_stop)
        damaged += verify_shard(path, feature_set)
        context.listener(Event("advance", task, number, len(paths), values={"damaged": len(damaged)}))
    context.listener(Event("finish", task, len(paths), len(paths)))
    return damaged


def verify_sources(
    feature_set: FeatureSet,
    corpus: Corpus,
    *,
    context: Context = QUIET,
) -> list[Damage]:
    """Read the audio or text of every cached utterance of ``corpus`` again and compare it with its hash."""
    task, modality = f"sources of {feature_set.folder.name}", feature_set.spec.modality
    text_column = feature_set.spec.options.get("text_column")
    if text_column is not None:
        corpus = corpus.with_text_of(str(text_column))
    cached = [utterance for utterance in corpus.utterances if utterance.id in feature_set]
    context.listener(Event("start", task, total=len(cached)))
    damaged: list[Damage] = []
    for number, utterance in enumerate(cached, 1):
        _raise_if_stopped(context.should_stop)
        stored, path = feature_set.source(utterance.id), corpus.root
        if modality == "audio":
            if utterance.audio is None:
                damaged.append(Damage(path, utterance.id, "the corpus no longer names its audio"))
                continue
            path = corpus.audio_path(utterance)
        try:
            if modality == "audio" and not stat.S_ISREG(path.stat().st_mode):
                damaged.append(Damage(path, utterance.id, "its audio is no longer a regular file"))
            elif read_source(corpus, utterance, modality) != stored:
                damaged.append(Damage(path, utterance.id, f"its {modality} has changed since the extraction"))
        except OSError as error:
            damaged.append(Damage(path, utterance.id, f"its audio cannot be read ({error.strerror})"))
        context.listener(Event("advance", task, number, len(cached), values={"changed": len(damaged)}))
    context.listener(Event("finish", task, len(cached), len(cached)))
    return damaged


def verify_shard(path: Path, feature_set: FeatureSet) -> list[Damage]:
    """Read every byte of one shard and compare it with its checksums."""
    try:
        index, content = read_whole(path, feature_set.spec)
    except CacheError as error:
        return [Damage(path, None, str(error).removeprefix(f"{path}: "))]
    size = path.stat().st_size
    what = "its frames are not what was written"
    if size != index.size_bytes:
        what = f"its frames are cut off: the file has {size:,} of {index.size_bytes:,} bytes"
    damaged = [
        Damage(path, utterance.id, what)
        for utterance, is_intact in index.utterances(content, feature_set.spec)
        if not is_intact
    ]
    if size != index.size_bytes and not damaged:
        damaged = [Damage(path, None, f"has {size:,} bytes, not {index.size_bytes:,}; all frames are there")]
    return damaged


def _raise_if_stopped(should_stop: ShouldStop) -> None:
    if should_stop():
        raise Interrupted("stopped before everything was verified")
