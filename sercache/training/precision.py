"""In which precision a head is trained."""

from typing import Literal

import torch

from sercache.devices import computes_in_bfloat16
from sercache.recipe import TrainingRecipe


def precision_of(settings: TrainingRecipe, device: torch.device) -> Literal["float32", "bfloat16"]:
    """Return what products are computed in; weights, sums and losses stay in float32 (autocast).

    ``auto`` is bfloat16 on a GPU that has units for it. On a CPU it is float32: whether bfloat16 is faster
    there depends on machine and head (``docs/explanation/measured.md``), so a recipe has to ask for it.
    """
    if settings.precision != "auto":
        return settings.precision
    return "bfloat16" if computes_in_bfloat16(str(device)) else "float32"
