"""Simulated corpora, and 44 real models."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sercache.corpus import Corpus, Utterance
from sercache.corpus.folds import assign_folds
from sercache.posteriors import Posteriors
from sercache.stacking.rows import StackingRows
from support.simulated_members import Simulation, simulate


@pytest.fixture(scope="session", name="simulate")
def simulate_fixture():
    return simulate


@pytest.fixture
def rows() -> StackingRows:
    return simulate().rows()


@pytest.fixture(scope="session")
def stacker44(shared_data) -> Simulation:
    """44 real models' predictions of 4,900 real clips with real votes; trained on another corpus."""
    path = shared_data / "stacker44" / "predictions.npz"
    if not path.is_file():
        pytest.skip("the 44 real models are not here: stacker44/predictions.npz is absent")
    with np.load(path, allow_pickle=False) as stored:
        probabilities, models, clips = stored["proba"].astype(float), stored["models"], stored["clips"]
        classes = tuple(stored["classes"].tolist())
        votes, order, speakers = stored["voice_votes6"], stored["vote_order"].tolist(), stored["speaker"]
    columns = [order.index(name[0].upper()) for name in classes]
    other = votes.sum(axis=1) - votes[:, columns].sum(axis=1)
    utterances = tuple(
        Utterance(
            id=str(clip),
            audio=f"{clip}.wav",
            speaker=str(speakers[row]),
            split="train",
            votes=tuple(votes[row, columns].astype(float).tolist()),
            other_votes=float(other[row]),
        )
        for row, clip in enumerate(clips)
    )
    corpus = Corpus(classes, (), utterances, Path())
    fold_map = assign_folds(corpus, 5, seed=0)
    table = Posteriors(
        member="",
        ids=corpus.ids,
        classes=classes,
        attributes=(),
        class_probabilities=probabilities[:, 0],
        attribute_values=np.empty((len(corpus), 0)),
        folds=fold_map.of(corpus.ids),
        origins=np.full(len(corpus), "out-of-fold"),
        fold_map_digest=fold_map.digest,
    )
    tables = [
        replace(table, member=str(model).replace("/", "-"), class_probabilities=probabilities[:, index])
        for index, model in enumerate(models)
    ]
    return Simulation(corpus, fold_map, tables)
