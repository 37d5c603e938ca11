"""Logistic regression against scikit-learn's stacking, soft targets of trees, and what members count."""

from dataclasses import replace

import lightgbm
import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import StackingClassifier
from sklearn.linear_model import LogisticRegression

from sercache.evaluation.metrics import macro_f1
from sercache.recipe import LightGBMRecipe, StackingRecipe
from sercache.stacking import logistic
from sercache.stacking.boosting import LightGBM, soft_metric, soft_objective
from sercache.stacking.logistic import Logistic, logistic_features
from sercache.stacking.network import Network, network_features
from sercache.stacking.neural import barrier
from sercache.stacking.registry import STACKERS
from sercache.stacking.rows import StackingInputs, StackingRows
from sercache.stacking.shares import linear_shares


class Remembered(ClassifierMixin, BaseEstimator):
    """An estimator that is a member: it looks its posteriors up by row number."""

    def __init__(self, table=None):
        self.table = table

    def fit(self, rows, labels):
        self.classes_ = np.unique(labels)
        return self

    def predict_proba(self, rows):
        return self.table[rows[:, 0]]

    def predict(self, rows):
        return self.classes_[self.predict_proba(rows).argmax(axis=1)]


def hard(rows: StackingRows) -> StackingRows:
    rows = rows.where(rows.labels >= 0)
    return replace(rows, soft_targets=np.eye(4)[rows.labels])


def test_the_linear_case_is_scikit_learns_stacking_with_grouped_folds(simulate, monkeypatch):
    rows = hard(simulate(speakers=12, attributes=False).rows())
    features = logistic_features(rows.inputs).reshape(len(rows), 3, 4)
    members = [(name, Remembered(features[:, index])) for index, name in enumerate(rows.inputs.members)]
    grouped = [(np.flatnonzero(rows.folds != fold), np.flatnonzero(rows.folds == fold)) for fold in range(4)]
    oracle = StackingClassifier(members, LogisticRegression(C=0.1, max_iter=5000, tol=1e-8), cv=grouped)
    numbers = np.arange(len(rows))[:, None]
    expected = oracle.fit(numbers, rows.labels).predict_proba(numbers)
    monkeypatch.setattr(logistic, "STRENGTHS", (0.1,))
    stacker = Logistic.from_recipe(StackingRecipe(balance_exponent=0.0), 0)
    stacker.fit(rows)
    actual = stacker.predict(rows.inputs).class_probabilities
    np.testing.assert_allclose(actual, expected, atol=2e-3)
    assert (actual.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.99


def test_the_gradient_for_trees_is_that_of_the_cross_entropy_against_the_votes():
    rng = np.random.default_rng(0)
    mass = rng.dirichlet(np.ones(5), size=30) * rng.uniform(0.5, 2, 5)
    mass[3] = 0
    counted = mass[mass.sum(axis=1) > 0]
    scores = torch.from_numpy(rng.normal(size=counted.shape)).requires_grad_()
    loss = -(torch.from_numpy(counted) * scores.log_softmax(dim=1)).sum()
    loss.backward()
    gradient, curvature = soft_objective(mass)(scores.detach().numpy(), None)
    np.testing.assert_allclose(gradient, scores.grad.numpy(), atol=1e-12)
    total = counted.sum(axis=1, keepdims=True)
    probabilities = softmax(scores.detach().numpy(), axis=1)
    np.testing.assert_allclose(curvature, 5 / 4 * total * probabilities * (1 - probabilities))
    name, value, higher_is_better = soft_metric(mass)(scores.detach().numpy(), None)
    assert value == pytest.approx(loss.item() / counted.sum())
    assert (name, higher_is_better) == ("soft_log_loss", False)


def test_with_hard_targets_our_objective_is_lightgbms_own():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(300, 4))
    labels = (features[:, 0] + 0.5 * rng.normal(size=300) > 0).astype(int) + (features[:, 1] > 0.5)
    common = {"num_class": 3, "verbosity": -1, "num_threads": 1, "boost_from_average": False}
    start = np.zeros((300, 3))
    builtin = lightgbm.train(
        common | {"objective": "multiclass"}, lightgbm.Dataset(features, labels, init_score=start), 10
    )
    ours = lightgbm.train(
        common | {"objective": soft_objective(np.eye(3)[labels])},
        lightgbm.Dataset(features, labels, init_score=start),
        10,
    )
    expected, actual = builtin.predict(features, raw_score=True), ours.predict(features, raw_score=True)
    np.testing.assert_allclose(softmax(actual, axis=1), softmax(expected, axis=1), atol=1e-3)


