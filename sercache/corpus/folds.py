"""Speaker-disjoint parts of a corpus, stratified by class, or by attributes where there are no classes."""

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sercache.corpus.targets import consensus
from sercache.corpus.utterance import Corpus
from sercache.errors import CorpusError
from sercache.files import read_json, write_json
from sercache.seeds import derive_seed

UnknownSpeakers = Literal["together", "apart"]

_FORMAT = 1
_ATTRIBUTE_STRATA = 5
"""Quantiles of the mean attribute: few enough that each fold has speakers of all."""


@dataclass(frozen=True)
class FoldMap:
    """The fold of every utterance; members with equal ``digest`` share their folds."""

    folds: Mapping[str, int]
    count: int
    digest: str

    def of(self, ids: Iterable[str]) -> NDArray[np.int64]:
        """Return the folds of these utterances, ``(len(ids),)`` int64.

        Raises:
            CorpusError: an utterance is in no fold.
        """
        try:
            return np.asarray([self.folds[utterance_id] for utterance_id in ids], dtype=np.int64)
        except KeyError as error:
            raise CorpusError(
                f"utterance '{error.args[0]}' is in no fold; it is not of the training split"
            ) from None

    def save(self, path: Path) -> None:
        """Write the map as JSON."""
        content = {"format": _FORMAT, "count": self.count, "digest": self.digest, "folds": dict(self.folds)}
        write_json(path, content)

    @classmethod
    def load(cls, path: Path) -> "FoldMap":
        """Read a map that :meth:`save` wrote.

        Raises:
            CorpusError: the file is missing, damaged or was changed.
        """
        try:
            content = read_json(path)
            folds, count = content["folds"], content["count"]
            loaded = cls(folds, count, _digest(folds, count))
            if content["format"] != _FORMAT or content["digest"] != loaded.digest:
                raise ValueError
        except FileNotFoundError:
            raise CorpusError(f"{path} does not exist") from None
        except (KeyError, TypeError, ValueError):
            raise CorpusError(f"{path} is not a map of folds, or was changed after it was written") from None
        return loaded


def assign_folds(
    corpus: Corpus, count: int, seed: int, unknown_speakers: UnknownSpeakers = "together"
) -> FoldMap:
    """Put every utterance into one of ``count`` folds, each speaker into one only, classes spread evenly.

    Rows without agreement, with O, and without votes are strata of their own. The order of rows plays no
    part.

    Args:
        corpus: the utterances to split, that is, the training split.
        count: how many folds, at least 2.
        seed: the run's seed.
        unknown_speakers: utterances without speaker count as one speaker ``together``, or each as its own
            (``apart``), which is only honest where no two of them are of the same person.

    Raises:
        CorpusError: there are fewer speakers than folds.
    """
    if count < 2:
        raise CorpusError(f"{count} folds: out-of-fold posteriors need at least 2")
    ordered = corpus.select(sorted(corpus.ids))
    folds = _split(ordered, count, derive_seed(seed, "folds"), unknown_speakers)
    by_id = dict(zip(ordered.ids, folds.tolist(), strict=True))
    return FoldMap(by_id, count, _digest(by_id, count))


