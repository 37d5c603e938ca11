"""Hours, gigabytes and money of a large extraction, and its bottleneck: estimates."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sercache.cache.store import Cache
from sercache.cache.usage import read_speeds
from sercache.corpus import Corpus
from sercache.errors import CorpusError
from sercache.extract.encode import EncoderInput, read_input
from sercache.extract.encoder_costs import EncoderCost, Gpus
from sercache.extract.schedule import ROWS_WITHOUT_GROWTH, SHARD_BYTES, TASK_SECONDS, expected_lengths

UTILISATION = 0.35
"""Share of the published FLOP/s that a well-fed encoder reaches; 0.3 to 0.5 is usual for such batches."""

_DECODED_CLIPS = 12
_ASSUMED_DECODING = 300.0
"""Seconds of speech that a core decodes in a second, where it was not measured on a corpus."""

_ASSUMED_AUDIO_BYTES = 32_000.0
_ASSUMED_CLIP_SECONDS = 5.0
_INDEX_BYTES = 120.0
"""Of the index, for each utterance; measured with a million of them."""

_METADATA_PER_SHARD = 6
"""Create, write, rename and the folder's fsync of a shard; its ledger and speed are looked up."""


@dataclass(frozen=True, slots=True)
class Speech:
    """The speech that is to be extracted.

    Attributes:
        utterances: how many.
        seconds: of audio.
        padded_seconds: of audio, each clip rounded up to whole 30 s.
        audio_bytes: of the files.
        decoding: seconds of speech that one core decodes in a second.
        is_decoding_measured: whether that was measured, on clips of the corpus, here.
    """

    utterances: int
    seconds: float
    padded_seconds: float
    audio_bytes: float
    decoding: float
    is_decoding_measured: bool


@dataclass(frozen=True, slots=True)
class Facility:
    """The hardware of an extraction.

    Attributes:
        gpus: which, and how many.
        cores: CPU cores in all.
        disk_bytes_per_second: what the disk under corpus and cache reads or writes.
        network_bytes_per_second: between that and all workers together; None where it is in the same machine.
        utilisation: share of the published FLOP/s that is reached.
    """

    gpus: Gpus
    cores: int
    disk_bytes_per_second: float = 1e9
    network_bytes_per_second: float | None = None
    utilisation: float = UTILISATION


@dataclass(frozen=True, slots=True)
class ScalePlan:
    """The cost of an extraction.

    Attributes:
        speech: what is extracted.
        gpu_hours: of each encoder, by name.
        stored_bytes: of each encoder's frames, by name.
        hours: of each resource, if nothing else held it up: ``GPU``, ``decoding CPU``, ``disk``, ``network``.
        shards: of each feature set.
        index_bytes: of each feature set.
        metadata_operations: of the file system, in all.
    """

    speech: Speech
    gpu_hours: Mapping[str, float]
    stored_bytes: Mapping[str, float]
    hours: Mapping[str, float]
    shards: int
    index_bytes: float
    metadata_operations: int

    @property
    def bottleneck(self) -> str:
        """The resource that takes longest."""
        return max(self.hours, key=lambda name: self.hours[name])

    @property
    def wall_hours(self) -> float:
        """How long it takes: the resources work at the same time."""
        return max(self.hours.values())


