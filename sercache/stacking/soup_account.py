"""How a model soup came about, in figures and in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sercache.evaluation.primary import MACRO_F1, primary_in
from sercache.stacking.saved import SavedStacker

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
            way from one to the other (:func:`sercache.stacking.soup.barrier`).
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
