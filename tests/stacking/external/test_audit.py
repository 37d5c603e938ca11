"""Metrics are scikit-learn's; each planted fault is found and named; good predictions raise no alarm."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score

from sercache.corpus.targets import consensus
from sercache.stacking.external.audit import as_json, audit
from sercache.stacking.external.reading import Predictions


def as_predictions(table, corpus, **changes):
    read = Predictions(
        name=table.member,
        path=None,
        ids=table.ids,
        unknown_ids=(),
        class_probabilities=table.class_probabilities,
        is_hard=False,
        attribute_values=table.attribute_values,
        origins=None,
    )
    return replace(read, **changes)


def quick(files, corpus):
    return audit(files, corpus, samples=100, draws=50)


@pytest.fixture(scope="module")
def simulation(request):
    return request.getfixturevalue("simulate")(test_speakers=4)


@pytest.fixture
def good(simulation):
    return as_predictions(simulation.tables[0], simulation.corpus)


def messages(report, severity="error"):
    return [finding.message for finding in report.findings if finding.severity == severity]


def test_scores_of_each_split_are_scikit_learns(simulation, good):
    report = quick([good], simulation.corpus)
    assert [row.split for row in report.scores] == ["train", "test"]
    labels = consensus(simulation.corpus.select(good.ids))
    splits = np.asarray([simulation.corpus.by_id[row_id].split for row_id in good.ids])
    for row in report.scores:
        in_split = (splits == row.split) & (labels >= 0)
        predicted = good.class_probabilities[in_split].argmax(axis=1)
        assert row.rows == in_split.sum()
        assert row.scores["macro_f1"].value == pytest.approx(
            f1_score(labels[in_split], predicted, average="macro")
        )
        assert row.scores["uar"].value == pytest.approx(
            recall_score(labels[in_split], predicted, average="macro")
        )
        assert row.scores["ccc:arousal"].value > 0.5
    assert set(as_json(report)) == {"scores", "findings"}


def test_balanced_draws_undo_what_frequent_classes_do(simulation, good):
    """Recall does not depend on how many rows a class has; macro-F1 does."""
    labels = consensus(simulation.corpus.select(good.ids))
    rare = [
        row_id for row_id, label in zip(good.ids, labels, strict=True) if label == 0 and int(row_id[1:]) % 3
    ]
    kept = [index for index, row_id in enumerate(good.ids) if row_id not in rare]
    lopsided = replace(
        good,
        ids=tuple(good.ids[index] for index in kept),
        class_probabilities=good.class_probabilities[kept],
        attribute_values=good.attribute_values[kept],
    )
    report = audit([lopsided], simulation.corpus, samples=100, draws=400)
    assert report.scores
    for row in report.scores:
        assert row.balanced["uar"].value == pytest.approx(row.scores["uar"].value, abs=0.03)
        assert row.balanced["macro_f1"].low < row.balanced["macro_f1"].value < row.balanced["macro_f1"].high


def test_good_predictions_raise_no_alarm(simulate):
    for seed in range(60):
        simulation = simulate(
            seed=seed, speakers=6, rows=30, members=2, skill=1.0 + seed % 3, test_speakers=2
        )
        files = [as_predictions(table, simulation.corpus) for table in simulation.tables]
        report = audit(files, simulation.corpus, samples=2, draws=2)
        alarms = [
            finding.message for finding in report.findings if "no consensus class" not in finding.message
        ]
        assert alarms == [], seed


def test_shifted_predictions_are_found_in_the_order_of_the_file_and_of_the_corpus(simulation, good):
    for shift, side in ((1, "below"), (-2, "above")):
        moved = replace(good, class_probabilities=np.roll(good.class_probabilities, shift, axis=0))
        (found,) = messages(quick([moved], simulation.corpus))
        assert f"fit the row {abs(shift)} {'above' if shift > 0 else 'below'}" in found or side in found
    shuffled = np.random.default_rng(0).permutation(len(good.ids))
    moved = replace(
        good,
        ids=tuple(good.ids[place] for place in shuffled),
        class_probabilities=np.roll(good.class_probabilities, 1, axis=0)[shuffled],
        attribute_values=good.attribute_values[shuffled],
    )
    (found,) = messages(quick([moved], simulation.corpus))
    assert "in the order of the corpus" in found


def test_permuted_classes_are_named(simulation, good):
    turned = replace(good, class_probabilities=good.class_probabilities[:, [0, 2, 1, 3]])
    (found,) = messages(quick([turned], simulation.corpus))
    assert "classes are permuted" in found
    assert "Happy means Sad" in found
    assert "Sad means Happy" in found


def test_one_class_for_all_and_a_class_that_is_never_said(simulation, good):
    always = replace(good, class_probabilities=np.tile([0.1, 0.7, 0.1, 0.1], (len(good.ids), 1)))
    assert messages(quick([always], simulation.corpus)) == ["every row is Sad"]
    blind = good.class_probabilities.copy()
    blind[:, 3] = 0
    blind /= blind.sum(axis=1, keepdims=True)
    never = quick([replace(good, class_probabilities=blind)], simulation.corpus)
    assert "never predicts Neutral" in messages(never, "warning")


def test_identical_files_and_files_that_decide_alike(simulation, good):
    twin = replace(good, name="twin")
    sharper = good.class_probabilities**2
    sharper /= sharper.sum(axis=1, keepdims=True)
    alike = replace(good, name="alike", class_probabilities=sharper)
    report = quick([good, twin, alike], simulation.corpus)
    assert messages(report) == ["is identical with m0, bit for bit"]
    assert any("decides like m0 on all 300 rows" in message for message in messages(report, "warning"))


def test_speakers_of_the_training_split_are_found(simulation, good):
    rows = list(simulation.corpus.utterances)
    rows[0] = replace(rows[0], split="test")
    leaking = replace(simulation.corpus, utterances=tuple(rows))
    (found,) = messages(quick([good], leaking))
    assert "1 speakers are in the training split and in another one, first 's000'" in found


def test_rows_that_were_trained_on_look_too_good(simulation, good):
    labels = consensus(simulation.corpus.select(good.ids))
    splits = np.asarray([simulation.corpus.by_id[row_id].split for row_id in good.ids])
    values = good.class_probabilities.copy()
    values[splits == "train"] = 0.9 * np.eye(4)[np.maximum(labels, 0)][splits == "train"] + 0.025
    values[splits == "test"] = np.random.default_rng(0).dirichlet(np.ones(4), (splits == "test").sum())
    found = messages(quick([replace(good, class_probabilities=values)], simulation.corpus), "warning")
    assert any("rows that were trained on" in message for message in found)


def test_missing_and_unknown_rows_are_counted(simulation, good):
    part = replace(
        good,
        ids=good.ids[2:],
        unknown_ids=("stranger",),
        class_probabilities=good.class_probabilities[2:],
        attribute_values=good.attribute_values[2:],
    )
    report = quick([part], simulation.corpus)
    assert messages(report) == ["1 utterances are not in the corpus, first 'stranger'"]
    assert any(
        "misses 2 of 200 rows of the train split, first 'u00000'" in message
        for message in messages(report, "warning")
    )


def test_decisions_have_no_scores_of_probabilities_and_attributes_alone_have_ccc(simulation, good):
    hard = replace(good, is_hard=True)
    row = quick([hard], simulation.corpus).scores[0]
    assert not {"log_loss", "jsd", "ece", "brier"} & set(row.scores)
    row = quick([replace(good, class_probabilities=None)], simulation.corpus).scores[0]
    assert set(row.scores) == {"ccc:arousal"}
