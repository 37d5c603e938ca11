"""Tune a member: run trials on inner folds, and evaluate the best on rows that no trial saw."""

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
from sercache.experiments.tuning_design import TuningDesign, with_reserved_as_test
from sercache.experiments.tuning_report import (
    TuningReport,
    as_csv,
    as_json,
    best_of,
    best_path,
    compare_on_reserved,
    csv_path,
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
    design: TuningDesign,
    *,
    trials: int = 30,
    timeout_seconds: float | None = None,
    device: str = "auto",
    workers: int | None = None,
    engine: EngineChoice = LOCAL,
    context: Context = QUIET,
) -> TuningReport:
    """Search until ``trials`` have ended, those of earlier calls counted, and evaluate the best of them.

    The recipe's settings are trained first: they are what the search has to beat, and their training shows
    that corpus, features and device can be used. A trial that cannot be trained is recorded and
    does not end the search. A second process that searches in the same folder waits for the first.

    Writes ``tuning.csv`` and ``best.yaml`` after each trial, ``tuning.json`` at the end.

    Args:
        design: what to search.
        trials: how many in all.
        timeout_seconds: after which no further trial is begun; None is never.
        device: ``auto``, or a device as torch names it.
        workers: processes that train side by side; see :func:`~sercache.training.ensemble.train_ensemble`.
        engine: where each trial's folds train.
        context: receives events, and can stop the work.

    Raises:
        RecipeError: Optuna is not installed, or the folder belongs to another search.
        CacheError, CorpusError: features or corpus are missing or damaged.
        TrainingError: the recipe's own settings, or all trials, cannot be trained.
        Interrupted: it was asked to stop; the same call goes on after the last finished epoch.
    """
    load_optuna()
    begun = time.monotonic()

    def train_all(recipe: Recipe, trial_listener: Listener, *, with_baseline: bool = True) -> EnsembleReport:
        return train_ensemble(
            recipe,
            device=device,
            workers=workers,
            engine=engine,
            with_baseline=with_baseline,
            context=Context(listener=trial_listener, should_stop=context.should_stop),
        )

    def train(recipe: Recipe, trial_listener: Listener) -> float:
        report = train_all(recipe, trial_listener, with_baseline=False)
        return report.members[0].score(report.primary)

    design.output.mkdir(parents=True, exist_ok=True)
    with locked(design.output):
        _start(design)
        study = Study(design.study_path, design.space, design.seed)
        original = _train_original(design, train_all, context.listener)
        _publish(design, study.trials)
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
                study.add(_run_trial(design, number, study.suggest, train, context.listener))
            except Interrupted:
                raise _stopped(number, trials) from None
            _publish(design, study.trials)
            _report_trial(design, study.trials, trials, context.listener)
        try:
            return _conclude(design, study, original, train, context.listener)
        except Interrupted:
            raise Interrupted("stopped before the verdict; the same command goes on from there") from None


def _start(design: TuningDesign) -> None:
    """Write the description of the search, or check that the folder belongs to the same search."""
    searched = design.recipe_of(design.member, design.search_path, design.output)
    corpus = with_reserved_as_test(design)
    features = open_feature_sets(searched)
    Run(design.output).start(
        searched,
        {
            "versions": library_versions(),
            "search": design.identity,
            "corpus": corpus_digest(corpus),
            "features": {name: feature_set.spec.fingerprint for name, feature_set in features.items()},
        },
    )
    write_corpus(design.search, design.search_path)
    write_corpus(design.reserved, design.reserved_path)
    write_corpus(corpus, design.finals_corpus_path)


def _train_original(design: TuningDesign, train: TrainAll, listener: Listener) -> EnsembleReport:
    try:
        return train(
            design.recipe_of(design.member, design.finals_corpus_path, design.finals_folder / _OWN), listener
        )
    except TrainingError as error:
        raise TrainingError(f"the recipe as it is cannot be trained: {_reason(error, design)}") from None
    except Interrupted:
        raise Interrupted(
            "stopped while the recipe's own settings were trained; the same command goes on"
        ) from None


def _train_final(
    design: TuningDesign, name: str, member: MemberRecipe, train: Train, listener: Listener
) -> float:
    """Train on all search rows and predict the reserved ones; return the primary score, out of fold."""
    return train(design.recipe_of(member, design.finals_corpus_path, design.finals_folder / name), listener)


def _run_trial(
    design: TuningDesign,
    number: int,
    suggest: Callable[[], Settings],
    train: Train,
    listener: Listener,
) -> Trial:
    """Train one trial, or go on with it where it was interrupted."""
    folder = design.trial_run(number).root
    settings = _settings_in_flight(folder, suggest)
    member = with_settings(design.member, settings)
    began, note, score = time.monotonic(), "", float("nan")
    try:
        score = train(design.recipe_of(member, design.search_path, folder), _epochs_only(listener))
        if math.isnan(score):
            note = f"no row with {design.primary.needs} was predicted"
    except (TrainingError, RecipeError) as error:
        # The recipe's settings could be trained: it is this trial's combination that does not fit.
        note = _reason(error, design)
    return Trial(number, settings, score, time.monotonic() - began, note)


