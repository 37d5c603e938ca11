"""One epoch of either stage: which rows it takes, what it minimises, and how it is scored."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from sercache.evaluation.metrics import macro_f1, mean_ccc, uar
from sercache.evaluation.primary import MEAN_CCC, primary_in
from sercache.heads.protocol import HeadOutput
from sercache.recipe import TrainingRecipe
from sercache.training.losses import class_weights
from sercache.training.objective import Objective, Targets, objective_of
from sercache.training.rows import LabelledRows, balanced_draw


@contextmanager
def forward_pass(seed: int, device: torch.device, precision: str) -> Iterator[None]:
    """Compute a batch in a precision, with random numbers for dropout that nobody else notices.

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
        ranks: ``(N,)`` each row's place in this epoch's random order.
        stage: 1 or 2.
        settings: of the member.
    """
    drawn = np.flatnonzero(rows.has_target)
    if stage == 2:
        consensus, num_classes = rows.consensus[drawn], rows.soft.shape[1]
        drawn = drawn[balanced_draw(consensus, ranks[drawn], num_classes, settings.no_agreement_share)]
    return drawn


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
