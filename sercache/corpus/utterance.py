"""The corpus: utterances with votes and attributes, and the names of both."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sercache.errors import CorpusError, did_you_mean

NO_AGREEMENT = "X"
OTHER = "O"

Split = Literal["train", "development", "test"]
SPLITS: tuple[Split, ...] = ("train", "development", "test")


@dataclass(frozen=True, slots=True)
class Attribute:
    """A dimensional label such as arousal, on the corpus's own scale from ``low`` to ``high``."""

    name: str
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Utterance:
    """One row of a corpus.

    ``votes`` and ``secondary_votes`` follow the order of the corpus's classes; ``secondary_votes`` may be
    empty. ``other_votes`` were cast for something outside the class set. ``attributes`` follow the corpus's
    attributes, NaN where nobody rated. ``audio`` is the path as the manifest writes it;
    :meth:`Corpus.audio_path` resolves it.
    """

    id: str
    audio: str | None = None
    text: str | None = None
    speaker: str | None = None
    split: Split | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None
    votes: tuple[float, ...] = ()
    secondary_votes: tuple[float, ...] = ()
    other_votes: float = 0.0
    attributes: tuple[float, ...] = ()
    extras: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Corpus:
    """Utterances plus their class names and attributes; audio paths are relative to ``root``."""

    classes: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    utterances: tuple[Utterance, ...]
    root: Path

    def __len__(self) -> int:
        return len(self.utterances)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The utterance ids, in manifest order."""
        return tuple(utterance.id for utterance in self.utterances)

    @cached_property
    def by_id(self) -> Mapping[str, Utterance]:
        """The utterances by id."""
        return {utterance.id: utterance for utterance in self.utterances}

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """The names of the attributes, in order."""
        return tuple(attribute.name for attribute in self.attributes)

    @cached_property
    def votes(self) -> NDArray[np.float64]:
        """Primary votes, ``(N, C)``."""
        rows = [utterance.votes for utterance in self.utterances]
        return np.asarray(rows, dtype=np.float64).reshape(len(self), len(self.classes))

    @cached_property
    def secondary_votes(self) -> NDArray[np.float64]:
        """Secondary votes, ``(N, C)``, zero where a row has none."""
        none = (0.0,) * len(self.classes)
        rows = [utterance.secondary_votes or none for utterance in self.utterances]
        return np.asarray(rows, dtype=np.float64).reshape(len(self), len(self.classes))

    @cached_property
    def other_votes(self) -> NDArray[np.float64]:
        """Votes outside the class set, ``(N,)``."""
        return np.asarray([utterance.other_votes for utterance in self.utterances], dtype=np.float64)

    @cached_property
    def attribute_values(self) -> NDArray[np.float64]:
        """Attribute values, ``(N, A)``, NaN where missing."""
        rows = [utterance.attributes for utterance in self.utterances]
        return np.asarray(rows, dtype=np.float64).reshape(len(self), len(self.attributes))

    def audio_path(self, utterance: Utterance) -> Path:
        """Return the path of an utterance's recording.

        Raises:
            CorpusError: the utterance has no audio.
        """
        if utterance.audio is None:
            raise CorpusError(f"utterance '{utterance.id}' has no audio")
        return self.root / utterance.audio

    def select(self, ids: Iterable[str]) -> "Corpus":
        """Return the corpus of these utterances, in the order of ``ids``.

        Raises:
            CorpusError: an id is not in the corpus.
        """
        try:
            return replace(self, utterances=tuple(self.by_id[utterance_id] for utterance_id in ids))
        except KeyError as error:
            raise CorpusError(f"no utterance '{error.args[0]}' in the corpus") from None

    def with_text_of(self, column: str) -> "Corpus":
        """Return the corpus whose texts are those of another column of its manifest.

        Raises:
            CorpusError: the manifest has no such column.
        """
        columns = dict.fromkeys(name for utterance in self.utterances for name in utterance.extras)
        if column not in columns:
            known = ", ".join(columns) or "none"
            raise CorpusError(
                f"the corpus has no column '{column}' to read text from (further columns: {known})."
                f"{did_you_mean(column, columns)}"
            )
        rows = (replace(utterance, text=utterance.extras.get(column)) for utterance in self.utterances)
        return replace(self, utterances=tuple(rows))

    def with_classes(self, classes: Iterable[str]) -> "Corpus":
        """Return the corpus over ``classes`` only, in that order; votes for any other become other votes.

        Raises:
            CorpusError: a class is not one of the corpus's, or named twice.
        """
        wanted = tuple(classes)
        for index, name in enumerate(wanted):
            if name in wanted[:index]:
                raise CorpusError(f"class '{name}' is named twice")
            if name not in self.classes:
                known = ", ".join(self.classes)
                raise CorpusError(
                    f"unknown class '{name}' (classes: {known}).{did_you_mean(name, self.classes)}"
                )
        kept = [self.classes.index(name) for name in wanted]
        dropped = [index for index in range(len(self.classes)) if index not in kept]

        def narrow(utterance: Utterance) -> Utterance:
            votes, secondary = utterance.votes, utterance.secondary_votes
            return replace(
                utterance,
                votes=tuple(votes[index] for index in kept),
                secondary_votes=tuple(secondary[index] for index in kept) if secondary else (),
                other_votes=utterance.other_votes + sum(votes[index] for index in dropped),
            )

        return replace(self, classes=wanted, utterances=tuple(narrow(row) for row in self.utterances))
