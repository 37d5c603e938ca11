import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from sercache.cli import console as screen
from sercache.cli.live_training import live_training
from sercache.cli.train_ensemble import train_ensemble
from sercache.errors import RecipeError

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from run_builder import make_run

COMMAND = [sys.executable, "-c", "from sercache.cli.main import main; main()", "train-ensemble"]
LINEAR = {"name": "linear", "head": "mean-linear", "features": ["speech"]}
BROKEN = {"name": "broken", "head": "mean-linear", "features": ["words"],
          "training": {"stage1": {"learning_rate": 1e30}, "gradient_clip": None}}  # fmt: skip


def test_piped_it_prints_a_line_per_fold_a_table_of_members_and_the_next_command(tmp_path):
    recipe = make_run(tmp_path, members=[LINEAR, BROKEN])
    done = subprocess.run(
        [*COMMAND, str(tmp_path / "recipe.yaml"), "--workers", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("Baseline (ridge on pooled statistics of speech + words): macro-F1 0.")
    assert lines[0].endswith(" s. What follows has to beat it.")
    assert "6 trainings, " in lines[1]
    assert lines[1].endswith("in one process")
    for fold in range(3):
        assert any(line.startswith(f"linear/fold-{fold}: 7 epochs, macro-F1 0.") for line in lines)
    assert any("broken/fold-0: the loss became" in line for line in lines)
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.strip()}
    count, macro_f1, uar, difference, low, high = rows["linear"][-6:]
    assert int(count) == 64  # 72 utterances, of which 8 tie
    assert float(macro_f1) > 0.5
    assert float(uar) > 0.5
    assert float(low.strip("[,")) <= float(difference) <= float(high.strip("]"))
    assert rows["broken"][-4:] == ["-", "-", "-", "-"]
    assert float(rows["linear-baseline"][-2]) > 0.5
    assert "The only member is not above the baseline (macro-F1 0." in done.stdout
    assert float(rows["majority"][-2]) < 0.2
    assert float(rows["majority"][-1]) == 0.333
    assert "left out: broken/fold-0" in done.stdout
    assert done.stdout.splitlines()[-1] == f"Next: sercache stack {recipe.output}"
    assert "\x1b" not in done.stdout + done.stderr


def test_ctrl_c_exits_with_130_and_the_same_command_goes_on(tmp_path):
    """In a terminal it reaches the workers too."""
    epochs = {"stage1": {"epochs": 60, "learning_rate": 0.001}, "stage2": {"epochs": 0}, "patience": 60}
    recipe = make_run(tmp_path, members=[LINEAR], training={"batch_size": 8, **epochs})
    command = [*COMMAND, str(tmp_path / "recipe.yaml"), "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               start_new_session=True)  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(recipe.output.glob("members/*/*/state.safetensors")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "of 3 folds finished; the same command goes on after the last finished epoch" in told
    assert "Traceback" not in told
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(recipe.output.rglob("state.safetensors"))


def test_on_a_terminal_a_live_table_shows_members_and_folds(tmp_path, monkeypatch):
    drawn = io.StringIO()
    monkeypatch.setattr(screen, "progress_console", Console(file=drawn, force_terminal=True, width=100))
    monkeypatch.setattr(screen, "console", Console(file=io.StringIO(), width=100))
    make_run(tmp_path, members=[LINEAR])
    train_ensemble(tmp_path / "recipe.yaml", workers=1)
    for word in (
        "member",
        "fold 0",
        "fold 2",
        "linear",
        "3 of 3 folds",
        "at most",
        "best macro-F1",
        "Ctrl-C",
    ):
        assert word in drawn.getvalue()


def test_the_live_table_is_drawn_anew_while_no_event_comes_and_says_that_it_is_stopping(monkeypatch):
    drawn = io.StringIO()
    monkeypatch.setattr(screen, "progress_console", Console(file=drawn, force_terminal=True, width=100))
    stopping = threading.Event()
    with live_training(["linear/fold-0"], stopping.is_set):
        stopping.set()
        deadline = time.monotonic() + 30
        while "stopping after the epochs under way" not in drawn.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_recipe_that_does_not_fit_is_an_error_of_the_library(tmp_path):
    make_run(tmp_path, classes=["Hapy"])
    with pytest.raises(RecipeError, match="has no class 'Hapy'"):
        train_ensemble(tmp_path / "recipe.yaml")
