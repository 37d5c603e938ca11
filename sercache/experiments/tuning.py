"""The search: trials on inner folds, and a verdict on rows that no trial saw."""

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from sercache.corpus.manifest import corpus_digest, write_corpus
from sercache.engines.registry import LOCAL, EngineChoice
from sercache.errors import Interrupted, RecipeError, TrainingError
from sercache.events import QUIET, Context, Event, Listener
from sercache.experiments.search_space import Settings, with_settings
from sercache.experiments.tuning_plan import TuningPlan, with_reserved_as_test
from sercache.experiments.tuning_report import (
    TuningReport,
    as_csv,
    as_json,
    best_of,
    best_path,
    csv_path,
    judge,
)
from sercache.experiments.tuning_study import Study, Trial, load_optuna
from sercache.files import locked, read_json, write_atomically, write_json
from sercache.posteriors import Posteriors
from sercache.recipe import MemberRecipe, Recipe, dump_recipe
from sercache.run import Run, library_versions
from sercache.seeds import derive_seed
from sercache.training.data import open_feature_sets
from sercache.training.ensemble import EnsembleReport, train_ensemble

_OWN = "own"
_SETTINGS_NAME = "settings.json"

Train = Callable[[Recipe, Listener], float]
"""Trains a recipe of one member; returns its primary score, out of fold."""

TrainAll = Callable[[Recipe, Listener], EnsembleReport]
"""The same with the linear baseline beside the member."""


def run_tuning(
    plan: TuningPlan,
    *,
    trials: int = 30,
    timeout_seconds: float | None = None,
    device: str = "auto",
    workers: int | None = None,
    engine: EngineChoice = LOCAL,
    context: Context = QUIET,
) -> TuningReport:
    """Search until ``trials`` have ended, those of earlier calls counted, and judge the best of them.

    The recipe's own settings are trained first: what the search has to beat, and the proof that corpus,
    features and device are fit for use. A trial that cannot be trained is recorded and does not end the
    search. A second process that searches in the same folder waits for the first.

    Writes ``tuning.csv`` and ``best.yaml`` after each trial, ``tuning.json`` at the end.

    Args:
        plan: what to search.
        trials: how many in all.
        timeout_seconds: after which no further trial is begun; None is never.
        device: ``auto``, or a device as torch names it.
        workers: processes that train side by side; see :func:`~sercache.training.ensemble.train_ensemble`.
        engine: where each trial's folds train.
        context: receives events, and says when to stop.

    Raises:
        RecipeError: Optuna is not installed, or the folder belongs to another search.
        CacheError, CorpusError: features or corpus are missing or damaged.
        TrainingError: the recipe's own settings, or all trials, cannot be trained.
        Interrupted: it was asked to stop; the same call goes on after the last finished epoch.
    """
    load_optuna()
    begun = time.monotonic()

    def train_all(recipe: Recipe, told: Listener, *, with_baseline: bool = True) -> EnsembleReport:
        return train_ensemble(
            recipe,
            device=device,
            workers=workers,
            engine=engine,
            with_baseline=with_baseline,
            context=Context(listener=told, should_stop=context.should_stop),
        )

    def train(recipe: Recipe, told: Listener) -> float:
        report = train_all(recipe, told, with_baseline=False)
        return report.members[0].score(report.primary)

    plan.output.mkdir(parents=True, exist_ok=True)
    with locked(plan.output):
        _lay_out(plan)
        study = Study(plan.study_path, plan.space, plan.seed)
        own = _train_own(plan, train_all, context.listener)
        _publish(plan, study.trials)
        context.listener(Event("start", "trials", total=trials))
        while len(study.trials) < trials:
            number = len(study.trials)
            if timeout_seconds is not None and time.monotonic() - begun >= timeout_seconds:
                message = f"time is up after {number} of {trials} trials; the same command goes on"
                context.listener(Event("note", "trials", message=message))
                break
            if context.should_stop():
                raise _stopped(number, trials)
            try:
                study.add(_run_trial(plan, number, study.suggest, train, context.listener))
            except Interrupted:
                raise _stopped(number, trials) from None
            _publish(plan, study.trials)
            _tell(plan, study.trials, trials, context.listener)
        try:
            return _conclude(plan, study, own, train, context.listener)
        except Interrupted:
            raise Interrupted("stopped before the verdict; the same command goes on from there") from None


