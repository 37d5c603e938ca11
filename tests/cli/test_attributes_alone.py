"""The whole way of a corpus with attributes and no classes, through the commands that people type."""

import csv
import json
import re
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from sercache.cli.main import app
from sercache.corpus.manifest import read_corpus
from sercache.posteriors import Posteriors
from sercache.recipe import load_recipe
from support.simulated_attributes import lins_mean

SPEAKERS = ("f01", "f02", "f03", "m01", "m02", "m03", "f04", "m04")
HELD_OUT = SPEAKERS[-2:]
NAMES = ("arousal", "valence", "dominance")
OF_CLASSES = re.compile(r"macro-F1|UAR|log-loss|Brier|ECE|consensus|class(?!es alone)")


def sercache(*arguments):
    """Run a command; its output as one line of words."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert done.exit_code == 0, (done.output, done.exception)
    return " ".join(done.output.split())


@dataclass(frozen=True)
class Trip:
    """Where everything lies, and what the commands said on the way."""

    folder: Path
    audio: Path
    outputs: dict[str, str]

    @property
    def corpus(self):
        return read_corpus(self.folder / "corpus.csv")


@pytest.fixture(scope="module")
def trip(tmp_path_factory):
    folder, outputs = tmp_path_factory.mktemp("trip"), {}
    with as_file(files("sercache.data")) as sample:
        make_label_table(sample, folder / "labels.csv")
        manifest = folder / "corpus.csv"
        scales = ",".join(f"{name}[1..7]" for name in NAMES)
        outputs["import"] = sercache(
            "corpus",
            "import",
            "csv",
            folder / "labels.csv",
            "-o",
            manifest,
            "--option",
            f"attributes={scales}",
        )
        outputs["check"] = sercache("corpus", "check", manifest, "--no-decode")
        outputs["show"] = sercache("corpus", "show", manifest)
        outputs["report"] = sercache("corpus", "report", manifest, "-o", folder / "corpus.html")
        outputs["init"] = sercache("init", manifest, "-o", folder / "first.yaml")
        write_recipe(folder)
        recipe, run = folder / "recipe.yaml", folder / "run"
        outputs["extract"] = sercache("extract", recipe)
        outputs["train"] = sercache("train-ensemble", recipe, "--workers", 1)
        outputs["stack"] = sercache("stack", run)
        outputs["bundle"] = sercache("bundle", run, "-o", folder / "bundle", "--stacker", "soft-vote")
        yield Trip(folder, sample / "audio", outputs)


def make_label_table(sample, path):
    """The sample's attributes as a table of another make; two speakers are the test split."""
    with (sample / "corpus.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["speaker"] in SPEAKERS]
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "audio", "speaker", "split", *NAMES])
        for row in rows:
            split = "test" if row["speaker"] in HELD_OUT else "train"
            ratings = [row[f"attribute:{name}[1..7]"] for name in NAMES]
            writer.writerow([row["id"], sample / row["audio"], row["speaker"], split, *ratings])


def write_recipe(folder):
    content = {
        "corpus": "corpus.csv",
        "cache": "cache",
        "output": "run",
        "features": {"speech": {"encoder": "logmel", "time_pool": 8}},
        "folds": {"count": 2, "inner_share": 0.3},
        "training": {
            "batch_size": 16,
            "accumulate": 1,
            "attribute_loss": "ccc",
            "stage1": {"epochs": 4, "learning_rate": 0.01},
            "stage2": {"epochs": 1, "learning_rate": 0.002},
        },
        "members": [
            {"name": "linear", "head": "mean-linear", "features": ["speech"]},
            {
                "name": "statistics",
                "head": "attentive-statistics",
                "features": ["speech"],
                "options": {"width": 8, "bottleneck": 8},
            },
        ],
        "stacking": {
            "stackers": ["hard-vote", "weighted", "logistic", "lightgbm"],
            "lightgbm": {"rounds": 10},
            "bootstrap_samples": 200,
        },
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))


def test_a_label_table_of_attributes_is_a_corpus_without_problems(trip):
    assert (
        "168 utterances, 8 speakers, 3 attributes (arousal, valence, dominance), no classes"
        in trip.outputs["import"]
    )
    assert "no problems" in trip.outputs["check"]
    assert "arousal [1..7]: mean" in trip.outputs["show"]
    assert "votes per utterance" not in trip.outputs["show"]
    assert "arousal 1 to 7 168" in trip.outputs["report"]
    assert "nobody voted" not in trip.outputs["report"]
    page = (trip.folder / "corpus.html").read_text()
    assert "3 attributes, no classes" in page
    assert "Which class is rarest" not in page


