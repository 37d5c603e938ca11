"""In which precision a head is trained."""

from typing import Literal

import torch

from sercache.devices import trains_in_bfloat16
from sercache.heads.protocol import Head
from sercache.heads.registry import parameter_count
from sercache.recipe import TrainingRecipe


def precision_of(
    settings: TrainingRecipe, device: torch.device, head: Head
) -> Literal["float32", "bfloat16"]:
    """Return what products are computed in; weights, sums and losses stay in float32 (autocast)."""
    if settings.precision != "auto":
        return settings.precision
    return "bfloat16" if trains_in_bfloat16(str(device), parameter_count(head)) else "float32"
