"""Worker processes import the tasks by name, so their Python looks for modules where this one does."""

import pytest

from sercache.engines.registry import ENGINES
from support.processes import environment


@pytest.fixture(scope="session", autouse=True)
def workers_find_the_tasks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
        yield


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
