"""Tuned thresholds are the best there are, and never worse than the plain decision on their own rows."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from sercache.evaluation.calibration.decisions import (
    conformal_sets,
    conformal_threshold,
    decide,
    tuned_thresholds,
)
from sercache.evaluation.metrics import macro_f1


def rows_of(seed, rows, classes):
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.linspace(0.5, 2, classes), rows)
    labels = np.asarray([generator.choice(classes, p=row) for row in probabilities], dtype=np.int64)
    return probabilities.reshape(rows, classes), labels


@given(seed=st.integers(0, 999), rows=st.integers(1, 60), classes=st.integers(2, 5))
def test_macro_f1_never_falls_on_the_rows_it_is_tuned_on(seed, rows, classes):
    probabilities, labels = rows_of(seed, rows, classes)
    multipliers = tuned_thresholds(probabilities, labels)
    assert (multipliers > 0).all()
    plain = macro_f1(labels, probabilities.argmax(axis=1), classes)
    assert macro_f1(labels, decide(probabilities, multipliers), classes) >= plain - 1e-12


@pytest.mark.parametrize("seed", range(8))
def test_for_two_classes_it_is_the_best_threshold_of_all(seed):
    probabilities, labels = rows_of(seed, 40, 2)
    ratios = np.sort(probabilities[:, 0] / probabilities[:, 1])
    grid = np.concatenate([[ratios[0] / 2], np.sqrt(ratios[:-1] * ratios[1:]), [2 * ratios[-1]]])
    best = max(macro_f1(labels, decide(probabilities, np.array([1.0, threshold])), 2) for threshold in grid)
    found = macro_f1(labels, decide(probabilities, tuned_thresholds(probabilities, labels)), 2)
    assert found == pytest.approx(best)


@pytest.mark.parametrize("seed", range(4))
def test_for_three_classes_it_is_near_the_best_of_a_fine_grid(seed):
    probabilities, labels = rows_of(seed, 60, 3)
    grid = np.exp(np.linspace(-2.5, 2.5, 41))
    best = max(
        macro_f1(labels, decide(probabilities, np.array([1, *threshold])), 3)
        for threshold in product(grid, grid)
    )
    found = macro_f1(labels, decide(probabilities, tuned_thresholds(probabilities, labels)), 3)
    assert found > best - 0.03


def test_a_rare_class_that_never_wins_gets_its_chance():
    generator = np.random.default_rng(0)
    labels = (generator.random(2000) < 0.1).astype(np.int64)
    rare = np.clip(0.15 + 0.2 * labels + 0.05 * generator.normal(size=2000), 0.01, 0.49)
    probabilities = np.column_stack([1 - rare, rare])
    assert probabilities.argmax(axis=1).max() == 0
    multipliers = tuned_thresholds(probabilities, labels)
    assert macro_f1(labels, decide(probabilities, multipliers), 2) > 0.85


def test_nothing_to_tune_on_leaves_the_plain_decision():
    np.testing.assert_array_equal(tuned_thresholds(np.empty((0, 3)), np.empty(0, np.int64)), np.ones(3))
    probabilities, _ = rows_of(0, 10, 3)
    np.testing.assert_array_equal(tuned_thresholds(probabilities, np.full(10, -1)), np.ones(3))


def drawn_rows(generator, rows, sharpness=1.0):
    truth = softmax(generator.normal(size=(rows, 4)), axis=1)
    labels = (truth.cumsum(axis=1) > generator.random((rows, 1))).argmax(axis=1)
    return softmax(sharpness * np.log(truth), axis=1), labels


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
def test_coverage_is_what_was_asked_for_over_many_draws(coverage, sharpness):
    generator = np.random.default_rng(0)
    held = []
    for _ in range(150):
        probabilities, labels = drawn_rows(generator, 300, sharpness)
        threshold = conformal_threshold(probabilities[:100], labels[:100], coverage)
        sets = conformal_sets(probabilities[100:], threshold)
        held.append(sets[np.arange(200), labels[100:]].mean())
    assert coverage - 0.012 < np.mean(held)
    if coverage > 0.7:  # the most probable class is always in, which alone holds the truth half the time
        assert np.mean(held) < coverage + 0.025


def test_with_too_few_rows_every_class_is_in():
    probabilities, labels = drawn_rows(np.random.default_rng(0), 8)
    threshold = conformal_threshold(probabilities, labels, 0.95)
    assert threshold == 1
    assert conformal_sets(probabilities, threshold).all()
    assert conformal_threshold(np.empty((0, 4)), np.empty(0, np.int64), 0.9) == 1


def test_more_coverage_never_takes_a_class_out():
    probabilities, labels = drawn_rows(np.random.default_rng(1), 200)
    before = np.zeros((200, 4), dtype=bool)
    for coverage in (0.2, 0.5, 0.8, 0.9, 0.99):
        sets = conformal_sets(probabilities, conformal_threshold(probabilities, labels, coverage))
        assert (sets >= before).all()
        assert sets.any(axis=1).all()
        before = sets


def test_rows_without_a_label_do_not_count():
    probabilities, labels = drawn_rows(np.random.default_rng(2), 200)
    half = np.where(np.arange(200) < 100, labels, -1)
    assert conformal_threshold(probabilities, half, 0.9) == conformal_threshold(
        probabilities[:100], labels[:100], 0.9
    )
