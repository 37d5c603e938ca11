import json
import shlex

import pytest
from typer.testing import CliRunner

from sercache.cache.store import Cache
from sercache.cli.main import app
from support.layered_features import layered
from support.run_builder import make_corpus


def sercache(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def cache(tmp_path):
    layered(tmp_path, make_corpus(tmp_path))
    return tmp_path / "cache"


def test_it_prints_a_table_a_verdict_and_a_command_that_works(cache, tmp_path):
    output = sercache(
        "probe", cache, tmp_path / "corpus.csv", "--folds", 4, "--sums", "-o", tmp_path / "p.csv"
    )
    lines = output.splitlines()
    table = {line.split()[0]: line for line in lines if line.strip()}
    assert "best" in table["layer-2"]
    assert {"layer-0", "layer-1", "last", "sum", "chosen"} <= set(table)
    assert (tmp_path / "p.csv").read_text().count("\n") == 6
    command = shlex.split(lines[-1].removeprefix("Next: ").partition("  (frees")[0])
    assert command[0] == "sercache"
    assert command[-2:] == ["--keep-layers", "2"]
    sercache(*command[1:], "--yes")
    (left,) = Cache(cache).feature_sets()
    assert left.layers == ("layer-2",)


def test_json_is_for_programs(cache, tmp_path):
    (report,) = json.loads(sercache("probe", cache, tmp_path / "corpus.csv", "--folds", 4, "--json"))
    scores = {layer["name"]: layer["macro_f1"]["value"] for layer in report["layers"]}
    assert max(scores, key=scores.get) == "layer-2"


@pytest.mark.slow
def test_layers_of_a_real_encoder_on_real_speech(shared_data, tmp_path):
    sercache("corpus", "import", "emodb", shared_data / "emodb", "-o", tmp_path / "corpus.csv")
    (tmp_path / "recipe.yaml").write_text(
        "corpus: corpus.csv\nfeatures:\n  kwt1: {encoder: "
        f"{shared_data / 'weights' / 'kwt1'}, layers: all, time_pool: 4, trust_remote_code: true}}\n"
        "members: [{name: m, features: [kwt1]}]\n"
    )
    sercache("extract", tmp_path / "recipe.yaml")
    (report,) = json.loads(sercache("probe", tmp_path / "cache", tmp_path / "corpus.csv", "--json"))
    assert len(report["layers"]) == 13
    assert all(0.5 < layer["macro_f1"]["value"] < 0.75 for layer in report["layers"])
    assert report["chosen_blindly"]["value"] > 0.5
