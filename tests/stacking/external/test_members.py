"""Predictions of other systems are stacked like our own, and what may have been trained on is left out."""

from dataclasses import replace

import numpy as np
import pytest

from sercache.errors import StackingError
from sercache.recipe import StackingRecipe
from sercache.run import Run
from sercache.stacking.comparison import compare_rows
from sercache.stacking.external.members import rows_of_predictions
from sercache.stacking.splits import make_splits


def with_splits(corpus, *splits):
    """Give the corpus splits, speaker by speaker."""
    names = sorted({row.speaker for row in corpus.utterances})
    split_of = {name: splits[place * len(splits) // len(names)] for place, name in enumerate(names)}
    return replace(
        corpus, utterances=tuple(replace(row, split=split_of[row.speaker]) for row in corpus.utterances)
    )


@pytest.fixture
def files(simulate, tmp_path, write_plain):
    simulation = simulate()
    return simulation, [write_plain(tmp_path, table, simulation.corpus) for table in simulation.tables]


def test_development_rows_are_fitted_on_and_test_rows_scored(files):
    simulation, paths = files
    corpus = with_splits(simulation.corpus, "train", "train", "development", "test")
    warnings = []
    rows = rows_of_predictions(paths, corpus, listener=lambda event: warnings.append(event.message))
    splits = make_splits(rows)
    assert {corpus.by_id[row].split for row in splits.fitting.inputs.ids} == {"development"}
    assert {corpus.by_id[row].split for row in splits.held_out.inputs.ids} == {"test"}
    assert len(warnings) == 1
    assert "150 rows of the training split are left out" in warnings[0]
    wanted = np.stack(
        [table.take(rows.inputs.ids).class_probabilities for table in simulation.tables], axis=1
    )
    np.testing.assert_allclose(rows.inputs.class_probabilities, wanted, atol=1e-5)


def test_training_rows_count_only_if_no_model_saw_their_speakers(files):
    simulation, paths = files
    with pytest.raises(StackingError, match=r"nothing to fit a stacker on; 300 rows .* --out-of-fold"):
        rows_of_predictions(paths, simulation.corpus)
    rows = rows_of_predictions(paths, simulation.corpus, are_out_of_fold=True)
    assert len(rows) == 300
    assert len(np.unique(rows.folds)) == 5
    for turn in make_splits(rows).rounds():
        assert not set(turn.fit.speakers) & set(turn.scored.speakers)


def test_the_comparison_is_that_of_the_same_members_in_a_run(files, tmp_path):
    simulation, paths = files
    rows = rows_of_predictions(paths, simulation.corpus, are_out_of_fold=True)
    settings = StackingRecipe(stackers=["soft-vote", "logistic"], bootstrap_samples=100, repeats=1)
    comparison = compare_rows(rows, settings, 0, Run(tmp_path / "stacked"))
    score = {row.stacker: row.scores["macro_f1"].value for row in comparison.rows}
    direct = compare_rows(simulation.rows(), settings, 0, Run(tmp_path / "direct"))
    expected = {row.stacker: row.scores["macro_f1"].value for row in direct.rows}
    assert score["soft-vote"] == pytest.approx(expected["soft-vote"])
    assert score["logistic"] == pytest.approx(expected["logistic"], abs=0.05)  # other folds
    assert (tmp_path / "stacked" / "comparison.csv").is_file()


def test_files_of_one_name_are_told_apart_by_their_folders(simulate, tmp_path, write_plain):
    simulation = simulate()
    paths = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        paths.append(write_plain(tmp_path / folder, simulation.tables[0], simulation.corpus))
    warnings = []
    rows = rows_of_predictions(
        paths, simulation.corpus, are_out_of_fold=True, listener=lambda event: warnings.append(event.message)
    )
    assert rows.inputs.members == ("one-m0", "two-m0")
    assert warnings == ["members 'one-m0' and 'two-m0' are identical, bit for bit"]


def test_unknown_utterances_and_files_of_attributes_alone_are_refused(files, tmp_path, write_csv):
    simulation, paths = files
    path = write_csv(tmp_path / "x.csv", ["id", "Prediction"], [["u00000", "Sad"], ["x", "Sad"]])
    with pytest.raises(StackingError, match=r"x.csv: 1 utterances are not in the corpus, first 'x'"):
        rows_of_predictions([*paths, path], simulation.corpus, are_out_of_fold=True)
    path = write_csv(tmp_path / "y.csv", ["id", "arousal"], [["u00000", "3"]])
    with pytest.raises(StackingError, match=r"y.csv: it predicts attributes only"):
        rows_of_predictions([*paths, path], simulation.corpus, are_out_of_fold=True)


def test_attributes_that_all_files_have_are_stacked_and_others_dropped(simulate, tmp_path, write_plain):
    simulation = simulate()
    paths = []
    for table in simulation.tables[:2]:
        path = tmp_path / f"{table.member}.parquet"
        table.save(path)
        paths.append(path)
    rows = rows_of_predictions(paths, simulation.corpus)  # their origins are in the files
    assert rows.inputs.attribute_values.shape == (300, 2, 1)
    warnings = []
    paths.append(write_plain(tmp_path, simulation.tables[2], simulation.corpus))
    rows = rows_of_predictions(
        paths, simulation.corpus, are_out_of_fold=True, listener=lambda event: warnings.append(event.message)
    )
    assert rows.inputs.attributes == ()
    assert warnings == ["attributes that not every file predicts are left out: arousal"]


def test_rows_without_speakers_are_folded_one_by_one_and_it_is_said(files):
    simulation, paths = files
    nameless = replace(
        simulation.corpus,
        utterances=tuple(replace(row, speaker=None) for row in simulation.corpus.utterances),
    )
    warnings = []
    rows = rows_of_predictions(
        paths, nameless, are_out_of_fold=True, listener=lambda event: warnings.append(event.message)
    )
    assert len(np.unique(rows.folds)) == 5
    assert warnings == ["no row names its speaker: folds and intervals take each for a speaker of its own"]


def test_one_speaker_can_be_fitted_on_where_others_are_scored(files):
    simulation, paths = files
    first = simulation.corpus.utterances[0].speaker
    rows = tuple(
        replace(row, split="development" if row.speaker == first else "test")
        for row in simulation.corpus.utterances
    )
    splits = make_splits(rows_of_predictions(paths, replace(simulation.corpus, utterances=rows)))
    assert set(splits.fitting.speakers) == {first}
    assert len(splits.held_out) == 275
    alone = tuple(row for row in simulation.corpus.utterances if row.speaker == first)
    with pytest.raises(StackingError, match="utterances are not in the corpus"):
        rows_of_predictions(paths, replace(simulation.corpus, utterances=alone), are_out_of_fold=True)
