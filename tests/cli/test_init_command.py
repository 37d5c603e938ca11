import json

import pytest
from typer.testing import CliRunner

from sercache.cli.main import app
from sercache.errors import CorpusError, RecipeError
from sercache.recipe import load_recipe
from support.run_builder import make_corpus, write_features


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


def test_encoders_by_name_work_before_there_is_a_cache(tmp_path):
    (tmp_path / "corpus.csv").write_text(
        "id,text,speaker,votes:A,votes:B\n"
        + "".join(f"u{row},sentence {row},s{row % 4},{row % 2},{1 - row % 2}\n" for row in range(12))
    )
    path, cache = tmp_path / "r.yaml", tmp_path / "big" / "cache"
    done = run(tmp_path / "corpus.csv", "--encoder", "FacebookAI/roberta-large", "--encoder", "char-ngrams",
               "--cache", cache, "-o", path)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "2 feature sets (to be extracted, about 0.0" in done.output
    assert done.output.splitlines()[-1] == f"Next: sercache extract {path}"
    recipe = load_recipe(path)
    assert {name: feature.layers for name, feature in recipe.features.items()} == {
        "roberta-large": "all",
        "char-ngrams": "last",
    }
    assert recipe.cache.resolve() == cache.resolve()
    assert not cache.exists()


def test_what_the_disk_has_no_room_for_is_said(tmp_path, monkeypatch):
    make_corpus(tmp_path)
    monkeypatch.setattr("sercache.files.free_bytes", lambda folder: 1000)
    done = run(tmp_path / "corpus.csv", "--encoder", "FacebookAI/roberta-large", "-o", tmp_path / "r.yaml")
    assert done.exit_code == 0, done.output
    assert "roberta-large: all layers would take" in done.output
    assert "0.000 GB are free" in done.output
    assert load_recipe(tmp_path / "r.yaml").features["roberta-large"].layers == "last4"


@pytest.mark.parametrize(
    ("arguments", "error"), [(["no.csv"], CorpusError), (["no.csv", "--cache", "no"], RecipeError)]
)
def test_what_is_not_there_is_said(arguments, error, tmp_path):
    done = run(*arguments, "-o", tmp_path / "r.yaml")
    assert isinstance(done.exception, error)
    assert not (tmp_path / "r.yaml").exists()
