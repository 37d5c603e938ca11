"""Files that an earlier version wrote are read today, with the numbers that it computed (golden/make.py)."""

import csv
import json
import shutil
import zipfile
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sercache.bundle.clips import Recording
from sercache.bundle.predictor import Bundle
from sercache.cache.ledger import Ledger
from sercache.cache.store import Cache
from sercache.cache.verify import verify
from sercache.corpus.manifest import read_corpus
from sercache.encoders.registry import load_encoder
from sercache.evaluation.calibration.fitted import Calibration
from sercache.experiments.ablation import run_ablation
from sercache.experiments.ablation_design import design_ablation
from sercache.experiments.tuning import run_tuning
from sercache.experiments.tuning_design import design_tuning
from sercache.posteriors import Posteriors
from sercache.recipe import load_recipe
from sercache.reporting.facts import read_facts
from sercache.run import Run, derived_members
from sercache.stacking.joining import load_rows
from sercache.stacking.registry import STACKERS, load_stacker
from sercache.stacking.splits import make_splits
from sercache.training.cached_frames import predict
from sercache.training.checkpoint import load_head
from sercache.training.data import open_run
from sercache.training.ensemble import train_ensemble
from sercache.training.finetuning.overlay import EncoderOverlay

ARCHIVE = Path(__file__).parent / "golden" / "files.zip"
MADE_IN = "/golden"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The files as they were made, beside the recordings of the bundled sample; nobody changes them."""
    root = tmp_path_factory.mktemp("golden")
    with zipfile.ZipFile(ARCHIVE) as packed:
        packed.extractall(root)
    for path in root.rglob("*.yaml"):
        path.write_text(path.read_text().replace(MADE_IN, str(root)))
    (root / "audio").symlink_to(Path(str(files("sercache.data"))) / "audio")
    return root


@pytest.fixture
def golden(unpacked, tmp_path):
    """A copy that a test may change."""
    root = tmp_path / "golden"
    shutil.copytree(unpacked, root, symlinks=True)
    for path in root.rglob("*.yaml"):
        path.write_text(path.read_text().replace(str(unpacked), str(root)))
    return root


def weights_of(root):
    return {
        str(path.relative_to(root)): load_file(path)
        for path in sorted(root.glob("members/fusion/fold-*/weights.safetensors"))
    }


def contents(root, pattern):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob(pattern))}


def test_a_cache_is_whole_and_names_what_failed(unpacked):
    sets = {feature_set.spec.encoder: feature_set for feature_set in Cache(unpacked / "cache").feature_sets()}
    assert set(sets) == {"logmel", "char-ngrams", "wavlm"}
    corpus = read_corpus(unpacked / "corpus.csv")
    for feature_set in sets.values():
        assert verify(feature_set) == []
        assert len(feature_set) >= len(corpus) - 1
    assert list(Ledger(sets["logmel"].folder).failures) == ["lost"]
    assert sets["logmel"].missing(corpus.ids) == ["lost"]


def test_features_are_found_by_their_recipe_and_equal_those_of_today(unpacked):
    recipe = load_recipe(unpacked / "run.yaml")
    feature_set = Cache(unpacked / "cache").find(recipe.features["words"])
    encoder = load_encoder("char-ngrams")
    row = read_corpus(unpacked / "corpus.csv").utterances[3]
    (frames,) = encoder.encode([row.text])[0]
    pooled = np.add.reduceat(frames, range(0, len(frames), 4), axis=0)
    counts = np.diff([*range(0, len(frames), 4), len(frames)])[:, None]
    np.testing.assert_allclose(feature_set.frames(row.id), pooled / counts, atol=1e-3)


@pytest.mark.parametrize("member", ["ridge", "fusion", "linear"])
def test_heads_predict_what_they_predicted(unpacked, member):
    data = open_run(unpacked / "run")
    recipe = next(row for row in data.recipe.members if row.name == member)
    head, _ = load_head(data.run.fold_folder(member, 0) / "weights.safetensors")
    table = Posteriors.load(data.run.posteriors_path(member))
    fold_rows = table.take([name for name, fold in zip(table.ids, table.folds, strict=True) if fold == 0])
    assert len(fold_rows.ids) > 10
    source = data.frames("cpu").select(fold_rows.ids, data.sets_of(recipe))
    output = predict(head, source, 8)
    predicted = torch.softmax(output.logits.double(), dim=1).numpy()
    np.testing.assert_allclose(predicted, fold_rows.class_probabilities, atol=1e-5)


@pytest.mark.parametrize("member", ["ridge", "fusion", "linear"])
def test_a_finished_run_needs_no_training(golden, member):
    before = contents(golden / "run" / "members" / member, "*.safetensors")
    assert before
    train_ensemble(load_recipe(golden / "run.yaml"), device="cpu", workers=1, with_baseline=False)
    assert contents(golden / "run" / "members" / member, "*.safetensors") == before


def fitted_stackers(run):
    return sorted(path.parent.name for path in (run.root / "stack").glob("*/stacker.json"))


def test_every_kind_of_stacker_gives_its_posteriors(unpacked):
    run = Run(unpacked / "run")
    assert set(fitted_stackers(run)) == set(STACKERS) - {"mean-rating"}
    scored = make_splits(load_rows(run)).scored
    for name in fitted_stackers(run):
        table = Posteriors.load(run.stacker_folder(name) / "posteriors.parquet")
        assert table.ids == scored.inputs.ids
        predicted = load_stacker(run.stacker_folder(name)).predict(scored.inputs)
        np.testing.assert_allclose(predicted.class_probabilities, table.class_probabilities, atol=1e-6)
        np.testing.assert_allclose(predicted.attribute_values, table.attribute_values, atol=1e-5)


@pytest.mark.parametrize(
    ("run", "kind"), [("run", "temperature"), ("dirichlet", "dirichlet"), ("uncalibrated", "none")]
)
def test_calibrations_are_read(unpacked, run, kind):
    (path,) = (unpacked / run / "stack").glob("*/calibration.json")
    calibration = Calibration.load(path)
    assert calibration.kind == kind
    assert (calibration.thresholds.tolist() != [1.0] * 4) == (run == "dirichlet")
    table = Posteriors.load(path.with_name("posteriors.parquet"))
    calibrated = calibration.apply(table.class_probabilities)
    np.testing.assert_allclose(calibrated.probabilities.sum(axis=1), 1)
    if kind == "none":
        np.testing.assert_allclose(calibrated.probabilities, table.class_probabilities)


def test_a_stacked_run_is_reported(unpacked):
    facts = read_facts(Run(unpacked / "run"))
    with (unpacked / "run" / "comparison.csv").open() as stream:
        rows = {row["stacker"]: float(row["macro_f1"]) for row in csv.DictReader(stream)}
    assert set(facts.stackers) <= set(rows)
    for name in facts.stackers:
        assert facts.score(name, "macro_f1").value == pytest.approx(rows[name], abs=1e-6)


def test_a_stack_of_other_systems_predictions_is_reported(golden):
    sources = golden / "stacked" / "sources.json"
    sources.write_text(sources.read_text().replace(MADE_IN, str(golden)))
    facts = read_facts(Run(golden / "stacked"))
    assert len(facts.classes) == 8
    assert facts.stackers


def test_a_bundle_predicts_what_it_predicted(unpacked):
    with (unpacked / "predictions.csv").open() as stream:
        wanted = list(csv.DictReader(stream))
    assert len(wanted) == 12
    corpus = read_corpus(unpacked / "corpus.csv")
    recordings = [
        Recording(row["id"], corpus.audio_path(corpus.by_id[row["id"]]), text=corpus.by_id[row["id"]].text)
        for row in wanted
    ]
    found = list(Bundle.load(unpacked / "bundle", device="cpu").predict(recordings))
    for row, prediction in zip(wanted, found, strict=True):
        answer = prediction.as_dict()
        assert answer["label"] == row["label"]
        for name, value in answer["probabilities"].items():
            assert value == pytest.approx(float(row[f"p:{name}"]), abs=1e-5)


def test_an_interrupted_training_ends_like_the_one_that_was_not(golden):
    assert list(golden.glob("interrupted/members/fusion/fold-*/state.safetensors"))
    train_ensemble(load_recipe(golden / "interrupted.yaml"), device="cpu", workers=1, with_baseline=False)
    found, wanted = weights_of(golden / "interrupted"), weights_of(golden / "whole")
    assert len(wanted) == 2
    assert found.keys() == wanted.keys()
    for path, tensors in wanted.items():
        for name, value in tensors.items():
            where = slice(None)
            if name.endswith("project_in.bias"):
                # Keys' biases have no gradient but what rounding leaves, and Adam makes whole steps of it.
                width = len(value) // 3
                where = torch.cat([torch.arange(width), torch.arange(2 * width, 3 * width)])
            torch.testing.assert_close(found[path][name][where], value[where], atol=1e-6, rtol=1e-6)


def test_an_ablation_comes_to_the_recorded_scores(golden):
    recorded = json.loads((golden / "experiment-ablation" / "ablation.json").read_text())
    recipe = load_recipe(golden / "experiment.yaml")
    report = run_ablation(design_ablation(recipe, seeds=1, variants=["no-mixup"]), device="cpu", workers=1)
    again = json.loads(report.json_path.read_text())
    assert again.keys() == recorded.keys()
    assert again["baseline"]["macro_f1"] == pytest.approx(recorded["baseline"]["macro_f1"], abs=1e-6)
    scores = [{row["variant"]: row["macro_f1"] for row in found["variants"]} for found in (again, recorded)]
    assert set(scores[1]) == {"full", "no-mixup"}
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def test_a_search_goes_on_where_it_ended(golden):
    output = golden / "experiment-tuning"
    settings = [json.loads((output / "trials" / str(n) / "settings.json").read_text()) for n in range(2)]
    report = run_tuning(
        design_tuning(load_recipe(golden / "experiment.yaml")), trials=2, device="cpu", workers=1
    )
    assert [dict(trial.settings) for trial in report.trials] == settings


def test_a_distilled_member_and_its_record(unpacked):
    run = Run(unpacked / "run")
    assert [member.name for member in derived_members(run, "distilled")] == ["student"]
    assert "student" in run.distillation_path("student").read_text()
    teacher = Posteriors.load(run.teacher_path("student"))
    np.testing.assert_allclose(teacher.class_probabilities.sum(axis=1), 1, atol=1e-6)


def test_finetuned_layers_lie_over_their_encoder(unpacked):
    run = Run(unpacked / "finetuned")
    (member,) = derived_members(run, "finetuned")
    path = run.fold_folder(member.name, 0) / "encoder-wavlm.safetensors"
    overlay = EncoderOverlay.load(path)
    assert (overlay.description.lora, overlay.description.encoder) == (1, "wavlm")
    encoder = load_encoder(str(unpacked / "wavlm"))
    waveform = np.random.default_rng(0).normal(size=8_000).astype(np.float32) / 10
    (plain,) = encoder.encode([waveform])
    with overlay.applied_to(encoder):
        (changed,) = encoder.encode([waveform])
    (after,) = encoder.encode([waveform])
    assert not np.allclose(changed, plain, atol=1e-6)
    np.testing.assert_array_equal(after, plain)
