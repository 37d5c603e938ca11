"""Propose a first recipe: features, members, sizes and folds that suit the corpus and the cache."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from sercache.corpus.targets import consensus
from sercache.corpus.utterance import Corpus
from sercache.errors import CorpusError
from sercache.first_recipe_features import (
    ProposedFeature,
    asks_for_same,
    best_first,
    cached_features,
    embedded_features,
    requested_features,
)

HeadName = Literal["ridge", "logistic", "deepser"]

USUAL_FOLDS = 5
MANY_ROWS = 20_000
"""Training rows beyond which closed-form members read two statistics over time instead of all seven."""

_CLOSED_FORM: tuple[HeadName, ...] = ("ridge", "logistic")


@dataclass(frozen=True)
class Sizing:
    """Neural members, sizes and learning rates that suit a number of clips.

    Attributes:
        clips: the most it is for; None: any number.
        neural_members: at most so many.
        options: of a DeepSER head; empty: the paper's.
        training: keys of ``training``; empty: the paper's.
    """

    clips: int | None
    neural_members: int
    options: dict[str, int | float | str]
    training: dict[str, int | dict[str, int | float]]


SIZINGS = (
    Sizing(
        2_000,
        2,
        {"width": 48, "feedforward": 96, "dropout": 0.2, "base": "best"},
        {
            "batch_size": 16,
            "accumulate": 1,
            "stage1": {"epochs": 12, "learning_rate": 5e-4},
            "stage2": {"epochs": 0},
            "patience": 4,
        },
    ),
    Sizing(
        20_000,
        4,
        {"width": 128, "feedforward": 256, "dropout": 0.2, "base": "best"},
        {
            "batch_size": 32,
            "accumulate": 1,
            "stage1": {"epochs": 8, "learning_rate": 5e-4},
            "stage2": {"epochs": 6, "learning_rate": 1e-4},
        },
    ),
    Sizing(None, 6, {}, {}),
)
"""By what worked on corpora of some hundred and some thousand clips; beyond, the paper's, for 84,000."""


@dataclass(frozen=True)
class ProposedMember:
    """A member, and the reason for it; ``seed`` is None where nothing is random."""

    name: str
    head: HeadName
    features: tuple[str, ...]
    seed: int | None
    why: str


@dataclass(frozen=True)
class Proposal:
    """The content of a first recipe.

    Attributes:
        corpus: what it is for.
        features: those that members read.
        left_out: feature sets of the cache that lack utterances of the corpus, so that members cannot read
            them yet.
        members: at least one; the cheapest first.
        folds: how many.
        speakers: who can be kept apart: known speakers of the training split, and all unknown ones as one.
        clips: utterances of the training split.
        sizing: what that number of clips suits.
        empty_classes: classes that are no utterance's consensus.
        free_bytes: on the disk of the cache; infinite where nobody has looked.
    """

    corpus: Corpus
    features: tuple[ProposedFeature, ...]
    left_out: tuple[ProposedFeature, ...]
    members: tuple[ProposedMember, ...]
    folds: int
    speakers: int
    clips: int
    sizing: Sizing
    empty_classes: tuple[str, ...]
    free_bytes: float

    @property
    def is_cached(self) -> bool:
        """Whether all features are in the cache already."""
        return all(feature.is_extracted for feature in self.features)

    @property
    def size_bytes(self) -> float:
        """What extraction will add to the disk, as far as that is known."""
        return sum(feature.size_bytes or 0.0 for feature in self.features)


def propose(
    corpus: Corpus, cache: Path | None, encoders: Sequence[str] = (), free_bytes: float = math.inf
) -> Proposal:
    """Return a first recipe for ``corpus``, from what ``cache`` holds of it and from encoders to extract.

    Args:
        corpus: what it is for.
        cache: the cache's folder, which need not be there yet; None: there is none.
        encoders: ``NAME`` or ``NAME:LAYERS``; where there are none and the cache holds nothing of the corpus,
            embedded ones are proposed.
        free_bytes: on the disk of the cache: it decides on layers.

    Raises:
        CorpusError: there is nothing to learn or nothing to encode, or too few speakers to keep apart.
        CacheError: the cache is damaged.
        EncoderError: there is no such encoder.
    """
    training = _training_split(corpus)
    labels = consensus(training)
    counts = np.bincount(labels[labels >= 0], minlength=len(corpus.classes))
    if corpus.attributes and not corpus.classes:
        _refuse_equal_ratings(training)
    elif (counts > 0).sum() < 2:
        raise CorpusError(
            "a recipe needs two classes with utterances to learn from; sercache corpus show counts them"
        )
    speakers = len({row.speaker for row in training.utterances})
    has_development = any(row.split == "development" for row in corpus.utterances)
    folds = _fold_count(training, speakers, has_development=has_development)
    found = [] if cache is None or not cache.is_dir() else cached_features(cache, corpus)
    finished = [feature for feature in found if feature.is_extracted]
    features = [*finished, *requested_features(corpus, encoders, free_bytes, finished)]
    features = features or found or embedded_features(corpus, free_bytes)
    sizing = next(sizing for sizing in SIZINGS if sizing.clips is None or len(training) <= sizing.clips)
    if speakers <= _least_speakers(has_development=has_development):
        # The base is fitted on speakers other than those it predicts: one that is left is not enough.
        options = {name: value for name, value in sizing.options.items() if name != "base"}
        sizing = replace(sizing, options=options)
    return Proposal(
        corpus=corpus,
        features=tuple(features),
        left_out=tuple(
            feature
            for feature in found
            if not any(asks_for_same(feature.recipe, other.recipe) for other in features)
        ),
        members=(*_closed_form_members(features), *_neural_members(features, sizing.neural_members)),
        folds=folds,
        speakers=speakers,
        clips=len(training),
        sizing=sizing,
        empty_classes=tuple(
            name for name, count in zip(corpus.classes, counts, strict=bool(corpus.classes)) if not count
        ),
        free_bytes=free_bytes,
    )


