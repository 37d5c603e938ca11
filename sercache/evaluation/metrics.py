"""How good predictions are: classes against the consensus, probabilities against the votes, attributes.

Letters: N rows, C classes. ``labels`` and ``predicted`` are ``(N,)`` class indices in 0..C-1; rows without a
consensus class (no agreement, other) have none, so the caller leaves them out. ``soft_targets`` and
``probabilities`` are ``(N, C)``; rows whose target is NaN do not count. A metric of no rows is NaN.

The functions that end in ``_of_confusion`` take one or many confusion matrices, ``(..., C, C)``: the
bootstrap evaluates thousands at once.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.integer[Any]]


def confusion(labels: Labels, predicted: Labels, num_classes: int) -> NDArray[np.int64]:
    """Return the confusion matrix ``(C, C)``: rows are true classes, columns predicted ones.

    >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]

    Raises:
        ValueError: the lengths differ, or an index is outside 0..C-1.
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    if labels.shape != predicted.shape or labels.ndim != 1:
        raise ValueError(f"labels {labels.shape} and predicted {predicted.shape} must be one per row")
    for name, values in (("labels", labels), ("predicted", predicted)):
        if len(values) and not (values.min() >= 0 and values.max() < num_classes):
            raise ValueError(f"{name} has an index outside 0..{num_classes - 1}")
    cells = labels.astype(np.int64) * num_classes + predicted.astype(np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def macro_f1(labels: Labels, predicted: Labels, num_classes: int) -> float:
    """Return the mean F1 over the classes that occur in ``labels`` or ``predicted`` (as scikit-learn does).

    >>> macro_f1(np.array([0, 0, 1]), np.array([0, 0, 1]), num_classes=8)
    1.0
    """
    return float(macro_f1_of_confusion(confusion(labels, predicted, num_classes)))


def uar(labels: Labels, predicted: Labels, num_classes: int) -> float:
    """Return the unweighted average recall, over the classes that occur in ``labels`` (balanced accuracy)."""
    return float(uar_of_confusion(confusion(labels, predicted, num_classes)))


def weighted_f1(labels: Labels, predicted: Labels, num_classes: int) -> float:
    """Return the mean F1, each class weighted by how often it occurs in ``labels``."""
    return float(weighted_f1_of_confusion(confusion(labels, predicted, num_classes)))


def per_class_f1(labels: Labels, predicted: Labels, num_classes: int) -> Floats:
    """Return the F1 of each class, ``(C,)``; NaN for a class that occurs in neither."""
    return per_class_f1_of_confusion(confusion(labels, predicted, num_classes))


def per_class_f1_of_confusion(confusions: ArrayLike) -> Floats:
    """Return the F1 of each class of each confusion matrix: ``(..., C, C)`` to ``(..., C)``."""
    counts = np.asarray(confusions, dtype=np.float64)
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    return _ratio(2 * hits, counts.sum(axis=-1) + counts.sum(axis=-2))


def macro_f1_of_confusion(confusions: ArrayLike) -> Floats:
    """Return the macro-F1 of each confusion matrix: ``(..., C, C)`` to ``(...)``."""
    return _mean_over_classes(per_class_f1_of_confusion(confusions))


def uar_of_confusion(confusions: ArrayLike) -> Floats:
    """Return the unweighted average recall of each confusion matrix: ``(..., C, C)`` to ``(...)``."""
    counts = np.asarray(confusions, dtype=np.float64)
    return _mean_over_classes(_ratio(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1)))


def weighted_f1_of_confusion(confusions: ArrayLike) -> Floats:
    """Return the weighted F1 of each confusion matrix: ``(..., C, C)`` to ``(...)``."""
    support = np.asarray(confusions, dtype=np.float64).sum(axis=-1)
    scores = np.nan_to_num(per_class_f1_of_confusion(confusions))
    return _ratio((scores * support).sum(axis=-1), support.sum(axis=-1))


