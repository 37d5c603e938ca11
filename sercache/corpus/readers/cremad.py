"""CREMA-D (Cao et al. 2014): 7,442 clips, 91 actors, 12 sentences, 6 emotions, 4 to 12 votes a clip.

The raters saw every clip in three ways: voice only, face only, and both.
``processedResults/tabulatedVotes.csv`` holds all three, one below the other, under the same file names;
only its first column, which has no name, tells them apart: 100001 is clip 1 by voice, 200001 by face,
300001 by both.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from sercache.corpus.readers.sources import (
    ReaderModel,
    ReaderOptions,
    find_recordings,
    first_file,
    one_vote,
    parse_options,
    read_labels,
)
from sercache.corpus.utterance import Corpus, Utterance
from sercache.errors import CorpusError

LETTERS = "ADFHNS"
CLASSES = ("anger", "disgust", "fear", "happy", "neutral", "sad")

SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
INTENSITIES = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified"}

_NAME = re.compile(
    r"(?P<speaker>1\d{3})_(?P<sentence>[A-Z]{3})_(?P<acted>ANG|DIS|FEA|HAP|NEU|SAD)_(?P<intensity>LO|MD|HI|XX)"
)
_ACTED = dict(zip(("ANG", "DIS", "FEA", "HAP", "NEU", "SAD"), CLASSES, strict=True))
_MODES = {"voice": "1", "face": "2", "audio-visual": "3"}

Votes = dict[str, tuple[float, ...]]


class CremadOptions(ReaderModel):
    """Options of the CREMA-D reader."""

    ratings: Literal["voice", "face", "audio-visual", "acted"] = "voice"
    """Which raters' votes to take; ``acted``: one vote for the emotion that the actor was asked for."""

    without_audio: bool = False
    """Keep rated clips whose recording is not there."""


def read_cremad(root: Path, options: ReaderOptions) -> Corpus:
    """Read CREMA-D from a copy of its repository: ``AudioWAV/`` and one of its tables of votes.

    Tables, the first that is there: ``processedResults/tabulatedVotes.csv`` (answers within ten seconds),
    ``finishedResponses.csv`` (every answer, one a row), ``voice_votes.csv`` (voice only). The emotion that
    the actor was asked for is the extra ``acted``: the majority hears it in fewer than half of the clips.
    """
    wanted = parse_options(CremadOptions, options)
    recordings = {_complete(name): path.as_posix() for name, path in find_recordings(root).items()}
    votes = _read_votes(root, wanted.ratings)
    names = recordings.keys() | votes.keys() if wanted.without_audio else recordings.keys()
    genders = _read_genders(root / "VideoDemographics.csv")
    utterances = []
    for name in sorted(names):
        match = _NAME.fullmatch(name)
        if not match:
            continue
        acted = _ACTED[match["acted"]]
        extras = {"acted": acted, "intensity": INTENSITIES[match["intensity"]], "language": "en"}
        if match["speaker"] in genders:
            extras["gender"] = genders[match["speaker"]]
        chosen = one_vote(CLASSES, acted) if wanted.ratings == "acted" else votes.get(name)
        utterances.append(
            Utterance(
                id=name,
                audio=recordings.get(name),
                text=SENTENCES.get(match["sentence"]),
                speaker=match["speaker"],
                votes=chosen or (0.0,) * len(CLASSES),
                extras=extras,
            )
        )
    if not utterances:
        raise CorpusError(
            f"{root} holds no recording of CREMA-D (names like 1001_IEO_ANG_HI.wav); "
            "without_audio=true imports the votes alone"
        )
    return Corpus(CLASSES, (), tuple(utterances), root)


def _complete(name: str) -> str:
    """Repair the one name that is cut short in the published audio: ``1040_ITH_SAD_X``."""
    return f"{name}X" if name.endswith("_X") else name


def _read_votes(root: Path, ratings: str) -> Votes:
    if ratings == "acted":
        return {}
    folders = (root / "processedResults", root)
    if path := first_file(folders, ["tabulatedVotes.csv"]):
        return _read_tabulated(path, _MODES[ratings])
    if path := first_file(folders, ["finishedResponses.csv"]):
        return _read_responses(path, _MODES[ratings])
    if ratings == "voice" and (path := first_file(folders, ["voice_votes.csv"])):
        return dict(_counts(path))
    raise CorpusError(
        f"{root} has no table of votes (processedResults/tabulatedVotes.csv or finishedResponses.csv); "
        "get it from the CREMA-D repository, or take the acted emotion with: --option ratings=acted"
    )


def _read_tabulated(path: Path, mode: str) -> Votes:
    numbered = dict(_counts(path, mode))
    if not numbered:
        raise CorpusError(
            f"{path.name} has no rows numbered {mode}00001 and up in its first, nameless column; "
            "without those numbers votes by voice and by face cannot be told apart"
        )
    return numbered


def _counts(path: Path, mode: str | None = None) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Yield clips and their votes from a table that has a column per letter."""
    for where, row in read_labels(path, ["fileName", *LETTERS]):
        if mode is not None and not re.fullmatch(rf"{mode}\d{{5}}", row.get("", "")):
            continue
        try:
            yield row["fileName"], tuple(float(row[letter]) for letter in LETTERS)
        except ValueError:
            raise CorpusError(f"{where}: the votes for {row['fileName']} are not all numbers") from None


def _read_responses(path: Path, mode: str) -> Votes:
    """Count single answers; the first letter of ``respEmo`` is the emotion."""
    counts: dict[str, Counter[str]] = {}
    for where, row in read_labels(path, ["clipName", "queryType", "respEmo"]):
        if row["queryType"].strip() != mode:
            continue
        letter = row["respEmo"].strip()[:1].upper()
        if letter not in LETTERS or not letter:
            raise CorpusError(f"{where}: unknown answer '{row['respEmo']}' (answers: {', '.join(LETTERS)})")
        counts.setdefault(Path(row["clipName"]).stem, Counter())[letter] += 1
    return {name: tuple(float(count[letter]) for letter in LETTERS) for name, count in counts.items()}


def _read_genders(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    return {row["ActorID"]: row["Sex"].lower() for _, row in read_labels(path, ["ActorID", "Sex"])}
