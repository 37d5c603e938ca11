"""The linear baseline on the pages, beside everything that is reported."""

import json

import numpy as np
import pytest
from sklearn.metrics import f1_score

from sercache.reporting.blocks import render
from sercache.reporting.comparison_page import comparison_page
from sercache.reporting.facts import read_facts
from sercache.reporting.members_section import differences_to_baseline
from sercache.reporting.report import write_report
from sercache.reporting.run_comparison import as_json, compare_runs
from sercache.stacking.comparison import compare
from support.baseline_runs import blurred, with_baseline
from support.report_builder import FAST, stacked, with_extras
from support.simulated_members import simulate


def run_with_baseline(folder, share, **options):
    simulation = with_extras(simulate(**options))
    run = simulation.run(folder, **FAST)
    table = simulate(members=4).tables[3]
    compare(with_baseline(run, blurred(table, share)))
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One whose members are above the baseline, and one whose members are not."""
    return [
        run_with_baseline(tmp_path_factory.mktemp("above"), 0.7, skill=2.5),
        run_with_baseline(tmp_path_factory.mktemp("below"), 0.0, skill=0.2),
    ]


def test_the_report_says_that_nothing_is_above_it_and_what_is(runs):
    above, below = (write_report(run).read_text() for run in runs)
    assert "Use the linear baseline alone: no meta-level is above its macro-F1" in below
    assert "no meta-level is above it" in below
    assert "3 of 3 members are not above the baseline" in below
    assert "is above the baseline (macro-F1" in above
    assert "All 3 members are above the baseline" in above
    for page in (above, below):
        assert "minus baseline" in page
        assert "Macro-F1 minus the linear baseline" in page


def test_members_are_held_against_it_on_the_scored_rows(runs):
    scored = read_facts(runs[1]).scored
    rows, known = scored.rows, scored.known
    labels = rows.labels[known]

    def score(probabilities):
        return f1_score(labels, probabilities[known].argmax(axis=1), average="macro")

    found = differences_to_baseline(scored)
    assert list(found) == ["m0", "m1", "m2"]
    for place, difference in enumerate(found.values()):
        member = rows.inputs.class_probabilities[:, place]
        assert difference.value == pytest.approx(score(member) - score(scored.probabilities("baseline")))


def test_a_report_of_a_run_without_one_does_not_speak_of_it(tmp_path):
    run = stacked(tmp_path, with_extras(simulate()))
    metrics = json.loads(run.metrics_path.read_text())
    for row in metrics["rows"].values():  # as versions before the baseline wrote them
        del row["to_baseline"], row["p_to_baseline"]
    del metrics["above_baseline"]
    run.metrics_path.write_text(json.dumps(metrics))
    page = write_report(run).read_text()
    assert "minus baseline" not in page
    assert "linear baseline" not in page


def test_compare_shows_the_baseline_of_each_run_and_what_is_not_above_it(runs):
    found = compare_runs(runs)
    assert [entry.stacker for entry in found.of("baseline")] == ["baseline", "baseline"]
    for entry, beside in zip(found.of("soft-vote"), found.of("baseline"), strict=True):
        assert entry.to_baseline.value == pytest.approx(
            entry.scores["macro_f1"].value - beside.scores["macro_f1"].value
        )
        assert beside.to_baseline is None
    (sentence,) = [sentence for sentence in found.verdict if "not above the linear baseline" in sentence]
    below = found.of("recommended")[1]
    assert f"{below.run} ({below.stacker}, " in sentence
    assert found.runs[0] not in sentence
    json.dumps(as_json(found), allow_nan=False)
    assert "minus its baseline" in render(comparison_page(found))


def test_compare_with_a_run_that_has_none_shows_the_other_one(runs, tmp_path):
    old = stacked(tmp_path, with_extras(simulate()))
    found = compare_runs([old, runs[0]])
    (entry,) = found.of("baseline")
    assert entry.differences == {}
    assert np.isnan(entry.p_value)
    assert [entry.to_baseline is None for entry in found.of("soft-vote")] == [True, False]
