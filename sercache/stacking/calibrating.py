"""Calibrating the stacker that a comparison recommends, on rows that it was not fitted on."""

from pathlib import Path

import numpy as np

from sercache.evaluation.calibration.assessment import CalibrationReport, Predicted, evaluate_calibration
from sercache.evaluation.calibration.fitted import Calibration
from sercache.events import Context
from sercache.posteriors import ALL_FOLDS
from sercache.recipe import StackingRecipe
from sercache.seeds import derive_seed
from sercache.stacking.rows import Floats, StackingRows
from sercache.stacking.splits import Splits
from sercache.stacking.task import StackerResult, earlier_result, input_digest, run_stacker

CALIBRATION_NAME = "calibration.json"
CROSS_FITTED_NAME = "cross-fitted"
"""The folder, in a stacker's folder, of the cross-fitted predictions of the fitting rows."""


def calibrate(
    splits: Splits,
    result: StackerResult,
    settings: StackingRecipe,
    seed: int,
    folder: Path,
    context: Context,
) -> CalibrationReport | None:
    """Evaluate all ways of calibrating a stacker, and save the one that the recipe asks for beside it.

    What is calibrated are cross-fitted probabilities of the fitting rows: each row's by stackers that were
    fitted on the other folds. It is scored on the held-out rows; where there are none, on each fold in turn,
    with the other folds' cross-fitted probabilities. (Those come of stackers that were fitted on the scored
    fold too, as members' posteriors do: a dependence through a handful of numbers.)

    Args:
        splits: of the comparison.
        result: of the stacker.
        settings: calibrator, coverage, thresholds.
        seed: of the comparison.
        folder: of the fitted stacker.
        context: receives events, and says when to stop.

    Returns:
        The report; None where there are no folds to cross-fit over, or no classes to calibrate.

    Raises:
        Interrupted: ``context.should_stop`` returned True.
    """
    folds = np.unique(splits.assignments[0])
    if ALL_FOLDS in folds or len(folds) < 2 or not splits.fitting.inputs.classes:
        return None
    if splits.held_out is None:
        crossed = result.predictions[0].class_probabilities
    else:
        in_turn = cross_fitted(splits, result.name, settings, seed, folder / CROSS_FITTED_NAME, context)
        crossed = in_turn.predictions[0].class_probabilities
    fitting = _predicted(splits.fitting, crossed)
    if splits.held_out is None:
        rounds = [
            (
                fitting.take(np.flatnonzero(splits.assignments[0] != fold).astype(np.int64)),
                fitting.take(np.flatnonzero(splits.assignments[0] == fold).astype(np.int64)),
            )
            for fold in folds
        ]
    else:
        rounds = [(fitting, _predicted(splits.held_out, result.predictions[0].class_probabilities))]
    classes = splits.fitting.inputs.classes
    Calibration.fit(
        fitting.probabilities,
        fitting.labels,
        classes,
        kind=settings.calibration,
        coverage=settings.coverage,
        tunes_thresholds=settings.thresholds,
    ).save(folder / CALIBRATION_NAME)
    return evaluate_calibration(
        rounds,
        classes,
        stacker=result.name,
        chosen=settings.calibration,
        coverage=settings.coverage,
        samples=settings.bootstrap_samples,
        seed=derive_seed(seed, "bootstrap"),
    )


def cross_fitted(
    splits: Splits,
    name: str,
    settings: StackingRecipe,
    seed: int,
    folder: Path,
    context: Context,
) -> StackerResult:
    """Predict each fitting row by stackers that were fitted on the other folds; saved in ``folder``.

    Raises:
        Interrupted: ``context.should_stop`` returned True.
    """
    in_turn = Splits(splits.fitting, None, splits.assignments[:1])
    digest = input_digest(name, in_turn.digest(), settings, seed)
    result = earlier_result(name, digest, folder, 1)
    if result is None:
        result = run_stacker(name, in_turn, settings, seed, digest, folder, context=context)
    return result


def _predicted(rows: StackingRows, probabilities: Floats) -> Predicted:
    return Predicted(probabilities, rows.soft_targets, rows.labels, rows.speakers)
