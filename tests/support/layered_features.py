"""Features of several layers, of which one tells the classes apart."""

import numpy as np

from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.shard import StoredUtterance
from sercache.cache.sources import Source
from sercache.cache.store import FeatureSet
from sercache.cache.writer import publish_shard, start_feature_set

LAYERS = ("layer-0", "layer-1", "layer-2", "last")
CARRIER = 2


def layered(folder, corpus, *, strength=2.0, missing=(), poison=None, layers=LAYERS, seed=0):
    """Only layer 2 tells the classes apart."""
    spec = FeatureSpec(
        encoder="layered", revision="1", modality="text", layers=layers, num_layers=3, dim=4,
        frame_rate_hz=None, sample_rate_hz=None, normalization="none", library="tests", dtype="float32",
    )  # fmt: skip
    generator = np.random.default_rng(seed)
    rows = []
    for utterance in corpus.utterances:
        frames = generator.normal(size=(len(layers), int(generator.integers(2, 9)), 4))
        if len(layers) > CARRIER:
            frames[CARRIER] += strength * np.eye(3, 4)[int(np.argmax(utterance.votes))]
        if utterance.id == poison:
            frames[0, 0, 0] = np.nan
        if utterance.id not in missing:
            source = Source("0" * 32, 5, (None, None))
            stored = tuple(frames.astype(np.float32))
            rows.append(StoredUtterance(utterance.id, stored, float("nan"), source))
    feature_set = start_feature_set(folder / "cache", spec)
    publish_shard(feature_set, "0" * 12, rows)
    return FeatureSet(feature_set.folder)
