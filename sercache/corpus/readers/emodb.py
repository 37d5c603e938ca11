"""EMO-DB (Burkhardt et al. 2005): 535 German clips, 10 speakers, 10 sentences, 7 acted emotions.

Everything is in the file's name: ``03a01Fa.wav`` is speaker 03, sentence a01, F (Freude, happiness),
version a.
"""

import re
from pathlib import Path

from sercache.corpus.readers.sources import (
    ReaderModel,
    ReaderOptions,
    match_recordings,
    one_vote,
    parse_options,
    read_labels,
)
from sercache.corpus.utterance import Corpus, Utterance

EMOTIONS = {
    "W": "anger",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
}
CLASSES = tuple(EMOTIONS.values())

SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}

_WOMEN = {"08", "09", "13", "14", "16"}
_NAME = re.compile(r"(?P<speaker>\d\d)(?P<sentence>[ab]\d\d)(?P<emotion>[WLEAFTN])(?P<version>[a-z]?)")
_LISTENERS = ("recognised", "naturalness")


class EmodbOptions(ReaderModel):
    """Options of the EMO-DB reader: none."""


def read_emodb(root: Path, options: ReaderOptions) -> Corpus:
    """Read EMO-DB from its folder (``wav/03a01Fa.wav`` and so on, any audio format).

    The acted emotion is the one vote. Where a ``labels.csv`` beside the recordings tells how many listeners
    recognised the emotion or found it natural, that travels along as extras.
    """
    parse_options(EmodbOptions, options)
    found = match_recordings(root, _NAME, "EMO-DB", "03a01Fa.wav")
    listeners = _read_listeners(root / "labels.csv")
    utterances = tuple(
        Utterance(
            id=match[0],
            audio=path,
            text=SENTENCES.get(match["sentence"]),
            speaker=match["speaker"],
            votes=one_vote(CLASSES, EMOTIONS[match["emotion"]]),
            extras={
                "gender": "female" if match["speaker"] in _WOMEN else "male",
                "language": "de",
                "sentence": match["sentence"],
                **listeners.get(match[0], {}),
            },
        )
        for path, match in found
    )
    return Corpus(CLASSES, (), utterances, root)


def _read_listeners(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    rows = (row for _, row in read_labels(path))
    return {
        row["id"]: {name: row[name] for name in _LISTENERS if row.get(name)} for row in rows if "id" in row
    }
