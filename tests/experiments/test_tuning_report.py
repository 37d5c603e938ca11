import math
from pathlib import Path

import pytest

from sercache.evaluation.bootstrap import Difference, Estimate
from sercache.experiments.tuning_report import ReservedScores, TuningReport, best_of
from sercache.experiments.tuning_study import Trial


def a_report(*, inner=0.5, original=0.4, low=0.01, high=0.1, p_value=0.01, speakers=20):
    value = (low + high) / 2
    reserved_scores = ReservedScores(
        90,
        speakers,
        0,
        Estimate(0.45, 0.4, 0.5),
        Estimate(0.4, 0.3, 0.5),
        Difference(value, low, high, p_value),
    )
    trials = (Trial(0, {"a": 1}, inner, 1.0), Trial(1, {"a": 2}, math.nan, 1.0, "bad"))
    return TuningReport(
        Path("out"), "linear", trials, trials[0], original, {}, "the test split", reserved_scores, 0
    )


@pytest.mark.parametrize(
    ("changes", "expected", "beats"),
    [
        ({}, "trial 0 is better than the recipe as it is", True),
        ({"low": -0.1, "high": -0.01}, "trial 0 is worse than the recipe as it is", False),
        ({"low": -0.1}, "trial 0 and the recipe as it is cannot be told apart", True),
        ({"inner": 0.3, "low": -0.1}, "No trial beat the recipe on the inner folds", False),
        ({"speakers": 4}, "Only 4 speakers", True),
    ],
)
def test_the_verdict_says_no_more_than_was_measured(changes, expected, beats):
    report = a_report(**changes)
    sentences = " ".join(report.verdict)
    assert expected in sentences
    assert "is the best of 1 by its inner folds, which makes its inner macro-F1 optimistic" in sentences
    assert report.beats_recipe == beats
    assert ("Keep the recipe as it is." in sentences) == (not beats)


def test_of_equal_scores_the_earlier_trial_is_the_best():
    trials = [Trial(0, {}, math.nan, 1.0, "bad"), *(Trial(number, {}, 0.5, 1.0) for number in (1, 2))]
    assert best_of(trials) == trials[1]
    assert best_of(trials[:1]) is None
