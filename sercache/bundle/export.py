"""From a run to a bundle: what the stacker reads, and nothing else."""

import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sercache.bundle.card import model_card
from sercache.bundle.contents import Contents, contents_of_stacker, contents_of_student
from sercache.bundle.description import (
    CALIBRATION_NAME,
    CARD_NAME,
    DESCRIPTION_NAME,
    STACKER_FOLDER,
    BundledAttribute,
    BundleDescription,
    BundledFeature,
    BundledMember,
    TrainingData,
    read_description,
    write_description,
)
from sercache.bundle.encoders import describe_feature
from sercache.cache.store import Cache, FeatureSet
from sercache.corpus import Corpus
from sercache.devices import resolve_device
from sercache.errors import BundleError
from sercache.events import QUIET, Context, Event
from sercache.files import write_atomically
from sercache.posteriors import ALL_FOLDS
from sercache.recipe import MemberRecipe, Recipe
from sercache.run import Run, fold_name, library_versions
from sercache.stacking.base import Signature
from sercache.stacking.extras import parse_extra
from sercache.training.data import open_run, read_run_corpus, split_ids
from sercache.training.finetuning.fold import overlay_name
from sercache.training.member import WEIGHTS_NAME
from sercache.training.members import refit_members
from sercache.training.rows import LabelledRows

_TRANSCRIPTS = "text:"


@dataclass(frozen=True)
class BundleReport:
    """A finished bundle: its folder, its description and its size."""

    folder: Path
    description: BundleDescription
    size_bytes: int


def export_bundle(
    run: Run,
    output: Path,
    *,
    stacker: str | None = None,
    student: str | None = None,
    include_encoders: bool | None = None,
    refit: bool = False,
    device: str = "auto",
    replace: bool = False,
    context: Context = QUIET,
) -> BundleReport:
    """Put everything that predicts a new recording into one folder, which appears whole or not at all.

    Members to which the stacker gives no weight stay out, and with them encoders that only they read.

    Args:
        run: finished by ``sercache stack``.
        output: the bundle's folder.
        stacker: which one; None for the one that the comparison recommends.
        student: a distilled member that goes in instead of a stacker and its members.
        include_encoders: whether the encoders' weights go in; None for those that no hub has.
        refit: whether each member is one model that learns from all folds, which is trained now if it is not
            there yet, instead of the mean of its fold models.
        device: of that training.
        replace: whether an earlier bundle there makes room.
        context: receives events, and can stop the work.

    Raises:
        BundleError: the run is not finished, its comparison is leaky, or the folder is taken.
        CacheError, EncoderError: a feature set or an encoder is gone, or is another one now.
        TrainingError: a member cannot be refitted.
        Interrupted: ``context.should_stop`` returned True; the same call goes on from there.
        OSError: the disk is full or the folder not writable.
    """
    output = output.resolve()
    _refuse_taken(output, replace)
    recipe = run.recipe()
    contents = contents_of_stacker(run, stacker) if student is None else contents_of_student(run, student)
    if refit:
        if contents.overlaid:
            name = next(iter(contents.overlaid))
            raise BundleError(f"'{name}' is fine-tuned and cannot be refitted; leave --refit out")
        data = open_run(run.root.resolve())
        refit_members(data, contents.members, device=resolve_device(device), context=context)
    folds = [ALL_FOLDS] if refit else list(range(recipe.folds.count))
    building = output.parent / f".{output.name}.{secrets.token_hex(4)}.tmp"
    try:
        building.mkdir(parents=True)
        members = [
            _copy_models(run, recipe, member, contents, folds, building) for member in contents.members
        ]
        contents.stacker.write(building / STACKER_FOLDER)
        if contents.calibration is not None:
            contents.calibration.save(building / CALIBRATION_NAME)
        signature = contents.stacker.signature
        opened = _feature_sets(recipe, contents.members, signature)
        features = {}
        for name, feature_set in opened.items():
            context.listener(Event("note", name, message=f"{name}: {feature_set.spec.encoder}"))
            features[name] = describe_feature(
                recipe.features[name], feature_set.spec, building, include=include_encoders
            )
        description = BundleDescription(
            name=output.name,
            versions=library_versions(),
            classes=signature.classes,
            attributes=tuple(BundledAttribute(**asdict(attribute)) for attribute in signature.attributes),
            features=features,
            members=tuple(members),
            unread_members=contents.unread,
            models="refit" if refit else "folds",
            stacker=contents.stacker.name,
            extras=signature.extras,
            coverage=None if contents.calibration is None else contents.calibration.coverage,
            transcriber=_transcriber(features),
            evaluation=contents.evaluation,
            training_data=_training_data(recipe, read_run_corpus(recipe), list(opened.values())),
        )
        return finish_bundle(building, description, output, replace)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def finish_bundle(
    building: Path, description: BundleDescription, output: Path, replace: bool
) -> BundleReport:
    """Write card and description into a folder that holds all other parts, and give it its name."""
    write_atomically(building / CARD_NAME, model_card(description))
    write_description(building, description)
    _refuse_taken(output, replace)  # much time may have passed
    earlier = building.with_name(f"{building.name}.earlier")
    if output.exists():
        output.rename(earlier)
    building.rename(output)
    shutil.rmtree(earlier, ignore_errors=True)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    return BundleReport(output, read_description(output), size)


