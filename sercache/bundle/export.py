"""From a run to a bundle: what the stacker reads, and nothing else."""

import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sercache.bundle.card import model_card
from sercache.bundle.description import (
    CALIBRATION_NAME,
    CARD_NAME,
    DESCRIPTION_NAME,
    STACKER_FOLDER,
    BundledAttribute,
    BundleDescription,
    BundledFeature,
    BundledMember,
    BundledScore,
    Evaluation,
    TrainingData,
    read_description,
    write_description,
)
from sercache.bundle.encoders import describe_feature
from sercache.cache.store import Cache, FeatureSet
from sercache.corpus import Corpus
from sercache.devices import resolve_device
from sercache.errors import BundleError
from sercache.events import Event, Listener, ignore
from sercache.files import read_json, write_atomically
from sercache.interrupts import ShouldStop, never
from sercache.posteriors import ALL_FOLDS
from sercache.recipe import MemberRecipe, Recipe
from sercache.run import Run, fold_name
from sercache.stacking.calibrating import CALIBRATION_NAME as FITTED_CALIBRATION_NAME
from sercache.stacking.registry import load_stacker
from sercache.stacking.saved import SavedStacker, Signature
from sercache.training.context import open_run, read_run_corpus, split_ids
from sercache.training.member import WEIGHTS_NAME
from sercache.training.members import refit_members
from sercache.training.rows import LabelledRows
from sercache.versions import library_versions

_SCORES = ("macro_f1", "uar", "weighted_f1", "log_loss", "ece")
_TRANSCRIPTS = "text:"


@dataclass(frozen=True)
class BundleReport:
    """A finished bundle: its folder, what it says of itself, and its size."""

    folder: Path
    description: BundleDescription
    size_bytes: int


def export_bundle(
    run: Run,
    output: Path,
    *,
    stacker: str | None = None,
    include_encoders: bool | None = None,
    refit: bool = False,
    device: str = "auto",
    replace: bool = False,
    listener: Listener = ignore,
    should_stop: ShouldStop = never,
) -> BundleReport:
    """Put everything that predicts a new recording into one folder, which appears whole or not at all.

    Members to which the stacker gives no weight stay out, and with them encoders that only they read.

    Args:
        run: finished by ``sercache stack``.
        output: the bundle's folder.
        stacker: which one; None for the one that the comparison recommends.
        include_encoders: whether the encoders' weights go in; None for those that no hub has.
        refit: whether each member is one model that learns from all folds, which is trained now if it is not
            there yet, instead of the mean of its fold models.
        device: of that training.
        replace: whether an earlier bundle there makes room.
        listener: told of the parts.
        should_stop: looked at in that training.

    Raises:
        BundleError: the run is not finished, its comparison is leaky, or the folder is taken.
        CacheError, EncoderError: a feature set or an encoder is gone, or is another one now.
        TrainingError: a member cannot be refitted.
        Interrupted: ``should_stop`` said so; the same call goes on from there.
        OSError: the disk is full or the folder not writable.
    """
    output = output.resolve()
    _refuse_taken(output, replace)
    metrics = _metrics(run)
    chosen = str(metrics["choice"]) if stacker is None else stacker
    recipe, corpus = run.recipe(), read_run_corpus(run.recipe())
    saved = SavedStacker.read(run.stacker_folder(chosen))
    read = _read_members(run, chosen)
    members = _members(recipe, read)
    if refit:
        context = open_run(run.root.resolve())
        refit_members(
            context, members, device=resolve_device(device), listener=listener, should_stop=should_stop
        )
    folds = [ALL_FOLDS] if refit else list(range(recipe.folds.count))
    building = output.parent / f".{output.name}.{secrets.token_hex(4)}.tmp"
    try:
        building.mkdir(parents=True)
        bundled = [_copy_models(run, member, folds, building) for member in members]
        saved.write(building / STACKER_FOLDER)
        calibration = run.stacker_folder(chosen) / FITTED_CALIBRATION_NAME
        is_calibrated = chosen == metrics["choice"] and calibration.is_file()
        if is_calibrated:
            write_atomically(building / CALIBRATION_NAME, calibration.read_bytes())
        opened = _feature_sets(recipe, members, saved.signature)
        features = {}
        for name, feature_set in opened.items():
            listener(Event("note", name, message=f"{name}: {feature_set.spec.encoder}"))
            features[name] = describe_feature(
                recipe.features[name], feature_set.spec, building, include=include_encoders
            )
        description = BundleDescription(
            name=output.name,
            versions=library_versions(),
            classes=saved.signature.classes,
            attributes=tuple(BundledAttribute(**asdict(one)) for one in saved.signature.attributes),
            features=features,
            members=tuple(bundled),
            unread_members=tuple(name for name in saved.signature.members if name not in read),
            models="refit" if refit else "folds",
            stacker=chosen,
            extras=saved.signature.extras,
            is_calibrated=is_calibrated,
            transcriber=_transcriber(features),
            evaluation=_evaluation(metrics, chosen),
            training_data=_training_data(recipe, corpus, list(opened.values())),
        )
        return finish_bundle(building, description, output)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def finish_bundle(building: Path, description: BundleDescription, output: Path) -> BundleReport:
    """Write card and description into a folder that holds all other parts, and give it its name."""
    write_atomically(building / CARD_NAME, model_card(description))
    write_description(building, description)
    if output.exists():
        shutil.rmtree(output)
    building.rename(output)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    return BundleReport(output, read_description(output), size)


