"""One stacked run that most tests read; importlib mode needs this folder on the path."""

import sys
from pathlib import Path

import pytest
from simulated_members import simulate

sys.path.insert(0, str(Path(__file__).parent))

from report_builder import stacked, with_extras

from sercache.reporting.facts import read_facts


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return stacked(folder, with_extras(simulate(), folder))


@pytest.fixture(scope="session")
def facts(run):
    return read_facts(run)
