"""Targets by utterance, and which rows make up an epoch and its batches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from sercache.corpus import Corpus
from sercache.corpus.targets import (
    NO_AGREEMENT_INDEX,
    OTHER_INDEX,
    TargetPolicy,
    Votes,
    plurality,
    soft_targets,
    targets_of,
)
from sercache.errors import TrainingError
from sercache.evaluation.primary import Truth
from sercache.posteriors import Posteriors
from sercache.recipe import TargetsRecipe
from sercache.training.objective import Targets

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
        index_of = {utterance_id: index for index, utterance_id in enumerate(corpus.ids)}
        rows = [index_of[utterance_id] for utterance_id in teacher.ids]
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


@dataclass(frozen=True)
class LabelledRows:
    """Targets of N utterances.

    Attributes:
        ids: the utterances.
        soft: ``(N, C)`` float64, a row of NaN where there is no class target; C is 0 with attributes alone.
        consensus: ``(N,)`` int64, negative where there is no consensus class.
        attributes: ``(N, A)`` float64, NaN where nobody rated.
        votes: that ``soft`` comes from.
        policy: how.
        teacher: whose predictions are mixed into ``soft`` and ``attributes``.
    """

    ids: tuple[str, ...]
    soft: NDArray[np.float64]
    consensus: NDArray[np.int64]
    attributes: NDArray[np.float64]
    votes: Votes
    policy: TargetPolicy
    teacher: TeacherTargets | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, corpus: Corpus, recipe: TargetsRecipe) -> "LabelledRows":
        """Return the targets of a whole corpus under the recipe's policies."""
        policy = TargetPolicy(**recipe.model_dump())
        votes = Votes.of(corpus)
        soft = soft_targets(corpus, policy)
        return cls(corpus.ids, soft, plurality(votes), corpus.attribute_values, votes, policy)

    def with_teacher(self, teacher: TeacherTargets) -> "LabelledRows":
        """Return the same rows with a teacher's predictions mixed into the targets, not the consensus."""
        soft, attributes = teacher.mixed(self.soft, self.attributes)
        return replace(self, soft=soft, attributes=attributes, teacher=teacher)

    def select(self, ids: Sequence[str]) -> "LabelledRows":
        """Return the rows of ``ids``, in that order."""
        index_of = {utterance_id: index for index, utterance_id in enumerate(self.ids)}
        order = np.asarray([index_of[utterance_id] for utterance_id in ids], dtype=np.int64)
        return LabelledRows(
            tuple(ids),
            self.soft[order],
            self.consensus[order],
            self.attributes[order],
            self.votes.take(order),
            self.policy,
            None if self.teacher is None else self.teacher.take(order),
        )

    def without_some_raters(self, share: float, generator: np.random.Generator) -> "LabelledRows":
        """Return the rows with the soft targets of a random subset of the raters: annotator dropout.

        Each rater is left out with probability ``share``. A row that nobody is left for keeps all of its
        raters; one without a target stays without.
        """
        thinned = targets_of(self.votes.thinned(share, generator), self.policy)
        soft = thinned if self.teacher is None else self.teacher.mixed(thinned, self.attributes)[0]
        return replace(self, soft=np.where(np.isnan(thinned) | np.isnan(self.soft), self.soft, soft))

    @property
    def has_target(self) -> NDArray[np.bool_]:
        """Whether there is anything to learn from a row, ``(N,)``."""
        has_class = np.isfinite(self.soft).all(axis=1) & (self.soft.shape[1] > 0)
        return np.asarray(has_class | np.isfinite(self.attributes).any(axis=1))

    @property
    def truth(self) -> Truth:
        """What predictions of these rows are scored against."""
        return Truth(self.consensus, self.attributes, self.soft.shape[1])

    def targets(self, device: torch.device) -> Targets:
        """Return all targets as float32 tensors on ``device``."""
        return Targets(
            torch.from_numpy(self.soft).to(device, torch.float32),
            torch.from_numpy(self.attributes).to(device, torch.float32),
        )


_POOL_BATCHES = 16
"""Batches that are sorted by length together: enough to save most padding, few enough to stay random.

Never more than about half of an epoch: sorting all rows would make the same batches in every epoch.
"""


def epoch_batches(
    lengths: NDArray[np.int64],
    ranks: NDArray[np.int64],
    batch_size: int,
    generator: np.random.Generator,
) -> list[NDArray[np.int64]]:
    """Return an epoch's batches: every row once, rows of similar length together, another order every time.

    Rows are taken in pools in the order of their ranks, so heads that learn from overlapping rows want the
    same frames at about the same time, and each is read from disk once for all of them.

    Args:
        lengths: ``(N,)`` what padding depends on, for example frames.
        ranks: ``(N,)`` each row's rank in this epoch's random order.
        batch_size: rows per batch; one batch may be smaller.
        generator: the order of a pool's batches.

    Returns:
        Row numbers, one array per batch.
    """
    order = np.argsort(ranks, kind="stable")
    batches_per_pool = min(_POOL_BATCHES, math.ceil(len(order) / batch_size / 2))
    pool = batch_size * max(1, batches_per_pool)
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), pool):
        rows = order[start : start + pool]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        pool_batches = [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
        batches.extend(pool_batches[index] for index in generator.permutation(len(pool_batches)))
    return batches


def balanced_draw(
    consensus: NDArray[np.int64],
    ranks: NDArray[np.int64],
    num_classes: int,
    no_agreement_share: float,
) -> NDArray[np.int64]:
    """Draw a class-balanced epoch (MEDUSA, section 3, stage 2), another one for every random order.

    Every class is undersampled to the rarest one that has any row, and rows without a consensus class (X, O)
    join with ``no_agreement_share`` times as many. Where no row has a class, as in corpora with attributes
    alone, all rows are drawn.

    Args:
        consensus: ``(N,)`` of each training row, as :func:`sercache.corpus.targets.consensus` gives it.
        ranks: ``(N,)`` each row's rank in this epoch's random order: the first ones are drawn.
        num_classes: C.
        no_agreement_share: rows without consensus, in units of one class's rows.

    Returns:
        Row numbers, sorted; none twice.
    """
    order = np.argsort(ranks, kind="stable")
    ordered = consensus[order]
    by_class = [order[ordered == index] for index in range(num_classes)]
    present = [rows for rows in by_class if len(rows)]
    without = order[(ordered == NO_AGREEMENT_INDEX) | (ordered == OTHER_INDEX)]
    if not present:
        return np.arange(len(consensus))
    size = min(len(rows) for rows in present)
    extra = round(no_agreement_share * size)
    return np.sort(np.concatenate([*(rows[:size] for rows in present), without[:extra]]))
