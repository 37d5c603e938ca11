"""The neural meta-classifier, and the soup of several of its runs (Wortsman et al. 2022)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Self

import numpy as np

from sercache.errors import StackingError
from sercache.evaluation.primary import MACRO_F1, primary_in
from sercache.recipe import StackingRecipe
from sercache.seeds import derive_seed
from sercache.stacking.network import Network
from sercache.stacking.network_training import TrainedRun, initial_network, stand, train_runs
from sercache.stacking.protocol import Prediction
from sercache.stacking.rows import StackingInputs, StackingRows, stopping_slice
from sercache.stacking.saved import SavedStacker, Signature

_WEIGHTS = "weights.safetensors"


class Neural:
    """A linear network over the members' posteriors (MEDUSA, section 3.4); ``hidden`` makes it an MLP.

    Soft targets, attributes beside classes, class weights, AdamW; it starts as the soft vote and stops early
    on an inner slice of other speakers.

    It sees probabilities, as the paper's does, or their logarithms (``inputs: log``). By these it comes
    nearer to a best rule that is linear in logarithms (3,200 rows of simulated members: macro-F1 0.740
    instead of 0.731, the Bayes rate 0.744) and combines 44 real models better (0.531 instead of 0.519,
    log-loss 0.945 instead of 0.949). No other learning rate (0.003, 0.03) or weight decay (0.1, 1) of
    probabilities has a higher macro-F1 on the real ones (0.508 to 0.517), so none is searched for.
    """

    def __init__(self, settings: StackingRecipe, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.shares: dict[str, float] = {}
        self._signature: Signature
        self._network: Network
        self._epoch: int

    def fit(self, rows: StackingRows) -> None:
        """Train one run."""
        self._signature = Signature.of(rows.inputs)
        rows = self._signature.arrange_rows(rows)
        (run,), _ = fit_runs(rows, self.settings, self.seed, runs=1)
        self._network, self._epoch = run.network, run.epoch
        self.shares = self._network.shares(rows.inputs)

    def predict(self, inputs: StackingInputs) -> Prediction:
        """Return what the network says."""
        return self._network.predict(self._signature.arrange(inputs))

    def save(self, folder: Path) -> None:
        """Write the weights."""
        files = {_WEIGHTS: self._network.to_bytes()}
        learned = {"epoch": self._epoch, "shares": self.shares, "sees_logs": self._network.sees_logs}
        SavedStacker("neural", self._signature, learned, files).write(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote."""
        saved = SavedStacker.read(folder, "neural")
        loaded = cls(StackingRecipe(), 0)
        loaded._signature, loaded._epoch = saved.signature, saved.learned["epoch"]
        loaded.shares = dict(saved.learned["shares"])
        loaded._network = Network.from_bytes(saved.files[_WEIGHTS], sees_logs=saved.learned["sees_logs"])
        return loaded


def fit_runs(
    rows: StackingRows, settings: StackingRecipe, seed: int, runs: int
) -> tuple[list[TrainedRun], StackingRows]:
    """Train ``runs`` runs from one initialisation, each with its own order of batches.

    Returns:
        The runs, and the rows they stopped on.
    """
    fit, stop = stopping_slice(rows, settings.inner_share, derive_seed(seed, "stop"))
    neural = settings.neural
    start = derive_seed(seed, "initialisation")
    initial = initial_network(fit, neural.hidden, start, sees_logs=neural.inputs == "log")
    orders = [derive_seed(seed, "order", run) for run in range(runs)]
    return train_runs(fit, stop, initial, settings.neural, settings.balance_exponent, orders), stop


_BARRIER_STEPS = 11


