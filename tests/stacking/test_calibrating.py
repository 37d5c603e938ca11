"""The recommended stacker's calibration: fitted on cross-fitted rows, scored on others, kept beside it."""

from dataclasses import replace

import numpy as np
import pytest

from sercache.errors import StackingError
from sercache.evaluation.calibration.fitted import Calibration
from sercache.evaluation.metrics import expected_calibration_error
from sercache.events import Context, ignore, never
from sercache.recipe import StackingRecipe
from sercache.stacking.calibrating import calibrate
from sercache.stacking.comparison import compare
from sercache.stacking.registry import load_stacker
from sercache.stacking.splits import make_splits
from sercache.stacking.task import run_stacker

QUICK = {"stackers": ["soft-vote", "logistic"], "bootstrap_samples": 200, "repeats": 1}


@pytest.mark.parametrize("test_speakers", [0, 4])
def test_it_is_kept_beside_the_stacker_and_makes_it_better_calibrated(simulate, tmp_path, test_speakers):
    simulation = simulate(speakers=20, test_speakers=test_speakers, skill=2.5)
    run = simulation.run(tmp_path, **QUICK, calibration="dirichlet", coverage=0.8)
    comparison = compare(run)
    report = comparison.calibration
    assert (report.stacker, report.chosen, report.coverage) == (comparison.choice, "dirichlet", 0.8)
    kept = Calibration.load(run.stacker_folder(comparison.choice) / "calibration.json")
    assert (kept.kind, kept.coverage) == ("dirichlet", 0.8)
    rows = simulation.rows()
    scored = rows.where((rows.labels >= 0) & ((rows.origins == "held-out") | (not test_speakers)))
    prediction = (
        load_stacker(run.stacker_folder(comparison.choice)).predict(scored.inputs).class_probabilities
    )
    calibrated = kept.apply(prediction).probabilities
    before, after = (
        expected_calibration_error(scored.labels, probabilities) for probabilities in (prediction, calibrated)
    )
    assert after < before
    macro_f1 = report.row("none").scores["macro_f1"]
    (row,) = [row for row in comparison.rows if row.stacker == comparison.choice]
    assert macro_f1.value == pytest.approx(row.scores["macro_f1"].value)
    assert report.row("dirichlet").scores["ece"].value < report.row("none").scores["ece"].value


def test_calibration_never_sees_the_rows_that_it_is_scored_on(simulate, tmp_path):
    """Labels of held-out rows may be anything: what is kept does not move."""
    rows = simulate(test_speakers=4).rows()
    is_held_out = (rows.origins == "held-out")[:, None]
    turned = replace(
        rows,
        labels=np.where(is_held_out[:, 0] & (rows.labels >= 0), 3 - rows.labels, rows.labels),
        soft_targets=np.where(is_held_out, rows.soft_targets[:, ::-1], rows.soft_targets),
    )
    settings = StackingRecipe(bootstrap_samples=100)
    kept, scores = [], []
    for number, version in enumerate((rows, turned)):
        folder = tmp_path / str(number)
        splits = make_splits(version)
        result = run_stacker(
            "logistic", splits, settings, 0, "", folder, context=Context(listener=ignore, should_stop=never)
        )
        report = calibrate(
            splits, result, settings, 0, folder, context=Context(listener=ignore, should_stop=never)
        )
        kept.append((folder / "calibration.json").read_bytes())
        scores.append(report.row("temperature").scores["consensus_log_loss"].value)
    assert kept[0] == kept[1]
    assert scores[0] != scores[1]


def test_an_unknown_calibrator_is_one_line(simulate, tmp_path):
    run = simulate().run(tmp_path, **QUICK, calibration="temprature")
    with pytest.raises(StackingError, match=r"temprature.*Did you mean 'temperature'\?"):
        compare(run)


def test_in_sample_rows_are_not_calibrated_on(simulate, tmp_path):
    simulation = simulate()
    for table in simulation.tables:
        table.origins[:] = "in-sample"
    run = simulation.run(tmp_path, **QUICK)
    assert compare(run, allow_in_sample=True).calibration is None


def test_sets_of_the_kept_calibration_cover_new_speakers(simulate, tmp_path):
    run = simulate(speakers=30).run(tmp_path, **QUICK, coverage=0.9)
    comparison = compare(run)
    kept = Calibration.load(run.stacker_folder(comparison.choice) / "calibration.json")
    rows = simulate(seed=5, speakers=30).rows()
    rows = rows.where(rows.labels >= 0)
    prediction = load_stacker(run.stacker_folder(comparison.choice)).predict(rows.inputs)
    sets = kept.apply(prediction.class_probabilities).sets
    assert 0.85 < sets[np.arange(len(rows)), rows.labels].mean() < 0.95


def test_cross_fitted_rows_are_kept_for_the_next_time(simulate, tmp_path, monkeypatch):
    run = simulate(test_speakers=4).run(tmp_path, **QUICK)
    first = compare(run)
    monkeypatch.setattr("sercache.stacking.task.STACKERS", {})  # nothing can be fitted any more
    assert compare(run).calibration == first.calibration
