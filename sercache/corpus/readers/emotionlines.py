"""EmotionLines (Hsu et al. 2018): dialogues of Friends and of EmotionPush, text only, five raters a line.

As its authors publish it: ``friends_train.json``, ``friends_dev.json``, ``friends_test.json``, each a list of
dialogues, each a list of lines with ``speaker``, ``utterance``, ``emotion`` and ``annotation``; or one table
``votes.csv`` with the columns ``split``, ``dia``, ``utt``, ``speaker``, ``utterance`` and ``annotation``.
``annotation`` holds one digit per class: how many raters chose it.
"""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from pydantic import Field

from sercache.corpus.readers.sources import ReaderModel, ReaderOptions, parse_options, read_labels
from sercache.corpus.rows import parse_split
from sercache.corpus.utterance import Corpus, Utterance
from sercache.errors import CorpusError

CLASSES = ("neutral", "joy", "sadness", "fear", "anger", "surprise", "disgust")
"""In the order of the digits of ``annotation``."""

PREVIOUS = "text:previous"
"""The column with the line before, for a text encoder that is to see the context (``text_column``)."""

NO_LINE = "(start)"
_COLUMNS = ("split", "dia", "utt", "speaker", "utterance", "annotation")

Line = tuple[str, str, str, Mapping[str, Any]]
"""Its position for messages, its split, its dialogue, and its cells."""


class EmotionLinesOptions(ReaderModel):
    """Options of the reader."""

    splits: bool = False
    """Keep the published splits. The same speakers talk in all of them, so models would be evaluated on
    speakers that they learned from; without splits, folds keep speakers apart."""
    dialogues: int | None = Field(None, ge=1)
    """Keep only this number of dialogues of each split, the first ones."""


def read_emotionlines(root: Path, options: ReaderOptions) -> Corpus:
    """Read EmotionLines from its folder; the line before each line is its column ``text:previous``.

    Raises:
        CorpusError: the folder has no such files, or a line lacks a cell or has votes that cannot be.
    """
    chosen = parse_options(EmotionLinesOptions, options)
    utterances: list[Utterance] = []
    dialogue, previous, number = "", NO_LINE, 0
    for where, split, name, cells in _lines(root):
        if chosen.dialogues is not None and int(name) >= chosen.dialogues:
            continue
        if (split, name) != (dialogue.partition("/")[0], dialogue.partition("/")[2]):
            dialogue, previous, number = f"{split}/{name}", NO_LINE, 0
        text = str(cells["utterance"]).strip()
        utterances.append(
            Utterance(
                id=f"{dialogue}/{number}",
                text=text,
                speaker=str(cells["speaker"]).strip() or None,
                split=parse_split(split, partial(_refuse, where)) if chosen.splits else None,
                votes=_votes(str(cells["annotation"]), where),
                extras={PREVIOUS: previous},
            )
        )
        previous, number = text or NO_LINE, number + 1
    return Corpus(CLASSES, (), tuple(utterances), root)


def _lines(root: Path) -> Iterator[Line]:
    table = root / "votes.csv"
    if table.is_file():
        for where, row in read_labels(table, _COLUMNS):
            yield where, row["split"], row["dia"], row
        return
    paths = [path for split in ("train", "dev", "test") for path in sorted(root.glob(f"*_{split}.json"))]
    if not paths:
        raise CorpusError(
            f"{root} holds no EmotionLines: expected friends_train.json and so on, or votes.csv"
        )
    for path in paths:
        try:
            dialogues = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise CorpusError(f"{path.name}: not a JSON list of dialogues ({error})") from error
        split = path.stem.rpartition("_")[2]
        for number, dialogue in enumerate(dialogues):
            for line, cells in enumerate(dialogue):
                where = f"{path.name}, dialogue {number}, line {line}"
                for name in ("speaker", "utterance", "annotation"):
                    if name not in cells:
                        raise CorpusError(f"{where}: it has no '{name}'")
                yield where, split, str(number), cells


def _refuse(where: str, problem: str) -> NoReturn:
    raise CorpusError(f"{where}: {problem}")


def _votes(annotation: str, where: str) -> tuple[float, ...]:
    if len(annotation) != len(CLASSES) or not annotation.isdecimal():
        wanted = f"{len(CLASSES)} digits, one for each of {', '.join(CLASSES)}"
        _refuse(where, f"annotation '{annotation}' must have {wanted}")
    return tuple(map(float, annotation))
