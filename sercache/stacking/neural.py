"""The neural meta-classifier, and the soup of several of its runs (Wortsman et al. 2022)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from sercache.errors import StackingError
from sercache.evaluation.primary import MACRO_F1, primary_in
from sercache.seeds import derive_seed
from sercache.stacking.base import Prediction, SavedStacker, Stacker
from sercache.stacking.network import Network
from sercache.stacking.network_training import (
    RunSettings,
    TrainedRun,
    evaluate_network,
    initial_network,
    train_runs,
)
from sercache.stacking.rows import StackingInputs, StackingRows, stopping_slice

_WEIGHTS = "weights.safetensors"


class Neural(Stacker):
    """A linear network over the members' posteriors (MEDUSA, section 3.4); ``hidden`` makes it an MLP.

    Soft targets, attributes beside classes, class weights, AdamW; it starts as the soft vote and stops early
    on an inner slice of other speakers. ``docs/explanation/measured.md`` has its inputs and rates compared.

    Args:
        hidden: width of a hidden layer; 0 is the paper's linear meta-classifier.
        epochs: at most.
        patience: epochs without a lower loss on the slice before a run ends.
        batch_size: None: 64, or more where an epoch would have over 256 steps.
        inputs: the members' class probabilities, as the paper's reads, or their logarithms.
        learning_rate: None: 0.01, or 0.003 for logarithms, which vary more.
        weight_decay: of AdamW; pulls towards the soft vote.
        balance_exponent: of the class weights.
        inner_share: share of the rows, of speakers of their own, that early stopping looks at.
        seed: of everything random in ``fit``.
    """

    name = "neural"
    recipe_section = "neural"
    network_: Network
    epoch_: int

    def __init__(
        self,
        *,
        hidden: int = 0,
        epochs: int = 200,
        patience: int = 20,
        batch_size: int | None = None,
        inputs: Literal["probabilities", "log"] = "probabilities",
        learning_rate: float | None = None,
        weight_decay: float = 0.01,
        balance_exponent: float = 0.5,
        inner_share: float = 0.15,
        seed: int = 0,
    ) -> None:
        self.hidden, self.epochs, self.patience, self.batch_size = hidden, epochs, patience, batch_size
        self.inputs, self.learning_rate, self.weight_decay = inputs, learning_rate, weight_decay
        self.balance_exponent, self.inner_share, self.seed = balance_exponent, inner_share, seed

    def fit_arranged(self, rows: StackingRows) -> None:
        """Train one run."""
        (run,), _ = self.train_runs(rows, 1)
        self.network_, self.epoch_ = run.network, run.epoch
        self.shares_ = run.network.shares(rows.inputs)

    def train_runs(self, rows: StackingRows, count: int) -> tuple[list[TrainedRun], StackingRows]:
        """Train ``count`` runs from one initialisation, each with its own order of batches.

        Returns:
            The runs, and the rows they stopped on.
        """
        fit, stop = stopping_slice(rows, self.inner_share, derive_seed(self.seed, "stop"))
        start = derive_seed(self.seed, "initialisation")
        initial = initial_network(fit, self.hidden, start, sees_logs=self.inputs == "log")
        orders = [derive_seed(self.seed, "order", run) for run in range(count)]
        settings = RunSettings(
            self.epochs,
            self.patience,
            self.batch_size,
            self.learning_rate,
            self.weight_decay,
            self.balance_exponent,
        )
        return train_runs(fit, stop, initial, orders, settings), stop

    def predict_arranged(self, inputs: StackingInputs) -> Prediction:
        """Return the prediction of the network."""
        return self.network_.predict(inputs)

    def learned(self) -> dict[str, Any]:
        """Return the epoch that the weights are of, the shares, and whether the network reads logarithms."""
        return {"epoch": self.epoch_, "shares": self.shares_, "sees_logs": self.network_.sees_logs}

    def files(self) -> dict[str, bytes]:
        """Return the weights."""
        return {_WEIGHTS: self.network_.to_bytes()}

    def restore(self, saved: SavedStacker) -> None:
        """Set the network and its epoch."""
        self._restore_network(saved)
        self.epoch_ = saved.learned["epoch"]

    def _restore_network(self, saved: SavedStacker) -> None:
        self.shares_ = dict(saved.learned["shares"])
        self.network_ = Network.from_bytes(saved.files[_WEIGHTS], sees_logs=saved.learned["sees_logs"])


_BARRIER_STEPS = 11


class Soup(Neural):
    """The better of the uniform and the greedy soup, if it does not lose to its best run on held-out rows.

    The runs start from one initialisation and differ in the order of their batches (MEDUSA averages six); the
    held-out rows are the slice of other speakers on which the runs stopped.

    Args:
        runs: how many.
        hidden, epochs, patience, batch_size, inputs, learning_rate, weight_decay, balance_exponent,
            inner_share, seed: of :class:`Neural`.

    Attributes:
        composition_: what was kept, of which runs, their scores and barriers (:func:`choose_soup`).
    """

    name = "soup"
    composition_: dict[str, object]

    def __init__(
        self,
        *,
        runs: int = 6,
        hidden: int = 0,
        epochs: int = 200,
        patience: int = 20,
        batch_size: int | None = None,
        inputs: Literal["probabilities", "log"] = "probabilities",
        learning_rate: float | None = None,
        weight_decay: float = 0.01,
        balance_exponent: float = 0.5,
        inner_share: float = 0.15,
        seed: int = 0,
    ) -> None:
        super().__init__(
            hidden=hidden,
            epochs=epochs,
            patience=patience,
            batch_size=batch_size,
            inputs=inputs,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            balance_exponent=balance_exponent,
            inner_share=inner_share,
            seed=seed,
        )
        self.runs = runs

    def fit_arranged(self, rows: StackingRows) -> None:
        """Train the runs and choose what to average."""
        trained, stop = self.train_runs(rows, self.runs)
        self.network_, self.composition_ = choose_soup(trained, stop)
        self.shares_ = self.network_.shares(rows.inputs)

    def learned(self) -> dict[str, Any]:
        """Return the composition, the shares, and whether the network reads logarithms."""
        return {"recipe": self.composition_, "shares": self.shares_, "sees_logs": self.network_.sees_logs}

    def restore(self, saved: SavedStacker) -> None:
        """Set the network and the composition."""
        self._restore_network(saved)
        self.composition_ = dict(saved.learned["recipe"])


def average_runs(runs: Sequence[TrainedRun]) -> Network:
    """Return the network whose weights are the mean of the runs'.

    For linear networks its logits are exactly the mean of their logits.

    Raises:
        StackingError: the runs have a hidden layer and no common initialisation: their hidden units do not
            correspond, and the mean of their weights means nothing.
    """
    if not all(run.network.is_linear for run in runs) and len({run.initialisation for run in runs}) > 1:
        raise StackingError(
            "a soup of runs with a hidden layer needs one initialisation for all: their hidden units do not "
            "correspond; train them from one initialisation, or set stacking.neural.hidden to 0"
        )
    return Network.average([run.network for run in runs])


def barrier(first: Network, second: Network, rows: StackingRows) -> float:
    """Return how far the loss rises above the straight line on the way from one network to the other.

    The loss is that of :class:`~sercache.stacking.network_training.NetworkScore`.

    Zero or less: the two lie in one basin, and the mean of their weights is as good as they are (Frankle et
    al. 2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis", section 2).
    """
    steps = np.linspace(0.0, 1.0, _BARRIER_STEPS)
    losses = [evaluate_network(Network.between(first, second, step), rows).loss for step in steps.tolist()]
    return float(np.max(np.asarray(losses) - np.interp(steps, [0.0, 1.0], [losses[0], losses[-1]])))


def choose_soup(runs: Sequence[TrainedRun], held_out: StackingRows) -> tuple[Network, dict[str, object]]:
    """Choose between the uniform soup, the greedy soup and the best run, by their scores on ``held_out``.

    The greedy soup adds runs, best first, as long as its primary score does not fall; so the choice never has
    a lower one than the best run. Without held-out rows the uniform soup is kept.

    Returns:
        The network, and a description: what was kept, of which runs, the scores of all three, and the barrier
        between each pair of runs (:class:`sercache.stacking.neural.SoupAccount` reads it).
    """
    all_runs = list(range(len(runs)))
    uniform = average_runs(runs)
    if not len(held_out):
        return uniform, {"kept": "uniform", "runs": all_runs}
    scores = [evaluate_network(run.network, held_out) for run in runs]
    best_first = sorted(all_runs, key=lambda run: scores[run].rank, reverse=True)
    chosen = best_first[:1]
    greedy, greedy_score = runs[chosen[0]].network, scores[chosen[0]]
    for run in best_first[1:]:
        mixed = average_runs([runs[index] for index in [*chosen, run]])
        mixed_score = evaluate_network(mixed, held_out)
        if mixed_score.score >= greedy_score.score:
            chosen, greedy, greedy_score = [*chosen, run], mixed, mixed_score
    uniform_score, best = evaluate_network(uniform, held_out), best_first[0]
    if uniform_score.score >= greedy_score.score:
        kept, network, members = "uniform", uniform, all_runs
    else:
        kept, network, members = ("greedy" if len(chosen) > 1 else "best run"), greedy, sorted(chosen)
    description: dict[str, object] = {
        "kept": kept,
        "runs": members,
        "standings": {
            "uniform": uniform_score.as_dict(),
            "greedy": greedy_score.as_dict(),
            "best run": scores[best].as_dict(),
        },
        "epochs": [run.epoch for run in runs],
        "barriers": {
            f"{first}-{second}": barrier(runs[first].network, runs[second].network, held_out)
            for first, second in combinations(all_runs, 2)
        },
    }
    return network, description


_NO_BARRIER = 0.001
"""Nats; far below what tells runs apart."""


@dataclass(frozen=True)
class SoupAccount:
    """What a soup was made of, and the scores of it and its runs on the rows they stopped on.

    Attributes:
        kept: ``uniform``, ``greedy`` or ``best run``.
        runs: whose weights are averaged, from 0.
        scores: macro-F1 and log-loss of ``uniform``, ``greedy`` and ``best run`` (of attributes alone the
            mean CCC and the squared error); empty without such rows.
        barriers: for each pair of runs (``0-1``), how far the loss rises above the straight line on the
            way from one to the other (:func:`sercache.stacking.neural.barrier`).
    """

    kept: str
    runs: tuple[int, ...]
    scores: Mapping[str, Mapping[str, float]]
    barriers: Mapping[str, float]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the account of the soup that lies in ``folder``.

        Raises:
            StackingError: no soup lies there.
        """
        recipe: dict[str, Any] = SavedStacker.read(folder, "soup").learned["recipe"]
        return cls(
            recipe["kept"], tuple(recipe["runs"]), recipe.get("standings", {}), recipe.get("barriers", {})
        )

    @property
    def barrier(self) -> float:
        """The highest of the barriers, 0 of one run."""
        return max(self.barriers.values(), default=0.0)

    @property
    def sentence(self) -> str:
        """What was kept and why, in one sentence."""
        count = len(self.runs)
        what = f"The soup is the {self.kept}" if self.kept == "best run" else f"The soup is {self.kept}"
        what += f", of {count} run{'s' if count > 1 else ''}"
        if not self.scores:
            return f"{what}; there were no rows of other speakers to score it on."
        primary = primary_in(next(iter(self.scores.values())))
        loss = "log-loss" if primary == MACRO_F1 else "squared error"
        figures = ", ".join(f"{name} {score[primary.key]:.3f}" for name, score in self.scores.items())
        sentence = f"{what} ({primary.name} on the rows it stopped on: {figures})"
        if not self.barriers:
            return f"{sentence}."
        if self.barrier <= _NO_BARRIER:
            return f"{sentence}; no barrier lies between any two runs ({loss} +{self.barrier:.4f} at most)."
        return f"{sentence}; a barrier lies between its runs: {loss} +{self.barrier:.3f}."
