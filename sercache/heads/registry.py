"""Heads by name, and how one is built."""

from collections.abc import Sequence

import torch

from sercache.errors import RecipeError
from sercache.heads.protocol import Head
from sercache.options import Options, check_options
from sercache.registry import Registry

HEADS: Registry[type[Head]] = Registry(
    "head",
    {
        "attentive-statistics": "sercache.heads.attentive_statistics:AttentiveStatistics",
        "cross-attention": "sercache.heads.cross_attention:CrossAttention",
        "deepser": "sercache.heads.deepser:DeepSER",
        "late-fusion": "sercache.heads.late_fusion:LateFusion",
        "logistic": "sercache.heads.pooled_linear:Logistic",
        "mean-linear": "sercache.heads.mean_linear:MeanLinear",
        "ridge": "sercache.heads.pooled_linear:Ridge",
    },
    RecipeError,
)

LAYER_SUM = "layer_sum"
"""The option of every head that reads several layers of an encoder: the name of a layer sum."""

BASE = "base"
"""The option of every trained head: the closed-form head whose outputs it starts from and adds to.

``best`` stands for ridge or logistic, whichever predicts left-out speakers better.
"""

BEST_BASE = "best"


def build_head(
    name: str,
    input_dims: Sequence[int],
    num_classes: int,
    attribute_ranges: Sequence[tuple[float, float]],
    options: Options,
    seed: int,
    input_layers: Sequence[int] | None = None,
) -> Head:
    """Return a freshly initialised head; its weights depend on ``seed`` alone.

    Args:
        name: a name in :data:`HEADS`.
        input_dims: D of each feature set.
        num_classes: C.
        attribute_ranges: ``(low, high)`` of each attribute.
        options: the head's own keyword arguments; where a feature set has several layers, also
            :data:`LAYER_SUM` (``weighted`` unless given); of a trained head also :data:`BASE`.
        seed: of the initialisation; the global generators are left as they were.
        input_layers: L of each feature set; one each unless given.

    Raises:
        RecipeError: no such head, an option that it does not know, or a value that it cannot take.
    """
    head_class = HEADS[name]
    layers = [1] * len(input_dims) if input_layers is None else list(input_layers)
    if len(layers) != len(input_dims):
        raise ValueError(f"input_layers has {len(layers)} entries for {len(input_dims)} feature sets")
    has_layers = max(layers, default=1) > 1
    sums_layers = has_layers and not head_class.keeps_layers
    if LAYER_SUM in options and not has_layers:
        raise RecipeError(
            f"head '{name}': option '{LAYER_SUM}' is for feature sets of several layers; each of this head's "
            "has one"
        )
    common = {LAYER_SUM: str} if sums_layers else {}
    if not head_class.is_closed_form:
        common[BASE] = str
    check_options(f"head '{name}'", head_class, options, common)
    kind = str(options.get(LAYER_SUM, "weighted"))
    own_options = {option: value for option, value in options.items() if option not in (LAYER_SUM, BASE)}
    base_name = str(options.get(BASE, "none"))
    if base_name not in ("none", BEST_BASE) and not HEADS[base_name].is_closed_form:
        raise RecipeError(
            f"head '{name}': option 'base' must be best, none, or a head that is fitted without epochs "
            f"(ridge, logistic), not '{base_name}'"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs' generators too
        try:
            head = head_class(input_dims, num_classes, attribute_ranges, **own_options)  # type: ignore[arg-type]
        except (TypeError, ValueError, RuntimeError) as error:
            raise RecipeError(f"head '{name}': {error}") from error
        for index, num_layers in enumerate(layers):
            if num_layers > 1:
                head.set_layers(index, num_layers, kind)
    if base_name != "none":
        kind_of_base = "ridge" if base_name == BEST_BASE else base_name
        head.attach_base(
            build_head(kind_of_base, input_dims, num_classes, attribute_ranges, {}, seed, layers)
        )
    return head


def parameter_count(head: Head) -> int:
    """Return how many trainable numbers a head has."""
    return sum(parameter.numel() for parameter in head.parameters() if parameter.requires_grad)