def _lay_out(plan: TuningPlan) -> None:
    """Write what describes the search, or check that the folder is of this very search."""
    searched = plan.recipe_of(plan.member, plan.search_path, plan.output)
    corpus = with_reserved_as_test(plan)
    features = open_feature_sets(searched)
    Run(plan.output).start(
        searched,
        {
            "versions": library_versions(),
            "search": plan.identity,
            "corpus": corpus_digest(corpus),
            "features": {name: one.spec.fingerprint for name, one in features.items()},
        },
    )
    write_corpus(plan.search, plan.search_path)
    write_corpus(plan.reserved, plan.reserved_path)
    write_corpus(corpus, plan.judged_path)


def _train_own(plan: TuningPlan, train: TrainAll, listener: Listener) -> EnsembleReport:
    try:
        return train(plan.recipe_of(plan.member, plan.judged_path, plan.finals_folder / _OWN), listener)
    except TrainingError as error:
        raise TrainingError(f"the recipe as it is cannot be trained: {_reason(error, plan)}") from None
    except Interrupted:
        raise Interrupted(
            "stopped while the recipe's own settings were trained; the same command goes on"
        ) from None


def _train_final(
    plan: TuningPlan, name: str, member: MemberRecipe, train: Train, listener: Listener
) -> float:
    """Train on all search rows and predict the reserved ones; return the primary score, out of fold."""
    return train(plan.recipe_of(member, plan.judged_path, plan.finals_folder / name), listener)


def _run_trial(
    plan: TuningPlan,
    number: int,
    suggest: Callable[[], Settings],
    train: Train,
    listener: Listener,
) -> Trial:
    """Train one trial, or go on with it where it was interrupted."""
    folder = plan.trial_run(number).root
    settings = _settings_in_flight(folder, suggest)
    member = with_settings(plan.member, settings)
    began, note, score = time.monotonic(), "", float("nan")
    try:
        score = train(plan.recipe_of(member, plan.search_path, folder), _epochs_only(listener))
        if math.isnan(score):
            note = f"no row with {plan.primary.needs} was predicted"
    except (TrainingError, RecipeError) as error:
        # The recipe's own settings went through: what does not fit here is this trial's combination.
        note = _reason(error, plan)
    return Trial(number, settings, score, time.monotonic() - began, note)


def _reason(error: TrainingError | RecipeError, plan: TuningPlan) -> str:
    """Return what an error says in one line; that the only member failed goes without saying."""
    said = " ".join(str(error).split())
    return said.removeprefix(f"no member could be trained; {plan.member.name}: ")


def _settings_in_flight(folder: Path, suggest: Callable[[], Settings]) -> Settings:
    """Return the settings of the trial in ``folder``, which is begun with a suggestion where there are none.

    They are kept beside the run: another version of Optuna may suggest other ones when the trial is resumed.
    """
    path = folder / _SETTINGS_NAME
    try:
        kept: dict[str, int | float | str | bool] = read_json(path)
        return kept
    except FileNotFoundError:
        settings = suggest()
        write_json(path, dict(settings))
        return settings
    except json.JSONDecodeError as error:
        raise RecipeError(
            f"{path} is damaged ({error}); remove its folder, and the trial begins anew"
        ) from None


def _publish(plan: TuningPlan, trials: tuple[Trial, ...]) -> None:
    """Write the table and the best recipe so far, and free the disk of all other trials' weights."""
    best = best_of(trials)
    if trials:
        write_atomically(csv_path(plan.output), as_csv(trials, plan.primary))
    if best is not None:
        write_atomically(best_path(plan.output), dump_recipe(_with_best(plan, best)))
    for trial in trials:
        if best is None or trial.number != best.number:
            _remove_weights(plan.trial_run(trial.number).root)


