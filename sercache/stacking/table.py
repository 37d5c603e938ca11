"""Every score of the comparison, its table, and the files that hold it."""

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sercache.corpus import Corpus
from sercache.evaluation.bootstrap import (
    Difference,
    Estimate,
    SumMetric,
    calibration_metric,
    ccc_metric,
    confusion_metric,
    mean_ccc_metric,
    mean_metric,
)
from sercache.evaluation.calibration.assessment import CalibrationReport
from sercache.evaluation.calibration.assessment import as_json as calibration_as_json
from sercache.evaluation.metrics import (
    CONFUSION_METRICS,
    brier_per_row,
    jensen_shannon_per_row,
    log_loss_per_row,
    per_class_f1_of_confusion,
)
from sercache.evaluation.primary import MEAN_CCC, PrimaryScore, Truth, primary_score
from sercache.files import without_nan
from sercache.posteriors import Posteriors
from sercache.stacking.base import Prediction
from sercache.stacking.curves import Curves
from sercache.stacking.curves import as_json as curves_as_json
from sercache.stacking.neural import SoupAccount
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


REFERENCE = "soft-vote"
"""The stacker that every other is compared with."""

_JSON_NAMES = {"pairs": "opposed", "scored_on": "judged_on", "scored_rows": "judged_rows"}
"""Attributes of a comparison whose key in ``metrics.json`` is another."""


@dataclass(frozen=True)
class ComparisonRow:
    """One stacker of the table.

    Attributes:
        stacker: its name.
        is_baseline: whether it is no meta-level: it ignores the members, or is the linear baseline.
        scores: by name (:func:`sercache.stacking.table.score_names`), and ``f1:<class>``.
        to_soft_vote: difference to the soft vote by score name, positive where this one's is larger.
        p_to_soft_vote: p-value of the difference in the primary score, Holm-corrected over the stackers; NaN
            for baselines.
        fit_seconds: on all fitting rows.
        predict_seconds: of all scored rows.
        fitting_score: the primary score on the rows it was fitted on.
        leak_gap: ``fitting_score`` minus the primary score on the scored rows.
        score_by_repeat: the primary score for each assignment of speakers to folds; ``scores`` has their
            mean.
        shares: how much each member counts for the classes; empty where that is not defined.
        folder: where the fitted stacker lies.
        to_baseline: difference to the linear baseline by score name; empty for baselines, and without one.
        p_to_baseline: p-value of the difference in the primary score, Holm-corrected over the stackers.
        input_digest: of what the stacker was fitted on; empty of the linear baseline.
    """

    stacker: str
    is_baseline: bool
    scores: Mapping[str, Estimate]
    to_soft_vote: Mapping[str, Difference]
    p_to_soft_vote: float
    fit_seconds: float
    predict_seconds: float
    fitting_score: float
    leak_gap: float
    score_by_repeat: tuple[float, ...]
    shares: Mapping[str, float]
    folder: Path
    to_baseline: Mapping[str, Difference] = field(default_factory=dict)
    p_to_baseline: float = math.nan
    input_digest: str = ""


