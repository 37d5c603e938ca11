"""Check intervals and p-values against a simulated truth.

Corpora are evaluated as :mod:`sercache.stacking.comparison` evaluates them: on speakers apart, or by folds in
turn over several assignments of speakers to folds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sercache.benchmarks.simulated_members import ROWS_PER_SPEAKER, SimulatedMembers, some_members
from sercache.benchmarks.stacking_simulation import macro_f1_on
from sercache.errors import Interrupted
from sercache.evaluation.bootstrap import SpeakerBootstrap, SumMetric, confusion_metric, mean_over
from sercache.evaluation.metrics import macro_f1_of_confusion
from sercache.events import QUIET, Context, Event
from sercache.recipe import StackingRecipe
from sercache.seeds import derive_seed
from sercache.stacking.base import Stacker
from sercache.stacking.registry import STACKERS
from sercache.stacking.rows import StackingRows
from sercache.stacking.splits import Splits, make_splits

_FITTING_ROWS = 800
_CLASSES = 4
_WORLDS = 4
_TRUTH_ROWS_PER_JUDGED = 50
"""Rows of the true score: its error is then a seventh of that of the evaluated rows."""


@dataclass(frozen=True)
class Coverage:
    """How often 95 % intervals over so many speakers contained the true macro-F1, or difference.

    Attributes:
        speakers: evaluated.
        repeats: assignments of these speakers to folds in turn; None: stackers were fitted on other speakers.
        corpora: simulated.
        score: of a logistic stacker.
        difference: of that to the soft vote.
    """

    speakers: int
    repeats: int | None
    corpora: int
    score: float
    difference: float


@dataclass(frozen=True)
class NullPValues:
    """P-values of a difference that is none, between stackers of halves of members that are all alike.

    Attributes:
        stacker: what both are.
        speakers: evaluated in each corpus.
        repeats: as of :class:`Coverage`.
        p_values: of each simulated corpus, sorted.
    """

    stacker: str
    speakers: int
    repeats: int | None
    p_values: tuple[float, ...]

    def share_below(self, level: float) -> float:
        """Return how many are below a level; that level itself, were they uniform."""
        return float(np.mean(np.asarray(self.p_values) < level))

    @property
    def distance(self) -> float:
        """The largest distance of their distribution to the uniform one (Kolmogorov and Smirnov)."""
        from scipy.stats import kstest

        return float(kstest(self.p_values, "uniform").statistic)


def interval_coverage(
    speakers: int,
    corpora: int,
    *,
    repeats: int | None = None,
    samples: int = 1000,
    seed: int = 0,
    context: Context = QUIET,
) -> Coverage:
    """Simulate corpora: fit, evaluate on some speakers, and count how often intervals contain the true score.

    The corpora come from four sets of members, which see, err and exaggerate differently. What is true is the
    macro-F1, on very many other speakers, of the same stackers; for folds in turn, of their mean.

    Args:
        speakers: evaluated, with 40 rows each.
        corpora: how many.
        repeats: assignments of speakers to folds in turn; None: the stackers are fitted on other speakers.
        samples: bootstrap draws.
        seed: of everything.
        context: receives events, and can stop the work.

    Raises:
        Interrupted: ``context.should_stop`` returned True.
    """
    task = f"coverage, {speakers} speakers{_in_turn(repeats)}"
    context.listener(Event("start", task, total=corpora))
    held = np.zeros(2)
    done = 0
    for world in range(_WORLDS):
        truth = SimulatedMembers.faulty(4, _CLASSES, seed=derive_seed(seed, "world", world))
        rows_of_truth = _TRUTH_ROWS_PER_JUDGED * ROWS_PER_SPEAKER * speakers
        everyone, _ = truth.draw(rows_of_truth, derive_seed(seed, "everyone", world), "e")
        for corpus in range(world, corpora, _WORLDS):
            if context.should_stop():
                raise Interrupted("stopped; nothing was written")
            splits = _splits(truth, speakers, repeats, derive_seed(seed, "coverage", speakers, corpus))
            scores, true = [], []
            for name in ("logistic", "soft-vote"):
                score, fitted = _score(splits, name, seed)
                scores.append(score)
                true.append(
                    np.mean([macro_f1_on(everyone, model.predict(everyone.inputs)) for model in fitted])
                )
            bootstrap = SpeakerBootstrap(
                splits.scored.speakers, samples, derive_seed(seed, "bootstrap", corpus)
            )
            estimate, difference = bootstrap.estimate(scores[0]), bootstrap.difference(*scores)
            held += [
                estimate.low <= true[0] <= estimate.high,
                difference.low <= true[0] - true[1] <= difference.high,
            ]
            done += 1
            context.listener(Event("advance", task, done=done, total=corpora))
    return Coverage(speakers, repeats, corpora, *(held / corpora).tolist())


def null_p_values(
    speakers: int,
    corpora: int,
    *,
    stacker: str = "soft-vote",
    repeats: int | None = None,
    samples: int = 1000,
    seed: int = 0,
    context: Context = QUIET,
) -> NullPValues:
    """Simulate corpora of members that are all alike, and compare stackers of two halves of them.

    Which half is called the first is chance, so neither stacker is better by design. A learned one may have
    was favoured by its rows, which a p-value over the evaluated speakers may find.

    Args:
        speakers: evaluated, with 40 rows each.
        corpora: how many.
        stacker: of both halves.
        repeats: assignments of speakers to folds in turn; None: the stackers are fitted on other speakers.
        samples: bootstrap draws.
        seed: of everything.
        context: receives events, and can stop the work.

    Raises:
        Interrupted: ``context.should_stop`` returned True.
    """
    truth = SimulatedMembers.alike(4, _CLASSES)
    task = f"p-values of {stacker}, {speakers} speakers{_in_turn(repeats)}"
    context.listener(Event("start", task, total=corpora))
    found = []
    for corpus in range(corpora):
        if context.should_stop():
            raise Interrupted("stopped; nothing was written")
        splits = _splits(truth, speakers, repeats, derive_seed(seed, "null", speakers, corpus))
        halves = [_score(_of_members(splits, members), stacker, seed)[0] for members in ([0, 1], [2, 3])]
        bootstrap = SpeakerBootstrap(splits.scored.speakers, samples, derive_seed(seed, "bootstrap", corpus))
        found.append(bootstrap.difference(*halves).p_value)
        context.listener(Event("advance", task, done=corpus + 1, total=corpora))
    return NullPValues(stacker, speakers, repeats, tuple(sorted(found)))


def _splits(truth: SimulatedMembers, speakers: int, repeats: int | None, seed: int) -> Splits:
    rows, _ = truth.draw(ROWS_PER_SPEAKER * speakers, derive_seed(seed, "judged"), "j")
    if repeats is not None:
        return make_splits(rows, repeats, seed)
    fit, _ = truth.draw(_FITTING_ROWS, derive_seed(seed, "fit"))
    return Splits(fit, rows, (fit.folds,))


def _of_members(splits: Splits, members: list[int]) -> Splits:
    held_out = None if splits.held_out is None else some_members(splits.held_out, members)
    return Splits(some_members(splits.fitting, members), held_out, splits.assignments)


def _score(splits: Splits, name: str, seed: int) -> tuple[SumMetric, Sequence[Stacker]]:
    """Return a stacker's macro-F1, the mean over repeats, and what was fitted in each round."""
    predicted = np.empty((splits.repeats, len(splits.scored)), dtype=np.int64)
    fitted = []
    for split in splits.rounds():
        stacker = STACKERS[name].from_recipe(
            StackingRecipe(), derive_seed(seed, "stack", split.repeat, split.fold)
        )
        stacker.fit(split.fit)
        predicted[split.repeat, split.indices] = stacker.predict(
            split.scored.inputs
        ).class_probabilities.argmax(axis=1)
        fitted.append(stacker)
    return mean_over([_macro_f1(splits.scored, predicted_classes) for predicted_classes in predicted]), fitted


def _macro_f1(rows: StackingRows, predicted: np.ndarray) -> SumMetric:
    return confusion_metric(rows.labels, predicted, len(rows.inputs.classes), macro_f1_of_confusion)


def _in_turn(repeats: int | None) -> str:
    return "" if repeats is None else f" in turn x {repeats}"
