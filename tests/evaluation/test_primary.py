import numpy as np
import pytest

from sercache.evaluation.bootstrap import SpeakerBootstrap, mean_ccc_metric
from sercache.evaluation.metrics import macro_f1, mean_ccc
from sercache.evaluation.primary import MACRO_F1, MEAN_CCC, Truth, primary_in, primary_score
from support.simulated_attributes import lins_mean


@pytest.fixture
def rated():
    """Ratings of three attributes, some missing, and predictions of them."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(60, 3))
    predicted = truth + rng.normal(size=truth.shape)
    truth[rng.random(truth.shape) < 0.2] = np.nan
    return truth, predicted


def test_the_mean_ccc_is_lins_mean(rated):
    assert mean_ccc(*rated) == pytest.approx(lins_mean(*rated), abs=1e-12)
    assert mean_ccc_metric(*rated).value == pytest.approx(lins_mean(*rated), abs=1e-12)


def test_an_attribute_that_nobody_rated_is_left_out(rated):
    truth, predicted = rated
    truth[:, 1] = np.nan
    assert mean_ccc(truth, predicted) == pytest.approx(lins_mean(truth[:, ::2], predicted[:, ::2]))
    assert mean_ccc_metric(truth, predicted).value == pytest.approx(mean_ccc(truth, predicted))
    assert np.isnan(mean_ccc(np.full((3, 2), np.nan), np.zeros((3, 2))))


def test_always_the_same_value_scores_zero(rated):
    truth, _ = rated
    assert mean_ccc(truth, np.full(truth.shape, 0.3)) == pytest.approx(0.0, abs=1e-12)


def test_the_fast_bootstrap_is_the_slow_one(rated):
    bootstrap = SpeakerBootstrap([f"s{row % 7}" for row in range(60)], samples=50)
    slow = bootstrap.replicates_of(lambda rows: lins_mean(rated[0][rows], rated[1][rows]))
    np.testing.assert_allclose(bootstrap.replicates(mean_ccc_metric(*rated)), slow, atol=1e-9)


def test_classes_decide_where_there_are_any(rated):
    truth, predicted = rated
    labels = np.asarray([-1, *np.arange(59) % 3])
    scores = np.eye(3)[np.roll(labels, 3)]
    known = Truth(labels, truth, 3)
    assert known.primary == MACRO_F1
    assert known.is_scored.tolist() == [False] + [True] * 59
    expected = macro_f1(labels[1:], scores[1:].argmax(axis=1), 3)
    assert known.score(scores, predicted) == known.metric(scores, predicted).value == expected


def test_attributes_decide_where_there_are_no_classes(rated):
    truth, predicted = rated
    truth[4] = np.nan
    alone = Truth(np.full(60, -3), truth, 0)
    assert alone.primary == MEAN_CCC
    assert np.flatnonzero(~alone.is_scored).tolist() == np.flatnonzero(np.isnan(truth).all(axis=1)).tolist()
    nothing = np.empty((60, 0))
    assert alone.score(nothing, predicted) == pytest.approx(lins_mean(truth, predicted))
    part = alone.take(np.arange(30))
    assert part.score(nothing[:30], predicted[:30]) == pytest.approx(lins_mean(truth[:30], predicted[:30]))


def test_the_primary_score_is_found_among_names():
    assert primary_score(2) == primary_in(("macro_f1", "uar", "ccc:arousal")) == MACRO_F1
    assert primary_score(0) == primary_in({"epoch": 1, "mean_ccc": 0.3}) == MEAN_CCC
