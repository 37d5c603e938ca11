"""Calibrators find what was done to probabilities, and do no harm where there is nothing to learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from sercache.evaluation.calibration.dirichlet import Dirichlet
from sercache.evaluation.calibration.registry import CALIBRATORS
from sercache.evaluation.calibration.temperature import Temperature
from sercache.evaluation.metrics import log_loss
from sercache.evaluation.probabilities import log_probabilities


def calibrated_rows(rows, classes=4, seed=0):
    """Return probabilities that are true, and labels drawn from them."""
    generator = np.random.default_rng(seed)
    probabilities = softmax(1.5 * generator.normal(size=(rows, classes)), axis=1)
    labels = np.asarray([generator.choice(classes, p=row) for row in probabilities])
    return probabilities, labels


def loss(probabilities, labels):
    return log_loss(np.eye(probabilities.shape[1])[labels], probabilities)


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_found(sharpness):
    probabilities, labels = calibrated_rows(8000)
    distorted = softmax(sharpness * np.log(probabilities), axis=1)
    temperature = Temperature()
    temperature.fit(distorted, labels)
    assert temperature.temperature == pytest.approx(sharpness, rel=0.06)
    np.testing.assert_array_equal(temperature(distorted).argmax(axis=1), distorted.argmax(axis=1))


def test_dirichlet_undoes_what_one_temperature_cannot():
    probabilities, labels = calibrated_rows(6000)
    weight, bias = np.diag([1.0, 2.5, 0.5, 1.5]), np.array([0.0, 1.0, -0.5, 0.3])
    distorted = softmax(np.log(probabilities) @ weight + bias, axis=1)
    fit, new = slice(0, 4000), slice(4000, None)
    losses = {}
    for name in CALIBRATORS:
        calibrator = CALIBRATORS[name]()
        calibrator.fit(distorted[fit], labels[fit])
        losses[name] = loss(calibrator(distorted[new]), labels[new])
    assert losses["dirichlet"] < losses["temperature"] - 0.02 < losses["none"] - 0.02
    assert losses["dirichlet"] == pytest.approx(loss(probabilities[new], labels[new]), abs=0.02)


def test_dirichlet_without_its_prior_is_logistic_regression_on_log_probabilities(monkeypatch):
    monkeypatch.setattr("sercache.evaluation.calibration.dirichlet._PRIOR_DEVIATION", 1e3)
    probabilities, labels = calibrated_rows(1500, classes=3)
    distorted = softmax(2 * np.log(probabilities) + np.array([0.5, 0.0, -1.0]), axis=1)
    ours = Dirichlet()
    ours.fit(distorted, labels)
    logs = log_probabilities(distorted)
    theirs = LogisticRegression(C=1e6, max_iter=5000, tol=1e-8).fit(logs, labels)
    np.testing.assert_allclose(ours(distorted), theirs.predict_proba(logs), atol=2e-3)


def test_with_few_rows_dirichlet_is_nearly_temperature_scaling():
    probabilities, labels = calibrated_rows(5)
    first, second = Dirichlet(), Temperature()
    first.fit(probabilities, labels)
    second.fit(probabilities, labels)
    new, _ = calibrated_rows(50, seed=1)
    assert np.abs(first(new) - second(new)).max() < 0.25


@pytest.mark.parametrize("name", list(CALIBRATORS))
@given(rows=st.integers(0, 12), classes=st.integers(2, 5), seed=st.integers(0, 99), hard=st.booleans())
def test_whatever_comes_in_probabilities_come_out_and_again_after_saving(name, rows, classes, seed, hard):
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.full(classes, 0.3), rows)
    if hard and rows:
        probabilities = np.eye(classes)[probabilities.argmax(axis=1)]
    labels = generator.integers(-1, classes, rows)
    calibrator = CALIBRATORS[name]()
    calibrator.fit(probabilities, labels)
    new = np.vstack([generator.dirichlet(np.full(classes, 0.3), 6), np.eye(classes)])
    out = calibrator(new)
    assert np.isfinite(out).all()
    np.testing.assert_allclose(out.sum(axis=1), 1)
    again = CALIBRATORS[name].from_learned(calibrator.learned)
    np.testing.assert_allclose(again(new), out)


@pytest.mark.parametrize("name", list(CALIBRATORS))
def test_rows_without_a_label_do_not_count(name):
    probabilities, labels = calibrated_rows(300)
    first, second = CALIBRATORS[name](), CALIBRATORS[name]()
    first.fit(probabilities[:200], labels[:200])
    second.fit(probabilities, np.where(np.arange(300) < 200, labels, -2))
    np.testing.assert_allclose(first(probabilities), second(probabilities), atol=1e-6)
