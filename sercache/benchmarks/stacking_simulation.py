"""Compare stackers with the Bayes rule on simulated members."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sercache.benchmarks.simulated_members import SimulatedMembers
from sercache.errors import Interrupted
from sercache.evaluation.metrics import macro_f1
from sercache.events import QUIET, Context, Event
from sercache.recipe import StackingRecipe
from sercache.seeds import derive_seed
from sercache.stacking.base import Prediction
from sercache.stacking.registry import STACKERS
from sercache.stacking.rows import StackingRows

_NEW_ROWS = 40_000
_CLASSES = 4


@dataclass(frozen=True)
class LearningCurve:
    """Macro-F1 on new speakers by number of fitting rows, and of the Bayes rule on the same rows."""

    sizes: tuple[int, ...]
    macro_f1: dict[str, tuple[float, ...]]
    bayes: float


def learning_curves(
    sizes: Sequence[int],
    stackers: Sequence[str],
    *,
    members: int = 6,
    new_rows: int = _NEW_ROWS,
    seed: int = 0,
    context: Context = QUIET,
) -> LearningCurve:
    """Fit stackers on more and more rows, and evaluate them on the same new speakers.

    Raises:
        Interrupted: ``context.should_stop`` returned True.
    """
    truth = SimulatedMembers.faulty(members, _CLASSES, seed=seed)
    new, bayes = truth.draw(new_rows, derive_seed(seed, "new"), "n")
    every, _ = truth.draw(max(sizes), derive_seed(seed, "fit"))
    total, done = len(sizes) * len(stackers), 0
    context.listener(Event("start", "learning curves", total=total))
    found: dict[str, list[float]] = {name: [] for name in stackers}
    for size in sizes:
        rows = every.take(np.arange(size, dtype=np.int64))
        for name in stackers:
            if context.should_stop():
                raise Interrupted("stopped; nothing was written")
            stacker = STACKERS[name].from_recipe(StackingRecipe(), seed)
            stacker.fit(rows)
            found[name].append(macro_f1_on(new, stacker.predict(new.inputs)))
            done += 1
            context.listener(Event("advance", "learning curves", done=done, total=total))
    curves = {name: tuple(scores) for name, scores in found.items()}
    return LearningCurve(
        tuple(sizes), curves, macro_f1(*_known(new, bayes.argmax(axis=1)), len(new.inputs.classes))
    )


def _known(rows: StackingRows, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = rows.labels >= 0
    return rows.labels[known], predicted[known]


def macro_f1_on(rows: StackingRows, prediction: Prediction) -> float:
    """Return the macro-F1 of ``prediction`` on the rows that have a consensus class."""
    predicted = prediction.class_probabilities.argmax(axis=1)
    return macro_f1(*_known(rows, predicted), len(rows.inputs.classes))
