"""The training loop: one head, one fold, both of MEDUSA's stages, from top to bottom in this file."""

import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sercache.errors import Interrupted, TrainingError
from sercache.events import QUIET, Context, Event
from sercache.heads.protocol import Head
from sercache.recipe import Stage1Recipe, Stage2Recipe, TrainingRecipe
from sercache.seeds import derive_seed
from sercache.training.batches import FrameSource
from sercache.training.checkpoint import (
    load_optimizer_tensors,
    load_tensors,
    optimizer_tensors,
    save_tensors,
    with_prefix,
)
from sercache.training.diagnosis import why_not_finite
from sercache.training.epoch import (
    forward_pass,
    objective_of_stage,
    rank_of_epoch,
    rows_of_epoch,
    scores_of_epoch,
    targets_of_epoch,
)
from sercache.training.history import History
from sercache.training.mixing import draw_mix, draw_modalities, mask_modalities, mix_targets
from sercache.training.objective import Targets
from sercache.training.precision import precision_of
from sercache.training.prediction import predict
from sercache.training.rows import LabelledRows, epoch_batches
from sercache.training.schedule import rate_factor


@dataclass
class Progress:
    """Where training is, after an epoch.

    Attributes:
        stage: 1 or 2.
        stage_epochs: epochs finished in this stage.
        stale_epochs: epochs since the best one of this stage, or since the stage began.
        best: scores of the best epoch so far, empty before the first.
        history: one row per finished epoch.
    """

    stage: int = 1
    stage_epochs: int = 0
    stale_epochs: int = 0
    best: dict[str, float] = field(default_factory=dict)
    history: History = field(default_factory=list)


