"""Stackers, intervals and p-values held against a truth that is known because it was simulated."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sercache.benchmarks.simulated_members import SimulatedMembers, some_members
from sercache.errors import Interrupted
from sercache.evaluation.bootstrap import SpeakerBootstrap, SumMetric, confusion_metric
from sercache.evaluation.metrics import macro_f1, macro_f1_of_confusion
from sercache.events import Event, Listener, ignore
from sercache.interrupts import ShouldStop, never
from sercache.recipe import StackingRecipe
from sercache.seeds import derive_seed
from sercache.stacking.protocol import Prediction
from sercache.stacking.registry import STACKERS
from sercache.stacking.rows import StackingRows

_NEW_ROWS = 40_000
_FITTING_ROWS = 800
_CLASSES = 4


@dataclass(frozen=True)
class LearningCurve:
    """Macro-F1 on new speakers by number of fitting rows, and of the Bayes rule on the same rows."""

    sizes: tuple[int, ...]
    macro_f1: dict[str, tuple[float, ...]]
    bayes: float


@dataclass(frozen=True)
class Coverage:
    """How often 95 % intervals over so many judged speakers held the true macro-F1, or difference.

    Attributes:
        speakers: judged.
        score: of a logistic stacker that was fitted on other speakers.
        difference: of that to the soft vote.
    """

    speakers: int
    score: float
    difference: float


@dataclass(frozen=True)
class NullPValues:
    """P-values of a difference that is none, between two votes of members that are all alike.

    Attributes:
        speakers: judged in each corpus.
        p_values: of each simulated corpus, sorted.
    """

    speakers: int
    p_values: tuple[float, ...]

    def share_below(self, level: float) -> float:
        """Return how many are below a level; that level itself, were they uniform."""
        return float(np.mean(np.asarray(self.p_values) < level))

    @property
    def distance(self) -> float:
        """The largest distance of their distribution to the uniform one (Kolmogorov and Smirnov)."""
        from scipy.stats import kstest

        return float(kstest(self.p_values, "uniform").statistic)


def learning_curves(
    sizes: Sequence[int],
    stackers: Sequence[str],
    *,
    members: int = 6,
    new_rows: int = _NEW_ROWS,
    seed: int = 0,
    listener: Listener = ignore,
    should_stop: ShouldStop = never,
) -> LearningCurve:
    """Fit stackers on ever more rows, and judge them on the same new speakers.

    Raises:
        Interrupted: ``should_stop`` said so.
    """
    truth = SimulatedMembers.faulty(members, _CLASSES, seed=seed)
    new, bayes = truth.draw(new_rows, derive_seed(seed, "new"), "n")
    every, _ = truth.draw(max(sizes), derive_seed(seed, "fit"))
    total, done = len(sizes) * len(stackers), 0
    listener(Event("start", "learning curves", total=total))
    found: dict[str, list[float]] = {name: [] for name in stackers}
    for size in sizes:
        rows = every.take(np.arange(size, dtype=np.int64))
        for name in stackers:
            if should_stop():
                raise Interrupted("stopped; nothing was written")
            stacker = STACKERS[name](StackingRecipe(), seed)
            stacker.fit(rows)
            found[name].append(_macro_f1(new, stacker.predict(new.inputs)))
            done += 1
            listener(Event("advance", "learning curves", done=done, total=total))
    curves = {name: tuple(scores) for name, scores in found.items()}
    return LearningCurve(
        tuple(sizes), curves, macro_f1(*_known(new, bayes.argmax(axis=1)), len(new.inputs.classes))
    )


def interval_coverage(
    speakers: int,
    corpora: int,
    *,
    samples: int = 1000,
    new_rows: int = _NEW_ROWS,
    seed: int = 0,
    listener: Listener = ignore,
    should_stop: ShouldStop = never,
) -> Coverage:
    """Simulate corpora: fit, judge on some speakers, and see whether intervals hold what is true of all.

    Raises:
        Interrupted: ``should_stop`` said so.
    """
    truth = SimulatedMembers.faulty(4, _CLASSES, seed=seed)
    everyone, _ = truth.draw(new_rows, derive_seed(seed, "everyone"), "e")
    task = f"coverage, {speakers} speakers"
    listener(Event("start", task, total=corpora))
    held = np.zeros(2)
    vote = STACKERS["soft-vote"](StackingRecipe(), seed)
    for corpus in range(corpora):
        if should_stop():
            raise Interrupted("stopped; nothing was written")
        fit, _ = truth.draw(_FITTING_ROWS, derive_seed(seed, "fit", corpus))
        judged, _ = truth.draw(40 * speakers, derive_seed(seed, "judged", speakers, corpus), "j")
        learned = STACKERS["logistic"](StackingRecipe(), seed)
        learned.fit(fit)
        vote.fit(fit)
        bootstrap = SpeakerBootstrap(judged.speakers, samples, derive_seed(seed, "bootstrap", corpus))
        ours, theirs = (_metric(judged, one.predict(judged.inputs)) for one in (learned, vote))
        true = [_macro_f1(everyone, one.predict(everyone.inputs)) for one in (learned, vote)]
        estimate, difference = bootstrap.estimate(ours), bootstrap.difference(ours, theirs)
        held += [
            estimate.low <= true[0] <= estimate.high,
            difference.low <= true[0] - true[1] <= difference.high,
        ]
        listener(Event("advance", task, done=corpus + 1, total=corpora))
    return Coverage(speakers, *(held / corpora).tolist())


def null_p_values(
    speakers: int,
    corpora: int,
    *,
    samples: int = 1000,
    seed: int = 0,
    listener: Listener = ignore,
    should_stop: ShouldStop = never,
) -> NullPValues:
    """Simulate corpora of members that are all alike, and compare the votes of two halves of them.

    Raises:
        Interrupted: ``should_stop`` said so.
    """
    truth = SimulatedMembers.alike(4, _CLASSES)
    task = f"p-values, {speakers} speakers"
    listener(Event("start", task, total=corpora))
    found = []
    for corpus in range(corpora):
        if should_stop():
            raise Interrupted("stopped; nothing was written")
        rows, _ = truth.draw(40 * speakers, derive_seed(seed, "null", speakers, corpus))
        halves = []
        for places in ([0, 1], [2, 3]):
            own = some_members(rows, places)
            vote = STACKERS["soft-vote"](StackingRecipe(), seed)
            vote.fit(own)
            halves.append(_metric(own, vote.predict(own.inputs)))
        bootstrap = SpeakerBootstrap(rows.speakers, samples, derive_seed(seed, "bootstrap", corpus))
        found.append(bootstrap.difference(*halves).p_value)
        listener(Event("advance", task, done=corpus + 1, total=corpora))
    return NullPValues(speakers, tuple(sorted(found)))


def _known(rows: StackingRows, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = rows.labels >= 0
    return rows.labels[known], predicted[known]


def _macro_f1(rows: StackingRows, prediction: Prediction) -> float:
    predicted = prediction.class_probabilities.argmax(axis=1)
    return macro_f1(*_known(rows, predicted), len(rows.inputs.classes))


def _metric(rows: StackingRows, prediction: Prediction) -> SumMetric:
    predicted = prediction.class_probabilities.argmax(axis=1)
    return confusion_metric(rows.labels, predicted, len(rows.inputs.classes), macro_f1_of_confusion)
