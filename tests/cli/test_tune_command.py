import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from sercache.cli import console as screen
from sercache.errors import RecipeError
from support.command_line import invoke
from support.run_builder import make_run

COMMAND = [sys.executable, "-c", "from sercache.cli.main import main; main()", "tune"]
LINEAR = {"name": "linear", "head": "mean-linear", "features": ["speech"]}
FAST = {
    "batch_size": 16,
    "stage1": {"epochs": 1, "learning_rate": 0.01},
    "stage2": {"epochs": 1, "learning_rate": 0.003},
}
SMALL = {"training": FAST, "folds": {"count": 2, "inner_share": 0.25}, "members": [LINEAR]}


def run(*arguments):
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_piped_it_prints_trials_verdict_files_and_the_next_command(tmp_path):
    make_run(tmp_path, **SMALL)
    space = tmp_path / "space.yaml"
    space.write_text("training.stage1.learning_rate: {low: 1.0e-3, high: 0.1, log: true}\n")
    arguments = (tmp_path / "recipe.yaml", "--space", space, "--trials", 2, "--workers", 1)
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stderr.splitlines()][-2:] == ["trial 0", "trial 1"]
    lines = done.stdout.splitlines()
    assert sorted(lines[0].split()) == ["0", "1", "baseline", "trial", "trial"]
    assert lines[1].split()[0] == "macro-F1"
    assert any(line.split()[:1] == ["training.stage1.learning_rate"] for line in lines)
    flowing = " ".join(done.stdout.split())
    assert "that no trial saw (speakers set aside, " in flowing
    assert "makes its inner macro-F1 optimistic" in flowing
    assert lines[-1].startswith("Next: sercache train-ensemble ")
    assert Path(lines[-1].split()[-1]).is_file()
    for name in ("tuning.csv", "tuning.json", "best.yaml"):
        assert any(str(tmp_path / "run-tuning" / name) in line for line in lines)
    assert "\x1b" not in done.stdout + done.stderr
    again = run(*arguments)
    assert again.returncode == 0
    assert "trial 0:" not in again.stderr
    assert again.stdout == done.stdout


def test_ctrl_c_exits_with_130_and_the_same_command_goes_on(tmp_path):
    epochs = {"stage1": {"epochs": 40, "learning_rate": 0.001}, "stage2": {"epochs": 0}, "patience": 40}
    make_run(tmp_path, **{**SMALL, "training": {"batch_size": 8, **epochs}})
    command = [*COMMAND, str(tmp_path / "recipe.yaml"), "--trials", "2", "--workers", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               start_new_session=True)  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("run-tuning/trials/1/members/*/*/state.safetensors")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "stopped with 1 of 2 trials ended; the same command goes on from there" in errors
    assert "Traceback" not in errors
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "trial 0:" not in done.stderr
    assert "trial 1:" in done.stderr


def test_on_a_terminal_a_bar_shows_the_trials(tmp_path, monkeypatch):
    drawn = io.StringIO()
    terminal = Console(file=drawn, force_terminal=True, width=100)
    monkeypatch.setattr(screen, "stderr_console", lambda: terminal)
    make_run(tmp_path, **SMALL)
    invoke("tune", tmp_path / "recipe.yaml", "--trials", 2, "--workers", 1)
    for word in ("trials", "best", "linear/fold-1"):
        assert word in drawn.getvalue()


def test_a_bad_space_is_an_error_of_the_library(tmp_path):
    make_run(tmp_path, **SMALL)
    space = tmp_path / "space.yaml"
    space.write_text("options.width: {choices: [8, 16]}\n")
    with pytest.raises(RecipeError, match="head 'mean-linear' has no option 'width'"):
        invoke("tune", tmp_path / "recipe.yaml", "--space", space)


def test_without_optuna_one_line_says_what_to_install(tmp_path, monkeypatch):
    make_run(tmp_path, **SMALL)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RecipeError, match=r"which is not installed: pip install 'sercache\[tune\]'"):
        invoke("tune", tmp_path / "recipe.yaml")
