"""Small stacked runs, with and without a test split."""

import pytest

from sercache.run import Run
from sercache.stacking.comparison import compare
from sercache.training.ensemble import train_ensemble
from support.run_builder import make_run

SPLITS = ["train"] * 6 + ["test"] * 2
SETTINGS = {
    "training": {
        "batch_size": 8,
        "stage1": {"epochs": 2, "learning_rate": 0.01},
        "stage2": {"epochs": 1, "learning_rate": 0.003},
    },
    "members": [
        {"name": "linear", "head": "mean-linear", "features": ["speech"]},
        {"name": "words", "head": "mean-linear", "features": ["words"]},
    ],
    "stacking": {"stackers": ["soft-vote", "logistic"], "bootstrap_samples": 200, "repeats": 2},
}


def make_stacked(folder, **changes) -> Run:
    """Lay out a run, train it and stack it."""
    recipe = make_run(folder, **{**SETTINGS, **changes})
    run = train_ensemble(recipe, workers=1).run
    compare(run)
    return run


@pytest.fixture(scope="session")
def stacked(tmp_path_factory) -> Run:
    """A run that was stacked and that nobody may change."""
    return make_stacked(tmp_path_factory.mktemp("stacked"))


@pytest.fixture
def in_turn(stacked, tmp_path) -> Run:
    """A stacked run without a test split."""
    return _copy(stacked, tmp_path)


@pytest.fixture(scope="session")
def stacked_with_test(tmp_path_factory) -> Run:
    """The same with a test split."""
    return make_stacked(tmp_path_factory.mktemp("held-out"), splits=SPLITS)


@pytest.fixture
def held_out(stacked_with_test, tmp_path) -> Run:
    """A stacked run with a test split."""
    return _copy(stacked_with_test, tmp_path)


def _copy(run: Run, folder) -> Run:
    import shutil

    shutil.copytree(run.root, folder / "run")
    return Run((folder / "run").resolve())
