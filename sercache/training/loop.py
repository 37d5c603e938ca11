"""The training loop: a head, and the encoders that are trained with it, on one fold and through both stages.

From top to bottom: :meth:`Training.steps` goes through the stages and their epochs, ``train_epoch`` through
the steps of an epoch, ``train_step`` takes one step of the optimiser, ``forward`` computes a micro-batch.
Where inputs come from and what is trained is up to the source: cached frames
(:mod:`sercache.training.cached_frames`), or audio (:mod:`sercache.training.finetuning.source`).
"""

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from sercache.errors import Interrupted, TrainingError
from sercache.events import QUIET, Context, Event
from sercache.recipe import FinetuningStageRecipe, Stage1Recipe, Stage2Recipe, TrainingRecipe
from sercache.seeds import derive_seed
from sercache.training.checkpoint import (
    WITHIN_EPOCH,
    History,
    Progress,
    load_optimizer_tensors,
    load_tensors,
    optimizer_tensors,
    save_tensors,
    with_prefix,
)
from sercache.training.epoch import (
    forward_pass,
    objective_of_stage,
    rank_of_epoch,
    rows_of_epoch,
    scores_of_epoch,
    targets_of_epoch,
)
from sercache.training.mixing import draw_mix, draw_modalities, mask_modalities, mix_targets
from sercache.training.objective import Objective, Targets
from sercache.training.rows import LabelledRows, epoch_batches
from sercache.training.source import MicroBatch, Step, StepReport, TrainingSource


