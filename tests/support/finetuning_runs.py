"""A small run over tiny encoders of the real classes, which can be fine-tuned."""

from pathlib import Path

import numpy as np
import soundfile
import yaml

from sercache.corpus import Corpus, Utterance
from sercache.corpus.manifest import write_corpus
from sercache.extract.extraction import extract
from sercache.recipe import load_recipe
from sercache.training.ensemble import train_ensemble

CLASSES = ("Angry", "Sad")
SPEAKERS, PER_SPEAKER = 6, 6
WORDS = {"Angry": "angry now never", "Sad": "sad again no yes the cat"}


def write_speech(folder: Path) -> Corpus:
    """Voices that hum: who is angry hums higher; clips of 0.3 to 0.9 s. One has no text."""
    generator = np.random.default_rng(5)
    utterances = []
    for speaker in range(SPEAKERS):
        for row in range(PER_SPEAKER):
            label = row % 2
            seconds = generator.uniform(0.3, 0.9)
            times = np.arange(round(16_000 * seconds)) / 16_000
            pitch = (150 + 20 * speaker) * (1.0 if label else 2.0)
            hum = 0.3 * np.sin(2 * np.pi * pitch * times) + 0.02 * generator.standard_normal(len(times))
            soundfile.write(folder / f"{speaker}-{row}.wav", hum, 16_000)
            utterances.append(
                Utterance(
                    id=f"{speaker}-{row}",
                    audio=f"{speaker}-{row}.wav",
                    text=WORDS[CLASSES[label]] if (speaker, row) != (0, 0) else None,
                    speaker=f"s{speaker}",
                    votes=(3.0, 1.0) if label == 0 else (1.0, 3.0),
                )
            )
    corpus = Corpus(CLASSES, (), tuple(utterances), folder)
    write_corpus(corpus, folder / "corpus.csv")
    return corpus


def train_speech_run(folder, checkpoint):
    """Extract and train a small ensemble over tiny encoders; return the run's folder."""
    corpus = write_speech(folder)
    plain = {"precision": "float32", "dtype": "float32"}
    recipe = {
        "corpus": "corpus.csv",
        "output": "run",
        "features": {
            "wavlm": {"encoder": str(checkpoint("wavlm+layer")), "layers": "last2", **plain},
            "wav2vec2": {"encoder": str(checkpoint("wav2vec2")), "time_pool": 2, **plain},
            "whisper": {"encoder": str(checkpoint("whisper")), "time_pool": 2, **plain},
            "words": {"encoder": str(checkpoint("roberta")), **plain, "dtype": "float16"},
            "logmel": {"encoder": "logmel"},
        },
        "folds": {"count": 2, "inner_share": 0.34},
        "training": {
            "batch_size": 8,
            "stage1": {"epochs": 3, "learning_rate": 0.01},
            "stage2": {"epochs": 1, "learning_rate": 0.003},
        },
        "members": [
            {"name": "fusion", "features": ["wavlm", "words"], "options": {"width": 8, "feedforward": 8}},
            {"name": "whisper", "head": "mean-linear", "features": ["whisper"]},
            {"name": "speech", "head": "mean-linear", "features": ["wav2vec2"]},
            {"name": "mel", "head": "mean-linear", "features": ["logmel"]},
        ],
        "finetuning": {
            "batch_size": 8,
            "micro_batch_seconds": 2.0,
            "stage1": {"epochs": 1, "encoder_learning_rate": 1e-3, "head_learning_rate": 1e-3},
            "stage2": {"epochs": 1, "encoder_learning_rate": 1e-3, "head_learning_rate": 1e-3},
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    loaded = load_recipe(path)
    extract(corpus, loaded.features, loaded.cache, devices=("cpu",))
    train_ensemble(loaded, device="cpu", workers=1)
    return loaded.output
