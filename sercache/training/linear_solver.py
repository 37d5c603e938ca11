"""Ridge and multinomial logistic regression on few rows of many features, or on many rows that are streamed.

Both minimise, over weights ``W`` ``(P, Q)`` and an unpenalised intercept ``b`` ``(Q,)``,

    sum_n w_n * loss(x_n W + b, y_n)  +  penalty / 2 * ||W||^2

with half the squared error (ridge) or the cross-entropy against a distribution over classes (logistic).

:class:`DualSystem` is for rows whose Gram matrix ``(N, N)`` fits: its eigendecomposition gives the ridge
solution for every penalty at once. :class:`PrimalSystem` is for any number of rows, read in blocks: it needs
the features' Gram matrix ``(P, P)`` and a Cholesky factor for each penalty. Both give the logistic regression
coordinates in which its curvature is at most one (Böhning 1992), so that L-BFGS needs few steps.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, eigh, solve_triangular
from scipy.optimize import minimize

Floats = NDArray[np.float64]

_NEGLIGIBLE = 1e-13
"""Eigenvalues below this share of the largest are rounding errors."""


class Rows(Protocol):
    """N rows of P features that can be read again and again, in blocks."""

    @property
    def shape(self) -> tuple[int, int]:
        """N and P."""
        ...

    def blocks(self) -> Iterator[tuple[slice, Floats]]:
        """Yield the rows in order: their positions, and ``(B, P)`` float64."""
        ...


@dataclass(frozen=True)
class ArrayRows:
    """Rows that are in memory, ``values`` ``(N, P)`` float64."""

    values: Floats

    @property
    def shape(self) -> tuple[int, int]:
        """N and P."""
        rows, features = self.values.shape
        return rows, features

    def blocks(self) -> Iterator[tuple[slice, Floats]]:
        """Yield all rows at once."""
        yield slice(0, len(self.values)), self.values


@dataclass(frozen=True)
class LinearModel:
    """``x @ weights + intercept``: ``weights`` ``(P, Q)``, ``intercept`` ``(Q,)``."""

    weights: Floats
    intercept: Floats

    def predict(self, rows: Rows) -> Floats:
        """Return ``(N, Q)``."""
        predicted = np.empty((rows.shape[0], len(self.intercept)))
        for part, values in rows.blocks():
            predicted[part] = values @ self.weights + self.intercept  # (n, Q)
        return predicted


@dataclass(frozen=True)
class Moments:
    """Weighted sums over rows: of the weights, of ``x`` ``(P,)`` and of ``x x'`` ``(P, P)``."""

    total: float
    first: Floats
    second: Floats

    @classmethod
    def of(cls, rows: Rows, weights: Floats) -> "Moments":
        """Return the moments of N rows with ``weights`` ``(N,)``."""
        features = rows.shape[1]
        first, second = np.zeros(features), np.zeros((features, features))
        for part, values in rows.blocks():
            part_weights = weights[part]  # (n,), n rows of a block
            first += part_weights @ values  # (P,)
            scaled = values * np.sqrt(part_weights)[:, None]  # (n, P)
            second += scaled.T @ scaled  # (P, P)
        return cls(float(weights.sum()), first, second)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.total + other.total, self.first + other.first, self.second + other.second)


class Whitening(Protocol):
    """Coordinates ``theta`` in which Böhning's bound of the logistic Hessian is the identity."""

    def coordinates(self, theta: Floats) -> Floats:
        """Return the system's coordinates of ``theta``, ``(R, Q)``."""
        ...

    def gradient(self, gradient: Floats) -> Floats:
        """Return a gradient in the coordinates as one in ``theta``, ``(R, Q)``."""
        ...

    def theta(self, coordinates: Floats) -> Floats:
        """Return ``theta`` of coordinates, ``(R, Q)``."""
        ...


class System(Protocol):
    """Weighted, centred rows, ready to be solved for any penalty.

    Weights are given by coordinates ``(R, Q)`` of an orthonormal basis; the intercept is that at the weighted
    mean row.
    """

    weights: Floats
    size: int
    """R."""

    def products(self, targets: Floats) -> Floats:
        """Return the weighted products of the centred rows with ``targets`` ``(N, Q)``, ``(R, Q)``."""
        ...

    def scores(self, coordinates: Floats) -> Floats:
        """Return the centred rows' scores, ``(N, Q)``."""
        ...

    def solve(self, products: Floats, penalty: float) -> Floats:
        """Return ``(X'X + penalty)^-1 products``, ``(R, Q)``."""
        ...

    def whitening(self, penalty: float) -> Whitening:
        """Return the coordinates for a logistic regression with this penalty."""
        ...


