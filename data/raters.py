"""Simulated raters: they hear a mixture of emotions, confuse neighbours, and have habits of their own."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CLASSES = ("Angry", "Sad", "Happy", "Surprise", "Fear", "Disgust", "Contempt", "Neutral")
"""In MSP-Podcast's order."""

ATTRIBUTES = ("arousal", "valence", "dominance")

ATTRIBUTE_CENTRES: dict[str, tuple[float, float, float]] = {
    "Angry": (5.8, 2.2, 5.6),
    "Sad": (2.4, 2.4, 2.8),
    "Happy": (5.2, 5.8, 4.8),
    "Surprise": (5.4, 4.6, 4.0),
    "Fear": (5.2, 2.4, 2.4),
    "Disgust": (4.2, 2.2, 4.6),
    "Contempt": (3.6, 2.8, 5.2),
    "Neutral": (3.4, 4.0, 4.2),
}
"""Where each class lies on the scale from 1 to 7, after the circumplex (Russell 1980)."""

NEIGHBOURS: tuple[tuple[str, str], ...] = (
    ("Angry", "Disgust"),
    ("Angry", "Contempt"),
    ("Disgust", "Contempt"),
    ("Contempt", "Neutral"),
    ("Sad", "Neutral"),
    ("Happy", "Surprise"),
    ("Surprise", "Fear"),
    ("Fear", "Sad"),
    ("Happy", "Neutral"),
)
"""Classes that people confuse, and that ambiguous clips lie between."""


@dataclass(frozen=True)
class Rating:
    """What the raters of one clip said.

    ``votes`` and ``secondary_votes`` ``(C,)`` counts; ``other_votes`` a count; ``attributes`` ``(3,)`` means.
    """

    votes: NDArray[np.int64]
    secondary_votes: NDArray[np.int64]
    other_votes: int
    attributes: NDArray[np.float64]


class RaterPool:
    """Raters with leanings; a handful of them hears each clip.

    Args:
        size: how many raters there are.
        generator: the source of randomness.
    """

    def __init__(self, size: int, generator: np.random.Generator) -> None:
        self.generator = generator
        self.leanings = generator.normal(scale=0.35, size=(size, len(CLASSES)))
        self.offsets = generator.normal(scale=0.3, size=(size, len(ATTRIBUTES)))
        self.confusion = 0.86 * np.eye(len(CLASSES)) + 0.01
        for one, other in NEIGHBOURS:
            first, second = CLASSES.index(one), CLASSES.index(other)
            self.confusion[first, second] += 0.05
            self.confusion[second, first] += 0.05
        self.confusion /= self.confusion.sum(axis=1, keepdims=True)

    def rate(self, mixture: NDArray[np.float64]) -> Rating:
        """Let 5 to 8 raters judge a clip whose emotion is ``mixture`` ``(C,)``, which sums to 1."""
        raters = self.generator.choice(len(self.leanings), self.generator.integers(5, 9), replace=False)
        votes, secondary = np.zeros(len(CLASSES), np.int64), np.zeros(len(CLASSES), np.int64)
        other, scores = 0, []
        heard = mixture @ self.confusion
        centre = mixture @ np.asarray([ATTRIBUTE_CENTRES[name] for name in CLASSES])
        for rater in raters:
            belief = heard * np.exp(self.leanings[rater])
            belief /= belief.sum()
            if self.generator.random() < 0.04:
                other += 1
            else:
                first = self.generator.choice(len(CLASSES), p=belief)
                votes[first] += 1
                rest = np.where(np.arange(len(CLASSES)) == first, 0, belief)
                if self.generator.random() < rest.sum():
                    secondary[self.generator.choice(len(CLASSES), p=rest / rest.sum())] += 1
            noise = self.generator.normal(scale=0.8, size=len(ATTRIBUTES))
            scores.append(np.clip(np.round(centre + self.offsets[rater] + noise), 1, 7))
        return Rating(votes, secondary, other, np.mean(scores, axis=0))
