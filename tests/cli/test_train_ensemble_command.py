import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from sercache.cli import console as screen
from sercache.cli.live import training_context
from sercache.cli.main import app
from sercache.errors import Interrupted, RecipeError
from sercache.events import Event
from support.command_line import invoke
from support.run_builder import make_run

COMMAND = [sys.executable, "-c", "from sercache.cli.main import main; main()", "train-ensemble"]
LINEAR = {"name": "linear", "head": "mean-linear", "features": ["speech"]}
RIDGE = {"name": "ridge", "head": "ridge", "features": ["speech", "words"]}
SHORT = {"stage1": {"epochs": 2, "learning_rate": 0.01}, "stage2": {"epochs": 1}}
BROKEN = {"name": "broken", "head": "mean-linear", "features": ["words"],
          "training": {"stage1": {"learning_rate": 1e30}, "gradient_clip": None}}  # fmt: skip


def test_piped_it_prints_a_line_per_fold_or_closed_form_a_table_of_members_and_the_next_command(tmp_path):
    recipe = make_run(tmp_path, members=[LINEAR, BROKEN, {**RIDGE, "features": ["speech"]}])
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
    assert "3 closed-form fits, " in lines[1]
    assert lines[1].endswith("in one process")
    score = r"out-of-fold macro-F1 0\.\d{3}, UAR 0\.\d{3} \(3 folds\)"
    assert re.fullmatch(f"ridge: {score}", lines[2])
    assert "6 trainings, " in lines[3]
    assert [line for line in lines if re.fullmatch(f"linear: {score}", line)]
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
    assert "2 of 2 members are not above the baseline (macro-F1 0." in " ".join(done.stdout.split())
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
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "of 3 folds finished; the same command goes on after the last finished epoch" in errors
    assert "Traceback" not in errors
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(recipe.output.rglob("state.safetensors"))


def test_on_a_terminal_a_live_table_ranks_members_and_shows_folds_in_training(tmp_path, monkeypatch):
    drawn = io.StringIO()
    terminal = Console(file=drawn, force_terminal=True, width=80)
    monkeypatch.setattr(screen, "stderr_console", lambda: terminal)
    make_run(tmp_path, members=[LINEAR, RIDGE], training=SHORT)
    invoke("train-ensemble", tmp_path / "recipe.yaml", "--workers", 1)
    for word in ("finished", "macro-F1", "UAR", "in training", "linear", "6 of 6 folds", "Ctrl-C"):
        assert word in drawn.getvalue()


FOLDS = [f"{member}/fold-{fold}" for member in ("a", "b", "c") for fold in range(2)]


@pytest.fixture
def on_screen(monkeypatch):
    """Return a function from events to what is on an 80-column terminal after them, line by line."""

    class Live:
        def __init__(self, *, get_renderable, **options):
            self.get_renderable, self.console = get_renderable, options["console"]
            shown.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    shown = []
    monkeypatch.setattr("rich.live.Live", Live)

    def draw(*events, height=24):
        terminal = Console(file=io.StringIO(), force_terminal=True, width=80, height=height)
        monkeypatch.setattr(screen, "stderr_console", lambda: terminal)
        with training_context(FOLDS) as context:
            for event in events:
                context.listener(event)
        return rendered(shown[-1].get_renderable())

    return draw


def rendered(renderable):
    console = Console(file=io.StringIO(), width=80)
    console.print(renderable)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def score(member, macro_f1, uar=0.5):
    return Event("score", member, values={"macro_f1": macro_f1, "uar": uar})


def test_finished_members_are_ranked_best_first_above_those_in_training(on_screen):
    lines = on_screen(
        Event("start", "a/fold-0", total=1),
        score("a", 0.61),
        score("b", 0.92, 0.91),
        Event("start", "c/fold-0", total=20),
        Event("advance", "c/fold-0", done=7, total=20, values={"epoch": 7, "stage": 1, "best": 0.4}),
    )
    assert lines[0].split() == ["finished", "macro-F1", "UAR"]
    assert [line.split() for line in lines[1:3]] == [["b", "0.920", "0.910"], ["a", "0.610", "0.500"]]
    assert lines[4].split() == ["c", "7/20", "-"]
    assert "0 of 6 folds" in lines[5]


def test_a_derived_baseline_is_ranked_with_the_members_and_is_not_waited_for(on_screen):
    sentence = "Baseline (ridge on pooled statistics of speech): macro-F1 0.700."
    values = {"macro_f1": 0.7, "uar": 0.6}
    lines = on_screen(Event("score", "linear-baseline", message=sentence, values=values), score("a", 0.9))
    assert [line.split()[0] for line in lines[1:3]] == ["a", "linear-baseline"]
    waiting = {line.split()[0] for line in lines[3:] if line}
    assert {"b", "c"} <= waiting
    assert "linear-baseline" not in waiting


