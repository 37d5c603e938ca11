"""Data that no member should stumble over, or that only the members that read it may."""

from dataclasses import replace

import numpy as np

from sercache.cache.frames import to_storage
from sercache.corpus.manifest import write_corpus
from sercache.posteriors import Posteriors
from sercache.recipe import load_recipe
from sercache.training.ensemble import train_ensemble
from support import run_builder
from support.run_builder import CLASSES, DIMS, make_corpus, write_features, write_recipe


def test_a_fold_whose_training_and_stop_rows_lack_a_class_is_trained_like_the_others(tmp_path):
    """One speaker alone is ever Happy: the models of its fold never heard of the class."""
    corpus = make_corpus(tmp_path)
    happy = CLASSES.index("Happy")
    rows = []
    for row in corpus.utterances:
        votes = np.array(row.votes)
        if row.speaker != "s7":
            votes[happy] = 0
            votes[0] += not votes.any()
        rows.append(replace(row, votes=tuple(votes)))
    corpus = replace(corpus, utterances=tuple(rows))
    write_corpus(corpus, tmp_path / "corpus.csv")
    write_features(tmp_path, corpus)
    recipe = load_recipe(write_recipe(tmp_path))
    report = train_ensemble(recipe, workers=1)
    assert report.members
    for member in report.members:
        assert member.error == ""
        table = Posteriors.load(report.run.posteriors_path(member.name))
        assert set(table.ids) == set(corpus.ids)
        np.testing.assert_allclose(table.class_probabilities.sum(axis=1), 1, atol=1e-6)
        assert np.isfinite(table.attribute_values).all()
        of_its_fold = np.array([utterance_id.startswith("s7/") for utterance_id in table.ids])
        elsewhere = table.folds != table.folds[of_its_fold][0]
        happiness = table.class_probabilities[:, table.classes.index("Happy")]
        # Nothing taught it the class.
        assert happiness[of_its_fold].mean() < happiness[elsewhere].mean() + 0.1


def test_a_frame_that_is_no_number_ends_the_members_that_read_it_and_no_other(tmp_path, monkeypatch):
    """Our own writer refuses such frames; a shard may come from elsewhere."""
    monkeypatch.setattr(
        run_builder,
        "to_storage",
        lambda frames, dtype: (
            to_storage(frames, dtype) if np.isfinite(frames).all() else frames.astype(np.float16)
        ),
    )
    members = [
        {"name": "broken", "head": "mean-linear", "features": ["speech"]},
        {"name": "healthy", "head": "mean-linear", "features": ["words"]},
        {"name": "both", "head": "mean-linear", "features": ["speech", "words"]},
    ]
    training = {"batch_size": 8, "stage1": {"epochs": 2}, "stage2": {"epochs": 1}}

    def trained(folder, planted):
        folder.mkdir()
        corpus = make_corpus(folder)
        write_features(
            folder,
            corpus,
            centre_of=lambda name, row: np.full(
                DIMS[name], np.nan if planted and (name, row.id) == ("speech", "s2/3") else row.votes[0]
            ),
        )
        return train_ensemble(
            load_recipe(write_recipe(folder, members=members, training=training)), workers=1
        )

    report, sound = trained(tmp_path / "planted", True), trained(tmp_path / "sound", False)
    errors = {member.name: member.error for member in report.members}
    for name in ("broken", "both"):
        assert "'s2/3' has frames in speech-" in errors[name]
        assert not report.run.posteriors_path(name).exists()
    assert errors["healthy"] == ""
    ours, theirs = (Posteriors.load(result.run.posteriors_path("healthy")) for result in (report, sound))
    assert len(ours.ids) == 72
    np.testing.assert_array_equal(ours.class_probabilities, theirs.class_probabilities)
