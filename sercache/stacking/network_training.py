"""Training runs of the neural meta-level, all from one initialisation and side by side."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sercache.evaluation.metrics import log_loss
from sercache.evaluation.primary import MACRO_F1, PrimaryScore
from sercache.evaluation.probabilities import log_probabilities, softmax
from sercache.stacking.network import Network
from sercache.stacking.rows import (
    Floats,
    StackingRows,
    class_weights,
    has_class_target,
    prediction_loss,
    scaled_ratings,
)

CLASS_LOSS_WEIGHT, ATTRIBUTE_LOSS_WEIGHT = 1.5, 0.4
"""MEDUSA, section 3.4: the meta-classifier has the members' loss; attributes are on a scale of 0..1 here."""

_LEARNING_RATE, _LEARNING_RATE_OF_LOGS = 0.01, 0.003
_LARGEST_SHARPNESS = 50.0
_SMALLEST_BATCH = 64
_MOST_STEPS = 256
"""Of an epoch: with more rows batches grow, their gradient is exact enough long before."""


@dataclass(frozen=True)
class RunSettings:
    """How a run is trained; parameters of :class:`sercache.stacking.neural.Neural`."""

    epochs: int
    patience: int
    batch_size: int | None
    learning_rate: float | None
    weight_decay: float
    balance_exponent: float


@dataclass(frozen=True)
class TrainedRun:
    """One run: its best weights, the epoch they are of, and which initialisation it started from."""

    network: Network
    epoch: int
    initialisation: str


@dataclass(frozen=True)
class NetworkScore:
    """The score and the loss of a network on the stopping slice.

    Attributes:
        primary: which score it is.
        score: the primary score of the network.
        loss: log-loss against votes; of attributes alone the squared error.
    """

    primary: PrimaryScore
    score: float
    loss: float

    @property
    def rank(self) -> tuple[float, float]:
        """The score, and among equals the lower loss: larger is better."""
        return self.score, -self.loss

    def as_dict(self) -> dict[str, float]:
        """Return score and loss by name."""
        loss = "log_loss" if self.primary == MACRO_F1 else "squared_error"
        return {self.primary.key: self.score, loss: self.loss}


def evaluate_network(network: Network, rows: StackingRows) -> NetworkScore:
    """Score ``network`` on ``rows``; a score of no rows is 0."""
    truth, prediction = rows.truth, network.predict(rows.inputs)
    score, loss = truth.score(*prediction), prediction_loss(rows, *prediction)
    return NetworkScore(truth.primary, float(np.nan_to_num(score)), float(np.nan_to_num(loss)))


def initial_network(rows: StackingRows, hidden: int, seed: int, *, sees_logs: bool = False) -> Network:
    """Return the soft vote as a network: training starts there.

    The mean of probabilities is no logit: it is multiplied by the sharpness whose softmax fits the votes. The
    mean of logarithms (``sees_logs``) is the vote by geometric means, and has a sharpness too.
    """
    inputs = rows.inputs
    num_members, num_classes, num_attributes = (
        len(inputs.members),
        len(inputs.classes),
        len(inputs.attributes),
    )
    # A member's columns add to the outputs of the same name; extras add nothing.
    block = np.eye(num_classes + num_attributes) / num_members  # (C + A, C + A)
    block[:num_classes] *= _best_sharpness(rows, sees_logs)
    of_members = np.tile(block, (num_members, 1))  # (M * (C + A), C + A)
    vote = np.concatenate([of_members, np.zeros((len(inputs.extras), len(block)))])  # (F, C + A)
    rng = np.random.default_rng(seed)
    bound = 1 / np.sqrt(len(vote))
    return Network(
        vote=vote,
        weight=np.zeros((hidden or len(vote), vote.shape[1])),
        bias=np.zeros(vote.shape[1]),
        hidden_weight=rng.uniform(-bound, bound, (len(vote), hidden)),
        hidden_bias=rng.uniform(-bound, bound, hidden),
        sees_logs=sees_logs,
    )


