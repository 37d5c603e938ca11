"""Ways of calibrating are scored on other speakers, and the verdict claims what the figures allow."""

import numpy as np
import pytest
from scipy.special import softmax

from sercache.evaluation.calibration.assessment import Predicted, as_json, evaluate_calibration

CLASSES = ("Angry", "Sad", "Happy", "Neutral")


def predicted(seed, speakers, sharpness=1.0, prefix="a"):
    generator = np.random.default_rng(seed)
    truth = softmax(1.5 * generator.normal(size=(40 * speakers, 4)), axis=1)
    labels = (truth.cumsum(axis=1) > generator.random((len(truth), 1))).argmax(axis=1)
    return Predicted(
        softmax(sharpness * np.log(truth), axis=1),
        np.eye(4)[labels],
        labels,
        tuple(f"{prefix}{row // 40}" for row in range(len(truth))),
    )


def report_of(sharpness, **options):
    rounds = [(predicted(0, 20, sharpness), predicted(1, 20, sharpness, "b"))]
    return evaluate_calibration(rounds, CLASSES, stacker="soft-vote", samples=300, **options)


def test_overconfidence_is_found_and_mended():
    report = report_of(3.0)
    before, after = report.row("none").scores, report.row("temperature").scores
    assert before["ece"].value > 0.15 > 0.05 > after["ece"].value
    assert report.row("temperature").to_uncalibrated["consensus_log_loss"].high < 0
    assert "temperature brings ECE from" in report.verdict[0]
    assert after["macro_f1"].value == before["macro_f1"].value


def test_where_nothing_is_wrong_nothing_is_claimed():
    report = report_of(1.0)
    assert "temperature" not in report.verdict[0]
    assert not report.row("temperature").to_uncalibrated["ece"].is_clear
    assert "change nothing beyond chance" in report.verdict[1]


@pytest.mark.parametrize("coverage", [0.7, 0.9])
def test_sets_cover_new_speakers_and_the_verdict_says_how_often(coverage):
    report = report_of(2.0, coverage=coverage)
    for row in report.rows:
        if row.name != "thresholds":
            assert row.coverage.low - 0.02 < coverage < row.coverage.high + 0.02
    assert f"Sets at {coverage:.0%} hold the class of" in report.verdict[2]
    assert "asked for" not in report.verdict[2]


def test_sets_fitted_on_other_people_miss_and_it_is_said():
    easy, hard = predicted(0, 20, 1.0), predicted(1, 20, 1.0, "b")
    swapped = np.where(np.arange(len(hard.labels)) % 2, (hard.labels + 1) % 4, hard.labels)
    rounds = [(easy, Predicted(hard.probabilities, hard.soft_targets, swapped, hard.speakers))]
    report = evaluate_calibration(rounds, CLASSES, stacker="soft-vote", samples=300)
    assert "less than asked for" in report.verdict[2]


def test_sets_that_hold_more_than_promised_are_not_called_a_miss():
    """Over-coverage costs larger sets; the promise is kept."""
    hard, easy = predicted(0, 20, 1.0), predicted(1, 20, 1.0, "b")
    sure = Predicted(easy.probabilities, easy.soft_targets, easy.probabilities.argmax(axis=1), easy.speakers)
    report = evaluate_calibration([(hard, sure)], CLASSES, stacker="soft-vote", samples=300)
    assert report.row("temperature").coverage.low > report.coverage
    assert "more than asked for" in report.verdict[2]
    assert "less than" not in report.verdict[2]


def test_json_has_every_figure_and_no_nan():
    content = as_json(report_of(2.0))
    assert [row["name"] for row in content["rows"]] == ["none", "dirichlet", "temperature", "thresholds"]
    assert "NaN" not in str(content)
    assert len(content["verdict"]) == 3


def test_one_speaker_gives_scores_and_claims_nothing():
    rounds = [(predicted(0, 3, 3.0), predicted(1, 1, 3.0, "b"))]
    report = evaluate_calibration(rounds, CLASSES, stacker="soft-vote", samples=100)
    assert "beyond chance" in report.verdict[0]
    assert report.verdict[2].startswith("Sets at 90%")
