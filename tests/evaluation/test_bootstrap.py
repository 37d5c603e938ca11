import numpy as np
import pytest
import sklearn.metrics as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from sercache.evaluation import metrics
from sercache.evaluation.bootstrap import (
    SpeakerBootstrap,
    calibration_metric,
    ccc_metric,
    confusion_metric,
    holm,
    mean_metric,
    mean_over,
)


def make_rows(seed, speakers=12, rows=20, num_classes=3, skill=0.6):
    rng = np.random.default_rng(seed)
    who = np.repeat([f"s{index}" for index in range(speakers)], rows)
    labels = rng.integers(0, num_classes, len(who))
    shift = np.repeat(rng.normal(0, 0.15, speakers), rows)
    right = rng.random(len(who)) < skill + shift
    return who.tolist(), labels, np.where(right, labels, rng.integers(0, num_classes, len(who)))


@given(st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_fast_replicates_equal_scoring_the_resampled_rows(seed):
    who, labels, predicted = make_rows(seed, speakers=5, rows=6)
    bootstrap = SpeakerBootstrap(who, samples=20, seed=seed)
    fast = bootstrap.replicates(confusion_metric(labels, predicted, 3, metrics.macro_f1_of_confusion))

    def score(rows):
        return oracle.f1_score(labels[rows], predicted[rows], average="macro", zero_division=0)

    np.testing.assert_allclose(fast, bootstrap.replicates_of(score))


def test_every_metric_of_sums_equals_the_metric_of_rows():
    rng = np.random.default_rng(0)
    who, labels, predicted = make_rows(0, speakers=6, rows=10)
    labels = np.where(rng.random(len(labels)) < 0.2, -1, labels)
    probabilities, truth = rng.dirichlet(np.ones(3), len(who)), rng.normal(4, 1, len(who))
    truth[::7] = np.nan
    values = truth + rng.normal(size=len(who))
    pairs = [
        (ccc_metric(truth, values), lambda rows: metrics.ccc(truth[rows], values[rows])),
        (mean_metric(truth), lambda rows: np.nanmean(truth[rows])),
        (
            calibration_metric(labels, probabilities),
            lambda rows: metrics.expected_calibration_error(
                labels[rows][labels[rows] >= 0], probabilities[rows][labels[rows] >= 0]
            ),
        ),
    ]
    for name, score in metrics.CONFUSION_METRICS.items():
        direct = getattr(metrics, name)

        def of_rows(rows, direct=direct):
            scored = rows[labels[rows] >= 0]
            return direct(labels[scored], predicted[scored], 3)

        pairs.append((confusion_metric(labels, predicted, 3, score), of_rows))
    bootstrap = SpeakerBootstrap(who, samples=30, seed=1)
    for fast, slow in pairs:
        assert fast.value == pytest.approx(slow(np.arange(len(who))))
        np.testing.assert_allclose(bootstrap.replicates(fast), bootstrap.replicates_of(slow))


def test_draws_are_of_whole_speakers_and_differ():
    """A released bootstrap scored the full set each time: its interval had no width."""
    who, labels, predicted = make_rows(3)
    bootstrap = SpeakerBootstrap(who, samples=200, seed=0)
    assert (bootstrap.draws.sum(axis=1) == 12).all()
    assert len(np.unique(bootstrap.draws, axis=0)) > 190
    metric = confusion_metric(labels, predicted, 3, metrics.uar_of_confusion)
    assert bootstrap.replicates(metric).std() > 0.005
    estimate = bootstrap.estimate(metric)
    assert estimate.low < estimate.value < estimate.high


def test_speakers_that_differ_make_the_interval_wider_than_rows_would():
    who = np.repeat([f"s{index}" for index in range(20)], 30).tolist()
    right = mean_metric(np.repeat(np.arange(20) % 2, 30))
    by_speaker = SpeakerBootstrap(who, seed=0).estimate(right)
    by_row = SpeakerBootstrap([None] * 600, seed=0).estimate(right)
    assert by_speaker.high - by_speaker.low > 4 * (by_row.high - by_row.low)
    assert SpeakerBootstrap([None, "a", None]).unknown_speakers == 2
    assert SpeakerBootstrap([None, "a", None, "a"]).cluster_count == 3


def test_a_speaker_with_the_name_of_a_row_is_not_that_row():
    assert SpeakerBootstrap([None, "row:0", "0"]).cluster_count == 3


@pytest.mark.parametrize("speakers", [4, 8, 25])
def test_intervals_cover_the_truth_about_95_percent_of_the_time(speakers):
    covered, corpora = 0, 150
    for corpus in range(corpora):
        rng = np.random.default_rng(corpus)
        per_speaker = rng.normal(0.6, 0.1, speakers)
        rows = (rng.random((speakers, 20)) < per_speaker[:, None]).astype(float).ravel()
        who = np.repeat(np.arange(speakers).astype(str), 20).tolist()
        estimate = SpeakerBootstrap(who, samples=400, seed=corpus).estimate(mean_metric(rows))
        covered += estimate.low <= 0.6 <= estimate.high
    assert 0.90 <= covered / corpora <= 0.99


def test_few_draws_differ_enough_to_be_read_far_out_so_a_t_interval_is_the_least():
    who = np.repeat(["a", "b", "c"], 10).tolist()
    values = mean_metric(np.repeat([0.2, 0.5, 0.8], 10))
    bootstrap = SpeakerBootstrap(who, seed=0)
    low, high = bootstrap.interval(bootstrap.replicates(values))
    deviation = 0.3 / np.sqrt(3)
    assert (low, high) == pytest.approx((0.5 - 4.303 * deviation, 0.5 + 4.303 * deviation), abs=0.03)


def test_no_interval_reaches_where_no_score_can_be():
    who = np.repeat(["a", "b", "c"], 4).tolist()
    labels = np.tile([0, 1], 6)
    predicted = labels.copy()
    predicted[:3] = 1 - labels[:3]
    bootstrap = SpeakerBootstrap(who, seed=0)
    score = confusion_metric(labels, predicted, 2, metrics.macro_f1_of_confusion)
    assert bootstrap.interval(bootstrap.replicates(score))[1] > 1
    for metric in (score, mean_over([score, score]), mean_metric(predicted == labels)):
        estimate = bootstrap.estimate(metric)
        assert 0 <= estimate.low < estimate.value < estimate.high <= 1


def test_p_values_are_about_uniform_where_there_is_no_difference():
    p_values = []
    for corpus in range(150):
        rng = np.random.default_rng(corpus)
        scores = rng.normal(size=(2, 15, 10)) + rng.normal(size=(2, 15, 1))
        who = np.repeat(np.arange(15).astype(str), 10).tolist()
        first, second = (mean_metric(part.ravel()) for part in scores)
        p_values.append(SpeakerBootstrap(who, samples=400, seed=corpus).difference(first, second).p_value)
    assert np.mean(np.array(p_values) < 0.05) <= 0.10
    for quantile in (0.25, 0.5, 0.75):
        assert np.mean(np.array(p_values) < quantile) == pytest.approx(quantile, abs=0.12)


def test_a_paired_difference_is_surer_than_the_scores_it_comes_from():
    rng = np.random.default_rng(5)
    who = np.repeat([f"s{index}" for index in range(20)], 10).tolist()
    base = np.repeat(rng.normal(size=20), 10)
    first, second = mean_metric(base + 0.1 + rng.normal(0, 0.05, 200)), mean_metric(base)
    bootstrap = SpeakerBootstrap(who, seed=0)
    difference = bootstrap.difference(first, second)
    assert difference.is_clear
    assert difference.p_value < 0.001
    assert difference.value == pytest.approx(first.value - second.value)
    assert bootstrap.estimate(second).low < bootstrap.estimate(first).value < bootstrap.estimate(second).high
    mirrored = bootstrap.difference(second, first)
    assert (mirrored.low, mirrored.high) == pytest.approx((-difference.high, -difference.low))


@given(st.integers(0, 10**5), st.integers(8, 30), st.floats(-0.5, 0.5))
@settings(max_examples=40, deadline=None)
def test_the_p_value_and_the_interval_say_the_same(seed, speakers, effect):
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(speakers).astype(str), 4).tolist()
    values = mean_metric(rng.normal(effect, 1, speakers * 4))
    bootstrap = SpeakerBootstrap(who, samples=300, seed=seed)
    difference = bootstrap.difference(values, mean_metric(np.zeros(speakers * 4)))
    if abs(difference.p_value - 0.05) > 0.03:
        excludes_zero = difference.low > 0 or difference.high < 0
        assert excludes_zero == difference.is_clear == (difference.p_value < 0.05)


