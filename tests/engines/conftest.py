"""Worker processes import the tasks by name, so their folder is on the path, here and there."""

import os
import sys
from pathlib import Path

import pytest

FOLDER = str(Path(__file__).parent)
sys.path.insert(0, FOLDER)


@pytest.fixture(autouse=True)
def workers_find_the_tasks(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", FOLDER + os.pathsep + os.environ.get("PYTHONPATH", ""))
