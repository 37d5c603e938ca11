"""The training loop: one head, one fold, both of MEDUSA's stages, from top to bottom in this file."""

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sercache.errors import Interrupted, TrainingError
from sercache.evaluation.metrics import macro_f1, uar
from sercache.events import Event, Listener, ignore
from sercache.heads.protocol import Head, HeadOutput
from sercache.interrupts import ShouldStop, never
from sercache.recipe import TrainingRecipe
from sercache.seeds import derive_seed
from sercache.training.balance import class_weights
from sercache.training.batches import FrameSource
from sercache.training.checkpoint import (
    load_optimizer_tensors,
    load_tensors,
    optimizer_tensors,
    save_tensors,
)
from sercache.training.mixup import draw_mix, mix_targets
from sercache.training.objective import Objective, Targets
from sercache.training.rows import LabelledRows
from sercache.training.sampling import balanced_draw, epoch_batches


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
    history: list[dict[str, float]] = field(default_factory=list)


class HeadTraining:
    """Trains one head on the rows of one fold and keeps its best epoch.

    Stage 1 takes all rows, with class weights; stage 2 starts from stage 1's best epoch and takes a fresh
    class-balanced draw every epoch, without class weights, at a lower learning rate (MEDUSA, section 3). Each
    stage has one optimiser, and ends after its epochs or when macro-F1 on the stop rows has not risen for
    ``patience`` of them. Everything random follows from ``seed`` and the epoch's number, so a training that
    is resumed after a finished epoch ends where an uninterrupted one ends, bit for bit.

    Args:
        head: freshly initialised; holds the best epoch's weights afterwards.
        fit: frames and targets to learn from.
        stop: frames and targets that say when to stop; of other speakers than ``fit``.
        settings: the recipe's.
        seed: of this member and fold.
        state_path: where resume state is kept; removed by whoever publishes the result.
        task: the name that events carry.
        listener: told of every epoch.
        should_stop: looked at after every batch.

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
        state_path: Path,
        task: str = "training",
        listener: Listener = ignore,
        should_stop: ShouldStop = never,
    ) -> None:
        self.head = head
        self.fit_source, self.fit_rows = fit
        self.stop_source, self.stop_rows = stop
        self.settings = settings
        self.seed = seed
        self.state_path = state_path
        self.task = task
        self.listener = listener
        self.should_stop = should_stop
        self.device = self.fit_source.device
        if not self.fit_rows.has_target.any():
            raise TrainingError(f"{task}: none of its {len(self.fit_rows)} training rows has a target")
        if not (self.stop_rows.consensus >= 0).any():
            raise TrainingError(f"{task}: none of its {len(self.stop_rows)} stop rows has a consensus class")
        self.fit_targets = self.fit_rows.targets(self.device)
        self.progress = Progress()
        self.best_weights: dict[str, Tensor] = {}

    def run(self) -> Progress:
        """Train to the end, from wherever the resume state left off; the head then has the best weights."""
        self.head.to(self.device)
        optimizer = self._resume() if self.state_path.exists() else self._begin_stage()
        while not (self.progress.stage == 2 and self._stage_is_over()):
            if self._stage_is_over():
                self.progress.stage, self.progress.stage_epochs, self.progress.stale_epochs = 2, 0, 0
                optimizer = self._begin_stage()
                continue
            started = time.monotonic()
            train_loss = self._train_epoch(optimizer)
            self._judge_epoch(train_loss, time.monotonic() - started)
            self._save(optimizer)
        if self.best_weights:
            self.head.load_state_dict(self.best_weights)
        return self.progress

    def _stage_is_over(self) -> bool:
        stage = self.settings.stage1 if self.progress.stage == 1 else self.settings.stage2
        is_out_of_patience = self.progress.stale_epochs >= self.settings.patience
        return self.progress.stage_epochs >= stage.epochs or is_out_of_patience

    def _begin_stage(self) -> torch.optim.AdamW:
        if self.best_weights:
            self.head.load_state_dict(self.best_weights)
        stage = self.settings.stage1 if self.progress.stage == 1 else self.settings.stage2
        return torch.optim.AdamW(
            self.head.parameters(), lr=stage.learning_rate, weight_decay=self.settings.weight_decay
        )

    def _train_epoch(self, optimizer: torch.optim.Optimizer) -> float:
        """Take one pass over this epoch's rows; return the mean loss of a row."""
        settings, device = self.settings, self.device
        epoch_seed = derive_seed(self.seed, "epoch", len(self.progress.history))
        generator = np.random.default_rng(epoch_seed)
        drawn = self._draw(generator)
        lengths = self.fit_source.lengths[drawn]
        batches = [drawn[batch] for batch in epoch_batches(lengths, settings.batch_size, generator)]
        inputs_of = self.fit_source.batches(batches, settings.max_frames, generator)
        objective = self._objective()
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=_uses_bfloat16(settings, device))
        total_loss = torch.zeros((), device=device)
        self.head.train()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(epoch_seed)
            for first in range(0, len(batches), settings.accumulate):
                group = batches[first : first + settings.accumulate]
                group_size = sum(map(len, group))
                optimizer.zero_grad(set_to_none=True)
                for rows in group:
                    if self.should_stop():
                        raise Interrupted(f"{self.task}: stopped in epoch {len(self.progress.history) + 1}")
                    inputs = next(inputs_of)
                    places = torch.from_numpy(rows).to(device, non_blocking=device.type == "cuda")
                    targets = Targets(self.fit_targets.soft[places], self.fit_targets.attributes[places])
                    mix = draw_mix(len(rows), settings.mixup.probability, settings.mixup.alpha, generator)
                    with autocast:
                        embedding = self.head.embed(inputs)
                        if mix is not None:
                            kept, targets = mix_targets(mix.to(device), targets)
                            embedding = kept.apply(embedding)
                        output = self.head.classify(embedding)
                    loss = objective(output, targets)
                    (loss * (len(rows) / group_size)).backward()  # type: ignore[no-untyped-call]
                    total_loss += loss.detach() * len(rows)
                if settings.gradient_clip is not None:
                    torch.nn.utils.clip_grad_norm_(self.head.parameters(), settings.gradient_clip)
                optimizer.step()
        return self._finite(total_loss.item() / len(drawn), "loss")

    def _finite(self, loss: float, name: str) -> float:
        if not math.isfinite(loss):
            raise TrainingError(
                f"{self.task}: the {name} became {loss} in epoch {len(self.progress.history) + 1}; "
                "a lower learning_rate or another seed may help"
            )
        return loss

    def _draw(self, generator: np.random.Generator) -> NDArray[np.int64]:
        usable = np.flatnonzero(self.fit_rows.has_target)
        if self.progress.stage == 1:
            return usable
        consensus = self.fit_rows.consensus[usable]
        num_classes = self.fit_rows.soft.shape[1]
        return usable[balanced_draw(consensus, num_classes, self.settings.no_agreement_share, generator)]

    def _objective(self) -> Objective:
        settings, weights = self.settings, None
        if self.progress.stage == 1 and settings.balance_exponent:
            balanced = class_weights(self.fit_rows.soft, settings.balance_exponent)
            weights = torch.from_numpy(balanced).to(self.device, torch.float32)
        return Objective(
            settings.class_loss,
            settings.attribute_loss,
            settings.class_weight,
            settings.attribute_weight,
            weights,
        )

    def _judge_epoch(self, train_loss: float, seconds: float) -> None:
        """Score the stop rows all at once, note the epoch, and keep its weights if it is the best so far."""
        progress = self.progress
        output = predict(self.head, self.stop_source, self.settings.batch_size)
        labelled = self.stop_rows.consensus >= 0
        labels = self.stop_rows.consensus[labelled]
        predicted = output.logits.argmax(dim=1).numpy()[labelled]
        num_classes = output.logits.shape[1]
        unweighted = Objective(
            self.settings.class_loss,
            self.settings.attribute_loss,
            self.settings.class_weight,
            self.settings.attribute_weight,
        )
        stop_loss = unweighted(output, self.stop_rows.targets(torch.device("cpu"))).item()
        stage = self.settings.stage1 if progress.stage == 1 else self.settings.stage2
        row = {
            "epoch": len(progress.history) + 1,
            "stage": progress.stage,
            "learning_rate": stage.learning_rate,
            "train_loss": train_loss,
            "stop_loss": self._finite(stop_loss, "loss on the stop rows"),
            "macro_f1": macro_f1(labels, predicted, num_classes),
            "uar": uar(labels, predicted, num_classes),
        }
        progress.history.append({**row, "seconds": seconds})
        progress.stage_epochs += 1
        if not progress.best or _rank(row) > _rank(progress.best):
            progress.best, progress.stale_epochs = dict(row), 0
            self.best_weights = {
                name: value.detach().clone() for name, value in self.head.state_dict().items()
            }
        else:
            progress.stale_epochs += 1
        total = self.settings.stage1.epochs + self.settings.stage2.epochs
        values = {name: row[name] for name in ("epoch", "stage", "train_loss", "macro_f1")}
        values["best"] = progress.best["macro_f1"]
        self.listener(Event("advance", self.task, done=row["epoch"], total=total, values=values))

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
        self.head.load_state_dict(_with_prefix(tensors, "head."))
        self.best_weights = {
            name: value.to(self.device) for name, value in _with_prefix(tensors, "best.").items()
        }
        return optimizer


@torch.no_grad()
def predict(head: Head, source: FrameSource, batch_size: int) -> HeadOutput:
    """Return logits ``(N, C)`` and attributes ``(N, A)`` of all utterances of ``source``, on the CPU."""
    head.eval()
    if not source.ids:
        num_attributes = len(head.get_buffer("attribute_low"))
        return HeadOutput(torch.empty(0, head.class_output.out_features), torch.empty(0, num_attributes))
    order = np.argsort(source.lengths, kind="stable")
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    outputs = [head(inputs) for inputs in source.batches(batches)]
    back = torch.from_numpy(np.argsort(order, kind="stable"))
    return HeadOutput(
        torch.cat([output.logits for output in outputs]).float().cpu()[back],
        torch.cat([output.attributes for output in outputs]).float().cpu()[back],
    )


def _rank(row: dict[str, float]) -> tuple[float, float]:
    return (row["macro_f1"], -row["stop_loss"])


def _uses_bfloat16(settings: TrainingRecipe, device: torch.device) -> bool:
    if settings.precision == "auto":
        return device.type == "cuda"
    return settings.precision == "bfloat16"


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
