import math
import warnings

import pytest

from sercache.experiments.search_space import Dimension
from sercache.experiments.tuning_study import Study, Trial

SPACE = {
    "training.stage1.learning_rate": Dimension(low=1e-3, high=0.1, log=True),
    "training.mixup.probability": Dimension(low=0, high=1),
    "training.patience": Dimension(low=4, high=12, step=4),
    "options.deviation": Dimension(choices=[True, False]),
}


def test_half_a_line_of_a_killed_writer_costs_that_trial_only(tmp_path):
    path = tmp_path / "study.log"
    study = Study(path, SPACE, seed=0)
    for number in range(2):
        study.add(Trial(number, study.suggest(), 0.1 * number, 1.0))
    following = study.suggest()
    study.add(Trial(2, following, 0.3, 1.0))
    path.write_bytes(path.read_bytes()[:-20])
    path.with_name("study.log.lock").symlink_to(path)  # as a killed process leaves it
    reopened = Study(path, SPACE, seed=0)
    assert [trial.score for trial in reopened.trials] == [0.0, 0.1]
    assert reopened.suggest() == following
    reopened.add(Trial(2, following, 0.3, 1.0))
    assert Study(path, SPACE, seed=0).trials == reopened.trials


def test_importances_name_the_key_that_matters(tmp_path):
    study = Study(tmp_path / "study.log", SPACE, seed=0)
    for number in range(20):
        assert bool(study.importances()) == (number >= 10)
        settings = study.suggest()
        study.add(Trial(number, settings, float(settings["training.mixup.probability"]), 1.0))
    importances = study.importances()
    assert next(iter(importances)) == "training.mixup.probability"
    assert sum(importances.values()) == pytest.approx(1)


def test_suggestions_lean_towards_what_scored_well_and_away_from_what_failed(tmp_path):
    space = {"training.attribute_weight": Dimension(low=0, high=1)}
    study = Study(tmp_path / "study.log", space, seed=0)
    for number in range(60):
        settings = study.suggest()
        weight = float(settings["training.attribute_weight"])
        failed = weight < 0.7
        study.add(Trial(number, settings, math.nan if failed else weight, 1.0, "bad" if failed else ""))
    states = [trial.state for trial in study.trials]
    assert states[-20:].count("failed") < states[:20].count("failed")


def test_suggestions_are_within_the_space_and_of_its_kinds(tmp_path):
    study = Study(tmp_path / "study.log", SPACE, seed=1)
    for number in range(15):
        settings = study.suggest()
        assert 1e-3 <= settings["training.stage1.learning_rate"] <= 0.1
        assert settings["training.patience"] in (4, 8, 12)
        assert type(settings["training.patience"]) is int
        assert type(settings["options.deviation"]) is bool
        study.add(Trial(number, settings, 0.5, 1.0))
        assert dict(study.trials[-1].settings) == settings


def test_optuna_neither_logs_nor_keeps_its_silence(tmp_path, caplog):
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.enable_propagation()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            study = Study(tmp_path / "study.log", SPACE, seed=0)
            study.add(Trial(0, study.suggest(), 0.5, 1.0))
    finally:
        optuna.logging.disable_propagation()
    assert not caplog.records
    assert optuna.logging.get_verbosity() == before
