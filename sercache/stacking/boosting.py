"""LightGBM: gradient-boosted trees over the members' posteriors."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import lightgbm
import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from sercache.devices import MANY_CELLS, usable_cores
from sercache.recipe import StackingRecipe
from sercache.seeds import derive_seed
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
from sercache.stacking.shares import EXPLAINED_ROWS, shares_of

_CLASS_MODEL = "classes.txt"
_LEAST_PROBABILITY = 0.01
"""Where the trees start: from further off they would not come back in some hundred small steps."""


class Boosting:
    """One multi-class model for the classes, one regression model per attribute.

    LightGBM has no soft labels for several classes (LightGBM#6013). Either the gradient of the weighted
    cross-entropy against the votes is given to it (``soft_targets: objective``), or a row comes once for each
    class it has votes for, weighted by its share and the class's weight (``soft_targets: duplicate``). On 44
    real models and 4,900 clips with real votes, folds in turn, they are equally good: macro-F1 0.533 and
    0.536, log-loss against the votes 0.936 and 0.935. The first is the default: it has fewer rows to bin, and
    fits in 1.5 instead of 2.1 seconds. Other numbers of leaves (4, 15), rows in a leaf (60) or rates (0.1)
    give 0.528 to 0.532 there: none is searched for.

    Like the neural meta-classifier it starts as the soft vote: the trees learn what to add to the logarithm
    of the members' mean, and to their mean attributes. Early stopping looks at the stopping slice only;
    without one a model gets as many rounds as its patience. Saved in LightGBM's text format; a damaged text
    model can crash the process, so its digest is checked before it is parsed.
    """

    def __init__(self, settings: StackingRecipe, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.shares: dict[str, float] = {}
        self._signature: Signature
        self._class_model: lightgbm.Booster | None
        self._attribute_models: list[lightgbm.Booster | None]

    def fit(self, rows: StackingRows) -> None:
        """Grow the trees."""
        self._signature = Signature.of(rows.inputs)
        rows = self._signature.arrange_rows(rows)
        fit, stop = stopping_slice(rows, self.settings.inner_share, derive_seed(self.seed, "stop"))
        weights = class_weights(rows.soft_targets[has_class_target(rows)], self.settings.balance_exponent)
        self._class_model = self._grow_classes(fit, stop, weights)
        self._attribute_models = [
            self._grow(
                {"objective": "regression"}, _attribute_examples(fit, index), _attribute_examples(stop, index)
            )
            for index in range(len(rows.inputs.attributes))
        ]
        self.shares = (
            self._shares(rows.inputs) if rows.inputs.classes else self._attribute_shares(rows.inputs)
        )

    def predict(self, inputs: StackingInputs) -> Prediction:
        """Return the trees' probabilities, and attribute values within their scale.

        Where there was nothing to learn from, the members' mean stands in.
        """
        arranged = self._signature.arrange(inputs)
        features = arranged.features()
        scores = _class_start(arranged)  # (N, C)
        attributes = arranged.attribute_values.mean(axis=1)
        if len(arranged) and self._class_model is not None:
            scores = scores + np.asarray(self._class_model.predict(features, raw_score=True, num_threads=1))
        for index, (model, attribute) in enumerate(
            zip(self._attribute_models, arranged.attributes, strict=True)
        ):
            if len(arranged) and model is not None:
                values = attributes[:, index] + np.asarray(model.predict(features, num_threads=1))
                attributes[:, index] = np.clip(values, attribute.low, attribute.high)
        return Prediction(softmax(scores, axis=1) if arranged.classes else scores, attributes)

    def save(self, folder: Path) -> None:
        """Write one text file per model."""
        models = {_CLASS_MODEL: self._class_model} | {
            _attribute_file(index): model for index, model in enumerate(self._attribute_models)
        }
        files = {
            name: model.model_to_string().encode() for name, model in models.items() if model is not None
        }
        SavedStacker("lightgbm", self._signature, {"shares": self.shares}, files).write(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote."""
        saved = SavedStacker.read(folder, "lightgbm")
        loaded = cls(StackingRecipe(), 0)
        loaded._signature, loaded.shares = saved.signature, dict(saved.learned["shares"])
        loaded._class_model = _parse(saved.files.get(_CLASS_MODEL))
        loaded._attribute_models = [
            _parse(saved.files.get(_attribute_file(index)))
            for index in range(len(saved.signature.attributes))
        ]
        return loaded

    def _shares(self, inputs: StackingInputs) -> dict[str, float]:
        """Return how much each member counts in what the trees add to the vote."""
        if self._class_model is None:
            return {}
        features = inputs.features()[:EXPLAINED_ROWS]
        values = np.asarray(self._class_model.predict(features, pred_contrib=True, num_threads=1))
        by_class = values.reshape(len(features), len(inputs.classes), -1)[:, :, :-1]  # the last is the mean
        return shares_of(by_class.transpose(0, 2, 1), inputs)

    def _attribute_shares(self, inputs: StackingInputs) -> dict[str, float]:
        """Return how much each member counts in what the trees add to the mean of the attributes."""
        features = inputs.features()[:EXPLAINED_ROWS]
        values = [
            np.asarray(model.predict(features, pred_contrib=True, num_threads=1))[:, :-1]  # (N, F)
            for model in self._attribute_models
            if model is not None
        ]
        return shares_of(np.stack(values, axis=2), inputs) if values else {}

    def _grow_classes(
        self, fit: StackingRows, stop: StackingRows, weights: Floats
    ) -> lightgbm.Booster | None:
        num_classes = len(weights)
        if not num_classes:
            return None
        if self.settings.lightgbm.soft_targets == "duplicate":
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
        settings = self.settings.lightgbm
        parameters = objective | {
            "learning_rate": settings.learning_rate,
            "num_leaves": settings.num_leaves,
            "min_data_in_leaf": settings.min_rows_per_leaf,
            "feature_pre_filter": False,
            "max_bin": settings.max_bin,
            "num_threads": settings.threads or _threads_for(fit.features),
            "seed": derive_seed(self.seed, "trees") % 2**31,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }
        grown_on = lightgbm.Dataset(
            fit.features, fit.targets, weight=fit.weights, init_score=fit.start, params=parameters
        )
        if not len(stop.targets):
            return lightgbm.train(parameters, grown_on, min(settings.patience, settings.rounds))
        stopped_on = lightgbm.Dataset(
            stop.features, stop.targets, weight=stop.weights, init_score=stop.start, reference=grown_on
        )
        model = lightgbm.train(
            parameters,
            grown_on,
            settings.rounds,
            valid_sets=[stopped_on],
            feval=metric,
            callbacks=[lightgbm.early_stopping(settings.patience, verbose=False)],
        )
        return lightgbm.Booster(model_str=model.model_to_string(num_iteration=model.best_iteration))


def _threads_for(features: Floats) -> int:
    """Return all cores for many cells; for few, threads would wait for each other longer than they work."""
    return usable_cores() if features.size >= MANY_CELLS else 1


@dataclass(frozen=True)
class _Examples:
    """Features ``(E, F)``, targets and weights ``(E,)``, and where each starts: ``(E, C)`` or ``(E,)``."""

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
    """Return the rows that weigh anything, once each; what they should be is for the objective to know."""
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
        probabilities = softmax(scores, axis=1)
        curvature = factor * total * probabilities * (1 - probabilities)
        return total * probabilities - counted, np.maximum(curvature, np.finfo(np.float32).eps)

    return objective


def soft_metric(mass: Floats) -> Callable[[Floats, lightgbm.Dataset], tuple[str, float, bool]]:
    """Return the weighted cross-entropy against the votes, for early stopping."""
    counted = mass[mass.sum(axis=1) > 0]

    def metric(scores: Floats, _: lightgbm.Dataset) -> tuple[str, float, bool]:
        logs = log_softmax(scores, axis=1)
        return "soft_log_loss", float(-(counted * logs).sum() / counted.sum()), False

    return metric


def _class_start(inputs: StackingInputs) -> Floats:
    """Return the soft vote as scores ``(N, C)``: their softmax is the mean of the members, off zero."""
    return np.asarray(np.log(np.maximum(inputs.class_probabilities.mean(axis=1), _LEAST_PROBABILITY)))


def _attribute_examples(rows: StackingRows, index: int) -> _Examples:
    values = rows.attribute_targets[:, index]
    rated = np.flatnonzero(~np.isnan(values))
    start = rows.inputs.attribute_values.mean(axis=1)[rated, index]
    return _Examples(rows.inputs.features()[rated], values[rated], np.ones(len(rated)), start)


def _attribute_file(index: int) -> str:
    return f"attribute-{index}.txt"


def _parse(content: bytes | None) -> lightgbm.Booster | None:
    return None if content is None else lightgbm.Booster(model_str=content.decode())
