"""Resolve a recipe's feature set against the cache and the corpus, and list the pending utterances."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from sercache.cache.fingerprint import FeatureSpec, StorageDtype, differences_from, encoder_name
from sercache.cache.frames import choose_dtype
from sercache.cache.ledger import Ledger
from sercache.cache.sources import has_changed
from sercache.cache.store import Cache, FeatureSet, only_match, shard_path
from sercache.cache.writer import cannot_write, drop_utterances, start_feature_set
from sercache.corpus import Corpus, Utterance
from sercache.devices import computes_in_bfloat16
from sercache.encoders.protocol import Encoder, Precision
from sercache.encoders.registry import ENCODERS, load_encoder
from sercache.errors import CacheError, RecipeError
from sercache.extract.autotune import (
    Autotuning,
    autotune,
    clips_to_time,
    sample_inputs,
    save_autotuning,
)
from sercache.extract.encode import EncodedUtterance, EncoderInput, encode_rows
from sercache.recipe import FeatureRecipe

_DTYPE_UTTERANCES = 8
_AUTOTUNING_CANDIDATES = 12
_SAMPLED_CLIP_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class ResolvedFeature:
    """A recipe's feature set, with everything decided that the recipe left open.

    Attributes:
        spec: what the feature set holds, its dtype included.
        encoder: ready to encode.
        autotuning: how precision and batch size were chosen; None where nothing was measured.
    """

    spec: FeatureSpec
    encoder: Encoder
    autotuning: Autotuning | None = None


def resolve_feature(cache: Cache, recipe: FeatureRecipe, corpus: Corpus, device: str) -> ResolvedFeature:
    """Decide what a recipe leaves open; nothing is written.

    Precision and dtype are those of the feature set that is in the cache. Where there is none, they follow
    from a short measurement on clips of the corpus, and from the peak of a first sample.

    Raises:
        EncoderError: the encoder cannot be loaded.
        CacheError: several feature sets fit, or the one that fits has another fingerprint than the recipe's.
        RecipeError: windows overlap by all they have.
    """

    def load(precision: Precision) -> Encoder:
        return load_encoder(
            recipe.encoder,
            recipe.layers,
            device=device,
            precision=precision,
            trust_remote_code=recipe.trust_remote_code,
        )

    kept = _kept_precision(cache, recipe)
    precisions = _precisions(recipe, kept, device)
    encoder = load(precisions[0])
    autotuning = None
    if kept is None and device == "cpu" and recipe.encoder not in ENCODERS:
        rows = islice(sample_inputs(corpus, encoder.spec.sample_rate_hz), _AUTOTUNING_CANDIDATES)
        if (chosen := autotune(load, encoder, clips_to_time(list(rows)), precisions)) is not None:
            autotuning, encoder = chosen
    spec = _with_recipe(encoder.spec, recipe)
    if spec.dtype is None:
        matches = [
            feature_set
            for feature_set in cache.feature_sets()
            if replace(feature_set.spec, dtype=None) == spec
            and feature_set.spec.fingerprint.startswith(recipe.fingerprint or "")
        ]
        dtype = only_match(matches, recipe).spec.dtype if matches else _sampled_dtype(encoder, spec, corpus)
        spec = replace(spec, dtype=dtype)
    if recipe.fingerprint and not spec.fingerprint.startswith(recipe.fingerprint):
        raise CacheError(
            f"the recipe wants {recipe.encoder} with fingerprint {recipe.fingerprint}, but this encoder "
            f"({spec.library}, revision {spec.revision[:12]}) would make {spec.fingerprint[:12]}"
        )
    return ResolvedFeature(spec, encoder, autotuning)


def start_resolved(cache: Cache, resolved: ResolvedFeature, device: str) -> FeatureSet:
    """Start the feature set to extract into where there is none, and keep how it was tuned; return it.

    Raises:
        CacheError: the cache cannot be written, or holds something else there.
    """
    feature_set = start_feature_set(cache.root, resolved.spec)
    if resolved.autotuning is not None:
        try:
            save_autotuning(feature_set.folder, device, resolved.autotuning)
        except OSError as error:
            raise cannot_write(feature_set.folder, error) from error
    return feature_set


def refuse_changed(feature_set: FeatureSet, corpus: Corpus) -> None:
    """Raise a CacheError if the audio or text of an utterance is no longer what was extracted."""
    if changed := _changed_ids(feature_set, corpus):
        raise CacheError(
            f"{feature_set.folder}: the {feature_set.spec.modality} of {len(changed)} utterances is not what "
            f"was extracted, first '{changed[0]}'; use another cache folder, or extract them again with "
            "--replace-changed"
        )


def drop_changed(feature_set: FeatureSet, corpus: Corpus) -> FeatureSet:
    """Drop the utterances whose audio or text is no longer what was extracted; return the feature set."""
    changed = _changed_ids(feature_set, corpus)
    if not changed:
        return feature_set
    drop_utterances(feature_set, changed)
    return FeatureSet(feature_set.folder)


def pending_utterances(
    feature_set: FeatureSet, ledger: Ledger, corpus: Corpus, *, retry_failed: bool
) -> list[Utterance]:
    """Return the utterances that are still to be extracted, in the corpus's order.

    A failure counts once its task is done: an utterance whose failure was recorded by an extraction that was
    stopped before it published the task is tried again, as part of the same task.
    """
    failed = set()
    if not retry_failed:
        failed = {
            failure.utterance
            for failure in ledger.failures.values()
            if shard_path(feature_set.folder, failure.task).exists()
        }
    missing = set(feature_set.missing(corpus.ids)) - failed
    return [utterance for utterance in corpus.utterances if utterance.id in missing]


def _changed_ids(feature_set: FeatureSet, corpus: Corpus) -> list[str]:
    modality = feature_set.spec.modality
    return [
        utterance.id
        for utterance in corpus.utterances
        if utterance.id in feature_set
        and has_changed(feature_set.source(utterance.id), corpus, utterance, modality)
    ]


def _with_recipe(spec: FeatureSpec, recipe: FeatureRecipe) -> FeatureSpec:
    dtype: StorageDtype | None = None if recipe.dtype == "auto" else recipe.dtype
    spec = replace(spec, time_pool=recipe.time_pool, dtype=dtype)
    if spec.modality == "text" and recipe.text_column is not None:
        spec = replace(spec, options={**spec.options, "text_column": recipe.text_column})
    if spec.modality == "audio":
        if recipe.overlap_seconds >= recipe.window_seconds:
            raise RecipeError(
                f"{recipe.encoder}: overlap_seconds {recipe.overlap_seconds:g} must be shorter than "
                f"window_seconds {recipe.window_seconds:g}"
            )
        spec = replace(spec, window_seconds=recipe.window_seconds, overlap_seconds=recipe.overlap_seconds)
    return spec


def _kept_precision(cache: Cache, recipe: FeatureRecipe) -> Precision | None:
    """Return how the feature set that a recipe means was computed; None where there is no single one."""
    name = encoder_name(recipe.encoder)
    kept: set[Precision] = set()
    for feature_set in cache.feature_sets():
        spec = feature_set.spec
        if spec.encoder == name and not differences_from(recipe, spec):
            kept.add(spec.precision)
    return kept.pop() if len(kept) == 1 else None


def _precisions(recipe: FeatureRecipe, kept: Precision | None, device: str) -> list[Precision]:
    """Return the precisions to choose from, the plain one first."""
    if recipe.precision != "auto":
        return [recipe.precision]
    if kept is not None:
        return [kept]
    if recipe.encoder in ENCODERS:
        return ["float32"]
    if device == "cpu":
        return ["float32", "bfloat16"]
    return ["bfloat16" if computes_in_bfloat16(device) else "float32"]


def _sampled_dtype(encoder: Encoder, spec: FeatureSpec, corpus: Corpus) -> StorageDtype:
    """Decide from a few utterances spread over the corpus; the same corpus always gives the same ones."""
    peaks = islice(_peaks(encoder, spec, corpus), _DTYPE_UTTERANCES)
    return choose_dtype(max(peaks, default=0.0))


def _peaks(encoder: Encoder, spec: FeatureSpec, corpus: Corpus) -> Iterator[float]:
    """Yield the largest magnitude of each utterance of a sample, as far as they can be encoded."""

    def cut(row: EncoderInput) -> EncoderInput:
        if isinstance(row.content, str) or spec.sample_rate_hz is None:
            return row
        samples = round(_SAMPLED_CLIP_SECONDS * spec.sample_rate_hz)
        return replace(row, content=row.content[:samples], seconds=min(row.seconds, _SAMPLED_CLIP_SECONDS))

    for row in sample_inputs(corpus, spec.sample_rate_hz):
        for encoded in encode_rows(encoder, spec, [cut(row)], _SAMPLED_CLIP_SECONDS):
            if isinstance(encoded, EncodedUtterance):
                yield float(np.abs(encoded.frames).max())
