"""Frames of one cached layer, pooled over time: one vector per utterance."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sercache.cache.frames import from_storage
from sercache.cache.store import FeatureSet
from sercache.errors import CacheError, Interrupted
from sercache.events import QUIET, Context, Event

Floats = NDArray[np.float64]

_LOOK_EVERY = 256


def pooled_layer(
    feature_set: FeatureSet,
    layers: Sequence[str],
    ids: Sequence[str],
    *,
    deviation: bool = True,
    context: Context = QUIET,
) -> Floats:
    """Return mean and standard deviation over time of each utterance's frames, ``(N, 2 D)`` or ``(N, D)``.

    Args:
        feature_set: holds them.
        layers: one kept layer, or several, which are summed frame by frame first.
        ids: N utterances that the feature set has.
        deviation: whether standard deviations follow the means.
        context: receives events, and says when to stop.

    Raises:
        CacheError: an utterance has a frame that is no finite number.
        Interrupted: ``context.should_stop`` returned True.
    """
    locations = feature_set.locate(ids)
    dtype = feature_set.spec.dtype or "float32"
    pooled = np.empty((len(ids), (2 if deviation else 1) * feature_set.dim))
    streams = [feature_set.stream(locations, layer) for layer in layers]
    task = f"pooling {' + '.join(layers)}" if len(layers) <= 2 else f"pooling the sum of {len(layers)} layers"
    for row, planes in enumerate(zip(*streams, strict=True)):
        if row % _LOOK_EVERY == 0:
            if context.should_stop():
                raise Interrupted("stopped while layers were read; nothing was written")
            context.listener(Event("advance", task, row, len(ids)))
        frames = sum(from_storage(plane, dtype).astype(np.float64) for plane in planes)
        mean = np.mean(frames, axis=0)
        pooled[row, : feature_set.dim] = mean
        if deviation:
            pooled[row, feature_set.dim :] = np.std(frames, axis=0)
        if not np.isfinite(mean).all():
            raise CacheError(
                f"{feature_set.folder}: utterance '{ids[row]}' has frames that are no finite numbers; "
                "extract it again, or take it out of the corpus"
            )
    context.listener(Event("finish", task, len(ids), len(ids)))
    return pooled
