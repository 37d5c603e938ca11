"""Worker processes import the tasks by name, so their folder is on the path, here and there."""

import os
import sys
from pathlib import Path

import pytest

from sercache.engines.registry import ENGINES

FOLDER = str(Path(__file__).parent)
sys.path.insert(0, FOLDER)


@pytest.fixture(scope="session", autouse=True)
def workers_find_the_tasks():
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = FOLDER + (os.pathsep + before if before else "")
    yield
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="session")
def cluster(workers_find_the_tasks):
    """A Ray that is started once, here; the engine finds it."""
    ray = pytest.importorskip("ray")
    from sercache.engines.ray_cluster import connect

    connect(None)
    yield
    ray.shutdown()


@pytest.fixture(params=["in-process", "processes", "ray"])
def engine(request):
    return opened(request)


@pytest.fixture(params=["processes", "ray"])
def mortal_engine(request):
    """One whose workers may die without taking the test along."""
    return opened(request)


def opened(request):
    if request.param == "ray":
        request.getfixturevalue("cluster")
    return ENGINES[request.param](2, None)
