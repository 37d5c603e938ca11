"""Every score of a prediction in the comparison, in the form that the bootstrap wants."""

from functools import partial

import numpy as np

from sercache.corpus import Corpus
from sercache.evaluation.bootstrap import (
    SumMetric,
    calibration_metric,
    ccc_metric,
    confusion_metric,
    mean_ccc_metric,
    mean_metric,
)
from sercache.evaluation.metrics import (
    CONFUSION_METRICS,
    brier_per_row,
    jensen_shannon_per_row,
    log_loss_per_row,
    per_class_f1_of_confusion,
)
from sercache.evaluation.primary import MEAN_CCC, Truth
from sercache.posteriors import Posteriors
from sercache.stacking.protocol import Prediction
from sercache.stacking.rows import Floats, StackingRows, columns_in_order

LOWER_IS_BETTER = ("log_loss", "jsd", "ece", "brier")


def score_names(attributes: tuple[str, ...], *, has_classes: bool = True) -> tuple[str, ...]:
    """Return the names of the scores, in table order; the first is the primary score.

    >>> score_names(("arousal",))
    ('macro_f1', 'uar', 'weighted_f1', 'ccc:arousal', 'log_loss', 'jsd', 'ece', 'brier')
    >>> score_names(("arousal",), has_classes=False)
    ('mean_ccc', 'ccc:arousal')
    """
    if not has_classes:
        return (MEAN_CCC.key, *(f"ccc:{attribute}" for attribute in attributes))
    return (*CONFUSION_METRICS, *(f"ccc:{attribute}" for attribute in attributes), *LOWER_IS_BETTER)


def scores_of(rows: StackingRows, prediction: Prediction) -> dict[str, SumMetric]:
    """Return the scores by name, and ``f1:<class>`` of each class.

    F1, UAR, calibration and Brier score are against the consensus class and leave out rows without one;
    ``log_loss`` and ``jsd`` are against the votes of every row that has a soft target. Without classes there
    are the mean CCC and the CCC of each attribute.
    """
    if not rows.inputs.classes:
        mean = mean_ccc_metric(rows.attribute_targets, prediction.attribute_values)
        return {MEAN_CCC.key: mean} | _attribute_scores(rows, prediction)
    probabilities = prediction.class_probabilities
    classes, labels = rows.inputs.classes, rows.labels
    confused = partial(confusion_metric, labels, probabilities.argmax(axis=1), len(classes))
    consensus = np.full(probabilities.shape, np.nan)
    consensus[labels >= 0] = np.eye(len(classes))[labels[labels >= 0]]
    scores = {name: confused(score) for name, score in CONFUSION_METRICS.items()}
    scores |= _attribute_scores(rows, prediction)
    scores["log_loss"] = mean_metric(log_loss_per_row(rows.soft_targets, probabilities))
    scores["jsd"] = mean_metric(jensen_shannon_per_row(rows.soft_targets, probabilities))
    scores["ece"] = calibration_metric(labels, probabilities)
    scores["brier"] = mean_metric(brier_per_row(consensus, probabilities))
    for index, name in enumerate(classes):
        scores[f"f1:{name}"] = confused(partial(_f1_of_class, index))
    return scores


def primary_metric(corpus: Corpus, posteriors: Posteriors) -> SumMetric:
    """Return the primary score of posteriors on the utterances of a corpus; columns are matched by name.

    Raises:
        StackingError: an utterance has no row, or the decisive columns have other names.
    """
    truth, taken = Truth.of(corpus), posteriors.take(corpus.ids)
    if truth.num_classes:
        order = columns_in_order("classes", taken.classes, corpus.classes)
        return truth.metric(taken.class_probabilities[:, order], taken.attribute_values)
    order = columns_in_order("attributes", taken.attributes, corpus.attribute_names)
    return truth.metric(taken.class_probabilities, taken.attribute_values[:, order])


def _attribute_scores(rows: StackingRows, prediction: Prediction) -> dict[str, SumMetric]:
    return {
        f"ccc:{attribute.name}": ccc_metric(
            rows.attribute_targets[:, index], prediction.attribute_values[:, index]
        )
        for index, attribute in enumerate(rows.inputs.attributes)
    }


def _f1_of_class(index: int, confusions: Floats) -> Floats:
    return np.asarray(per_class_f1_of_confusion(confusions)[..., index])
