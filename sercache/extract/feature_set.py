"""Which feature set an encoder and a recipe mean, and what of a corpus it still lacks."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sercache.cache.fingerprint import FeatureSpec, StorageDtype
from sercache.cache.ledger import Ledger
from sercache.cache.precision import choose_dtype
from sercache.cache.sources import has_changed
from sercache.cache.store import Cache, FeatureSet, shard_path, the_one
from sercache.cache.writer import drop_utterances, start_feature_set
from sercache.corpus import Corpus, Utterance
from sercache.encoders.protocol import Encoder
from sercache.errors import CacheError, RecipeError
from sercache.extract.encoding import EncodedUtterance, encode_rows
from sercache.extract.inputs import read_input
from sercache.recipe import FeatureRecipe

_SAMPLE_UTTERANCES = 8
_SAMPLE_CANDIDATES = 64


def open_feature_set(
    cache: Cache, encoder: Encoder, recipe: FeatureRecipe, corpus: Corpus, device: str
) -> FeatureSet:
    """Return the feature set to extract into; a new one is begun where there is none.

    With dtype ``auto`` an existing feature set decides; where there is none, a first sample of the corpus.

    Raises:
        CacheError: several feature sets fit, or the one that fits has another fingerprint than the recipe's.
        RecipeError: windows overlap by all they have.
    """
    spec = _with_recipe(encoder.spec, recipe)
    if spec.dtype is None:
        matches = [
            feature_set
            for feature_set in cache.feature_sets()
            if replace(feature_set.spec, dtype=None) == spec
            and feature_set.spec.fingerprint.startswith(recipe.fingerprint or "")
        ]
        if matches:
            return the_one(matches, recipe)
        spec = replace(spec, dtype=_sampled_dtype(encoder, spec, corpus, device))
    if recipe.fingerprint and not spec.fingerprint.startswith(recipe.fingerprint):
        raise CacheError(
            f"the recipe wants {recipe.encoder} with fingerprint {recipe.fingerprint}, but this encoder "
            f"({spec.library}, revision {spec.revision[:12]}) would make {spec.fingerprint[:12]}"
        )
    return start_feature_set(cache.root, spec)


def without_changed(feature_set: FeatureSet, corpus: Corpus, *, replace_changed: bool) -> FeatureSet:
    """Return the feature set without utterances whose audio or text is no longer what was extracted.

    Raises:
        CacheError: there are some, and ``replace_changed`` is off.
    """
    modality = feature_set.spec.modality
    changed = [
        utterance.id
        for utterance in corpus.utterances
        if utterance.id in feature_set
        and has_changed(feature_set.source(utterance.id), corpus, utterance, modality)
    ]
    if not changed:
        return feature_set
    if not replace_changed:
        raise CacheError(
            f"{feature_set.folder}: the {modality} of {len(changed)} utterances is not what was extracted, "
            f"first '{changed[0]}'; use another cache folder, or extract them again with --replace-changed"
        )
    drop_utterances(feature_set, changed)
    return FeatureSet(feature_set.folder)


def unsettled(
    feature_set: FeatureSet, ledger: Ledger, corpus: Corpus, *, retry_failed: bool
) -> list[Utterance]:
    """Return the utterances that are still to be extracted, in the corpus's order.

    A failure settles its utterance once its task is done: one noted by an extraction that was stopped before
    it published the task is tried again, as part of the same task.
    """
    failed = set()
    if not retry_failed:
        failed = {
            failure.utterance
            for failure in ledger.failures.values()
            if shard_path(feature_set.folder, failure.task).exists()
        }
    return [
        utterance
        for utterance in corpus.utterances
        if utterance.id not in feature_set and utterance.id not in failed
    ]


def _with_recipe(spec: FeatureSpec, recipe: FeatureRecipe) -> FeatureSpec:
    dtype: StorageDtype | None = None if recipe.dtype == "auto" else recipe.dtype
    spec = replace(spec, time_pool=recipe.time_pool, dtype=dtype)
    if spec.modality == "audio":
        if recipe.overlap_seconds >= recipe.window_seconds:
            raise RecipeError(
                f"{recipe.encoder}: overlap_seconds {recipe.overlap_seconds:g} must be shorter than "
                f"window_seconds {recipe.window_seconds:g}"
            )
        spec = replace(spec, window_seconds=recipe.window_seconds, overlap_seconds=recipe.overlap_seconds)
    return spec


def _sampled_dtype(encoder: Encoder, spec: FeatureSpec, corpus: Corpus, device: str) -> StorageDtype:
    """Decide from a few utterances spread over the corpus; the same corpus always gives the same ones."""
    peaks: list[float] = []
    for utterance in _spread(corpus.utterances, _SAMPLE_CANDIDATES):
        rows = [read_input(corpus, utterance, spec)]
        for group in encode_rows(encoder, spec, rows, device):
            peaks += [float(np.abs(row.frames).max()) for row in group if isinstance(row, EncodedUtterance)]
        if len(peaks) == _SAMPLE_UTTERANCES:
            break
    return choose_dtype(max(peaks, default=0.0))


def _spread(utterances: Sequence[Utterance], count: int) -> list[Utterance]:
    """Return at most ``count`` utterances from all over a corpus, whatever its order, far ones first."""
    ordered = sorted(utterances, key=lambda utterance: utterance.id)
    step = max(1, len(ordered) // count)
    candidates = ordered[::step][:count]
    stride = max(1, len(candidates) // _SAMPLE_UTTERANCES)
    return [candidates[i] for first in range(stride) for i in range(first, len(candidates), stride)]
