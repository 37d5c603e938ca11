"""What goes with a fitted stacker: its calibration, thresholds and conformal sets, as a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sercache.errors import StackingError
from sercache.evaluation.calibration.decisions import (
    conformal_sets,
    conformal_threshold,
    decide,
    tuned_thresholds,
)
from sercache.evaluation.calibration.registry import CALIBRATORS, Calibrator, Floats, Labels
from sercache.files import read_json, write_json

_FORMAT = 1


class Calibrated(NamedTuple):
    """What is said of N rows.

    Attributes:
        probabilities: ``(N, C)``.
        classes: ``(N,)``, the decision.
        sets: ``(N, C)`` bool: the classes that the truth is among, as often as the coverage says.
    """

    probabilities: Floats
    classes: Labels
    sets: NDArray[np.bool_]


@dataclass(frozen=True)
class Calibration:
    """Turns a stacker's probabilities into what is said of a row.

    Attributes:
        kind: of the calibrator.
        calibrator: fitted.
        thresholds: multipliers of the classes, ``(C,)``; ones where they are not tuned.
        conformal_threshold: how unlikely a class in a set may be.
        coverage: of the sets.
        classes: names, C of them.
    """

    kind: str
    calibrator: Calibrator
    thresholds: Floats
    conformal_threshold: float
    coverage: float
    classes: tuple[str, ...]

    @classmethod
    def fit(
        cls,
        probabilities: Floats,
        labels: Labels,
        classes: tuple[str, ...],
        *,
        kind: str = "temperature",
        coverage: float = 0.9,
        tunes_thresholds: bool = False,
    ) -> "Calibration":
        """Fit everything on rows that neither members nor stacker trained on.

        Args:
            probabilities: ``(N, C)``.
            labels: ``(N,)``, the consensus class, negative where there is none.
            classes: names.
            kind: in :data:`~sercache.evaluation.calibration.registry.CALIBRATORS`.
            coverage: of the sets.
            tunes_thresholds: whether decisions are tuned for macro-F1.

        Raises:
            StackingError: no such calibrator.
        """
        calibrator = CALIBRATORS[kind]()
        calibrator.fit(probabilities, labels)
        calibrated = calibrator(probabilities)
        thresholds = tuned_thresholds(calibrated, labels) if tunes_thresholds else np.ones(len(classes))
        return cls(
            kind, calibrator, thresholds, conformal_threshold(calibrated, labels, coverage), coverage, classes
        )

    def apply(self, probabilities: Floats) -> Calibrated:
        """Return what is said of rows ``(N, C)``."""
        calibrated = self.calibrator(probabilities)
        return Calibrated(
            calibrated,
            decide(calibrated, self.thresholds),
            conformal_sets(calibrated, self.conformal_threshold),
        )

    def save(self, path: Path) -> None:
        """Write everything as JSON."""
        write_json(
            path,
            {
                "format": _FORMAT,
                "kind": self.kind,
                "learned": self.calibrator.learned,
                "thresholds": self.thresholds.tolist(),
                "conformal_threshold": self.conformal_threshold,
                "coverage": self.coverage,
                "classes": self.classes,
            },
        )

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Read what :meth:`save` wrote.

        Raises:
            StackingError: the file is missing, damaged, or of another format.
        """
        try:
            found = read_json(path)
            if found["format"] != _FORMAT:
                raise StackingError(f"{path}: format {found['format']} is not {_FORMAT}")
            loaded = cls(
                found["kind"],
                CALIBRATORS[found["kind"]].from_learned(found["learned"]),
                np.asarray(found["thresholds"], dtype=np.float64),
                float(found["conformal_threshold"]),
                float(found["coverage"]),
                tuple(found["classes"]),
            )
        except OSError as error:
            raise StackingError(f"{path}: cannot read the calibration ({error.strerror})") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StackingError(f"{path}: not a calibration ({error!r})") from None
        if loaded.thresholds.shape != (len(loaded.classes),):
            raise StackingError(
                f"{path}: {loaded.thresholds.shape} thresholds for {len(loaded.classes)} classes"
            )
        return loaded
