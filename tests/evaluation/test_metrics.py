import numpy as np
import pytest
import sklearn.metrics as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from sercache.evaluation import metrics


@st.composite
def labelled(draw):
    num_classes = draw(st.integers(2, 6))
    rows = draw(st.integers(1, 40))
    index = st.integers(0, num_classes - 1)
    labels = np.array(draw(st.lists(index, min_size=rows, max_size=rows)))
    predicted = np.array(draw(st.lists(index, min_size=rows, max_size=rows)))
    return labels, predicted, num_classes


@st.composite
def distributions(draw):
    seed, rows, classes = draw(st.integers(0, 2**31)), draw(st.integers(1, 30)), draw(st.integers(2, 6))
    rng = np.random.default_rng(seed)
    votes = rng.multinomial(5, rng.dirichlet(np.ones(classes)), size=rows) / 5
    return votes, rng.dirichlet(np.full(classes, 0.3), size=rows)


@given(labelled())
@settings(max_examples=60, deadline=None)
def test_class_metrics_equal_scikit_learn(case):
    labels, predicted, num_classes = case
    f1 = {"zero_division": 0}
    assert metrics.macro_f1(*case) == pytest.approx(oracle.f1_score(labels, predicted, average="macro", **f1))
    assert metrics.weighted_f1(*case) == pytest.approx(
        oracle.f1_score(labels, predicted, average="weighted", **f1)
    )
    recalls = oracle.recall_score(labels, predicted, labels=np.unique(labels), average="macro", **f1)
    assert metrics.uar(*case) == pytest.approx(recalls)
    every = oracle.confusion_matrix(labels, predicted, labels=range(num_classes))
    np.testing.assert_array_equal(metrics.confusion(*case), every)
    per_class = oracle.f1_score(labels, predicted, labels=range(num_classes), average=None, **f1)
    occurs = np.isin(np.arange(num_classes), np.r_[labels, predicted])
    np.testing.assert_allclose(metrics.per_class_f1(*case)[occurs], per_class[occurs])
    assert np.isnan(metrics.per_class_f1(*case)[~occurs]).all()


@given(labelled(), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_class_metrics_do_not_depend_on_row_order_or_class_names(case, random):
    labels, predicted, num_classes = case
    order, renamed = list(range(len(labels))), list(range(num_classes))
    random.shuffle(order)
    random.shuffle(renamed)
    other = np.array(renamed)[labels[order]], np.array(renamed)[predicted[order]], num_classes
    for metric in (metrics.macro_f1, metrics.uar, metrics.weighted_f1):
        assert metric(*other) == pytest.approx(metric(*case))


@given(distributions())
@settings(max_examples=40, deadline=None)
def test_probability_metrics_equal_their_oracles(case):
    votes, probabilities = case
    expected = np.mean([jensenshannon(*pair, base=2) ** 2 for pair in zip(votes, probabilities, strict=True)])
    assert metrics.jensen_shannon_divergence(votes, probabilities) == pytest.approx(expected, abs=1e-12)
    clipped = np.maximum(probabilities, np.finfo(float).eps)
    assert metrics.log_loss(votes, probabilities) == pytest.approx(-np.mean((votes * np.log(clipped)).sum(1)))
    hard = np.eye(votes.shape[1])[votes.argmax(axis=1)]
    assert metrics.log_loss(hard, probabilities) == pytest.approx(
        oracle.log_loss(votes.argmax(axis=1), probabilities, labels=range(votes.shape[1])), rel=1e-6
    )
    assert metrics.brier(hard, probabilities) == pytest.approx(np.mean(((hard - probabilities) ** 2).sum(1)))


def test_two_class_brier_is_twice_scikit_learns():
    rng = np.random.default_rng(0)
    positive, labels = rng.random(50), rng.integers(0, 2, 50)
    ours = metrics.brier(np.eye(2)[labels], np.column_stack([1 - positive, positive]))
    assert ours == pytest.approx(2 * oracle.brier_score_loss(labels, positive))


def test_the_votes_are_the_best_prediction_of_the_votes():
    rng = np.random.default_rng(1)
    votes = rng.dirichlet(np.ones(4), size=30)
    others = rng.dirichlet(np.ones(4), size=30)
    for metric in (metrics.log_loss, metrics.brier, metrics.jensen_shannon_divergence):
        assert metric(votes, votes) < metric(votes, others)


def test_rows_without_target_do_not_count():
    votes = np.array([[0.5, 0.5], [np.nan, np.nan]])
    probabilities = np.array([[0.5, 0.5], [1.0, 0.0]])
    assert metrics.brier(votes, probabilities) == 0
    assert metrics.jensen_shannon_divergence(votes, probabilities) == 0
    assert metrics.log_loss(votes, probabilities) == pytest.approx(np.log(2))


@given(st.integers(0, 10**6), st.integers(2, 50))
@settings(max_examples=40, deadline=None)
def test_ccc_equals_its_definition_through_pearson(seed, rows):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=rows)
    predicted = 0.5 * truth + rng.normal(size=rows) + 0.3
    pearson = np.corrcoef(truth, predicted)[0, 1]
    spread = truth.var() + predicted.var() + (truth.mean() - predicted.mean()) ** 2
    expected = 2 * pearson * truth.std() * predicted.std() / spread
    assert metrics.ccc(truth, predicted) == pytest.approx(expected)
    with_missing = np.append(truth, np.nan), np.append(predicted, 7.0)
    assert metrics.ccc(*with_missing) == pytest.approx(expected)


def test_ccc_sees_a_shift_and_a_scale():
    truth = np.arange(10.0)
    assert metrics.ccc(truth, truth) == pytest.approx(1)
    assert metrics.ccc(truth, -truth + 9) == pytest.approx(-1)
    assert metrics.ccc(truth, truth + 5) < 0.5
    assert metrics.ccc(truth, np.full(10, 4.5)) == 0
    assert np.isnan(metrics.ccc([2.0, 2.0], [2.0, 2.0]))
    assert np.isnan(metrics.ccc([np.nan], [2.0]))


def test_calibration_error_by_hand():
    probabilities = np.array([[0.8, 0.2]] * 5 + [[0.55, 0.45]] * 5)
    labels = np.array([0, 0, 0, 1, 1, 0, 0, 0, 0, 1])
    assert metrics.expected_calibration_error(labels, probabilities) == pytest.approx(
        0.5 * abs(0.6 - 0.8) + 0.5 * abs(0.8 - 0.55)
    )
    certain = np.eye(2)[[0, 1, 1]]
    assert metrics.expected_calibration_error(np.array([0, 1, 1]), certain) == 0


def test_a_score_of_no_rows_is_nan_and_not_a_crash():
    none = np.array([], dtype=np.int64)
    assert np.isnan(metrics.macro_f1(none, none, 3))
    assert np.isnan(metrics.uar(none, none, 3))
    assert np.isnan(metrics.weighted_f1(none, none, 3))
    assert np.isnan(metrics.log_loss(np.empty((0, 3)), np.empty((0, 3))))
    assert np.isnan(metrics.expected_calibration_error(none, np.empty((0, 3))))


def test_labels_without_consensus_are_refused():
    with pytest.raises(ValueError, match=r"labels has an index outside 0\.\.2"):
        metrics.macro_f1(np.array([-1, 0]), np.array([0, 0]), 3)
    with pytest.raises(ValueError, match="one per row"):
        metrics.uar(np.array([0, 0]), np.array([0]), 3)
