"""Select what of a run goes into a bundle: members with weight, stacker, calibration, evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sercache.bundle.description import BundledScore, Evaluation
from sercache.errors import BundleError, did_you_mean
from sercache.evaluation.calibration.fitted import Calibration
from sercache.events import ignore
from sercache.files import read_json
from sercache.posteriors import Posteriors
from sercache.recipe import MemberRecipe, Recipe
from sercache.run import DerivedMember, Run, derived_members
from sercache.stacking.base import SavedStacker, Signature
from sercache.stacking.baselines import BASELINE
from sercache.stacking.calibrating import CALIBRATION_NAME
from sercache.stacking.joining import load_rows
from sercache.stacking.registry import load_stacker
from sercache.stacking.splits import make_splits
from sercache.stacking.task import earlier_result, input_digest
from sercache.training.baseline import baseline_posteriors, find_baseline
from sercache.training.data import read_run_corpus
from sercache.training.finetuning.fold import overlay_name
from sercache.training.rows import LabelledRows

_SCORES = ("mean_ccc", "macro_f1", "uar", "weighted_f1", "log_loss", "ece")


@dataclass(frozen=True)
class Contents:
    """The parts of a run that go into a bundle.

    Attributes:
        members: whose heads go in.
        overlaid: by fine-tuned member: the feature sets whose encoders were trained.
        stacker: fitted.
        unread: members to which the stacker gives no weight.
        calibration: of its probabilities; None where they are not calibrated.
        evaluation: its scores on unseen speakers; None where there are none.
    """

    members: tuple[MemberRecipe, ...]
    overlaid: Mapping[str, tuple[str, ...]]
    stacker: SavedStacker
    unread: tuple[str, ...]
    calibration: Calibration | None
    evaluation: Evaluation | None


def contents_of_stacker(run: Run, stacker: str | None) -> Contents:
    """Return the parts that predict as a run's stacker does: the recommended one, unless another is named.

    Raises:
        BundleError: the run is not finished, or its comparison is leaky.
        StackingError: the stacker is gone or damaged.
    """
    recipe = run.recipe()
    metrics = _metrics(run)
    chosen = str(metrics["choice"]) if stacker is None else stacker
    if chosen == BASELINE and BASELINE in metrics["rows"]:
        return _contents_of_baseline(run, recipe, metrics)
    evaluation = _evaluation(metrics, chosen)
    _refuse_stale(run, recipe, metrics, chosen)
    folder = run.stacker_folder(chosen)
    saved = SavedStacker.read(folder)
    read = load_stacker(folder).members_used()
    finetuned = {derived.name: derived for derived in derived_members(run, "finetuned")}
    known = {member.name: member for member in recipe.members}
    known |= {name: derived.member for name, derived in finetuned.items()}
    if missing := [name for name in read if name not in known]:
        raise BundleError(f"{run.root} has no member '{missing[0]}' any more; run sercache stack again")
    calibration = folder / CALIBRATION_NAME
    is_calibrated = chosen == metrics["choice"] and calibration.is_file()
    return Contents(
        members=tuple(known[name] for name in read),
        overlaid={name: _overlaid(run, finetuned[name]) for name in read if name in finetuned},
        stacker=saved,
        unread=tuple(name for name in saved.signature.members if name not in read),
        calibration=Calibration.load(calibration) if is_calibrated else None,
        evaluation=evaluation,
    )


def _contents_of_baseline(run: Run, recipe: Recipe, metrics: Mapping[str, Any]) -> Contents:
    """Return the parts that predict as the baseline does; classes are calibrated on out-of-fold rows.

    Raises:
        BundleError: the baseline is gone, or is another than the one that was scored.
    """
    member = find_baseline(recipe, derived_members(run))
    posteriors = baseline_posteriors(run, recipe)
    if member is None or posteriors is None:
        raise BundleError(f"{run.root} has no baseline any more; run sercache train-ensemble again")
    scored = Posteriors.load(run.stacker_folder(BASELINE) / "posteriors.parquet")
    if not _predicts_the_same(scored, posteriors):
        raise BundleError(
            f"{run.root}: the baseline has changed since sercache stack; run sercache stack {run.root} again"
        )
    corpus, settings, calibration = read_run_corpus(recipe), recipe.stacking, None
    if corpus.classes:
        fitting = posteriors.origins == "out-of-fold"
        ids = [utterance_id for utterance_id, is_in in zip(posteriors.ids, fitting, strict=True) if is_in]
        calibration = Calibration.fit(
            posteriors.class_probabilities[fitting],
            LabelledRows.of(corpus, recipe.targets).select(ids).consensus,
            posteriors.classes,
            kind=settings.calibration,
            coverage=settings.coverage,
            tunes_thresholds=settings.thresholds,
        )
    return Contents(
        members=(member,),
        overlaid={},
        stacker=SavedStacker("soft-vote", Signature((member.name,), corpus.classes, corpus.attributes)),
        unread=(),
        calibration=calibration,
        evaluation=_evaluation(metrics, BASELINE),
    )


def _predicts_the_same(scored: Posteriors, posteriors: Posteriors) -> bool:
    """Return whether all rows of ``scored`` are in ``posteriors`` with the same answer."""
    if not set(scored.ids) <= set(posteriors.ids):
        return False
    taken = posteriors.take(scored.ids)
    return np.array_equal(scored.class_probabilities, taken.class_probabilities) and (
        bool(scored.classes) or np.array_equal(scored.attribute_values, taken.attribute_values)
    )


def contents_of_student(run: Run, name: str) -> Contents:
    """Return the parts that predict as a distilled member does.

    It is calibrated on the development split, if the corpus has one and has classes: a student's predictions
    for training rows contain its teacher's knowledge of their labels.

    Raises:
        BundleError: there is no such distilled member, or it is not finished.
    """
    recipe = run.recipe()
    students = {derived.name: derived for derived in derived_members(run, "distilled")}
    if name not in students:
        known = ", ".join(students) or "none"
        hint = did_you_mean(name, students)
        raise BundleError(f"{run.root} has no distilled member '{name}' (it has: {known}).{hint}")
    path = run.posteriors_path(name)
    if not path.is_file():
        raise BundleError(f"'{name}' is not finished; run sercache distill again")
    posteriors = Posteriors.load(path)
    corpus = read_run_corpus(recipe)
    settings, calibration = recipe.stacking, None
    development = posteriors.origins == "development"
    if development.any() and corpus.classes:
        ids = [utterance_id for utterance_id, is_in in zip(posteriors.ids, development, strict=True) if is_in]
        calibration = Calibration.fit(
            posteriors.class_probabilities[development],
            LabelledRows.of(corpus, recipe.targets).select(ids).consensus,
            posteriors.classes,
            kind=settings.calibration,
            coverage=settings.coverage,
            tunes_thresholds=settings.thresholds,
        )
    return Contents(
        members=(students[name].member,),
        overlaid={},
        stacker=SavedStacker("soft-vote", Signature((name,), corpus.classes, corpus.attributes)),
        unread=(),
        calibration=calibration,
        evaluation=_evaluation_of_student(run.distillation_path(name)),
    )


def _metrics(run: Run) -> dict[str, Any]:
    try:
        metrics: dict[str, Any] = read_json(run.metrics_path)
        is_leaky, _, _ = metrics["is_leaky"], metrics["choice"], metrics["rows"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BundleError(f"{run.root} has no comparison yet; run sercache stack {run.root} first") from None
    if is_leaky:
        raise BundleError(
            f"{run.root}: its comparison was made with in-sample posteriors and is not valid for new "
            f"speakers; run sercache stack {run.root} again without --allow-in-sample"
        )
    return metrics


def _refuse_stale(run: Run, recipe: Recipe, metrics: Mapping[str, Any], stacker: str) -> None:
    """Make sure that stacker and figures are those of the members as they are now."""
    settings = recipe.stacking
    splits = make_splits(load_rows(run), settings.repeats, recipe.seed, ignore)
    digest = input_digest(stacker, splits.digest(), settings, recipe.seed)
    result = earlier_result(stacker, digest, run.stacker_folder(stacker), splits.repeats)
    scored_digest = metrics["rows"][stacker].get("input_digest")
    if scored_digest is None:
        raise BundleError(
            f"{run.root} was stacked by an earlier version, which did not record what '{stacker}' was fitted "
            f"on; run sercache stack {run.root} again"
        )
    if result is None or scored_digest != digest:
        raise BundleError(
            f"{run.root}: members, settings or the corpus have changed since sercache stack; run sercache "
            f"stack {run.root} again"
        )


def _overlaid(run: Run, finetuned: DerivedMember) -> tuple[str, ...]:
    """Return the feature sets of a fine-tuned member whose encoders were trained."""
    folder = run.fold_folder(finetuned.name, 0)
    return tuple(name for name in finetuned.member.features if (folder / overlay_name(name)).is_file())


def _evaluation(metrics: Mapping[str, Any], stacker: str) -> Evaluation:
    rows = metrics["rows"]
    if stacker not in rows:
        known = ", ".join(rows)
        hint = did_you_mean(stacker, rows)
        raise BundleError(f"the comparison has no stacker '{stacker}' (it has: {known}).{hint}")
    return Evaluation(
        judged_on=metrics["judged_on"],
        rows=metrics["judged_rows"],
        speakers=metrics["speakers"],
        scores=_scores(rows[stacker]["scores"]),
        verdict=tuple(metrics["verdict"]) if stacker == metrics["choice"] else (),
    )


def _evaluation_of_student(path: Path) -> Evaluation | None:
    try:
        found = read_json(path)
        student = next(contestant for contestant in found["contestants"] if contestant["role"] == "student")
        if found["is_leaky"]:
            return None
        return Evaluation(
            judged_on=found["judged_on"],
            rows=found["judged_rows"],
            speakers=found["speakers"],
            scores=_scores(student["scores"]),
            verdict=tuple(found["verdict"]),
        )
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        raise BundleError(f"{path}: not a distillation's result; run sercache distill again") from None


def _scores(found: Mapping[str, Mapping[str, float | None]]) -> dict[str, BundledScore]:
    names = [*_SCORES, *(name for kind in ("ccc:", "f1:") for name in found if name.startswith(kind))]
    return {
        name: BundledScore.model_validate(found[name])
        for name in names
        if name in found and found[name]["value"] is not None
    }
