"""Logistic regression on the members' log-probabilities, ridge regression on their attributes."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sercache.evaluation.metrics import log_loss
from sercache.evaluation.probabilities import LEAST_PROBABILITY, softmax
from sercache.seeds import derive_seed
from sercache.stacking.base import Prediction, SavedStacker, Stacker
from sercache.stacking.network import network_features
from sercache.stacking.rows import (
    Floats,
    StackingInputs,
    StackingRows,
    attribute_bounds,
    class_weights,
    has_class_target,
    scaled_ratings,
    stopping_slice,
)
from sercache.stacking.shares import linear_shares

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
"""C of the logistic regression, 1 / alpha of the ridge regression; chosen on the slice of other speakers."""

_ENOUGH_ROWS = 20_000
"""To choose a strength; the fit itself is on all rows."""

_WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class _Linear:
    """``outputs = features @ weight + bias``: ``(F, K)`` and ``(K,)``."""

    weight: Floats
    bias: Floats

    def __call__(self, features: Floats) -> Floats:
        return np.asarray(features @ self.weight + self.bias)


class Logistic(Stacker):
    """Multinomial logistic regression by scikit-learn (stacking: Wolpert 1992, Ting and Witten 1999).

    Attributes get a ridge regression each; where there are no classes, that is all.

    A row comes once for each class it has votes for, weighted by its share and the class's weight. The
    strength of the penalty is chosen on the stopping slice, then everything is fitted again on all rows.

    Args:
        balance_exponent: of the class weights.
        inner_share: share of the rows, of speakers of their own, that strengths are chosen on.
        seed: of which speakers those are.
    """

    name = "logistic"
    class_map_: _Linear
    attribute_map_: _Linear

    def __init__(self, *, balance_exponent: float = 0.5, inner_share: float = 0.15, seed: int = 0) -> None:
        self.balance_exponent, self.inner_share, self.seed = balance_exponent, inner_share, seed

    def fit_arranged(self, rows: StackingRows) -> None:
        """Choose the strengths and fit."""
        fit, stop = stopping_slice(rows, self.inner_share, derive_seed(self.seed, "stop"))
        features = logistic_features(rows.inputs)  # (N, F)
        if rows.inputs.classes:
            balance = class_weights(rows.soft_targets[has_class_target(rows)], self.balance_exponent)
            self.class_map_ = _fit_classes(rows, balance, _class_strength(fit, stop, balance))
        else:
            self.class_map_ = _Linear(np.empty((features.shape[1], 0)), np.empty(0))
        maps = [
            _fit_attribute(rows, index, _attribute_strength(fit, stop, index))
            for index in range(len(rows.inputs.attributes))
        ]
        self.attribute_map_ = _Linear(
            np.column_stack(
                [np.empty((features.shape[1], 0)), *(single.weight for single in maps)]
            ),  # (F, A)
            np.asarray([single.bias[0] for single in maps], dtype=np.float64),  # (A,)
        )
        decisive = self.class_map_ if rows.inputs.classes else self.attribute_map_
        self.shares_ = linear_shares(features, decisive.weight, rows.inputs)

    def predict_arranged(self, inputs: StackingInputs) -> Prediction:
        """Return softmaxed classes, and attribute values within their scale."""
        features = logistic_features(inputs)  # (N, F)
        low, high = attribute_bounds(inputs)
        values = low + (high - low) * np.clip(self.attribute_map_(features), 0.0, 1.0)  # (N, A)
        return Prediction(softmax(self.class_map_(features)), values)

    def learned(self) -> dict[str, Any]:
        """Return the shares."""
        return {"shares": self.shares_}

    def files(self) -> dict[str, bytes]:
        """Return weights and biases."""
        from safetensors.numpy import save

        arrays = {
            "class_weight": self.class_map_.weight,
            "class_bias": self.class_map_.bias,
            "attribute_weight": self.attribute_map_.weight,
            "attribute_bias": self.attribute_map_.bias,
        }
        return {_WEIGHTS: save({name: np.ascontiguousarray(array) for name, array in arrays.items()})}

    def restore(self, saved: SavedStacker) -> None:
        """Set weights, biases and shares."""
        from safetensors.numpy import load

        arrays = load(saved.files[_WEIGHTS])
        self.shares_ = dict(saved.learned["shares"])
        self.class_map_ = _Linear(arrays["class_weight"], arrays["class_bias"])
        self.attribute_map_ = _Linear(arrays["attribute_weight"], arrays["attribute_bias"])


def logistic_features(inputs: StackingInputs) -> Floats:
    """Return ``(N, F)``: for each member its centred log-probabilities, attributes in 0..1; then extras."""
    return network_features(inputs, sees_logs=True)


def _class_strength(fit: StackingRows, stop: StackingRows, balance: Floats) -> float:
    """Return the strength with the lowest log-loss on ``stop``, by fits on some of the ``fit`` rows."""
    some = fit.take(np.linspace(0, len(fit) - 1, min(len(fit), _ENOUGH_ROWS)).astype(np.int64))
    share = len(some) / max(1, len(fit))

    def loss(strength: float) -> float:
        fitted = _fit_classes(some, balance, strength / max(share, LEAST_PROBABILITY))
        return log_loss(stop.soft_targets, softmax(fitted(logistic_features(stop.inputs))))

    return _least(loss)


def _attribute_strength(fit: StackingRows, stop: StackingRows, index: int) -> float:
    """Return the strength with the lowest squared error of an attribute on ``stop``."""

    def loss(strength: float) -> float:
        predicted = _fit_attribute(fit, index, strength)(logistic_features(stop.inputs))[:, 0]  # (N,)
        errors = (predicted - scaled_ratings(stop)[:, index]) ** 2
        return float(np.nansum(errors)) if np.isfinite(errors).any() else float("nan")

    return _least(loss)


def _least(loss: Callable[[float], float]) -> float:
    """Return the strength of the lowest loss, a middling one where no loss is known."""
    losses = {strength: loss(strength) for strength in STRENGTHS}
    known = {strength: value for strength, value in losses.items() if np.isfinite(value)}
    return min(known, key=lambda strength: known[strength]) if known else STRENGTHS[len(STRENGTHS) // 2]


def _fit_classes(rows: StackingRows, balance: Floats, strength: float) -> _Linear:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    votes = np.nan_to_num(rows.soft_targets, nan=0.0)  # (N, C)
    which, voted = np.nonzero(votes)  # (E,), (E,): a row once for each class it has votes for
    features = logistic_features(rows.inputs)  # (N, F)
    num_classes = votes.shape[1]
    present = np.unique(voted)
    weight = np.zeros((features.shape[1], num_classes))
    bias = np.full(num_classes, 0.0 if not len(present) else np.log(LEAST_PROBABILITY))
    bias[present] = 0.0
    if len(present) > 1:
        model = LogisticRegression(C=strength, max_iter=500)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # weakly penalised and separable
            model.fit(features[which], voted, sample_weight=(votes * balance)[which, voted])
        if len(present) == 2:  # scikit-learn keeps the second class's side only
            weight[:, present] = np.column_stack([-model.coef_[0], model.coef_[0]]) / 2
            bias[present] = np.asarray([-model.intercept_[0], model.intercept_[0]]) / 2
        else:
            weight[:, present], bias[present] = model.coef_.T, model.intercept_
    return _Linear(weight, bias)


def _fit_attribute(rows: StackingRows, index: int, strength: float) -> _Linear:
    from sklearn.linear_model import Ridge

    features, targets = logistic_features(rows.inputs), scaled_ratings(rows)[:, index]
    rated = ~np.isnan(targets)
    if not rated.any():  # nothing to learn from: the members' mean
        num_classes, num_attributes = len(rows.inputs.classes), len(rows.inputs.attributes)
        weight, members = np.zeros((features.shape[1], 1)), len(rows.inputs.members)
        weight[
            num_classes + index : features.shape[1] - len(rows.inputs.extras) : num_classes + num_attributes
        ] = 1 / members
        return _Linear(weight, np.zeros(1))
    model = Ridge(alpha=1 / strength).fit(features[rated], targets[rated])
    return _Linear(model.coef_.reshape(-1, 1), np.atleast_1d(model.intercept_))
