"""A small run over tiny encoders of the real classes, extracted and trained once for all tests here."""

import shutil

import pytest

from sercache.run import Run
from sercache.training.finetuning.processes import Processes
from support.finetuning_runs import train_speech_run


@pytest.fixture(scope="session")
def trained(tmp_path_factory, checkpoint):
    """Give the run folder of a trained ensemble; copy it before changing it."""
    return train_speech_run(tmp_path_factory.mktemp("finetuning"), checkpoint)


@pytest.fixture
def run(trained, tmp_path):
    """Give a copy of the trained run; corpus and cache are shared, and only read."""
    shutil.copytree(trained, tmp_path / "run")
    return Run(tmp_path / "run")


@pytest.fixture(scope="session")
def alone():
    """Give this process, alone, on the CPU."""
    return Processes.join("cpu")