def _refuse_taken(output: Path, replace: bool) -> None:
    if not output.exists():
        return
    if not (output / DESCRIPTION_NAME).is_file():
        raise BundleError(f"{output} exists and is no bundle; choose another folder")
    if not replace:
        raise BundleError(f"{output} already holds a bundle; choose another folder, or give --replace")


def _metrics(run: Run) -> dict[str, Any]:
    run.recipe()
    try:
        metrics: dict[str, Any] = read_json(run.metrics_path)
        if metrics["is_leaky"]:
            raise BundleError(
                f"{run.root}: its comparison was made with in-sample posteriors and says nothing of new "
                f"speakers; run sercache stack {run.root} again without --allow-in-sample"
            )
        metrics["choice"], metrics["rows"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BundleError(f"{run.root} has no comparison yet; run sercache stack {run.root} first") from None
    return metrics


def _read_members(run: Run, stacker: str) -> tuple[str, ...]:
    """Return the members on which a stacker's answer depends."""
    from sercache.stacking.best_single import BestSingle
    from sercache.stacking.mixture import Mixture

    fitted = load_stacker(run.stacker_folder(stacker))
    members = SavedStacker.read(run.stacker_folder(stacker)).signature.members
    if isinstance(fitted, BestSingle):
        return (fitted.member,)
    if isinstance(fitted, Mixture):
        weights = [fitted.class_weights, *fitted.attribute_weights]
        return tuple(name for index, name in enumerate(members) if any(one[index] for one in weights))
    return members


def _members(recipe: Recipe, names: Sequence[str]) -> list[MemberRecipe]:
    by_name = {member.name: member for member in recipe.members}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise BundleError(f"member '{missing[0]}' is not in the run's recipe; run sercache stack again")
    return [by_name[name] for name in names]


def _copy_models(run: Run, member: MemberRecipe, folds: Sequence[int], building: Path) -> BundledMember:
    models = []
    for fold in folds:
        source = run.fold_folder(member.name, fold) / WEIGHTS_NAME
        target = f"heads/{member.name}/{fold_name(fold)}.safetensors"
        try:
            write_atomically(building / target, source.read_bytes())
        except FileNotFoundError:
            raise BundleError(
                f"{source} is gone; sercache train-ensemble makes it again, then sercache stack"
            ) from None
        models.append(target)
    return BundledMember(name=member.name, features=tuple(member.features), models=tuple(models))


def _feature_sets(
    recipe: Recipe, members: Sequence[MemberRecipe], signature: Signature
) -> dict[str, FeatureSet]:
    """Return the feature sets that members and the stacker's extras read."""
    names = {feature for member in members for feature in member.features}
    names |= {extra.split(":")[1] for extra in signature.extras if extra.startswith("pooled:")}
    return {name: Cache(recipe.cache).find(recipe.features[name]) for name in sorted(names)}


def _transcriber(features: Mapping[str, BundledFeature]) -> str | None:
    """Return the model whose transcripts the text encoders learnt from, if it was one of sercache's."""
    columns = {feature.recipe.text_column or "" for feature in features.values()}
    models = sorted(one.removeprefix(_TRANSCRIPTS) for one in columns if one.startswith(_TRANSCRIPTS))
    return models[0] if models else None


def _evaluation(metrics: Mapping[str, Any], stacker: str) -> Evaluation | None:
    row = metrics["rows"].get(stacker)
    if row is None:
        raise BundleError(f"the comparison has no stacker '{stacker}' (it has: {', '.join(metrics['rows'])})")
    found = row["scores"]
    names = [*_SCORES, *(name for kind in ("ccc:", "f1:") for name in found if name.startswith(kind))]
    return Evaluation(
        judged_on=metrics["judged_on"],
        rows=metrics["judged_rows"],
        speakers=metrics["speakers"],
        scores={name: BundledScore(**found[name]) for name in names if found[name]["value"] is not None},
        verdict=tuple(metrics["verdict"]) if stacker == metrics["choice"] else (),
    )


def _training_data(recipe: Recipe, corpus: Corpus, feature_sets: Sequence[FeatureSet]) -> TrainingData:
    train = corpus.select(split_ids(corpus, "train"))
    consensus = LabelledRows.of(train, recipe.targets).consensus
    seconds = [one.seconds for one in feature_sets if one.spec.modality == "audio"]
    return TrainingData(
        corpus=recipe.corpus.stem,
        utterances=len(train),
        speakers=len({row.speaker for row in train.utterances} - {None}),
        hours=round(max(seconds) * len(train) / max(1, len(corpus)) / 3600, 2) if seconds else None,
        rows_by_class={name: int((consensus == index).sum()) for index, name in enumerate(corpus.classes)},
    )
