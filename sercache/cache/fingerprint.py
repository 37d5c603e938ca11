"""The specification of a feature set, its fingerprint, and how a recipe is matched with it."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sercache.cache.layers import parse_layers
from sercache.errors import CacheError, EncoderError
from sercache.files import read_json, slug
from sercache.recipe import FeatureRecipe

FORMAT_VERSION = 1

Modality = Literal["audio", "text"]
Precision = Literal["float32", "bfloat16"]
StorageDtype = Literal["float16", "bfloat16", "float32"]


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """Everything that changes the numbers of a feature set, and nothing else (no batch size, device or path).

    Attributes:
        encoder: registry name or hub name (``logmel``, ``microsoft/wavlm-large``).
        revision: hub commit, digest of local weights, or the version of an embedded encoder.
        modality: what the encoder reads.
        layers: names of the frames that are kept, one dataset each (``("last",)``, ``("sum-21-24",)``,
            ``("layer-0", ..., "layer-23", "last")``).
        num_layers: how many hidden layers the encoder has; 0 for an embedded encoder.
        dim: features per frame, D.
        frame_rate_hz: frames per second before time pooling; None for text.
        sample_rate_hz: what audio is resampled to; None for text.
        normalization: what is done to the waveform or text before the encoder.
        library: library and version that computed the frames (``transformers 5.23.0``).
        options: further settings of an embedded encoder.
        time_pool: frames averaged into one.
        dtype: how frames are stored; None while it is still to be decided from a first sample.
        window_seconds: longest stretch that is encoded at once; longer audio goes in overlapping windows.
        overlap_seconds: how much neighbouring windows share.
    """

    encoder: str
    revision: str
    modality: Modality
    layers: tuple[str, ...]
    num_layers: int
    dim: int
    frame_rate_hz: float | None
    sample_rate_hz: int | None
    normalization: str
    library: str
    options: Mapping[str, float | int | str | bool] = field(default_factory=dict)
    time_pool: int = 1
    dtype: StorageDtype | None = None
    window_seconds: float | None = None
    overlap_seconds: float | None = None

    @property
    def precision(self) -> Precision:
        """How the encoder computed the frames; float32 where the options do not state it."""
        return "bfloat16" if self.options.get("precision") == "bfloat16" else "float32"

    def provenance(self) -> dict[str, Any]:
        """Return what the fingerprint hashes, as JSON values."""
        return asdict(self) | {"layers": list(self.layers), "format_version": FORMAT_VERSION}

    @property
    def fingerprint(self) -> str:
        """Return 64 hexadecimal digits; two specs share them only if every field is equal."""
        canonical = json.dumps(self.provenance(), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def folder_name(self) -> str:
        """Return the name of the feature set's folder: readable slug, then 12 digits of the fingerprint."""
        return f"{slug(self.encoder)}-{self.fingerprint[:12]}"

    @classmethod
    def from_provenance(cls, provenance: Mapping[str, Any]) -> "FeatureSpec":
        """Return the spec that :meth:`provenance` described."""
        fields = {key: value for key, value in provenance.items() if key != "format_version"}
        return cls(**(fields | {"layers": tuple(fields["layers"])}))


def read_spec(path: Path) -> FeatureSpec:
    """Return the spec in a feature set's ``feature_set.json``.

    Raises:
        CacheError: the file is missing, damaged, of another format, or was changed.
    """
    try:
        described = read_json(path)
    except FileNotFoundError:
        raise CacheError(f"{path.parent} is no feature set: it has no {path.name}") from None
    except (ValueError, OSError) as error:
        raise CacheError(f"{path}: cannot be read ({error})") from error
    try:
        fingerprint, version = described.pop("fingerprint"), described["format_version"]
        if version != FORMAT_VERSION:
            raise CacheError(f"{path}: has format {version}; this version reads format {FORMAT_VERSION}")
        spec = FeatureSpec.from_provenance(described)
    except (AttributeError, KeyError, TypeError) as error:
        raise CacheError(f"{path}: does not describe a feature set ({error})") from error
    if spec.fingerprint != fingerprint:
        raise CacheError(f"{path}: was changed: its content does not fit its fingerprint {fingerprint[:12]}")
    return spec


def encoder_name(encoder: str) -> str:
    """Return what feature sets call an encoder: a local checkpoint goes by its folder's name, not its path.

    >>> encoder_name("microsoft/wavlm-large"), encoder_name("/models/wavlm-tiny/")
    ('microsoft/wavlm-large', 'wavlm-tiny')
    """
    return Path(encoder).expanduser().resolve().name if is_local(encoder) else encoder


def is_local(encoder: str) -> bool:
    """Return whether a recipe's encoder is a folder on this machine, there or not, and not a hub name.

    >>> is_local("microsoft/wavlm-large"), is_local("~/models/wavlm")
    (False, True)
    """
    return Path(encoder).expanduser().is_dir() or encoder.startswith((".", "/", "~"))


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
