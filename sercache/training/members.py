"""Any members of a run, trained on every fold: those of its recipe, and those that came later."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sercache.engines.protocol import Needs, Task
from sercache.engines.registry import LOCAL, EngineChoice
from sercache.engines.task_range import TaskRange
from sercache.errors import CacheError, Interrupted, ProcessDied, SercacheError, TrainingError
from sercache.evaluation.metrics import mean_ccc, uar
from sercache.evaluation.primary import MEAN_CCC, PrimaryScore
from sercache.events import QUIET, Context, Event, Listener
from sercache.heads.registry import parameter_count
from sercache.posteriors import ALL_FOLDS, Posteriors
from sercache.recipe import MemberRecipe
from sercache.training.data import TrainingData, split_ids
from sercache.training.job_layout import (
    JobLayout,
    layout_for_closed_form,
    layout_for_cluster,
    layout_for_training,
)
from sercache.training.member import (
    PREDICTIONS_NAME,
    FoldJob,
    FoldsFailed,
    is_finished,
    remove_leftovers,
    train_folds,
)


@dataclass(frozen=True, slots=True)
class MemberReport:
    """How one member did, on the out-of-fold rows that count in the primary score.

    ``macro_f1`` and ``uar`` are NaN with attributes alone, ``mean_ccc`` without attributes. ``error`` says
    why the member is not part of the ensemble, and is empty otherwise.
    """

    name: str
    head: str
    features: tuple[str, ...]
    parameters: int
    rows: int
    macro_f1: float
    uar: float
    error: str = ""
    mean_ccc: float = np.nan

    def score(self, primary: PrimaryScore) -> float:
        """Return the primary score."""
        return self.mean_ccc if primary == MEAN_CCC else self.macro_f1


class OutOfFoldScore(NamedTuple):
    """How a member did on so many out-of-fold rows that count in the primary score; NaN where undefined."""

    rows: int
    macro_f1: float
    uar: float
    mean_ccc: float


@dataclass(frozen=True, slots=True)
class Trained:
    """What became of some members; ``plan`` says in words how they were trained."""

    members: tuple[MemberReport, ...]
    plan: str


def train_members(
    data: TrainingData,
    members: Sequence[MemberRecipe],
    *,
    device: str,
    workers: int | None = None,
    engine: EngineChoice = LOCAL,
    context: Context = QUIET,
) -> Trained:
    """Train members on every fold, and write their posteriors.

    A row of the training split is predicted by the fold model that never saw its speaker; a row of another
    split by the mean of all fold models. What is finished is not done again; a member that cannot be trained
    does not end the others.

    Args:
        data: the run.
        members: of its recipe, or derived ones that were entered into it.
        device: as torch names it.
        workers: processes; None is one per core, and 1 on a GPU.
        engine: where to train.
        context: receives events, and says when to stop.

    Raises:
        TrainingError: no member could be trained.
        CacheError, ProcessDied: nor was any, because features are damaged or processes were killed.
        Interrupted: it was asked to stop; the same call goes on after the last finished epoch.
    """
    jobs = [
        FoldJob(data.run.root, member.name, fold, device)
        for fold in range(data.recipe.folds.count)
        for member in members
    ]
    plan, errors = _train(data, members, jobs, workers, engine, context)
    reports = [_gather(data, member, errors) for member in members]
    if all(report.error for report in reports):
        for error in errors.values():
            if isinstance(error, CacheError | ProcessDied):
                raise error  # not the settings' fault: the same command may well succeed later
        raise TrainingError(f"no member could be trained; {reports[0].name}: {reports[0].error}")
    return Trained(tuple(reports), plan)


def train_part(
    data: TrainingData,
    members: Sequence[MemberRecipe],
    part: TaskRange,
    *,
    device: str,
    workers: int | None = None,
    engine: EngineChoice = LOCAL,
    context: Context = QUIET,
) -> tuple[int, int]:
    """Train a part of the members' folds; several parts may be done at once.

    Their posteriors are left to :func:`train_members`, which finds the folds finished. Arguments and errors
    are those of :func:`train_members`.

    Returns:
        How many folds of all parts are finished, and how many there are.
    """
    jobs = [
        FoldJob(data.run.root, member.name, fold, device)
        for fold in range(data.recipe.folds.count)
        for member in members
    ]
    _, errors = _train(data, members, part.part(jobs), workers, engine, context)
    for error in errors.values():
        raise error
    return sum(is_finished(data.run, job) for job in jobs), len(jobs)


def refit_members(
    data: TrainingData,
    members: Sequence[MemberRecipe],
    *,
    device: str,
    workers: int | None = None,
    engine: EngineChoice = LOCAL,
    context: Context = QUIET,
) -> None:
    """Train one more model of each member, from the rows of all folds: one predicts for the cost of one.

    It learns from more rows than a fold model does, and it cannot be scored out of fold. It stops as they
    do, on the development split or an inner slice of other speakers.

    Args:
        data: the run.
        members: of its recipe, or derived ones that were entered into it.
        device: as torch names it.
        workers: processes; None is one per core, and 1 on a GPU.
        engine: where to train.
        context: receives events, and says when to stop.

    Raises:
        TrainingError, CacheError, ProcessDied: a member cannot be trained.
        Interrupted: it was asked to stop; the same call goes on after the last finished epoch.
    """
    jobs = [FoldJob(data.run.root, member.name, ALL_FOLDS, device) for member in members]
    _, errors = _train(data, members, jobs, workers, engine, context)
    for error in errors.values():
        raise error


def _train(
    data: TrainingData,
    members: Sequence[MemberRecipe],
    jobs: Sequence[FoldJob],
    workers: int | None,
    choice: EngineChoice,
    context: Context,
) -> tuple[str, dict[str, SercacheError]]:
    """Train what is not finished; return how, and why jobs failed, by their names.

    Heads that are fitted without epochs come first, those that read least before all: they take seconds, and
    a run that is stopped after them has something to stack. A member's posteriors are joined as soon as its
    last fold is finished.
    """
    context = replace(context, listener=_Gathering(data, {job.member for job in jobs}, context.listener))
    left = []
    for job in jobs:
        remove_leftovers(data.run, job)
        if is_finished(data.run, job):
            context.listener(Event("finish", job.name))
        else:
            left.append(job)
    by_name = {member.name: member for member in members}
    data.measure_speakers([by_name[job.member] for job in left], context)
    quick = [job for job in left if data.is_closed_form(by_name[job.member])]
    others = [job for job in left if job not in quick]
    quick.sort(key=lambda job: _width(data, by_name[job.member]))
    layouts: list[JobLayout] = []
    errors: dict[str, SercacheError] = {}
    try:
        for part in ([*quick, *others],) if choice.is_cluster else (quick, others):
            if not part:
                continue
            wanted = 1 if choice.name == "in-process" else workers
            if choice.is_cluster:
                layout = layout_for_cluster(part, workers)
            elif part is quick:
                layout = layout_for_closed_form(part, wanted)
            else:
                layout = layout_for_training(data, members, part, wanted)
            layouts.append(layout)
            context.listener(Event("note", "plan", message=layout.description))
            errors |= _run(data, layout, choice, context)
    except Interrupted:
        done = sum(is_finished(data.run, job) for job in jobs)
        raise Interrupted(
            f"stopped with {done} of {len(jobs)} folds finished; "
            "the same command goes on after the last finished epoch"
        ) from None
    return "; then ".join(layout.description for layout in layouts), errors


def _width(data: TrainingData, member: MemberRecipe) -> int:
    """Return how many numbers a member reads per frame, in all layers."""
    return sum(len(feature_set.layers) * feature_set.dim for feature_set in data.sets_of(member))


def _run(
    data: TrainingData, layout: JobLayout, choice: EngineChoice, context: Context
) -> dict[str, SercacheError]:
    """Run the jobs of a layout; return why jobs failed, by their names."""
    tasks = {" + ".join(job.name for job in group): group for group in layout.groups}
    engine = choice.open(layout.workers, local="processes" if layout.threads else "in-process")
    needs = Needs(cores=layout.threads, gpus=0.0 if layout.groups[0][0].device == "cpu" else 1.0)
    work = [Task(name, train_folds, (group,), needs, _folders(data)) for name, group in tasks.items()]
    errors: dict[str, SercacheError] = {}
    for name, error in engine.run(work, context).items():
        if isinstance(error, FoldsFailed):
            errors |= error.errors
        else:
            errors |= {job.name: error for job in tasks[name] if not is_finished(data.run, job)}
    return errors


class _Gathering:
    """A listener that joins a member's posteriors when its last fold is finished, and reports its score."""

    def __init__(self, data: TrainingData, members: Collection[str], listener: Listener) -> None:
        self.data, self.listener = data, listener
        self.left = {member: set(range(data.recipe.folds.count)) for member in members}

    def __call__(self, event: Event) -> None:
        self.listener(event)
        name, _, fold = event.task.rpartition("/")
        if event.kind != "finish" or name not in self.left or not fold.startswith("fold-"):
            return
        self.left[name].discard(int(fold.removeprefix("fold-")))
        if self.left[name]:
            return
        del self.left[name]
        with suppress(SercacheError):  # the end of the command says what is wrong
            score = score_out_of_fold(self.data, gather_posteriors(self.data, self.data.member(name)))
            if self.data.corpus.classes:
                values = {"macro_f1": score.macro_f1, "uar": score.uar}
            else:
                values = {"mean_ccc": score.mean_ccc}
            self.listener(Event("score", name, values=values))


