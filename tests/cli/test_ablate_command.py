import csv

import pytest

from sercache.errors import RecipeError
from support.command_line import invoke
from support.run_builder import make_run

TRAINING = {
    "batch_size": 16,
    "stage1": {"epochs": 2, "learning_rate": 0.01},
    "stage2": {"epochs": 1, "learning_rate": 0.003},
    "mixup": {"probability": 0},
}


def test_it_prints_the_table_the_skipped_the_verdict_and_where_it_is_written(tmp_path):
    make_run(tmp_path, training=TRAINING, folds={"count": 2, "inner_share": 0.25})
    arguments = ["--seeds", "2", "--variants", "hard-targets, no-mixup", "-o", str(tmp_path / "out")]
    done = invoke("ablate", tmp_path / "recipe.yaml", *arguments, "--device", "cpu", "--workers", "1")
    assert done.exit_code == 0, done.output
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.strip()}
    lines = (tmp_path / "out" / "ablation.csv").read_text().splitlines()
    written = {line["variant"]: line for line in csv.DictReader(lines)}
    assert float(rows["full"][1]) == pytest.approx(float(written["full"]["macro_f1"]), abs=5e-4)
    assert float(rows["hard-targets"][1]) == pytest.approx(
        float(written["hard-targets"]["macro_f1"]), abs=5e-4
    )
    assert rows["hard-targets"][-1] == "-8.2"
    assert "no-mixup skipped: the recipe has no MixUp" in done.stdout
    assert "64 out-of-fold rows" in done.stdout
    assert "On 64 rows of 8 speakers, 2 seeds each:" in done.stdout
    assert str(tmp_path / "out" / "ablation.json") in done.stdout
    assert "hard-targets-seed1/fold-1: 3 epochs" in done.stderr
    assert "\x1b" not in done.output


def test_a_wrong_variant_is_an_error_of_the_library_before_anything_is_trained(tmp_path):
    make_run(tmp_path)
    with pytest.raises(RecipeError, match=r"Did you mean 'no-mixup'\?"):
        invoke("ablate", tmp_path / "recipe.yaml", "--variants", "no-mixop")
    assert not (tmp_path / "run-ablation").exists()
