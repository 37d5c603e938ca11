"""MSP-Podcast (Lotfian and Busso 2019), releases 1.6 to 2.0.

``labels_consensus.csv`` (``labels_concensus.csv`` before 1.10) has one row per segment: FileName, EmoClass,
EmoAct, EmoVal, EmoDom, SpkrID, Gender, Split_Set. ``labels_detailed.csv`` has one row per rater, in one of
two forms: columns EmoClass_Major, EmoClass_Second (1.6, 2.0), or a single column EmoDetail such as
``WORKER00000001; Neutral; Neutral,Confused; A:1.0; V:4.0; D:1.0;``, where the second choices may be missing.
``labels.txt`` tells the same in blocks of such lines.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sercache.corpus.readers.sources import (
    ReaderModel,
    ReaderOptions,
    first_file,
    one_vote,
    parse_float,
    parse_options,
    read_labels,
    require_folder,
)
from sercache.corpus.utterance import NO_AGREEMENT, OTHER, Attribute, Corpus, Split, Utterance
from sercache.errors import CorpusError

LETTERS = {
    "A": "Angry",
    "S": "Sad",
    "H": "Happy",
    "U": "Surprise",
    "F": "Fear",
    "D": "Disgust",
    "C": "Contempt",
    "N": "Neutral",
}
CLASSES = tuple(LETTERS.values())
ATTRIBUTES = (Attribute("arousal", 1, 7), Attribute("valence", 1, 7), Attribute("dominance", 1, 7))

PARTITIONS: dict[str, Split] = {
    "Train": "train",
    "Development": "development",
    "Validation": "development",
    "Test1": "test",
    "Test2": "test",
    "Test3": "test",
}

_ATTRIBUTE_COLUMNS = ("EmoAct", "EmoVal", "EmoDom")
_CONSENSUS = ("labels_consensus.csv", "labels_concensus.csv")
_UNKNOWN_SPEAKERS = {"", "Unknown", "unknown", "NA", "nan"}
_UNRATED = tuple([float("nan")] * len(ATTRIBUTES))

_log = logging.getLogger(__name__)


class MspPodcastOptions(ReaderModel):
    """Options of the MSP-Podcast reader: none."""


@dataclass
class _Ratings:
    """The choices of a segment's raters; second choices that are no class (Concerned) do not count."""

    votes: list[float] = field(default_factory=lambda: [0.0] * len(CLASSES))
    secondary: list[float] = field(default_factory=lambda: [0.0] * len(CLASSES))
    other: float = 0.0

    def add(self, primary: str, secondary: str) -> None:
        if primary in CLASSES:
            self.votes[CLASSES.index(primary)] += 1
        else:
            self.other += 1  # 'Other' or 'Other-' and the rater's own word
        for name in {choice.strip() for choice in secondary.split(",")} & set(CLASSES):
            self.secondary[CLASSES.index(name)] += 1


def read_msp_podcast(root: Path, options: ReaderOptions) -> Corpus:
    """Read MSP-Podcast from its folder: ``Labels/``, ``Audios/``, ``Transcripts/``, ``Partitions.txt``.

    Primary choices are the votes; second choices, which by the questionnaire include the primary one, are the
    secondary votes. The published consensus is the extra ``label_published``, the published partition
    ``partition``. Segments of Test3, which come without labels, are rows without votes.
    """
    parse_options(MspPodcastOptions, options)
    require_folder(root)
    folders = (root / "Labels", root / "labels", root / "label", root)
    consensus = first_file(folders, _CONSENSUS)
    if consensus is None:
        raise CorpusError(f"{root} has no Labels/labels_consensus.csv: is it the folder of MSP-Podcast?")
    ratings = _read_ratings(folders)
    files = _Files(root)
    utterances = []
    unrated = 0
    for where, row in read_labels(
        consensus, ["FileName", "EmoClass", *_ATTRIBUTE_COLUMNS, "SpkrID", "Gender", "Split_Set"]
    ):
        rated = ratings.get(row["FileName"])
        if rated is None:
            unrated += 1
            rated = _ratings_of_consensus(row["EmoClass"], where)
        utterances.append(_utterance(row, rated, files, where))
    if unrated:
        _log.warning(
            "%d of %d segments have no row per rater; their published label counts as one vote",
            unrated,
            len(utterances),
        )
    labelled = {utterance.id for utterance in utterances}
    for name, partition in _unlabelled(root, files):
        if Path(name).stem not in labelled:
            utterances.append(_unlabelled_utterance(name, partition, files))
    return Corpus(CLASSES, ATTRIBUTES, tuple(utterances), root)


class _Files:
    """The folders of recordings and transcripts below the root."""

    def __init__(self, root: Path) -> None:
        audio = next((name for name in ("Audios", "Audio") if (root / name).is_dir()), "Audios")
        if (root / audio / "Audio").is_dir():
            audio = f"{audio}/Audio"
        self.audio = audio
        self.audio_folder = root / audio
        self.transcripts = root / "Transcripts"

    def text(self, name: str) -> str | None:
        try:
            text = (self.transcripts / f"{Path(name).stem}.txt").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return None
        return text.strip() or None


