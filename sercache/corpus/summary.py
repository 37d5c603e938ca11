"""What is in a corpus, in numbers."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sercache.audio import audio_seconds
from sercache.corpus.targets import (
    NO_AGREEMENT_INDEX,
    OTHER_INDEX,
    UNLABELLED_INDEX,
    consensus,
    vote_entropy,
)
from sercache.corpus.utterance import NO_AGREEMENT, OTHER, SPLITS, Corpus, Utterance
from sercache.errors import AudioError, Interrupted
from sercache.events import Event, Listener, ignore
from sercache.interrupts import ShouldStop, never

UNLABELLED = "unlabelled"
NO_SPLIT = "no split"
DURATIONS_TASK = "durations"


@dataclass(frozen=True)
class SplitSummary:
    """One split, or the whole corpus.

    ``classes`` counts utterances by their consensus, X, O and ``unlabelled`` included. ``hours`` covers
    ``timed`` utterances, those whose duration is known. ``ambiguity`` is the mean entropy of the votes over
    the classes, 0 where all raters agree, 1 where they scatter evenly; None where nobody voted.
    """

    utterances: int
    speakers: int
    hours: float
    timed: int
    classes: Mapping[str, int]
    ambiguity: float | None
    votes_per_utterance: float
    with_text: int
    with_audio: int


@dataclass(frozen=True)
class CorpusSummary:
    """A corpus, its splits, and how many utterances each speaker has (None: unknown speakers)."""

    total: SplitSummary
    splits: Mapping[str, SplitSummary]
    speakers: Mapping[str | None, int]
    attribute_means: Mapping[str, float | None]

    @property
    def no_agreement_share(self) -> float:
        """Share of the labelled utterances where no class leads."""
        return self._share(NO_AGREEMENT)

    @property
    def other_share(self) -> float:
        """Share of the labelled utterances where the votes outside the class set lead."""
        return self._share(OTHER)

    def _share(self, name: str) -> float:
        labelled = self.total.utterances - self.total.classes[UNLABELLED]
        return self.total.classes[name] / labelled if labelled else 0.0


def summarize(
    corpus: Corpus, *, read_headers: bool = True, seconds: NDArray[np.float64] | None = None
) -> CorpusSummary:
    """Count what a corpus holds.

    Args:
        corpus: the corpus.
        read_headers: ask the recordings for their duration where the manifest does not tell it (``start`` and
            ``end``, or an extra column ``seconds``). A recording that cannot be read is left out of the
            hours.
        seconds: the durations, ``(N,)``, where they are known already.
    """
    if seconds is None:
        each = [utterance_seconds(corpus, row, read_headers) for row in corpus.utterances]
        seconds = np.asarray(each, dtype=np.float64)
    splits = {}
    for name in (*SPLITS, None):
        rows = [index for index, row in enumerate(corpus.utterances) if row.split == name]
        if rows:
            part = corpus.select(corpus.ids[index] for index in rows)
            splits[name or NO_SPLIT] = _summarize_split(part, seconds[rows])
    values = corpus.attribute_values
    means = {
        name: float(np.nanmean(values[:, index])) if not np.isnan(values[:, index]).all() else None
        for index, name in enumerate(corpus.attribute_names)
    }
    speakers = Counter(row.speaker for row in corpus.utterances)
    return CorpusSummary(_summarize_split(corpus, seconds), splits, speakers, means)


def _summarize_split(corpus: Corpus, seconds: NDArray[np.float64]) -> SplitSummary:
    labels = Counter(consensus(corpus).tolist())
    classes = {name: labels[index] for index, name in enumerate(corpus.classes)}
    classes |= {
        NO_AGREEMENT: labels[NO_AGREEMENT_INDEX],
        OTHER: labels[OTHER_INDEX],
        UNLABELLED: labels[UNLABELLED_INDEX],
    }
    votes = corpus.votes.sum(axis=1) + corpus.other_votes
    known = ~np.isnan(seconds)
    return SplitSummary(
        utterances=len(corpus),
        speakers=len({row.speaker for row in corpus.utterances if row.speaker is not None}),
        hours=float(seconds[known].sum()) / 3600,
        timed=int(known.sum()),
        classes=classes,
        ambiguity=_ambiguity(corpus),
        votes_per_utterance=float(votes[votes > 0].mean()) if (votes > 0).any() else 0.0,
        with_text=sum(row.text is not None for row in corpus.utterances),
        with_audio=sum(row.audio is not None for row in corpus.utterances),
    )


def _ambiguity(corpus: Corpus) -> float | None:
    entropy = vote_entropy(corpus)
    known = entropy[~np.isnan(entropy)]
    return float(known.mean()) if len(known) else None


def corpus_seconds(
    corpus: Corpus, *, listener: Listener = ignore, should_stop: ShouldStop = never
) -> NDArray[np.float64]:
    """Return the duration of each utterance, ``(N,)`` in seconds, as :func:`utterance_seconds` does.

    Raises:
        Interrupted: ``should_stop`` said so.
    """
    seconds = np.full(len(corpus), np.nan)
    listener(Event("start", DURATIONS_TASK, total=len(corpus)))
    for place, row in enumerate(corpus.utterances):
        if should_stop():
            raise Interrupted(f"stopped after {place} of {len(corpus)} recordings")
        seconds[place] = utterance_seconds(corpus, row)
        listener(Event("advance", DURATIONS_TASK, done=place + 1, total=len(corpus)))
    listener(Event("finish", DURATIONS_TASK, done=len(corpus), total=len(corpus)))
    return seconds


def utterance_seconds(corpus: Corpus, row: Utterance, read_headers: bool = True) -> float:
    """Return a duration in seconds, by the manifest or else by the recording's header; NaN where unknown."""
    if row.start_seconds is not None and row.end_seconds is not None:
        return row.end_seconds - row.start_seconds
    try:
        return float(row.extras["seconds"])
    except (KeyError, ValueError):
        pass
    if row.audio is None or not read_headers:
        return float("nan")
    try:
        end = audio_seconds(corpus.audio_path(row)) if row.end_seconds is None else row.end_seconds
    except AudioError:
        return float("nan")
    return end - (row.start_seconds or 0.0)
