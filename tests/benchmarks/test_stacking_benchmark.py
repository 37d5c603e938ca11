import subprocess
import sys
from pathlib import Path

import pytest

from sercache.recipe import StackingRecipe
from sercache.training.ensemble import train_ensemble
from support.run_builder import make_run

COMMAND = [sys.executable, "-c", "from sercache.cli.main import main; main()"]


def run(*arguments):
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_every_stacker_is_timed_and_uses_what_it_is_given():
    done = run("bench", "stack", "--rows", "1000", "--members", "3", "--classes", "3", "--attributes", "1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    table = {line.split()[0]: line.split()[1:] for line in lines[2:-1]}
    assert list(table) == StackingRecipe().stackers
    assert all(float(cells[2]) > 0.4 and float(cells[3]) > 50 for cells in table.values())
    assert float(table["logistic"][2]) > float(table["soft-vote"][2])
    assert "the goal on 2 cores is 300 s" in lines[-1]


@pytest.mark.slow
def test_a_whole_comparison_is_timed_part_by_part():
    done = run("bench", "stack", "--whole", "--rows", "1000", "--members", "2", "--classes", "3")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    parts = {
        line.rsplit(maxsplit=1)[0]: float(line.split()[-1]) for line in lines[2:14] if line[-1:].isdigit()
    }
    assert set(StackingRecipe().stackers) < set(parts)
    assert "intervals, calibration, curves, writing" in parts
    flowing = " ".join(done.stdout.split())
    assert "judged on 100 rows of other speakers" in flowing
    assert "Peak" in flowing


@pytest.mark.slow
def test_the_simulation_prints_what_was_wanted_beside_what_was_found():
    done = run("bench", "stack-simulation", "--quick")
    assert done.returncode == 0, done.stderr
    assert "Bayes rate" in done.stdout
    assert "intervals that hold the truth, of 12 corpora; wanted: 95 %" in done.stdout
    assert "logistic, folds in turn, 3 times" in done.stdout
    assert "lightgbm twice, on speakers apart" in done.stdout


@pytest.mark.slow
def test_a_planted_leak_is_judged_on_the_same_rows_as_the_honest_run(tmp_path):
    recipe = make_run(tmp_path)
    run_folder = train_ensemble(recipe, workers=1).run.root
    script = Path(__file__).with_name("planted_leak.py")
    command = [sys.executable, str(script), str(run_folder), str(tmp_path / "leak")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cells = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()[2:]}
    for unfitted in ("soft-vote", "hard-vote"):  # what they say of held-out rows depends on the members alone
        assert cells[unfitted][0] == cells[unfitted][2]
        assert cells[unfitted][1] != cells[unfitted][3]
