"""What a recipe asks for, held against what a feature set is."""

import re
from collections.abc import Sequence
from pathlib import Path

from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.layers import parse_layers
from sercache.errors import EncoderError
from sercache.recipe import FeatureRecipe


def encoder_name(encoder: str) -> str:
    """Return what feature sets call an encoder: a local checkpoint goes by its folder's name, not its path.

    >>> encoder_name("microsoft/wavlm-large"), encoder_name("/models/wavlm-tiny/")
    ('microsoft/wavlm-large', 'wavlm-tiny')
    """
    folder = Path(encoder).expanduser()
    is_local = folder.is_dir() or encoder.startswith((".", "/", "~"))
    return folder.resolve().name if is_local else encoder


def encoder_and_layers(request: str) -> tuple[str, str | None]:
    """Return what ``NAME`` or ``NAME:LAYERS`` asks for; a folder may have a colon in its name.

    >>> encoder_and_layers("microsoft/wavlm-large:last4"), encoder_and_layers("logmel")
    (('microsoft/wavlm-large', 'last4'), ('logmel', None))
    """
    match = None if Path(request).is_dir() else re.fullmatch(r"(.+):((?:last|all|[0-9,-])+)", request)
    return (match[1], match[2]) if match else (request, None)


def differences_from(recipe: FeatureRecipe, spec: FeatureSpec) -> list[str]:
    """Return where a feature set is not what a recipe asks for: ``layers sum-21-24, not layer-12``."""
    wanted: dict[str, object] = {"time_pool": recipe.time_pool}
    if recipe.dtype != "auto":
        wanted["dtype"] = recipe.dtype
    if spec.modality == "audio":
        wanted |= {"window_seconds": recipe.window_seconds, "overlap_seconds": recipe.overlap_seconds}
    asked = _layer_names(recipe.layers, spec.num_layers)
    differences = []
    if asked != spec.layers:
        differences = [f"layers {shortened(spec.layers)}, not {shortened(asked)}"]
    differences += [
        f"{name} {getattr(spec, name)}, not {value}"
        for name, value in wanted.items()
        if getattr(spec, name) != value
    ]
    precision = spec.options.get("precision", recipe.precision)
    if recipe.precision not in ("auto", precision):
        differences.append(f"precision {precision}, not {recipe.precision}")
    text_column = spec.options.get("text_column")
    if spec.modality == "text" and text_column != recipe.text_column:
        differences.append(f"text_column {text_column or 'text'}, not {recipe.text_column or 'text'}")
    if recipe.fingerprint and not spec.fingerprint.startswith(recipe.fingerprint):
        differences.append(f"fingerprint {spec.fingerprint[:12]}, not {recipe.fingerprint}")
    return differences


def shortened(layers: Sequence[str]) -> str:
    """Return names of layers as one short text.

    >>> shortened(["layer-0", "last"]), shortened(["layer-0", "layer-1", "layer-2", "last"])
    ('layer-0, last', 'layer-0 ... last (4 layers)')
    """
    return ", ".join(layers) if len(layers) <= 3 else f"{layers[0]} ... {layers[-1]} ({len(layers)} layers)"


def _layer_names(request: str, num_layers: int) -> tuple[str, ...]:
    """Return what a request means for an encoder; one that it cannot mean stays as it is."""
    try:
        return parse_layers(request, num_layers).names
    except EncoderError:
        return (request,)
