"""Sets hold the truth as often as was asked, whatever the probabilities are worth."""

import numpy as np
import pytest
from scipy.special import softmax

from sercache.evaluation.calibration.decisions import conformal_sets, conformal_threshold


def rows_of(generator, rows, sharpness=1.0):
    truth = softmax(generator.normal(size=(rows, 4)), axis=1)
    labels = (truth.cumsum(axis=1) > generator.random((rows, 1))).argmax(axis=1)
    return softmax(sharpness * np.log(truth), axis=1), labels


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
def test_coverage_is_what_was_asked_for_over_many_draws(coverage, sharpness):
    generator = np.random.default_rng(0)
    held = []
    for _ in range(150):
        probabilities, labels = rows_of(generator, 300, sharpness)
        threshold = conformal_threshold(probabilities[:100], labels[:100], coverage)
        sets = conformal_sets(probabilities[100:], threshold)
        held.append(sets[np.arange(200), labels[100:]].mean())
    assert coverage - 0.012 < np.mean(held)
    if coverage > 0.7:  # the most probable class is always in, which alone holds the truth half the time
        assert np.mean(held) < coverage + 0.025


def test_with_too_few_rows_every_class_is_in():
    probabilities, labels = rows_of(np.random.default_rng(0), 8)
    threshold = conformal_threshold(probabilities, labels, 0.95)
    assert threshold == 1
    assert conformal_sets(probabilities, threshold).all()
    assert conformal_threshold(np.empty((0, 4)), np.empty(0, np.int64), 0.9) == 1


def test_more_coverage_never_takes_a_class_out():
    probabilities, labels = rows_of(np.random.default_rng(1), 200)
    before = np.zeros((200, 4), dtype=bool)
    for coverage in (0.2, 0.5, 0.8, 0.9, 0.99):
        sets = conformal_sets(probabilities, conformal_threshold(probabilities, labels, coverage))
        assert (sets >= before).all()
        assert sets.any(axis=1).all()
        before = sets


def test_rows_without_a_label_do_not_count():
    probabilities, labels = rows_of(np.random.default_rng(2), 200)
    half = np.where(np.arange(200) < 100, labels, -1)
    assert conformal_threshold(probabilities, half, 0.9) == conformal_threshold(
        probabilities[:100], labels[:100], 0.9
    )
