"""A linear probe: a ridge regression from pooled vectors to the targets, out of fold."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sercache.corpus import Corpus
from sercache.evaluation.primary import Truth
from sercache.events import ShouldStop, never
from sercache.heads.registry import build_head
from sercache.options import Options
from sercache.seeds import derive_seed
from sercache.training.closed_form import apply_to_tables, fit_head
from sercache.training.pooled_features import PooledTable
from sercache.training.rows import LabelledRows

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class ProbeRows:
    """The rows, targets and folds of a probe; the same for every layer.

    Attributes:
        corpus: the N utterances.
        targets: of them.
        folds: ``(N,)`` speaker-disjoint, 0 to K - 1.
        seed: of the inner folds.
    """

    corpus: Corpus
    targets: LabelledRows
    folds: Integers
    seed: int

    @property
    def truth(self) -> Truth:
        """What predictions of these rows are scored against."""
        return self.targets.truth


@dataclass(frozen=True)
class Probed:
    """Out-of-fold predictions.

    Attributes:
        classes: ``(N,)`` int64; -1 where there are no classes.
        attributes: ``(N, A)``.
        inner_scores: the primary score for each fold, of speakers of the other folds that were left out.
    """

    classes: Integers
    attributes: Floats
    inner_scores: tuple[float, ...]


def probe(vectors: Floats, rows: ProbeRows, should_stop: ShouldStop = never) -> Probed:
    """Predict every row by a ridge regression that never saw its speaker.

    Standardisation and penalty come from the rows that are learned from, as those of the head ``ridge`` do
    (:mod:`sercache.training.closed_form`).

    Args:
        vectors: ``(N, D)``.
        rows: with targets and folds.
        should_stop: looked at between steps.

    Raises:
        Interrupted: ``should_stop`` returned True.
    """
    table = PooledTable(vectors.astype(np.float32)[:, None, None], np.ones(len(vectors), np.bool_))
    classes, attributes = np.full(len(vectors), -1), np.full(rows.targets.attributes.shape, np.nan)
    ranges = [(attribute.low, attribute.high) for attribute in rows.corpus.attributes]
    ids, inner_scores = np.asarray(rows.corpus.ids), list[float]()
    options: Options = {"statistics": "mean", "learn_blocks": False}
    for fold in range(int(rows.folds.max()) + 1):
        fit, held = (np.flatnonzero(chosen) for chosen in (rows.folds != fold, rows.folds == fold))
        head = build_head("ridge", [vectors.shape[1]], len(rows.corpus.classes), ranges, options, 0)
        fitted_ids = ids[fit].tolist()
        solution = fit_head(
            head,
            [table],
            fit,
            rows.corpus.select(fitted_ids),
            rows.targets.select(fitted_ids),
            seed=derive_seed(rows.seed, "inner folds", fold),
            should_stop=should_stop,
        )
        output = apply_to_tables(head, [table], held)
        if rows.corpus.classes:
            classes[held] = output.logits.argmax(dim=1).numpy()
        attributes[held] = output.attributes.numpy()
        inner_scores.append(solution.score)
    return Probed(classes, attributes, tuple(inner_scores))


def chosen_on_inner_rows(probed: Sequence[Probed], folds: Integers) -> tuple[Probed, tuple[int, ...]]:
    """Return the predictions where each fold's layer is chosen on the other folds.

    For each fold the layer is taken that predicts left-out speakers of the other folds best.

    Args:
        probed: one per layer.
        folds: ``(N,)``.

    Returns:
        The predictions, and which layer it was, by fold.
    """
    classes, attributes = probed[0].classes.copy(), probed[0].attributes.copy()
    choices = []
    for fold in range(len(probed[0].inner_scores)):
        scores = [layer.inner_scores[fold] for layer in probed]
        choices.append(int(np.argmax(np.nan_to_num(scores, nan=-np.inf))))
        held = folds == fold
        classes[held] = probed[choices[-1]].classes[held]
        attributes[held] = probed[choices[-1]].attributes[held]
    return Probed(classes, attributes, ()), tuple(choices)
