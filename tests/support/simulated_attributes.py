"""A simulated corpus with attributes alone, and members that predict them more or less well."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from sercache.corpus import Attribute, Corpus, Utterance
from sercache.corpus.folds import assign_folds
from sercache.posteriors import ALL_FOLDS, Posteriors
from support.simulated_members import Simulation

ATTRIBUTES = (Attribute("arousal", 1.0, 7.0), Attribute("valence", -1.0, 1.0))


def without_classes(corpus):
    """The same utterances with their attributes, but without a class or a vote."""
    rows = (replace(row, votes=(), secondary_votes=(), other_votes=0.0) for row in corpus.utterances)
    return replace(corpus, classes=(), utterances=tuple(rows))


def simulate_attributes(
    seed=0, *, speakers=10, rows=16, noises=(2.0, 1.0, 0.5), test_speakers=0, folds=3, unrated=0.1, skill=1.0
) -> Simulation:
    """Member ``k`` sees the ratings through noise of ``noises[k]``; some ratings are missing."""
    rng = np.random.default_rng(seed)
    count = speakers * rows
    latent = rng.normal(size=(count, 2))
    low, high = np.asarray([(attribute.low, attribute.high) for attribute in ATTRIBUTES]).T

    def on_scales(values):
        return low + (high - low) / (1 + np.exp(-values))

    ratings = on_scales(latent + 0.2 * rng.normal(size=latent.shape))
    ratings[rng.random(ratings.shape) < unrated] = np.nan
    utterances = tuple(
        Utterance(
            id=f"u{row:04d}",
            audio=f"u{row:04d}.wav",
            speaker=f"s{row // rows:02d}",
            split="test" if row // rows >= speakers - test_speakers else "train",
            attributes=tuple(ratings[row].tolist()),
        )
        for row in range(count)
    )
    corpus = Corpus((), ATTRIBUTES, utterances, Path())
    train = [row.id for row in utterances if row.split == "train"]
    fold_map = assign_folds(corpus.select(train), folds, seed=0)
    tables = [
        Posteriors(
            member=f"m{member}",
            ids=corpus.ids,
            classes=(),
            attributes=corpus.attribute_names,
            class_probabilities=np.empty((count, 0)),
            attribute_values=on_scales(skill * latent + noise * rng.normal(size=latent.shape)),
            folds=np.array([fold_map.folds.get(row, ALL_FOLDS) for row in corpus.ids]),
            origins=np.array(["out-of-fold" if row in fold_map.folds else "held-out" for row in corpus.ids]),
            fold_map_digest=fold_map.digest,
        )
        for member, noise in enumerate(noises)
    ]
    return Simulation(corpus, fold_map, tables)


def lins_ccc(truth, predicted):
    """Lin's coefficient by its definition, from a covariance matrix: an oracle."""
    rated = ~np.isnan(truth)
    (var_x, cov), (_, var_y) = np.cov(truth[rated], predicted[rated], bias=True)
    return 2 * cov / (var_x + var_y + (truth[rated].mean() - predicted[rated].mean()) ** 2)


def lins_mean(truth, predicted):
    """The mean of Lin's coefficients over the columns."""
    return float(np.mean([lins_ccc(*pair) for pair in zip(truth.T, predicted.T, strict=True)]))
