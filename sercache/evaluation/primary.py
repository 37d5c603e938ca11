"""The score that decides: macro-F1 where a corpus has classes, the mean CCC where it has attributes alone.

Early stopping, rankings, verdicts and searches all go by the primary score of their corpus, and ask
:class:`Truth` for it. Letters: N rows, C classes, A attributes.
"""

from collections.abc import Container
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sercache.corpus import Corpus
from sercache.corpus.targets import consensus
from sercache.evaluation.bootstrap import SumMetric, confusion_metric, mean_ccc_metric
from sercache.evaluation.metrics import Floats, macro_f1, macro_f1_of_confusion, mean_ccc


@dataclass(frozen=True, slots=True)
class PrimaryScore:
    """The score that decides on a corpus; more is better.

    Attributes:
        key: its name in tables and files.
        name: its name in sentences.
        needs: what a row must have to count in it.
    """

    key: str
    name: str
    needs: str

    @property
    def title(self) -> str:
        """Its name at the beginning of a sentence."""
        return self.name[0].upper() + self.name[1:]


MACRO_F1 = PrimaryScore("macro_f1", "macro-F1", "a consensus class")
MEAN_CCC = PrimaryScore("mean_ccc", "mean CCC", "a rated attribute")


def primary_score(num_classes: int) -> PrimaryScore:
    """Return the score that decides on a corpus of so many classes.

    >>> primary_score(8).name, primary_score(0).name
    ('macro-F1', 'mean CCC')
    """
    return MACRO_F1 if num_classes else MEAN_CCC


def primary_in(names: Container[str]) -> PrimaryScore:
    """Return the primary score that is among the ``names`` of some scores."""
    return MEAN_CCC if MEAN_CCC.key in names and MACRO_F1.key not in names else MACRO_F1


@dataclass(frozen=True)
class Truth:
    """What is known of N rows, and how predictions of them score.

    Where methods take class scores ``(N, C)`` (probabilities, logits or sums of either) and attribute values
    ``(N, A)``, only those that the primary score looks at matter.

    Attributes:
        labels: ``(N,)`` int64, the consensus class; negative where there is none.
        attributes: ``(N, A)`` float64, NaN where nobody rated.
        num_classes: C; 0 where the corpus has attributes alone.
    """

    labels: NDArray[np.int64]
    attributes: Floats
    num_classes: int

    @classmethod
    def of(cls, corpus: Corpus) -> "Truth":
        """Return the truth of a corpus, in its order."""
        return cls(consensus(corpus), corpus.attribute_values, len(corpus.classes))

    @property
    def primary(self) -> PrimaryScore:
        """The score that decides."""
        return primary_score(self.num_classes)

    @property
    def is_scored(self) -> NDArray[np.bool_]:
        """Whether a row counts in the primary score, ``(N,)``."""
        if self.num_classes:
            return np.asarray(self.labels >= 0)
        return np.asarray(~np.isnan(self.attributes).all(axis=1))

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Truth":
        """Return the truth of some rows."""
        return Truth(self.labels[rows], self.attributes[rows], self.num_classes)

    def score(self, class_scores: ArrayLike, attribute_values: ArrayLike) -> float:
        """Return the primary score of a prediction; NaN where no row counts."""
        if not self.num_classes:
            return mean_ccc(self.attributes, attribute_values)
        known = self.labels >= 0
        decisions = np.asarray(class_scores)[known].argmax(axis=1)
        return macro_f1(self.labels[known], decisions, self.num_classes)

    def metric(self, class_scores: ArrayLike, attribute_values: ArrayLike) -> SumMetric:
        """Return the primary score of a prediction in the form that the bootstrap takes."""
        if not self.num_classes:
            return mean_ccc_metric(self.attributes, attribute_values)
        decisions = np.asarray(class_scores).argmax(axis=1)
        return confusion_metric(self.labels, decisions, self.num_classes, macro_f1_of_confusion)
