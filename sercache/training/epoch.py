"""One epoch of either stage: its rows, learning rate, precision and objective, and how it is scored."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sercache.devices import computes_in_bfloat16
from sercache.evaluation.metrics import macro_f1, mean_ccc, uar
from sercache.evaluation.primary import MEAN_CCC, primary_in
from sercache.heads.protocol import HeadOutput
from sercache.recipe import Schedule, TrainingRecipe
from sercache.training.losses import class_weights
from sercache.training.objective import Objective, Targets, objective_of
from sercache.training.rows import LabelledRows, balanced_draw


def precision_of(settings: TrainingRecipe, device: torch.device) -> Literal["float32", "bfloat16"]:
    """Return what products are computed in; weights, sums and losses stay in float32 (autocast).

    ``auto`` is bfloat16 on a GPU that has units for it. On a CPU it is float32: whether bfloat16 is faster
    there depends on machine and head (``docs/explanation/measured.md``), so a recipe has to ask for it.
    """
    if settings.precision != "auto":
        return settings.precision
    return "bfloat16" if computes_in_bfloat16(str(device)) else "float32"


@contextmanager
def forward_pass(seed: int, device: torch.device, precision: str) -> Iterator[None]:
    """Compute a batch in a precision, with random numbers for dropout of its own.

    Args:
        seed: of this batch alone, so that it does not matter what was computed before.
        device: where it is computed.
        precision: ``bfloat16`` (autocast) or ``float32``.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            yield


def rows_of_epoch(
    rows: LabelledRows, ranks: NDArray[np.int64], stage: int, settings: TrainingRecipe
) -> NDArray[np.int64]:
    """Return the rows that have a target; in stage 2 a class-balanced draw of them, by their ranks.

    Args:
        rows: N to learn from.
        ranks: ``(N,)`` each row's rank in this epoch's random order.
        stage: 1 or 2.
        settings: of the member.
    """
    drawn = np.flatnonzero(rows.has_target)
    if stage == 2:
        consensus, num_classes = rows.consensus[drawn], rows.soft.shape[1]
        drawn = drawn[balanced_draw(consensus, ranks[drawn], num_classes, settings.no_agreement_share)]
    return drawn


def rate_factor(step: int, warmup_steps: float, total_steps: int, schedule: Schedule = "constant") -> float:
    """Return what a stage's learning rate is multiplied by in one step of the optimiser, in (0, 1].

    Args:
        step: number of the step in its stage, from 0.
        warmup_steps: over which the factor rises linearly; up to 1 there is no warm-up.
        total_steps: of the stage, if it is not ended early.
        schedule: after the warm-up, ``constant`` stays at 1, ``cosine`` falls from 1 to 0 (Loshchilov and
            Hutter 2017, without restarts); 0 would be reached in the step after the last.

    >>> [round(rate_factor(step, 2, 6, "cosine"), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup_steps:
        return min(1.0, (step + 1) / max(warmup_steps, 1.0))
    if schedule == "constant":
        return 1.0
    return (1.0 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps))) / 2.0


def objective_of_stage(
    rows: LabelledRows, stage: int, settings: TrainingRecipe, device: torch.device
) -> Objective:
    """Return what a stage minimises: with class weights in stage 1, without them in stage 2."""
    weights = None
    if stage == 1 and settings.balance_exponent:
        balanced = class_weights(
            rows.soft, settings.balance_exponent, settings.class_weighting, **settings.class_weighting_options
        )
        weights = torch.from_numpy(balanced).to(device, torch.float32)
    return objective_of(settings, weights)


def targets_of_epoch(
    rows: LabelledRows, settings: TrainingRecipe, generator: np.random.Generator, device: torch.device
) -> Targets:
    """Return an epoch's targets of all rows, on the device; with annotator dropout where it is set."""
    share = settings.annotator_dropout
    return (rows.without_some_raters(share, generator) if share else rows).targets(device)


def scores_of_epoch(output: HeadOutput, rows: LabelledRows, settings: TrainingRecipe) -> dict[str, float]:
    """Return ``stop_loss``, the primary score and, with classes, ``uar`` of an output on the stop rows.

    The output is on the CPU.
    """
    loss = objective_of(settings)(output, rows.targets(torch.device("cpu"))).item()
    truth = rows.truth
    if not truth.num_classes:
        return {"stop_loss": loss, MEAN_CCC.key: mean_ccc(truth.attributes, output.attributes.numpy())}
    labels = truth.labels[truth.is_scored]
    predicted = output.logits.argmax(dim=1).numpy()[truth.is_scored]
    return {
        "stop_loss": loss,
        "macro_f1": macro_f1(labels, predicted, truth.num_classes),
        "uar": uar(labels, predicted, truth.num_classes),
    }


def rank_of_epoch(row: dict[str, float]) -> tuple[float, float]:
    """Return what is highest of the best epoch: its primary score, then the loss on the stop rows negated."""
    score = row[primary_in(row).key]
    return (-math.inf if math.isnan(score) else score, -row["stop_loss"])
