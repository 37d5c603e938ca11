"""Heads by name, and how one is built."""

from collections.abc import Sequence

import torch

from sercache.errors import RecipeError
from sercache.heads.options import HeadOptions, check_options
from sercache.heads.protocol import Head
from sercache.registry import Registry

HEADS: Registry[type[Head]] = Registry(
    "head",
    {
        "attentive-statistics": "sercache.heads.attentive_statistics:AttentiveStatistics",
        "deepser": "sercache.heads.deepser:DeepSER",
        "mean-linear": "sercache.heads.mean_linear:MeanLinear",
    },
    RecipeError,
)


def build_head(
    name: str,
    input_dims: Sequence[int],
    num_classes: int,
    attribute_ranges: Sequence[tuple[float, float]],
    options: HeadOptions,
    seed: int,
    input_layers: Sequence[int] | None = None,
) -> Head:
    """Return a freshly initialised head; its weights depend on ``seed`` alone.

    Args:
        name: a name in :data:`HEADS`.
        input_dims: D of each feature set.
        num_classes: C.
        attribute_ranges: ``(low, high)`` of each attribute.
        options: the head's own keyword arguments.
        seed: of the initialisation; the global generators are left as they were.

    Raises:
        RecipeError: no such head, an option that it does not know, or a value that it cannot take.
    """
    head_class = HEADS[name]
    check_options(name, head_class, options)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs' generators too
        try:
            return head_class(input_dims, num_classes, attribute_ranges, **options)  # type: ignore[arg-type]
        except (TypeError, ValueError, RuntimeError) as error:
            raise RecipeError(f"head '{name}': {error}") from error


def parameter_count(head: Head) -> int:
    """Return how many trainable numbers a head has."""
    return sum(parameter.numel() for parameter in head.parameters() if parameter.requires_grad)
