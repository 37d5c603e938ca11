"""Small runs with features that are written straight into a cache: classes that can be learned from them."""

import numpy as np
import yaml

from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.frames import to_storage
from sercache.cache.shard import StoredUtterance
from sercache.cache.sources import Source
from sercache.cache.writer import publish_shard, start_feature_set
from sercache.corpus import Attribute, Corpus, Utterance
from sercache.corpus.manifest import write_corpus
from sercache.posteriors import Posteriors
from sercache.recipe import load_recipe
from sercache.training.data import open_run

CLASSES = ("Angry", "Sad", "Happy")
SPEAKERS = 8
DIMS = {"speech": 6, "words": 4}


def make_corpus(folder, *, per_speaker=9, splits=None, seed=0):
    """Every speaker says every class equally often; some rows tie, have O votes, or lack attributes."""
    generator = np.random.default_rng(seed)
    utterances = []
    for speaker in range(SPEAKERS):
        for row in range(per_speaker):
            label = row % len(CLASSES)
            votes = np.zeros(len(CLASSES))
            votes[label] = 3
            votes[(label + 1) % len(CLASSES)] = generator.integers(0, 2)
            if row == per_speaker - 1:
                votes[(label + 1) % len(CLASSES)] = 3
            utterances.append(
                Utterance(
                    id=f"s{speaker}/{row}",
                    text="words",
                    speaker=f"s{speaker}",
                    split=splits[speaker] if splits else None,
                    votes=tuple(votes),
                    other_votes=float(row == 0),
                    attributes=(np.nan if row == 1 else 1.0 + 2 * label,),
                )
            )
    corpus = Corpus(CLASSES, (Attribute("arousal", 1, 7),), tuple(utterances), folder)
    write_corpus(corpus, folder / "corpus.csv")
    return corpus


def write_features(folder, corpus, *, missing=(), centre_of=None, seed=1):
    """Frames around a point per class, or around ``centre_of(feature set, utterance)``."""
    generator = np.random.default_rng(seed)
    centres = {name: generator.normal(size=(len(CLASSES), dim)) for name, dim in DIMS.items()}
    if centre_of is None:

        def centre_of(name, utterance):
            return centres[name][int(np.argmax(utterance.votes))]

    for name, dim in DIMS.items():
        spec = FeatureSpec(
            encoder=name,
            revision="1",
            modality="text",
            layers=("last",),
            num_layers=0,
            dim=dim,
            frame_rate_hz=None,
            sample_rate_hz=None,
            normalization="none",
            library="tests",
            dtype="bfloat16" if name == "words" else "float16",
        )
        feature_set = start_feature_set(folder / "cache", spec)
        rows = []
        for utterance in corpus.utterances:
            if (name, utterance.id) in missing:
                continue
            noise = generator.normal(size=(generator.integers(2, 9), dim))
            frames = centre_of(name, utterance) + 0.8 * noise
            stored = to_storage(frames.astype(np.float32), spec.dtype)
            rows.append(
                StoredUtterance(utterance.id, (stored,), float("nan"), Source("0" * 32, 5, (None, None)))
            )
        publish_shard(feature_set, "0" * 12, rows)


def write_recipe(folder, **changes):
    content = {
        "corpus": "corpus.csv",
        "cache": "cache",
        "output": "run",
        "features": {"speech": {"encoder": "speech"}, "words": {"encoder": "words"}},
        "folds": {"count": 3, "inner_share": 0.25},
        "training": {
            "batch_size": 8,
            "stage1": {"epochs": 4, "learning_rate": 0.01},
            "stage2": {"epochs": 3, "learning_rate": 0.003},
        },
        "members": [
            {
                "name": "fusion",
                "features": ["speech", "words"],
                "options": {"width": 8, "feedforward": 8, "dropout": 0.2},
            },
            {"name": "linear", "head": "mean-linear", "features": ["speech"]},
        ],
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def make_run(folder, *, splits=None, missing=(), **changes):
    """Lay out corpus, cache and recipe in ``folder``; return the loaded recipe."""
    corpus = make_corpus(folder, splits=splits)
    write_features(folder, corpus, missing=missing)
    return load_recipe(write_recipe(folder, **changes))


def outcome(recipe):
    """Everything a run predicts and every weight it keeps, as bytes."""
    run = open_run(recipe.output.resolve()).run
    files = sorted(run.root.glob("members/*/fold-*/weights.safetensors"))
    tables = [Posteriors.load(run.posteriors_path(member.name)) for member in recipe.members]
    return (
        [path.read_bytes() for path in files],
        [table.class_probabilities.tobytes() + table.attribute_values.tobytes() for table in tables],
    )
