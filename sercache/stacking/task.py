"""One stacker of a comparison: fitted and judged round by round, then kept; a task that can be done again."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sercache.errors import Interrupted, StackingError
from sercache.evaluation.metrics import confusion, macro_f1_of_confusion
from sercache.events import Event, Listener
from sercache.files import read_json, write_json
from sercache.interrupts import ShouldStop
from sercache.posteriors import ALL_FOLDS, Posteriors
from sercache.recipe import StackingRecipe
from sercache.seeds import derive_seed
from sercache.stacking.protocol import Prediction, Stacker
from sercache.stacking.registry import STACKERS
from sercache.stacking.rows import StackingRows
from sercache.stacking.saved import SavedStacker

_VERSION = 2
"""Part of the input digest: raise it when the same inputs give other results."""

_FIGURES = ("fitting_macro_f1", "fit_seconds", "predict_seconds", "shares")


@dataclass(frozen=True)
class Plan:
    """Who is fitted on what and judged on what.

    With held-out rows there is one round: fit on all ``fitting`` rows, judge on the held-out ones. Without,
    the folds take turns: fit on the others' rows, judge on this one's, so that no stacker, and no early
    stopping in it, has seen a speaker it is judged on.

    Attributes:
        fitting: out-of-fold rows.
        held_out: rows of the test split; None for folds in turn.
    """

    fitting: StackingRows
    held_out: StackingRows | None

    @property
    def rounds(self) -> tuple[int, ...]:
        """The fold that is judged in each round; ``ALL_FOLDS`` for the held-out rows."""
        if self.held_out is not None:
            return (ALL_FOLDS,)
        return tuple(int(fold) for fold in np.unique(self.fitting.folds))

    @property
    def judged(self) -> StackingRows:
        """All judged rows, round by round."""
        if self.held_out is not None:
            return self.held_out
        return self.fitting.take(np.argsort(self.fitting.folds, kind="stable").astype(np.int64))

    def rows_of(self, fold: int) -> tuple[StackingRows, StackingRows]:
        """Return the rows to fit on and the rows to judge on in the round of ``fold``."""
        if self.held_out is not None:
            return self.fitting, self.held_out
        judged = self.fitting.folds == fold
        return self.fitting.where(~judged), self.fitting.where(judged)

    def digest(self) -> str:
        """Return a digest of everything the results follow from, apart from settings and seed."""
        parts = [self.fitting.digest(), "folds" if self.held_out is None else self.held_out.digest()]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class StackerResult:
    """What a stacker predicted of the judged rows, and what that took.

    Attributes:
        name: of the stacker.
        posteriors: of the judged rows, in the order of :attr:`Plan.judged`.
        fitting_macro_f1: on the rows it was fitted on, all rounds together; NaN if none has a consensus.
        fit_seconds: to fit on all fitting rows.
        predict_seconds: to predict all judged rows.
        shares: how much each member counts in the stacker fitted on all fitting rows.
    """

    name: str
    posteriors: Posteriors
    fitting_macro_f1: float
    fit_seconds: float
    predict_seconds: float
    shares: Mapping[str, float]

    @property
    def prediction(self) -> Prediction:
        """The judged rows' prediction."""
        return Prediction(self.posteriors.class_probabilities, self.posteriors.attribute_values)


def input_digest(name: str, plan_digest: str, settings: StackingRecipe, seed: int) -> str:
    """Return what must be equal for an earlier result to stand."""
    relevant = settings.model_dump(mode="json", exclude={"stackers", "bootstrap_samples"})
    content = json.dumps([_VERSION, name, plan_digest, relevant, seed], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def earlier_result(name: str, digest: str, folder: Path) -> StackerResult | None:
    """Return the result that lies in ``folder`` if it follows from the same inputs and is whole."""
    try:
        found = read_json(folder / "result.json")
        if found["input_digest"] != digest:
            return None
        SavedStacker.read(folder, name)
        posteriors = Posteriors.load(folder / "posteriors.parquet")
        return StackerResult(name, posteriors, **{figure: found["figures"][figure] for figure in _FIGURES})
    except (OSError, KeyError, TypeError, ValueError, StackingError):
        return None


def run_stacker(
    name: str,
    plan: Plan,
    settings: StackingRecipe,
    seed: int,
    digest: str,
    folder: Path,
    listener: Listener,
    should_stop: ShouldStop,
) -> StackerResult:
    """Fit and judge a stacker in every round, fit it on all fitting rows, and write what came out.

    The seed of a round is the same for all stackers: they stop on the same rows.

    Raises:
        Interrupted: ``should_stop`` said so; the stacker is done again from its start.
    """
    stacker_class = STACKERS[name]
    task, rounds = f"stack/{name}", plan.rounds
    total = len(rounds) + (plan.held_out is None)
    listener(Event("start", task, total=total))
    (folder / "result.json").unlink(missing_ok=True)
    num_classes = len(plan.fitting.inputs.classes)
    seen = np.zeros((num_classes, num_classes), dtype=np.int64)
    predictions: list[Prediction] = []
    predict_seconds = 0.0

    def fitted(fold: int, rows: StackingRows) -> tuple[Stacker, float]:
        if should_stop():
            raise Interrupted(f"stopped while fitting '{name}'; the same command goes on from there")
        stacker = stacker_class(settings, derive_seed(seed, "stack", fold))
        started = time.perf_counter()
        stacker.fit(rows)
        return stacker, time.perf_counter() - started

    for done, fold in enumerate(rounds, start=1):
        fit, judged = plan.rows_of(fold)
        stacker, fit_seconds = fitted(fold, fit)
        started = time.perf_counter()
        predictions.append(stacker.predict(judged.inputs))
        predict_seconds += time.perf_counter() - started
        seen += _confusion(fit, stacker.predict(fit.inputs))
        listener(Event("advance", task, done=done, total=total))
    if plan.held_out is None:
        stacker, fit_seconds = fitted(ALL_FOLDS, plan.fitting)
    result = StackerResult(
        name=name,
        posteriors=_posteriors(name, plan.judged, predictions),
        fitting_macro_f1=float(macro_f1_of_confusion(seen)),
        fit_seconds=fit_seconds,
        predict_seconds=predict_seconds,
        shares=dict(stacker.shares),
    )
    stacker.save(folder)
    result.posteriors.save(folder / "posteriors.parquet")
    figures = {figure: getattr(result, figure) for figure in _FIGURES}
    write_json(folder / "result.json", {"input_digest": digest, "figures": figures})
    listener(Event("finish", task))
    return result


def _confusion(rows: StackingRows, prediction: Prediction) -> NDArray[np.int64]:
    judged = rows.labels >= 0
    predicted = prediction.class_probabilities[judged].argmax(axis=1)
    return confusion(rows.labels[judged], predicted, len(rows.inputs.classes))


def _posteriors(name: str, judged: StackingRows, predictions: Sequence[Prediction]) -> Posteriors:
    inputs = judged.inputs
    return Posteriors(
        member=name,
        ids=inputs.ids,
        classes=inputs.classes,
        attributes=tuple(attribute.name for attribute in inputs.attributes),
        class_probabilities=np.concatenate([one.class_probabilities for one in predictions]),
        attribute_values=np.concatenate([one.attribute_values for one in predictions]),
        folds=judged.folds,
        origins=judged.origins,
        fold_map_digest=judged.fold_map_digest,
    )
