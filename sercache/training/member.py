"""Members on folds, from the run folder back into it: the task that an engine runs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from sercache.corpus import Corpus
from sercache.corpus.folds import inner_slice
from sercache.errors import Interrupted, SercacheError, TrainingError
from sercache.evaluation.primary import primary_in, primary_score
from sercache.events import QUIET, Context, Event
from sercache.files import remove_stale_temporaries
from sercache.heads.pooled_linear import PooledLinear
from sercache.heads.protocol import Head
from sercache.heads.registry import BASE, BEST_BASE
from sercache.posteriors import ALL_FOLDS, Origin, Posteriors
from sercache.recipe import MemberRecipe
from sercache.run import Run, fold_name, library_versions
from sercache.seeds import derive_seed
from sercache.training.cached_frames import CachedFrames, frames_not_finite, predict
from sercache.training.checkpoint import EpochLog, HeadDescription, save_head
from sercache.training.closed_form import Solution, fit_head
from sercache.training.data import TrainingData, open_run, split_ids
from sercache.training.loop import Training

WEIGHTS_NAME = "weights.safetensors"
PREDICTIONS_NAME = "predictions.parquet"
STATE_NAME = "state.safetensors"
HISTORY_NAME = "history.csv"


@dataclass(frozen=True, slots=True)
class FoldJob:
    """Which member and fold of which run, and where it computes; ``ALL_FOLDS`` leaves no fold out."""

    run_root: Path
    member: str
    fold: int
    device: str

    @property
    def name(self) -> str:
        """How events call it."""
        return f"{self.member}/{fold_name(self.fold)}"


@dataclass(frozen=True, slots=True)
class FoldRows:
    """The utterances of one fold, by what they are for.

    Attributes:
        fit: learned from.
        stop: decide when training ends; never of a speaker in ``fit``; none where nothing has to stop.
        predicted: by origin: the fold's own rows, and the development and test splits.
    """

    fit: tuple[str, ...]
    stop: tuple[str, ...]
    predicted: dict[Origin, tuple[str, ...]]


def is_finished(run: Run, job: FoldJob) -> bool:
    """Return whether a job's weights are there: they are published last."""
    return (run.fold_folder(job.member, job.fold) / WEIGHTS_NAME).exists()


def remove_leftovers(run: Run, job: FoldJob) -> None:
    """Remove what a killed process left: temporary files, and the resume state of a finished job."""
    folder = run.fold_folder(job.member, job.fold)
    remove_stale_temporaries(folder)
    if is_finished(run, job):
        (folder / STATE_NAME).unlink(missing_ok=True)


class FoldsFailed(TrainingError):
    """Some of the jobs of one task failed; each was reported as it happened.

    Attributes:
        errors: by the job's name.
    """

    is_reported = True

    def __init__(self, errors: Mapping[str, SercacheError]) -> None:
        super().__init__(errors)
        self.errors = dict(errors)

    def __str__(self) -> str:
        return "; ".join(str(error) for error in self.errors.values())


def train_folds(jobs: Sequence[FoldJob], *, context: Context = QUIET) -> None:
    """Train several members and folds from one stream of batches.

    They take turns, batch by batch. Each has its own rows, weights, optimiser and early stopping, and ends as
    it would alone, bit for bit. They share the frames that lie on the device, and those that learn from the
    same rows share every batch: it is gathered once for all of them. Heads whose rows overlap want the same
    frames at about the same time, so each is read from disk once.

    Args:
        jobs: of one run; those that may share batches next to each other.
        context: receives events, and says when to stop.

    Raises:
        FoldsFailed: some cannot be trained; the others were.
        Interrupted: it was asked to stop; the next call goes on after each job's last finished epoch.
    """
    errors: dict[str, SercacheError] = {}
    active = {job: train_fold(job, context=context) for job in jobs}

    def fail(job: FoldJob, error: SercacheError) -> None:
        del active[job]
        errors[job.name] = error
        context.listener(Event("warning", job.name, message=str(error)))

    while active:
        for job, steps in list(active.items()):
            try:
                next(steps)
            except StopIteration:
                del active[job]
            except Interrupted:
                raise
            except torch.OutOfMemoryError:
                advice = "lower batch_size, and raise accumulate instead"
                fail(job, TrainingError(f"{job.name}: {job.device} is out of memory; {advice}"))
            except SercacheError as error:
                fail(job, error)
    if errors:
        raise FoldsFailed(errors)


