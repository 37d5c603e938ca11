"""``extract --check``: compare features across batches, precisions and the cache."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.frames import from_storage, to_storage
from sercache.cache.store import Cache, FeatureSet
from sercache.corpus import Corpus
from sercache.devices import resolve_device
from sercache.encoders.protocol import Encoder, Frames, StagedEncoder
from sercache.encoders.registry import load_encoder
from sercache.errors import EncoderError
from sercache.events import Event, Listener, ignore
from sercache.extract.autotune import BFLOAT16_TOLERANCE, relative_error, sample_inputs
from sercache.extract.encode import EncodedUtterance, EncoderInput, encode_rows
from sercache.extract.resolve import resolve_feature
from sercache.recipe import FeatureRecipe

FLOAT32_TOLERANCE = 1e-4
"""Largest relative error of a clip's frames that batching may bring in float32."""

_LONGEST_SECONDS = 20.0
_GROUP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One comparison over all clips.

    Attributes:
        feature: what the recipe calls the feature set.
        what: what was compared with what, for people.
        error: the largest relative error of a clip: the norm of the difference over the norm.
        limit: how large it may be.
        utterance_id: the clip that has it.
        clips: how many were compared.
    """

    feature: str
    what: str
    error: float
    limit: float
    utterance_id: str
    clips: int

    @property
    def is_fine(self) -> bool:
        """Return whether the error stays within the limit."""
        return self.error <= self.limit


def check_features(
    corpus: Corpus,
    features: Mapping[str, FeatureRecipe],
    cache_root: Path,
    *,
    device: str = "auto",
    clips: int = 8,
    listener: Listener = ignore,
) -> list[Finding]:
    """Encode some clips of the corpus in every way that must give the same frames; nothing is written.

    Args:
        corpus: where the clips come from.
        features: feature sets by name.
        cache_root: folder of the cache; where it holds the clips, their frames are compared too.
        device: where to compute.
        clips: how many.
        listener: receives the progress.

    Raises:
        EncoderError: an encoder cannot be loaded, or no utterance of the corpus can be read.
    """
    device = resolve_device(device)
    findings = []
    for name, recipe in features.items():
        listener(Event("note", name, message=f"{name}: checking {clips} clips on {device}"))
        texts = corpus if recipe.text_column is None else corpus.with_text_of(recipe.text_column)
        findings += _check_feature(name, recipe, texts, Cache(cache_root), device, clips)
    return findings


def _check_feature(
    name: str, recipe: FeatureRecipe, corpus: Corpus, cache: Cache, device: str, clips: int
) -> list[Finding]:
    resolved = resolve_feature(cache, recipe, corpus, device)
    spec = resolved.spec
    rows = [_shortened(row, spec) for row in islice(sample_inputs(corpus, spec.sample_rate_hz), clips)]
    if not rows:
        raise EncoderError(f"{name}: no utterance of the corpus can be read")
    exact = load_encoder(
        recipe.encoder, recipe.layers, device=device, trust_remote_code=recipe.trust_remote_code
    )
    alone = _encode_alone(exact, rows)
    findings = [
        _compare(
            name, "float32: in a batch, alone", FLOAT32_TOLERANCE, rows, _encode_together(exact, rows), alone
        )
    ]
    if spec.precision == "bfloat16":
        coarse = resolved.encoder
        for what, frames in (
            ("alone", _encode_alone(coarse, rows)),
            ("in a batch", _encode_together(coarse, rows)),
        ):
            label = f"bfloat16 {what}, float32 alone"
            findings.append(_compare(name, label, BFLOAT16_TOLERANCE, rows, frames, alone))
    return findings + _compare_with_cache(name, resolved.encoder, spec, cache, rows)


def _shortened(row: EncoderInput, spec: FeatureSpec) -> EncoderInput:
    """Cut long audio: what is checked here does not depend on it, but how long it takes does."""
    if isinstance(row.content, str) or spec.sample_rate_hz is None or row.seconds <= _LONGEST_SECONDS:
        return row
    samples = round(_LONGEST_SECONDS * spec.sample_rate_hz)
    return replace(row, content=row.content[:samples], seconds=_LONGEST_SECONDS)


def _encode_alone(encoder: Encoder, rows: Sequence[EncoderInput]) -> list[Frames]:
    contents: list[Any] = [row.content for row in rows]
    return [encoder.encode([content])[0] for content in contents]


def _encode_together(encoder: Encoder, rows: Sequence[EncoderInput]) -> list[Frames]:
    """Encode all rows in one batch, as far as the encoder lets inputs of different lengths share one."""
    contents: list[Any] = [row.content for row in rows]
    if not isinstance(encoder, StagedEncoder):
        return encoder.encode(contents)
    limit, encoder.batch_limit = encoder.batch_limit, encoder.batch_cost(contents)
    try:
        return encoder.encode(contents)
    finally:
        encoder.batch_limit = limit


def _compare(
    name: str,
    what: str,
    limit: float,
    rows: Sequence[EncoderInput],
    found: Sequence[Frames],
    expected: Sequence[Frames],
) -> Finding:
    errors = [
        relative_error(clip, exact) if clip.shape == exact.shape else float("inf")
        for clip, exact in zip(found, expected, strict=True)
    ]
    worst = int(np.argmax(errors))
    return Finding(name, what, errors[worst], limit, rows[worst].utterance.id, len(rows))


def _compare_with_cache(
    name: str, encoder: Encoder, spec: FeatureSpec, cache: Cache, rows: Sequence[EncoderInput]
) -> list[Finding]:
    """Compare what the cache holds of these clips with what is computed now, stored alike."""
    folder = cache.root / spec.folder_name
    if not folder.exists():
        return []
    feature_set = FeatureSet(folder)
    held = [row for row in rows if row.utterance.id in feature_set and row.seconds != _LONGEST_SECONDS]
    now = [
        row for row in encode_rows(encoder, spec, held, _GROUP_SECONDS) if isinstance(row, EncodedUtterance)
    ]
    if not now:
        return []
    dtype = spec.dtype or "float32"
    fresh = [from_storage(to_storage(row.frames, dtype), dtype) for row in now]  # (L, T, D)
    kept = [
        np.stack(
            [
                from_storage(feature_set.frames(encoded.row.utterance.id, layer), dtype)
                for layer in spec.layers
            ]
        )  # (L, T, D)
        for encoded in now
    ]
    limit = BFLOAT16_TOLERANCE if spec.precision == "bfloat16" else 10 * FLOAT32_TOLERANCE
    inputs = [encoded.row for encoded in now]
    return [_compare(name, "in the cache, computed now", limit, inputs, kept, fresh)]
