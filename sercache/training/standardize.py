"""Mean and deviation of each feature, from the training rows of one fold."""

from collections.abc import Sequence

import numpy as np
import torch

from sercache.cache.precision import from_storage
from sercache.cache.store import FeatureSet
from sercache.heads.protocol import Head

SAMPLED_UTTERANCES = 2000
"""More would not change the statistics, and on a large corpus would read all of it once per fold."""


def standardize_inputs(
    head: Head, feature_sets: Sequence[FeatureSet], ids: Sequence[str], generator: np.random.Generator
) -> None:
    """Set the head's input statistics from the valid frames of at most ``SAMPLED_UTTERANCES`` training rows.

    Args:
        head: whose standardisation is set, per feature set.
        feature_sets: in the order of the head's inputs.
        ids: the training rows of the fold, and no others.
        generator: which rows are sampled.
    """
    for index, feature_set in enumerate(feature_sets):
        places = feature_set.places(ids)
        held = np.flatnonzero(places.shards >= 0)
        if not len(held):
            continue
        dtype = feature_set.spec.dtype or "float32"
        sample = generator.permutation(len(held))[:SAMPLED_UTTERANCES]
        total, squares, count = np.zeros(feature_set.dim), np.zeros(feature_set.dim), 0
        for stored in feature_set.stream(places[held[np.sort(sample)]]):
            frames = from_storage(stored, dtype).astype(np.float64)
            total += frames.sum(axis=0)
            squares += np.square(frames).sum(axis=0)
            count += len(frames)
        if count == 0:
            continue
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
        deviation[deviation < 1e-5 * np.maximum(np.abs(mean), 1)] = 1.0  # a constant feature carries nothing
        head.set_standardization(index, torch.from_numpy(mean), torch.from_numpy(deviation))