def inner_slice(corpus: Corpus, share: float, seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split ``corpus`` into rows to fit on and rows for early stopping, no speaker in both.

    Args:
        corpus: the training rows of one fold.
        share: share of the rows to stop on; with few speakers, the nearest that whole speakers allow.
        seed: the run's seed.

    Returns:
        The ids to fit on and the ids to stop on, each in the order of ``corpus``.

    Raises:
        CorpusError: there is only one speaker.
    """
    if not 0 < share <= 0.5:
        raise CorpusError(f"share is {share:g}; it must lie above 0 and be at most 0.5")
    ordered = corpus.select(sorted(corpus.ids))
    speakers = len(set(_speakers(ordered, "together")))
    count = min(max(2, round(1 / share)), max(2, speakers))
    folds = _split(ordered, count, derive_seed(seed, "inner-slice"), "together")
    sizes = np.bincount(folds, minlength=count) / len(ordered)
    chosen = int(np.abs(sizes - share).argmin())
    stop = {utterance_id for utterance_id, fold in zip(ordered.ids, folds, strict=True) if fold == chosen}
    fit_ids = tuple(utterance_id for utterance_id in corpus.ids if utterance_id not in stop)
    stop_ids = tuple(utterance_id for utterance_id in corpus.ids if utterance_id in stop)
    return fit_ids, stop_ids


def _split(corpus: Corpus, count: int, seed: int, unknown_speakers: UnknownSpeakers) -> NDArray[np.int64]:
    """Return the fold of each row, ``(N,)``."""
    from sklearn.model_selection import StratifiedGroupKFold

    speakers = np.asarray(_speakers(corpus, unknown_speakers))
    available = len(np.unique(speakers))
    if available < count:
        anonymous = sum(row.speaker is None for row in corpus.utterances)
        hint = " (folds.count in a recipe)" if available > 1 else ""
        hint += f"; {anonymous} utterances name no speaker" if anonymous else ""
        raise CorpusError(
            f"{count} speaker-disjoint parts need at least {count} speakers, there are {available}{hint}"
        )
    strata = _strata(corpus)
    if np.unique(strata, return_counts=True)[1].max() < count:
        strata = np.zeros_like(strata)  # no stratum fills every fold: there is nothing to stratify by
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed % 2**32)
    folds = np.empty(len(corpus), dtype=np.int64)
    with warnings.catch_warnings():
        # A stratum with fewer rows than folds is simply missing from some of them.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for fold, (_, rows) in enumerate(splitter.split(strata, strata, speakers)):
            folds[rows] = fold
    _fill_empty_folds(folds, speakers, count)
    return folds


def _strata(corpus: Corpus) -> NDArray[np.int64]:
    """Return the strata that every part should have equal shares of, ``(N,)``: consensus classes.

    Where there are no classes, quantiles of the mean attribute, each scaled to 0..1; -1 where nobody rated.
    """
    if corpus.classes or not corpus.attributes:
        return consensus(corpus)
    low = np.asarray([attribute.low for attribute in corpus.attributes])
    high = np.asarray([attribute.high for attribute in corpus.attributes])
    scaled = (corpus.attribute_values - low) / (high - low)  # (N, A)
    rated = ~np.isnan(scaled)
    counts = rated.sum(axis=1)
    means = np.where(rated, scaled, 0.0).sum(axis=1) / np.maximum(counts, 1)  # (N,)
    strata = np.full(len(corpus), -1, dtype=np.int64)
    known = counts > 0
    if known.any():
        edges = np.quantile(means[known], np.linspace(0, 1, _ATTRIBUTE_STRATA + 1)[1:-1])
        strata[known] = np.searchsorted(edges, means[known], side="right")
    return strata


def _fill_empty_folds(folds: NDArray[np.int64], speakers: NDArray[np.str_], count: int) -> None:
    """Give each empty fold one speaker, in place: the smallest of the largest fold that can spare one.

    The greedy splitter of scikit-learn may leave a fold empty although there are speakers enough.
    """
    for empty in sorted(set(range(count)) - set(folds.tolist())):
        held = {fold: np.unique(speakers[folds == fold], return_counts=True) for fold in range(count)}
        donors = [fold for fold, (names, _) in held.items() if len(names) > 1]
        names, sizes = held[max(donors, key=lambda fold: held[fold][1].sum())]
        folds[speakers == names[sizes.argmin()]] = empty


def _speakers(corpus: Corpus, unknown_speakers: UnknownSpeakers) -> list[str]:
    """Return one group name per row; a prefix keeps the known speakers apart from the unknown."""
    apart = unknown_speakers == "apart"
    return [
        f"speaker:{row.speaker}" if row.speaker is not None else f"unknown:{row.id if apart else ''}"
        for row in corpus.utterances
    ]


def _digest(folds: Mapping[str, int], count: int) -> str:
    return hashlib.sha256(json.dumps([count, sorted(folds.items())]).encode()).hexdigest()[:32]
