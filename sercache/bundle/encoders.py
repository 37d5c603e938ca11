"""The encoders of a bundle: describe them, include their weights, load them again."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sercache.bundle.description import BundledFeature, EncoderCard, Origin
from sercache.cache.fingerprint import FeatureSpec
from sercache.encoders.checkpoint import Checkpoint, checkpoint_files, open_checkpoint
from sercache.encoders.protocol import Encoder, Precision
from sercache.encoders.random_weights import has_random_weights
from sercache.encoders.registry import ENCODERS, load_encoder
from sercache.errors import BundleError, EncoderError
from sercache.events import Event, Listener
from sercache.recipe import FeatureRecipe

_FREE_TO_DIFFER = {"encoder", "revision"}
"""Fields that may differ of an included encoder: its digests were checked, and its folder is renamed."""


def describe_feature(
    recipe: FeatureRecipe, spec: FeatureSpec, root: Path, *, include: bool | None
) -> BundledFeature:
    """Return the description of a feature set, with the encoder's files copied into the bundle if wanted.

    Args:
        recipe: the run's.
        spec: the cached feature set's.
        root: the bundle's folder.
        include: whether weights go in; None for those that are only in a local folder.

    Raises:
        BundleError: the encoder is no longer what made the features.
        EncoderError: it cannot be opened.
    """
    origin, folder, card, runs_own_code = _origin(recipe.encoder), None, EncoderCard(), False
    if origin in ("hub", "local") and (include or (include is None and origin == "local")):
        checkpoint = _open(recipe, spec)
        folder = f"encoders/{spec.folder_name}"
        _copy(checkpoint, root / folder)
        origin, card, runs_own_code = "included", _card(checkpoint), _runs_own_code(checkpoint)
    elif origin in ("hub", "local"):
        checkpoint = _open(recipe, spec)
        card, runs_own_code = _card(checkpoint), _runs_own_code(checkpoint)
    return BundledFeature(
        recipe=recipe.model_copy(
            update={"encoder": spec.encoder, "dtype": spec.dtype, "trust_remote_code": False}
        ),
        provenance=spec.provenance(),
        fingerprint=spec.fingerprint,
        origin=origin,
        folder=folder,
        runs_own_code=runs_own_code,
        card=card,
    )


def load_feature_encoder(
    name: str,
    feature: BundledFeature,
    root: Path,
    *,
    device: str,
    given: Mapping[str, str],
    trust_remote_code: bool,
    listener: Listener,
    precision: Precision | None = None,
) -> tuple[Encoder, FeatureSpec]:
    """Load the encoder of a feature set, and make sure that it makes the frames that the heads learnt from.

    Args:
        name: the feature set's.
        feature: its description in the bundle.
        root: the bundle's folder.
        device: where it computes.
        given: encoders that the user names instead, by feature set: a folder, or a hub name.
        trust_remote_code: whether Python code that comes with an encoder may run.
        listener: receives a warning if the library has another version.
        precision: in which it computes; None for that of the feature set.

    Raises:
        BundleError: the encoder is another one, or comes with code that may not run.
        EncoderError: it cannot be loaded.
    """
    spec = FeatureSpec.from_provenance(feature.provenance)
    source, revision = _source(name, feature, root, given)
    if feature.runs_own_code and not trust_remote_code:
        raise BundleError(
            f"feature set '{name}': encoder '{spec.encoder}' comes with its own Python code; read it in "
            f"{source}, then allow it with --trust-remote-code"
        )
    stated = spec.precision
    encoder = load_encoder(
        source,
        feature.recipe.layers,
        device=device,
        precision=precision or stated,
        trust_remote_code=trust_remote_code and feature.runs_own_code,
        revision=revision,
    )
    differences = _differences(encoder.spec, spec)
    if precision is not None:
        differences.pop("options", None)
    if feature.origin == "included" and name not in given:
        differences = {key: both for key, both in differences.items() if key not in _FREE_TO_DIFFER}
    if library := differences.pop("library", None):
        message = (
            f"feature set '{name}' was made by {library[1]}, this is {library[0]}: frames may differ slightly"
        )
        listener(Event("warning", name, message=message))
    if differences:
        key, (found, wanted) = next(iter(differences.items()))
        raise BundleError(
            f"feature set '{name}': this {source} is not the encoder that the heads learnt from: "
            f"{key} is {found}, not {wanted}"
        )
    return encoder, spec


def _origin(encoder: str) -> Origin:
    if encoder in ENCODERS:
        return "embedded"
    if has_random_weights(encoder):
        return "random"
    return "local" if Path(encoder).expanduser().is_dir() or encoder.startswith((".", "/", "~")) else "hub"


def _open(recipe: FeatureRecipe, spec: FeatureSpec) -> Checkpoint:
    revision = None if _origin(recipe.encoder) == "local" else spec.revision
    checkpoint = open_checkpoint(
        recipe.encoder, trust_remote_code=recipe.trust_remote_code, revision=revision
    )
    if checkpoint.revision != spec.revision:
        raise BundleError(
            f"encoder '{recipe.encoder}' has changed since its features were extracted (revision "
            f"{checkpoint.revision[:12]}, not {spec.revision[:12]}); the heads do not fit it"
        )
    return checkpoint


def _copy(checkpoint: Checkpoint, target: Path) -> None:
    """Copy a checkpoint; weights that are a pickle become safetensors."""
    source = _folder_of(checkpoint)
    target.mkdir(parents=True)
    files = checkpoint_files(source)
    has_safetensors = any(path.suffix == ".safetensors" for path in files)
    for path in files:
        if path.suffix != ".bin":
            shutil.copyfile(path, target / path.name)
    if not has_safetensors:
        checkpoint.load_model().save_pretrained(target)


def _folder_of(checkpoint: Checkpoint) -> Path:
    if checkpoint.is_local:
        return Path(checkpoint.source)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(checkpoint.source, revision=checkpoint.revision))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise EncoderError(f"encoder '{checkpoint.name}': cannot be fetched whole ({reason})") from None


def _runs_own_code(checkpoint: Checkpoint) -> bool:
    return bool(checkpoint.trust_remote_code and getattr(checkpoint.config, "auto_map", None))


def _card(checkpoint: Checkpoint) -> EncoderCard:
    """Return what a repository's README states in its front matter; which may be nothing."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.repocard import metadata_load

    try:
        if checkpoint.is_local:
            path = Path(checkpoint.source) / "README.md"
        else:
            path = Path(hf_hub_download(checkpoint.source, "README.md", revision=checkpoint.revision))
        stated: dict[str, Any] = metadata_load(path) or {}
    except (OSError, ValueError):
        return EncoderCard()
    return EncoderCard(
        license=_one(stated.get("license_name") or stated.get("license")),
        datasets=_several(stated.get("datasets")),
        languages=_several(stated.get("language")),
        base_model=_one(stated.get("base_model")),
    )


