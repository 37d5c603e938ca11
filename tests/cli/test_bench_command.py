from typer.testing import CliRunner

from sercache.benchmarks.synthetic import synthetic_feature_set
from sercache.cli.main import app


def bench(*arguments):
    result = CliRunner().invoke(app, ["bench", "cache", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_random_features_are_measured_where_no_cache_is_named():
    output = bench("--utterances", 60, "--mean-frames", 9, "--dim", 8, "--rounds", 1)
    for expected in ("60 utterances in 1 shards", "plain memory", "sercache", "one .npy per utterance"):
        assert expected in output


def test_a_cache_is_measured_set_by_set_and_left_as_it_was(tmp_path):
    sets = [synthetic_feature_set(tmp_path, 40, 5, 4, seed=seed) for seed in (0, 1)]
    before = sorted(tmp_path.rglob("*"))
    output = bench(tmp_path, "--open-only")
    assert all(one.folder.name in output for one in sets)
    assert "plain memory" not in output
    assert sorted(tmp_path.rglob("*")) == before