def test_both_ways_to_soft_targets_agree(simulate):
    rows = simulate(seed=1, speakers=40, members=4, bias=2.5, skill=1.2).rows()
    fit, fresh = rows.take(np.arange(700)), rows.take(np.arange(700, 1000))
    predicted = []
    for way in ("duplicate", "objective"):
        settings = StackingRecipe(lightgbm=LightGBMRecipe(learning_rate=0.1, soft_targets=way))
        stacker = LightGBM.from_recipe(settings, 0)
        stacker.fit(fit)
        predicted.append(stacker.predict(fresh.inputs).class_probabilities)
    assert np.abs(predicted[0] - predicted[1]).mean() < 0.03


@pytest.mark.parametrize("name", ["logistic", "neural", "soup", "lightgbm"])
def test_a_member_counts_as_much_as_it_says(name, simulate):
    rows = simulate(seed=3, speakers=30, members=3, bias=2.0).rows()
    blind = rows.inputs.class_probabilities.copy()
    blind[:, 2] = 0.25
    values = np.array(rows.inputs.attribute_values)
    values[:, 2] = 4.0
    rows = replace(rows, inputs=replace(rows.inputs, class_probabilities=blind, attribute_values=values))
    stacker = STACKERS[name].from_recipe(StackingRecipe(), 0)
    stacker.fit(rows)
    assert sum(stacker.shares_.values()) == pytest.approx(1)
    assert stacker.shares_["m2"] < 0.1
    assert min(stacker.shares_["m0"], stacker.shares_["m1"]) > 0.2


def test_linear_shares_are_exact_shapley_values():
    rng = np.random.default_rng(0)
    features, weight = rng.normal(size=(50, 4)), rng.normal(size=(4, 3))
    weight -= weight.mean(axis=1, keepdims=True)
    mean = features.mean(axis=0)

    def value(row, known):
        filled = np.where(np.repeat(known, 2), row, mean)
        return filled @ weight

    sizes = np.zeros(2)
    for row in features:
        for member in range(2):
            first, second = np.eye(2, dtype=bool)[member], np.eye(2, dtype=bool)[1 - member]
            none, both = np.zeros(2, dtype=bool), np.ones(2, dtype=bool)
            shapley = (value(row, first) - value(row, none) + value(row, both) - value(row, second)) / 2
            sizes[member] += np.abs(shapley).mean()
    inputs = StackingInputs(
        tuple(map(str, range(50))), ("a", "b"), ("x", "y"), (), features.reshape(50, 2, 2),
        np.empty((50, 2, 0)), (), np.empty((50, 0)),
    )  # fmt: skip
    shares = linear_shares(features, weight, inputs)
    assert shares["a"] == pytest.approx(sizes[0] / sizes.sum())


def network(rng, hidden):
    inputs = 12
    return Network(
        vote=np.zeros((inputs, 4)),
        weight=rng.normal(size=(hidden or inputs, 4)),
        bias=np.zeros(4),
        hidden_weight=rng.normal(size=(inputs, hidden)),
        hidden_bias=rng.normal(size=hidden),
    )


def test_there_is_no_barrier_between_linear_networks_and_one_between_strangers_with_a_hidden_layer(simulate):
    rows = simulate(attributes=False).rows()
    rng = np.random.default_rng(0)
    linear = network(rng, 0), network(rng, 0)
    assert barrier(*linear, rows) <= 1e-12
    once = network(rng, 16)
    order = rng.permutation(16)
    rows = replace(rows, soft_targets=softmax(once.outputs(network_features(rows.inputs)), axis=1))
    same_function = Network(
        once.vote, once.weight[order], once.bias, once.hidden_weight[:, order], once.hidden_bias[order]
    )
    assert barrier(once, same_function, rows) > 0.01
    assert barrier(once, once, rows) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", ["logistic", "neural", "lightgbm"])
def test_members_that_only_decide_are_stacked_no_worse_than_by_the_vote(simulate, name):
    rows = simulate(speakers=30, members=4, noise=1.5).rows()
    decided = np.eye(4)[rows.inputs.class_probabilities.argmax(axis=2)]
    rows = replace(rows, inputs=replace(rows.inputs, class_probabilities=decided))
    half = rows.folds < 2
    scored = rows.where(~half & (rows.labels >= 0))
    scores = []
    for kind in (name, "soft-vote"):
        stacker = STACKERS[kind].from_recipe(StackingRecipe(), 0)
        stacker.fit(rows.where(half))
        predicted = stacker.predict(scored.inputs).class_probabilities.argmax(axis=1)
        scores.append(macro_f1(scored.labels, predicted, 4))
    assert scores[0] > scores[1] - 0.02