def _refuse_taken(output: Path, replace: bool) -> None:
    if not output.exists():
        return
    if not (output / DESCRIPTION_NAME).is_file():
        raise BundleError(f"{output} exists and is no bundle; choose another folder")
    if not replace:
        raise BundleError(f"{output} already holds a bundle; choose another folder, or give --replace")


def _copy_models(
    run: Run,
    recipe: Recipe,
    member: MemberRecipe,
    contents: Contents,
    folds: Sequence[int],
    building: Path,
) -> BundledMember:
    """Copy a member's heads, and the weights of encoders that are its own."""
    overlaid = contents.overlaid.get(member.name, ())
    models, overlays = [], []
    for fold in folds:
        source, target = run.fold_folder(member.name, fold), f"heads/{member.name}/{fold_name(fold)}"
        models.append(_copy(source / WEIGHTS_NAME, building, f"{target}.safetensors"))
        overlays.append(
            {
                name: _copy(source / overlay_name(name), building, f"{target}-{overlay_name(name)}")
                for name in overlaid
            }
        )
    return BundledMember(
        name=member.name,
        features=tuple(member.features),
        models=tuple(models),
        overlays=tuple(overlays) if overlaid else (),
        normalize=recipe.training_of(member).normalize,
    )


def _copy(source: Path, building: Path, target: str) -> str:
    try:
        write_atomically(building / target, source.read_bytes())
    except FileNotFoundError:
        raise BundleError(
            f"{source} is gone; the command that trained it makes it again, then sercache stack"
        ) from None
    return target


def _feature_sets(
    recipe: Recipe, members: Sequence[MemberRecipe], signature: Signature
) -> dict[str, FeatureSet]:
    """Return the feature sets that members and the stacker's extras read."""
    names = {feature for member in members for feature in member.features}
    names |= {extra.name for extra in map(parse_extra, signature.extras) if extra.kind == "pooled"}
    return {name: Cache(recipe.cache).find(recipe.features[name]) for name in sorted(names)}


def _transcriber(features: Mapping[str, BundledFeature]) -> str | None:
    """Return the model whose transcripts the text encoders learnt from, if it was one of sercache's."""
    columns = {feature.recipe.text_column or "" for feature in features.values()}
    models = sorted(
        column.removeprefix(_TRANSCRIPTS) for column in columns if column.startswith(_TRANSCRIPTS)
    )
    return models[0] if models else None


def _training_data(recipe: Recipe, corpus: Corpus, feature_sets: Sequence[FeatureSet]) -> TrainingData:
    train = corpus.select(split_ids(corpus, "train"))
    consensus = LabelledRows.of(train, recipe.targets).consensus
    seconds = [feature_set.seconds for feature_set in feature_sets if feature_set.spec.modality == "audio"]
    return TrainingData(
        corpus=recipe.corpus.stem,
        utterances=len(train),
        speakers=len({row.speaker for row in train.utterances} - {None}),
        hours=round(max(seconds) * len(train) / max(1, len(corpus)) / 3600, 2) if seconds else None,
        rows_by_class={name: int((consensus == index).sum()) for index, name in enumerate(corpus.classes)},
    )
