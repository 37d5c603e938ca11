"""The layer that carries the class is found, nothing leaks, and the numbers are those of a plain loop."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from sercache.cache.ledger import Ledger
from sercache.cache.pooling import pooled_layer
from sercache.corpus import Corpus, Utterance
from sercache.errors import CacheError, EncoderError, Interrupted, TrainingError
from sercache.events import Context
from sercache.experiments import linear_probe
from sercache.experiments.layer_probe import probe_layers, save_probe
from sercache.experiments.linear_probe import ProbeRows, chosen_on_inner_rows, probe
from sercache.recipe import TargetsRecipe
from sercache.training import closed_form
from sercache.training.losses import class_weights
from sercache.training.rows import LabelledRows
from support.layered_features import CARRIER, LAYERS, layered
from support.run_builder import make_corpus


@pytest.fixture
def corpus(tmp_path):
    return make_corpus(tmp_path)


def test_the_layer_that_carries_the_class_is_found(tmp_path, corpus):
    report = probe_layers(layered(tmp_path, corpus), corpus, folds=4, with_sum=True)
    assert [layer.name for layer in report.layers] == [*LAYERS, "sum of all"]
    assert report.best.name == "layer-2"
    assert report.best_kept.request == "2"
    assert report.best.score.low > 0.7
    assert set(report.blind_choices) <= {"layer-2", "sum of all"}
    assert report.chosen_blindly.low > 0.7
    others = [layer for layer in report.layers[:4] if layer is not report.best]
    assert all(layer.behind_best.high < 0 for layer in others)
    assert all(layer.score.value < 0.6 for layer in others)
    assert report.best.ccc["arousal"].value > 0.4
    assert report.rows == 64
    assert report.speakers == 8


def test_labels_that_nothing_tells_of_score_at_chance_also_by_blind_choice(tmp_path, corpus):
    reports = []
    for seed in range(6):
        feature_set = layered(tmp_path / str(seed), corpus, strength=0.0, seed=seed)
        reports.append(probe_layers(feature_set, corpus, folds=4, seed=seed, samples=200))
    assert np.mean([layer.score.value for report in reports for layer in report.layers]) < 0.42
    assert np.mean([report.chosen_blindly.value for report in reports]) < 0.42
    assert any("no layer is clearly worse" in report.verdict for report in reports)


def test_the_verdict_names_those_that_can_be_told_from_the_best(tmp_path, corpus):
    report = probe_layers(layered(tmp_path, corpus), corpus, folds=4)
    alike = [layer if layer is report.best else replace(layer, p_value=1.0) for layer in report.layers]
    assert "no layer is clearly worse" in replace(report, layers=tuple(alike)).verdict
    alike[0] = replace(alike[0], p_value=0.001)
    assert "only layer-0 is clearly worse" in replace(report, layers=tuple(alike)).verdict


def test_pooled_statistics_are_numpys(tmp_path, corpus):
    feature_set = layered(tmp_path, corpus)
    ids = corpus.ids[5:9]
    pooled = pooled_layer(feature_set, ["layer-1"], ids)
    both = pooled_layer(feature_set, ["layer-1", "last"], ids)
    for row, utterance_id in enumerate(ids):
        frames = feature_set.frames(utterance_id, "layer-1").astype(np.float64)
        np.testing.assert_allclose(pooled[row], np.concatenate([frames.mean(axis=0), frames.std(axis=0)]))
        summed = frames + feature_set.frames(utterance_id, "last")
        np.testing.assert_allclose(both[row], np.concatenate([summed.mean(axis=0), summed.std(axis=0)]))
    means = pooled_layer(feature_set, ["layer-1"], ids, deviation=False)
    np.testing.assert_array_equal(means, pooled[:, :4])


def rows_of(labels, folds):
    """Two speakers in each fold."""
    utterances = tuple(
        Utterance(
            id=f"u{row:03}",
            text="words",
            speaker=f"s{fold}/{row % 2}",
            votes=tuple(np.eye(3)[label] if label >= 0 else np.ones(3)),
        )
        for row, (label, fold) in enumerate(zip(labels, folds, strict=True))
    )
    corpus = Corpus(("a", "b", "c"), (), utterances, None)
    return ProbeRows(corpus, LabelledRows.of(corpus, TargetsRecipe()), folds, 0)


def vectors_of(labels, seed=0):
    return np.random.default_rng(seed).normal(size=(len(labels), 6)) + 0.8 * np.eye(3, 6)[labels]


def test_a_probe_is_the_plain_loop_of_scikit_learn(monkeypatch):
    monkeypatch.setattr(closed_form, "PENALTIES", (1.0,))
    labels, folds = np.random.default_rng(0).integers(0, 3, 120), np.arange(120) % 4
    vectors = vectors_of(labels) * [1, 10, 100, 1, 1, 1]
    got = probe(vectors, rows_of(labels, folds)).classes
    for fold in range(4):
        fit = folds != fold
        scaled = (vectors - vectors[fit].mean(axis=0)) / vectors[fit].std(axis=0) / np.sqrt(6)
        signs = 2 * np.eye(3)[labels[fit]] - 1
        weights = class_weights(np.eye(3)[labels[fit]], 0.5)[labels[fit]]
        model = Ridge(alpha=1.0).fit(scaled[fit], signs, sample_weight=weights / weights.mean())
        assert (got[~fit] == model.predict(scaled[~fit]).argmax(axis=1)).all()


def test_the_judged_folds_labels_change_none_of_its_predictions_nor_the_blind_choice():
    labels, folds = np.random.default_rng(3).integers(0, 3, 90), np.repeat(np.arange(3), 30)
    layers = [vectors_of(labels, seed) for seed in range(4)]
    relabelled = np.where(folds == 1, (labels + 1) % 3, labels)
    found = [
        [probe(layer, rows_of(some_labels, folds)) for layer in layers]
        for some_labels in (labels, relabelled)
    ]
    for before, after in zip(*found, strict=True):
        np.testing.assert_array_equal(before.classes[folds == 1], after.classes[folds == 1])
    choices = [chosen_on_inner_rows(probed, folds)[1] for probed in found]
    assert choices[0][1] == choices[1][1]


def test_the_blind_choice_takes_the_layer_that_predicts_left_out_speakers_of_the_other_folds_best():
    labels, folds = np.asarray([0, 1, 0, 1, 0, 1]), np.asarray([0, 0, 1, 1, 2, 2])
    right, wrong = labels.copy(), 1 - labels
    first = linear_probe.Probed(right, np.empty((6, 0)), (0.2, 0.9, 0.9))
    second = linear_probe.Probed(wrong, np.empty((6, 0)), (0.3, 0.1, 0.1))
    blind, choices = chosen_on_inner_rows([first, second], folds)
    assert choices == (1, 0, 0)
    np.testing.assert_array_equal(blind.classes, np.where(folds == 0, wrong, right))


def test_a_fold_that_holds_all_consensus_rows_is_one_clear_line(tmp_path):
    corpus = make_corpus(tmp_path)
    rows = (row if row.speaker == "s1" else replace(row, votes=(1, 1, 1)) for row in corpus.utterances)
    lopsided = replace(corpus, utterances=tuple(rows))
    with pytest.raises(TrainingError, match=r"all rows with a consensus class are in fold \d"):
        probe_layers(layered(tmp_path, corpus), lopsided, folds=4)


def test_development_and_test_rows_are_never_touched(tmp_path):
    corpus = make_corpus(tmp_path, splits=["train"] * 5 + ["development"] + ["test"] * 2)
    report = probe_layers(layered(tmp_path, corpus), corpus, folds=3)
    assert report.speakers == 5
    assert report.rows == 40


def test_one_layer_leaves_nothing_to_choose(tmp_path, corpus):
    report = probe_layers(layered(tmp_path, corpus, layers=("last",)), corpus, folds=4, with_sum=True)
    assert "there is one layer, and nothing to choose between" in report.verdict


def test_what_cannot_be_probed_is_one_clear_line(tmp_path, corpus):
    feature_set = layered(tmp_path, corpus, missing={"s1/2"}, poison="s2/3")
    with pytest.raises(
        TrainingError, match=r"lacks 1 of 72 training utterances, first 's1/2'; run sercache ext"
    ):
        probe_layers(feature_set, corpus)
    ledger = Ledger(feature_set.folder)
    ledger.record("s1/2", "encode", EncoderError("no frames"), "0" * 12)
    ledger.save()
    with pytest.raises(CacheError, match=r"utterance 's2/3' has frames that are no finite numbers"):
        probe_layers(feature_set, corpus)
    alike = replace(corpus, utterances=tuple(replace(row, votes=(1, 0, 0)) for row in corpus.utterances))
    with pytest.raises(TrainingError, match="fewer than two consensus classes"):
        probe_layers(feature_set, alike)
    with pytest.raises(Interrupted):
        probe_layers(feature_set, corpus, context=Context(should_stop=lambda: True))


def test_the_csv_has_a_row_per_layer(tmp_path, corpus):
    report = probe_layers(layered(tmp_path, corpus), corpus, folds=4, samples=200)
    save_probe(report, tmp_path / "probe.csv")
    with (tmp_path / "probe.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["layer"] for row in rows] == list(LAYERS)
    assert float(rows[CARRIER]["macro_f1"]) == pytest.approx(report.best.score.value, abs=1e-6)
    assert rows[CARRIER]["minus_best"] == ""
    assert float(rows[0]["minus_best"]) < 0