class DualSystem:
    """Rows by their inner products.

    Args:
        gram: ``(N, N)`` inner products of the rows.
        weights: ``(N,)``, at least 0.

    Raises:
        ValueError: no row has a weight.
    """

    def __init__(self, gram: Floats, weights: Floats) -> None:
        self.weights, self._total = weights, _total(weights)
        self._share = weights / self._total
        self._cross = gram @ self._share  # (N,) inner products with the mean row
        self._square = float(self._share @ self._cross)
        self._roots = np.sqrt(weights)
        centred = gram - self._cross - self._cross[:, None] + self._square
        values, vectors = eigh(
            self._roots[:, None] * centred * self._roots, overwrite_a=True, check_finite=False, driver="evd"
        )
        kept = values > max(values[-1], 0.0) * _NEGLIGIBLE
        self._values, self._vectors = values[kept], np.ascontiguousarray(vectors[:, kept])  # (R,), (N, R)
        self._lengths = np.sqrt(self._values)[:, None]  # (R, 1)
        self.size = len(self._values)

    def products(self, targets: Floats) -> Floats:
        """Return the weighted products of the centred rows with ``targets`` ``(N, Q)``, ``(R, Q)``."""
        return np.asarray(self._lengths * (self._vectors.T @ (self._roots[:, None] * targets)))

    def scores(self, coordinates: Floats) -> Floats:
        """Return the centred rows' scores, ``(N, Q)``; 0 for rows without weight."""
        scaled = self._vectors @ (self._lengths * coordinates)  # (N, Q)
        roots = self._roots[:, None]
        return np.asarray(np.divide(scaled, roots, out=np.zeros_like(scaled), where=roots > 0))

    def solve(self, products: Floats, penalty: float) -> Floats:
        """Return ``(X'X + penalty)^-1 products``, ``(R, Q)``."""
        return np.asarray(products / (self._values + penalty)[:, None])

    def whitening(self, penalty: float) -> "Whitening":
        """Return the coordinates for a logistic regression with this penalty."""
        return _Diagonal(1 / np.sqrt(self._values / 2 + penalty)[:, None])

    def factors(self, coordinates: Floats) -> Floats:
        """Return how much each row counts in the weights, ``(N, Q)``: ``W = X' factors``."""
        factors = self._roots[:, None] * (self._vectors @ (coordinates / self._lengths))
        return np.asarray(factors - self._share[:, None] * factors.sum(axis=0))

    def predict(self, products: Floats, coordinates: Floats, intercept: Floats) -> Floats:
        """Return the scores of other rows, ``(M, Q)``, from their inner products with the rows ``(M, N)``."""
        factors = self.factors(coordinates)
        return np.asarray(products @ factors - self._cross @ factors + intercept)

    def model(self, rows: Rows, coordinates: Floats, intercept: Floats) -> LinearModel:
        """Return the model over features; ``rows`` are those whose inner products this has."""
        factors = self.factors(coordinates)
        weights = np.zeros((rows.shape[1], coordinates.shape[1]))
        for part, values in rows.blocks():
            weights += values.T @ factors[part]  # (P, Q)
        return LinearModel(weights, intercept - self._cross @ factors)


class PrimalSystem:
    """Rows by their moments, read again only by a logistic regression.

    Args:
        rows: N rows of P features.
        weights: ``(N,)``, at least 0.
        moments: of the rows, if they are known already.

    Raises:
        ValueError: no row has a weight.
    """

    def __init__(self, rows: Rows, weights: Floats, moments: Moments | None = None) -> None:
        self.rows, self.weights, self.size = rows, weights, rows.shape[1]
        total = _total(weights)
        moments = Moments.of(rows, weights) if moments is None else moments
        self._mean = moments.first / total
        self._gram = moments.second - total * np.outer(self._mean, self._mean)  # (P, P)

    def products(self, targets: Floats) -> Floats:
        """Return the weighted products of the centred rows with ``targets`` ``(N, Q)``, ``(P, Q)``."""
        weighted = self.weights[:, None] * targets
        summed = -np.outer(self._mean, weighted.sum(axis=0))
        for part, values in self.rows.blocks():
            summed += values.T @ weighted[part]
        return np.asarray(summed)

    def scores(self, coordinates: Floats) -> Floats:
        """Return the centred rows' scores, ``(N, Q)``."""
        return LinearModel(coordinates, -self._mean @ coordinates).predict(self.rows)

    def solve(self, products: Floats, penalty: float) -> Floats:
        """Return ``(X'X + penalty)^-1 products``, ``(P, Q)``."""
        factor = self._factor(1.0, penalty)
        return np.asarray(cho_solve((factor, True), products, check_finite=False))

    def whitening(self, penalty: float) -> "Whitening":
        """Return the coordinates for a logistic regression with this penalty."""
        return _Triangular(self._factor(0.5, penalty))

    def model(self, coordinates: Floats, intercept: Floats) -> LinearModel:
        """Return the model over features."""
        return LinearModel(coordinates, intercept - self._mean @ coordinates)

    def _factor(self, scale: float, penalty: float) -> Floats:
        matrix = scale * self._gram
        matrix.flat[:: len(matrix) + 1] += penalty
        return np.asarray(cholesky(matrix, lower=True, overwrite_a=True, check_finite=False))


