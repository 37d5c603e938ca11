"""Class thresholds, and sets of classes that hold the truth at a given rate (split conformal prediction)."""

import math

import numpy as np
from numpy.typing import NDArray

from sercache.evaluation.calibration.registry import Floats, Labels
from sercache.evaluation.metrics import confusion, macro_f1_of_confusion

_MOST_PASSES = 10
_LEAST_GAIN = 1e-9


def tuned_thresholds(probabilities: Floats, labels: Labels) -> Floats:
    """Return the multipliers ``(C,)`` whose decisions have the highest macro-F1, found class by class.

    Coordinate ascent: with the others held, every multiplier of one class that changes a decision is tried.
    What does not raise macro-F1 stays 1.

    Args:
        probabilities: ``(N, C)`` of rows that nobody trained on.
        labels: ``(N,)``, the consensus class; a row whose label is negative does not count.
    """
    known = labels >= 0
    probabilities, labels = probabilities[known], labels[known]
    num_classes = probabilities.shape[1]
    multipliers = np.ones(num_classes)
    if not len(labels):
        return multipliers
    best = _macro_f1(probabilities, labels, multipliers)
    for _ in range(_MOST_PASSES):
        before = best
        for index in range(num_classes):
            tried = multipliers.copy()
            tried[index] = _best_multiplier(probabilities, labels, multipliers, index)
            score = _macro_f1(probabilities, labels, tried)
            if score > best + _LEAST_GAIN:
                multipliers, best = tried, score
        if best <= before:
            break
    return multipliers


def decide(probabilities: Floats, multipliers: Floats) -> Labels:
    """Return the class of the largest product, ``(N,)``."""
    return np.asarray((probabilities * multipliers).argmax(axis=1))


def _macro_f1(probabilities: Floats, labels: Labels, multipliers: Floats) -> float:
    decided = confusion(labels, decide(probabilities, multipliers), probabilities.shape[1])
    return float(macro_f1_of_confusion(decided))


def _best_multiplier(probabilities: Floats, labels: Labels, multipliers: Floats, index: int) -> float:
    """Return the multiplier of one class with the highest macro-F1, the others held."""
    num_classes = probabilities.shape[1]
    products = probabilities * multipliers
    products[:, index] = -np.inf
    rivals = products.argmax(axis=1)
    # A row turns to this class where the multiplier exceeds this ratio; never, where the class is impossible.
    with np.errstate(divide="ignore", invalid="ignore"):
        turns_at = products[np.arange(len(labels)), rivals] / probabilities[:, index]
    turns_at = np.where(np.isnan(turns_at), np.inf, turns_at)
    order = np.argsort(turns_at, kind="stable")
    turns_at, rivals, truth = turns_at[order], rivals[order], labels[order]
    identity = np.eye(num_classes)
    lost, lost_hits = identity[rivals], identity[rivals] * (rivals == truth)[:, None]
    # Counts before any row has turned, then after each of them, in the order in which they turn.
    predicted = np.vstack([np.zeros(num_classes), -np.cumsum(lost, axis=0)]) + lost.sum(axis=0)
    hits = np.vstack([np.zeros(num_classes), -np.cumsum(lost_hits, axis=0)]) + lost_hits.sum(axis=0)
    predicted[:, index] = np.arange(len(labels) + 1)
    hits[:, index] = np.concatenate([[0], np.cumsum(truth == index)])
    support = identity[truth].sum(axis=0)
    scores = np.divide(2 * hits, predicted + support, out=np.zeros_like(hits), where=predicted + support > 0)
    macro = scores[:, (support > 0)].mean(axis=1)
    # Between two equal ratios there is no multiplier that parts them.
    edges = np.concatenate([[0.0], turns_at, [np.inf]])
    can_stand = (edges[:-1] < edges[1:]) & np.isfinite(edges[:-1])
    chosen = int(np.where(can_stand, macro, -np.inf).argmax())
    low, high = edges[chosen], edges[chosen + 1]
    if not np.isfinite(high):
        return float(2 * low) if low > 0 else 1.0
    return float(np.sqrt(low * high)) if low > 0 else float(high / 2)


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
