"""Manifold MixUp (Verma et al. 2019), and modality dropout."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sercache.heads.protocol import HeadInput
from sercache.training.objective import Targets


class Mix(NamedTuple):
    """Row i becomes ``share[i] * row i + (1 - share[i]) * row partner[i]``.

    ``share`` ``(B,)`` float32 in [0, 1]; ``partner`` ``(B,)`` int64, a permutation of the rows.
    """

    share: Tensor
    partner: Tensor

    def apply(self, rows: Tensor) -> Tensor:
        """Return the mixed rows ``(B, ...)``; a row whose share is 1 is untouched, even by a NaN."""
        share = self.share.to(rows.dtype).reshape(-1, *[1] * (rows.ndim - 1))
        return torch.where(share == 1, rows, share * rows + (1 - share) * rows[self.partner])

    def to(self, device: torch.device) -> "Mix":
        """Return the mix on ``device``."""
        return Mix(self.share.to(device, non_blocking=True), self.partner.to(device, non_blocking=True))


def draw_mix(batch_size: int, probability: float, alpha: float, generator: np.random.Generator) -> Mix | None:
    """Draw how a batch is mixed, or None: a batch is mixed with ``probability``.

    Args:
        batch_size: B.
        probability: that the batch is mixed at all.
        alpha: shares follow Beta(alpha, alpha), one per row (MEDUSA, section 3: 0.2).
        generator: the source of randomness.
    """
    if batch_size < 2 or generator.random() >= probability:
        return None
    share = generator.beta(alpha, alpha, size=batch_size).astype(np.float32)
    return Mix(torch.from_numpy(share), torch.from_numpy(generator.permutation(batch_size)))


def mix_targets(mix: Mix, targets: Targets) -> tuple[Mix, Targets]:
    """Mix the targets, and return the mix that goes with them.

    A row that has no class target, or whose partner has none, stays as it is: mixing it would take its target
    away, or invent one. An attribute that one of the two rows lacks is missing in the mixture.
    """
    missing = targets.soft.isnan().any(dim=1)
    share = torch.where(missing | missing[mix.partner], torch.ones_like(mix.share), mix.share)
    kept = Mix(share, mix.partner)
    return kept, Targets(kept.apply(targets.soft), kept.apply(targets.attributes))


def draw_modalities(
    present: NDArray[np.bool_], share: float, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw which feature sets of each clip are kept, ``(B, M)`` bool.

    Each is left out with probability ``share`` (Neverova et al. 2016, section 3.3); where all that a clip has
    would be, one of them, drawn at random, stays.

    Args:
        present: ``(B, M)`` which feature sets each clip has frames of.
        share: in [0, 1).
        generator: the source of randomness.
    """
    draws = np.where(present, generator.random(present.shape), -1.0)
    kept = draws >= share
    rescued = np.arange(present.shape[1]) == draws.argmax(axis=1)[:, None]
    result: NDArray[np.bool_] = present & (kept | rescued)
    return result


def mask_modalities(inputs: Sequence[HeadInput], kept: NDArray[np.bool_]) -> list[HeadInput]:
    """Return the inputs with the frames of what is not ``kept`` ``(B, M)`` masked."""
    masks = torch.from_numpy(np.ascontiguousarray(kept.T))
    return [
        given._replace(mask=given.mask & mask.to(given.mask.device, non_blocking=True).unsqueeze(1))  # (B, T)
        for given, mask in zip(inputs, masks, strict=True)
    ]
