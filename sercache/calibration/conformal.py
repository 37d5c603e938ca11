"""Sets of classes that hold the truth as often as one asks (split conformal prediction)."""

import math

import numpy as np
from numpy.typing import NDArray

from sercache.calibration.protocol import Floats, Labels


def conformal_threshold(probabilities: Floats, labels: Labels, coverage: float) -> float:
    """Return how unlikely a class may be and still be in the set: one minus its probability.

    The score is one minus the true class's probability (Sadinle, Lei and Wasserman 2019), its quantile the
    one for finite samples (Vovk et al. 2005): on rows exchangeable with these, sets hold the truth at least
    as often as ``coverage``. Rows of one speaker are alike, so that this is a mean over speakers to come.

    Args:
        probabilities: ``(N, C)`` of rows that nobody trained on.
        labels: ``(N,)``, the consensus class; a row whose label is negative does not count.
        coverage: between 0 and 1.
    """
    known = np.flatnonzero(labels >= 0)
    scores = np.sort(1 - probabilities[known, labels[known]])
    rank = math.ceil((len(scores) + 1) * coverage)
    return float(scores[rank - 1]) if rank <= len(scores) else 1.0


def conformal_sets(probabilities: Floats, threshold: float) -> NDArray[np.bool_]:
    """Return which classes are in the set, ``(N, C)``; the most probable one always is."""
    sets = 1 - probabilities <= threshold + 1e-12
    sets[np.arange(len(sets)), probabilities.argmax(axis=1)] = True
    return np.asarray(sets)