@dataclass(frozen=True)
class Comparison:
    """The table and its verdict.

    Attributes:
        rows: best primary score first.
        pairs: ``(first, second)`` to their difference in each score.
        choice: the stacker to use, by the verdict's first sentence.
        verdict: sentences: which meta-level to use and how sure that is, then the pairs.
        is_leaky: whether members trained on scored rows: then nothing here holds for new speakers.
        scored_on: ``held-out`` rows, or the ``folds`` in turn.
        fitting_rows: how many rows the stackers learn from.
        scored_rows: how many rows they are scored on.
        repeats: over how many assignments of speakers to folds; 1 with held-out rows.
        speakers: how many speakers those have; a row without speaker counts as one.
        classes: their names.
        attributes: their names.
        members: their names.
        curves: how many members a soft vote takes, and what they cost.
        soup: the composition of the soup that is fitted on all fitting rows; None without a soup.
        calibration: what calibrating the recommended stacker is worth; None where that cannot be known.
        normalized_members: names of those whose frames are standardised per speaker.
        above_baseline: the stackers that are clearly above the linear baseline; None without one.
    """

    rows: tuple[ComparisonRow, ...]
    pairs: Mapping[tuple[str, str], Mapping[str, Difference]]
    choice: str
    verdict: tuple[str, ...]
    is_leaky: bool
    scored_on: str
    fitting_rows: int
    scored_rows: int
    repeats: int
    speakers: int
    classes: tuple[str, ...]
    attributes: tuple[str, ...]
    members: tuple[str, ...]
    calibration: CalibrationReport | None = None
    curves: Curves | None = None
    soup: SoupAccount | None = None
    normalized_members: tuple[str, ...] = ()
    above_baseline: tuple[str, ...] | None = None

    @property
    def score_names(self) -> tuple[str, ...]:
        """The scores of the table, in order."""
        return score_names(self.attributes, has_classes=bool(self.classes))

    @property
    def primary(self) -> PrimaryScore:
        """The score that decides."""
        return primary_score(len(self.classes))


def as_csv(comparison: Comparison) -> str:
    """Return one line per stacker; scores and differences with ``_low`` and ``_high`` beside them."""
    key = comparison.primary.key
    rivals = sorted({second for _, second in comparison.pairs})
    has_baseline = any(row.to_baseline for row in comparison.rows)

    def line(row: ComparisonRow) -> dict[str, Any]:
        cells: dict[str, Any] = {"stacker": row.stacker, "baseline": str(row.is_baseline).lower()}
        for name in (*comparison.score_names, *(f"f1:{label}" for label in comparison.classes)):
            estimate = row.scores[name]
            cells |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        compared = {REFERENCE: row.to_soft_vote.get(key)}
        p_values = {"p_to_soft_vote_holm": row.p_to_soft_vote}
        if has_baseline:
            compared["baseline"] = row.to_baseline.get(key)
            p_values["p_to_baseline_holm"] = row.p_to_baseline
        for rival in rivals:
            compared[rival] = comparison.pairs.get((row.stacker, rival), {}).get(key)
        for rival, difference in compared.items():
            cells |= _difference_cells(f"{key}_minus_{rival}", difference)
        return cells | {
            **p_values,
            f"fitting_{key}": row.fitting_score,
            "leak_gap": row.leak_gap,
            "fit_seconds": row.fit_seconds,
            "predict_seconds": row.predict_seconds,
            "judged_rows": comparison.scored_rows,
            "repeats": comparison.repeats,
            "speakers": comparison.speakers,
        }

    lines = [line(row) for row in comparison.rows]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in cells.items()} for cells in lines)
    return stream.getvalue()


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return everything that was measured, as the content of ``metrics.json``."""
    content = asdict(comparison)
    score = comparison.primary.key
    named = {"fitting_score": f"fitting_{score}", "score_by_repeat": f"{score}_by_repeat"}
    content["rows"] = {
        row.stacker: {
            named.get(key, key): value
            for key, value in asdict(row).items()
            if key not in ("stacker", "folder")
        }
        for row in comparison.rows
    }
    for attribute, key in _JSON_NAMES.items():
        content[key] = content.pop(attribute)
    content["opposed"] = {
        f"{first} minus {second}": {name: asdict(difference) for name, difference in differences.items()}
        for (first, second), differences in comparison.pairs.items()
    }
    if comparison.calibration is not None:
        content["calibration"] = calibration_as_json(comparison.calibration)
    if comparison.curves is not None:
        content["curves"] = curves_as_json(comparison.curves)
    if comparison.soup is not None:
        content["soup"]["standings"] = content["soup"].pop("scores")
        content["soup"] |= {"barrier": comparison.soup.barrier, "sentence": comparison.soup.sentence}
    return dict(without_nan(content))


def _difference_cells(column: str, difference: Difference | None) -> dict[str, Any]:
    names = {"value": column, "low": f"{column}_low", "high": f"{column}_high", "p_value": f"{column}_p"}
    return {name: None if difference is None else getattr(difference, part) for part, name in names.items()}


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value