def _folders(data: TrainingData) -> tuple[Path, ...]:
    """Return what every machine that trains must see: the run first, which is written to."""
    caches = {feature_set.folder.resolve() for feature_set in data.feature_sets.values()}
    return data.run.root, *sorted(caches)


def _gather(data: TrainingData, member: MemberRecipe, errors: Mapping[str, SercacheError]) -> MemberReport:
    """Join the fold models' predictions into the member's posteriors, and score the out-of-fold rows."""
    head = data.build_head(member, 0)
    described = (member.name, member.head, tuple(member.features), parameter_count(head))
    failed = [str(error) for name, error in errors.items() if name.rpartition("/")[0] == member.name]
    if failed:
        return MemberReport(*described, rows=0, macro_f1=np.nan, uar=np.nan, error=failed[0])
    score = score_out_of_fold(data, gather_posteriors(data, member))
    return MemberReport(*described, **score._asdict())


def gather_posteriors(data: TrainingData, member: MemberRecipe) -> Posteriors:
    """Join what the fold models of a member predicted, and write it into the run.

    Raises:
        TrainingError: some fold predicted other rows than its own.
        StackingError: a fold's predictions are missing or damaged.
    """
    parts = [
        Posteriors.load(data.run.fold_folder(member.name, fold) / PREDICTIONS_NAME)
        for fold in range(data.recipe.folds.count)
    ]
    _refuse_foreign_rows(data, member, parts)
    posteriors = join_folds(parts)
    posteriors.save(data.run.posteriors_path(member.name))
    return posteriors


