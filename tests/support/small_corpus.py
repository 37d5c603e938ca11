"""A corpus of short buzzes whose pitch is that of a class, and a recipe for it: seconds to train on."""

import numpy as np
import soundfile
import yaml

from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.frames import to_storage
from sercache.cache.shard import StoredUtterance
from sercache.cache.sources import Source
from sercache.cache.writer import publish_shard, start_feature_set
from sercache.corpus import Attribute, Corpus, Utterance
from sercache.corpus.manifest import write_corpus

CLASSES = ("Angry", "Sad", "Happy")
PITCH_HZ = {"Angry": 330.0, "Sad": 120.0, "Happy": 220.0}
WORDS = {"Angry": "never again", "Sad": "the cat left", "Happy": "i am so happy"}


def lay_out_corpus(folder, *, splits=("train",) * 6):
    """Each of six speakers says every class twice."""
    generator = np.random.default_rng(0)
    utterances = []
    for speaker, split in enumerate(splits):
        for number in range(6):
            label = CLASSES[number % 3]
            time = np.arange(8000) / 16_000
            pitch = PITCH_HZ[label] * generator.uniform(0.9, 1.1)
            sound = 0.3 * np.sin(2 * np.pi * pitch * time) + 0.02 * generator.standard_normal(len(time))
            name = f"s{speaker}-{number}"
            soundfile.write(folder / f"{name}.wav", sound.astype(np.float32), 16_000)
            utterances.append(
                Utterance(
                    id=name,
                    audio=f"{name}.wav",
                    text=WORDS[label],
                    speaker=f"s{speaker}",
                    split=split,
                    votes=tuple(4.0 if class_name == label else 1.0 for class_name in CLASSES),
                    attributes=(1.0 + 2 * (number % 3),),
                )
            )
    corpus = Corpus(CLASSES, (Attribute("arousal", 1, 7),), tuple(utterances), folder)
    write_corpus(corpus, folder / "corpus.csv")
    return corpus


def lay_out_recipe(folder, **changes):
    recipe = {
        "corpus": "corpus.csv",
        "output": "run",
        "features": {"speech": {"encoder": "logmel", "time_pool": 4}, "words": {"encoder": "char-ngrams"}},
        "folds": {"count": 2, "inner_share": 0.4},
        "training": {
            "batch_size": 8,
            "accumulate": 1,
            "stage1": {"epochs": 3, "learning_rate": 0.01},
            "stage2": {"epochs": 1, "learning_rate": 0.001},
        },
        "members": [
            {"name": "heard", "head": "mean-linear", "features": ["speech"]},
            {"name": "both", "head": "mean-linear", "features": ["speech", "words"]},
        ],
        "stacking": {
            "stackers": ["best-single", "soft-vote"],
            "bootstrap_samples": 100,
            "repeats": 1,
        },
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def write_feature_set(cache, dtype="float16", layers=("last",), counts=((3, 0, 5), (4,)), dim=4):
    """Write a feature set of random frames, a shard per entry of ``counts``; returns it and the frames.

    The frames are float32 ``(L, T, D)`` by id, rounded to what ``dtype`` holds only on disk.
    """
    generator = np.random.default_rng(3)
    spec = FeatureSpec(
        encoder="made-up",
        revision="1",
        modality="audio",
        layers=layers,
        num_layers=12,
        dim=dim,
        frame_rate_hz=50.0,
        sample_rate_hz=16_000,
        normalization="none",
        library="tests",
        dtype=dtype,
        window_seconds=30.0,
        overlap_seconds=2.0,
    )
    feature_set = start_feature_set(cache, spec)
    written = {}
    for shard, counts_of_shard in enumerate(counts):
        rows = []
        for number, count in enumerate(counts_of_shard):
            utterance_id = f"ä{shard}/{number}"
            frames = generator.normal(size=(len(layers), count, dim)).astype(np.float32)
            written[utterance_id] = frames
            source = Source("0123456789abcdef" * 2, 12_345, (0.5, 2.0) if number else (None, None))
            stored = tuple(to_storage(plane, dtype) for plane in frames)
            rows.append(StoredUtterance(utterance_id, stored, 1.5, source))
        publish_shard(feature_set, f"{shard:012x}", rows)
    return feature_set, written