def train_runs(
    fit: StackingRows,
    stop: StackingRows,
    initial: Network,
    order_seeds: Sequence[int],
    settings: RunSettings,
) -> list[TrainedRun]:
    """Train one run per seed from ``initial``; a run depends on its own seed only, which orders its batches.

    A run keeps the weights of the epoch with the lowest loss on ``stop`` and ends when ``patience`` epochs
    brought none lower. Without rows to stop on it lasts ``patience`` epochs.

    Args:
        fit: rows to learn from.
        stop: rows of other speakers, may be empty.
        initial: where all runs start.
        order_seeds: R of them.
        settings: of every run.
    """
    known = fit.soft_targets[has_class_target(fit)]
    weights = class_weights(known, settings.balance_exponent)
    fit_tensors, stop_tensors = (_Tensors.of(part, initial, weights) for part in (fit, stop))
    batch_size = settings.batch_size or max(_SMALLEST_BATCH, len(fit) // _MOST_STEPS)
    runs = _SideBySide(initial, len(order_seeds), settings, batch_size)
    orders = [np.random.default_rng(seed) for seed in order_seeds]
    lowest = np.full(len(orders), np.inf)
    best_epochs = np.zeros(len(orders), dtype=np.int64)
    best = [initial] * len(orders)
    num_epochs = settings.epochs if len(stop) else min(settings.patience, settings.epochs)
    for epoch in range(1, num_epochs + 1):
        is_running = epoch - best_epochs <= settings.patience
        if not is_running.any():
            break
        runs.learn(fit_tensors, np.stack([rng.permutation(len(fit)) for rng in orders]))
        losses = runs.losses(stop_tensors) if len(stop) else np.full(len(orders), -epoch)
        for run in np.flatnonzero(is_running & (losses < lowest)):
            lowest[run], best_epochs[run], best[run] = losses[run], epoch, runs.network(int(run))
    initialisation = hashlib.sha256(initial.to_bytes()).hexdigest()
    return [TrainedRun(best[run], int(best_epochs[run]), initialisation) for run in range(len(orders))]


class _SideBySide:
    """R runs as one stack of weights; no run's gradient reaches another's."""

    def __init__(self, initial: Network, runs: int, settings: RunSettings, batch_size: int) -> None:
        def stacked(start: Floats) -> Tensor:
            return torch.from_numpy(np.repeat(start[None], runs, axis=0)).requires_grad_()

        self._initial, self._batch_size = initial, batch_size
        self._vote = torch.from_numpy(initial.vote)
        self._weight, self._bias = stacked(initial.weight), stacked(initial.bias)
        self._hidden_weight, self._hidden_bias = stacked(initial.hidden_weight), stacked(initial.hidden_bias)
        groups = [
            {"params": [self._weight, self._hidden_weight], "weight_decay": settings.weight_decay},
            {"params": [self._bias, self._hidden_bias], "weight_decay": 0.0},
        ]
        usual = _LEARNING_RATE_OF_LOGS if initial.sees_logs else _LEARNING_RATE
        self._optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate or usual)

    def learn(self, rows: "_Tensors", orders: NDArray[np.int64]) -> None:
        """Go once through the rows; ``orders`` ``(R, N)`` has the order in which each run sees them."""
        for first in range(0, orders.shape[1], self._batch_size):
            batch = torch.from_numpy(orders[:, first : first + self._batch_size])  # (R, B)
            self._optimizer.zero_grad()
            loss = rows.losses(self._outputs(rows.features[batch]), batch).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()

    def losses(self, rows: "_Tensors") -> Floats:
        """Return the loss of each run, ``(R,)``."""
        runs, count = self._bias.shape[0], len(rows.features)
        all_rows = torch.arange(count).expand(runs, count)  # (R, N)
        with torch.no_grad():
            return np.asarray(rows.losses(self._outputs(rows.features.expand(runs, -1, -1)), all_rows))

    def network(self, run: int) -> Network:
        """Return a copy of one run's weights."""

        def copied(stack: Tensor) -> Floats:
            return np.array(stack.detach()[run].numpy())

        weights = copied(self._weight), copied(self._bias)
        hidden = copied(self._hidden_weight), copied(self._hidden_bias)
        return Network(self._initial.vote, *weights, *hidden, sees_logs=self._initial.sees_logs)

    def _outputs(self, features: Tensor) -> Tensor:
        """Return ``(R, B, C + A)`` of ``(R, B, F)``."""
        body = features
        if not self._initial.is_linear:
            body = torch.relu(features @ self._hidden_weight + self._hidden_bias[:, None])  # (R, B, H)
        return features @ self._vote + body @ self._weight + self._bias[:, None]  # (R, B, C + A)


@dataclass(frozen=True)
class _Tensors:
    """Rows as tensors: ``features`` (N, F), weighted ``votes`` (N, C), ``attributes`` (N, A) 0..1, masks."""

    features: Tensor
    votes: Tensor
    has_votes: Tensor
    attributes: Tensor
    is_rated: Tensor

    @classmethod
    def of(cls, rows: StackingRows, initial: Network, weights: Floats) -> "_Tensors":
        attributes = scaled_ratings(rows)
        return cls(
            torch.from_numpy(initial.features(rows.inputs)),
            torch.from_numpy(np.nan_to_num(rows.soft_targets, nan=0.0) * weights),
            torch.from_numpy(has_class_target(rows).astype(np.float64)),
            torch.from_numpy(np.nan_to_num(attributes, nan=0.0)),
            torch.from_numpy((~np.isnan(attributes)).astype(np.float64)),
        )

    def losses(self, outputs: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of each run, ``(R,)``, of ``outputs`` (R, B, C + A) for ``rows`` (R, B)."""
        num_classes = self.votes.shape[1]
        logs = outputs[..., :num_classes].log_softmax(dim=-1)  # (R, B, C)
        entropies = -(self.votes[rows] * logs).sum(dim=(1, 2))  # (R,)
        class_losses = entropies / self.has_votes[rows].sum(dim=1).clamp_min(1.0)
        is_rated = self.is_rated[rows]  # (R, B, A)
        squares = (outputs[..., num_classes:] - self.attributes[rows]) ** 2 * is_rated  # (R, B, A)
        attribute_losses = squares.sum(dim=(1, 2)) / is_rated.sum(dim=(1, 2)).clamp_min(1.0)  # (R,)
        return CLASS_LOSS_WEIGHT * class_losses + ATTRIBUTE_LOSS_WEIGHT * attribute_losses


def _best_sharpness(rows: StackingRows, sees_logs: bool) -> float:
    from scipy.optimize import minimize_scalar

    known = has_class_target(rows)
    if not known.any():
        return 1.0
    values = rows.inputs.class_probabilities[known]  # (N, M, C)
    if sees_logs:
        values = log_probabilities(values)
    votes, means = rows.soft_targets[known], values.mean(axis=1)  # (N, C), (N, C)
    found = minimize_scalar(
        lambda sharpness: log_loss(votes, softmax(sharpness * means)),
        bounds=(0.0, _LARGEST_SHARPNESS),
        method="bounded",
    )
    return float(found.x)