def measure_speech(corpus: Corpus) -> Speech:
    """Return what a corpus has, from headers and a few clips that are decoded.

    Raises:
        CorpusError: it has no audio that can be read.
    """
    with_audio = [utterance for utterance in corpus.utterances if utterance.audio]
    lengths = [row.seconds for row in expected_lengths(corpus, with_audio, "audio")]
    if not sum(lengths):
        raise CorpusError("the corpus has no audio that can be read; give --hours instead")
    step = max(1, len(with_audio) // _DECODED_CLIPS)
    some = list(islice(with_audio[::step], _DECODED_CLIPS))
    started = time.process_time()
    read = [read_input(corpus, utterance, 16_000) for utterance in some]
    spent = time.process_time() - started
    decoded = [row for row in read if isinstance(row, EncoderInput)]
    spoken = sum(row.seconds for row in decoded)
    whole = [row for row in decoded if row.source.span == (None, None)]  # else the file has other clips too
    size, whole_seconds = sum(row.source.size_bytes for row in whole), sum(row.seconds for row in whole)
    return Speech(
        utterances=len(corpus),
        seconds=sum(lengths),
        padded_seconds=sum(30.0 * math.ceil(seconds / 30.0) for seconds in lengths),
        audio_bytes=sum(lengths) * (size / whole_seconds if whole_seconds else _ASSUMED_AUDIO_BYTES),
        decoding=spoken / max(spent, 1e-6) if spoken else _ASSUMED_DECODING,
        is_decoding_measured=bool(spoken),
    )


def assumed_speech(hours: float, clip_seconds: float = _ASSUMED_CLIP_SECONDS) -> Speech:
    """Return so many hours of clips that are all alike: 16 kHz, 16 bit."""
    utterances = max(1, round(hours * 3600 / clip_seconds))
    padded = utterances * 30.0 * math.ceil(clip_seconds / 30.0)
    size = hours * 3600 * _ASSUMED_AUDIO_BYTES
    return Speech(utterances, hours * 3600, padded, size, _ASSUMED_DECODING, False)


def plan_scale(
    speech: Speech,
    encoders: Sequence[EncoderCost],
    facility: Facility,
    measured: Mapping[str, float] | None = None,
) -> ScalePlan:
    """Return what the encoders take for the speech.

    Args:
        speech: what is extracted.
        encoders: all of them; those that read audio share one decoding.
        facility: what it runs on.
        measured: seconds of speech that such a GPU encodes in a second, by encoder, where that is
            known; the others follow from their arithmetic.
    """
    gpu_hours, stored = {}, {}
    for cost in encoders:
        seconds = speech.padded_seconds if cost.padded_seconds else speech.seconds
        speed = (measured or {}).get(cost.name)
        if speed:
            taken = speech.seconds / speed
        else:
            taken = seconds * cost.flops_per_second / (facility.gpus.flops * facility.utilisation)
        gpu_hours[cost.name] = taken / 3600
        stored[cost.name] = speech.seconds * cost.bytes_per_second
    reads_audio = any(cost.modality == "audio" for cost in encoders)
    moved = sum(stored.values()) + (speech.audio_bytes if reads_audio else 0.0)
    hours = {
        "GPU": sum(gpu_hours.values()) / facility.gpus.count,
        "decoding CPU": speech.seconds / speech.decoding / facility.cores / 3600 if reads_audio else 0.0,
        "disk": moved / facility.disk_bytes_per_second / 3600,
    }
    if facility.network_bytes_per_second is not None:
        hours["network"] = moved / facility.network_bytes_per_second / 3600
    task_seconds = TASK_SECONDS * max(1.0, speech.utterances / ROWS_WITHOUT_GROWTH)
    largest = max(cost.bytes_per_second for cost in encoders)
    shards = math.ceil(speech.seconds / min(task_seconds, SHARD_BYTES / largest))
    return ScalePlan(
        speech=speech,
        gpu_hours=gpu_hours,
        stored_bytes=stored,
        hours=hours,
        shards=shards,
        index_bytes=_INDEX_BYTES * speech.utterances,
        metadata_operations=_METADATA_PER_SHARD * shards * len(encoders)
        + (speech.utterances if reads_audio else 0),
    )


def measured_speeds(cache_root: Path, measured_on: Gpus, gpus: Gpus) -> dict[str, float]:
    """Return seconds of speech that a GPU encodes in a second, from what a cache has of another GPU.

    Extraction keeps the time of its encoders; the kinds' published FLOP/s scale it.

    Raises:
        CacheError: the cache is damaged.
    """
    speeds = {}
    for feature_set in Cache(cache_root).feature_sets():
        known = read_speeds(feature_set.folder).get("cuda")
        if known is not None and known.encode_seconds > 0:
            speed = known.speech_seconds / known.encode_seconds
            speeds[feature_set.spec.encoder] = speed * gpus.flops / measured_on.flops
    return speeds
