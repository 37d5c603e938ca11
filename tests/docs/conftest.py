import pytest
import run_recipe

from support.small_corpus import lay_out_corpus, lay_out_recipe


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A folder with corpus, recipe, cache and a run that was stacked: made by docs/examples/run_recipe.py."""
    folder = tmp_path_factory.mktemp("finished")
    lay_out_corpus(folder)
    run = run_recipe.main(lay_out_recipe(folder), workers=1)
    assert run.metrics_path.exists()
    return folder
