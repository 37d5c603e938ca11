"""The linear baseline in the comparison: shown, compared with, and seen by no stacker."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score

from sercache.events import Context
from sercache.posteriors import Posteriors
from sercache.recipe import dump_recipe
from sercache.stacking.comparison import compare
from support.baseline_runs import blurred, with_baseline
from support.simulated_members import simulate

QUICK = {"stackers": ["hard-vote", "logistic"], "repeats": 2, "bootstrap_samples": 200}


def tables(**options):
    """A simulation of members, and one more member that stands for the baseline."""
    simulation = simulate(members=4, **options)
    return replace(simulation, tables=simulation.tables[:3]), simulation.tables[3]


def by_name(comparison):
    return {row.stacker: row for row in comparison.rows}


@pytest.fixture(scope="module", params=[0, 4], ids=["folds", "test split"])
def stacked(request, tmp_path_factory):
    simulation, table = tables(test_speakers=request.param)
    run = with_baseline(simulation.run(tmp_path_factory.mktemp("stack"), **QUICK), table)
    return simulation, table, run, compare(run)


def test_its_row_is_scored_on_the_scored_rows(stacked):
    simulation, table, _, comparison = stacked
    rows = simulation.rows()
    wanted = "held-out" if comparison.scored_on == "held-out" else "out-of-fold"
    scored = (rows.origins == wanted) & (rows.labels >= 0)
    predicted = table.take(rows.inputs.ids).class_probabilities.argmax(axis=1)
    score = f1_score(rows.labels[scored], predicted[scored], average="macro")
    row = by_name(comparison)["baseline"]
    assert row.is_baseline
    assert row.scores["macro_f1"].value == pytest.approx(score)
    assert set(row.score_by_repeat) == {row.scores["macro_f1"].value}
    assert row.to_baseline == {}


def test_every_meta_level_is_compared_with_it_and_holm_corrected(stacked):
    *_, comparison = stacked
    rows = by_name(comparison)
    meta_levels = [row for row in comparison.rows if not row.is_baseline]
    assert {row.stacker for row in meta_levels} == {"best-single", "soft-vote", "hard-vote", "logistic"}
    for row in meta_levels:
        difference = row.scores["macro_f1"].value - rows["baseline"].scores["macro_f1"].value
        assert row.to_baseline["macro_f1"].value == pytest.approx(difference)
    raw = sorted(row.to_baseline["macro_f1"].p_value for row in meta_levels)
    corrected = sorted(row.p_to_baseline for row in meta_levels)
    assert corrected[0] == pytest.approx(min(1, 4 * raw[0]))
    assert all(first <= second for first, second in zip(raw, corrected, strict=True))
    assert all(np.isnan(rows[name].p_to_baseline) for name in ("baseline", "majority", "chance"))


def test_it_is_written_as_the_other_results_are(stacked):
    _, table, run, comparison = stacked
    for repeat in range(comparison.repeats):
        name = f"posteriors-{repeat}.parquet" if repeat else "posteriors.parquet"
        written = Posteriors.load(run.stacker_folder("baseline") / name)
        assert written.ids == Posteriors.load(run.stacker_folder("soft-vote") / name).ids
        np.testing.assert_array_equal(
            written.class_probabilities, table.take(written.ids).class_probabilities
        )
    metrics = json.loads(run.metrics_path.read_text())
    assert metrics["rows"]["baseline"]["is_baseline"] is True
    assert metrics["above_baseline"] == list(comparison.above_baseline)
    with run.comparison_path.open() as stream:
        lines = {line["stacker"]: line for line in csv.DictReader(stream)}
    soft = by_name(comparison)["soft-vote"]
    assert float(lines["soft-vote"]["p_to_baseline_holm"]) == pytest.approx(soft.p_to_baseline, rel=1e-4)
    assert float(lines["soft-vote"]["macro_f1_minus_baseline"]) == pytest.approx(
        soft.to_baseline["macro_f1"].value, rel=1e-4
    )
    assert lines["baseline"]["macro_f1_minus_baseline"] == ""


def test_stackers_do_not_see_it_and_their_results_stand_when_it_comes_and_changes(tmp_path):
    simulation, table = tables()
    run = simulation.run(tmp_path, **QUICK)
    before = compare(run)
    assert "baseline" not in by_name(before)
    assert before.above_baseline is None
    assert not any("baseline" in sentence for sentence in before.verdict)
    scores = []
    fitted = []
    for share in (0.0, 0.5):
        with_baseline(run, blurred(table, share))
        after = compare(
            run, context=Context(listener=lambda e: fitted.append(e.task) if e.kind == "advance" else None)
        )
        assert fitted == [], "no stacker is fitted again"
        assert after.members == before.members
        for name, row in by_name(before).items():
            assert by_name(after)[name].scores == row.scores
        scores.append(by_name(after)["baseline"].scores["macro_f1"].value)
    assert scores[1] < scores[0] - 0.1, "a changed baseline is scored anew"


def test_a_baseline_that_is_better_than_all_is_said_first_to_be_enough(tmp_path):
    simulation, table = tables(noise=2.0)
    truth = simulation.rows().labels
    sure = np.where(np.eye(4)[np.maximum(truth, 0)] > 0, 0.97, 0.01)
    best = replace(table, class_probabilities=sure, ids=simulation.rows().inputs.ids)
    comparison = compare(with_baseline(simulation.run(tmp_path, **QUICK), best))
    assert comparison.rows[0].stacker == "baseline"
    assert comparison.choice != "baseline"
    assert comparison.above_baseline == ()
    assert comparison.verdict[0].startswith(
        "Use the linear baseline alone: no meta-level is above its macro-F1"
    )
    assert "of 1.000 [" in comparison.verdict[0]
    assert sum(sentence.startswith("Use ") for sentence in comparison.verdict) == 1


def test_a_meta_level_that_is_above_it_is_said_to_be_with_its_interval(tmp_path):
    simulation, table = tables()
    comparison = compare(with_baseline(simulation.run(tmp_path, **QUICK), blurred(table, 0.6)))
    assert comparison.choice in comparison.above_baseline
    difference = by_name(comparison)[comparison.choice].to_baseline["macro_f1"]
    assert comparison.verdict[1].startswith(f"{comparison.choice} is above the baseline (macro-F1 0.")
    assert f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]" in comparison.verdict[1]


def test_a_member_of_the_recipe_may_be_the_baseline(tmp_path):
    simulation, _ = tables()
    run = simulation.run(tmp_path, **QUICK)
    recipe = run.recipe()
    members = [recipe.members[0].model_copy(update={"head": "ridge"}), *recipe.members[1:]]
    run.recipe_path.write_text(dump_recipe(recipe.model_copy(update={"members": members})))
    comparison = compare(run)
    assert "baseline" in by_name(comparison)
    assert comparison.members == ("m0", "m1", "m2")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fold_map_digest": "other"}, "other folds"),
        ({"classes": ("Angry", "Sad", "Happy", "Bored")}, "classes do not match"),
    ],
)
def test_one_that_does_not_fit_is_left_out_with_a_warning(tmp_path, change, reason):
    simulation, table = tables()
    run = with_baseline(simulation.run(tmp_path, **QUICK), replace(table, **change))
    warnings = []
    comparison = compare(
        run, context=Context(listener=lambda e: warnings.append(e.message) if e.kind == "warning" else None)
    )
    assert "baseline" not in by_name(comparison)
    assert [message for message in warnings if "baseline is left out" in message and reason in message]


def test_one_that_lacks_rows_is_left_out(tmp_path):
    simulation, table = tables()
    run = with_baseline(simulation.run(tmp_path, **QUICK), table.take(table.ids[5:]))
    warnings = []
    compare(
        run, context=Context(listener=lambda e: warnings.append(e.message) if e.kind == "warning" else None)
    )
    assert any("does not predict 5 rows, first 'u00000'" in message for message in warnings)
