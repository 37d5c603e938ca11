import json
import subprocess
import sys

import numpy as np
import pytest

from sercache.errors import ExportError, RecipeError
from sercache.run import Run
from sercache.stacking.comparison import compare
from sercache.training.ensemble import train_ensemble
from support.command_line import invoke
from support.run_builder import make_run


def sercache(*arguments):
    command = [sys.executable, "-c", "from sercache.cli.main import main; main()"]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    recipe = make_run(
        tmp_path_factory.mktemp("run"),
        members=[
            {"name": "linear", "head": "mean-linear", "features": ["speech"]},
            {"name": "words", "head": "mean-linear", "features": ["words"]},
        ],
        stacking={"stackers": ["soft-vote"], "bootstrap_samples": 200, "repeats": 1},
    )
    run = train_ensemble(recipe, workers=1).run
    compare(run)
    return run


def test_a_student_is_trained_shown_and_exported(run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "student.onnx"
    done = sercache(
        "distill", run.root, "--features", "speech", "--option", "width=4", "--option", "bottleneck=4",
        "--training", "stage1.epochs=2", "--training", "stage2.epochs=1", "--teacher", "soft-vote",
        "--workers", 1, "--onnx", path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "torchvision" not in done.stderr
    lines = done.stdout.splitlines()
    table = lines[: next(index for index, line in enumerate(lines) if line.startswith("72 rows"))]
    assert table
    assert all(len(line.rstrip()) <= 100 for line in table)
    shown = done.stdout
    for word in ("teacher", "student", "votes alone", "best single", "72 rows of 8 speakers", str(path)):
        assert word in shown
    session = onnxruntime.InferenceSession(path)
    inputs = {
        "frames_speech": np.zeros((2, 5, 6), np.float32),
        "mask_speech": np.ones((2, 5), dtype=bool),
    }
    probabilities, attributes = session.run(["probabilities", "attributes"], inputs)
    assert (probabilities.shape, attributes.shape) == ((2, 3), (2, 1))
    again = sercache(
        "distill", run.root, "-f", "speech", "--option", "width=4", "--option", "bottleneck=4",
        "--training", "stage1.epochs=2", "--training", "stage2.epochs=1", "--teacher", "soft-vote",
        "--json",
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["judged_rows"] == 72


def test_bad_input_is_one_line(run):
    done = sercache("distill", run.root, "--features", "speach")
    assert done.returncode == 2
    assert "no feature set 'speach'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["--option", "width"], RecipeError, "--option width: expected KEY=VALUE"),
        (["--features", "words", "--onnx-encoder", "e.onnx"], ExportError, "exports one encoder"),
        (["--onnx", "e.onnx", "--onnx-encoder", "e.onnx"], ExportError, "want a file each"),
        (["--onnx", "."], ExportError, "is a folder"),
        (
            ["--onnx-encoder", "e.onnx", "--training", "normalize=speaker"],
            ExportError,
            "this student's are normalised per speaker first; add --training normalize=none",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_trained(run, options, error, message):
    with pytest.raises(error, match=message):
        invoke("distill", run.root, "--features", "speech", *options)


def test_a_folder_that_is_no_run_is_one_line(tmp_path):
    with pytest.raises(RecipeError, match="is not a run"):
        invoke("distill", tmp_path, "--features", "speech")