def test_piped_the_baseline_is_told_of_in_its_own_sentence_and_ranked_but_not_stacked(monkeypatch):
    log = Console(file=io.StringIO(), width=80)
    monkeypatch.setattr(screen, "stderr_console", lambda: log)
    sentence = "Baseline (ridge on pooled statistics of all): mean CCC 0.700 [0.6, 0.8]."

    def stopped_after_the_baseline():
        with training_context(FOLDS, run=Path("runs/a")) as context:
            context.listener(Event("score", "linear-baseline", message=sentence, values={"mean_ccc": 0.7}))
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        stopped_after_the_baseline()
    assert isinstance(log.file, io.StringIO)
    lines = log.file.getvalue().splitlines()
    assert lines[0] == sentence
    assert lines[1].split() == ["finished", "mean", "CCC"]
    assert lines[2].split() == ["linear-baseline", "0.700"]
    assert len(lines) == 3


def test_a_score_that_is_not_known_comes_last_and_other_scores_have_columns_too(on_screen):
    lines = on_screen(score("a", float("nan")), Event("score", "b", values={"macro_f1": 0.2, "ccc": 0.7}))
    assert lines[0].split() == ["finished", "macro-F1", "UAR", "ccc"]
    assert [line.split() for line in lines[1:3]] == [["b", "0.200", "-", "0.700"], ["a", "-", "0.500", "-"]]


def test_failed_folds_and_what_is_read_before_a_fit_are_shown(on_screen):
    lines = on_screen(
        Event("warning", "a/fold-1", message="a/fold-1: no"),
        Event("start", "b/fold-0", total=1),
        Event("advance", "pooling speech", done=20, total=535),
    )
    rows = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert rows["a"] == ["-", "failed"]
    assert rows["b"] == ["fitting", "-"]
    assert "pooling speech: 20 of 535 utterances" in lines
    assert not any("at most" in line for line in lines)


def test_on_a_low_terminal_the_best_and_those_at_work_are_shown(on_screen):
    lines = on_screen(score("a", 0.3), score("b", 0.4), Event("start", "c/fold-0", total=9), height=9)
    assert len(lines) <= 9
    assert lines[1].split()[0] == "b"
    assert any(line.split()[:2] == ["c", "0/9"] for line in lines)


def test_piped_a_member_that_was_trained_before_is_told_of_once(monkeypatch):
    log = Console(file=io.StringIO(), width=80)
    monkeypatch.setattr(screen, "stderr_console", lambda: log)
    with training_context(FOLDS) as context:
        for name in FOLDS[:2]:
            context.listener(Event("finish", name))
        context.listener(score("a", 0.61))
        for name in FOLDS[2:4]:
            context.listener(Event("start", name, total=1))
            context.listener(Event("finish", name, values={"best": 0.9}))
        context.listener(score("b", 0.62))
    assert log.file.getvalue().splitlines() == [
        "a: out-of-fold macro-F1 0.610, UAR 0.500 (trained before)",
        "b: out-of-fold macro-F1 0.620, UAR 0.500 (2 folds)",
    ]


def test_after_an_interruption_finished_members_are_ranked_and_can_be_stacked(tmp_path):
    epochs = {"stage1": {"epochs": 5000, "learning_rate": 1e-9}, "stage2": {"epochs": 0}, "patience": 5000}
    recipe = make_run(tmp_path, members=[LINEAR, RIDGE], training={"batch_size": 8, **epochs})
    command = [*COMMAND, str(tmp_path / "recipe.yaml"), "--workers", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(recipe.output.glob("members/linear/*/state.safetensors")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert printed == ""
    lines = errors.splitlines()
    place = next(row for row, line in enumerate(lines) if line.startswith("finished "))
    assert lines[place + 1].split()[0] == "ridge"
    assert f"sercache stack {recipe.output} works on this member already" in errors
    assert "the same command goes on" in lines[-1]
    stacked = CliRunner().invoke(app, ["stack", str(recipe.output), "--no-report"])
    assert stacked.exit_code == 0, stacked.output
    assert "best-single" in stacked.output


def test_the_live_table_is_drawn_anew_while_no_event_comes_and_says_that_it_is_stopping(monkeypatch):
    drawn = io.StringIO()
    terminal = Console(file=drawn, force_terminal=True, width=100)
    monkeypatch.setattr(screen, "stderr_console", lambda: terminal)
    with training_context(["linear/fold-0"]):
        os.kill(os.getpid(), signal.SIGINT)
        deadline = time.monotonic() + 30
        while "stopping after this epoch" not in drawn.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_recipe_that_does_not_fit_is_an_error_of_the_library(tmp_path):
    make_run(tmp_path, classes=["Hapy"])
    with pytest.raises(RecipeError, match="has no class 'Hapy'"):
        invoke("train-ensemble", tmp_path / "recipe.yaml")
