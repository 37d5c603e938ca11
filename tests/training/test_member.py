import csv
from dataclasses import replace

import numpy as np
import pytest
import torch

from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.ledger import Ledger
from sercache.cache.shard import StoredUtterance
from sercache.cache.sources import Source
from sercache.cache.store import Cache
from sercache.cache.writer import publish_shard, start_feature_set
from sercache.corpus.manifest import read_corpus
from sercache.errors import CorpusError, EncoderError, TrainingError
from sercache.posteriors import Posteriors
from sercache.recipe import load_recipe
from sercache.training.batches import FrameSource
from sercache.training.cached_frames import predict
from sercache.training.checkpoint import load_head
from sercache.training.data import open_run, refuse_crossing_speakers, warn_of_untrained_encoders
from sercache.training.ensemble import train_ensemble
from sercache.training.member import FoldJob, fold_rows, train_fold
from support.run_builder import make_corpus, make_run, write_features, write_recipe

LINEAR = {"name": "linear", "head": "mean-linear", "features": ["speech"]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    recipe = make_run(tmp_path_factory.mktemp("member"), members=[LINEAR])
    return train_ensemble(recipe, workers=1).run


def speakers(ids):
    return {utterance_id.split("/")[0] for utterance_id in ids}


@pytest.mark.parametrize("splits", [None, ["train"] * 5 + ["development"] + ["test"] * 2])
def test_learned_from_stopped_on_and_predicted_are_of_different_speakers(tmp_path, splits):
    recipe = make_run(tmp_path, splits=splits, members=[LINEAR])
    data = open_run(train_ensemble(recipe, workers=1).run.root)
    predicted = []
    for fold in range(3):
        rows = fold_rows(data, recipe.members[0], fold)
        assert not speakers(rows.fit) & speakers(rows.stop)
        assert not speakers(rows.stop) & speakers(rows.predicted["out-of-fold"])
        for ids in rows.predicted.values():
            assert not speakers(rows.fit) & speakers(ids)
        predicted += rows.predicted["out-of-fold"]
    assert sorted(predicted) == sorted(
        row.id for row in data.corpus.utterances if row.split in (None, "train")
    )


def test_a_finished_fold_leaves_weights_predictions_and_history_and_nothing_else(finished):
    folder = finished.fold_folder("linear", 1)
    assert sorted(path.name for path in folder.iterdir()) == [
        "history.csv", "predictions.parquet", "weights.safetensors"]  # fmt: skip
    with (folder / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    columns = "epoch stage learning_rate train_loss stop_loss macro_f1 uar seconds"
    assert list(rows[0]) == columns.split()
    rates = [(row["stage"], row["learning_rate"]) for row in rows]
    assert rates == [("1", "0.01")] * 4 + [("2", "0.003")] * 3


def test_the_weights_alone_give_the_predictions_again(finished):
    folder = finished.fold_folder("linear", 2)
    head, description = load_head(folder / "weights.safetensors")
    data = open_run(finished.root)
    assert description.features == {"speech": data.feature_sets["speech"].spec.fingerprint}
    assert tuple(description.classes) == data.corpus.classes
    table = Posteriors.load(folder / "predictions.parquet")
    source = FrameSource([data.feature_sets["speech"]], table.ids, torch.device("cpu"))
    again = torch.softmax(predict(head, source, 9).logits.double(), dim=1)
    np.testing.assert_allclose(again.numpy(), table.class_probabilities, atol=1e-6)


def test_what_a_killed_process_left_behind_is_removed(tmp_path):
    recipe = make_run(tmp_path, members=[LINEAR])
    run = train_ensemble(recipe, workers=1).run
    folder = run.fold_folder("linear", 0)
    torn = folder / ".state.safetensors.99999999.0123abcd.tmp"
    torn.write_bytes(b"half")
    (folder / "state.safetensors").write_bytes(b"killed between publishing and tidying up")
    list(train_fold(FoldJob(run.root, "linear", 0, "cpu")))
    assert not torn.exists()
    assert not (folder / "state.safetensors").exists()


def test_predictions_of_another_fold_are_refused_loudly(tmp_path):
    recipe = make_run(tmp_path, members=[LINEAR])
    run = train_ensemble(recipe, workers=1).run
    table, other = (run.fold_folder("linear", fold) / "predictions.parquet" for fold in (0, 1))
    table.write_bytes(other.read_bytes())
    with pytest.raises(
        TrainingError, match=r"fold-0: predictions of other folds than this run's; remove that"
    ):
        train_ensemble(recipe, workers=1)


def test_a_speaker_in_two_splits_is_refused_before_anything_is_trained(tmp_path):
    corpus = make_corpus(tmp_path, splits=["train"] * 6 + ["test"] * 2)
    write_features(tmp_path, corpus)
    path = tmp_path / "corpus.csv"
    path.write_text(path.read_text().replace(",s6,test", ",s1,test"))
    recipe = load_recipe(write_recipe(tmp_path, members=[LINEAR]))
    with pytest.raises(
        CorpusError, match=r"speaker 's1' is in the splits 'test' and 'train' \(1 such speakers\)"
    ):
        train_ensemble(recipe, workers=1)
    assert not recipe.output.exists()


def test_rows_without_a_speaker_in_several_splits_are_a_warning(tmp_path):
    make_corpus(tmp_path, splits=["train"] * 6 + ["test"] * 2)
    path = tmp_path / "corpus.csv"
    path.write_text(path.read_text().replace(",s6,test", ",,test").replace(",s1,train", ",,train"))
    events = []
    refuse_crossing_speakers(read_corpus(path), events.append)
    assert [event.kind for event in events] == ["warning"]
    assert "without a speaker are in the splits test, train" in events[0].message


def test_features_of_random_weights_are_a_warning(tmp_path):
    spec = FeatureSpec(
        "random:wavlm-base", "seed 1", "audio", ("last",), 12, 4, 50.0, 16_000, "none", "tests"
    )
    trained = start_feature_set(tmp_path, replace(spec, encoder="microsoft/wavlm-base", dtype="float16"))
    untrained = start_feature_set(tmp_path, replace(spec, dtype="float16"))
    events = []
    warn_of_untrained_encoders({"real": trained, "fake": untrained}, events.append)
    assert [(event.kind, event.task) for event in events] == [("warning", "fake")]
    assert "random:wavlm-base, whose weights are random" in events[0].message


def test_a_fold_without_any_frames_is_a_clear_error_of_its_member(tmp_path):
    corpus = make_corpus(tmp_path)
    write_features(tmp_path, corpus)
    folds = open_run(
        train_ensemble(load_recipe(write_recipe(tmp_path, members=[LINEAR])), workers=1).run.root
    ).folds
    gone = {("words", row.id) for row in corpus.utterances if folds.folds[row.id] == 1}
    other = tmp_path / "other"
    other.mkdir()
    write_features(other, make_corpus(other), missing=gone)
    words = next(
        feature_set
        for feature_set in Cache(other / "cache").feature_sets()
        if feature_set.spec.encoder == "words"
    )
    ledger = Ledger(words.folder)
    for _, utterance_id in gone:
        ledger.record(utterance_id, "encode", EncoderError("no frames"), "0" * 12)
    ledger.save()
    on_words = {"name": "on-words", "head": "mean-linear", "features": ["words"]}
    report = train_ensemble(load_recipe(write_recipe(other, members=[on_words, LINEAR])), workers=1)
    assert report.members[0].error.startswith("on-words/fold-1: no row in the fold has frames in")
    assert report.members[1].error == ""


@pytest.mark.parametrize("kind", ["weighted", "gated"])
def test_a_head_learns_from_several_cached_layers_and_is_rebuilt_from_its_file(tmp_path, kind):
    """Only the middle of three layers tells the classes apart."""
    corpus = make_corpus(tmp_path)
    spec = FeatureSpec(
        encoder="layered", revision="1", modality="text", layers=("layer-1", "layer-2", "last"),
        num_layers=3, dim=4, frame_rate_hz=None, sample_rate_hz=None, normalization="none",
        library="tests", dtype="float16",
    )  # fmt: skip
    generator = np.random.default_rng(0)
    rows = []
    for utterance in corpus.utterances:
        layers = generator.normal(size=(3, int(generator.integers(2, 9)), 4))
        layers[1] += 2 * np.eye(3, 4)[int(np.argmax(utterance.votes))]
        source = Source("0" * 32, 5, (None, None))
        rows.append(StoredUtterance(utterance.id, tuple(layers.astype(np.float16)), float("nan"), source))
    publish_shard(start_feature_set(tmp_path / "cache", spec), "0" * 12, rows)
    member = {"name": "m", "head": "mean-linear", "features": ["all"], "options": {"layer_sum": kind}}
    training = {"batch_size": 8, "stage1": {"epochs": 20, "learning_rate": 0.03}, "stage2": {"epochs": 0}}
    features = {"all": {"encoder": "layered", "layers": "1,2,3"}}
    recipe = load_recipe(write_recipe(tmp_path, features=features, members=[member], training=training))
    report = train_ensemble(recipe, workers=1)
    assert report.members[0].macro_f1 > 0.6
    data = open_run(report.run.root)
    head, description = load_head(report.run.fold_folder("m", 0) / "weights.safetensors")
    assert description.input_layers == [3]
    table = Posteriors.load(report.run.fold_folder("m", 0) / "predictions.parquet")
    source = FrameSource(data.sets_of(recipe.members[0]), table.ids, torch.device("cpu"))
    again = torch.softmax(predict(head, source, 7).logits.double(), dim=1).numpy()
    np.testing.assert_allclose(again, table.class_probabilities, atol=1e-5)
    if kind == "weighted":
        assert head.layer_weights()[0].argmax() == 1
