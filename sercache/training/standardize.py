"""Mean and deviation of each feature, from the training rows of one fold."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sercache.cache.frames import from_storage
from sercache.cache.store import FeatureSet
from sercache.training.speakers import SpeakerStatistics

SAMPLED_UTTERANCES = 2000
"""More would not change the statistics, and on a large corpus would read all of it once per fold."""


class InputStatistics(NamedTuple):
    """``mean`` and ``deviation`` of each feature, ``(D,)``, or ``(L, D)`` of several layers; float64."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]


def input_statistics(
    feature_set: FeatureSet, ids: Sequence[str], seed: int, speakers: SpeakerStatistics | None = None
) -> InputStatistics:
    """Return the statistics of the valid frames of at most ``SAMPLED_UTTERANCES`` training rows.

    Args:
        feature_set: with one or more layers.
        ids: the training rows of the fold, and no others; those without frames do not count.
        seed: which rows are sampled.
        speakers: what normalises the frames first; None leaves them as they are.

    Returns:
        A constant feature, which carries nothing, has deviation 1; so has everything where no row has frames.
    """
    locations = feature_set.locate(ids)
    held = np.flatnonzero(locations.counts > 0)
    sample = np.random.default_rng(seed).permutation(len(held))[:SAMPLED_UTTERANCES]
    rows = held[np.sort(sample)]
    sampled = locations[rows]
    speaker_rows = None if speakers is None else speakers.rows_of(tuple(ids[row] for row in rows))
    count = max(1, int(sampled.counts.sum()))
    layers = feature_set.layers
    total, squares = (np.zeros((len(layers), feature_set.dim)) for _ in range(2))
    for number, layer in enumerate(layers):
        for clip, stored in enumerate(feature_set.stream(sampled, layer)):
            frames = from_storage(stored, feature_set.spec.dtype or "float32").astype(np.float64)
            if speakers is not None and speaker_rows is not None:
                where = speaker_rows[clip], number
                frames = (frames - speakers.mean[where].numpy()) * speakers.scale[where].numpy()
            total[number] += frames.sum(axis=0)
            squares[number] += np.einsum("td,td->d", frames, frames)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    deviation[deviation < 1e-5 * np.maximum(np.abs(mean), 1)] = 1.0
    if len(layers) == 1:
        return InputStatistics(mean[0], deviation[0])
    return InputStatistics(mean, deviation)
