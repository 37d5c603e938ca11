"""RAVDESS (Livingstone and Russo 2018): 1,440 spoken clips, 24 speakers, 2 sentences, 8 acted emotions.

A name is seven numbers, ``03-01-06-01-02-01-12``: modality, channel, emotion, intensity, statement,
repetition, actor. Songs (channel 02) and pictures without sound (modality 02) are left out.
"""

import re
from pathlib import Path

from sercache.corpus.readers.sources import (
    ReaderModel,
    ReaderOptions,
    match_recordings,
    one_vote,
    parse_options,
)
from sercache.corpus.utterance import Corpus, Utterance

CLASSES = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
STATEMENTS = ("Kids are talking by the door.", "Dogs are sitting by the door.")
INTENSITIES = ("normal", "strong")

_SPOKEN = re.compile(
    r"0[13]-01-0(?P<emotion>[1-8])-0(?P<intensity>[12])-0(?P<statement>[12])-0(?P<repetition>[12])-(?P<actor>\d\d)"
)


class RavdessOptions(ReaderModel):
    """Options of the RAVDESS reader: none."""


def read_ravdess(root: Path, options: ReaderOptions) -> Corpus:
    """Read the spoken clips of RAVDESS, in folders ``Actor_01`` to ``Actor_24`` or all in one.

    The acted emotion is the one vote.
    """
    parse_options(RavdessOptions, options)
    utterances = tuple(
        Utterance(
            id=match[0],
            audio=path,
            text=STATEMENTS[int(match["statement"]) - 1],
            speaker=match["actor"],
            votes=one_vote(CLASSES, CLASSES[int(match["emotion"]) - 1]),
            extras={
                "gender": "male" if int(match["actor"]) % 2 else "female",
                "language": "en",
                "intensity": INTENSITIES[int(match["intensity"]) - 1],
                "repetition": match["repetition"],
            },
        )
        for path, match in match_recordings(root, _SPOKEN, "RAVDESS", "03-01-06-01-02-01-12.wav")
    )
    return Corpus(CLASSES, (), utterances, root)