def _reason(error: TrainingError | RecipeError, design: TuningDesign) -> str:
    """Return an error as one line, without the prefix that names the only member."""
    message = " ".join(str(error).split())
    return message.removeprefix(f"no member could be trained; {design.member.name}: ")


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


def _publish(design: TuningDesign, trials: tuple[Trial, ...]) -> None:
    """Write the table and the best recipe so far, and free the disk of all other trials' weights."""
    best = best_of(trials)
    if trials:
        write_atomically(csv_path(design.output), as_csv(trials, design.primary))
    if best is not None:
        write_atomically(best_path(design.output), dump_recipe(_recipe_with_best(design, best)))
    for trial in trials:
        if best is None or trial.number != best.number:
            _remove_weights(design.trial_run(trial.number).root)


def _recipe_with_best(design: TuningDesign, best: Trial) -> Recipe:
    """Return the user's recipe with the found settings, with a run folder of its own."""
    recipe = design.recipe
    found = with_settings(design.member, best.settings)
    placed = {key: getattr(recipe, key).resolve() for key in ("corpus", "cache")}
    output = recipe.output.resolve()
    return recipe.model_copy(
        update={
            **placed,
            "output": output.with_name(f"{output.name}-tuned"),
            "members": [found if entry.name == found.name else entry for entry in recipe.members],
        }
    )


def _conclude(
    design: TuningDesign, study: Study, trained_original: EnsembleReport, train: Train, listener: Listener
) -> TuningReport:
    """Train the best trial once more, with the reserved rows to predict, and evaluate it on them.

    Batches are shuffled over the whole manifest, so this training is shuffled anew: the luck of the
    trial's shuffles, which helped to select it, does not enter the score.
    """
    trials = study.trials
    best = best_of(trials)
    if best is None:
        if not trials:
            raise TrainingError("the time was up before the first trial; give the search more")
        raise TrainingError(f"none of {len(trials)} trials could be trained; the first: {trials[0].note}")
    name = f"trial-{best.number}"
    _train_final(design, name, with_settings(design.member, best.settings), train, _epochs_only(listener))
    earlier = [folder for folder in design.finals_folder.glob("trial-*") if folder.name != name]
    for folder in earlier:
        _remove_weights(folder)
    found, original = (
        Posteriors.load(Run(design.finals_folder / name).posteriors_path(design.member.name))
        for name in (name, _OWN)
    )
    linear = trained_original.baseline
    report = TuningReport(
        output=design.output,
        member=design.member.name,
        trials=trials,
        best=best,
        original_score=trained_original.members[0].score(trained_original.primary),
        importances=study.importances(),
        judged_on=design.judged_on,
        reserved_scores=compare_on_reserved(
            design.reserved,
            found,
            original,
            samples=design.recipe.stacking.bootstrap_samples,
            seed=derive_seed(design.recipe.seed, "bootstrap"),
            baseline=None
            if linear is None
            else Posteriors.load(trained_original.run.posteriors_path(linear.member.name)),
        ),
        primary=design.primary,
        earlier_evaluations=len(earlier),
        baseline_score=float("nan") if linear is None else linear.score.value,
    )
    write_json(report.json_path, as_json(report))
    return report


def _remove_weights(run_folder: Path) -> None:
    for path in run_folder.rglob("*.safetensors"):
        path.unlink(missing_ok=True)
    shutil.rmtree(run_folder / "tensorboard", ignore_errors=True)


def _report_trial(design: TuningDesign, trials: tuple[Trial, ...], total: int, listener: Listener) -> None:
    """Send events on the trial that has just ended."""
    last, best = trials[-1], best_of(trials)
    outcome = f"failed: {last.note}" if last.note else f"{design.primary.name} {last.score:.3f}"
    leader = f" (best {best.score:.3f}, trial {best.number})" if best is not None else ""
    listener(Event("note", "trials", message=f"trial {last.number}: {outcome}{leader}"))
    values = {"best": f"{best.score:.3f}"} if best is not None else {}
    listener(Event("advance", "trials", done=len(trials), total=total, values=values))


def _epochs_only(listener: Listener) -> Listener:
    """Return a listener that drops notes and warnings, which repeat in every trial."""

    def forward(event: Event) -> None:
        if event.kind not in ("note", "warning"):
            listener(event)

    return forward


def _stopped(ended: int, trials: int) -> Interrupted:
    return Interrupted(f"stopped with {ended} of {trials} trials ended; the same command goes on from there")