def ccc(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Return the concordance correlation coefficient (Lin 1989), with population moments.

    Rows whose truth is NaN are left out. NaN where it is undefined: no rated row, or both constant and equal.

    >>> ccc([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    1.0
    """
    rated = ~np.isnan(np.asarray(truth, dtype=np.float64))
    first = np.asarray(truth, dtype=np.float64)[rated]
    second = np.asarray(predicted, dtype=np.float64)[rated]
    if not len(first):
        return float("nan")
    covariance = np.mean((first - first.mean()) * (second - second.mean()))
    spread = first.var() + second.var() + (first.mean() - second.mean()) ** 2
    return float(2 * covariance / spread) if spread > 0 else float("nan")


def mean_ccc(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Return the mean CCC over attributes, ``(N, A)`` each; an attribute whose CCC is undefined is left out.

    >>> mean_ccc([[1.0, 1.0], [2.0, 2.0]], [[1.0, 2.0], [2.0, 1.0]])
    0.0
    """
    rated, predicted = np.asarray(truth, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    return _mean_of_known(np.asarray([ccc(*pair) for pair in zip(rated.T, predicted.T, strict=True)]))


def log_loss(soft_targets: ArrayLike, probabilities: ArrayLike) -> float:
    """Return the mean cross-entropy against the votes, in nats; see :func:`log_loss_per_row`."""
    return _mean_of_known(log_loss_per_row(soft_targets, probabilities))


def log_loss_per_row(soft_targets: ArrayLike, probabilities: ArrayLike) -> Floats:
    """Return the cross-entropy of each row against its votes, ``(N,)`` in nats.

    A probability of zero counts as the float64 epsilon, as in scikit-learn: one such row costs 36 nats.
    """
    targets, predicted = _same_shape(soft_targets, probabilities)
    logs = np.log(np.clip(predicted, np.finfo(np.float64).eps, None))
    return np.asarray(-(targets * logs).sum(axis=1))


def jensen_shannon_divergence(soft_targets: ArrayLike, probabilities: ArrayLike) -> float:
    """Return the mean Jensen-Shannon divergence between votes and prediction, in bits: 0 same, 1 disjoint.

    >>> jensen_shannon_divergence([[1.0, 0.0]], [[0.0, 1.0]])
    1.0
    """
    return _mean_of_known(jensen_shannon_per_row(soft_targets, probabilities))


def jensen_shannon_per_row(soft_targets: ArrayLike, probabilities: ArrayLike) -> Floats:
    """Return the Jensen-Shannon divergence of each row, ``(N,)`` in bits."""
    targets, predicted = _same_shape(soft_targets, probabilities)
    middle = (targets + predicted) / 2
    return (_relative_entropy(targets, middle) + _relative_entropy(predicted, middle)) / 2


def brier(soft_targets: ArrayLike, probabilities: ArrayLike) -> float:
    """Return the mean squared distance between target and probabilities, summed over classes: 0 to 2.

    One-hot targets give the usual multi-class Brier score; votes give its distance to the votes.
    """
    return _mean_of_known(brier_per_row(soft_targets, probabilities))


def brier_per_row(soft_targets: ArrayLike, probabilities: ArrayLike) -> Floats:
    """Return the squared distance of each row, ``(N,)``."""
    targets, predicted = _same_shape(soft_targets, probabilities)
    return np.asarray(((targets - predicted) ** 2).sum(axis=1))


def expected_calibration_error(labels: Labels, probabilities: ArrayLike, bins: int = 15) -> float:
    """Return the expected calibration error of the top class (Guo et al. 2017), equal-width bins.

    Args:
        labels: ``(N,)`` true classes.
        probabilities: ``(N, C)``.
        bins: of the confidence, over (0, 1].
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if not len(labels):
        return float("nan")
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(which, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


ConfusionMetric = Callable[[ArrayLike], Floats]

CONFUSION_METRICS: dict[str, ConfusionMetric] = {
    "macro_f1": macro_f1_of_confusion,
    "uar": uar_of_confusion,
    "weighted_f1": weighted_f1_of_confusion,
}
"""The metrics that follow from a confusion matrix alone, by the name they have in tables."""


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Divide; NaN where the denominator is zero."""
    undefined = np.full(np.broadcast_shapes(np.shape(numerator), np.shape(denominator)), np.nan)
    np.divide(numerator, denominator, out=undefined, where=np.asarray(denominator) > 0)
    return undefined


def _mean_over_classes(scores: Floats) -> Floats:
    present = ~np.isnan(scores)
    return _ratio(np.where(present, scores, 0.0).sum(axis=-1), present.sum(axis=-1).astype(np.float64))


def _same_shape(soft_targets: ArrayLike, probabilities: ArrayLike) -> tuple[Floats, Floats]:
    targets = np.asarray(soft_targets, dtype=np.float64)
    predicted = np.asarray(probabilities, dtype=np.float64)
    if targets.shape != predicted.shape:
        raise ValueError(f"targets {targets.shape} and probabilities {predicted.shape} differ in shape")
    return targets, predicted


def _relative_entropy(first: Floats, second: Floats) -> Floats:
    """Kullback-Leibler divergence of each row, in bits; ``second`` is positive wherever ``first`` is."""
    ratio = np.divide(first, second, out=np.ones_like(first), where=first > 0)
    return np.asarray((first * np.log2(ratio)).sum(axis=1))


def _mean_of_known(per_row: Floats) -> float:
    known = per_row[~np.isnan(per_row)]
    return float(known.mean()) if len(known) else float("nan")