def train_fold(job: FoldJob, *, context: Context = QUIET) -> Iterator[None]:
    """Train a member on all folds but one, and predict that one and the splits that no fold has.

    The weights are published last: a fold whose weights are there is finished, and nothing is done.

    Yields:
        After every batch, so that several jobs can take turns.

    Raises:
        TrainingError: the member cannot be trained on this fold.
        Interrupted: it was asked to stop; the next call goes on after the last finished epoch.
    """
    data = open_run(job.run_root)
    remove_leftovers(data.run, job)
    if is_finished(data.run, job):
        return
    folder = data.run.fold_folder(job.member, job.fold)
    member = data.member(job.member)
    settings = data.recipe.training_of(member)
    seed = derive_seed(data.recipe.seed, "member", member.name, member.seed, "fold", job.fold)
    rows = fold_rows(data, member, job.fold)
    feature_sets = data.sets_of(member)
    if data.is_closed_form(member):
        context.listener(Event("start", job.name, total=1))
        head = data.build_head(member, seed)
        solution = _fit_head(data, job, member, head, rows.fit, context)
        primary = primary_score(len(data.corpus.classes))
        best = {primary.key: solution.score, "penalty": solution.penalty}
    else:
        head, start = _fresh_head(data, job, member, rows.fit, seed, context)
        learned, scored = data.rows_of(member), data.scored_rows_of(member)
        log = EpochLog(folder / HISTORY_NAME, data.run.tensorboard_folder(job.member, job.fold))
        training = Training(
            CachedFrames(
                head,
                data.frames_of(member, rows.fit, job.device),
                data.frames_of(member, rows.stop, job.device),
                settings,
                start=start,
            ),
            learned.select(rows.fit),
            scored.select(rows.stop),
            settings,
            seed=seed,
            stream_seed=derive_seed(data.recipe.seed, "stream"),
            state_path=folder / STATE_NAME,
            task=job.name,
            log=log,
            context=context,
        )
        context.listener(Event("start", job.name, total=settings.stage1.epochs + settings.stage2.epochs))
        try:
            yield from training.steps()
        finally:
            log.close()
        best = training.progress.best
        if head.base is not None:  # nothing has to stop any more: it may learn from all training rows
            all_rows = tuple(sorted({*rows.fit, *rows.stop} & set(split_ids(data.corpus, "train"))))
            _fit_head(data, job, member, head.base.cpu(), all_rows, context)
    head.to(job.device)
    predicted = [utterance_id for ids in rows.predicted.values() for utterance_id in ids]
    source = data.frames_of(member, predicted, job.device)
    output = predict(head, source, settings.batch_size)
    if not (torch.isfinite(output.logits).all() and torch.isfinite(output.attributes).all()):
        reason = frames_not_finite(source) or "the head's weights have grown too large"
        raise TrainingError(f"{job.name}: it predicts what are no finite numbers; {reason}")
    Posteriors(
        member=member.name,
        ids=tuple(predicted),
        classes=data.corpus.classes,
        attributes=data.corpus.attribute_names,
        class_probabilities=torch.softmax(output.logits.double(), dim=1).numpy(),
        attribute_values=output.attributes.double().numpy(),
        folds=np.full(len(predicted), job.fold),
        origins=np.asarray([origin for origin, ids in rows.predicted.items() for _ in ids], dtype=np.str_),
        fold_map_digest=data.folds.digest,
    ).save(folder / PREDICTIONS_NAME)
    description = HeadDescription(
        member=member.name,
        fold=job.fold,
        head=member.head,
        options=dict(member.options),
        input_dims=[feature_set.dim for feature_set in feature_sets],
        input_layers=[len(feature_set.layers) for feature_set in feature_sets],
        features={name: data.feature_sets[name].spec.fingerprint for name in member.features},
        classes=list(data.corpus.classes),
        attributes=[(scale.name, scale.low, scale.high) for scale in data.corpus.attributes],
        best=best,
        versions=library_versions(),
        normalize=settings.normalize,
    )
    save_head(folder / WEIGHTS_NAME, head, description)
    (folder / STATE_NAME).unlink(missing_ok=True)
    context.listener(Event("finish", job.name, values={"best": best.get(primary_in(best).key, float("nan"))}))


def _fit_head(
    data: TrainingData,
    job: FoldJob,
    member: MemberRecipe,
    head: Head,
    fit: tuple[str, ...],
    context: Context,
) -> Solution:
    """Fit a closed-form head that reads what ``member`` reads."""
    assert isinstance(head, PooledLinear)
    per_speaker = data.recipe.normalizes_speakers(member)
    tables = [
        data.pooled(name, head.statistics, job.device, context, per_speaker=per_speaker)
        for name in member.features
    ]
    try:
        return fit_head(
            head,
            tables,
            np.searchsorted(np.asarray(sorted(data.corpus.ids)), np.asarray(fit)).astype(np.int64),
            data.corpus.select(fit),
            data.rows_of(member).select(fit),
            seed=derive_seed(data.recipe.seed, "inner folds", job.fold),
            every_row=not data.is_closed_form(member),
            should_stop=context.should_stop,
        )
    except TrainingError as error:
        raise TrainingError(f"{job.name}: {error}") from None


