import shutil
import subprocess
import sys

import numpy as np
import pytest

from sercache.corpus import Attribute, Corpus, Utterance
from sercache.corpus.folds import assign_folds
from sercache.corpus.manifest import write_corpus
from sercache.errors import SercacheError, StackingError
from sercache.posteriors import Posteriors
from sercache.recipe import Recipe, dump_recipe
from sercache.run import Run
from support.baseline_runs import with_baseline
from support.command_line import invoke
from support.simulated_members import simulate

CLASSES = ("Angry", "Sad", "Happy")
ATTRIBUTES = tuple(Attribute(name, 1.0, 7.0) for name in ("arousal", "valence", "dominance"))


def sercache(*arguments):
    command = [sys.executable, "-m", "sercache.cli.main", "stack"]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False)


def main(*arguments):
    command = [sys.executable, "-c", "from sercache.cli.main import main; main()"]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stack")
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 240)
    utterances = tuple(
        Utterance(
            f"u{row}",
            f"u{row}.wav",
            speaker=f"s{row % 12}",
            votes=tuple((np.eye(3)[truth[row]] * 3 + rng.integers(0, 3, 3)).tolist()),
            attributes=tuple(rng.uniform(1, 7, 3).round(2).tolist()),
        )
        for row in range(240)
    )
    corpus = Corpus(CLASSES, ATTRIBUTES, utterances, folder)
    write_corpus(corpus, folder / "corpus.csv")
    fold_map = assign_folds(corpus, 3, seed=0)
    run = Run(folder / "run")
    run.root.mkdir()
    recipe = Recipe.model_validate(
        {
            "corpus": str(folder / "corpus.csv"),
            "output": str(run.root),
            "features": {"logmel": {"encoder": "logmel"}},
            "members": [{"name": name, "features": ["logmel"]} for name in ("a", "b")],
            "stacking": {
                "neural": {"runs": 2, "epochs": 5},
                "lightgbm": {"rounds": 10},
                "bootstrap_samples": 200,
            },
        }
    )
    run.recipe_path.write_text(dump_recipe(recipe))
    fold_map.save(run.folds_path)
    for name in ("a", "b"):
        powers = np.exp(1.5 * np.eye(3)[truth] + rng.normal(size=(240, 3)))
        Posteriors(
            name,
            corpus.ids,
            CLASSES,
            corpus.attribute_names,
            powers / powers.sum(axis=1, keepdims=True),
            corpus.attribute_values * 0.5 + 2,
            fold_map.of(corpus.ids),
            np.full(240, "out-of-fold"),
            fold_map.digest,
        ).save(run.posteriors_path(name))
    return run


def test_the_table_the_verdict_and_the_places_fit_100_columns_when_piped(run):
    done = sercache(run.root)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    table = lines[: next(index for index, line in enumerate(lines) if line.startswith("240 rows"))]
    assert all(len(line.rstrip()) <= 100 for line in table)
    assert len(table) == 2 + 11, done.stdout
    shown = [line.split()[0] for line in table[2:]]
    assert set(shown) == {
        "best-single",
        "hard-vote",
        "soft-vote",
        "weighted",
        "greedy",
        "logistic",
        "neural",
        "soup",
        "lightgbm",
        "majority",
        "chance",
    }
    scores = [float(line.split()[1]) for line in table[2:]]
    assert scores == sorted(scores, reverse=True)
    flowing = " ".join(done.stdout.split())
    assert "240 rows of 12 speakers (folds in turn" in flowing
    assert "means over 3 assignments of speakers to folds" in flowing
    assert "members whose posteriors they are fitted on may have trained on it" in flowing
    assert "neural" in flowing.split("minus macro-F1 here.")[1]
    for path in (run.report_path, run.comparison_path, run.metrics_path, run.root / "stack"):
        assert f"{path}  " in done.stdout
    assert "\x1b" not in done.stdout


def test_a_second_call_prints_the_same_again(run):
    first = invoke("stack", run.root, "--no-report").stdout
    assert "meta-level" in first
    assert invoke("stack", run.root, "--no-report").stdout == first


def test_with_a_baseline_the_table_has_its_row_and_fits_100_columns(run, tmp_path):
    shutil.copytree(run.root, tmp_path / "run")
    copied = Run(tmp_path / "run")
    with_baseline(copied, Posteriors.load(run.posteriors_path("a")))
    done = sercache(copied.root, "--no-report")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    table = lines[: next(index for index, line in enumerate(lines) if line.startswith("240 rows"))]
    assert all(len(line.rstrip()) <= 100 for line in table)
    assert "minus baseline" in table[0]
    assert sum(line.startswith("baseline ") for line in table) == 1
    assert "the baseline (macro-F1 0." in " ".join(done.stdout.split())


def test_a_folder_that_is_no_run_is_one_clear_line(tmp_path):
    from sercache.errors import RecipeError

    with pytest.raises(RecipeError, match="is not a run"):
        invoke("stack", tmp_path)


def test_predictions_of_any_system_are_stacked(tmp_path):
    simulation = simulate()
    write_corpus(simulation.corpus, tmp_path / "corpus.csv")
    paths = []
    for table in simulation.tables:
        paths.append(tmp_path / f"{table.member}.csv")
        lines = [
            ",".join([f"{utterance_id}.wav", *(f"{value:.6f}" for value in values)])
            for utterance_id, values in zip(table.ids, table.class_probabilities, strict=True)
        ]
        paths[-1].write_text("\n".join([",".join(["FileName", *table.classes]), *lines]) + "\n")
    arguments = [
        "stack",
        "--predictions",
        *paths,
        "--labels",
        tmp_path / "corpus.csv",
        "-o",
        tmp_path / "out",
    ]
    refused = main(*arguments)
    assert refused.returncode == 2
    assert "--out-of-fold" in refused.stderr
    assert "Traceback" not in refused.stderr
    done = main(*arguments, "--out-of-fold")
    assert done.returncode == 0, done.stderr
    assert "300 rows of 12 speakers" in " ".join(done.stdout.split())
    assert (tmp_path / "out" / "comparison.csv").is_file()
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(
        f'id="{key}"' in page for key in ("comparison", "classes", "members", "groups", "map", "clips")
    )
    again = main("stack", tmp_path / "out")
    assert again.returncode == 2
    assert "is what sercache stack --predictions wrote, not a run" in again.stderr


def test_predictions_want_labels_and_a_run_wants_to_be_alone(tmp_path):
    with pytest.raises(StackingError, match="--predictions and --labels go together"):
        invoke("stack", tmp_path / "a.csv", "--predictions")
    with pytest.raises(StackingError, match="one run at a time"):
        invoke("stack", tmp_path / "a", tmp_path / "b")
    with pytest.raises(SercacheError, match="--out-of-fold, --seed goes with --predictions"):
        invoke("stack", tmp_path / "a", "--seed", 0, "--out-of-fold")