def _several(stated: Any) -> tuple[str, ...]:
    if stated is None:
        return ()
    return tuple(str(value) for value in stated) if isinstance(stated, list) else (str(stated),)


def _one(stated: Any) -> str | None:
    return ", ".join(_several(stated)) or None


def _source(
    name: str, feature: BundledFeature, root: Path, given: Mapping[str, str]
) -> tuple[str, str | None]:
    """Return what :func:`load_encoder` is to load, and at which revision."""
    if name in given:
        return given[name], None
    if feature.folder is not None:
        return str(root / feature.folder), None
    encoder = feature.recipe.encoder
    if feature.origin == "local":
        raise BundleError(
            f"feature set '{name}': its encoder '{encoder}' is a folder that is not in the bundle; name "
            f"it with --encoder {name}=FOLDER, or make the bundle with --include-encoders"
        )
    return encoder, str(feature.provenance["revision"]) if feature.origin == "hub" else None


def _differences(found: FeatureSpec, wanted: FeatureSpec) -> dict[str, tuple[Any, Any]]:
    """Return where an encoder is not what made the features; what the recipe adds to it does not count."""
    options = {key: value for key, value in wanted.options.items() if key != "text_column"}
    bare = replace(
        wanted, options=options, time_pool=1, dtype=None, window_seconds=None, overlap_seconds=None
    )
    loaded, expected = found.provenance(), bare.provenance()
    return {key: (loaded[key], expected[key]) for key in loaded if loaded[key] != expected[key]}
