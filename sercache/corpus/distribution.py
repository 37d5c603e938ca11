"""How numbers are spread: quantiles, and a histogram whose edges people can read."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

QUANTILES: Mapping[str, float] = {
    "least": 0.0,
    "5 %": 0.05,
    "25 %": 0.25,
    "median": 0.5,
    "75 %": 0.75,
    "95 %": 0.95,
    "most": 1.0,
}
_MOST_BINS = 12
_WHERE_THE_TAIL_BEGINS = 0.99
_ROUND_STEPS = (1.0, 2.0, 5.0)
_LEAST_STEP = 1e-6
"""Edges are rounded to nine decimals."""


@dataclass(frozen=True)
class Distribution:
    """The spread of N known numbers.

    Attributes:
        count: N.
        total: their sum.
        mean: their mean.
        quantiles: by name, as in :data:`QUANTILES`.
        edges: ``B + 1`` bounds of the histogram's bins, each but the last open above.
        counts: ``B`` of them; the last bin reaches as far as the largest number.
    """

    count: int
    total: float
    mean: float
    quantiles: Mapping[str, float]
    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def median(self) -> float:
        """The median."""
        return self.quantiles["median"]


def distribution_of(values: ArrayLike) -> Distribution | None:
    """Return how ``values`` ``(N,)`` are spread; NaN is not known. None: none is.

    >>> spread = distribution_of([1.0, 2.0, 3.0, 10.0])
    >>> spread.median, spread.edges, spread.counts
    (2.5, (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0), (1, 1, 1, 0, 0, 0, 0, 0, 1))
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    if not known.size:
        return None
    edges = _edges(known.min(), float(np.quantile(known, _WHERE_THE_TAIL_BEGINS)), known.max())
    counts, _ = np.histogram(known, edges)
    return Distribution(
        count=int(known.size),
        total=float(known.sum()),
        mean=float(known.mean()),
        quantiles={name: float(np.quantile(known, share)) for name, share in QUANTILES.items()},
        edges=tuple(edges),
        counts=tuple(counts.tolist()),
    )


def _edges(least: float, tail: float, most: float) -> list[float]:
    """Return round edges up to where the tail begins; one bin holds the tail."""
    step = max(_round_step((tail - least) / _MOST_BINS), _LEAST_STEP)
    # In whole steps, so that no edge is 0.30000000000000004.
    first, last = int(np.floor(least / step)), int(np.ceil(tail / step))
    edges = [round(place * step, 9) for place in range(first, max(last, first + 1) + 1)]
    if most > edges[-1]:
        edges.append(float(most))
    return edges


def _round_step(wanted: float) -> float:
    """Return the smallest of ..., 0.1, 0.2, 0.5, 1, 2, 5, ... that is not below ``wanted``."""
    if wanted <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(wanted))
    return float(next(factor * power for factor in (*_ROUND_STEPS, 10.0) if factor * power >= wanted))
