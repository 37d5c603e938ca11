"""One stacked run that most tests read; importlib mode needs this folder on the path."""

import pytest

from sercache.reporting.facts import read_facts
from support.report_builder import stacked, with_extras
from support.simulated_members import simulate


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return stacked(folder, with_extras(simulate(), folder))


@pytest.fixture(scope="session")
def facts(run):
    return read_facts(run)
