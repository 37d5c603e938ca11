import pytest

from support.bundle_runs import finish_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory, checkpoint):
    return finish_run(tmp_path_factory.mktemp("finished"), checkpoint("wavlm+layer"))


@pytest.fixture(scope="session")
def bundle_folder(finished, tmp_path_factory):
    """A bundle of all members, with the encoder inside; tests that change it copy it."""
    output = tmp_path_factory.mktemp("bundles") / "neural"
    return finished.bundle(output, stacker="neural").folder
