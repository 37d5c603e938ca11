"""What calibration, class thresholds and conformal sets are worth on speakers they were not fitted on."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sercache.evaluation.bootstrap import (
    Difference,
    Estimate,
    SpeakerBootstrap,
    SumMetric,
    calibration_metric,
    confusion_metric,
    mean_metric,
)
from sercache.evaluation.calibration.fitted import Calibrated, Calibration
from sercache.evaluation.calibration.registry import CALIBRATORS, Floats, Labels
from sercache.evaluation.metrics import brier_per_row, log_loss_per_row, macro_f1_of_confusion
from sercache.files import without_nan

UNCALIBRATED = "none"
THRESHOLDS = "thresholds"


@dataclass(frozen=True)
class Predicted:
    """What a stacker calibrated of N rows that it was not fitted on.

    Attributes:
        probabilities: ``(N, C)``.
        soft_targets: ``(N, C)``, NaN where unknown.
        labels: ``(N,)``, the consensus class, negative where there is none.
        speakers: of each row, None where unknown.
    """

    probabilities: Floats
    soft_targets: Floats
    labels: Labels
    speakers: tuple[str | None, ...]

    def take(self, rows: NDArray[np.int64]) -> "Predicted":
        """Return these rows."""
        return Predicted(
            self.probabilities[rows],
            self.soft_targets[rows],
            self.labels[rows],
            tuple(self.speakers[row] for row in rows.tolist()),
        )


@dataclass(frozen=True)
class CalibrationScores:
    """How one way of calibrating does.

    Attributes:
        name: of the calibrator; ``thresholds`` for decisions by tuned thresholds, uncalibrated.
        scores: macro_f1, log_loss (against the votes), consensus_log_loss, ece, brier.
        to_uncalibrated: differences to the probabilities as they are; empty for these themselves.
        coverage: how often the conformal set holds the consensus class.
        least_covered: the class that it holds most seldom, and how often.
        set_size: classes in a set, on average.
        single_share: rows whose set has one class.
        single_accuracy: how often that is right.
    """

    name: str
    scores: dict[str, Estimate]
    to_uncalibrated: dict[str, Difference]
    coverage: Estimate
    least_covered: tuple[str, float]
    set_size: float
    single_share: float
    single_accuracy: Estimate


@dataclass(frozen=True)
class CalibrationReport:
    """All ways of calibrating one stacker, scored on rows of speakers that none was fitted on.

    Attributes:
        stacker: name of the one that predicted.
        coverage: that was asked for.
        chosen: the calibrator that the recipe asks for.
        rows: the ways, the uncalibrated first.
    """

    stacker: str
    coverage: float
    chosen: str
    rows: tuple[CalibrationScores, ...]

    def row(self, name: str) -> CalibrationScores:
        """Return one way of calibrating."""
        return next(row for row in self.rows if row.name == name)

    @property
    def verdict(self) -> tuple[str, ...]:
        """The sentences: on calibration, on thresholds, on sets."""
        return (self._of_calibration(), self._of_thresholds(), self._of_sets())

    def _of_calibration(self) -> str:
        before = self.row(UNCALIBRATED).scores
        found = []
        for row in self.rows:
            changes = [
                f"{name} from {before[score].value:.3f} to {row.scores[score].value:.3f}"
                for name, score in (("ECE", "ece"), ("log-loss", "consensus_log_loss"))
                if row.name not in (UNCALIBRATED, THRESHOLDS) and row.to_uncalibrated[score].is_clear
            ]
            if changes:
                found.append(f"{row.name} brings {' and '.join(changes)}")
        if not found:
            return f"Calibrating {self.stacker} changes neither ECE nor log-loss beyond chance."
        return f"Calibrating {self.stacker}: {'; '.join(found)}."

    def _of_thresholds(self) -> str:
        change = self.row(THRESHOLDS).to_uncalibrated["macro_f1"]
        figures = f"macro-F1 {change.value:+.3f}{_interval(change, '+.3f')}"
        if not change.is_clear:
            return f"Class thresholds change nothing beyond chance: {figures}."
        return f"Class thresholds {'help' if change.value > 0 else 'harm'}: {figures}."

    def _of_sets(self) -> str:
        row = self.row(self.chosen)
        held, single = row.coverage, row.single_accuracy
        note = ", less than asked for" if held.high < self.coverage else ""
        if held.low > self.coverage:
            note = ", more than asked for"
        right = f", right {single.value:.0%} of the time" if row.single_share >= 0.005 else ""
        interval = f"{held.value:.1%}{_interval(held, '.1%')}"
        name, share = row.least_covered
        return (
            f"Sets at {self.coverage:.0%} hold the class of {interval} of rows of new speakers{note}, with "
            f"{row.set_size:.1f} classes on average; {row.single_share:.0%} of rows have one{right}. Least "
            f"covered: {name}, {share:.0%}."
        )


def evaluate_calibration(
    rounds: Sequence[tuple[Predicted, Predicted]],
    classes: tuple[str, ...],
    *,
    stacker: str,
    chosen: str = "temperature",
    coverage: float = 0.9,
    samples: int = 2000,
    seed: int = 0,
) -> CalibrationReport:
    """Fit every calibrator, thresholds and sets in each round, and score them on the round's other rows.

    Args:
        rounds: rows to fit on and rows of other speakers to score; no row is scored twice.
        classes: names.
        stacker: name of the one that predicted.
        chosen: the calibrator that the recipe asks for.
        coverage: of the sets.
        samples: bootstrap draws of speakers.
        seed: of the bootstrap.
    """
    scored = [rows for _, rows in rounds]
    labels = np.concatenate([rows.labels for rows in scored])  # (N,)
    votes = np.concatenate([rows.soft_targets for rows in scored])  # (N, C)
    speakers = [speaker for rows in scored for speaker in rows.speakers]
    bootstrap = SpeakerBootstrap(speakers, samples, seed)

    def applied(kind: str, *, tunes_thresholds: bool = False) -> Calibrated:
        parts = []
        for fit, scored_rows in rounds:
            calibration = Calibration.fit(
                fit.probabilities, fit.labels, classes,
                kind=kind, coverage=coverage, tunes_thresholds=tunes_thresholds,
            )  # fmt: skip
            parts.append(calibration.apply(scored_rows.probabilities))
        return Calibrated(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    found = {kind: applied(kind) for kind in CALIBRATORS}
    found[THRESHOLDS] = applied(UNCALIBRATED, tunes_thresholds=True)
    metrics = {name: _metrics(calibrated, labels, votes) for name, calibrated in found.items()}
    rows = []
    for name in (UNCALIBRATED, *(kind for kind in found if kind != UNCALIBRATED)):
        of_uncalibrated = {} if name == UNCALIBRATED else metrics[UNCALIBRATED]
        rows.append(
            CalibrationScores(
                name=name,
                scores={score: bootstrap.estimate(metric) for score, metric in metrics[name].items()},
                to_uncalibrated={
                    score: bootstrap.difference(metrics[name][score], other)
                    for score, other in of_uncalibrated.items()
                },
                **_of_sets(found[name], labels, classes, bootstrap),
            )
        )
    return CalibrationReport(stacker, coverage, chosen, tuple(rows))


def as_json(report: CalibrationReport) -> dict[str, Any]:
    """Return everything that was measured, as JSON."""
    content: dict[str, Any] = without_nan(asdict(report))
    return content | {"verdict": list(report.verdict)}


def _interval(scored: Estimate | Difference, form: str) -> str:
    """Return the interval in brackets; nothing where one speaker gives none."""
    return "" if np.isnan(scored.low) else f" [{scored.low:{form}}, {scored.high:{form}}]"


def _metrics(calibrated: Calibrated, labels: Labels, votes: Floats) -> dict[str, SumMetric]:
    num_classes = calibrated.probabilities.shape[1]
    consensus = np.full(calibrated.probabilities.shape, np.nan)
    consensus[labels >= 0] = np.eye(num_classes)[labels[labels >= 0]]
    return {
        "macro_f1": confusion_metric(labels, calibrated.classes, num_classes, macro_f1_of_confusion),
        "log_loss": mean_metric(log_loss_per_row(votes, calibrated.probabilities)),
        "consensus_log_loss": mean_metric(log_loss_per_row(consensus, calibrated.probabilities)),
        "ece": calibration_metric(labels, calibrated.probabilities),
        "brier": mean_metric(brier_per_row(consensus, calibrated.probabilities)),
    }


def _of_sets(
    calibrated: Calibrated, labels: Labels, classes: tuple[str, ...], bootstrap: SpeakerBootstrap
) -> dict[str, Any]:
    known = labels >= 0
    truth = np.maximum(labels, 0)
    holds = np.where(known, calibrated.sets[np.arange(len(labels)), truth], np.nan)
    sizes = calibrated.sets.sum(axis=1)  # (N,)
    is_right = calibrated.probabilities.argmax(axis=1) == truth
    by_class = [
        (name, float(holds[labels == index].mean()))
        for index, name in enumerate(classes)
        if (labels == index).any()
    ]
    return {
        "coverage": bootstrap.estimate(mean_metric(holds)),
        "least_covered": min(by_class, key=lambda pair: pair[1], default=("", float("nan"))),
        "set_size": float(sizes.mean()),
        "single_share": float((sizes == 1).mean()),
        "single_accuracy": bootstrap.estimate(
            mean_metric(np.where(known & (sizes == 1), is_right.astype(np.float64), np.nan))
        ),
    }