@dataclass(frozen=True)
class _Diagonal:
    scale: Floats  # (R, 1)

    def coordinates(self, theta: Floats) -> Floats:
        return self.scale * theta

    def gradient(self, gradient: Floats) -> Floats:
        return self.scale * gradient

    def theta(self, coordinates: Floats) -> Floats:
        return coordinates / self.scale


@dataclass(frozen=True)
class _Triangular:
    factor: Floats  # (P, P) lower

    def coordinates(self, theta: Floats) -> Floats:
        return np.asarray(solve_triangular(self.factor, theta, lower=True, trans="T", check_finite=False))

    def gradient(self, gradient: Floats) -> Floats:
        return np.asarray(solve_triangular(self.factor, gradient, lower=True, check_finite=False))

    def theta(self, coordinates: Floats) -> Floats:
        return np.asarray(self.factor.T @ coordinates)


def ridge(system: System, targets: Floats, penalty: float) -> tuple[Floats, Floats]:
    """Return coordinates ``(R, Q)`` and intercept ``(Q,)`` of the ridge regression on ``targets`` ``(N, Q)``.

    >>> rows = ArrayRows(np.array([[0.0], [1.0], [2.0]]))
    >>> system = PrimalSystem(rows, np.ones(3))
    >>> model = system.model(*ridge(system, np.array([[1.0], [3.0], [5.0]]), 1e-9))
    >>> model.weights.round(6).tolist(), model.intercept.round(6).tolist()
    ([[2.0]], [1.0])
    """
    mean = system.weights @ targets / system.weights.sum()  # (Q,)
    return system.solve(system.products(targets - mean), penalty), mean


def logistic(
    system: System,
    targets: Floats,
    penalty: float,
    start: tuple[Floats, Floats] | None = None,
    tolerance: float = 1e-9,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[Floats, Floats]:
    """Return coordinates ``(R, C)`` and intercept ``(C,)`` of the multinomial logistic regression.

    Args:
        system: N rows.
        targets: ``(N, C)`` distributions over the classes.
        penalty: of the squared weights.
        start: coordinates and intercept of a penalty nearby.
        tolerance: of the largest entry of the gradient, for weights that sum to 1.
        should_stop: looked at in every step; the search ends there.

    Returns:
        The intercepts add up to 0.
    """
    classes, total = targets.shape[1], system.weights.sum()
    white = system.whitening(penalty)
    weights = system.weights[:, None]  # (N, 1)
    root = np.sqrt(total / 2)  # makes the intercept's curvature at most one too
    if start is None:
        shares = np.clip((weights * targets).sum(axis=0) / total, 1e-6, None)
        start = np.zeros((system.size, classes)), np.log(shares)

    def objective(flat: Floats) -> tuple[float, Floats]:
        theta = flat.reshape(-1, classes)  # (R + 1, C)
        coordinates = white.coordinates(theta[:-1])
        logits = system.scores(coordinates) + theta[-1] / root  # (N, C)
        logits -= logits.max(axis=1, keepdims=True)
        exponentials = np.exp(logits)
        sums = exponentials.sum(axis=1, keepdims=True)
        loss = -float((weights * targets * (logits - np.log(sums))).sum())
        loss += penalty / 2 * float(np.square(coordinates).sum())
        # Targets sum to 1, so the gradient in the logits is p - y.
        residual = exponentials / sums - targets  # (N, C)
        gradient = np.empty_like(theta)
        gradient[:-1] = white.gradient(system.products(residual) + penalty * coordinates)
        gradient[-1] = (weights * residual).sum(axis=0) / root
        return loss / total, gradient.ravel() / total

    def stop(_: Floats) -> None:
        if should_stop():
            raise StopIteration

    found = minimize(
        objective,
        np.concatenate([white.theta(start[0]), start[1][None] * root]).ravel(),
        jac=True,
        method="L-BFGS-B",
        callback=stop,
        options={"maxiter": 1000, "maxfun": 2000, "maxcor": 20, "ftol": 0.0, "gtol": tolerance},
    )
    theta = found.x.reshape(-1, classes)
    intercept = theta[-1] / root
    return white.coordinates(theta[:-1]), intercept - intercept.mean()


def _total(weights: Floats) -> float:
    total = float(weights.sum())
    if not total > 0:
        raise ValueError("no row has a weight")
    return total
