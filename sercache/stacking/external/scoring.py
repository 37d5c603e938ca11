"""Every metric of predictions, on the rows as they are and on draws with as many rows of each class."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from sercache.corpus import Corpus
from sercache.corpus.targets import TargetPolicy, consensus, soft_targets
from sercache.evaluation.bootstrap import (
    Estimate,
    SpeakerBootstrap,
    SumMetric,
    calibration_metric,
    ccc_metric,
    confusion_metric,
    mean_metric,
)
from sercache.evaluation.metrics import (
    CONFUSION_METRICS,
    brier_per_row,
    confusion,
    jensen_shannon_per_row,
    log_loss_per_row,
    macro_f1_of_confusion,
    per_class_f1_of_confusion,
    uar_of_confusion,
)
from sercache.stacking.external.reading import Predictions

PROBABILITY_SCORES = ("log_loss", "jsd", "ece", "brier")
"""What decisions without probabilities do not have."""

_BALANCED = {"macro_f1": macro_f1_of_confusion, "uar": uar_of_confusion}


@dataclass(frozen=True)
class SplitScores:
    """What one file scores on one split.

    Attributes:
        file: the member's name.
        split: of the corpus; ``all`` where it has none.
        rows: that have a consensus class, or a rated attribute if the file has no classes.
        speakers: who speaks in them; a row without speaker counts as one.
        scores: by name, with 95 % intervals over speakers: macro_f1, uar, weighted_f1, f1:<class>,
            ccc:<attribute>, log_loss, jsd, ece, brier.
        balanced: macro_f1 and uar on class-balanced draws: their mean and 95 % range; empty if a class has no
            row.
        majority_macro_f1: what naming the most frequent class would score.
    """

    file: str
    split: str
    rows: int
    speakers: int
    scores: dict[str, Estimate]
    balanced: dict[str, Estimate]
    majority_macro_f1: float


def score(
    file: Predictions,
    places: NDArray[np.int64],
    split: str,
    corpus: Corpus,
    *,
    samples: int,
    draws: int,
    seed: int,
) -> SplitScores:
    """Score the rows at ``places`` of a file.

    Args:
        file: the predictions.
        places: which of its rows.
        split: how they are called.
        corpus: with the truth.
        samples: bootstrap draws of speakers.
        draws: class-balanced draws of rows.
        seed: of both.
    """
    truth = corpus.select([file.ids[place] for place in places.tolist()])
    labels = consensus(truth)
    bootstrap = SpeakerBootstrap([row.speaker for row in truth.utterances], samples, seed)
    metrics: dict[str, SumMetric] = {}
    balanced: dict[str, Estimate] = {}
    majority = np.nan
    rows = int((~np.isnan(truth.attribute_values)).any(axis=1).sum()) if truth.attributes else 0
    if file.class_probabilities is not None:
        probabilities = file.class_probabilities[places]
        metrics = _class_metrics(truth, labels, probabilities, is_hard=file.is_hard)
        balanced = _on_balanced_draws(labels, probabilities.argmax(axis=1), len(truth.classes), draws, seed)
        rows, majority = int((labels >= 0).sum()), _majority_macro_f1(labels, len(truth.classes))
    for index, name in enumerate(truth.attribute_names):
        values = file.attribute_values[places, index]
        if not np.isnan(values).any():
            metrics[f"ccc:{name}"] = ccc_metric(truth.attribute_values[:, index], values)
    return SplitScores(
        file=file.name,
        split=split,
        rows=rows,
        speakers=bootstrap.cluster_count,
        scores={name: bootstrap.estimate(metric) for name, metric in metrics.items()},
        balanced=balanced,
        majority_macro_f1=float(majority),
    )


def _class_metrics(
    truth: Corpus, labels: NDArray[np.int64], probabilities: NDArray[np.float64], *, is_hard: bool
) -> dict[str, SumMetric]:
    confused = partial(confusion_metric, labels, probabilities.argmax(axis=1), len(truth.classes))
    metrics = {name: confused(metric) for name, metric in CONFUSION_METRICS.items()}
    for index, name in enumerate(truth.classes):
        metrics[f"f1:{name}"] = confused(partial(_f1_of_class, index))
    if not is_hard:
        votes = soft_targets(truth, TargetPolicy())
        one_hot = np.full(probabilities.shape, np.nan)
        one_hot[labels >= 0] = np.eye(len(truth.classes))[labels[labels >= 0]]
        metrics["log_loss"] = mean_metric(log_loss_per_row(votes, probabilities))
        metrics["jsd"] = mean_metric(jensen_shannon_per_row(votes, probabilities))
        metrics["ece"] = calibration_metric(labels, probabilities)
        metrics["brier"] = mean_metric(brier_per_row(one_hot, probabilities))
    return metrics


def _f1_of_class(index: int, confusions: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(per_class_f1_of_confusion(confusions)[..., index])


def _on_balanced_draws(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int, draws: int, seed: int
) -> dict[str, Estimate]:
    """Return the scores of draws with as many rows of each class as the rarest has."""
    of_class = [np.flatnonzero(labels == index) for index in range(num_classes)]
    size = min(len(rows) for rows in of_class)
    if not size:
        return {}
    generator = np.random.default_rng(seed)
    confusions = np.stack(
        [
            confusion(labels[drawn], predicted[drawn], num_classes)
            for drawn in (
                np.concatenate([generator.choice(rows, size, replace=False) for rows in of_class])
                for _ in range(draws)
            )
        ]
    )
    found = {}
    for name, metric in _BALANCED.items():
        values = metric(confusions)
        low, high = np.quantile(values, [0.025, 0.975])
        found[name] = Estimate(float(values.mean()), float(low), float(high))
    return found


def _majority_macro_f1(labels: NDArray[np.int64], num_classes: int) -> float:
    known = labels[labels >= 0]
    if not len(known):
        return float("nan")
    most = np.full_like(known, np.bincount(known, minlength=num_classes).argmax())
    return float(macro_f1_of_confusion(confusion(known, most, num_classes)))