class HeadTraining:
    """Trains one head on the rows of one fold and keeps its best epoch.

    Stage 1 takes all rows, with class weights; stage 2 starts from stage 1's best epoch and takes a fresh
    class-balanced draw every epoch, without class weights, at a lower learning rate (MEDUSA, section 3). Each
    stage has one optimiser and one learning-rate schedule, and ends after its epochs or when the primary
    score on the stop rows (macro-F1, or the mean CCC of attributes alone) has not risen for ``patience`` of
    them. Everything random follows from the seeds and the epoch's number, so a training that is resumed after
    a finished epoch ends where an uninterrupted one ends, bit for bit; and so does one that takes turns with
    others.

    Args:
        head: freshly initialised; holds the best epoch's weights afterwards.
        fit: frames and targets to learn from.
        stop: frames and targets that say when to stop; of other speakers than ``fit``.
        settings: the recipe's.
        seed: of this member and fold: dropout, MixUp and what else a head draws for itself.
        stream_seed: of the rows' order and of stage 2's draws; heads that share it and their rows share their
            batches.
        state_path: where resume state is kept; removed by whoever publishes the result.
        start: ``(N, C + A)`` what a head with a base adds to on the rows to learn from: outputs of models
            that did not learn from the row's speaker. The base itself knows these rows too well.
        task: the name that events carry.
        log: given the history after every epoch.
        context: receives events, and says when to stop.

    Raises:
        TrainingError: there is nothing to learn from or to stop on, or the loss is no longer finite.
    """

    def __init__(
        self,
        head: Head,
        fit: tuple[FrameSource, LabelledRows],
        stop: tuple[FrameSource, LabelledRows],
        settings: TrainingRecipe,
        *,
        seed: int,
        stream_seed: int,
        state_path: Path,
        start: Tensor | None = None,
        task: str = "training",
        log: Callable[[History], None] = lambda history: None,
        context: Context = QUIET,
    ) -> None:
        self.head = head
        self.fit_source, self.fit_rows = fit
        self.stop_source, self.stop_rows = stop
        self.settings = settings
        self.seed = seed
        self.stream_seed = stream_seed
        self.state_path = state_path
        self.start_outputs = start
        self.task = task
        self.log = log
        self.context = context
        self.device = self.fit_source.device
        if not self.fit_rows.has_target.any():
            raise TrainingError(f"{task}: none of its {len(self.fit_rows)} training rows has a target")
        self.primary = self.stop_rows.truth.primary
        if not self.stop_rows.truth.is_scored.any():
            raise TrainingError(
                f"{task}: none of its {len(self.stop_rows)} stop rows has {self.primary.needs}"
            )
        self.precision = precision_of(settings, self.device)
        self.progress = Progress()
        self.best_weights: dict[str, Tensor] = {}

    def run(self) -> Progress:
        """Train to the end, from wherever the resume state left off; the head then has the best weights."""
        for _ in self.steps():
            pass
        return self.progress

    def steps(self) -> Iterator[None]:
        """Do what :meth:`run` does, and pause after every batch: several heads can take turns."""
        self.head.to(self.device)
        if self.start_outputs is not None:
            self.start_outputs = self.start_outputs.to(self.device)
        optimizer = self._resume() if self.state_path.exists() else self._begin_stage()
        if self.head.base is not None and not self.progress.best:
            self._keep_if_best({"epoch": 0.0, "stage": 1.0, **self._scores()})
        while not (self.progress.stage == 2 and self._stage_is_over()):
            if self._stage_is_over():
                self.progress.stage, self.progress.stage_epochs, self.progress.stale_epochs = 2, 0, 0
                optimizer = self._begin_stage()
                continue
            started = time.monotonic()
            train_loss = yield from self._train_epoch(optimizer)
            self._judge_epoch(optimizer.param_groups[0]["lr"], train_loss, time.monotonic() - started)
            self._save(optimizer)
            self.log(self.progress.history)
        if self.best_weights:
            self.head.load_state_dict(self.best_weights)

    @property
    def _stage(self) -> Stage1Recipe | Stage2Recipe:
        return self.settings.stage1 if self.progress.stage == 1 else self.settings.stage2

    def _stage_is_over(self) -> bool:
        is_out_of_patience = self.progress.stale_epochs >= self.settings.patience
        return self.progress.stage_epochs >= self._stage.epochs or is_out_of_patience

    def _begin_stage(self) -> torch.optim.AdamW:
        if self.best_weights:
            self.head.load_state_dict(self.best_weights)
        return torch.optim.AdamW(
            self.head.parameters(),
            lr=self._stage.learning_rate,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )

    def _train_epoch(self, optimizer: torch.optim.Optimizer) -> Generator[None, None, float]:
        """Take one pass over this epoch's rows; return the mean loss of a row."""
        settings, device = self.settings, self.device
        epoch = len(self.progress.history)
        epoch_seed = derive_seed(self.seed, "epoch", epoch)
        stream_seed = derive_seed(self.stream_seed, "epoch", epoch)
        generator = np.random.default_rng(epoch_seed)
        ranks = self.fit_source.ranks(stream_seed)
        drawn = rows_of_epoch(self.fit_rows, ranks, self.progress.stage, settings)
        order = np.random.default_rng(stream_seed)
        lengths = self.fit_source.lengths[drawn]
        batches = [drawn[rows] for rows in epoch_batches(lengths, ranks[drawn], settings.batch_size, order)]
        inputs_of = self.fit_source.batches(batches, settings.max_frames, stream_seed)
        epoch_targets = targets_of_epoch(self.fit_rows, settings, generator, device)
        objective = objective_of_stage(self.fit_rows, self.progress.stage, settings, device)
        parameters = list(self.head.parameters())
        steps = math.ceil(len(batches) / settings.accumulate)
        total_loss = torch.zeros((), device=device)
        for first in range(0, len(batches), settings.accumulate):
            group = batches[first : first + settings.accumulate]
            group_size = sum(map(len, group))
            optimizer.zero_grad(set_to_none=True)
            for number, rows in enumerate(group, first):
                if self.context.should_stop():
                    raise Interrupted(f"{self.task}: stopped in epoch {epoch + 1}")
                self.head.train()
                inputs = next(inputs_of)
                if settings.modality_dropout and len(inputs) > 1:
                    present = self.fit_source.frame_counts[rows] > 0
                    kept = draw_modalities(present, settings.modality_dropout, generator)
                    inputs = mask_modalities(inputs, kept)
                places = torch.from_numpy(rows).to(device, non_blocking=device.type == "cuda")
                targets = Targets(epoch_targets.soft[places], epoch_targets.attributes[places])
                mix = draw_mix(len(rows), settings.mixup.probability, settings.mixup.alpha, generator)
                with forward_pass(derive_seed(epoch_seed, "batch", number), device, self.precision):
                    embedding = self.head.embed(inputs)
                    start = None if self.start_outputs is None else self.start_outputs[places]
                    if mix is not None:
                        mix, targets = mix_targets(mix.to(device), targets)
                        embedding = mix.apply(embedding)
                        start = None if start is None else mix.apply(start)
                    output = self.head.classify(embedding, start)
                loss = objective(output, targets)
                (loss * (len(rows) / group_size)).backward()  # type: ignore[no-untyped-call]
                total_loss += loss.detach() * len(rows)
                yield
            if settings.gradient_clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, settings.gradient_clip)
            factor = rate_factor(
                self.progress.stage_epochs * steps + first // settings.accumulate,
                settings.warmup_epochs * steps,
                self._stage.epochs * steps,
                settings.schedule,
            )
            optimizer.param_groups[0]["lr"] = self._stage.learning_rate * factor
            optimizer.step()
        return self._finite(total_loss.item() / len(drawn), "loss")

    def _finite(self, loss: float, name: str) -> float:
        if not math.isfinite(loss):
            reason = why_not_finite(self.fit_source, self.fit_rows) or why_not_finite(
                self.stop_source, self.stop_rows
            )
            raise TrainingError(
                f"{self.task}: the {name} became {loss} in epoch {len(self.progress.history) + 1}; "
                f"{reason or 'a lower learning_rate or another seed may help'}"
            )
        return loss

    def _judge_epoch(self, learning_rate: float, train_loss: float, seconds: float) -> None:
        """Score the stop rows all at once, note the epoch, and keep its weights if it is the best so far."""
        progress = self.progress
        scores = self._scores()
        row = {
            "epoch": len(progress.history) + 1,
            "stage": progress.stage,
            "learning_rate": learning_rate,
            "train_loss": train_loss,
            **scores,
        }
        progress.history.append({**row, "seconds": seconds})
        progress.stage_epochs += 1
        self._keep_if_best(row)
        total = self.settings.stage1.epochs + self.settings.stage2.epochs
        values = {name: row[name] for name in ("epoch", "stage", "train_loss", self.primary.key)}
        values["best"] = progress.best[self.primary.key]
        self.context.listener(Event("advance", self.task, done=row["epoch"], total=total, values=values))

    def _scores(self) -> dict[str, float]:
        """Score the head on the stop rows, all at once."""
        output = predict(self.head, self.stop_source, self.settings.batch_size)
        scores = scores_of_epoch(output, self.stop_rows, self.settings)
        self._finite(scores["stop_loss"], "loss on the stop rows")
        return scores

    def _keep_if_best(self, row: dict[str, float]) -> None:
        """Keep the head's weights if it scores best so far."""
        progress = self.progress
        if progress.best and rank_of_epoch(row) <= rank_of_epoch(progress.best):
            progress.stale_epochs += 1
            return
        progress.best, progress.stale_epochs = dict(row), 0
        self.best_weights = {name: value.detach().clone() for name, value in self.head.state_dict().items()}

    def _save(self, optimizer: torch.optim.Optimizer) -> None:
        tensors = {f"head.{name}": value for name, value in self.head.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_weights.items()}
        tensors |= optimizer_tensors(optimizer, "optimizer.")
        save_tensors(self.state_path, tensors, {"progress": asdict(self.progress)})

    def _resume(self) -> torch.optim.AdamW:
        tensors, description = load_tensors(self.state_path)
        self.progress = Progress(**description["progress"])
        optimizer = self._begin_stage()
        load_optimizer_tensors(optimizer, tensors, "optimizer.")
        self.head.load_state_dict(with_prefix(tensors, "head."))
        self.best_weights = {
            name: value.to(self.device) for name, value in with_prefix(tensors, "best.").items()
        }
        return optimizer