def _refuse_equal_ratings(training: Corpus) -> None:
    """Raise a CorpusError unless some attribute has two different ratings."""
    for values in training.attribute_values.T:
        if len(np.unique(values[~np.isnan(values)])) > 1:
            return
    raise CorpusError(
        "a recipe needs two classes to learn from, or an attribute with different ratings; "
        "sercache corpus report shows what there is"
    )


def _training_split(corpus: Corpus) -> Corpus:
    """Return the rows that folds are made of; a row without split is a training row."""
    splits: dict[str | None, set[str]] = {}
    for row in corpus.utterances:
        splits.setdefault(row.speaker, set()).add(row.split or "train")
    crossing = sorted(name for name, held in splits.items() if name is not None and len(held) > 1)
    if crossing:
        raise CorpusError(
            f"{len(crossing):,} speakers are in several splits, first '{crossing[0]}': models would be "
            "judged on speakers they learned from; mend the column 'split', or empty it: then folds keep "
            "speakers apart"
        )
    return corpus.select(row.id for row in corpus.utterances if (row.split or "train") == "train")


def _fold_count(training: Corpus, speakers: int, *, has_development: bool) -> int:
    """Return how many folds the speakers allow, where every fold's rest still has speakers to stop on."""
    least = _least_speakers(has_development=has_development)
    if speakers < least:
        anonymous = sum(row.speaker is None for row in training.utterances)
        hint = f"; {anonymous:,} utterances name none" if anonymous else ""
        raise CorpusError(
            f"folds that keep speakers apart need {least} speakers at least, the training rows have "
            f"{speakers}{hint}: fill the manifest's column 'speaker'"
        )
    return min(USUAL_FOLDS, speakers)


def _least_speakers(*, has_development: bool) -> int:
    """Return how many it takes to predict one, learn from one and, without development, stop on one."""
    return 2 if has_development else 3


def _closed_form_members(features: Sequence[ProposedFeature]) -> list[ProposedMember]:
    """Return linear members on each feature set, and on all together."""
    names = [feature.name for feature in features]
    alone = "each feature set alone"
    members = [
        ProposedMember(f"{head}-{name}", head, (name,), None, alone)
        for name in names
        for head in _CLOSED_FORM
    ]
    if len(names) > 1:
        together = "all feature sets together"
        members += [
            ProposedMember(f"{head}-all", head, tuple(names), None, together) for head in _CLOSED_FORM
        ]
    return members


def _neural_members(features: Sequence[ProposedFeature], most: int) -> list[ProposedMember]:
    """Return DeepSER members on the feature sets that look best, the most promising first."""
    speech = [feature.name for feature in best_first(features, "audio")]
    words = [feature.name for feature in best_first(features, "text")]
    wanted: list[tuple[str, list[str], str]] = []
    if speech and words:
        fused = [speech[0], words[0]]
        wanted.append(("fusion-1", fused, "speech and text together"))
        wanted.append((f"deepser-{speech[0]}", [speech[0]], "the best speech features alone"))
        wanted.append(("fusion-2", fused, "speech and text with another seed: two seeds differ a good deal"))
        if len(speech) > 1:
            wanted.append(("fusion-3", [*speech[:2], words[0]], "two kinds of speech features, and text"))
        rest = [words[0], *speech[1:], *words[1:]]
    else:
        names = speech or words
        if len(names) > 1:
            wanted.append(("fusion-1", names[:2], "two feature sets together"))
        wanted.append((f"deepser-{names[0]}", [names[0]], "the best feature set alone"))
        if len(names) > 2:
            wanted.append(("fusion-2", names[:3], "three feature sets together"))
        rest = names[1:]
    wanted += [(f"deepser-{name}", [name], "what it is worth alone") for name in rest]
    return [
        ProposedMember(name, "deepser", tuple(read), seed, why)
        for seed, (name, read, why) in enumerate(wanted[:most], start=1)
    ]
