"""Logistic regression on the members' log-probabilities, ridge regression on their attributes."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from sercache.evaluation.metrics import log_loss
from sercache.recipe import StackingRecipe
from sercache.seeds import derive_seed
from sercache.stacking.network import LEAST_PROBABILITY, attribute_bounds, network_features, softmax
from sercache.stacking.protocol import Prediction
from sercache.stacking.rows import (
    Floats,
    StackingInputs,
    StackingRows,
    class_weights,
    has_class_target,
    stopping_slice,
)
from sercache.stacking.saved import SavedStacker, Signature
from sercache.stacking.shares import linear_shares

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
"""C of the logistic regression, 1 / alpha of the ridge regression; the slice of other speakers says which."""

_ENOUGH_ROWS = 20_000
"""To choose a strength; the fit itself is on all rows."""


@dataclass(frozen=True)
class _Linear:
    """``outputs = features @ weight + bias``: ``(F, K)`` and ``(K,)``."""

    weight: Floats
    bias: Floats

    def __call__(self, features: Floats) -> Floats:
        return np.asarray(features @ self.weight + self.bias)


class Logistic:
    """Multinomial logistic regression by scikit-learn (stacking: Wolpert 1992, Ting and Witten 1999).

    Attributes get a ridge regression each; where there are no classes, that is all.

    A row comes once for each class it has votes for, weighted by its share and the class's weight. The
    strength of the penalty is chosen on the stopping slice, then everything is fitted again on all rows.
    """

    def __init__(self, settings: StackingRecipe, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.shares: dict[str, float] = {}
        self._signature: Signature
        self._classes: _Linear
        self._attributes: _Linear

    def fit(self, rows: StackingRows) -> None:
        """Choose the strengths and fit."""
        self._signature = Signature.of(rows.inputs)
        rows = self._signature.arrange_rows(rows)
        fit, stop = stopping_slice(rows, self.settings.inner_share, derive_seed(self.seed, "stop"))
        balance = class_weights(rows.soft_targets[has_class_target(rows)], self.settings.balance_exponent)

        some = fit.take(np.linspace(0, len(fit) - 1, min(len(fit), _ENOUGH_ROWS)).astype(np.int64))
        share = len(some) / max(1, len(fit))

        def loss_of_classes(strength: float) -> float:
            fitted = _fit_classes(some, balance, strength / max(share, LEAST_PROBABILITY))
            return log_loss(stop.soft_targets, softmax(fitted(logistic_features(stop.inputs))))

        if rows.inputs.classes:
            self._classes = _fit_classes(rows, balance, _least(loss_of_classes))
        else:
            self._classes = _Linear(np.empty((logistic_features(rows.inputs).shape[1], 0)), np.empty(0))
        columns = []
        for index in range(len(rows.inputs.attributes)):

            def loss_of_attribute(strength: float, index: int = index) -> float:
                predicted = _fit_attribute(fit, index, strength)(logistic_features(stop.inputs))[:, 0]
                errors = (predicted - _scaled(stop, index)) ** 2
                return float(np.nansum(errors)) if np.isfinite(errors).any() else float("nan")

            columns.append(_fit_attribute(rows, index, _least(loss_of_attribute)))
        features = logistic_features(rows.inputs)
        self._attributes = _Linear(
            np.column_stack([np.empty((features.shape[1], 0)), *(one.weight for one in columns)]),
            np.asarray([one.bias[0] for one in columns], dtype=np.float64),
        )
        decisive = self._classes if rows.inputs.classes else self._attributes
        self.shares = linear_shares(features, decisive.weight, rows.inputs)

    def predict(self, inputs: StackingInputs) -> Prediction:
        """Return softmaxed classes, and attribute values within their scale."""
        arranged = self._signature.arrange(inputs)
        features = logistic_features(arranged)
        low, high = attribute_bounds(arranged)
        values = low + (high - low) * np.clip(self._attributes(features), 0.0, 1.0)
        return Prediction(softmax(self._classes(features)), values)

    def save(self, folder: Path) -> None:
        """Write weights and biases."""
        from safetensors.numpy import save

        arrays = {
            "class_weight": self._classes.weight,
            "class_bias": self._classes.bias,
            "attribute_weight": self._attributes.weight,
            "attribute_bias": self._attributes.bias,
        }
        content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        files = {"weights.safetensors": content}
        SavedStacker("logistic", self._signature, {"shares": self.shares}, files).write(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote."""
        from safetensors.numpy import load

        saved = SavedStacker.read(folder, "logistic")
        loaded = cls(StackingRecipe(), 0)
        arrays = load(saved.files["weights.safetensors"])
        loaded._signature, loaded.shares = saved.signature, dict(saved.learned["shares"])
        loaded._classes = _Linear(arrays["class_weight"], arrays["class_bias"])
        loaded._attributes = _Linear(arrays["attribute_weight"], arrays["attribute_bias"])
        return loaded


def logistic_features(inputs: StackingInputs) -> Floats:
    """Return ``(N, F)``: for each member its centred log-probabilities, attributes in 0..1; then extras."""
    return network_features(inputs, sees_logs=True)


def _least(loss: Callable[[float], float]) -> float:
    """Return the strength of the lowest loss, a middling one where no loss is known."""
    losses = {strength: loss(strength) for strength in STRENGTHS}
    known = {strength: its for strength, its in losses.items() if np.isfinite(its)}
    return min(known, key=lambda strength: known[strength]) if known else STRENGTHS[len(STRENGTHS) // 2]


def _fit_classes(rows: StackingRows, balance: Floats, strength: float) -> _Linear:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    votes = np.nan_to_num(rows.soft_targets, nan=0.0)
    which, named = np.nonzero(votes)
    features = logistic_features(rows.inputs)
    num_classes = votes.shape[1]
    present = np.unique(named)
    weight = np.zeros((features.shape[1], num_classes))
    bias = np.full(num_classes, 0.0 if not len(present) else np.log(LEAST_PROBABILITY))
    bias[present] = 0.0
    if len(present) > 1:
        model = LogisticRegression(C=strength, max_iter=500)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # weakly penalised and separable
            model.fit(features[which], named, sample_weight=(votes * balance)[which, named])
        if len(present) == 2:  # scikit-learn keeps the second class's side only
            weight[:, present] = np.column_stack([-model.coef_[0], model.coef_[0]]) / 2
            bias[present] = np.asarray([-model.intercept_[0], model.intercept_[0]]) / 2
        else:
            weight[:, present], bias[present] = model.coef_.T, model.intercept_
    return _Linear(weight, bias)


def _fit_attribute(rows: StackingRows, index: int, strength: float) -> _Linear:
    from sklearn.linear_model import Ridge

    features, targets = logistic_features(rows.inputs), _scaled(rows, index)
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


def _scaled(rows: StackingRows, index: int) -> Floats:
    """Return what raters said of an attribute, ``(N,)`` in 0..1, NaN where nobody did."""
    attribute = rows.inputs.attributes[index]
    return np.asarray((rows.attribute_targets[:, index] - attribute.low) / (attribute.high - attribute.low))