def test_three_speakers_never_make_a_clear_difference():
    who = np.repeat(["a", "b", "c"], 50).tolist()
    difference = SpeakerBootstrap(who).difference(mean_metric(np.ones(150)), mean_metric(np.zeros(150)))
    assert (difference.value, difference.p_value) == (1, 0.25)
    assert not difference.is_clear


def test_the_number_of_draws_does_not_limit_how_sure_one_can_be():
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(12).astype(str), 10).tolist()
    values = mean_metric(rng.normal(2, 0.3, 120) + np.repeat(rng.normal(0, 0.3, 12), 10))
    for samples in (100, 2000):
        difference = SpeakerBootstrap(who, samples=samples).difference(values, mean_metric(np.zeros(120)))
        assert 2.0**-11 <= difference.p_value < 0.001


def test_two_equal_predictions_do_not_differ():
    who, labels, predicted = make_rows(0)
    metric = confusion_metric(labels, predicted, 3, metrics.macro_f1_of_confusion)
    difference = SpeakerBootstrap(who, seed=0).difference(metric, metric)
    assert (difference.value, difference.low, difference.high, difference.p_value) == (0, 0, 0, 1)
    assert not difference.is_clear


def test_one_speaker_gives_a_score_and_no_interval():
    estimate = SpeakerBootstrap(["a"] * 10, samples=100).estimate(mean_metric(np.arange(10.0)))
    assert estimate.value == 4.5
    assert np.isnan([estimate.low, estimate.high]).all()
    assert np.isnan(SpeakerBootstrap(["a"]).difference(mean_metric([1.0]), mean_metric([0.0])).p_value)


