"""Further inputs of stackers beside posteriors: durations, columns of the manifest, pooled features.

A recipe names them under ``stacking.extras``: ``duration``; ``column:<name>``, a column of numbers such as an
ASR model's confidence; ``pooled:<feature set>``, the mean over time of its last kept layer.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sercache.cache.pooling import pooled_layer
from sercache.cache.store import Cache
from sercache.corpus import Corpus
from sercache.corpus.summary import utterance_seconds
from sercache.errors import StackingError, did_you_mean
from sercache.recipe import Recipe
from sercache.stacking.rows import Floats

Columns = dict[str, Floats]
"""Named columns, ``(N,)`` each; NaN where unknown."""


def extra_columns(recipe: Recipe, corpus: Corpus) -> tuple[tuple[str, ...], Floats]:
    """Return the names and the values ``(N, E)`` of the columns under a recipe's ``stacking.extras``.

    Raises:
        StackingError: no such extra, column or feature set, or a cell that is no number.
        CacheError: the feature set is not in the cache, or has frames that are no finite numbers.
    """
    columns: Columns = {}
    for request in recipe.stacking.extras:
        kind, name, index = parse_extra(request)
        if kind not in _SOURCES or (kind == "duration") == bool(name) or index is not None:
            raise StackingError(
                f"stacking.extras: '{request}' is none of duration, column:<name>, pooled:<feature set>"
            )
        columns |= _SOURCES[kind](recipe, corpus, name)
    values = np.column_stack(list(columns.values())) if columns else np.empty((len(corpus), 0))
    return tuple(columns), values


class Extra(NamedTuple):
    """An extra of a recipe, or one column of it.

    Attributes:
        kind: ``duration``, ``column`` or ``pooled``.
        name: of the manifest's column or of the feature set; empty for durations.
        dimension: of pooled features, for one column of them; else None.
    """

    kind: str
    name: str
    dimension: int | None


def parse_extra(text: str) -> Extra:
    """Parse an extra of a recipe or the name of one of its columns.

    >>> parse_extra("pooled:wavlm:3"), parse_extra("column:confidence")
    (Extra(kind='pooled', name='wavlm', dimension=3), Extra(kind='column', name='confidence', dimension=None))
    """
    kind, _, name = text.partition(":")
    feature, _, index = name.rpartition(":")
    if kind == "pooled" and feature and index.isascii() and index.isdigit():
        return Extra(kind, feature, int(index))
    return Extra(kind, name, None)


def _duration(recipe: Recipe, corpus: Corpus, _: str) -> Columns:
    return {"duration": np.asarray([utterance_seconds(corpus, row) for row in corpus.utterances])}


def _column(recipe: Recipe, corpus: Corpus, name: str) -> Columns:
    known = {column for row in corpus.utterances for column in row.extras}
    if name not in known:
        raise StackingError(
            f"stacking.extras: the corpus has no column '{name}'.{did_you_mean(name, sorted(known))}"
        )
    values = np.full(len(corpus), np.nan)
    for index, row in enumerate(corpus.utterances):
        cell = row.extras.get(name, "").strip()
        try:
            values[index] = float(cell) if cell else math.nan
        except ValueError:
            raise StackingError(
                f"stacking.extras: column '{name}' of utterance '{row.id}' is '{cell}', not a number"
            ) from None
    return {f"column:{name}": values}


def _pooled(recipe: Recipe, corpus: Corpus, name: str) -> Columns:
    if name not in recipe.features:
        raise StackingError(
            f"stacking.extras: no feature set '{name}'.{did_you_mean(name, list(recipe.features))}"
        )
    feature_set = Cache(recipe.cache).find(recipe.features[name])
    present = [row for row, utterance_id in enumerate(corpus.ids) if utterance_id in feature_set]
    values = np.full((len(corpus), feature_set.dim), np.nan)
    ids = [corpus.ids[row] for row in present]
    values[present] = pooled_layer(feature_set, feature_set.layers[-1:], ids, deviation=False)
    return {f"pooled:{name}:{column}": values[:, column] for column in range(feature_set.dim)}


_SOURCES: dict[str, Callable[[Recipe, Corpus, str], Columns]] = {
    "duration": _duration,
    "column": _column,
    "pooled": _pooled,
}
