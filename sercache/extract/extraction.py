"""Extraction: every utterance of a corpus through a frozen encoder, once, into the cache."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sercache.cache.ledger import Ledger
from sercache.cache.store import Cache, FeatureSet
from sercache.corpus import Corpus
from sercache.devices import resolve_device
from sercache.encoders.registry import ENCODERS, load_encoder
from sercache.events import Listener, ignore
from sercache.extract.feature_set import open_feature_set, unsettled, without_changed
from sercache.extract.plan import measure, plan_tasks
from sercache.extract.task_runner import TaskRunner
from sercache.files import remove_stale_temporaries
from sercache.interrupts import ShouldStop, never
from sercache.recipe import FeatureRecipe


@dataclass(frozen=True, slots=True)
class FeatureReport:
    """What became of one feature set.

    Attributes:
        name: what the recipe calls it.
        folder: where it lies.
        extracted: utterances encoded now.
        reused: utterances of the corpus that were there before.
        failed: utterances of the corpus that have no features; ``failures.csv`` says why.
        size_bytes: what the whole feature set takes on disk.
        audio_seconds: length of all audio in it; 0 for text.
        took_seconds: how long it took.
    """

    name: str
    folder: Path
    extracted: int
    reused: int
    failed: int
    size_bytes: int
    audio_seconds: float
    took_seconds: float


@dataclass(frozen=True, slots=True)
class ExtractionReport:
    """What became of every feature set, in the recipe's order."""

    features: tuple[FeatureReport, ...]


def extract(
    corpus: Corpus,
    features: Mapping[str, FeatureRecipe],
    cache_root: Path,
    *,
    device: str = "auto",
    max_failures: int | None = None,
    retry_failed: bool = False,
    replace_changed: bool = False,
    listener: Listener = ignore,
    should_stop: ShouldStop = never,
) -> ExtractionReport:
    """Bring every feature set up to date with a corpus; what is in the cache is not computed again.

    Args:
        corpus: the utterances.
        features: feature sets by name.
        cache_root: folder of the cache.
        device: ``auto``, or a device as torch names it.
        max_failures: how many utterances of a feature set may fail; None for 5 % of the corpus, but at least
            10, and never all of it.
        retry_failed: try again what failed before.
        replace_changed: extract anew what changed since it was extracted.
        listener: is told of the progress.
        should_stop: is asked between calls of the encoder.

    Raises:
        SercacheError: too many utterances failed.
        CacheError: the cache holds other audio or text under an id, cannot be written, or is damaged.
        EncoderError: an encoder cannot be loaded.
        Interrupted: ``should_stop`` said so; all shards published until then stay.
    """
    reports = []
    for name, recipe in features.items():
        started = time.monotonic()
        place = "cpu" if recipe.encoder in ENCODERS else resolve_device(device)  # embedded ones are numpy
        encoder = load_encoder(
            recipe.encoder, recipe.layers, device=place, trust_remote_code=recipe.trust_remote_code
        )
        feature_set = open_feature_set(Cache(cache_root), encoder, recipe, corpus, place)
        feature_set = without_changed(feature_set, corpus, replace_changed=replace_changed)
        ledger = Ledger(feature_set.folder)
        missing = feature_set.missing(corpus.ids)
        pending = unsettled(feature_set, ledger, corpus, retry_failed=retry_failed)
        runner = TaskRunner(
            name=name,
            corpus=corpus,
            encoder=encoder,
            device=place,
            feature_set=feature_set,
            ledger=ledger,
            failed=len(missing) - len(pending),
            failure_limit=_failure_limit(len(corpus)) if max_failures is None else max_failures,
            listener=listener,
            should_stop=should_stop,
        )
        if pending:
            remove_stale_temporaries(feature_set.folder)
            rows = measure(corpus, pending, feature_set.spec.modality)
            runner.run(plan_tasks(rows, feature_set.spec, len(corpus)))
            feature_set = FeatureSet(feature_set.folder)
        reports.append(
            FeatureReport(
                name=name,
                folder=feature_set.folder,
                extracted=runner.extracted,
                reused=len(corpus) - len(missing),
                failed=len(feature_set.missing(corpus.ids)),
                size_bytes=feature_set.size_bytes,
                audio_seconds=feature_set.seconds,
                took_seconds=time.monotonic() - started,
            )
        )
    return ExtractionReport(tuple(reports))


def _failure_limit(corpus_size: int) -> int:
    """5 % of a corpus, but at least 10; never all of it: then something else is wrong than a few files."""
    return min(max(10, corpus_size // 20), max(0, corpus_size - 1))
