"""Model soup: the weights of several runs of the neural meta-classifier, averaged (Wortsman et al. 2022)."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Self

import numpy as np

from sercache.errors import StackingError
from sercache.recipe import StackingRecipe
from sercache.stacking.network import Network
from sercache.stacking.network_training import TrainedRun, stand
from sercache.stacking.neural import fit_runs
from sercache.stacking.protocol import Prediction
from sercache.stacking.rows import StackingInputs, StackingRows
from sercache.stacking.saved import SavedStacker, Signature

_WEIGHTS = "weights.safetensors"
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
        between each pair of runs (:class:`sercache.stacking.soup_account.SoupAccount` reads it).
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
