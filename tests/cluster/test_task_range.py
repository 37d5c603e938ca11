"""Job arrays: commands that know nothing of each other, some of them at once."""

import pytest

from support.cluster_commands import begin, contents, finish
from support.run_builder import make_run


def extract(manifest, cache, *more):
    return begin("extract", manifest, "--cache", cache, "--encoder", "logmel", *more)


def test_parts_that_run_at_once_and_late_make_what_one_command_makes(manifest, tmp_path):
    assert finish(extract(manifest, tmp_path / "alone")).code == 0
    first = [extract(manifest, tmp_path / "cache", "--task-range", part) for part in ("1/3", "2/3")]
    for done in map(finish, first):
        assert done.code == 0, done.errors
        assert "utterances are of other parts" in done.output
    last = finish(extract(manifest, tmp_path / "cache", "--task-range", "3/3"))
    assert last.code == 0, last.errors
    assert "other parts" not in last.output
    assert contents(tmp_path / "cache") == contents(tmp_path / "alone")


def test_a_last_command_without_range_does_what_is_missing(manifest, tmp_path):
    assert finish(extract(manifest, tmp_path / "cache", "--task-range", "2/2")).code == 0
    done = finish(extract(manifest, tmp_path / "cache"))
    assert done.code == 0, done.errors
    ids = manifest.read_text().count("\n")
    assert f"{ids}" in done.output


@pytest.mark.slow
def test_a_job_array_trains_what_one_command_trains(tmp_path, monkeypatch):
    for folder in (tmp_path / "alone", tmp_path / "array"):
        folder.mkdir()
        make_run(folder, members=[{"name": "linear", "head": "mean-linear", "features": ["speech"]}])
    assert finish(begin("train-ensemble", tmp_path / "alone" / "recipe.yaml", "--workers", 2)).code == 0
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "0")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MAX", "1")
    jobs = []
    for number in "01":
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", number)
        array = ("--task-range", "env", "--workers", 2)
        jobs.append(begin("train-ensemble", tmp_path / "array" / "recipe.yaml", *array))
    outputs = []
    for done in map(finish, jobs):
        assert done.code == 0, done.errors
        outputs.append(done.output)
    assert any("3 of 3 folds" in output for output in outputs)
    assert finish(begin("train-ensemble", tmp_path / "array" / "recipe.yaml")).code == 0
    alone, array = (
        {
            path.name: path.read_bytes()
            for path in (tmp_path / folder / "run").rglob("*")
            if path.suffix in (".safetensors", ".parquet")
        }
        for folder in ("alone", "array")
    )
    assert array == alone


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--task-range", "4/3"), "--task-range 4/3"),
        (("--task-range", "env"), "no job array here"),
        (("--task-range", "1/2", "--replace-changed"), "without --task-range"),
        (("--engine", "dask"), "unknown engine 'dask'"),
        (("--address", "auto"), "only --engine ray has one"),
        (("--engine", "ray", "--address", "127.0.0.1:1"), "no Ray cluster"),
    ],
)
def test_what_cannot_be_meant_is_one_line(manifest, tmp_path, options, expected):
    done = finish(extract(manifest, tmp_path / "cache", *options))
    assert done.code == 2
    assert expected in done.errors.splitlines()[-1]
    assert "Traceback" not in done.errors
