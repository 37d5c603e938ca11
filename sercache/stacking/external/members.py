"""Predictions of other systems as members: which files they come from, and which rows may be fitted on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sercache.corpus import Corpus
from sercache.corpus.folds import FoldMap, assign_folds
from sercache.corpus.manifest import read_corpus
from sercache.errors import CorpusError, StackingError
from sercache.events import Event, Listener, ignore
from sercache.files import read_json, write_json
from sercache.posteriors import ALL_FOLDS, Posteriors
from sercache.run import Run
from sercache.stacking.external.reading import Predictions, member_names, read_predictions
from sercache.stacking.joining import join
from sercache.stacking.rows import StackingRows

_FOLDS = 5


def rows_of_predictions(
    paths: Sequence[Path],
    corpus: Corpus,
    *,
    are_out_of_fold: bool = False,
    seed: int = 0,
    listener: Listener = ignore,
) -> StackingRows:
    """Read files of predictions and join them with a corpus.

    Which rows a stacker may learn from follows from the corpus's splits, unless a file has a column
    ``origin``: ``test`` rows are scored; ``development`` rows are fitted on, as no model learned from
    them. A model has usually trained on ``train`` rows (or rows without split), and nobody can see that in a
    file: they are left out unless the caller says otherwise.

    Args:
        paths: one file per member.
        corpus: with the truth.
        are_out_of_fold: no model saw a speaker whose training rows it predicts here.
        seed: of the folds that take turns where there is no test split.
        listener: told what is left out, and of odd members.

    Raises:
        StackingError: a file cannot be read, predicts utterances that are not in the corpus, or nothing is
            left to fit on.
    """
    files = [
        read_predictions(path, corpus, name) for path, name in zip(paths, member_names(paths), strict=True)
    ]
    for file in files:
        if file.unknown_ids:
            raise StackingError(
                f"{file.path.name}: {len(file.unknown_ids)} utterances are not in the corpus, "
                f"first '{file.unknown_ids[0]}'"
            )
        if file.class_probabilities is None and corpus.classes:
            raise StackingError(f"{file.path.name}: it predicts attributes only; stacking needs classes")
    attributes = _attributes_of_all(corpus, files, listener)
    if not corpus.classes and not attributes:
        known = ", ".join(corpus.attribute_names)
        raise StackingError(f"no attribute is predicted by every file (the corpus has {known})")
    corpus = with_attributes(corpus, attributes)
    origins = [_origins(file, corpus, are_out_of_fold) for file in files]
    left_out = max(int((file_origins == "").sum()) for file_origins in origins)
    fitted_on = sorted(
        {
            utterance_id
            for file, file_origins in zip(files, origins, strict=True)
            for utterance_id, origin in zip(file.ids, file_origins.tolist(), strict=True)
            if origin in ("out-of-fold", "in-sample")
        }
    )
    if left_out:
        reason = (
            f"{left_out} rows of the training split are left out: a model may have learned from them, and a "
            "stacker would learn how far each member overfits. If no model saw the speakers whom it predicts "
            "there, say so with --out-of-fold"
        )
        if not fitted_on:
            raise StackingError(f"nothing to fit a stacker on; {reason}")
        _warn(listener, reason)
    if not fitted_on:
        raise StackingError("nothing to fit a stacker on: all rows are of the test split")
    has_held_out = any((file_origins == "held-out").any() for file_origins in origins)
    folds = _folds(corpus.select(fitted_on), seed, listener, are_needed=not has_held_out)
    tables = [
        _posteriors(file, corpus, attributes, file_origins, folds)
        for file, file_origins in zip(files, origins, strict=True)
    ]
    return join(tables, corpus, allow_in_sample=False, listener=listener)


def _origins(file: Predictions, corpus: Corpus, are_out_of_fold: bool) -> NDArray[np.str_]:
    """Return where each row's prediction comes from; the empty string for a row to leave out."""
    if file.origins is not None:
        return file.origins
    of_split = {
        "test": "held-out",
        "development": "out-of-fold",
        "train": "out-of-fold" if are_out_of_fold else "",
    }
    splits = [corpus.by_id[utterance_id].split or "train" for utterance_id in file.ids]
    return np.asarray([of_split[split] for split in splits], dtype=np.str_)


