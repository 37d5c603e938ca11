"""Runs against each other, on the rows that they share."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score

from sercache.errors import ReportError
from sercache.posteriors import Posteriors
from sercache.recipe import Recipe
from sercache.reporting.blocks import render
from sercache.reporting.comparison_page import comparison_page
from sercache.reporting.recipe_differences import ABSENT, recipe_differences
from sercache.reporting.run_comparison import as_json, compare_runs
from support.report_builder import renamed, stacked
from support.simulated_members import simulate


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    first = stacked(tmp_path_factory.mktemp("first"), simulate(skill=1.0))
    second = stacked(tmp_path_factory.mktemp("second"), simulate(skill=2.5, members=4), inner_share=0.2)
    return [first, second]


def test_scores_and_differences_are_those_of_the_shared_rows(runs):
    found = compare_runs(runs)
    rows = 300
    assert found.rows == rows
    assert found.speakers == 12
    corpus = simulate().corpus
    votes = corpus.votes
    top = votes.max(axis=1, keepdims=True)
    known = (votes == top).sum(axis=1) == 1
    expected = []
    for run in runs:
        by_repeat = []
        for name in ("posteriors.parquet", "posteriors-1.parquet"):
            posteriors = Posteriors.load(run.stacker_folder("soft-vote") / name).take(corpus.ids)
            predicted = posteriors.class_probabilities.argmax(axis=1)
            by_repeat.append(f1_score(votes.argmax(axis=1)[known], predicted[known], average="macro"))
        expected.append(np.mean(by_repeat))
    soft = found.of("soft-vote")
    assert [entry.scores["macro_f1"].value for entry in soft] == pytest.approx(expected)
    difference = soft[1].differences["macro_f1"]
    assert difference.value == pytest.approx(expected[1] - expected[0])
    assert difference.low < difference.value < difference.high
    assert soft[1].p_value >= difference.p_value
    assert any("better than" in sentence for sentence in found.verdict)
    json.dumps(as_json(found), allow_nan=False)


def test_differences_of_recipes_are_told_by_key_and_whole_members_in_one_line(runs):
    found = {difference.key: difference.values for difference in compare_runs(runs).recipe_differences}
    assert found.pop("corpus")
    assert found == {"members.m3": (ABSENT, "deepser on logmel"), "stacking.inner_share": ("0.15", "0.2")}


def test_settings_of_one_member_are_named_by_it():
    content = {
        "corpus": "a.csv",
        "output": "out",
        "features": {"speech": {"encoder": "logmel"}},
        "members": [{"name": "m.1", "features": ["speech"]}],
    }
    first = Recipe.model_validate(content)
    second = first.model_copy(update={"members": [first.members[0].model_copy(update={"seed": 4})]})
    assert [(difference.key, difference.values) for difference in recipe_differences([first, second])] == [
        ("members.m·1.seed", ("0", "4"))
    ]


def test_the_page_shows_both_and_has_words_for_its_drawings(runs):
    html = render(comparison_page(compare_runs(runs)))
    assert html.count('role="img"') == 2
    assert "members.m3" in html
    assert "default-src" in html


def test_what_cannot_be_compared_is_refused_in_a_line(runs, tmp_path):
    with pytest.raises(ReportError, match="two runs or more"):
        compare_runs(runs[:1])
    with pytest.raises(ReportError, match="with itself"):
        compare_runs([runs[0], runs[0]])
    simulation = simulate()
    other = renamed(simulation, [f"other-{name}" for name in simulation.corpus.ids])
    foreign = stacked(tmp_path / "ids", other, stackers=["soft-vote"], repeats=1)
    with pytest.raises(ReportError, match="have no scored utterance in common"):
        compare_runs([runs[0], foreign])
    classes = ("Angry", "Sad", "Happy", "Calm")
    other = replace(
        simulation,
        corpus=replace(simulation.corpus, classes=classes),
        tables=[replace(table, classes=classes) for table in simulation.tables],
    )
    foreign = stacked(tmp_path / "classes", other, stackers=["soft-vote"], repeats=1)
    with pytest.raises(ReportError, match="has the classes"):
        compare_runs([runs[0], foreign])
