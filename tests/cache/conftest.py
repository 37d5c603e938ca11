from dataclasses import replace

import numpy as np
import pytest

from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.frames import to_storage
from sercache.cache.shard import StoredUtterance
from sercache.cache.sources import Source
from sercache.cache.writer import publish_shard, start_feature_set

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


@pytest.fixture
def spec():
    return SPEC


@pytest.fixture
def make_utterance():
    return utterance


@pytest.fixture
def make_feature_set(tmp_path):
    """Build a feature set from ``{task: {id: frame count}}``; changes to the spec as keywords."""

    def make(tasks, root=tmp_path / "cache", **changes):
        feature_set = start_feature_set(root, replace(SPEC, **changes))
        for task, counts in tasks.items():
            rows = [utterance(name, count, feature_set.spec) for name, count in counts.items()]
            publish_shard(feature_set, task, rows)
        return type(feature_set)(feature_set.folder)

    return make