def _attributes_of_all(corpus: Corpus, files: Sequence[Predictions], listener: Listener) -> list[int]:
    """Return which of the corpus's attributes every file predicts."""
    kept = [
        index
        for index in range(len(corpus.attributes))
        if not any(np.isnan(file.attribute_values[:, index]).any() for file in files)
    ]
    dropped = [name for index, name in enumerate(corpus.attribute_names) if index not in kept]
    if dropped and any(not np.isnan(file.attribute_values).all() for file in files):
        _warn(listener, f"attributes that not every file predicts are left out: {', '.join(dropped)}")
    return kept


def with_attributes(corpus: Corpus, attributes: Sequence[int]) -> Corpus:
    """Return the corpus with these of its attributes only."""
    rows = (
        replace(row, attributes=tuple(row.attributes[index] for index in attributes))
        for row in corpus.utterances
    )
    kept = tuple(corpus.attributes[index] for index in attributes)
    return replace(corpus, attributes=kept, utterances=tuple(rows))


def _folds(corpus: Corpus, seed: int, listener: Listener, *, are_needed: bool) -> FoldMap:
    speakers = {row.speaker for row in corpus.utterances}
    if speakers == {None}:
        _warn(listener, "no row names its speaker: folds and intervals take each for a speaker of its own")
        return assign_folds(corpus, min(_FOLDS, len(corpus)), seed, "apart")
    try:
        return assign_folds(corpus, max(2, min(_FOLDS, len(speakers))), seed)
    except CorpusError as error:
        if not are_needed:
            return FoldMap(dict.fromkeys(corpus.ids, 0), 1, "one fold")
        raise StackingError(f"the rows to fit on cannot be parted by speaker: {error}") from None


def _posteriors(
    file: Predictions, corpus: Corpus, attributes: Sequence[int], origins: NDArray[np.str_], folds: FoldMap
) -> Posteriors:
    kept = np.flatnonzero(origins != "")
    ids = tuple(file.ids[place] for place in kept.tolist())
    probabilities = file.class_probabilities
    if probabilities is None:  # of a corpus with attributes alone
        probabilities = np.empty((len(file.ids), 0))
    return Posteriors(
        member=file.name,
        ids=ids,
        classes=corpus.classes,
        attributes=corpus.attribute_names,
        class_probabilities=probabilities[kept],
        attribute_values=file.attribute_values[kept][:, list(attributes)],
        folds=np.asarray([folds.folds.get(row_id, ALL_FOLDS) for row_id in ids], dtype=np.int64),
        origins=origins[kept],
        fold_map_digest=folds.digest,
    )


def _warn(listener: Listener, message: str) -> None:
    listener(Event("warning", "stack", message=message))


@dataclass(frozen=True, slots=True)
class Sources:
    """What was stacked.

    Attributes:
        paths: a file per member.
        labels: the manifest with the truth.
        are_out_of_fold: no model saw the speakers whose training rows it predicts.
        seed: of everything random.
    """

    paths: tuple[Path, ...]
    labels: Path
    are_out_of_fold: bool
    seed: int


def rows_of_sources(sources: Sources, *, listener: Listener = ignore) -> StackingRows:
    """Read the files and join them; see :func:`~sercache.stacking.external.members.rows_of_predictions`.

    Raises:
        StackingError, CorpusError: a file or the manifest is gone or wrong.
    """
    return rows_of_predictions(
        sources.paths,
        read_corpus(sources.labels),
        are_out_of_fold=sources.are_out_of_fold,
        seed=sources.seed,
        listener=listener,
    )


def save_sources(run: Run, sources: Sources) -> None:
    """Note in a folder what is stacked there."""
    write_json(
        run.sources_path,
        {
            "predictions": [str(path.resolve()) for path in sources.paths],
            "labels": str(sources.labels.resolve()),
            "are_out_of_fold": sources.are_out_of_fold,
            "seed": sources.seed,
        },
    )


def load_sources(run: Run) -> Sources:
    """Return what was stacked in a folder.

    Raises:
        StackingError: the folder does not say.
    """
    try:
        found = read_json(run.sources_path)
        return Sources(
            tuple(Path(path) for path in found["predictions"]),
            Path(found["labels"]),
            bool(found["are_out_of_fold"]),
            int(found["seed"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StackingError(
            f"{run.sources_path} does not tell which predictions were stacked ({error}); "
            "sercache stack --predictions writes it"
        ) from error
