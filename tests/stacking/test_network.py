from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from sercache.benchmarks.simulated_members import SimulatedMembers
from sercache.benchmarks.stacking_simulation import macro_f1_on
from sercache.errors import StackingError
from sercache.evaluation.probabilities import softmax
from sercache.recipe import NeuralRecipe, StackingRecipe
from sercache.stacking.network import Network, network_features
from sercache.stacking.network_training import RunSettings, evaluate_network, initial_network, train_runs
from sercache.stacking.neural import Neural, Soup, average_runs, choose_soup
from sercache.stacking.rows import class_weights, stopping_slice
from sercache.stacking.votes import SoftVote

QUICK = StackingRecipe(neural=NeuralRecipe(runs=4, epochs=20, patience=5))


def exact(rows, balance_exponent):
    """Return settings under which a run finds the optimum: one batch, no decay, no early stop."""
    return RunSettings(
        epochs=400,
        patience=400,
        batch_size=len(rows),
        learning_rate=0.1,
        weight_decay=0,
        balance_exponent=balance_exponent,
    )


HIDDEN = StackingRecipe(neural=NeuralRecipe(runs=4, epochs=10, patience=5, hidden=8))


@pytest.fixture(scope="module")
def many(simulate):
    return simulate(seed=3, speakers=24, attributes=False).rows()


def test_the_linear_network_equals_scikit_learns_logistic_regression(many):
    """Hard labels, all classes alike, no decay, no early stop: both then find the one optimum."""
    rows = many.where(many.labels >= 0)
    rows = replace(rows, soft_targets=np.eye(4)[rows.labels])
    (run,) = train_runs(rows, rows, initial_network(rows, 0, seed=0), [0], exact(rows, 0.0))
    features = network_features(rows.inputs)
    oracle = LogisticRegression(C=np.inf, max_iter=5000, tol=1e-10).fit(features, rows.labels)
    ours = softmax(run.network.outputs(features))
    np.testing.assert_allclose(ours, oracle.predict_proba(features), atol=2e-3)


def test_soft_targets_equal_scikit_learn_on_weighted_duplicates(many):
    (run,) = train_runs(many, many, initial_network(many, 0, seed=0), [0], exact(many, 0.5))
    features, weights = network_features(many.inputs), class_weights(many.soft_targets, 0.5)
    which, classes = np.nonzero(many.soft_targets)
    shares = (many.soft_targets * weights)[which, classes]
    oracle = LogisticRegression(C=np.inf, max_iter=5000, tol=1e-10)
    oracle.fit(features[which], classes, sample_weight=shares)
    np.testing.assert_allclose(
        softmax(run.network.outputs(features)), oracle.predict_proba(features), atol=2e-3
    )


@pytest.mark.parametrize("hidden", [0, 8])
def test_training_starts_at_the_soft_vote(rows, hidden):
    vote = SoftVote()
    vote.fit(rows)
    expected = vote.predict(rows.inputs)
    initial = initial_network(rows, hidden, seed=0).predict(rows.inputs)
    np.testing.assert_array_equal(
        initial.class_probabilities.argmax(axis=1), expected.class_probabilities.argmax(axis=1)
    )
    np.testing.assert_allclose(initial.attribute_values, expected.attribute_values)


def test_nothing_comes_after_the_output(rows):
    """A released meta-classifier had a ReLU after its output; negative logits were lost."""
    initial = initial_network(rows, 0, seed=0)
    outputs = replace(initial, bias=initial.bias - 3).outputs(network_features(rows.inputs))
    assert (outputs < 0).any()


@pytest.mark.parametrize("settings", [QUICK, HIDDEN], ids=["linear", "hidden"])
def test_a_run_does_not_depend_on_the_runs_beside_it(rows, settings):
    many_runs, _ = Neural.from_recipe(settings, 5).train_runs(rows, 4)
    (alone,), _ = Neural.from_recipe(settings, 5).train_runs(rows, 1)
    np.testing.assert_allclose(alone.network.weight, many_runs[0].network.weight, atol=1e-9)
    assert alone.epoch == many_runs[0].epoch
    assert np.abs(many_runs[0].network.weight - many_runs[1].network.weight).max() > 1e-6
    assert len({run.initialisation for run in many_runs}) == 1


def test_a_soup_of_linear_runs_is_exactly_the_mean_of_their_logits(rows):
    runs, _ = Neural.from_recipe(QUICK, 0).train_runs(rows, 4)
    features = network_features(rows.inputs)
    mean = np.mean([run.network.outputs(features) for run in runs], axis=0)
    np.testing.assert_allclose(average_runs(runs).outputs(features), mean, atol=1e-12)


def test_hidden_runs_of_several_initialisations_make_no_soup(rows):
    settings = replace_neural(hidden=8)
    first, _ = Neural.from_recipe(settings, 0).train_runs(rows, 2)
    second, _ = Neural.from_recipe(settings, 1).train_runs(rows, 2)
    with pytest.raises(StackingError, match="needs one initialisation for all"):
        average_runs([*first, *second])
    average_runs(first)
    linear_first, _ = Neural.from_recipe(QUICK, 0).train_runs(rows, 1)
    linear_second, _ = Neural.from_recipe(QUICK, 1).train_runs(rows, 1)
    average_runs([*linear_first, *linear_second])


def replace_neural(**changes):
    return QUICK.model_copy(update={"neural": QUICK.neural.model_copy(update=changes)})


