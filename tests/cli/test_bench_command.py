import json

import pytest
from typer.testing import CliRunner

from sercache.benchmarks.synthetic import synthetic_feature_set
from sercache.cli.main import app
from sercache.errors import SercacheError


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
    assert sets
    assert all(feature_set.folder.name in output for feature_set in sets)
    assert "plain memory" not in output
    assert sorted(tmp_path.rglob("*")) == before


def train(*arguments):
    small = ("--utterances", 40, "--mean-frames", "9,3", "--dims", "6,4", "--width", 4, "--feedforward", 4)
    result = CliRunner().invoke(app, ["bench", "train", *map(str, (*small, *arguments))])
    assert result.exit_code == 0, result.output
    return result.output


def test_training_is_timed_against_its_arithmetic_and_the_plain_way():
    output = train("--rounds", 1, "--batch-size", 8)
    rows = {line.split("  ")[0]: line.split() for line in output.splitlines() if "float32" in line}
    assert set(rows) == {"the arithmetic alone", "sercache", "... padded and masked", "the plain way"}
    assert float(rows["the arithmetic alone"][-1]) == 1.0
    assert all(float(row[-1]) > 0 and float(row[-2]) > 0 for row in rows.values())
    assert "frames streamed" in output
    assert rows["sercache"][-5] == "0.0%"
    assert float(rows["the plain way"][-5].rstrip("%")) > float(rows["... padded and masked"][-5].rstrip("%"))


@pytest.mark.slow
def test_an_ensemble_is_timed_as_planned_and_one_by_one():
    output = train("--ensemble", "--folds", 2, "--epochs", 2, "--members", 7, "--batch-size", 16)
    assert "7 members x 2 folds x 2 epochs, frames streamed" in output
    assert "as planned (14 trainings, " in output
    assert output.count(" s an epoch") == 2
    assert "times as long" in output


def test_frames_can_be_kept_on_the_device_and_it_is_said():
    assert "frames resident" in train("--rounds", 1, "--frames", "resident")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ensemble", "--rounds", "2"], "--rounds does not go with --ensemble"),
        (["--ensemble", "--compile"], "--compile does not go with --ensemble"),
        (["--ensemble", "--frames", "streamed"], "--frames does not go with --ensemble"),
        (["--members", "3"], "--members goes with --ensemble"),
        (["--frames", "nowhere"], "--frames is auto, resident, streamed, not 'nowhere'"),
    ],
)
def test_options_that_would_be_ignored_are_refused(arguments, message):
    result = CliRunner().invoke(app, ["bench", "train", *arguments])
    assert isinstance(result.exception, SercacheError)
    assert str(result.exception) == message


@pytest.mark.parametrize("wrong", [("--dims", "6"), ("--dims", "six,4"), ("--dims", "0,4")])
def test_sizes_that_do_not_fit_are_one_clear_line(wrong):
    result = CliRunner().invoke(app, ["bench", "train", *wrong])
    assert isinstance(result.exception, SercacheError)
    assert "--mean-frames and --dims" in str(result.exception)


def test_closed_form_heads_are_timed_against_scikit_learn():
    arguments = ["bench", "fit", "--rows", "200", "--numbers", "140", "--json"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    timings = json.loads(result.stdout)
    assert [timing["name"] for timing in timings] == ["ridge", "logistic", "scikit-learn's grid search"]
    assert all(timing["seconds"] > 0 and timing["peak_bytes"] > 0 for timing in timings)
