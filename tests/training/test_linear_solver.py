"""Ridge and logistic regression against scikit-learn and plain normal equations, in both forms."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge

from sercache.training.linear_solver import (
    ArrayRows,
    DualSystem,
    Floats,
    LinearModel,
    Moments,
    PrimalSystem,
    logistic,
    ridge,
)

Fit = Callable[[Any, Floats, float], tuple[Floats, Floats]]


class Streamed:
    """Rows that come in blocks of three."""

    def __init__(self, values: Floats) -> None:
        self.values = values
        self.shape = values.shape

    def blocks(self) -> Iterator[tuple[slice, Floats]]:
        for first in range(0, len(self.values), 3):
            yield slice(first, first + 3), self.values[first : first + 3]


def problem(rows: int, features: int, classes: int, seed: int) -> tuple[Floats, Floats, Floats]:
    """Return rows off centre and of uneven scale, soft targets, and weights of which one is 0."""
    generator = np.random.default_rng(seed)
    values = generator.normal(3.0, 1.0, (rows, features)) * generator.uniform(0.1, 3.0, features)
    targets = generator.dirichlet(np.full(classes, 0.3), rows)
    weights = generator.uniform(0.2, 3.0, rows)
    weights[0] = 0.0
    return values, targets, weights


def softmax(logits: Floats) -> Floats:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def fitted(
    values: Floats, targets: Floats, weights: Floats, penalty: float, fit: Fit, form: str
) -> LinearModel:
    if form == "dual":
        dual = DualSystem(values @ values.T, weights)
        return dual.model(Streamed(values), *fit(dual, targets, penalty))
    primal = PrimalSystem(Streamed(values) if form == "streamed" else ArrayRows(values), weights)
    return primal.model(*fit(primal, targets, penalty))


@pytest.mark.parametrize("form", ["dual", "primal", "streamed"])
@pytest.mark.parametrize(("rows", "features"), [(40, 7), (12, 60), (20, 20)])
def test_ridge_equals_scikit_learns_with_weights_and_soft_targets(
    rows: int, features: int, form: str
) -> None:
    values, targets, weights = problem(rows, features, 4, 0)
    for penalty in (1e-2, 1.0, 100.0):
        model = fitted(values, targets, weights, penalty, ridge, form)
        oracle = Ridge(alpha=penalty).fit(values, targets, sample_weight=weights)
        np.testing.assert_allclose(model.predict(ArrayRows(values)), oracle.predict(values), atol=1e-6)


@pytest.mark.parametrize("form", ["dual", "primal", "streamed"])
@pytest.mark.parametrize(("rows", "features"), [(60, 5), (15, 50)])
def test_logistic_equals_scikit_learns_on_votes(rows: int, features: int, form: str) -> None:
    values, targets, weights = problem(rows, features, 3, 1)
    votes = np.round(targets * 4)
    votes[:, 0] += votes.sum(axis=1) == 0
    soft = votes / votes.sum(axis=1, keepdims=True)
    model = fitted(values, soft, weights, 1.0, logistic, form)
    # A row with votes for several classes is several weighted rows of one class each.
    repeated, labels = np.repeat(values, 3, axis=0), np.tile(np.arange(3), rows)
    counts = (soft * weights[:, None]).ravel()
    oracle = LogisticRegression(C=1.0, tol=1e-12, max_iter=500, solver="newton-cg")
    oracle.fit(repeated[counts > 0], labels[counts > 0], sample_weight=counts[counts > 0])
    predicted = softmax(model.predict(ArrayRows(values)))
    np.testing.assert_allclose(predicted, oracle.predict_proba(values), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 12), st.integers(1, 12), st.integers(2, 4), st.integers(0, 1000))
def test_dual_and_primal_form_agree(rows: int, features: int, classes: int, seed: int) -> None:
    values, targets, weights = problem(rows, features, classes, seed)
    for fit in (ridge, logistic):
        first, second = (
            fitted(values, targets, weights, 0.5, fit, form).predict(ArrayRows(values))
            for form in ("dual", "streamed")
        )
        np.testing.assert_allclose(softmax(first), softmax(second), atol=1e-6)


def test_rows_are_predicted_from_their_inner_products() -> None:
    values, targets, weights = problem(20, 30, 3, 4)
    others = problem(5, 30, 3, 5)[0]
    system = DualSystem(values @ values.T, weights)
    solution = ridge(system, targets, 0.5)
    expected = system.model(ArrayRows(values), *solution).predict(ArrayRows(others))
    np.testing.assert_allclose(system.predict(others @ values.T, *solution), expected, atol=1e-9)


def test_moments_of_parts_add_up() -> None:
    values, _, weights = problem(20, 4, 3, 6)
    both = Moments.of(ArrayRows(values[:7]), weights[:7]) + Moments.of(Streamed(values[7:]), weights[7:])
    whole = Moments.of(ArrayRows(values), weights)
    assert both.total == pytest.approx(whole.total)
    np.testing.assert_allclose(both.first, whole.first)
    np.testing.assert_allclose(both.second, whole.second)


@pytest.mark.parametrize("form", ["dual", "primal"])
def test_constant_features_change_nothing(form: str) -> None:
    values, targets, weights = problem(30, 4, 3, 2)
    more = np.concatenate([values, np.full((30, 2), 7.0)], axis=1)
    first = fitted(values, targets, weights, 0.1, ridge, form).predict(ArrayRows(values))
    second = fitted(more, targets, weights, 0.1, ridge, form).predict(ArrayRows(more))
    np.testing.assert_allclose(first, second, atol=1e-7)


def test_a_warm_start_ends_at_the_same_minimum() -> None:
    values, targets, weights = problem(30, 40, 3, 3)
    system = DualSystem(values @ values.T, weights)
    start = logistic(system, targets, 10.0)
    cold, warm = logistic(system, targets, 1.0), logistic(system, targets, 1.0, start)
    np.testing.assert_allclose(cold[0], warm[0], atol=1e-5)


def test_rows_without_weight_are_refused() -> None:
    with pytest.raises(ValueError, match="no row has a weight"):
        DualSystem(np.eye(3), np.zeros(3))