@pytest.mark.parametrize("settings", [QUICK, HIDDEN], ids=["linear", "hidden"])
@pytest.mark.parametrize("seed", range(4))
def test_a_soup_never_loses_to_its_best_run_on_the_rows_it_was_scored(rows, settings, seed):
    runs, stop = Neural.from_recipe(settings, seed).train_runs(rows, 4)
    network, description = choose_soup(runs, stop)
    best = max(evaluate_network(run.network, stop).score for run in runs)
    assert evaluate_network(network, stop).score >= best
    chosen = [runs[index] for index in description["runs"]]
    np.testing.assert_allclose(network.weight, average_runs(chosen).weight)


def test_a_spoilt_run_stays_out_of_the_soup(rows):
    runs, stop = Neural.from_recipe(QUICK, 0).train_runs(rows, 3)
    spoilt = replace(
        runs[1],
        network=replace(
            runs[1].network,
            weight=-30 * np.ones_like(runs[1].network.weight),
            bias=np.array([500.0, 0, 0, 0, 0]),
        ),
    )
    _, description = choose_soup([runs[0], spoilt, runs[2]], stop)
    assert description["kept"] in ("greedy", "best run")
    assert 1 not in description["runs"]


def test_early_stopping_never_sees_a_speaker_that_is_fitted_on(rows):
    fit, stop = stopping_slice(rows, 0.15, seed=0)
    assert not set(fit.speakers) & set(stop.speakers)
    assert sorted(fit.inputs.ids + stop.inputs.ids) == sorted(rows.inputs.ids)
    assert 0.05 < len(stop) / len(rows) < 0.3
    everyone, nobody = stopping_slice(rows.where(np.array(rows.speakers) == "s001"), 0.15, seed=0)
    assert (len(everyone), len(nobody)) == (25, 0)


def test_the_neural_stacker_is_the_first_run_of_its_soup(rows):
    neural, soup = Neural.from_recipe(QUICK, 3), Soup.from_recipe(replace_neural(runs=1), 3)
    neural.fit(rows)
    soup.fit(rows)
    np.testing.assert_allclose(
        neural.predict(rows.inputs).class_probabilities, soup.predict(rows.inputs).class_probabilities
    )


def test_class_weights_balance_as_the_exponent_says():
    targets = np.repeat(np.eye(3), [80, 15, 5], axis=0)
    np.testing.assert_allclose(class_weights(targets, 0.0), 1)
    np.testing.assert_allclose(class_weights(targets, 1.0) * [80, 15, 5], 100 / 3)
    np.testing.assert_allclose(class_weights(targets, 0.5), class_weights(targets, 1.0) ** 0.5)
    np.testing.assert_allclose(class_weights(np.eye(3)[[0, 0, 1]], 1.0), [0.5, 1.0, 1.0])
    np.testing.assert_allclose(class_weights(np.empty((0, 3)), 0.5), 1)


def test_balance_lifts_the_rare_class(simulate):
    rows = simulate(seed=1, speakers=30, skill=0.8).rows()
    rare = rows.where((rows.labels != 1) | (np.arange(len(rows)) % 8 == 0))

    def named(exponent):
        stacker = Neural.from_recipe(StackingRecipe(balance_exponent=exponent), 0)
        stacker.fit(rare)
        return np.mean(stacker.predict(rare.inputs).class_probabilities.argmax(axis=1) == 1)

    assert named(0.0) < named(0.5) < named(1.0)


def test_weights_of_something_else_are_refused():
    with pytest.raises(StackingError, match="not the weights"):
        Network.from_bytes(b"nonsense")


@pytest.mark.parametrize("hidden", [0, 8])
def test_a_network_of_logarithms_starts_at_the_vote_by_geometric_means(rows, hidden):
    initial = initial_network(rows, hidden, seed=0, sees_logs=True).predict(rows.inputs)
    logs = np.log(np.maximum(rows.inputs.class_probabilities, 1e-6)).mean(axis=1)
    np.testing.assert_array_equal(initial.class_probabilities.argmax(axis=1), logs.argmax(axis=1))


@pytest.mark.parametrize("stacker", [Neural, Soup])
def test_what_a_network_sees_is_kept_with_its_weights(rows, tmp_path, stacker):
    predicted = {}
    for inputs in ("probabilities", "log"):
        fitted = stacker.from_recipe(replace_neural(inputs=inputs), 0)
        fitted.fit(rows)
        fitted.save(tmp_path / inputs)
        loaded = stacker.load(tmp_path / inputs)
        predicted[inputs] = fitted.predict(rows.inputs).class_probabilities
        np.testing.assert_array_equal(loaded.predict(rows.inputs).class_probabilities, predicted[inputs])
        assert fitted.shares_ == loaded.shares_
    assert abs(predicted["log"] - predicted["probabilities"]).max() > 0.01


def test_where_the_best_rule_is_linear_in_logarithms_they_are_the_better_inputs():
    truth = SimulatedMembers.faulty(4, 4)
    fit, _ = truth.draw(2000, 0)
    new, _ = truth.draw(6000, 1, "n")
    scores = {}
    for inputs in ("probabilities", "log"):
        fitted = Neural.from_recipe(StackingRecipe(neural=NeuralRecipe(epochs=40, inputs=inputs)), 0)
        fitted.fit(fit)
        scores[inputs] = macro_f1_on(new, fitted.predict(new.inputs))
    assert scores["log"] > scores["probabilities"]
