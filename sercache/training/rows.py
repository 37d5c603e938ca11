"""What a head learns from: targets by utterance, in one order."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from sercache.corpus import Corpus
from sercache.corpus.targets import TargetPolicy, Votes, plurality, soft_targets, targets_of
from sercache.evaluation.primary import Truth
from sercache.recipe import TargetsRecipe
from sercache.training.guide import Guide
from sercache.training.objective import Targets


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
        guide: a teacher whose word is mixed into ``soft`` and ``attributes``.
    """

    ids: tuple[str, ...]
    soft: NDArray[np.float64]
    consensus: NDArray[np.int64]
    attributes: NDArray[np.float64]
    votes: Votes
    policy: TargetPolicy
    guide: Guide | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, corpus: Corpus, recipe: TargetsRecipe) -> "LabelledRows":
        """Return the targets of a whole corpus under the recipe's policies."""
        policy = TargetPolicy(**recipe.model_dump())
        votes = Votes.of(corpus)
        soft = soft_targets(corpus, policy)
        return cls(corpus.ids, soft, plurality(votes), corpus.attribute_values, votes, policy)

    def guided(self, guide: Guide) -> "LabelledRows":
        """Return the same rows with a teacher's word mixed into what is learned; the consensus stays."""
        soft, attributes = guide.mixed(self.soft, self.attributes)
        return replace(self, soft=soft, attributes=attributes, guide=guide)

    def select(self, ids: Sequence[str]) -> "LabelledRows":
        """Return the rows of ``ids``, in that order."""
        places = {utterance_id: place for place, utterance_id in enumerate(self.ids)}
        order = np.asarray([places[utterance_id] for utterance_id in ids], dtype=np.int64)
        return LabelledRows(
            tuple(ids),
            self.soft[order],
            self.consensus[order],
            self.attributes[order],
            self.votes.take(order),
            self.policy,
            None if self.guide is None else self.guide.take(order),
        )

    def without_some_raters(self, share: float, generator: np.random.Generator) -> "LabelledRows":
        """Return the rows with the soft targets of a random subset of the raters: annotator dropout.

        Each rater is left out with probability ``share``. A row that nobody is left for keeps all of its
        raters; one without a target stays without.
        """
        thinned = targets_of(self.votes.thinned(share, generator), self.policy)
        soft = thinned if self.guide is None else self.guide.mixed(thinned, self.attributes)[0]
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