def score_out_of_fold(data: TrainingData, posteriors: Posteriors) -> OutOfFoldScore:
    """Score the out-of-fold rows."""
    out_of_fold = posteriors.origins == "out-of-fold"
    truth = data.rows.select(posteriors.ids).truth.take(out_of_fold)
    probabilities = posteriors.class_probabilities[out_of_fold]  # (N, C)
    values = posteriors.attribute_values[out_of_fold]  # (N, A)
    scored = truth.is_scored
    # Without attributes np.nan itself, which is equal to itself in a tuple: scores can be compared.
    attributes = mean_ccc(truth.attributes, values) if values.shape[1] else np.nan
    if not truth.num_classes:
        return OutOfFoldScore(int(scored.sum()), np.nan, np.nan, attributes)
    recall = uar(truth.labels[scored], probabilities[scored].argmax(axis=1), truth.num_classes)
    return OutOfFoldScore(int(scored.sum()), truth.score(probabilities, values), recall, attributes)


def _refuse_foreign_rows(data: TrainingData, member: MemberRecipe, parts: list[Posteriors]) -> None:
    """Raise unless each training row was predicted once, by the model of the fold that holds its speaker."""
    train = set(data.usable(member, split_ids(data.corpus, "train")))
    for fold, part in enumerate(parts):
        out_of_fold = [
            utterance_id
            for utterance_id, origin in zip(part.ids, part.origins, strict=True)
            if origin == "out-of-fold"
        ]
        folds = set(part.folds.tolist()) | set(data.folds.of(out_of_fold).tolist())
        if part.fold_map_digest != data.folds.digest or folds != {fold}:
            raise TrainingError(
                f"{data.run.fold_folder(member.name, fold)}: predictions of other folds than this run's; "
                "remove that folder, and the same command trains it again"
            )
        train -= set(out_of_fold)
    if train:
        raise TrainingError(
            f"{member.name}: no fold predicted {len(train)} training rows, first '{min(train)}'"
        )


def join_folds(parts: list[Posteriors]) -> Posteriors:
    """Return a member's posteriors: each fold's own rows, and the mean of all folds on every other row."""
    out_of_fold = [part.origins == "out-of-fold" for part in parts]
    shared_ids = [
        utterance_id for utterance_id, is_own in zip(parts[0].ids, out_of_fold[0], strict=True) if not is_own
    ]
    shared = [part.take(shared_ids) for part in parts]
    return Posteriors(
        member=parts[0].member,
        ids=tuple(
            utterance_id
            for part, rows in zip(parts, out_of_fold, strict=True)
            for utterance_id, is_own in zip(part.ids, rows, strict=True)
            if is_own
        )
        + tuple(shared_ids),
        classes=parts[0].classes,
        attributes=parts[0].attributes,
        class_probabilities=np.concatenate(
            [part.class_probabilities[rows] for part, rows in zip(parts, out_of_fold, strict=True)]
            + [np.mean([part.class_probabilities for part in shared], axis=0)]
        ),
        attribute_values=np.concatenate(
            [part.attribute_values[rows] for part, rows in zip(parts, out_of_fold, strict=True)]
            + [np.mean([part.attribute_values for part in shared], axis=0)]
        ),
        folds=np.concatenate(
            [part.folds[rows] for part, rows in zip(parts, out_of_fold, strict=True)]
            + [np.full(len(shared_ids), ALL_FOLDS)]
        ),
        origins=np.concatenate(
            [part.origins[rows] for part, rows in zip(parts, out_of_fold, strict=True)] + [shared[0].origins]
        ),
        fold_map_digest=parts[0].fold_map_digest,
    )
