"""Faults of predictions: shifted, permuted, one class only, identical, or of training rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sercache.corpus import Corpus
from sercache.corpus.targets import consensus
from sercache.evaluation.metrics import confusion
from sercache.stacking.external.reading import Predictions

_FURTHEST_SHIFT = 3
_CLEARLY_MORE = 0.1
"""Share of rows; a fault that moves fewer of them is no fault of this kind."""

_SURE = 5.0
"""Standard errors: many shifts, orders and files are looked at, and a false alarm costs trust."""

_FEW_ROWS = 10


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault of a file (``error``), or something unusual about it (``warning``)."""

    severity: Literal["error", "warning"]
    file: str
    message: str


def faults_of(file: Predictions, corpus: Corpus) -> Iterator[Finding]:
    """Yield the faults of one file."""

    def error(message: str) -> Finding:
        return Finding("error", file.name, message)

    def warning(message: str) -> Finding:
        return Finding("warning", file.name, message)

    if file.unknown_ids:
        yield error(
            f"{len(file.unknown_ids)} utterances are not in the corpus, first '{file.unknown_ids[0]}'"
        )
    yield from map(warning, _missing_rows(file, corpus))
    yield from map(error, _known_speakers(file, corpus))
    nameless = sum(corpus.by_id[row_id].speaker is None for row_id in file.ids)
    if nameless:
        yield warning(f"{nameless} rows name no speaker and count as one each: intervals may be too narrow")
    if file.class_probabilities is None:
        return
    labels = consensus(corpus.select(file.ids))
    predicted = file.class_probabilities.argmax(axis=1)
    unlabelled = int((labels < 0).sum())
    if unlabelled:
        yield warning(f"{unlabelled} of {len(labels)} rows have no consensus class: macro-F1 leaves them out")
    if file.is_hard:
        yield warning("decisions without probabilities: no log-loss, JSD, ECE or Brier score")
    predicted_classes = np.unique(predicted)
    if len(predicted_classes) == 1 and len(predicted) > 1:
        yield error(f"every row is {corpus.classes[predicted_classes[0]]}")
        return
    counts = np.bincount(labels[labels >= 0], minlength=len(corpus.classes))
    never = [
        name
        for index, name in enumerate(corpus.classes)
        if counts[index] >= _FEW_ROWS and index not in predicted_classes.tolist()
    ]
    if never:
        yield warning(f"never predicts {', '.join(never)}")
    shifted = list(_shifted(file, corpus, labels, predicted))
    yield from map(error, shifted or _permuted(corpus, labels, predicted))
    yield from map(warning, _seen_in_training(file, corpus, labels, predicted))


def faults_between(files: Sequence[Predictions]) -> Iterator[Finding]:
    """Yield which files have the same predictions."""
    for first, second in combinations([file for file in files if file.class_probabilities is not None], 2):
        shared = sorted(set(first.ids) & set(second.ids))
        if len(shared) < _FEW_ROWS:
            continue
        ours, theirs = (_aligned(file, shared) for file in (first, second))
        if np.array_equal(ours, theirs) and not first.is_hard:
            yield Finding("error", second.name, f"is identical with {first.name}, bit for bit")
        elif (ours.argmax(axis=1) == theirs.argmax(axis=1)).all():
            yield Finding("warning", second.name, f"decides like {first.name} on all {len(shared)} rows")


def _aligned(file: Predictions, ids: Sequence[str]) -> NDArray[np.float64]:
    assert file.class_probabilities is not None
    row_of = {row_id: row for row, row_id in enumerate(file.ids)}
    return file.class_probabilities[[row_of[row_id] for row_id in ids]]


def _missing_rows(file: Predictions, corpus: Corpus) -> Iterator[str]:
    """Yield the splits of which some rows are not predicted."""
    have = set(file.ids)
    for split in dict.fromkeys(row.split for row in corpus.utterances):
        in_split = [row.id for row in corpus.utterances if row.split == split]
        missing = [row_id for row_id in in_split if row_id not in have]
        if missing and len(missing) < len(in_split):
            where = f"of the {split} split" if split else "of the corpus"
            yield f"misses {len(missing)} of {len(in_split)} rows {where}, first '{missing[0]}'"


