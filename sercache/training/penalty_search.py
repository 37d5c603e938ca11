"""Linear models for many penalties, scored on rows whose speakers are left out."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sercache.errors import TrainingError
from sercache.events import ShouldStop
from sercache.training.linear_solver import (
    DualSystem,
    Floats,
    LinearModel,
    Moments,
    PrimalSystem,
    System,
    ridge,
)
from sercache.training.pooled_features import PooledRows, refuse_to_go_on

Fit = Callable[..., tuple[Floats, Floats]]

PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(-6, 7))
"""1e-3 to 1e3; a pooled clip has a squared length of about 1."""

MOST_ROWS_OF_ALL_FOLDS = 1500
"""Of more rows only one inner fold is left out: it is large enough, and each costs as much as a solution."""

DUAL_ROWS = 4000
"""Of more rows the Gram matrix of the features is decomposed, not that of the rows."""

_LOGISTIC_ROWS = 10_000
"""Rows that a logistic regression of many rows chooses its penalty on."""


class PenaltySearch:
    """Linear models of some rows: fitted on all of them, and on those of other speakers to choose a penalty.

    Args:
        rows: N rows of P features.
        groups: ``(N,)`` which rows are left out together; None if none can be.
        should_stop: looked at between steps.

    Raises:
        TrainingError: the Gram matrix does not fit into memory.
        Interrupted: ``should_stop`` returned True; any method may raise it.
    """

    def __init__(
        self,
        rows: PooledRows,
        groups: NDArray[np.int64] | None,
        should_stop: ShouldStop,
    ) -> None:
        self.rows, self.groups, self.should_stop = rows, groups, should_stop
        count, features = rows.shape
        self.is_dual = count <= min(features, DUAL_ROWS)
        _refuse_too_large(count if self.is_dual else features, features, count)
        self.gram = rows.gram(should_stop) if self.is_dual else None
        self._moments: dict[bytes, tuple[Moments, Moments]] = {}

    def fit(self, fit: Fit, targets: Floats, weights: Floats, penalty: float) -> LinearModel:
        """Return the solution on all rows for ``targets`` ``(N, Q)``."""
        refuse_to_go_on(self.should_stop)
        stop = {} if fit is ridge else {"should_stop": self.should_stop}
        if self.gram is not None:
            dual = DualSystem(self.gram, weights)
            model = dual.model(self.rows, *fit(dual, targets, penalty, **stop))
        else:
            held, others = self._moments_of(weights)
            primal = PrimalSystem(self.rows, weights, held + others)
            model = primal.model(*fit(primal, targets, penalty, **stop))
        refuse_to_go_on(self.should_stop)
        return model

    def left_out(
        self,
        fit: Fit,
        targets: Floats,
        weights: Floats,
        penalties: Sequence[float],
        *,
        every_row: bool = False,
    ) -> Floats:
        """Return, for each penalty, scores of rows that were left out, ``(penalties, N, Q)``.

        NaN for rows that never were: all of them where there is one speaker; and, where there are many rows,
        those of other groups than the first, unless ``every_row`` is wanted.
        """
        scores = np.full((len(penalties), *targets.shape), np.nan)
        groups = [] if self.groups is None else np.unique(self.groups).tolist()
        is_first_only = len(targets) > MOST_ROWS_OF_ALL_FOLDS and not every_row
        for group in groups[:1] if is_first_only else groups:
            held = np.flatnonzero(self.groups == group)
            others = np.flatnonzero((self.groups != group) & (weights > 0))
            if not len(others):
                continue
            refuse_to_go_on(self.should_stop)
            if self.gram is not None:
                dual = DualSystem(self.gram[np.ix_(others, others)], weights[others])
                products = self.gram[np.ix_(held, others)]
                path = self._path(dual, fit, targets[others], penalties)
                scores[:, held] = [dual.predict(products, *solution) for solution in path]
            else:
                moments = self._moments_of(weights)[1] if fit is ridge and group == groups[0] else None
                scores[:, held] = self._left_out_of_many(
                    fit, targets, weights, penalties, held, others, moments
                )
        return scores

    def _left_out_of_many(
        self,
        fit: Fit,
        targets: Floats,
        weights: Floats,
        penalties: Sequence[float],
        held: NDArray[np.int64],
        others: NDArray[np.int64],
        moments: Moments | None,
    ) -> Floats:
        """Return scores ``(penalties, H, Q)`` of the rows ``held`` by models of ``others``."""
        if fit is not ridge:  # every step of its search reads the rows again
            others = others[:: math.ceil(len(others) / _LOGISTIC_ROWS)]
        system = PrimalSystem(self.rows.take(others), weights[others], moments)
        models = [system.model(*solution) for solution in self._path(system, fit, targets[others], penalties)]
        together = LinearModel(
            np.concatenate([model.weights for model in models], axis=1),
            np.concatenate([model.intercept for model in models]),
        )
        predicted = together.predict(self.rows.take(held))  # (H, penalties * Q)
        return np.asarray(predicted.reshape(len(held), len(models), -1).transpose(1, 0, 2))

    def _path(
        self, system: System, fit: Fit, targets: Floats, penalties: Sequence[float]
    ) -> list[tuple[Floats, Floats]]:
        """Return the solution for each penalty; each search starts from that of the next stronger one."""
        found: dict[float, tuple[Floats, Floats]] = {}
        solution: tuple[Floats, Floats] | None = None
        for penalty in sorted(penalties, reverse=True):
            refuse_to_go_on(self.should_stop)
            options = {} if fit is ridge else {"start": solution, "tolerance": 1e-6}
            solution = found[penalty] = fit(system, targets, penalty, **options)
        return [found[penalty] for penalty in penalties]

    def _moments_of(self, weights: Floats) -> tuple[Moments, Moments]:
        """Return the moments of the group that is left out and of all others, read once."""
        key = weights.tobytes()
        if key not in self._moments:
            first = np.unique(self.groups)[0] if self.groups is not None else None
            is_held = self.groups == first if first is not None else np.zeros(len(weights), np.bool_)
            self._moments = {
                key: (
                    Moments.of(self._watched(np.flatnonzero(is_held)), weights[is_held]),
                    Moments.of(self._watched(np.flatnonzero(~is_held)), weights[~is_held]),
                )
            }
        return self._moments[key]

    def _watched(self, rows: NDArray[np.int64]) -> "_Watched":
        return _Watched(self.rows.take(rows), self.should_stop)


@dataclass(frozen=True)
class _Watched:
    """Rows whose reading can be stopped."""

    rows: PooledRows
    should_stop: ShouldStop

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.shape

    def blocks(self) -> Iterator[tuple[slice, Floats]]:
        for block in self.rows.blocks():
            refuse_to_go_on(self.should_stop)
            yield block


def _refuse_too_large(size: int, features: int, rows: int) -> None:
    """Raise where the Gram matrix and its decomposition take more than most of the memory."""
    needed = 8 * size**2 * 3
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else needed
    if needed > 0.7 * available:
        raise TrainingError(
            f"a linear model of {features:,} pooled numbers of {rows:,} rows needs {needed / 1e9:.0f} GB of "
            f"memory, this machine has {available / 1e9:.0f}: give the member the option statistics: "
            "mean+deviation, or keep fewer layers"
        )