def _with_best(plan: TuningPlan, best: Trial) -> Recipe:
    """Return the user's recipe with the found settings, with a run folder of its own."""
    recipe = plan.recipe
    found = with_settings(plan.member, best.settings)
    placed = {key: getattr(recipe, key).resolve() for key in ("corpus", "cache")}
    output = recipe.output.resolve()
    return recipe.model_copy(
        update={
            **placed,
            "output": output.with_name(f"{output.name}-tuned"),
            "members": [found if one.name == found.name else one for one in recipe.members],
        }
    )


def _conclude(
    plan: TuningPlan, study: Study, trained_own: EnsembleReport, train: Train, listener: Listener
) -> TuningReport:
    """Train the best trial once more, now with the reserved rows to predict, and judge it on them.

    Batches are shuffled over the whole manifest, so that this training is drawn anew: the luck of the trial's
    shuffles, which helped it to be the best, is not judged.
    """
    trials = study.trials
    best = best_of(trials)
    if best is None:
        if not trials:
            raise TrainingError("the time was up before the first trial; give the search more")
        raise TrainingError(f"none of {len(trials)} trials could be trained; the first: {trials[0].note}")
    name = f"trial-{best.number}"
    _train_final(plan, name, with_settings(plan.member, best.settings), train, _epochs_only(listener))
    earlier = [folder for folder in plan.finals_folder.glob("trial-*") if folder.name != name]
    for folder in earlier:
        _remove_weights(folder)
    found, own = (
        Posteriors.load(Run(plan.finals_folder / one).posteriors_path(plan.member.name))
        for one in (name, _OWN)
    )
    linear = trained_own.baseline
    report = TuningReport(
        output=plan.output,
        member=plan.member.name,
        trials=trials,
        best=best,
        own_score=trained_own.members[0].score(trained_own.primary),
        importances=study.importances(),
        judged_on=plan.judged_on,
        judgement=judge(
            plan.reserved,
            found,
            own,
            samples=plan.recipe.stacking.bootstrap_samples,
            seed=derive_seed(plan.recipe.seed, "bootstrap"),
            baseline=None
            if linear is None
            else Posteriors.load(trained_own.run.posteriors_path(linear.member.name)),
        ),
        primary=plan.primary,
        judged_before=len(earlier),
        baseline_score=float("nan") if linear is None else linear.score.value,
    )
    write_json(report.json_path, as_json(report))
    return report


def _remove_weights(run_folder: Path) -> None:
    for path in run_folder.rglob("*.safetensors"):
        path.unlink(missing_ok=True)
    shutil.rmtree(run_folder / "tensorboard", ignore_errors=True)


def _tell(plan: TuningPlan, trials: tuple[Trial, ...], total: int, listener: Listener) -> None:
    """Tell of the trial that has just ended."""
    last, best = trials[-1], best_of(trials)
    outcome = f"failed: {last.note}" if last.note else f"{plan.primary.name} {last.score:.3f}"
    leader = f" (best {best.score:.3f}, trial {best.number})" if best is not None else ""
    listener(Event("note", "trials", message=f"trial {last.number}: {outcome}{leader}"))
    values = {"best": f"{best.score:.3f}"} if best is not None else {}
    listener(Event("advance", "trials", done=len(trials), total=total, values=values))


def _epochs_only(listener: Listener) -> Listener:
    """Return a listener to a trial's training: what there is to say of corpus and plan was said before."""

    def tell(event: Event) -> None:
        if event.kind not in ("note", "warning"):
            listener(event)

    return tell


def _stopped(ended: int, trials: int) -> Interrupted:
    return Interrupted(f"stopped with {ended} of {trials} trials ended; the same command goes on from there")
