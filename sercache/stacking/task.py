"""One stacker of a comparison: fitted and scored round by round, then saved; a task that can be repeated."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sercache.devices import threads_for_table
from sercache.errors import Interrupted, StackingError
from sercache.evaluation.metrics import confusion, macro_f1_of_confusion, mean_ccc
from sercache.evaluation.primary import primary_score
from sercache.events import Context, Event
from sercache.files import read_json, write_json
from sercache.posteriors import ALL_FOLDS, Posteriors
from sercache.recipe import StackingRecipe
from sercache.seeds import derive_seed
from sercache.stacking.base import Prediction, SavedStacker, Stacker
from sercache.stacking.registry import STACKERS
from sercache.stacking.rows import Floats, StackingRows
from sercache.stacking.splits import Splits

_VERSION = 5
"""Part of the input digest: raise it when the same inputs give other results."""

_FIGURES = ("fit_seconds", "predict_seconds", "shares")
_NOT_FITTED_BY = {"stackers", "bootstrap_samples", "repeats", "calibration", "coverage", "thresholds"}
"""Settings that a stacker does not depend on; how often folds were assigned is in the splits."""


@dataclass(frozen=True)
class StackerResult:
    """What a stacker predicted of the scored rows, and how long that took.

    Attributes:
        name: of the stacker.
        posteriors: of the scored rows, in the order of ``Splits.scored``, for each repeat.
        fitting_score: the primary score on the rows it was fitted on, all rounds together; NaN if no row
            counts in it.
        fit_seconds: to fit on all fitting rows.
        predict_seconds: to predict all scored rows once.
        shares: how much each member counts in the stacker fitted on all fitting rows.
        input_digest: of what it was fitted on, see :func:`input_digest`; empty of the linear baseline.
    """

    name: str
    posteriors: tuple[Posteriors, ...]
    fitting_score: float
    fit_seconds: float
    predict_seconds: float
    shares: Mapping[str, float]
    input_digest: str = ""

    @property
    def predictions(self) -> tuple[Prediction, ...]:
        """The predictions of the scored rows, for each repeat."""
        return tuple(
            Prediction(table.class_probabilities, table.attribute_values) for table in self.posteriors
        )


def input_digest(name: str, splits_digest: str, settings: StackingRecipe, seed: int) -> str:
    """Return a digest of everything that a result depends on."""
    relevant = settings.model_dump(mode="json", exclude=_NOT_FITTED_BY)
    content = json.dumps([_VERSION, name, splits_digest, relevant, seed], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def earlier_result(name: str, digest: str, folder: Path, repeats: int) -> StackerResult | None:
    """Return the result in ``folder`` if it was made from the same inputs and is complete."""
    try:
        found = read_json(folder / "result.json")
        if found["input_digest"] != digest:
            return None
        SavedStacker.read(folder, name)
        posteriors = tuple(Posteriors.load(posteriors_path(folder, repeat)) for repeat in range(repeats))
        figures = {figure: found["figures"][figure] for figure in _FIGURES}
        fitting_score = found["figures"][_fitting_key(posteriors[0].classes)]
        return StackerResult(name, posteriors, fitting_score, **figures, input_digest=digest)
    except (OSError, KeyError, TypeError, ValueError, StackingError):
        return None


def read_result(name: str, digest: str, folder: Path, repeats: int) -> StackerResult:
    """Return the result that a task has just written.

    Raises:
        StackingError: it is not there.
    """
    result = earlier_result(name, digest, folder, repeats)
    if result is None:
        raise StackingError(f"{folder}: the result of '{name}' was written and cannot be read; stack again")
    return result


def run_stacker(
    name: str,
    splits: Splits,
    settings: StackingRecipe,
    seed: int,
    digest: str,
    folder: Path,
    *,
    context: Context,
) -> StackerResult:
    """Fit and score a stacker in every round, fit it on all fitting rows, and write the results.

    The seed of a round is the same for all stackers, so all stop on the same rows.

    Raises:
        Interrupted: ``context.should_stop`` returned True; the next call fits the stacker from the start.
    """
    STACKERS[name]  # loads its libraries, whose threads are limited from here on
    with threads_for_table(splits.fitting.inputs.features().size):
        return _run_stacker(name, splits, settings, seed, digest, folder, context)


def _run_stacker(
    name: str,
    splits: Splits,
    settings: StackingRecipe,
    seed: int,
    digest: str,
    folder: Path,
    context: Context,
) -> StackerResult:
    task, total = f"stack/{name}", splits.num_rounds + (splits.held_out is None)
    context.listener(Event("start", task, total=total))
    (folder / "result.json").unlink(missing_ok=True)
    fitting_score = _FittingScore(len(splits.fitting.inputs.classes))
    predicted = [_empty_prediction(splits.scored) for _ in range(splits.repeats)]
    predict_seconds = 0.0

    def fitted(rows: StackingRows, *seed_path: int) -> tuple[Stacker, float]:
        if context.should_stop():
            raise Interrupted(f"stopped while fitting '{name}'; the same command goes on from there")
        stacker = STACKERS[name].from_recipe(settings, derive_seed(seed, "stack", *seed_path))
        started = time.perf_counter()
        stacker.fit(rows)
        return stacker, time.perf_counter() - started

    for done, turn in enumerate(splits.rounds(), start=1):
        stacker, fit_seconds = fitted(turn.fit, turn.repeat, turn.fold)
        started = time.perf_counter()
        prediction = stacker.predict(turn.scored.inputs)
        predict_seconds += time.perf_counter() - started
        for whole, part in zip(predicted[turn.repeat], prediction, strict=True):
            whole[turn.indices] = part
        fitting_score.add(turn.fit, stacker.predict(turn.fit.inputs))
        context.listener(Event("advance", task, done=done, total=total))
    if splits.held_out is None:
        stacker, fit_seconds = fitted(splits.fitting, 0, ALL_FOLDS)
    result = StackerResult(
        name=name,
        posteriors=tuple(_posteriors(name, splits.scored, prediction) for prediction in predicted),
        fitting_score=fitting_score.value,
        fit_seconds=fit_seconds,
        predict_seconds=predict_seconds / splits.repeats,
        shares=dict(stacker.shares_),
        input_digest=digest,
    )
    stacker.save(folder)
    for repeat, posteriors in enumerate(result.posteriors):
        posteriors.save(posteriors_path(folder, repeat))
    figures = {_fitting_key(splits.fitting.inputs.classes): result.fitting_score}
    figures |= {figure: getattr(result, figure) for figure in _FIGURES}
    write_json(folder / "result.json", {"input_digest": digest, "figures": figures})
    context.listener(Event("finish", task))
    return result


def posteriors_path(folder: Path, repeat: int) -> Path:
    """Return the path of a repeat's posteriors; those by the members' own folds have the plain name."""
    return folder / (f"posteriors-{repeat}.parquet" if repeat else "posteriors.parquet")


def _empty_prediction(rows: StackingRows) -> Prediction:
    num_classes, num_attributes = len(rows.inputs.classes), len(rows.inputs.attributes)
    return Prediction(np.empty((len(rows), num_classes)), np.empty((len(rows), num_attributes)))


def _fitting_key(classes: Sequence[str]) -> str:
    return f"fitting_{primary_score(len(classes)).key}"


class _FittingScore:
    """The primary score of predictions that come in parts, one round after the other."""

    def __init__(self, num_classes: int) -> None:
        self._confusions = np.zeros((num_classes, num_classes), dtype=np.int64)
        self._parts: list[tuple[Floats, Floats]] = []

    def add(self, rows: StackingRows, prediction: Prediction) -> None:
        if not rows.inputs.classes:
            self._parts.append((rows.attribute_targets, prediction.attribute_values))
            return
        is_scored = rows.labels >= 0
        predicted = prediction.class_probabilities[is_scored].argmax(axis=1)
        self._confusions += confusion(rows.labels[is_scored], predicted, len(rows.inputs.classes))

    @property
    def value(self) -> float:
        if self._parts:
            truth, predicted = (np.concatenate(values) for values in zip(*self._parts, strict=True))
            return mean_ccc(truth, predicted)
        return float(macro_f1_of_confusion(self._confusions))


def _posteriors(name: str, rows: StackingRows, prediction: Prediction) -> Posteriors:
    inputs = rows.inputs
    return Posteriors(
        member=name,
        ids=inputs.ids,
        classes=inputs.classes,
        attributes=tuple(attribute.name for attribute in inputs.attributes),
        class_probabilities=prediction.class_probabilities,
        attribute_values=prediction.attribute_values,
        folds=rows.folds,
        origins=rows.origins,
        fold_map_digest=rows.fold_map_digest,
    )
