"""Make the sample corpus again: ``python -m sercache.data.make_sample FOLDER``.

Emotion moves the voice in the directions that Banse and Scherer (1996) and Juslin and Laukka (2003)
report; how far, is our choice. Speakers differ in how much of it they show, so that unseen speakers are hard.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from sercache.corpus import Attribute, Corpus, Utterance
from sercache.corpus.manifest import write_corpus
from sercache.data.lexicon import CARRIERS, COLOURED
from sercache.data.raters import ATTRIBUTES, CLASSES, NEIGHBOURS, RaterPool, Rating
from sercache.data.synthesizer import SAMPLE_RATE_HZ, Voice, synthesize

SEED = 2506
SPEAKERS_PER_GENDER = 8
SHARES = {
    "Neutral": 4,
    "Angry": 3,
    "Happy": 3,
    "Sad": 3,
    "Surprise": 2,
    "Fear": 2,
    "Disgust": 2,
    "Contempt": 2,
}
"""How many clips of each class a speaker says."""

PROSODY: dict[str, tuple[float, ...]] = {
    #           pitch, range,  rise,  rate, loud, tension, breath, jitter, pause
    "Angry": (4.0, 2.0, -2.0, 0.18, 7.0, 0.40, -0.3, 0.010, -0.04),
    "Sad": (-2.0, -1.2, -1.5, -0.22, -6.0, -0.25, 0.5, 0.006, 0.15),
    "Happy": (4.5, 2.0, 1.5, 0.10, 4.0, 0.15, 0.0, 0.000, -0.04),
    "Surprise": (6.0, 2.8, 5.0, 0.00, 3.0, 0.10, 0.2, 0.002, 0.02),
    "Fear": (5.5, -0.4, 1.0, 0.22, -1.0, 0.05, 0.6, 0.022, 0.06),
    "Disgust": (-1.0, 0.6, -3.0, -0.18, 1.0, 0.20, 0.1, 0.018, 0.06),
    "Contempt": (-2.0, 1.0, -4.0, -0.12, -1.0, 0.05, 0.0, 0.004, 0.02),
    "Neutral": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.000, 0.0),
}
"""What each emotion adds to a speaker's voice: pitch and its movement in semitones, loudness in dB."""

VARIATION = (1.2, 0.5, 1.2, 0.06, 1.8, 0.09, 0.15, 0.004, 0.02)
"""Standard deviation of the same quantities from clip to clip."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """A voice and its habits: ``expressivity`` scales everything that emotion does to it."""

    name: str
    pitch_hz: float
    tract: float
    rate: float
    tension: float
    breath: float
    expressivity: float


def make_sample(folder: Path, speakers_per_gender: int = SPEAKERS_PER_GENDER) -> Corpus:
    """Write ``audio/*.ogg`` and ``corpus.csv`` into ``folder``; the same manifest and samples every time."""
    generator = np.random.default_rng(SEED)
    pool = RaterPool(20, generator)
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    utterances = []
    for speaker in make_speakers(speakers_per_gender, generator):
        intended = [name for name, share in SHARES.items() for _ in range(share)]
        for number, emotion in enumerate(generator.permutation(intended)):
            mixture = draw_mixture(str(emotion), generator)
            text = draw_text(str(emotion), generator)
            samples = synthesize(text, draw_voice(speaker, mixture, generator), generator)
            name = f"{speaker.name}_{number:02d}"
            audio = f"audio/{name}.ogg"
            soundfile.write(folder / audio, samples, SAMPLE_RATE_HZ, format="OGG", subtype="OPUS")
            utterances.append(
                describe(name, audio, text, speaker, pool.rate(mixture), len(samples) / SAMPLE_RATE_HZ)
            )
    attributes = tuple(Attribute(name, 1, 7) for name in ATTRIBUTES)
    corpus = Corpus(CLASSES, attributes, tuple(utterances), folder)
    write_corpus(corpus, folder / "corpus.csv")
    return corpus


def make_speakers(per_gender: int, generator: np.random.Generator) -> list[Speaker]:
    """Return ``per_gender`` female and as many male speakers."""
    speakers = []
    for gender, pitch_hz, tract in (("f", 200.0, 1.15), ("m", 115.0, 1.0)):
        for number in range(1, per_gender + 1):
            speakers.append(
                Speaker(
                    name=f"{gender}{number:02d}",
                    pitch_hz=pitch_hz * 2 ** (generator.normal(scale=1.5) / 12),
                    tract=tract * generator.uniform(0.95, 1.05),
                    rate=generator.uniform(0.95, 1.15),
                    tension=generator.uniform(0.35, 0.55),
                    breath=generator.uniform(0.2, 0.5),
                    expressivity=generator.uniform(0.7, 1.2),
                )
            )
    return speakers


def draw_mixture(emotion: str, generator: np.random.Generator) -> NDArray[np.float64]:
    """Return what a clip really expresses, ``(C,)``: mostly one class, in a third of the clips two."""
    mixture = np.zeros(len(CLASSES))
    mixture[CLASSES.index(emotion)] = 1.0
    others = [pair[1 - pair.index(emotion)] for pair in NEIGHBOURS if emotion in pair]
    if generator.random() < 0.35:
        share = generator.uniform(0.25, 0.5)
        mixture *= 1 - share
        mixture[CLASSES.index(str(generator.choice(others)))] += share
    return mixture


def draw_text(emotion: str, generator: np.random.Generator) -> str:
    """Return a sentence: about half say something of the emotion, a few mislead, the others say nothing."""
    kind = generator.choice(["coloured", "misleading", "carrier"], p=[0.45, 0.1, 0.45])
    if kind == "carrier":
        return str(generator.choice(CARRIERS))
    leaning = emotion if kind == "coloured" else str(generator.choice(CLASSES))
    return str(generator.choice(COLOURED[leaning]))


def draw_voice(speaker: Speaker, mixture: NDArray[np.float64], generator: np.random.Generator) -> Voice:
    """Return how ``speaker`` says one clip that expresses ``mixture`` ``(C,)``."""
    meant = mixture @ np.asarray([PROSODY[name] for name in CLASSES])
    pitch, pitch_range, rise, rate, loudness, tension, breath, jitter, pause = (
        speaker.expressivity * meant + np.asarray(VARIATION) * generator.normal(size=len(VARIATION))
    )
    return Voice(
        pitch_hz=speaker.pitch_hz * 2 ** (pitch / 12),
        pitch_range=max(0.4, 2.0 + pitch_range),
        final_rise=rise,
        rate=float(np.clip(speaker.rate + rate, 0.65, 1.6)),
        loudness_db=float(np.clip(loudness, -12, 10)),
        tension=float(np.clip(speaker.tension + tension, 0.02, 0.98)),
        breath=max(0.0, speaker.breath + breath),
        jitter=max(0.002, 0.006 + jitter),
        pause=float(np.clip(0.05 + pause, 0, 0.4)),
        tract=speaker.tract,
    )


def describe(name: str, audio: str, text: str, speaker: Speaker, rating: Rating, seconds: float) -> Utterance:
    """Return a clip's row of the manifest."""
    return Utterance(
        id=name,
        audio=audio,
        text=text,
        speaker=speaker.name,
        votes=tuple(rating.votes.astype(float).tolist()),
        secondary_votes=tuple(rating.secondary_votes.astype(float).tolist()),
        other_votes=float(rating.other_votes),
        attributes=tuple(np.round(rating.attributes, 3).tolist()),
        extras={"gender": speaker.name[0], "seconds": f"{seconds:.3f}"},
    )


if __name__ == "__main__":
    make_sample(Path(sys.argv[1]))
