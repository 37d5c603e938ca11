"""The ensemble: every member on every fold, and the out-of-fold posteriors that come of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from sercache.cache.store import FeatureSet
from sercache.corpus.folds import assign_folds
from sercache.corpus.manifest import corpus_digest
from sercache.engines.registry import LOCAL, EngineChoice
from sercache.engines.task_range import TaskRange
from sercache.errors import RecipeError
from sercache.evaluation.metrics import macro_f1
from sercache.evaluation.primary import PrimaryScore, primary_score
from sercache.events import QUIET, Context, Event, Listener, ignore
from sercache.heads.registry import build_head
from sercache.options import check_options
from sercache.recipe import MemberRecipe, Recipe
from sercache.run import Run, fold_name, library_versions
from sercache.training.baseline import (
    BaselineReport,
    compare_members,
    enter_baseline,
    find_baseline,
    fit_baseline,
)
from sercache.training.data import (
    TrainingData,
    open_feature_sets,
    open_run,
    read_run_corpus,
    refuse_crossing_speakers,
    refuse_unextracted,
    split_ids,
    warn_of_untrained_encoders,
)
from sercache.training.losses import ATTRIBUTE_LOSSES, CLASS_LOSSES, CLASS_WEIGHTINGS, class_weights
from sercache.training.members import MemberReport, train_members, train_part


@dataclass(frozen=True, slots=True)
class EnsembleReport:
    """What became of a recipe's members.

    ``majority_macro_f1`` is the score of always predicting the most frequent class; chance UAR is one over
    ``num_classes``. With attributes alone ``num_classes`` is 0 and ``majority_macro_f1`` NaN: always
    predicting the mean has a CCC of 0. ``plan`` says in words how it was trained. ``normalized_members``
    names the members whose frames are standardised per speaker. ``baseline`` is what every member has to
    beat; None where it could not be fitted, or was not asked for.
    """

    run: Run
    members: tuple[MemberReport, ...]
    num_classes: int
    majority_macro_f1: float
    plan: str
    normalized_members: tuple[str, ...] = ()
    baseline: BaselineReport | None = None

    @property
    def primary(self) -> PrimaryScore:
        """The score that decides on this corpus."""
        return primary_score(self.num_classes)


def train_ensemble(
    recipe: Recipe,
    *,
    device: str = "auto",
    workers: int | None = None,
    engine: EngineChoice = LOCAL,
    with_baseline: bool = True,
    context: Context = QUIET,
) -> EnsembleReport:
    """Train every member of a recipe on every fold, and write the members' posteriors.

    The baseline comes first: its score is reported before anything else is planned or trained.

    A row of the training split is predicted by the fold model that never saw its speaker; a row of another
    split by the mean of all fold models. What is finished is not done again; a member that cannot be trained
    does not end the others.

    Args:
        recipe: what to train on what.
        device: ``auto``, or a device as torch names it.
        workers: processes that train side by side and share the cores; 1 trains here. None is one per core (a
            head is too small to keep several busy), and 1 on a GPU.
        engine: where to train.
        with_baseline: whether to fit the baseline and to compare the members with it.
        context: receives events, and says when to stop.

    Raises:
        RecipeError: the run folder belongs to another recipe, or the recipe does not fit the corpus.
        CacheError, CorpusError: features or corpus are missing or damaged.
        TrainingError: no member could be trained.
        ProcessDied: nor was any, because processes were killed.
        Interrupted: ``context.should_stop`` returned True.
    """
    data = lay_out(recipe, context.listener, with_baseline=with_baseline)
    device = engine.resolve_device(device)
    baseline = None
    if with_baseline:
        baseline = fit_baseline(data, device=device, engine=engine, context=context)
    trained = train_members(
        data,
        recipe.members,
        device=device,
        workers=workers,
        engine=engine,
        context=context
        if baseline is None
        else replace(context, listener=_once(context.listener, baseline, recipe.folds.count)),
    )
    if baseline is not None:
        baseline = compare_members(data, baseline, trained.members)
    num_classes = len(data.corpus.classes)
    majority_macro_f1 = _majority_macro_f1(data) if num_classes else float("nan")
    normalized = tuple(member.name for member in recipe.members if recipe.normalizes_speakers(member))
    return EnsembleReport(
        data.run, trained.members, num_classes, majority_macro_f1, trained.plan, normalized, baseline
    )


def _majority_macro_f1(data: TrainingData) -> float:
    train = data.rows.select(split_ids(data.corpus, "train"))
    labels = train.consensus[train.consensus >= 0]
    num_classes = len(data.corpus.classes)
    majority = np.full_like(labels, np.bincount(labels, minlength=num_classes).argmax())
    return macro_f1(labels, majority, num_classes)


def train_ensemble_part(
    recipe: Recipe,
    part: TaskRange,
    *,
    device: str = "auto",
    workers: int | None = None,
    engine: EngineChoice = LOCAL,
    context: Context = QUIET,
) -> tuple[int, int]:
    """Train a part of the members' folds; see :func:`~sercache.training.members.train_part`.

    The first part fits the baseline too, unless it is a member of the recipe and so among the tasks.
    """
    has_first_task = part.number == 1
    data = lay_out(recipe, context.listener, with_baseline=has_first_task)
    device = engine.resolve_device(device)
    if has_first_task and find_baseline(recipe) is None:
        fit_baseline(data, device=device, engine=engine, context=context)
    return train_part(
        data,
        recipe.members,
        part,
        device=device,
        workers=workers,
        engine=engine,
        context=context,
    )


def lay_out(recipe: Recipe, listener: Listener = ignore, *, with_baseline: bool = False) -> TrainingData:
    """Check that everything fits before anything is trained, and write what describes the run.

    Args:
        recipe: of the run.
        listener: receives warnings of what is unusual.
        with_baseline: whether the run gets a baseline where it has none yet.

    Raises:
        RecipeError: the run folder belongs to another recipe, or the recipe does not fit the corpus.
        CacheError, CorpusError, TrainingError: features or corpus are missing or damaged.
    """
    corpus = read_run_corpus(recipe)
    refuse_crossing_speakers(corpus, listener)
    feature_sets = open_feature_sets(recipe)
    warn_of_untrained_encoders(feature_sets, listener)
    for name, failed in refuse_unextracted(feature_sets, corpus).items():
        if failed:
            message = f"feature set '{name}' has no frames of {failed} utterances (see its failures.csv)"
            listener(Event("warning", name, message=message))
    for member in recipe.members:
        check_member(recipe, member, feature_sets, len(corpus.classes))
    train = split_ids(corpus, "train")
    folds = assign_folds(corpus.select(train), recipe.folds.count, recipe.seed)
    run = Run(recipe.output.resolve())
    run.start(
        recipe,
        {
            "versions": library_versions(),
            "corpus": corpus_digest(corpus),
            "folds": folds.digest,
            "features": {name: feature_set.spec.fingerprint for name, feature_set in feature_sets.items()},
        },
    )
    folds.save(run.folds_path)
    if with_baseline:
        enter_baseline(run, recipe, len(train))
    open_run.cache_clear()
    return open_run(run.root)


def check_member(
    recipe: Recipe, member: MemberRecipe, feature_sets: Mapping[str, FeatureSet], num_classes: int
) -> None:
    """Raise a RecipeError unless head, losses and weighting are known and have the options they are given.

    A member that would learn attributes alone must give them a weight.
    """
    dims = [feature_sets[name].dim for name in member.features]
    layers = [len(feature_sets[name].layers) for name in member.features]
    build_head(member.head, dims, num_classes, [], member.options, 0, layers)
    settings = recipe.training_of(member)
    try:
        for registry, name, options in (
            (CLASS_LOSSES, settings.class_loss, settings.class_loss_options),
            (ATTRIBUTE_LOSSES, settings.attribute_loss, {}),
            (CLASS_WEIGHTINGS, settings.class_weighting, settings.class_weighting_options),
        ):
            check_options(f"{registry.kind} '{name}'", registry[name], options)
        class_weights(np.eye(2), 1.0, settings.class_weighting, **settings.class_weighting_options)
        CLASS_LOSSES[settings.class_loss](
            torch.zeros(1, 2), torch.eye(2)[:1], None, **settings.class_loss_options
        )
        if not num_classes and not settings.attribute_weight:
            raise RecipeError(
                "the corpus has no classes, and attribute_weight is 0: nothing is to be learned"
            )
    except RecipeError as error:
        raise RecipeError(f"member '{member.name}': {error}") from None


def _once(listener: Listener, baseline: BaselineReport, folds: int) -> Listener:
    """Return a listener without a second event of the baseline, where it is a member of the recipe."""
    name = baseline.member.name
    reported = {name, *(f"{name}/{fold_name(fold)}" for fold in range(folds))}

    def report(event: Event) -> None:
        if event.task not in reported:
            listener(event)

    return report