def _known_speakers(file: Predictions, corpus: Corpus) -> Iterator[str]:
    """Yield the predicted speakers of other splits that the training split has too."""
    learned = {row.speaker for row in corpus.utterances if row.split in ("train", None)} - {None}
    evaluated = {
        corpus.by_id[row_id].speaker
        for row_id in file.ids
        if corpus.by_id[row_id].split in ("development", "test")
    }
    shared = sorted(str(speaker) for speaker in evaluated & learned)
    if shared:
        yield (
            f"{len(shared)} speakers are in the training split and in another one, first '{shared[0]}': "
            "scores there are not of new speakers"
        )


def _shifted(
    file: Predictions, corpus: Corpus, labels: NDArray[np.int64], predicted: NDArray[np.int64]
) -> Iterator[str]:
    """Yield a sentence if predictions fit the rows above or below better than those they are written for."""
    row_of = {row_id: row for row, row_id in enumerate(corpus.ids)}
    orders = {
        "of the file": np.arange(len(labels)),
        "of the corpus": np.argsort([row_of[row_id] for row_id in file.ids], kind="stable"),
    }
    unmoved = _hits(labels, predicted)
    best: tuple[float, str] | None = None
    for where, order in orders.items():
        for shift in (*range(-_FURTHEST_SHIFT, 0), *range(1, _FURTHEST_SHIFT + 1)):
            moved = _hits(labels[order], np.roll(predicted[order], shift))
            if _is_clearly_more(moved, unmoved) and (best is None or moved[0] > best[0]):
                side = "below" if shift > 0 else "above"
                where_to = f"the row {abs(shift)} {side} in the order {where}"
                sentence = (
                    f"shifted: {moved[0]:.0%} of predictions fit {where_to}, {unmoved[0]:.0%} their own"
                )
                best = moved[0], sentence
    if best is not None:
        yield best[1]


def _permuted(corpus: Corpus, labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> Iterator[str]:
    """Yield a sentence if other names of the classes fit far better."""
    from scipy.optimize import linear_sum_assignment

    known = labels >= 0
    counts = confusion(labels[known], predicted[known], len(corpus.classes))  # (C, C)
    # By class, as what is rare may be permuted too; a class with few rows is left out.
    size = counts.sum(axis=1)
    recalls = np.where(size[:, None] >= _FEW_ROWS, counts / np.maximum(size, 1)[:, None], 0.0)
    truth, called = linear_sum_assignment(recalls, maximize=True)
    is_counted = size >= _FEW_ROWS
    if not is_counted.any():
        return
    renamed, unchanged = recalls[truth, called][is_counted], np.diag(recalls)[is_counted]
    variance = (
        (renamed * (1 - renamed) + unchanged * (1 - unchanged)) / size[is_counted]
    ).sum() / is_counted.sum() ** 2
    if renamed.mean() - unchanged.mean() > max(_CLEARLY_MORE, _SURE * float(np.sqrt(variance))):
        pairs = ", ".join(
            f"{corpus.classes[name]} means {corpus.classes[meant]}"
            for meant, name in zip(truth.tolist(), called.tolist(), strict=True)
            if meant != name and is_counted[meant]
        )
        uar, swapped = unchanged.mean(), renamed.mean()
        yield f"classes are permuted: UAR would be {swapped:.2f}, not {uar:.2f}, if {pairs}"


def _seen_in_training(
    file: Predictions, corpus: Corpus, labels: NDArray[np.int64], predicted: NDArray[np.int64]
) -> Iterator[str]:
    """Yield a sentence if training rows are predicted far better than the others."""
    is_train = np.asarray([corpus.by_id[row_id].split == "train" for row_id in file.ids])
    seen, unseen = (
        _hits(labels[is_train], predicted[is_train]),
        _hits(labels[~is_train], predicted[~is_train]),
    )
    if min(seen[1], unseen[1]) >= _FEW_ROWS and _is_clearly_more(seen, unseen):
        yield (
            f"{seen[0]:.0%} of training rows are right and {unseen[0]:.0%} of the others: these look like "
            "predictions of rows that were trained on"
        )


def _hits(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> tuple[float, int]:
    """Return the share of rows that are right, and of how many."""
    known = labels >= 0
    return (float((labels[known] == predicted[known]).mean()) if known.any() else 0.0), int(known.sum())


def _is_clearly_more(first: tuple[float, int], second: tuple[float, int]) -> bool:
    if not first[1] or not second[1]:
        return False
    variance = sum(share * (1 - share) / count for share, count in (first, second)) + 1 / first[1] ** 2
    return first[0] - second[0] > max(_CLEARLY_MORE, _SURE * float(np.sqrt(variance)))
