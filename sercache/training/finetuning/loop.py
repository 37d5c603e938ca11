"""The loop of fine-tuning: a head and the top of its encoders, one fold, both stages, on any devices.

What one step of the optimiser learns from follows from the recipe alone. Its rows are cut into micro-batches,
which are dealt over the processes; each has its own random numbers, and counts by its rows. So the sum of
their gradients is the same on one process and on several, up to rounding.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sercache.errors import Interrupted, TrainingError
from sercache.events import QUIET, Context, Event
from sercache.heads.protocol import Head, HeadOutput
from sercache.recipe import FinetuningRecipe, TrainingRecipe
from sercache.seeds import derive_seed
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
from sercache.training.finetuning.clips import Clips, Prepared
from sercache.training.finetuning.processes import Gradients, Processes, StepNews, Told
from sercache.training.history import History
from sercache.training.loop import Progress
from sercache.training.mixing import draw_mix, draw_modalities, mask_modalities, mix_targets
from sercache.training.objective import Objective, Targets
from sercache.training.rows import LabelledRows, epoch_batches
from sercache.training.schedule import rate_factor


@dataclass
class FinetuningProgress(Progress):
    """Where fine-tuning is.

    Attributes:
        steps: steps of the optimiser finished in the epoch under way.
        loss: sum over their rows of the losses.
        rows: how many rows those are.
        seconds: that the epoch under way has taken.
    """

    steps: int = 0
    loss: float = 0.0
    rows: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class _MicroBatch:
    """Rows that go through the encoders at once: ``number`` among the micro-batches of their step."""

    step: int
    number: int
    rows: NDArray[np.int64]


class Finetuning:
    """Trains a head and the top of its encoders on one fold, and keeps the best epoch.

    The stages are those of :class:`~sercache.training.loop.HeadTraining`, with the same objective, draws and
    MixUp. The warm start counts as an epoch, number 0: what is kept is never worse on the stop rows. A
    training that was interrupted, within an epoch too, ends where an uninterrupted one ends, bit for bit.

    Args:
        head: with the weights that it starts from; holds the best epoch's afterwards, as the encoders do.
        fit: clips and targets to learn from.
        stop: clips and targets that say when to stop; of other speakers than ``fit``.
        settings: of fine-tuning.
        member: how the member was trained: objective, class balance, MixUp, weight decay, clipping.
        processes: that work together.
        seed: of this member and fold.
        stream_seed: of the rows' order and of stage 2's draws.
        state_path: where resume state is kept; removed by whoever publishes the result.
        task: the name that events carry.
        log: given the history after every epoch.
        context: receives events, and says when to stop.

    Raises:
        TrainingError: there is nothing to learn from or to stop on.
    """

    def __init__(
        self,
        head: Head,
        fit: tuple[Clips, LabelledRows],
        stop: tuple[Clips, LabelledRows],
        settings: FinetuningRecipe,
        member: TrainingRecipe,
        processes: Processes,
        *,
        seed: int,
        stream_seed: int,
        state_path: Path,
        task: str = "finetuning",
        log: Callable[[History], None] = lambda history: None,
        context: Context = QUIET,
    ) -> None:
        self.device = processes.device
        self.head = head.to(self.device)
        self.fit_clips, self.fit_rows = fit
        self.stop_clips, self.stop_rows = stop
        self.settings, self.member = settings, member
        self.processes = processes
        self.seed, self.stream_seed = seed, stream_seed
        self.state_path = state_path
        self.task = task
        self.log = log
        self.context = context
        if not self.fit_rows.has_target.any():
            raise TrainingError(f"{task}: none of its {len(self.fit_rows)} training rows has a target")
        self.primary = self.stop_rows.truth.primary
        if not self.stop_rows.truth.is_scored.any():
            raise TrainingError(
                f"{task}: none of its {len(self.stop_rows)} stop rows has {self.primary.needs}"
            )
        self.live = list(self.fit_clips.live.values())
        self.precision = self.live[0].precision
        self.progress = FinetuningProgress()
        self.best_weights: dict[str, Tensor] = {}
        trained = [parameter for live in self.live for parameter in live.trained.parameters().values()]
        self._gradients = Gradients([*self.head.parameters(), *trained])
        self._saved = time.monotonic()
        drawn = rows_of_epoch(self.fit_rows, self.fit_clips.source.ranks(0), 2, member)
        self._stage2_steps = math.ceil(len(drawn) / settings.batch_size)

    def run(self) -> FinetuningProgress:
        """Train to the end, from wherever the resume state left off.

        Raises:
            TrainingError: the loss is no longer finite, or a recording cannot be read.
            Interrupted: it was asked to stop; the next call goes on from the last finished step.
        """
        optimizer = self._resume() if self.state_path.exists() else self._begin_stage()
        progress = self.progress
        self.processes.wait()
        if not progress.history:
            self._judge_epoch(math.nan)
        while not (progress.stage == 2 and self._stage_is_over()):
            if self._stage_is_over():
                progress.stage, progress.stage_epochs, progress.stale_epochs = 2, 0, 0
                optimizer = self._begin_stage()
                continue
            train_loss = self._train_epoch(optimizer)
            try:
                self._judge_epoch(train_loss)
            except Interrupted:
                self._save(optimizer)
                raise
            progress.steps, progress.loss, progress.rows, progress.seconds = 0, 0.0, 0, 0.0
            self._save(optimizer)
            self.log(progress.history)
        self._load(self.best_weights)
        return progress

    def predict(self, clips: Clips) -> HeadOutput:
        """Return logits ``(N, C)`` and attributes ``(N, A)`` of whole utterances, on the CPU.

        The processes share the work, and all get all of it.
        """
        self.head.eval()
        for live in self.live:
            live.trained.train(False)
        batches = clips.batches(np.arange(len(clips.ids)), whole=True)
        mine = batches[self.processes.rank :: self.processes.count]
        num_classes = self.head.num_classes
        width = num_classes + len(self.head.get_buffer("attribute_low"))
        said = torch.zeros(len(clips.ids), width, device=self.device)
        with torch.no_grad():
            for rows, inputs in zip(mine, clips.inputs_to_judge(mine), strict=True):
                if self.processes.count == 1 and self.context.should_stop():
                    raise Interrupted(f"{self.task}: stopped while predicting")
                said[torch.from_numpy(rows).to(self.device)] = torch.cat(self.head(inputs), dim=1).float()
        said = self.processes.add(said).cpu()
        return HeadOutput(said[:, :num_classes], said[:, num_classes:])

    def _stage_is_over(self) -> bool:
        stage = self.settings.stage1 if self.progress.stage == 1 else self.settings.stage2
        is_out_of_patience = self.progress.stale_epochs >= self.settings.patience
        return self.progress.stage_epochs >= stage.epochs or is_out_of_patience

    def _begin_stage(self) -> torch.optim.AdamW:
        if self.best_weights:
            self._load(self.best_weights)
        encoder_rate, head_rate = self.settings.learning_rates(self.progress.stage)
        groups = [{"params": list(self.head.parameters()), "lr": head_rate}]
        for live in self.live:
            groups += live.trained.groups(encoder_rate, self.settings.layer_decay)
        optimizer = torch.optim.AdamW(groups, weight_decay=self.member.weight_decay, fused=True)
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
        return optimizer

    def _train_epoch(self, optimizer: torch.optim.Optimizer) -> float:
        """Take this epoch's steps that are left; return the mean loss of a row over all of them."""
        progress, settings = self.progress, self.settings
        epoch_seed = derive_seed(self.seed, "epoch", len(progress.history))
        steps = self._steps(progress.stage, derive_seed(self.stream_seed, "epoch", len(progress.history)))
        mine = [
            micro
            for step in range(progress.steps, len(steps))
            for micro in self._micro_batches(step, steps[step])[self.processes.rank :: self.processes.count]
        ]
        prepared = self.fit_clips.read_to_learn([micro.rows for micro in mine], epoch_seed)
        waiting = iter(mine)
        micro = next(waiting, None)
        objective = objective_of_stage(self.fit_rows, progress.stage, self.member, self.device)
        generator = np.random.default_rng(epoch_seed)
        targets = targets_of_epoch(self.fit_rows, self.member, generator, self.device)
        stage = settings.stage1 if progress.stage == 1 else settings.stage2
        total_steps = len(steps) * stage.epochs
        warmup_steps = settings.warmup_share * total_steps
        self._set_training()
        news = StepNews()
        began = time.monotonic() - progress.seconds
        try:
            for step in range(progress.steps, len(steps)):
                self._gradients.clear()
                loss = torch.zeros((), device=self.device)
                while micro is not None and micro.step == step:
                    if self.processes.count == 1 and self.context.should_stop():
                        self._note(news.rest())
                        self._stop(optimizer)
                    share = len(micro.rows) / len(steps[step])
                    loss += self._learn(micro, next(prepared), targets, objective, epoch_seed, share)
                    micro = next(waiting, None)
                # All processes learn of both wishes in the same step, and act on them in the same step.
                wants_stop = self.processes.count > 1 and self.context.should_stop()
                is_due = time.monotonic() - self._saved > 60 * settings.checkpoint_minutes
                wishes = [float(wants_stop), float(is_due and self.processes.is_first)]
                told = torch.cat([loss.view(1), torch.tensor(wishes).to(loss, non_blocking=True)])
                told = self._gradients.add_up(self.processes, told)
                self._gradients.clip(self.member.gradient_clip)
                done = progress.stage_epochs * len(steps) + step
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * rate_factor(done, warmup_steps, total_steps)
                optimizer.step()
                progress.steps, progress.seconds = step + 1, time.monotonic() - began
                heard = news.exchange(told, len(steps[step]))
                if any(one.stops or one.saves for one in heard):
                    heard += news.rest()
                self._note(heard)
                self._tell(len(steps))
                must_stop = any(one.stops for one in heard)
                if must_stop or any(one.saves for one in heard):
                    self._save(optimizer)
                if must_stop:
                    raise self._interrupted()
            self._note(news.rest())
        finally:
            prepared.close()
        return progress.loss / progress.rows

    def _steps(self, stage: int, stream_seed: int) -> list[NDArray[np.int64]]:
        """Return the rows of each step of an epoch."""
        ranks = self.fit_clips.source.ranks(stream_seed)
        drawn = rows_of_epoch(self.fit_rows, ranks, stage, self.member)
        order = np.random.default_rng(stream_seed)
        lengths = self.fit_clips.lengths[drawn]
        return [drawn[rows] for rows in epoch_batches(lengths, ranks[drawn], self.settings.batch_size, order)]

    def _micro_batches(self, step: int, rows: NDArray[np.int64]) -> list[_MicroBatch]:
        return [_MicroBatch(step, number, its) for number, its in enumerate(self.fit_clips.batches(rows))]

    def _learn(
        self,
        micro: _MicroBatch,
        prepared: Prepared,
        targets: Targets,
        objective: Objective,
        epoch_seed: int,
        share: float,
    ) -> Tensor:
        """Add ``share`` times the gradients of a micro-batch; return ``share`` times its loss."""
        rows = micro.rows
        seed = derive_seed(epoch_seed, "step", micro.step, "micro-batch", micro.number)
        generator = np.random.default_rng(seed)
        places = torch.from_numpy(rows).to(self.device, non_blocking=self.device.type == "cuda")
        wanted = Targets(targets.soft[places], targets.attributes[places])
        with forward_pass(seed, self.device, self.precision):
            inputs = self.fit_clips.inputs_to_learn(rows, prepared, self.member.max_frames, seed)
            if self.member.modality_dropout and len(inputs) > 1:
                present = self.fit_clips.frame_counts[rows] > 0
                inputs = mask_modalities(
                    inputs, draw_modalities(present, self.member.modality_dropout, generator)
                )
            embedding = self.head.embed(inputs)
            mixup = self.member.mixup
            mix = draw_mix(len(rows), mixup.probability, mixup.alpha, generator)
            if mix is not None:
                mix, wanted = mix_targets(mix.to(self.device), wanted)
                embedding = mix.apply(embedding)
            output = self.head.classify(embedding)
        loss = objective(output, wanted) * share
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _set_training(self) -> None:
        self.head.train()
        for live in self.live:
            live.trained.train()

    def _note(self, news: list[Told]) -> None:
        """Take in what became known of finished steps."""
        for told in news:
            self._finite(told.loss, "loss")
            self.progress.loss += told.loss * told.rows
            self.progress.rows += told.rows

    def _stop(self, optimizer: torch.optim.Optimizer) -> None:
        self._save(optimizer)
        raise self._interrupted()

    def _interrupted(self) -> Interrupted:
        return Interrupted(f"{self.task}: stopped in epoch {len(self.progress.history)}")

    def _finite(self, loss: float, name: str) -> None:
        if not math.isfinite(loss):
            cached = self.fit_clips.cached_source
            reason = why_not_finite(cached, self.fit_rows) if cached is not None else ""
            raise TrainingError(
                f"{self.task}: the {name} became {loss} in epoch {len(self.progress.history)}; "
                f"{reason or 'lower encoder_learning_rate and head_learning_rate, or use precision float32'}"
            )

    def _judge_epoch(self, train_loss: float) -> None:
        """Score the stop rows whole, note the epoch, and keep its weights if it is the best so far."""
        progress, began = self.progress, time.monotonic()
        number = len(progress.history)
        scores = scores_of_epoch(self.predict(self.stop_clips), self.stop_rows, self.member)
        self._finite(scores["stop_loss"], "loss on the stop rows")
        row = {
            "epoch": number,
            "stage": progress.stage,
            "learning_rate": self.settings.learning_rates(progress.stage)[0] if number else 0.0,
            "train_loss": train_loss,
            **scores,
        }
        seconds = progress.seconds + time.monotonic() - began
        progress.history.append({**row, "seconds": seconds})
        progress.stage_epochs += number > 0
        if not progress.best or rank_of_epoch(row) > rank_of_epoch(progress.best):
            progress.best, progress.stale_epochs = dict(row), 0
            self.best_weights = {name: value.detach().clone() for name, value in self._tensors().items()}
        else:
            progress.stale_epochs += 1
        self._tell_epoch(row)

    def _tell_epoch(self, row: dict[str, float]) -> None:
        values = {name: row[name] for name in ("epoch", "stage", self.primary.key)}
        trained = f"epoch {row['epoch']} (stage {row['stage']}), loss {row['train_loss']:.4g}"
        what = trained if row["epoch"] else "as it starts"
        message = f"{self.task}: {what}: {self.primary.name} {row[self.primary.key]:.3f} on its stop rows"
        best = {"best": self.progress.best[self.primary.key]}
        self.context.listener(Event("note", self.task, message=message, values=values | best))

    def _tell(self, steps: int) -> None:
        """Tell how far this is; a stage that ends early makes it shorter."""
        progress, settings = self.progress, self.settings
        done = progress.stage_epochs * steps + progress.steps
        if progress.stage == 1:
            total = settings.stage1.epochs * steps + settings.stage2.epochs * self._stage2_steps
        else:
            total = settings.stage2.epochs * steps
        values: dict[str, float] = {"epoch": len(progress.history), "stage": progress.stage}
        if progress.rows:
            values["loss"] = progress.loss / progress.rows
        self.context.listener(Event("advance", self.task, done=done, total=total, values=values))

    def _tensors(self) -> dict[str, Tensor]:
        """Return all that training changes, and the head's buffers, by name."""
        tensors = {f"head.{name}": value for name, value in self.head.state_dict().items()}
        for live in self.live:
            its = live.trained.parameters().items()
            tensors |= {f"encoder.{live.name}.{name}": value.detach() for name, value in its}
        return tensors

    def _load(self, tensors: dict[str, Tensor]) -> None:
        self.head.load_state_dict(with_prefix(tensors, "head."))
        for live in self.live:
            live.trained.load(with_prefix(tensors, f"encoder.{live.name}."))

    def _save(self, optimizer: torch.optim.Optimizer) -> None:
        self._saved = time.monotonic()
        if self.processes.is_first:
            tensors = {f"now.{name}": value for name, value in self._tensors().items()}
            tensors |= {f"best.{name}": value for name, value in self.best_weights.items()}
            tensors |= optimizer_tensors(optimizer, "optimizer.")
            save_tensors(self.state_path, tensors, {"progress": asdict(self.progress)})

    def _resume(self) -> torch.optim.AdamW:
        tensors, description = load_tensors(self.state_path)
        self.progress = FinetuningProgress(**description["progress"])
        optimizer = self._begin_stage()
        load_optimizer_tensors(optimizer, tensors, "optimizer.")
        self._load(with_prefix(tensors, "now."))
        best = with_prefix(tensors, "best.")
        self.best_weights = {name: value.to(self.device) for name, value in best.items()}
        return optimizer