class Soup:
    """The better of the uniform and the greedy soup, if it does not lose to its best run on held-out rows.

    The runs start from one initialisation and differ in the order of their batches (MEDUSA averages six); the
    held-out rows are the slice of other speakers on which the runs stopped.
    """

    def __init__(self, settings: StackingRecipe, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.shares: dict[str, float] = {}
        self._signature: Signature
        self._network: Network
        self.recipe: dict[str, object]

    def fit(self, rows: StackingRows) -> None:
        """Train the runs and choose what to average."""
        self._signature = Signature.of(rows.inputs)
        rows = self._signature.arrange_rows(rows)
        runs, stop = fit_runs(rows, self.settings, self.seed, self.settings.neural.runs)
        self._network, self.recipe = choose_soup(runs, stop)
        self.shares = self._network.shares(rows.inputs)

    def predict(self, inputs: StackingInputs) -> Prediction:
        """Return what the averaged network says."""
        return self._network.predict(self._signature.arrange(inputs))

    def save(self, folder: Path) -> None:
        """Write the averaged weights, and how they came about."""
        learned = {"recipe": self.recipe, "shares": self.shares, "sees_logs": self._network.sees_logs}
        SavedStacker("soup", self._signature, learned, {_WEIGHTS: self._network.to_bytes()}).write(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote."""
        saved = SavedStacker.read(folder, "soup")
        loaded = cls(StackingRecipe(), 0)
        loaded._signature, loaded.recipe = saved.signature, dict(saved.learned["recipe"])
        loaded.shares = dict(saved.learned["shares"])
        loaded._network = Network.from_bytes(saved.files[_WEIGHTS], sees_logs=saved.learned["sees_logs"])
        return loaded


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

    The loss is that of :class:`~sercache.stacking.network_training.Standing`.

    Zero or less: the two lie in one basin, and the mean of their weights is as good as they are (Frankle et
    al. 2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis", section 2).
    """
    steps = np.linspace(0.0, 1.0, _BARRIER_STEPS)
    losses = [stand(Network.between(first, second, step), rows).loss for step in steps.tolist()]
    return float(np.max(np.asarray(losses) - np.interp(steps, [0.0, 1.0], [losses[0], losses[-1]])))


def choose_soup(runs: Sequence[TrainedRun], held_out: StackingRows) -> tuple[Network, dict[str, object]]:
    """Choose between the uniform soup, the greedy soup and the best run, by how they do on ``held_out``.

    The greedy soup adds runs, best first, as long as its primary score does not fall; so the choice never has
    a lower one than the best run. Without rows to judge on, the uniform soup it is.

    Returns:
        The network, and a description: what was kept, of which runs, everybody's standing, and the barrier
        between each pair of runs (:class:`sercache.stacking.neural.SoupAccount` reads it).
    """
    everyone = list(range(len(runs)))
    uniform = average_runs(runs)
    if not len(held_out):
        return uniform, {"kept": "uniform", "runs": everyone}
    standings = [stand(run.network, held_out) for run in runs]
    best_first = sorted(everyone, key=lambda run: standings[run].rank, reverse=True)
    chosen = best_first[:1]
    greedy, greedy_standing = runs[chosen[0]].network, standings[chosen[0]]
    for run in best_first[1:]:
        mixed = average_runs([runs[index] for index in [*chosen, run]])
        mixed_standing = stand(mixed, held_out)
        if mixed_standing.score >= greedy_standing.score:
            chosen, greedy, greedy_standing = [*chosen, run], mixed, mixed_standing
    uniform_standing, best = stand(uniform, held_out), best_first[0]
    if uniform_standing.score >= greedy_standing.score:
        kept, network, members = "uniform", uniform, everyone
    else:
        kept, network, members = ("greedy" if len(chosen) > 1 else "best run"), greedy, sorted(chosen)
    description: dict[str, object] = {
        "kept": kept,
        "runs": members,
        "standings": {
            "uniform": uniform_standing.as_dict(),
            "greedy": greedy_standing.as_dict(),
            "best run": standings[best].as_dict(),
        },
        "epochs": [run.epoch for run in runs],
        "barriers": {
            f"{first}-{second}": barrier(runs[first].network, runs[second].network, held_out)
            for first, second in combinations(everyone, 2)
        },
    }
    return network, description


_NO_BARRIER = 0.001
"""Nats; far below what tells runs apart."""


@dataclass(frozen=True)
class SoupAccount:
    """What a soup was made of, and how it and its runs did on the rows they stopped on.

    Attributes:
        kept: ``uniform``, ``greedy`` or ``best run``.
        runs: whose weights are averaged, from 0.
        standings: macro-F1 and log-loss of ``uniform``, ``greedy`` and ``best run`` (of attributes alone the
            mean CCC and the squared error); empty without such rows.
        barriers: for each pair of runs (``0-1``), how far the loss rises above the straight line on the
            way from one to the other (:func:`sercache.stacking.neural.barrier`).
    """

    kept: str
    runs: tuple[int, ...]
    standings: Mapping[str, Mapping[str, float]]
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
        if not self.standings:
            return f"{what}; there were no rows of other speakers to judge it on."
        primary = primary_in(next(iter(self.standings.values())))
        loss = "log-loss" if primary == MACRO_F1 else "squared error"
        figures = ", ".join(
            f"{name} {standing[primary.key]:.3f}" for name, standing in self.standings.items()
        )
        said = f"{what} ({primary.name} on the rows it stopped on: {figures})"
        if not self.barriers:
            return f"{said}."
        if self.barrier <= _NO_BARRIER:
            return f"{said}; no barrier lies between any two runs ({loss} +{self.barrier:.4f} at most)."
        return f"{said}; a barrier lies between its runs: {loss} +{self.barrier:.3f}."
