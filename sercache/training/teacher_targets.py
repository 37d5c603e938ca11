"""A teacher's predictions of the rows that a distilled member learns from, mixed with the raters' votes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sercache.corpus import Corpus
from sercache.errors import TrainingError
from sercache.posteriors import Posteriors

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TeacherTargets:
    """A teacher's predictions of N utterances (Hinton, Vinyals and Dean 2015, section 2, at temperature 1).

    Mixing the targets is mixing the losses: cross-entropy is linear in its target.

    Attributes:
        soft: ``(N, C)``, class probabilities; a row of NaN where there is no prediction.
        attributes: ``(N, A)``, on the corpus's scale; likewise.
        votes_share: of the raters in the mixture; the rest is the teacher's.
    """

    soft: Floats
    attributes: Floats
    votes_share: float

    @classmethod
    def of(cls, teacher: Posteriors, corpus: Corpus, votes_share: float) -> "TeacherTargets":
        """Return a teacher's posteriors as targets for all rows of a corpus; joined by id, matched by name.

        Raises:
            TrainingError: it has other classes or attributes than the corpus.
        """
        wanted = (sorted(corpus.classes), sorted(corpus.attribute_names))
        if (sorted(teacher.classes), sorted(teacher.attributes)) != wanted:
            raise TrainingError(
                f"the teacher '{teacher.member}' predicts {', '.join(teacher.classes + teacher.attributes)}; "
                f"the corpus has {', '.join((*corpus.classes, *corpus.attribute_names))}"
            )
        places = {utterance_id: place for place, utterance_id in enumerate(corpus.ids)}
        rows = [places[utterance_id] for utterance_id in teacher.ids]
        soft = np.full((len(corpus), len(corpus.classes)), np.nan)
        attributes = np.full((len(corpus), len(corpus.attributes)), np.nan)
        soft[rows] = teacher.class_probabilities[:, [teacher.classes.index(name) for name in corpus.classes]]
        columns = [teacher.attributes.index(name) for name in corpus.attribute_names]
        attributes[rows] = teacher.attribute_values[:, columns]
        return cls(soft, attributes, votes_share)

    def take(self, rows: NDArray[np.int64] | Sequence[int]) -> "TeacherTargets":
        """Return the predictions of ``rows``, in that order."""
        return TeacherTargets(self.soft[rows], self.attributes[rows], self.votes_share)

    def mixed(self, soft: Floats, attributes: Floats) -> tuple[Floats, Floats]:
        """Return the targets ``(N, C)`` and ``(N, A)`` of raters mixed with the teacher's.

        Where one of the two is missing, the other stands alone.
        """
        return self._mixed(soft, self.soft), self._mixed(attributes, self.attributes)

    def _mixed(self, rated: Floats, guided: Floats) -> Floats:
        both = self.votes_share * rated + (1 - self.votes_share) * guided
        return np.where(np.isnan(rated), guided, np.where(np.isnan(guided), rated, both))