def _utterance(row: Mapping[str, str], rated: _Ratings, files: _Files, where: str) -> Utterance:
    partition = row["Split_Set"].strip()
    extras = {"gender": row["Gender"].lower(), "partition": partition, "language": "en"}
    letter = row["EmoClass"].strip()
    speaker = row["SpkrID"].strip()
    return Utterance(
        id=Path(row["FileName"]).stem,
        audio=f"{files.audio}/{row['FileName']}",
        text=files.text(row["FileName"]),
        speaker=None if speaker in _UNKNOWN_SPEAKERS else speaker,
        split=_split(partition, where),
        votes=tuple(rated.votes),
        secondary_votes=tuple(rated.secondary) if any(rated.secondary) else (),
        other_votes=rated.other,
        attributes=tuple(parse_float(row[name], name, where) for name in _ATTRIBUTE_COLUMNS),
        extras=extras | ({"label_published": LETTERS.get(letter, letter)} if letter else {}),
    )


def _unlabelled_utterance(name: str, partition: str, files: _Files) -> Utterance:
    return Utterance(
        id=Path(name).stem,
        audio=f"{files.audio}/{name}",
        text=files.text(name),
        split=_split(partition, name),
        votes=(0.0,) * len(CLASSES),
        attributes=_UNRATED,
        extras={"partition": partition, "language": "en"},
    )


def _split(partition: str, where: str) -> Split | None:
    if partition and partition not in PARTITIONS:
        raise CorpusError(f"{where}: unknown partition '{partition}' (partitions: {', '.join(PARTITIONS)})")
    return PARTITIONS.get(partition)


def _ratings_of_consensus(letter: str, where: str) -> _Ratings:
    """Return the published class as one vote; of no agreement (X) nothing more is known."""
    letter = letter.strip()
    if letter not in (*LETTERS, OTHER, NO_AGREEMENT, ""):
        raise CorpusError(f"{where}: unknown class '{letter}' (classes: {', '.join(LETTERS)}, O, X)")
    return _Ratings(votes=list(one_vote(CLASSES, LETTERS.get(letter, ""))), other=float(letter == OTHER))


def _read_ratings(folders: Iterable[Path]) -> dict[str, _Ratings]:
    folders = list(folders)
    ratings: dict[str, _Ratings] = {}
    if path := first_file(folders, ["labels_detailed.csv"]):
        choices = _detailed_choices(path)
    elif path := first_file(folders, ["labels.txt", "Labels.txt"]):
        choices = _block_choices(path)
    else:
        return ratings
    for name, primary, secondary in choices:
        ratings.setdefault(name, _Ratings()).add(primary, secondary)
    return ratings


def _detailed_choices(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the segment, the primary and the second choices of each rating."""
    for where, row in read_labels(path, ["FileName"]):
        if "EmoDetail" in row:
            yield row["FileName"], *_parse_detail(row["EmoDetail"], where)
        elif "EmoClass_Major" in row:
            yield row["FileName"], row["EmoClass_Major"].strip(), row.get("EmoClass_Second", "")
        else:
            raise CorpusError(f"{path.name} has neither a column 'EmoClass_Major' nor a column 'EmoDetail'")


def _block_choices(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the ratings of ``labels.txt``: a line for the segment, then a line for each rater."""
    name = ""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        if line.startswith("MSP-"):
            name = line.partition(";")[0].strip()
        elif line.startswith("WORKER"):
            yield name, *_parse_detail(line, f"{path.name} line {number}")


def _parse_detail(detail: str, where: str) -> tuple[str, str]:
    """Return primary and second choices of ``WORKER1; Neutral; Neutral,Confused; A:1; V:4; D:1;``."""
    parts = [part.strip() for part in detail.split(";")]
    choices = [part for part in parts[1:] if part and not part.startswith(("A:", "V:", "D:"))]
    if not choices:
        raise CorpusError(f"{where}: '{detail}' is no rating (WORKER; class; second choices; A:; V:; D:)")
    return choices[0], choices[-1] if len(choices) > 1 else ""


def _unlabelled(root: Path, files: _Files) -> Iterator[tuple[str, str]]:
    """Yield recordings that the published lists or names put into a partition."""
    listed = first_file([root, root / "Labels", root / "labels"], ["Partitions.txt", "partitions.txt"])
    if listed:
        for line in listed.read_text(encoding="utf-8").splitlines():
            partition, separator, name = (part.strip() for part in line.partition(";"))
            if separator and partition in PARTITIONS:
                yield name.rstrip(";").strip(), partition
    if files.audio_folder.is_dir():
        for path in sorted(files.audio_folder.iterdir()):
            if "_test3_" in path.name.lower():
                yield path.name, "Test3"
