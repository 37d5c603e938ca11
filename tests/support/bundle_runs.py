"""A finished run on recordings that a test makes: real extraction, training and stacking, in some seconds."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import yaml

from sercache.bundle.export import export_bundle
from sercache.corpus import Attribute, Corpus, Utterance
from sercache.corpus.manifest import write_corpus
from sercache.extract.extraction import extract
from sercache.recipe import Recipe, load_recipe
from sercache.run import Run
from sercache.stacking.comparison import compare
from sercache.training.ensemble import train_ensemble

RATE_HZ = 16_000
CLASSES = ("Angry", "Sad", "Happy")
PITCH_HZ = {"Angry": 330.0, "Sad": 120.0, "Happy": 220.0}
WORDS = {"Angry": "never again", "Sad": "the cat left", "Happy": "i am so happy"}


def spoken(label, seconds, seed):
    """A buzz whose pitch and loudness are those of a class, in noise."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    pitch = PITCH_HZ[label] * generator.uniform(0.8, 1.25)
    buzz = sum(np.sin(2 * np.pi * pitch * harmonic * time) / harmonic for harmonic in (1, 2, 3, 4))
    return (0.2 * buzz + 0.08 * generator.standard_normal(len(time))).astype(np.float32)


@dataclass(frozen=True)
class Finished:
    """A run that was stacked, and what it was made of."""

    run: Run
    recipe: Recipe
    corpus: Corpus
    wavlm: Path

    def bundle(self, output, **options):
        return export_bundle(self.run, output, **options)


def make_corpus(folder):
    """Every speaker says every class twice; the last two speakers are the test split."""
    utterances = []
    for speaker in range(8):
        for number in range(6):
            label = CLASSES[number % 3]
            name = f"s{speaker}-{number}"
            seconds = 0.4 + 0.13 * number + 0.05 * speaker
            soundfile.write(folder / f"{name}.wav", spoken(label, seconds, 10 * speaker + number), RATE_HZ)
            votes = np.asarray([float(class_name == label) * 4 for class_name in CLASSES])
            votes[(number + 1) % 3] += 1
            utterances.append(
                Utterance(
                    id=name,
                    audio=f"{name}.wav",
                    text=WORDS[label] if number else "yes",
                    speaker=f"s{speaker}",
                    split="test" if speaker >= 6 else "train",
                    votes=tuple(votes),
                    attributes=(1.0 + 2 * (number % 3),),
                )
            )
    return Corpus(CLASSES, (Attribute("arousal", 1, 7),), tuple(utterances), folder)


def finish_run(folder, wavlm, corpus=None):
    """Extract, train and stack a corpus: that of :func:`make_corpus`, or one with texts and a test split."""
    corpus = corpus or make_corpus(folder)
    write_corpus(corpus, folder / "corpus.csv")
    small = {"width": 8, "feedforward": 16}
    recipe = {
        "corpus": "corpus.csv",
        "features": {
            "speech": {"encoder": "logmel", "time_pool": 3},
            "deep": {"encoder": str(wavlm), "layers": "last2", "precision": "float32"},
            "layers": {"encoder": str(wavlm), "layers": "1,2", "precision": "float32"},
            "words": {"encoder": "char-ngrams"},
        },
        "folds": {"count": 2, "inner_share": 0.3},
        "training": {
            "batch_size": 8,
            "accumulate": 1,
            "stage1": {"epochs": 4, "learning_rate": 0.01},
            "stage2": {"epochs": 2, "learning_rate": 0.001},
        },
        "members": [
            {"name": "fusion", "features": ["speech", "words"], "options": small},
            {"name": "deep", "head": "attentive-statistics", "features": ["deep"], "options": {"width": 8}},
            {"name": "layered", "head": "mean-linear", "features": ["layers", "speech"]},
        ],
        "stacking": {
            "neural": {"runs": 2, "epochs": 10},
            "lightgbm": {"rounds": 10, "min_rows_per_leaf": 2},
            "bootstrap_samples": 100,
            "extras": ["duration", "pooled:speech"],
        },
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    loaded = load_recipe(folder / "recipe.yaml")
    extract(corpus, loaded.features, loaded.cache)
    train_ensemble(loaded, workers=1)
    run = Run(loaded.output)
    compare(run)
    return Finished(run, loaded, corpus, wavlm)