def test_a_first_recipe_trains_attributes(trip):
    recipe = load_recipe(trip.folder / "first.yaml")
    assert recipe.classes is None
    assert recipe.training.attribute_loss == "ccc"
    text = (trip.folder / "first.yaml").read_text()
    assert "arousal, valence, dominance" in text
    assert "as many of each class" not in text


def test_training_says_mean_ccc(trip):
    assert "mean CCC" in trip.outputs["train"]
    assert "mean rating 0.000" in trip.outputs["train"]
    assert not OF_CLASSES.search(trip.outputs["train"])
    truth = trip.corpus
    for member in ("linear", "statistics"):
        posteriors = Posteriors.load(trip.folder / "run" / "members" / member / "posteriors.parquet")
        table = posteriors.take([row.id for row in truth.utterances if row.split == "train"])
        score = lins_mean(truth.select(table.ids).attribute_values, table.attribute_values)
        assert f"{score:.3f}" in trip.outputs["train"]


def test_stacking_sorts_by_mean_ccc_and_says_what_is_left_out(trip):
    with (trip.folder / "run" / "comparison.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    scores = [float(row["mean_ccc"]) for row in table]
    assert scores == sorted(scores, reverse=True)
    assert trip.outputs["stack"].startswith("mean CCC CCC CCC CCC minus baseline")
    sentence = "The corpus has no classes: hard-vote, calibration, conformal sets and thresholds are left out"
    assert sentence in trip.outputs["stack"]
    assert not OF_CLASSES.search(trip.outputs["stack"].replace(sentence, "").replace("only classes have", ""))


def test_the_report_has_no_section_of_classes(trip):
    html = (trip.folder / "run" / "report.html").read_text()
    keys = re.findall(r'<section aria-labelledby="(\w+)"|<section[^>]* aria-labelledby="(\w+)"', html)
    found = [first or second for first, second in keys]
    assert found[:3] == ["summary", "run", "comparison"]
    assert not {"classes", "calibration"} & set(found)
    assert {"attributes", "training", "sizes", "members", "groups", "map", "clips", "troubles"} <= set(found)
    text = re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", html, flags=re.DOTALL)
    for word in ("macro-F1", "Macro-F1", "UAR", "Brier", "Log-loss", "ECE", "consensus", "nan"):
        assert not re.search(rf"\b{word}\b", text), word


def test_held_out_recordings_get_the_attributes_that_stack_gave_them(trip):
    """A bundle predicts as the run did; the table, JSON lines and CSV have no key or column of classes."""
    folder = trip.folder
    sercache("predict", folder / "bundle", "--corpus", folder / "corpus.csv", "--split", "test", "-o",
             folder / "predicted.csv")  # fmt: skip
    with (folder / "predicted.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == [
        *("id", "start", "end"),
        *(f"attribute:{name}" for name in NAMES),
        *("disagreement", "seconds", "text", "notes", "error"),
    ]
    stacked = Posteriors.load(folder / "run" / "stack" / "soft-vote" / "posteriors.parquet")
    wanted = stacked.take([row["id"] for row in rows])
    predicted = [[float(row[f"attribute:{name}"]) for name in NAMES] for row in rows]
    assert len(rows) == 42
    np.testing.assert_allclose(predicted, wanted.attribute_values, atol=1e-4)


def test_one_recording_is_shown_and_written_without_classes(trip):
    recording = trip.audio / "f04_00.ogg"
    shown = sercache("predict", trip.folder / "bundle", recording, "--windows", "--format", "table")
    assert re.search(r"arousal \d\.\d\d valence \d\.\d\d dominance \d\.\d\d members disagree \d+%", shown)
    line = sercache("predict", trip.folder / "bundle", recording, "--windows", "--format", "jsonl")
    answer = json.loads(line[line.index("{") :])
    assert not {"label", "probabilities", "posteriors", "conformal_set"} & {*answer, *answer["windows"][0]}
    values = np.asarray([[member[name] for name in NAMES] for member in answer["members"].values()])
    np.testing.assert_allclose(list(answer["attributes"].values()), values.mean(axis=0), atol=1e-5)
    assert answer["disagreement"] == pytest.approx(2 * (values / 6).std(axis=0).mean(), abs=1e-5)


def test_the_model_card_tells_of_attributes(trip):
    card = (trip.folder / "bundle" / "README.md").read_text()
    assert "Predicts arousal, valence, dominance in speech" in card
    assert "| mean CCC |" in card
    assert "| arousal | 1 | 7 |" in card
    assert "emotions ()" not in card
    assert not (trip.folder / "bundle" / "calibration.json").exists()


def test_predictions_of_other_systems_are_audited_and_stacked(trip):
    folder = trip.folder
    corpus = trip.corpus
    for name, noise in (("a", 0.5), ("b", 1.5)):
        values = np.clip(corpus.attribute_values + np.random.default_rng(1).normal(0, noise, (168, 3)), 1, 7)
        lines = [",".join(["id", *NAMES])]
        lines += [
            ",".join([utterance_id, *map(str, row)])
            for utterance_id, row in zip(corpus.ids, values.tolist(), strict=True)
        ]
        (folder / f"{name}.csv").write_text("\n".join(lines))
    audited = sercache("audit", folder / "a.csv", folder / "corpus.csv")
    assert "macro-F1" not in audited
    output = sercache(
        *("stack", "--predictions", folder / "a.csv", folder / "b.csv", "--labels", folder / "corpus.csv"),
        *("--out-of-fold", "-o", folder / "others", "--no-report"),
    )
    assert "The corpus has no classes" in output
    metrics = json.loads((folder / "others" / "metrics.json").read_text())
    truth = corpus.select([row.id for row in corpus.utterances if row.split == "test"]).attribute_values
    assert metrics["rows"]["best-single"]["scores"]["mean_ccc"]["value"] > lins_mean(truth, truth) - 0.4


def test_layers_are_probed_by_mean_ccc(trip):
    output = sercache(
        "probe", trip.folder / "cache", trip.folder / "corpus.csv", "-o", trip.folder / "probe.csv"
    )
    assert "mean CCC [95 %]" in output
    assert "UAR" not in output
    with (trip.folder / "probe.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert float(row["mean_ccc"]) == pytest.approx(
        np.mean([float(row[f"ccc:{name}"]) for name in NAMES]), abs=1e-4
    )


def test_a_member_is_ablated_and_variants_of_classes_are_skipped(trip):
    output = sercache(
        *("ablate", trip.folder / "recipe.yaml", "-m", "linear", "--seeds", 1, "--workers", 1),
        *("--variants", "no-mixup,hard-targets,no-multitask,no-class-weights,no-agreement-dropped"),
    )
    assert output.count("skipped: the corpus has no classes") == 4
    written = json.loads((trip.folder / "run-ablation" / "ablation.json").read_text())
    assert written["variants"][0]["mean_ccc"] > 0.1
    assert "Mean CCC: mean and standard deviation over seeds" in output


def test_settings_are_searched_for_by_mean_ccc(trip):
    pytest.importorskip("optuna", reason="Optuna is not installed")
    output = sercache("tune", trip.folder / "recipe.yaml", "-m", "linear", "--trials", 2, "--workers", 1)
    assert "which makes its inner mean CCC optimistic" in output
    assert "balance_exponent" not in output
    tuned = json.loads((trip.folder / "run-tuning" / "tuning.json").read_text())
    assert tuned["best"]["inner_mean_ccc"] == pytest.approx(tuned["best"]["inner_mean_ccc"])
    assert tuned["rows"] == 42


def test_a_student_learns_what_the_ensemble_says(trip):
    run = trip.folder / "run"
    output = sercache(
        *("distill", run, "-f", "speech", "--head", "mean-linear", "--workers", 1),
        *("--training", "stage1.epochs=1", "--training", "stage2.epochs=1"),
    )
    assert "ratings alone" in output
    assert "30% ratings" in output
    written = json.loads((run / "members" / "distilled-speech" / "distillation.json").read_text())
    assert {contestant["role"] for contestant in written["contestants"]} == {
        "teacher",
        "student",
        "control",
        "best-single",
        "baseline",
    }
    assert all("mean_ccc" in contestant["scores"] for contestant in written["contestants"])
    output = sercache("bundle", run, "-o", trip.folder / "small", "--distilled", "distilled-speech")
    assert "over 1 member" in output


def test_two_runs_are_compared_by_mean_ccc(trip):
    other = trip.folder / "other.yaml"
    content = yaml.safe_load((trip.folder / "recipe.yaml").read_text())
    other.write_text(yaml.safe_dump(content | {"output": "other", "members": content["members"][:1]}))
    sercache("train-ensemble", other, "--workers", 1)
    sercache("stack", trip.folder / "other", "--no-report")
    output = sercache("compare", trip.folder / "run", trip.folder / "other", "-o", trip.folder / "two.html")
    assert "mean CCC [95 %]" in output
    assert "CCC CCC CCC" in output
    assert "aro val dom" in output
    assert "macro-F1" not in output + (trip.folder / "two.html").read_text()
