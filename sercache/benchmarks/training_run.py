"""A run on random features, to measure training with: random votes, forty speakers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sercache.benchmarks.synthetic import synthetic_feature_set, utterance_id
from sercache.corpus import Attribute, Corpus, Utterance
from sercache.corpus.manifest import write_corpus
from sercache.events import QUIET, Context
from sercache.recipe import Recipe, load_recipe

CLASSES = ("Angry", "Sad", "Happy", "Surprise", "Fear", "Disgust", "Contempt", "Neutral")
ATTRIBUTES = ("arousal", "valence", "dominance")
SPEAKERS = 40


def synthetic_run(
    folder: Path,
    *,
    utterances: int,
    mean_frames: Sequence[int],
    dims: Sequence[int],
    members: Sequence[Mapping[str, Any]],
    folds: int,
    training: Mapping[str, Any],
    context: Context = QUIET,
) -> Recipe:
    """Write corpus, cache and recipe into ``folder``.

    Args:
        folder: empty.
        utterances: N.
        mean_frames: of each feature set; they are called ``set0``, ``set1``, ...
        dims: D of each feature set.
        members: as in a recipe.
        folds: how many.
        training: as in a recipe.
        context: receives events, and can stop the work.
    """
    generator = np.random.default_rng(0)
    votes = generator.multinomial(5, generator.dirichlet(np.full(len(CLASSES), 0.5), utterances))
    values = generator.uniform(1, 7, (utterances, len(ATTRIBUTES)))
    rows = tuple(
        Utterance(
            id=utterance_id(number),
            text="random",
            speaker=f"speaker{number % SPEAKERS}",
            votes=tuple(map(float, votes[number])),
            attributes=tuple(values[number].tolist()),
        )
        for number in range(utterances)
    )
    attributes = tuple(Attribute(name, 1, 7) for name in ATTRIBUTES)
    write_corpus(Corpus(CLASSES, attributes, rows, folder), folder / "corpus.csv")
    features = {}
    for number, (frames, dim) in enumerate(zip(mean_frames, dims, strict=True)):
        feature_set = synthetic_feature_set(
            folder / "cache", utterances, frames, dim, seed=number, context=context
        )
        features[f"set{number}"] = {"encoder": "synthetic", "fingerprint": feature_set.spec.fingerprint}
    recipe = {
        "corpus": "corpus.csv",
        "cache": "cache",
        "output": "run",
        "features": features,
        "folds": {"count": folds},
        "training": dict(training),
        "members": [dict(member) for member in members],
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return load_recipe(path)
