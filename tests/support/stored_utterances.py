"""A feature set's description, and utterances to store in it."""

import numpy as np

from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.frames import to_storage
from sercache.cache.shard import StoredUtterance
from sercache.cache.sources import Source

SPEC = FeatureSpec(
    encoder="microsoft/wavlm-large",
    revision="c1423ed9",
    modality="audio",
    layers=("sum-21-24",),
    num_layers=24,
    dim=5,
    frame_rate_hz=50.0,
    sample_rate_hz=16_000,
    normalization="zero mean, unit variance",
    library="transformers 5.23.0",
    options={"last": "last_hidden_state"},
    dtype="float16",
    window_seconds=30.0,
    overlap_seconds=2.0,
)


def utterance(utterance_id, counts, spec, seed=0):
    """One stored utterance with ``counts`` random frames in every layer."""
    generator = np.random.default_rng([seed, *utterance_id.encode()])
    frames = generator.normal(size=(len(spec.layers), counts, spec.dim)).astype(np.float32)
    return StoredUtterance(
        utterance_id,
        tuple(to_storage(frames, spec.dtype)),
        counts / 50,
        Source(f"{seed:032x}", 1000 + counts, (None, 1.5)),
    )
