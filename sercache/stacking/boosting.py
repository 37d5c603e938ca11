"""LightGBM: gradient-boosted trees over the members' posteriors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import lightgbm
import numpy as np
from numpy.typing import NDArray

from sercache.devices import MANY_CELLS, usable_cores
from sercache.evaluation.probabilities import log_softmax, softmax
from sercache.seeds import derive_seed
from sercache.stacking.base import Prediction, SavedStacker, Stacker
from sercache.stacking.rows import (
    Floats,
    StackingInputs,
    StackingRows,
    class_weights,
    has_class_target,
    stopping_slice,
)
from sercache.stacking.shares import EXPLAINED_ROWS, shares_of

_CLASS_MODEL = "classes.txt"
_LEAST_START = 0.01
"""Least probability where the trees start: from further off some hundred small steps would not come back."""


class LightGBM(Stacker):
    """One multi-class model for the classes, one regression model per attribute.

    LightGBM has no soft labels for several classes (LightGBM#6013). Either the gradient of the weighted
    cross-entropy against the votes is given to it (``soft_targets="objective"``), or a row comes once for
    each class it has votes for, weighted by its share and the class's weight (``"duplicate"``). Both score
    alike (``docs/explanation/measured.md``); the first has fewer rows to bin.

    Like the neural meta-classifier it starts as the soft vote: the trees learn what to add to the logarithm
    of the members' mean, and to their mean attributes. Early stopping looks at the stopping slice only;
    without one a model gets as many rounds as its patience. Saved in LightGBM's text format; a damaged text
    model can crash the process, so its digest is checked before it is parsed.

    Args:
        learning_rate: of each tree.
        rounds: at most.
        patience: rounds without a lower loss on the slice before growing ends.
        num_leaves: of a tree.
        min_rows_per_leaf: at least.
        max_bin: of the histograms.
        threads: None: all cores where there is enough to do. The trees are the same whatever it is.
        soft_targets: how the votes are given to it.
        balance_exponent: of the class weights.
        inner_share: share of the rows, of speakers of their own, that early stopping looks at.
        seed: of everything random in ``fit``.
    """

    name = "lightgbm"
    recipe_section = "lightgbm"
    class_model_: lightgbm.Booster | None
    attribute_models_: list[lightgbm.Booster | None]

    def __init__(
        self,
        *,
        learning_rate: float = 0.05,
        rounds: int = 400,
        patience: int = 30,
        num_leaves: int = 7,
        min_rows_per_leaf: int = 20,
        max_bin: int = 63,
        threads: int | None = None,
        soft_targets: Literal["duplicate", "objective"] = "objective",
        balance_exponent: float = 0.5,
        inner_share: float = 0.15,
        seed: int = 0,
    ) -> None:
        self.learning_rate, self.rounds, self.patience = learning_rate, rounds, patience
        self.num_leaves, self.min_rows_per_leaf, self.max_bin = num_leaves, min_rows_per_leaf, max_bin
        self.threads, self.soft_targets = threads, soft_targets
        self.balance_exponent, self.inner_share, self.seed = balance_exponent, inner_share, seed

    def fit_arranged(self, rows: StackingRows) -> None:
        """Grow the trees."""
        fit, stop = stopping_slice(rows, self.inner_share, derive_seed(self.seed, "stop"))
        weights = class_weights(rows.soft_targets[has_class_target(rows)], self.balance_exponent)
        self.class_model_ = self._grow_classes(fit, stop, weights)
        self.attribute_models_ = [
            self._grow(
                {"objective": "regression"}, _attribute_examples(fit, index), _attribute_examples(stop, index)
            )
            for index in range(len(rows.inputs.attributes))
        ]
        self.shares_ = (
            self._class_shares(rows.inputs) if rows.inputs.classes else self._attribute_shares(rows.inputs)
        )

    def predict_arranged(self, inputs: StackingInputs) -> Prediction:
        """Return the trees' probabilities, and attribute values within their scale.

        Where there was nothing to learn from, the members' mean is returned.
        """
        features = inputs.features()  # (N, F)
        scores = _class_start(inputs)  # (N, C)
        attributes = inputs.attribute_values.mean(axis=1)  # (N, A)
        if len(inputs) and self.class_model_ is not None:
            scores = scores + np.asarray(self.class_model_.predict(features, raw_score=True, num_threads=1))
        for index, (model, attribute) in enumerate(
            zip(self.attribute_models_, inputs.attributes, strict=True)
        ):
            if len(inputs) and model is not None:
                values = attributes[:, index] + np.asarray(model.predict(features, num_threads=1))  # (N,)
                attributes[:, index] = np.clip(values, attribute.low, attribute.high)
        return Prediction(softmax(scores), attributes)

    def learned(self) -> dict[str, Any]:
        """Return the shares."""
        return {"shares": self.shares_}

    def files(self) -> dict[str, bytes]:
        """Return one text file per model."""
        models = {_CLASS_MODEL: self.class_model_} | {
            _attribute_file(index): model for index, model in enumerate(self.attribute_models_)
        }
        return {name: model.model_to_string().encode() for name, model in models.items() if model is not None}

    def restore(self, saved: SavedStacker) -> None:
        """Set the models."""
        self.shares_ = dict(saved.learned["shares"])
        self.class_model_ = _parse(saved.files.get(_CLASS_MODEL))
        self.attribute_models_ = [
            _parse(saved.files.get(_attribute_file(index)))
            for index in range(len(saved.signature.attributes))
        ]

    def _class_shares(self, inputs: StackingInputs) -> dict[str, float]:
        """Return how much each member counts for what the trees add to the vote."""
        if self.class_model_ is None:
            return {}
        features = inputs.features()[:EXPLAINED_ROWS]
        values = np.asarray(self.class_model_.predict(features, pred_contrib=True, num_threads=1))
        # LightGBM puts the classes side by side; the last column of each class is its mean.
        by_class = values.reshape(len(features), len(inputs.classes), -1)[:, :, :-1]  # (N, C, F)
        return shares_of(by_class.transpose(0, 2, 1), inputs)

    def _attribute_shares(self, inputs: StackingInputs) -> dict[str, float]:
        """Return how much each member counts for what the trees add to the mean of the attributes."""
        features = inputs.features()[:EXPLAINED_ROWS]
        values = [
            np.asarray(model.predict(features, pred_contrib=True, num_threads=1))[:, :-1]  # (N, F)
            for model in self.attribute_models_
            if model is not None
        ]
        return shares_of(np.stack(values, axis=2), inputs) if values else {}

    def _grow_classes(
        self, fit: StackingRows, stop: StackingRows, weights: Floats
    ) -> lightgbm.Booster | None:
        num_classes = len(weights)
        if not num_classes:
            return None
        if self.soft_targets == "duplicate":
            parameters: dict[str, Any] = {"objective": "multiclass", "num_class": num_classes}
            return self._grow(parameters, _class_examples(fit, weights), _class_examples(stop, weights))
        masses = [_weighted_votes(fit, weights), _weighted_votes(stop, weights)]
        parameters = {"objective": soft_objective(masses[0]), "num_class": num_classes}
        examples = [_whole_rows(rows, mass) for rows, mass in zip((fit, stop), masses, strict=True)]
        return self._grow(parameters, examples[0], examples[1], soft_metric(masses[1]))

    def _grow(
        self,
        objective: dict[str, Any],
        fit: "_Examples",
        stop: "_Examples",
        metric: Callable[[Floats, lightgbm.Dataset], tuple[str, float, bool]] | None = None,
    ) -> lightgbm.Booster | None:
        if not len(fit.targets):
            return None
        parameters = objective | {
            "learning_rate": self.learning_rate,
            "num_leaves": self.num_leaves,
            "min_data_in_leaf": self.min_rows_per_leaf,
            "feature_pre_filter": False,
            "max_bin": self.max_bin,
            "num_threads": self.threads or _threads_for(fit.features),
            "seed": derive_seed(self.seed, "trees") % 2**31,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }
        grown_on = lightgbm.Dataset(
            fit.features, fit.targets, weight=fit.weights, init_score=fit.start, params=parameters
        )
        if not len(stop.targets):
            return lightgbm.train(parameters, grown_on, min(self.patience, self.rounds))
        stopped_on = lightgbm.Dataset(
            stop.features, stop.targets, weight=stop.weights, init_score=stop.start, reference=grown_on
        )
        model = lightgbm.train(
            parameters,
            grown_on,
            self.rounds,
            valid_sets=[stopped_on],
            feval=metric,
            callbacks=[lightgbm.early_stopping(self.patience, verbose=False)],
        )
        return lightgbm.Booster(model_str=model.model_to_string(num_iteration=model.best_iteration))


def _threads_for(features: Floats) -> int:
    """Return all cores for many cells; for few, threads would wait for each other longer than they work."""
    return usable_cores() if features.size >= MANY_CELLS else 1


@dataclass(frozen=True)
class _Examples:
    """Features ``(E, F)``, targets and weights ``(E,)``, and the initial scores, ``(E, C)`` or ``(E,)``."""

    features: Floats
    targets: NDArray[Any]
    weights: Floats
    start: Floats


def _class_examples(rows: StackingRows, weights: Floats) -> _Examples:
    """Return each row once for every class that it has votes for."""
    votes = np.nan_to_num(rows.soft_targets, nan=0.0)
    which, classes = np.nonzero(votes)
    weighted = (votes * weights)[which, classes]
    return _Examples(rows.inputs.features()[which], classes, weighted, _class_start(rows.inputs)[which])


def _whole_rows(rows: StackingRows, mass: Floats) -> "_Examples":
    """Return the rows that weigh anything, once each; the objective has the targets."""
    counts = mass.sum(axis=1) > 0
    inputs = rows.inputs
    nothing = np.zeros(int(counts.sum()))
    return _Examples(inputs.features()[counts], nothing, nothing + 1, _class_start(inputs)[counts])


def _weighted_votes(rows: StackingRows, weights: Floats) -> Floats:
    return np.asarray(np.nan_to_num(rows.soft_targets, nan=0.0) * weights)


def soft_objective(mass: Floats) -> Callable[[Floats, lightgbm.Dataset], tuple[Floats, Floats]]:
    """Return gradient and Hessian of ``-sum(mass * log_softmax(scores))``, as LightGBM wants them.

    The diagonal of the Hessian comes times C / (C - 1), as in LightGBM's own multi-class objective (Friedman
    2001, section 4.6).

    Args:
        mass: ``(N, C)``, the votes' shares times the classes' weights; rows without any do not count.
    """
    counted = mass[mass.sum(axis=1) > 0]
    total = counted.sum(axis=1, keepdims=True)
    factor = mass.shape[1] / max(1, mass.shape[1] - 1)

    def objective(scores: Floats, _: lightgbm.Dataset) -> tuple[Floats, Floats]:
        probabilities = softmax(scores)  # (N, C)
        curvature = factor * total * probabilities * (1 - probabilities)
        return total * probabilities - counted, np.maximum(curvature, np.finfo(np.float32).eps)

    return objective


def soft_metric(mass: Floats) -> Callable[[Floats, lightgbm.Dataset], tuple[str, float, bool]]:
    """Return the weighted cross-entropy against the votes, for early stopping."""
    counted = mass[mass.sum(axis=1) > 0]

    def metric(scores: Floats, _: lightgbm.Dataset) -> tuple[str, float, bool]:
        logs = log_softmax(scores)  # (N, C)
        return "soft_log_loss", float(-(counted * logs).sum() / counted.sum()), False

    return metric


def _class_start(inputs: StackingInputs) -> Floats:
    """Return the soft vote as scores ``(N, C)``: their softmax is the mean of the members, off zero."""
    return np.asarray(np.log(np.maximum(inputs.class_probabilities.mean(axis=1), _LEAST_START)))


def _attribute_examples(rows: StackingRows, index: int) -> _Examples:
    values = rows.attribute_targets[:, index]
    rated = np.flatnonzero(~np.isnan(values))
    start = rows.inputs.attribute_values.mean(axis=1)[rated, index]
    return _Examples(rows.inputs.features()[rated], values[rated], np.ones(len(rated)), start)


def _attribute_file(index: int) -> str:
    return f"attribute-{index}.txt"


def _parse(content: bytes | None) -> lightgbm.Booster | None:
    return None if content is None else lightgbm.Booster(model_str=content.decode())