def _fit_base(
    data: TrainingData,
    job: FoldJob,
    member: MemberRecipe,
    base: Head,
    fit: tuple[str, ...],
    context: Context,
) -> Solution:
    """Fit the base of a head; of :data:`BEST_BASE` the method that predicts left-out speakers better."""
    assert isinstance(base, PooledLinear)
    if member.options[BASE] != BEST_BASE:
        return _fit_head(data, job, member, base, fit, context)
    solutions: dict[Literal["ridge", "logistic"], Solution] = {}
    weights = {}
    for method in ("ridge", "logistic"):
        base.method = method
        solutions[method] = _fit_head(data, job, member, base, fit, context)
        weights[method] = {name: value.clone() for name, value in base.state_dict().items()}
    base.method = "logistic" if solutions["logistic"].score > solutions["ridge"].score else "ridge"
    base.load_state_dict(weights[base.method])
    return solutions[base.method]


def _fresh_head(
    data: TrainingData,
    job: FoldJob,
    member: MemberRecipe,
    fit: tuple[str, ...],
    seed: int,
    context: Context,
) -> tuple[Head, torch.Tensor | None]:
    """Return a head to train, and what it starts from on the rows ``fit``, ``(N, C + A)``; None: nothing."""
    head = data.build_head(member, derive_seed(seed, "initialisation"))
    if data.recipe.training_of(member).standardize:
        per_speaker = data.recipe.normalizes_speakers(member)
        for index, name in enumerate(member.features):
            mean, deviation = data.statistics(name, fit, per_speaker=per_speaker)
            head.set_standardization(index, torch.from_numpy(mean), torch.from_numpy(deviation))
    if head.base is None:
        return head, None
    solution = _fit_base(data, job, member, head.base, fit, context)
    head.take_layer_weights(head.base)
    start = torch.from_numpy(solution.left_out).float()
    if not torch.isfinite(start).all():
        missing = int((~torch.isfinite(start)).any(dim=1).sum())
        raise TrainingError(
            f"{job.name}: {missing} of {len(start)} rows have no other speakers to fit a base on; "
            "train this member without the option 'base'"
        )
    return head, start


def fold_rows(data: TrainingData, member: MemberRecipe, fold: int) -> FoldRows:
    """Return which utterances a fold model learns from, stops on, and predicts.

    A refit (``ALL_FOLDS``) learns from all folds and predicts only the splits that no fold has. A model stops
    on the development split where there is one, else on an inner slice of its training rows; in both cases on
    speakers that it does not learn from. A head that is fitted without epochs has no rows to stop on.

    Raises:
        TrainingError: a speaker would be on both sides, or a side would be empty.
        CorpusError: there are too few speakers for an inner slice.
    """
    corpus = data.corpus
    # Sorted: the order of the manifest's rows must not matter.
    train = data.usable(member, sorted(split_ids(corpus, "train")))
    development = data.usable(member, sorted(split_ids(corpus, "development")))
    folds = data.folds.of(train)
    in_fold = tuple(row for row, row_fold in zip(train, folds, strict=True) if row_fold == fold)
    others = tuple(row for row, row_fold in zip(train, folds, strict=True) if row_fold != fold)
    if not others or (not in_fold and fold != ALL_FOLDS):
        side = "in" if not in_fold else "outside"
        raise TrainingError(
            f"{member.name}/{fold_name(fold)}: no row {side} the fold has frames in {member.features}"
        )
    stop: tuple[str, ...]
    if data.is_closed_form(member):
        fit, stop = others, ()
    elif development:
        fit, stop = others, development
    else:
        seed = derive_seed(data.recipe.seed, "fold", fold)
        fit, stop = inner_slice(corpus.select(others), data.recipe.folds.inner_share, seed)
        refuse_shared_speakers(corpus, fit, stop, f"fold {fold}: learned from and stopped on")
        refuse_shared_speakers(corpus, stop, in_fold, f"fold {fold}: stopped on and predicted")
    refuse_shared_speakers(corpus, fit, in_fold, f"fold {fold}: learned from and predicted")
    predicted: dict[Origin, tuple[str, ...]] = {
        "out-of-fold": in_fold,
        "development": development,
        "held-out": data.usable(member, split_ids(corpus, "test")),
    }
    return FoldRows(fit, stop, predicted)


def refuse_shared_speakers(corpus: Corpus, first: Iterable[str], second: Iterable[str], what: str) -> None:
    """Raise a TrainingError if a speaker, known or not, has utterances on both sides."""
    sides = [{corpus.by_id[row].speaker for row in side} for side in (first, second)]
    shared = sides[0] & sides[1]
    if shared:
        names = ", ".join(sorted(name or "(unknown)" for name in shared)[:3])
        raise TrainingError(f"{what} share {len(shared)} speakers ({names}); this would leak")
