"""The content of ``bundle.json``: the parts of a bundle, their meaning, and the digest of every file."""

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from sercache.corpus import Attribute
from sercache.errors import BundleError
from sercache.files import read_json, write_json
from sercache.recipe import FeatureRecipe

FORMAT_VERSION = 1
DESCRIPTION_NAME = "bundle.json"
CARD_NAME = "README.md"
CALIBRATION_NAME = "calibration.json"
STACKER_FOLDER = "stacker"

_BLOCK_BYTES = 1 << 22


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileDigest(_Strict):
    """What a file must be."""

    size_bytes: int
    sha256: str


class EncoderCard(_Strict):
    """What the repository of an encoder states about it; None and empty where it states nothing."""

    license: str | None = None
    datasets: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    base_model: str | None = None


Origin = Literal["embedded", "hub", "included", "local", "random"]
"""Where an encoder comes from: sercache itself; the hub; the bundle; a folder that the user has to name;
random weights."""


class BundledFeature(_Strict):
    """One feature set: which encoder makes it, and exactly how.

    ``recipe`` names the encoder as the hub or sercache does, or by the name of its folder; ``provenance`` is
    what its fingerprint hashed. ``folder`` holds an included encoder.
    """

    recipe: FeatureRecipe
    provenance: dict[str, Any]
    fingerprint: str
    origin: Origin
    folder: str | None = None
    runs_own_code: bool = False
    card: EncoderCard = EncoderCard()


class BundledMember(_Strict):
    """One member: the files of its models, whose mean it is.

    ``overlays``, of a fine-tuned member, holds for each model the changed weights of its encoders, by feature
    set. ``normalize`` is ``speaker`` where its frames are standardised with the speaker's recordings.
    """

    name: str
    features: tuple[str, ...]
    models: tuple[str, ...]
    overlays: tuple[dict[str, str], ...] = ()
    normalize: Literal["none", "speaker"] = "none"


class BundledAttribute(_Strict):
    """An attribute and its scale."""

    name: str
    low: float
    high: float


class BundledScore(_Strict):
    """A score with its 95 % interval over speakers."""

    value: float
    low: float | None
    high: float | None


class Evaluation(_Strict):
    """The stacker's scores on speakers that no model of the bundle was trained on."""

    judged_on: str
    rows: int
    speakers: int
    scores: dict[str, BundledScore]
    verdict: tuple[str, ...] = ()


class TrainingData(_Strict):
    """What the heads learnt from."""

    corpus: str
    utterances: int
    speakers: int
    hours: float | None
    rows_by_class: dict[str, int]


class BundleDescription(_Strict):
    """All that a bundle holds.

    ``coverage`` is how often conformal sets hold the truth; None of a bundle that is not calibrated.
    ``unread_members`` are members that the stacker knows by name but gives no weight: they are not there.
    ``transcriber`` names the Whisper model whose transcripts the text encoders were trained on.
    """

    format_version: Literal[1] = 1
    name: str
    versions: dict[str, str]
    classes: tuple[str, ...]
    attributes: tuple[BundledAttribute, ...]
    features: dict[str, BundledFeature]
    members: tuple[BundledMember, ...]
    unread_members: tuple[str, ...] = ()
    models: Literal["folds", "refit"]
    stacker: str
    extras: tuple[str, ...] = ()
    coverage: float | None
    transcriber: str | None = None
    evaluation: Evaluation | None = None
    training_data: TrainingData
    files: dict[str, FileDigest] = {}

    @property
    def normalized_members(self) -> tuple[str, ...]:
        """Names of the members that are normalised per speaker: they need the speaker of each recording."""
        return tuple(member.name for member in self.members if member.normalize == "speaker")

    def attribute_ranges(self) -> tuple[Attribute, ...]:
        """Return the attributes as the rest of the library knows them."""
        return tuple(
            Attribute(attribute.name, attribute.low, attribute.high) for attribute in self.attributes
        )


