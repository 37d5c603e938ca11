"""The learning rate over the steps of a stage: a linear warm-up, then constant or half a cosine."""

import math

from sercache.recipe import Schedule


def rate_factor(step: int, warmup_steps: float, total_steps: int, schedule: Schedule = "constant") -> float:
    """Return what a stage's learning rate is multiplied by in one step of the optimiser, in (0, 1].

    Args:
        step: number of the step in its stage, from 0.
        warmup_steps: over which the factor rises linearly; up to 1 there is no warm-up.
        total_steps: of the stage, if it is not ended early.
        schedule: after the warm-up, ``constant`` stays at 1, ``cosine`` falls from 1 to 0 (Loshchilov and
            Hutter 2017, without restarts); 0 would be reached in the step after the last.

    >>> [round(rate_factor(step, 2, 6, "cosine"), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup_steps:
        return min(1.0, (step + 1) / max(warmup_steps, 1.0))
    if schedule == "constant":
        return 1.0
    return (1.0 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps))) / 2.0
