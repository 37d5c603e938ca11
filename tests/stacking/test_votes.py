"""Weighted vote and greedy selection: against a general optimiser, a slow version, and known members."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.metrics import f1_score

from sercache.recipe import StackingRecipe
from sercache.stacking.votes import (
    GreedyVote,
    WeightedVote,
    chosen_counts,
    likeliest_weights,
    nearest_weights,
)

UNBALANCED = StackingRecipe(balance_exponent=0.0)


def on_the_simplex(loss, members):
    found = minimize(
        loss,
        np.full(members, 1 / members),
        bounds=[(0, 1)] * members,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    return found.fun


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), members=st.integers(1, 5))
def test_no_weights_make_the_votes_likelier(seed, members):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(3), size=(60, members))
    mass = rng.dirichlet(np.ones(3), size=60) * (rng.random((60, 1)) < 0.8)

    def loss(weights):
        mixed = np.einsum("nmc,m->nc", probabilities, weights)
        return -(mass * np.log(mixed)).sum() / mass.sum()

    weights = likeliest_weights(probabilities, mass)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)
    assert loss(weights) == pytest.approx(on_the_simplex(loss, members), abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), members=st.integers(1, 5))
def test_no_weights_come_nearer_to_the_attribute(seed, members):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=50)
    values = (
        truth[:, None]
        + rng.normal(size=(50, members)) * rng.uniform(0.1, 2, members)
        + rng.normal(size=members)
    )

    def loss(weights):
        return np.mean((values @ weights - truth) ** 2)

    weights = nearest_weights(values, truth)
    assert weights.sum() == pytest.approx(1)
    assert loss(weights) == pytest.approx(on_the_simplex(loss, members), abs=1e-5)


def test_a_member_that_knows_nothing_gets_no_weight(simulate):
    rows = simulate(seed=2, speakers=30, members=3).rows()
    rng = np.random.default_rng(0)
    noise = rows.inputs.class_probabilities.copy()
    noise[:, 1] = rng.dirichlet(np.ones(4), size=len(rows))
    blinded = np.array(rows.inputs.attribute_values)
    blinded[:, 1, 0] = rng.uniform(1, 7, len(rows))
    rows = replace(rows, inputs=replace(rows.inputs, class_probabilities=noise, attribute_values=blinded))
    for stacker in (WeightedVote.from_recipe(UNBALANCED, 0), GreedyVote.from_recipe(UNBALANCED, 0)):
        stacker.fit(rows)
        assert stacker.shares_["m1"] < 0.12
        assert sum(stacker.shares_.values()) == pytest.approx(1)
    vote = WeightedVote.from_recipe(UNBALANCED, 0)
    vote.fit(rows)
    assert vote.attribute_weights_[0, 1] < 0.1


def slow_selection(rows, steps=50):
    """Caruana's algorithm, word by word, with scikit-learn's metrics."""
    scored = rows.labels >= 0
    labels, votes = rows.labels[scored], rows.soft_targets[scored]
    members = rows.inputs.class_probabilities[scored]
    chosen, best, best_chosen = [], (-1.0, -np.inf), []
    for _ in range(steps):
        tried = []
        for candidate in range(members.shape[1]):
            vote = members[:, [*chosen, candidate]].mean(axis=1)
            present = sorted(set(labels) | set(vote.argmax(axis=1)))
            score = f1_score(labels, vote.argmax(axis=1), average="macro", labels=present)
            loss = np.mean([-(t * np.log(p)).sum() for t, p in zip(votes, vote, strict=True)])
            tried.append((round(score, 12), -loss))
        chosen.append(max(range(len(tried)), key=lambda candidate: tried[candidate]))
        if tried[chosen[-1]] > best:
            best, best_chosen = tried[chosen[-1]], list(chosen)
    return np.bincount(best_chosen, minlength=members.shape[1])


@pytest.mark.parametrize("seed", range(3))
def test_greedy_vote_is_caruanas(seed, simulate):
    rows = simulate(seed=seed, speakers=4, rows=20, members=4, skill=0.8).rows()
    np.testing.assert_array_equal(chosen_counts(rows), slow_selection(rows))


def test_weighted_votes_never_lose_on_the_rows_they_learn_from(rows):
    vote = WeightedVote.from_recipe(UNBALANCED, 0)
    vote.fit(rows)
    known = ~np.isnan(rows.soft_targets).any(axis=1)

    def loss(probabilities):
        return -(rows.soft_targets[known] * np.log(probabilities[known])).sum()

    mean = rows.inputs.class_probabilities.mean(axis=1)
    assert loss(vote.predict(rows.inputs).class_probabilities) <= loss(mean) + 1e-9
