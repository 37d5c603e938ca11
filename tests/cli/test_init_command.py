import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sercache.cli.main import app
from sercache.errors import CorpusError, RecipeError
from sercache.recipe import load_recipe

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from run_builder import make_corpus, write_features


def run(*arguments):
    return CliRunner().invoke(app, ["init", *map(str, arguments)])


def test_from_corpus_and_cache_to_a_recipe_and_the_next_command(tmp_path):
    write_features(tmp_path, make_corpus(tmp_path))
    path = tmp_path / "deep" / "first.yaml"
    done = run(tmp_path / "corpus.csv", "--cache", tmp_path / "cache", "-o", path)
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1] == f"Next: sercache train-ensemble {path}"
    recipe = load_recipe(path)
    assert recipe.corpus.resolve() == (tmp_path / "corpus.csv").resolve()
    assert set(recipe.features) == {"speech", "words"}


def test_a_recipe_that_is_there_is_only_replaced_on_demand(tmp_path):
    make_corpus(tmp_path)
    path = tmp_path / "recipe.yaml"
    path.write_text("mine")
    refused = run(tmp_path / "corpus.csv", "-o", path)
    assert isinstance(refused.exception, RecipeError)
    assert path.read_text() == "mine"
    assert run(tmp_path / "corpus.csv", "-o", path, "--replace").exit_code == 0
    assert load_recipe(path).members


def test_without_a_cache_extraction_comes_next(tmp_path):
    make_corpus(tmp_path)
    done = run(tmp_path / "corpus.csv", "-o", tmp_path / "r.yaml", "--json")
    assert json.loads(done.stdout)["next"] == f"sercache extract {tmp_path / 'r.yaml'}"


@pytest.mark.parametrize(
    ("arguments", "error"), [(["no.csv"], CorpusError), (["no.csv", "--cache", "no"], RecipeError)]
)
def test_what_is_not_there_is_said(arguments, error, tmp_path):
    done = run(*arguments, "-o", tmp_path / "r.yaml")
    assert isinstance(done.exception, error)
    assert not (tmp_path / "r.yaml").exists()
