"""What is known of simulated members: stackers approach the Bayes rule, intervals and p-values are right."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from sercache.benchmarks.interval_simulation import interval_coverage, null_p_values
from sercache.benchmarks.simulated_members import SimulatedMembers
from sercache.benchmarks.stacking_simulation import learning_curves
from sercache.evaluation.bootstrap import SpeakerBootstrap
from sercache.evaluation.metrics import macro_f1
from sercache.recipe import StackingRecipe


def test_the_bayes_rule_is_the_best_that_an_unregularised_regression_on_much_data_finds():
    truth = SimulatedMembers.faulty(4, 3, seed=2)
    fit, _ = truth.draw(30_000, 0)
    new, bayes = truth.draw(30_000, 1, "n")
    known, scored = fit.labels >= 0, new.labels >= 0

    def features(rows):
        return np.log(rows.inputs.class_probabilities).reshape(len(rows), -1)

    model = LogisticRegression(C=1e4, max_iter=2000).fit(features(fit)[known], fit.labels[known])
    learned = macro_f1(new.labels[scored], model.predict(features(new)[scored]), 3)
    best = macro_f1(new.labels[scored], bayes[scored].argmax(axis=1), 3)
    assert learned == pytest.approx(best, abs=0.006)
    alone = max(
        macro_f1(new.labels[scored], new.inputs.class_probabilities[scored, member].argmax(axis=1), 3)
        for member in range(4)
    )
    assert best > alone + 0.05


def test_the_bayes_rules_probabilities_are_true():
    truth = SimulatedMembers.faulty(4, 3, seed=2)
    rows, bayes = truth.draw(40_000, 0)
    sure = bayes.max(axis=1)
    scored = rows.labels >= 0
    right = bayes.argmax(axis=1) == rows.labels
    for low in (0.5, 0.7, 0.9):
        in_bin = scored & (sure >= low) & (sure < low + 0.05)
        assert right[in_bin].mean() == pytest.approx(sure[in_bin].mean(), abs=0.04)


def test_stackers_approach_the_bayes_rate_as_rows_grow_and_votes_do_not():
    curve = learning_curves((200, 3200), ("soft-vote", "best-single", "weighted", "logistic"), new_rows=8000)
    score = curve.macro_f1
    assert score["logistic"][0] < score["logistic"][1] < curve.bayes + 0.01
    assert score["logistic"][1] > curve.bayes - 0.02
    assert score["weighted"][1] > score["soft-vote"][1] + 0.03  # it leaves the bad ones out
    assert score["weighted"][1] < curve.bayes - 0.02  # but no weight undoes a bias
    assert max(score["soft-vote"][1], score["best-single"][1]) < curve.bayes - 0.05


@pytest.mark.slow
def test_every_learning_stacker_comes_near_the_bayes_rate():
    curve = learning_curves((400, 3200, 25_600), StackingRecipe().stackers)
    for name in ("logistic", "neural", "soup", "lightgbm"):
        assert curve.macro_f1[name][-1] > curve.bayes - 0.02, name
        assert curve.macro_f1[name][-1] > curve.macro_f1[name][0]
    assert curve.macro_f1["logistic"][-1] > curve.bayes - 0.006


def test_intervals_hold_the_truth_most_of_the_time():
    coverage = interval_coverage(12, 24, samples=300)
    assert coverage.score >= 0.83
    assert coverage.difference >= 0.83


@pytest.mark.slow
def test_intervals_over_rows_would_not(monkeypatch):
    """The check has teeth: drawing rows instead of speakers is found out."""
    draw = SpeakerBootstrap.__init__

    def of_rows(self, speakers, *arguments):
        draw(self, [f"row-{row}" for row in range(len(speakers))], *arguments)

    loud = SimulatedMembers.faulty(4, 4)
    monkeypatch.setattr(
        SimulatedMembers, "faulty", lambda *_, **__: SimulatedMembers(**{**vars(loud), "speaker_noise": 2.5})
    )
    right = interval_coverage(30, 32, samples=300)
    monkeypatch.setattr(SpeakerBootstrap, "__init__", of_rows)
    wrong = interval_coverage(30, 32, samples=300)
    assert wrong.score < right.score - 0.1


def test_p_values_are_uniform_where_nothing_differs():
    null = null_p_values(20, 120, samples=400)
    assert null.distance < 0.16  # 99.5 % of uniform samples of this size
    assert null.share_below(0.05) < 0.12


def test_folds_in_turn_are_scored_over_all_repeats_and_rounds():
    coverage = interval_coverage(6, 4, repeats=2, samples=200)
    assert (coverage.repeats, coverage.corpora) == (2, 4)
    assert coverage.score in (0, 0.25, 0.5, 0.75, 1)
    null = null_p_values(6, 4, stacker="logistic", repeats=2, samples=200)
    assert len(null.p_values) == 4
    assert all(0 < p_value <= 1 for p_value in null.p_values)


@pytest.mark.slow
@pytest.mark.parametrize("speakers", [10, 30, 90])
def test_two_hundred_corpora(speakers):
    coverage = interval_coverage(speakers, 200)
    assert coverage.score > 0.9
    assert coverage.difference > 0.9
    null = null_p_values(speakers, 400)
    assert null.distance < 0.1
    assert null.share_below(0.05) < 0.08
    assert null.share_below(0.01) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [None, 3])
def test_p_values_of_learned_stackers_that_are_alike_are_about_uniform(repeats):
    null = null_p_values(20, 60, stacker="lightgbm", repeats=repeats)
    assert null.distance < 0.22
    assert null.share_below(0.05) <= 0.15
