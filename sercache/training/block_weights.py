"""How much each block of features (feature set, statistic, layer) counts, learned from left-out speakers."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from sercache.evaluation.probabilities import softmax

Floats = NDArray[np.float64]

_FIRST_PENALTY = 0.1
_FIRST_SCALE = 3.0
_SELECTIVITY = 8.0
"""How fast a set's first weight falls with its own cross-entropy, in nats."""


def learn_block_weights(
    grams: NDArray[np.float32],
    targets: Floats,
    groups: NDArray[np.int64],
    sets: NDArray[np.int64],
    *,
    strength: float = 0.003,
    iterations: int = 20,
    should_stop: Callable[[], bool] = lambda: False,
) -> Floats:
    """Return positive weights of blocks, in all 1, with which ridge regression predicts new groups best.

    The weighted sum of the blocks' Gram matrices is the kernel of a ridge regression (multiple kernel
    learning). Its weights, penalty and scale are found by L-BFGS on the cross-entropy of predictions of each
    group by a model that is fitted on the others (the gradient goes through the solution, as in Bengio 2000).
    With few groups this criterion can be fitted too closely, so the logarithms of the weights within a set
    are held near each other. The search starts from sets that count by how well each predicts alone.

    Args:
        grams: ``(B, N, N)`` inner products of standardised rows, one matrix per block, mean diagonal 1.
        targets: ``(N, C)`` distributions over classes.
        groups: ``(N,)`` which rows are left out together; at least two different ones.
        sets: ``(B,)`` which blocks are of one feature set.
        strength: of what holds the logarithms of the weights of a set near each other.
        iterations: of L-BFGS.
        should_stop: looked at in every iteration; the search ends there.
    """
    blocks, rows, _ = grams.shape
    flat = grams.reshape(blocks, rows * rows)
    parts = [
        (np.flatnonzero(groups != group), np.flatnonzero(groups == group)) for group in np.unique(groups)
    ]
    signs = 2 * targets - 1

    def objective(parameters: Floats) -> tuple[float, Floats]:
        logarithms, penalty, scale = parameters[:-2], np.exp(parameters[-2]), np.exp(parameters[-1])
        weights = softmax(logarithms)
        kernel = (weights.astype(np.float32) @ flat).reshape(rows, rows).astype(np.float64)
        slope = np.zeros((rows, rows))  # of the loss in the kernel's entries
        loss, in_penalty, in_scale = 0.0, 0.0, 0.0
        for fit, held in parts:
            mean = signs[fit].mean(axis=0)
            factor = cho_factor(kernel[np.ix_(fit, fit)] + penalty * np.eye(len(fit)), check_finite=False)
            dual = cho_solve(factor, signs[fit] - mean, check_finite=False)  # (F, C)
            scores = kernel[np.ix_(held, fit)] @ dual + mean  # (H, C)
            probabilities = softmax(scale * scores)
            loss -= float((targets[held] * np.log(np.maximum(probabilities, 1e-30))).sum()) / rows
            residual = (probabilities - targets[held]) / rows  # (H, C) slope of the loss in scale * scores
            in_scale += scale * float((residual * scores).sum())
            back = cho_solve(factor, kernel[np.ix_(fit, held)] @ (scale * residual), check_finite=False)
            in_penalty -= penalty * float((back * dual).sum())
            slope[np.ix_(held, fit)] += scale * residual @ dual.T
            slope[np.ix_(fit, fit)] -= back @ dual.T
        per_weight = flat @ slope.ravel().astype(np.float32)  # (B,)
        in_logarithms = weights * (per_weight - weights @ per_weight)
        centred = np.nan_to_num(logarithms, neginf=0.0)
        centred = centred - _means_of_sets(centred, sets)
        loss += strength * float(centred @ centred)
        in_logarithms = in_logarithms + 2 * strength * centred
        return loss, np.concatenate([in_logarithms, [in_penalty, in_scale]])

    def stop(_: Floats) -> None:
        if should_stop():
            raise StopIteration

    settings = np.log([_FIRST_PENALTY, _FIRST_SCALE])
    numbers, members = np.unique(sets, return_inverse=True)
    shares = -np.log(np.bincount(members))[members]  # a set of many blocks does not count more
    alone = [
        objective(np.concatenate([np.where(sets == number, 0.0, -np.inf), settings]))[0] for number in numbers
    ]
    start = np.concatenate([shares - _SELECTIVITY * np.asarray(alone)[members], settings])
    found = minimize(
        objective, start, jac=True, method="L-BFGS-B", callback=stop, options={"maxiter": iterations}
    )
    return softmax(found.x[:-2])


def _means_of_sets(values: Floats, sets: NDArray[np.int64]) -> Floats:
    """Return ``(B,)``: for each block the mean of the values of its set."""
    _, members = np.unique(sets, return_inverse=True)
    return np.asarray((np.bincount(members, values) / np.bincount(members))[members])
