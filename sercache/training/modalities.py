"""Modality dropout: heads that learn to do without one of their feature sets."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sercache.heads.protocol import HeadInput


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
        one._replace(mask=one.mask & mask.to(one.mask.device, non_blocking=True).unsqueeze(1))
        for one, mask in zip(inputs, masks, strict=True)
    ]
