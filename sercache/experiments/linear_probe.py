"""A linear probe: how much of the target can be read from a vector by a linear model, out of fold."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sercache.evaluation.metrics import ccc, macro_f1
from sercache.evaluation.primary import Truth

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
"""C of the logistic regression, 1 / alpha of the ridge regression."""


@dataclass(frozen=True)
class ProbeRows:
    """What a probe learns, and from whom; the same for every layer.

    Attributes:
        labels: ``(N,)`` int64 in 0..C-1, negative where there is no consensus class.
        attributes: ``(N, A)``, NaN where nobody rated.
        folds: ``(N,)`` speaker-disjoint.
        inner: for each fold, ``(N,)`` bool: rows of the other folds on which the strength is chosen, of
            speakers of their own.
        num_classes: C; 0 with attributes alone.
    """

    labels: Integers
    attributes: Floats
    folds: Integers
    inner: tuple[NDArray[np.bool_], ...]
    num_classes: int

    @property
    def truth(self) -> Truth:
        """What predictions of these rows are scored against."""
        return Truth(self.labels, self.attributes, self.num_classes)


@dataclass(frozen=True)
class Probed:
    """Out-of-fold predictions.

    Attributes:
        classes: ``(N,)`` int64; -1 where there are no classes.
        attributes: ``(N, A)``.
        inner_scores: the primary score for each fold, of models that saw neither the fold nor the inner slice
            they are judged on.
    """

    classes: Integers
    attributes: Floats
    inner_scores: tuple[float, ...]


def probe(vectors: Floats, rows: ProbeRows) -> Probed:
    """Predict every row by models that never saw its speaker.

    Classes by multinomial logistic regression with balanced classes, attributes by ridge regression.
    Features are standardised on the rows that are learned from; an inner slice of these says how strong the
    penalty is.

    Args:
        vectors: ``(N, D)``.
        rows: what to learn.
    """
    from sklearn.exceptions import ConvergenceWarning

    classes = np.full(len(vectors), -1)
    attributes = np.full(rows.attributes.shape, np.nan)
    inner_scores: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # weakly penalised and separable
        for fold, inner in enumerate(rows.inner):
            held_out, others = rows.folds == fold, rows.folds != fold
            known = rows.labels >= 0
            if rows.num_classes:
                model, score = _chosen(
                    _logistic,
                    vectors,
                    rows.labels,
                    others & known & ~inner,
                    inner & known,
                    lambda truth, predicted: macro_f1(truth, predicted, rows.num_classes),
                )
                classes[held_out] = model(others & known, held_out)
            of_attributes = []
            for column, values in enumerate(rows.attributes.T):
                rated = ~np.isnan(values)
                if (rated & others).any():
                    model, inner_ccc = _chosen(
                        _ridge, vectors, values, others & rated & ~inner, inner & rated, ccc
                    )
                    attributes[held_out, column] = model(others & rated, held_out)
                    of_attributes += [inner_ccc] if np.isfinite(inner_ccc) else []
            if not rows.num_classes:
                score = float(np.mean(of_attributes)) if of_attributes else -np.inf
            inner_scores.append(score)
    return Probed(classes, attributes, tuple(inner_scores))


def _chosen(
    build: Callable[[float], Any],
    vectors: Floats,
    targets: NDArray[Any],
    fit: NDArray[np.bool_],
    judge: NDArray[np.bool_],
    score: Callable[[Any, Any], float],
) -> tuple[Callable[[NDArray[np.bool_], NDArray[np.bool_]], NDArray[Any]], float]:
    """Return a function that fits on some rows and predicts others with the best strength, and its score."""
    best, best_score = _STRENGTHS[len(_STRENGTHS) // 2], -np.inf
    if fit.any() and judge.any() and len(np.unique(targets[fit])) > 1:
        scaled = _Scaled(vectors, fit)
        for strength in _STRENGTHS:
            its = score(targets[judge], build(strength).fit(scaled(fit), targets[fit]).predict(scaled(judge)))
            if np.nan_to_num(its, nan=-1.0) > best_score:
                best, best_score = strength, float(np.nan_to_num(its, nan=-1.0))

    def predict(learned: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> NDArray[Any]:
        if len(np.unique(targets[learned])) < 2:
            return np.full(int(predicted.sum()), targets[learned][0])
        scaled = _Scaled(vectors, learned)
        model = build(best).fit(scaled(learned), targets[learned])
        result: NDArray[Any] = model.predict(scaled(predicted))
        return result

    return predict, best_score


class _Scaled:
    """Vectors with mean 0 and deviation 1 over the rows that are learned from."""

    def __init__(self, vectors: Floats, fit: NDArray[np.bool_]) -> None:
        self.vectors = vectors
        self.mean = vectors[fit].mean(axis=0)
        deviation = vectors[fit].std(axis=0)
        self.deviation = np.where(deviation > 1e-9, deviation, 1.0)

    def __call__(self, rows: NDArray[np.bool_]) -> Floats:
        scaled: Floats = (self.vectors[rows] - self.mean) / self.deviation
        return scaled


def _logistic(strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, class_weight="balanced", max_iter=2000, tol=1e-6)


def _ridge(strength: float) -> Any:
    from sklearn.linear_model import Ridge

    return Ridge(alpha=1 / strength)


def chosen_on_inner_rows(probed: Sequence[Probed], rows: ProbeRows) -> tuple[Probed, tuple[int, ...]]:
    """Return the predictions of whoever has to choose a layer without the judged fold.

    For each fold the layer is taken that does best on the inner slice of the other folds, with models that
    saw neither. Returns what was predicted, and which layer it was, by fold.
    """
    classes, attributes = np.full(len(rows.labels), -1), np.full(rows.attributes.shape, np.nan)
    choices = []
    for fold in range(len(rows.inner)):
        choices.append(int(np.argmax([one.inner_scores[fold] for one in probed])))
        held_out = rows.folds == fold
        classes[held_out] = probed[choices[-1]].classes[held_out]
        attributes[held_out] = probed[choices[-1]].attributes[held_out]
    scores = tuple(probed[choice].inner_scores[fold] for fold, choice in enumerate(choices))
    return Probed(classes, attributes, scores), tuple(choices)