def test_the_same_seed_gives_the_same_interval():
    who, labels, predicted = make_rows(2)
    metric = confusion_metric(labels, predicted, 3, metrics.macro_f1_of_confusion)
    assert SpeakerBootstrap(who, seed=7).estimate(metric) == SpeakerBootstrap(who, seed=7).estimate(metric)
    assert SpeakerBootstrap(who, seed=7).estimate(metric) != SpeakerBootstrap(who, seed=8).estimate(metric)


def test_equally_good_scores_are_rarely_told_from_the_highest_of_them():
    """The highest of many was picked on the same rows: a plain paired p-value would cry wolf."""
    clear, plain = 0, 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        who = [f"s{speaker}" for speaker in range(24) for _ in range(6)]
        shared = np.repeat(generator.normal(size=24), 6)
        scores = [mean_metric(shared + generator.normal(size=144)) for _ in range(15)]
        bootstrap = SpeakerBootstrap(who, samples=400, seed=seed)
        values = [score.value for score in scores]
        best, worst = int(np.argmax(values)), int(np.argmin(values))
        clear += np.nanmin(bootstrap.best_p_values(scores)) < 0.05
        plain += bootstrap.difference(scores[worst], scores[best]).p_value < 0.05
    assert clear <= 11  # 5 expected; 98.5 % of the time at most 11
    assert plain > 50


def test_a_score_that_is_really_lower_is_told_from_the_highest():
    generator = np.random.default_rng(0)
    who = [f"s{speaker}" for speaker in range(24) for _ in range(6)]
    scores = [mean_metric(generator.normal(size=144) - lower) for lower in (0.0, 0.05, 1.0)]
    p_values = SpeakerBootstrap(who, samples=400).best_p_values(scores)
    assert np.isnan(p_values).sum() == 1
    assert p_values[2] < 0.01
    assert np.nanmax(p_values) > 0.1
    assert np.isnan(SpeakerBootstrap(["a"] * 144).best_p_values(scores)).all()


def test_holm_never_lowers_a_p_value_and_keeps_their_order():
    raw = np.array([0.2, 0.001, 0.04, 0.9])
    adjusted = holm(raw)
    assert (adjusted >= raw).all()
    assert adjusted.max() <= 1
    np.testing.assert_array_equal(np.argsort(adjusted), np.argsort(raw))
    assert adjusted[1] == pytest.approx(0.004)