class Training:
    """Trains what its source holds on the rows of one fold, and keeps the best epoch.

    Stage 1 takes all rows, with class weights; stage 2 starts from stage 1's best epoch and takes a fresh
    class-balanced draw every epoch, without class weights, at a lower learning rate (MEDUSA, section 3). Each
    stage has one optimiser and one learning-rate schedule, and ends after its epochs or when the primary
    score on the stop rows (macro-F1, or the mean CCC of attributes alone) has not risen for ``patience`` of
    them. Weights that can predict from the start, fine-tuned ones or a head on a fitted base, are scored
    first: what is kept is never worse on the stop rows.

    Everything random follows from the seeds, the epoch's number and the step's, so a training that is resumed
    or takes turns with others ends where an uninterrupted one ends, bit for bit. Micro-batches count by their
    rows, so the sum of their gradients is the same on one process and on several, up to rounding.

    Args:
        source: inputs, weights and gradients.
        fit_rows: targets to learn from.
        stop_rows: targets that say when to stop; of other speakers than ``fit_rows``.
        settings: of the member: objective, class balance, MixUp, weight decay, clipping.
        seed: of this member and fold: dropout, MixUp and what else a head draws for itself.
        stream_seed: of the rows' order and stage 2's draws; heads that share it and rows share their batches.
        state_path: where resume state is kept; removed by whoever publishes the result.
        task: the name that events carry.
        log: given the history after every epoch.
        context: receives events, and says when to stop.

    Raises:
        TrainingError: there is nothing to learn from or to stop on.
    """

    def __init__(
        self,
        source: TrainingSource,
        fit_rows: LabelledRows,
        stop_rows: LabelledRows,
        settings: TrainingRecipe,
        *,
        seed: int,
        stream_seed: int,
        state_path: Path,
        task: str = "training",
        log: Callable[[History], None] = lambda history: None,
        context: Context = QUIET,
    ) -> None:
        self.source = source
        self.head, self.device, self.gradients = source.head, source.device, source.gradients
        self.fit_rows, self.stop_rows = fit_rows, stop_rows
        self.settings = settings
        self.seed, self.stream_seed = seed, stream_seed
        self.state_path = state_path
        self.task, self.log, self.context = task, log, context
        if not fit_rows.has_target.any():
            raise TrainingError(f"{task}: none of its {len(fit_rows)} training rows has a target")
        self.primary = stop_rows.truth.primary
        if not stop_rows.truth.is_scored.any():
            raise TrainingError(f"{task}: none of its {len(stop_rows)} stop rows has {self.primary.needs}")
        self.progress = Progress()
        self.best_weights: dict[str, Tensor] = {}
        self._saved = time.monotonic()

    def run(self) -> Progress:
        """Train to the end, from wherever the resume state left off; the best weights are then in place.

        Raises:
            TrainingError: the loss is no longer finite, or inputs cannot be read.
            Interrupted: it was asked to stop; the next call goes on from the last saved state.
        """
        for _ in self.steps():
            pass
        return self.progress

    def steps(self) -> Iterator[None]:
        """Do what :meth:`run` does, and pause after every micro-batch: several heads can take turns."""
        optimizer = self.resume() if self.state_path.exists() else self.begin_stage()
        self.gradients.wait()  # all processes have read the state before the first one writes it anew
        progress = self.progress
        if not progress.best:
            self.evaluate_start()
        while not (progress.stage == 2 and self.stage_is_over()):
            if self.stage_is_over():
                progress.stage, progress.stage_epochs, progress.stale_epochs = 2, 0, 0
                optimizer = self.begin_stage()
                continue
            train_loss = yield from self.train_epoch(optimizer)
            self.finish_epoch(optimizer, train_loss)
            self.save(optimizer)
            self.log(progress.history)
        if self.best_weights:
            self.source.load(self.best_weights)

    @property
    def stage(self) -> Stage1Recipe | Stage2Recipe | FinetuningStageRecipe:
        """The settings of the stage under way."""
        schedule = self.source.schedule
        return schedule.stage1 if self.progress.stage == 1 else schedule.stage2

    def stage_is_over(self) -> bool:
        """Return whether the stage has had all its epochs, or has lost its patience."""
        is_out_of_patience = self.progress.stale_epochs >= self.source.schedule.patience
        return self.progress.stage_epochs >= self.stage.epochs or is_out_of_patience

    def begin_stage(self) -> torch.optim.AdamW:
        """Return a new optimiser; the best weights so far are put in place."""
        if self.best_weights:
            self.source.load(self.best_weights)
        groups = self.source.parameter_groups(self.progress.stage)
        optimizer = torch.optim.AdamW(groups, weight_decay=self.settings.weight_decay, fused=True)
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
        return optimizer

    def train_epoch(self, optimizer: torch.optim.Optimizer) -> Generator[None, None, float]:
        """Take the steps of this epoch that are left; return the mean loss of a row over all of them."""
        progress, source, settings = self.progress, self.source, self.settings
        epoch = len(progress.history)
        seed = derive_seed(self.seed, "epoch", epoch)
        stream_seed = derive_seed(self.stream_seed, "epoch", epoch)
        generator = np.random.default_rng(seed)

        # Which rows the epoch has, and in which batches.
        ranks = source.ranks(stream_seed)  # (N,)
        drawn = rows_of_epoch(self.fit_rows, ranks, progress.stage, settings)
        order = np.random.default_rng(stream_seed)
        batches = epoch_batches(source.lengths[drawn], ranks[drawn], source.schedule.batch_size, order)

        # What it minimises.
        targets = targets_of_epoch(self.fit_rows, settings, generator, self.device)
        objective = objective_of_stage(self.fit_rows, progress.stage, settings, self.device)

        steps = source.steps([drawn[rows] for rows in batches], seed, generator)
        left = steps[progress.steps :]
        source.set_training()
        began = time.monotonic() - progress.seconds
        with closing(source.read(left, seed, stream_seed)) as inputs:
            for step in left:
                reports = yield from self.train_step(optimizer, step, inputs, targets, objective, len(steps))
                progress.steps += 1
                progress.seconds = time.monotonic() - began
                self.take_in(reports, optimizer, len(steps))
        self.add_losses(self.gradients.pending())
        return progress.loss / progress.rows

    def train_step(
        self,
        optimizer: torch.optim.Optimizer,
        step: Step,
        inputs: Iterator[Any],
        targets: Targets,
        objective: Objective,
        epoch_steps: int,
    ) -> Generator[None, None, list[StepReport]]:
        """Take one step of the optimiser; return what has become known of finished steps."""
        progress, gradients = self.progress, self.gradients
        gradients.clear()
        for micro_batch in step.micro_batches:
            if gradients.is_alone and self.context.should_stop():
                self.stop(optimizer)
            loss = self.forward(micro_batch, next(inputs), targets, objective)
            gradients.add(loss, len(micro_batch.rows), step.num_rows)
            yield

        # All processes learn of both wishes in the same step, and act on them in the same step.
        wants_stop = not gradients.is_alone and self.context.should_stop()
        clip, is_due = self.settings.gradient_clip, self.is_save_due()
        reports = gradients.finish_step(clip, step.num_rows, wants_stop=wants_stop, wants_save=is_due)
        stage_step = progress.stage_epochs * epoch_steps + progress.steps
        factor = self.source.rate_factor(progress.stage, stage_step, epoch_steps)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        optimizer.step()
        return reports

    def forward(self, micro_batch: MicroBatch, read: Any, targets: Targets, objective: Objective) -> Tensor:
        """Return the mean loss of a micro-batch, with gradients.

        Args:
            micro_batch: B rows.
            read: what the source has read of them.
            targets: of all rows.
            objective: of the stage.
        """
        rows, generator = micro_batch.rows, micro_batch.generator
        dropped, mixup = self.settings.modality_dropout, self.settings.mixup
        indices = torch.from_numpy(rows).to(self.device, non_blocking=self.device.type == "cuda")  # (B,)
        batch_targets = Targets(targets.soft[indices], targets.attributes[indices])  # (B, C) and (B, A)
        with forward_pass(micro_batch.seed, self.device, self.source.precision):
            inputs = self.source.inputs(micro_batch, read)  # M feature sets, (B, T, D) or (B, T, L, D)
            if dropped and len(inputs) > 1:
                present = self.source.frame_counts[rows] > 0  # (B, M)
                inputs = mask_modalities(inputs, draw_modalities(present, dropped, generator))
            embedding = self.head.embed(inputs)  # (B, E)
            start = self.source.start_outputs(indices)  # (B, C + A)
            mix = draw_mix(len(rows), mixup.probability, mixup.alpha, generator)
            if mix is not None:
                mix, batch_targets = mix_targets(mix.to(self.device), batch_targets)
                embedding = mix.apply(embedding)
                start = None if start is None else mix.apply(start)
            output = self.head.classify(embedding, start)  # (B, C) and (B, A)
        return objective(output, batch_targets)  # ()

    def take_in(self, reports: list[StepReport], optimizer: torch.optim.Optimizer, epoch_steps: int) -> None:
        """Add up what finished steps report, and save or stop where a process wants it."""
        if any(report.stops or report.saves for report in reports):
            reports = reports + self.gradients.pending()
        self.add_losses(reports)
        if self.source.has_long_epochs:
            self.report_step(epoch_steps)
        if any(report.stops for report in reports):
            self.stop(optimizer)
        if any(report.saves for report in reports):
            self.save(optimizer)

    def add_losses(self, reports: Sequence[StepReport]) -> None:
        """Add the losses of finished steps to the epoch's."""
        for report in reports:
            self.refuse_not_finite(report.loss, "loss")
            self.progress.loss += report.loss
            self.progress.rows += report.rows

    def stop(self, optimizer: torch.optim.Optimizer) -> NoReturn:
        """Raise Interrupted; a long epoch's finished steps are saved first."""
        if self.source.has_long_epochs:
            self.add_losses(self.gradients.pending())
            self.save(optimizer)
        raise Interrupted(f"{self.task}: stopped in epoch {self.epoch_number}")

    @property
    def epoch_number(self) -> int:
        """Number of the epoch under way, as the history counts: from 1, and 0 for a trained start."""
        return len(self.progress.history) + (0 if self.source.starts_trained else 1)

    def refuse_not_finite(self, loss: float, name: str) -> None:
        """Raise a TrainingError that says why, unless a loss is finite."""
        if not math.isfinite(loss):
            reason = self.source.why_not_finite(self.fit_rows, self.stop_rows)
            raise TrainingError(
                f"{self.task}: the {name} became {loss} in epoch {self.epoch_number}; {reason}"
            )

    def evaluate(self) -> dict[str, float]:
        """Score the stop rows, all at once."""
        output = self.source.predict_stop_rows(self.context.should_stop)
        scores = scores_of_epoch(output, self.stop_rows, self.settings)
        self.refuse_not_finite(scores["stop_loss"], "loss on the stop rows")
        return scores

    def evaluate_start(self) -> None:
        """Score what training starts from, where it can predict, and keep it as the best so far."""
        if self.source.starts_trained:
            self.add_to_history(0.0, math.nan)
        elif self.head.base is not None:
            self.keep_if_best({"epoch": 0.0, "stage": 1.0, **self.evaluate()})

    def finish_epoch(self, optimizer: torch.optim.Optimizer, train_loss: float) -> None:
        """Score an epoch after its last step, and keep its weights if it is the best so far."""
        progress = self.progress
        try:
            self.add_to_history(self.source.reported_rate(optimizer), train_loss)
        except Interrupted:
            self.save(optimizer)
            raise
        progress.steps, progress.loss, progress.rows, progress.seconds = 0, 0.0, 0, 0.0

    def add_to_history(self, learning_rate: float, train_loss: float) -> None:
        """Evaluate the epoch under way, enter it into the history, and keep it if it is the best so far."""
        progress, began, number = self.progress, time.monotonic(), self.epoch_number
        row = {
            "epoch": number,
            "stage": progress.stage,
            "learning_rate": learning_rate,
            "train_loss": train_loss,
            **self.evaluate(),
        }
        seconds = progress.seconds + time.monotonic() - began
        progress.history.append({**row, "seconds": seconds})
        progress.stage_epochs += number > 0
        self.keep_if_best(row)
        self.report_epoch(row)

    def keep_if_best(self, row: dict[str, float]) -> None:
        """Keep the weights if they score best so far."""
        progress = self.progress
        if progress.best and rank_of_epoch(row) <= rank_of_epoch(progress.best):
            progress.stale_epochs += 1
            return
        progress.best, progress.stale_epochs = dict(row), 0
        self.best_weights = {name: value.detach().clone() for name, value in self.source.tensors().items()}

    def report_epoch(self, row: dict[str, float]) -> None:
        """Tell the listener of a scored epoch."""
        best = {"best": self.progress.best[self.primary.key]}
        if self.source.has_long_epochs:
            values = {name: row[name] for name in ("epoch", "stage", self.primary.key)}
            trained = f"epoch {row['epoch']} (stage {row['stage']}), loss {row['train_loss']:.4g}"
            what = trained if row["epoch"] else "as it starts"
            score = f"{self.primary.name} {row[self.primary.key]:.3f}"
            message = f"{self.task}: {what}: {score} on its stop rows"
            event = Event("note", self.task, message=message, values=values | best)
        else:
            values = {name: row[name] for name in ("epoch", "stage", "train_loss", self.primary.key)}
            total = self.source.schedule.stage1.epochs + self.source.schedule.stage2.epochs
            event = Event("advance", self.task, done=row["epoch"], total=total, values=values | best)
        self.context.listener(event)

    def report_step(self, epoch_steps: int) -> None:
        """Tell the listener of a step; a stage that ends early makes the training shorter."""
        progress, schedule = self.progress, self.source.schedule
        done = progress.stage_epochs * epoch_steps + progress.steps
        if progress.stage == 1:
            total = schedule.stage1.epochs * epoch_steps + schedule.stage2.epochs * self._stage2_steps
        else:
            total = schedule.stage2.epochs * epoch_steps
        values: dict[str, float] = {"epoch": len(progress.history), "stage": progress.stage}
        if progress.rows:
            values["loss"] = progress.loss / progress.rows
        self.context.listener(Event("advance", self.task, done=done, total=total, values=values))

    @cached_property
    def _stage2_steps(self) -> int:
        drawn = rows_of_epoch(self.fit_rows, self.source.ranks(0), 2, self.settings)
        return math.ceil(len(drawn) / self.source.schedule.batch_size)

    def is_save_due(self) -> bool:
        """Return whether this process is to save the state within the epoch."""
        is_late = time.monotonic() - self._saved > 60 * self.source.checkpoint_minutes
        return self.source.has_long_epochs and self.gradients.is_first and is_late

    def save(self, optimizer: torch.optim.Optimizer) -> None:
        """Write the state to resume from: weights now and at their best, optimiser, progress."""
        self._saved = time.monotonic()
        if not self.gradients.is_first:
            return
        trained = self.source.tensors()
        tensors = {self.source.state_prefix + name: value for name, value in trained.items()}
        tensors |= {f"best.{name}": value for name, value in self.best_weights.items()}
        tensors |= optimizer_tensors(optimizer, "optimizer.")
        progress = asdict(self.progress)
        if not self.source.has_long_epochs:
            progress = {name: value for name, value in progress.items() if name not in WITHIN_EPOCH}
        save_tensors(self.state_path, tensors, {"progress": progress})

    def resume(self) -> torch.optim.AdamW:
        """Read what :meth:`save` wrote; return the optimiser."""
        tensors, description = load_tensors(self.state_path)
        self.progress = Progress(**description["progress"])
        optimizer = self.begin_stage()
        load_optimizer_tensors(optimizer, tensors, "optimizer.")
        self.source.load(with_prefix(tensors, self.source.state_prefix))
        best = with_prefix(tensors, "best.").items()
        self.best_weights = {name: value.to(self.device) for name, value in best}
        return optimizer
