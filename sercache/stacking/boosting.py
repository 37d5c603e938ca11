"""LightGBM: gradient-boosted trees over the members' posteriors."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import lightgbm
import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from sercache.recipe import StackingRecipe
from sercache.seeds import derive_seed
from sercache.stacking.protocol import Prediction
from sercache.stacking.rows import Floats, StackingInputs, StackingRows
from sercache.stacking.saved import SavedStacker, Signature
from sercache.stacking.targets import class_weights, has_class_target, stopping_slice

_CLASS_MODEL = "classes.txt"
_LEAST_PROBABILITY = 1e-6


class Boosting:
    """One multi-class model for the classes, one regression model per attribute.

    LightGBM has no soft labels for several classes, so a row comes once for each class it has votes for,
    weighted by its share and the class's weight. Like the neural meta-classifier it starts as the soft vote:
    the trees learn what to add to the logarithm of the members' mean, and to their mean attributes. Early
    stopping looks at the stopping slice only; without one a model gets as many rounds as its patience. Saved
    in LightGBM's text format; a damaged text model can crash the process, so its digest is checked before it
    is parsed.
    """

    def __init__(self, settings: StackingRecipe, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self._signature: Signature
        self._class_model: lightgbm.Booster | None
        self._attribute_models: list[lightgbm.Booster | None]

    def fit(self, rows: StackingRows) -> None:
        """Grow the trees."""
        self._signature = Signature.of(rows.inputs)
        fit, stop = stopping_slice(rows, self.settings.inner_share, derive_seed(self.seed, "stop"))
        weights = class_weights(rows.soft_targets[has_class_target(rows)], self.settings.balance_exponent)
        parameters = {"objective": "multiclass", "num_class": len(rows.inputs.classes)}
        self._class_model = self._grow(
            parameters, _class_examples(fit, weights), _class_examples(stop, weights)
        )
        self._attribute_models = [
            self._grow(
                {"objective": "regression"}, _attribute_examples(fit, index), _attribute_examples(stop, index)
            )
            for index in range(len(rows.inputs.attributes))
        ]

    def predict(self, inputs: StackingInputs) -> Prediction:
        """Return the trees' probabilities, and attribute values within their scale.

        Where there was nothing to learn from, the members' mean stands in.
        """
        arranged = self._signature.arrange(inputs)
        features = arranged.features()
        scores = _class_start(arranged)
        attributes = arranged.attribute_values.mean(axis=1)
        if len(arranged) and self._class_model is not None:
            scores = scores + np.asarray(self._class_model.predict(features, raw_score=True, num_threads=1))
        for index, (model, attribute) in enumerate(
            zip(self._attribute_models, arranged.attributes, strict=True)
        ):
            if len(arranged) and model is not None:
                values = attributes[:, index] + np.asarray(model.predict(features, num_threads=1))
                attributes[:, index] = np.clip(values, attribute.low, attribute.high)
        return Prediction(softmax(scores, axis=1), attributes)

    def save(self, folder: Path) -> None:
        """Write one text file per model."""
        models = {_CLASS_MODEL: self._class_model} | {
            _attribute_file(index): model for index, model in enumerate(self._attribute_models)
        }
        files = {
            name: model.model_to_string().encode() for name, model in models.items() if model is not None
        }
        SavedStacker("lightgbm", self._signature, {}, files).write(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote."""
        saved = SavedStacker.read(folder, "lightgbm")
        loaded = cls(StackingRecipe(), 0)
        loaded._signature = saved.signature
        loaded._class_model = _parse(saved.files.get(_CLASS_MODEL))
        loaded._attribute_models = [
            _parse(saved.files.get(_attribute_file(index)))
            for index in range(len(saved.signature.attributes))
        ]
        return loaded

    def _grow(
        self, objective: dict[str, Any], fit: "_Examples", stop: "_Examples"
    ) -> lightgbm.Booster | None:
        if not len(fit.targets):
            return None
        settings = self.settings.lightgbm
        parameters = objective | {
            "learning_rate": settings.learning_rate,
            "num_leaves": settings.num_leaves,
            "min_data_in_leaf": settings.min_rows_per_leaf,
            "feature_pre_filter": False,
            "num_threads": settings.threads,
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
            callbacks=[lightgbm.early_stopping(settings.patience, verbose=False)],
        )
        return lightgbm.Booster(model_str=model.model_to_string(num_iteration=model.best_iteration))


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


def _class_start(inputs: StackingInputs) -> Floats:
    """Return the soft vote as scores ``(N, C)``: their softmax is the mean of the members."""
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
