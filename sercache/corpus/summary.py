"""Counts and distributions of a corpus."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
from sercache.events import QUIET, Context, Event

QUANTILES: Mapping[str, float] = {
    "least": 0.0,
    "5 %": 0.05,
    "25 %": 0.25,
    "median": 0.5,
    "75 %": 0.75,
    "95 %": 0.95,
    "most": 1.0,
}
_MOST_BINS = 12
_TAIL_QUANTILE = 0.99
_ROUND_STEPS = (1.0, 2.0, 5.0)
_LEAST_STEP = 1e-6
"""Edges are rounded to nine decimals."""


@dataclass(frozen=True)
class Distribution:
    """The spread of N known numbers.

    Attributes:
        count: N.
        total: their sum.
        mean: their mean.
        quantiles: by name, as in :data:`QUANTILES`.
        edges: ``B + 1`` bounds of the histogram's bins, each but the last open above.
        counts: ``B`` of them; the last bin reaches as far as the largest number.
    """

    count: int
    total: float
    mean: float
    quantiles: Mapping[str, float]
    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def median(self) -> float:
        """The median."""
        return self.quantiles["median"]


def distribution_of(values: ArrayLike) -> Distribution | None:
    """Return the distribution of ``values`` ``(N,)``, in which NaN is unknown; None where all are.

    >>> spread = distribution_of([1.0, 2.0, 3.0, 10.0])
    >>> spread.median, spread.edges, spread.counts
    (2.5, (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0), (1, 1, 1, 0, 0, 0, 0, 0, 1))
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    if not known.size:
        return None
    edges = _edges(known.min(), float(np.quantile(known, _TAIL_QUANTILE)), known.max())
    counts, _ = np.histogram(known, edges)
    return Distribution(
        count=int(known.size),
        total=float(known.sum()),
        mean=float(known.mean()),
        quantiles={name: float(np.quantile(known, share)) for name, share in QUANTILES.items()},
        edges=tuple(edges),
        counts=tuple(counts.tolist()),
    )


def _edges(least: float, tail: float, most: float) -> list[float]:
    """Return round edges up to where the tail begins; one bin holds the tail."""
    step = max(_round_step((tail - least) / _MOST_BINS), _LEAST_STEP)
    # In whole steps, so that no edge is 0.30000000000000004.
    first, last = int(np.floor(least / step)), int(np.ceil(tail / step))
    edges = [round(number * step, 9) for number in range(first, max(last, first + 1) + 1)]
    if most > edges[-1]:
        edges.append(float(most))
    return edges


def _round_step(wanted: float) -> float:
    """Return the smallest of ..., 0.1, 0.2, 0.5, 1, 2, 5, ... that is not below ``wanted``."""
    if wanted <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(wanted))
    return float(next(factor * power for factor in (*_ROUND_STEPS, 10.0) if factor * power >= wanted))


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
    """A corpus, its splits, and how many utterances each speaker has (None: unknown speakers).

    ``attribute_means`` is None for an attribute that nobody rated; ``attribute_counts`` counts the utterances
    that are rated.
    """

    total: SplitSummary
    splits: Mapping[str, SplitSummary]
    speakers: Mapping[str | None, int]
    attribute_means: Mapping[str, float | None]
    attribute_counts: Mapping[str, int]

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
        durations = [utterance_seconds(corpus, row, read_headers) for row in corpus.utterances]
        seconds = np.asarray(durations, dtype=np.float64)
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
    counts = dict(zip(corpus.attribute_names, (~np.isnan(values)).sum(axis=0).tolist(), strict=True))
    speakers = Counter(row.speaker for row in corpus.utterances)
    return CorpusSummary(_summarize_split(corpus, seconds), splits, speakers, means, counts)


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


def corpus_seconds(corpus: Corpus, *, context: Context = QUIET) -> NDArray[np.float64]:
    """Return the duration of each utterance, ``(N,)`` in seconds, as :func:`utterance_seconds` does.

    Raises:
        Interrupted: ``context.should_stop`` returned True.
    """
    seconds = np.full(len(corpus), np.nan)
    context.listener(Event("start", DURATIONS_TASK, total=len(corpus)))
    for index, row in enumerate(corpus.utterances):
        if context.should_stop():
            raise Interrupted(f"stopped after {index} of {len(corpus)} recordings")
        seconds[index] = utterance_seconds(corpus, row)
        context.listener(Event("advance", DURATIONS_TASK, done=index + 1, total=len(corpus)))
    context.listener(Event("finish", DURATIONS_TASK, done=len(corpus), total=len(corpus)))
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