def digest_of(path: Path) -> FileDigest:
    """Return size and SHA-256 of a file."""
    hashed, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            hashed.update(block)
            size += len(block)
    return FileDigest(size_bytes=size, sha256=hashed.hexdigest())


def write_description(folder: Path, description: BundleDescription) -> None:
    """Digest everything in ``folder`` but the card, which people may edit, and write ``bundle.json`` last."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): digest_of(path) for path in paths if path.name != CARD_NAME}
    content = description.model_copy(update={"files": files}).model_dump(mode="json")
    write_json(folder / DESCRIPTION_NAME, content | {"sha256": description_digest(content)})


def read_description(folder: Path) -> BundleDescription:
    """Read ``bundle.json`` and make sure that every file is what it was when the bundle was made.

    Raises:
        BundleError: it is no bundle, of a newer format, or a file is missing or damaged; names the file.
    """
    path = folder / DESCRIPTION_NAME
    if not path.is_file():
        raise BundleError(
            f"{folder} is not a bundle: it has no {DESCRIPTION_NAME}; sercache bundle RUN makes one"
        )
    try:
        content = read_json(path)
        version = content["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path}: damaged, not the description of a bundle ({error!r})") from None
    if version != FORMAT_VERSION:
        advice = (
            "a newer sercache reads it"
            if isinstance(version, int) and version > FORMAT_VERSION
            else "damaged"
        )
        raise BundleError(f"{path}: format {version}, this version reads format {FORMAT_VERSION}; {advice}")
    stated = content.pop("sha256", None)
    if stated != description_digest(content):
        raise BundleError(
            f"{path}: damaged or edited, its digest is not the one it states; make the bundle anew"
        )
    try:
        description = BundleDescription.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BundleError(f"{path}: not the description of a bundle ({where}: {first['msg']})") from None
    _refuse_unlisted_files(folder, description)
    for name, wanted in description.files.items():
        _check_file(folder, name, wanted)
    return description


def _refuse_unlisted_files(folder: Path, description: BundleDescription) -> None:
    """Refuse files that are not listed with a digest, and parts that are not among the listed files.

    A loader may read a file that nothing names, for example an adapter beside an encoder's weights. Hidden
    files in the bundle's folder belong to version control and the hub, and are never read.
    """
    listed = set(description.files)
    outside = [name for name in listed if not _is_inside(name)]
    parts = {path for member in description.members for path in member.models}
    parts |= {
        path for member in description.members for overlay in member.overlays for path in overlay.values()
    }
    folders = {feature.folder for feature in description.features.values() if feature.folder is not None}
    outside += sorted(parts - listed)
    outside += [part for part in folders if not _is_inside(part) or not _has_part(listed, part)]
    if outside:
        where = folder / DESCRIPTION_NAME
        raise BundleError(f"{where}: names what is not a file of the bundle ('{outside[0]}')")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        is_free = name.as_posix() in (CARD_NAME, DESCRIPTION_NAME) or name.parts[0].startswith(".")
        if not path.is_dir() and not is_free and name.as_posix() not in listed:
            raise BundleError(f"{path}: is no part of the bundle; remove it, or make the bundle anew")


def _has_part(listed: set[str], folder: str) -> bool:
    return any(name.startswith(f"{folder}/") for name in listed)


def _check_file(folder: Path, name: str, wanted: FileDigest) -> None:
    path = folder / name
    try:
        if path.stat().st_size != wanted.size_bytes:
            raise BundleError(
                f"{path}: damaged, {path.stat().st_size:,} bytes where {wanted.size_bytes:,} were; "
                "copy the bundle again"
            )
        found = digest_of(path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); copy the bundle again") from None
    if found != wanted:
        raise BundleError(
            f"{path}: damaged, its SHA-256 is not that of {DESCRIPTION_NAME}; copy the bundle again"
        )


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\\" not in name


def description_digest(content: dict[str, Any]) -> str:
    """Return the SHA-256 that a bundle's description states of everything else in it."""
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
