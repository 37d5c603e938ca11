"""Fitting a pooled linear head: standardisation, weights of blocks, penalty, and the solution itself.

Everything is learned from the rows that are fitted on. What has to be chosen (weights of blocks, penalty,
scale of the scores) is chosen by how well speakers are predicted that were left out of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from threadpoolctl import threadpool_limits

from sercache.corpus import Corpus
from sercache.corpus.folds import assign_folds
from sercache.errors import TrainingError
from sercache.evaluation.probabilities import log_softmax
from sercache.events import ShouldStop, never
from sercache.heads.pooled_linear import PooledLinear
from sercache.heads.protocol import Head, HeadOutput
from sercache.training.block_weights import learn_block_weights
from sercache.training.linear_solver import Floats, LinearModel, logistic, ridge
from sercache.training.losses import class_weights
from sercache.training.penalty_search import DUAL_ROWS, MOST_ROWS_OF_ALL_FOLDS, PENALTIES, Fit, PenaltySearch
from sercache.training.pooled_features import PooledRows, PooledTable, refuse_to_go_on
from sercache.training.rows import LabelledRows

_USUAL_PENALTY = {"ridge": 0.1, "logistic": 0.01}
_USUAL_SCALE = {"ridge": 4.0, "logistic": 1.0}
"""Where there is only one speaker, so that nobody can be left out."""

_INNER_FOLDS = 4
_MOST_FEATURES = 8192
"""Of many rows: more would take gigabytes and many minutes."""

_BLOCK_ROWS = 600
"""Rows that weights of blocks are learned from; more would cost more than they are worth."""


@dataclass(frozen=True)
class Solution:
    """What was fitted, beside the head's weights.

    Attributes:
        score: the primary score of left-out speakers; NaN where nobody could be left out.
        penalty: of the class weights.
        left_out: ``(N, C + A)`` the outputs for each row by a model that did not learn from its speaker; NaN
            where there is none.
    """

    score: float
    penalty: float
    left_out: Floats


def fit_head(
    head: Head,
    tables: Sequence[PooledTable],
    positions: NDArray[np.int64],
    corpus: Corpus,
    targets: LabelledRows,
    *,
    seed: int,
    every_row: bool = False,
    should_stop: ShouldStop = never,
) -> Solution:
    """Fit a head on some rows; its weights are the solution afterwards.

    Args:
        head: :class:`~sercache.heads.pooled_linear.Ridge` or ``Logistic``, on the CPU.
        tables: pooled statistics, one per feature set of the head.
        positions: ``(N,)`` where the rows are in the tables.
        corpus: the N utterances: who speaks.
        targets: of the N utterances.
        seed: of the assignment of speakers to inner folds.
        every_row: whether every row has to be left out once; of many rows only some are otherwise.
        should_stop: looked at between steps.

    Raises:
        TrainingError: there is nothing to learn from, or the solution needs more memory than there is.
        Interrupted: ``should_stop`` returned True.
    """
    assert isinstance(head, PooledLinear)
    if not targets.has_target.any():
        raise TrainingError(f"none of the {len(targets)} training rows has a target")
    # Threads on small matrices wait for each other longer than they compute.
    with threadpool_limits(limits=1 if len(positions) <= MOST_ROWS_OF_ALL_FOLDS else None):
        return _fit(
            head, tables, positions, _inner_folds(corpus, seed), targets, seed, every_row, should_stop
        )


def _fit(
    head: PooledLinear,
    tables: Sequence[PooledTable],
    positions: NDArray[np.int64],
    groups: NDArray[np.int64] | None,
    targets: LabelledRows,
    seed: int,
    every_row: bool,
    should_stop: ShouldStop,
) -> Solution:
    statistics = [_standardization(table, positions) for table in tables]
    rows = PooledRows(tables, positions, statistics, [np.ones(table.values.shape[1:3]) for table in tables])
    shares = _block_shares(head, rows, targets, groups, seed, should_stop)
    if len(positions) > DUAL_ROWS and head.learn_blocks:
        shares = _largest(shares, [table.values.shape[3] for table in tables])
    scales = [np.sqrt(share / table.values.shape[3]) for share, table in zip(shares, tables, strict=True)]
    scaled = PooledRows(tables, positions, statistics, scales)
    search = PenaltySearch(scaled, groups, should_stop)
    penalties = (head.penalty,) if head.penalty else PENALTIES
    classes = _fit_classes(head, search, targets, penalties, every_row=every_row)
    attributes = _fit_attributes(search, targets, penalties, every_row=every_row)
    head.set_solution(
        [(_flat(mean), _flat(scale)) for mean, scale in statistics],
        shares=[torch.from_numpy(share) for share in shares],
        classes=_as_tensors(classes.model, scaled),
        attributes=_as_tensors(attributes.model, scaled),
    )
    left_out = np.concatenate([classes.left_out, attributes.left_out], axis=1)  # (N, C + A)
    scored = np.flatnonzero(np.isfinite(left_out).all(axis=1) & targets.truth.is_scored)
    score = math.nan
    if len(scored):
        score = targets.truth.take(scored).score(classes.left_out[scored], attributes.left_out[scored])
    return Solution(score, classes.penalty, left_out)


@torch.no_grad()
def apply_to_tables(head: Head, tables: Sequence[PooledTable], positions: NDArray[np.int64]) -> HeadOutput:
    """Return a fitted head's outputs for utterances whose statistics are pooled already.

    Args:
        head: fitted.
        tables: of its statistics, one per feature set.
        positions: ``(N,)`` of the utterances in the tables.
    """
    assert isinstance(head, PooledLinear)
    statistics = []
    for index, table in enumerate(tables):
        values = torch.from_numpy(table.values[positions]).flatten(1)  # (N, S * L * D)
        present = torch.from_numpy(table.present[positions])
        statistics.append(head.standardized(index, values, present))
    return head.classify(torch.cat(statistics, dim=1))


@dataclass(frozen=True)
class _Fitted:
    """A model, its outputs for left-out rows ``(N, Q)``, and the chosen penalty."""

    model: LinearModel
    left_out: Floats
    penalty: float = math.nan


def _fit_classes(
    head: PooledLinear,
    search: PenaltySearch,
    targets: LabelledRows,
    penalties: Sequence[float],
    *,
    every_row: bool,
) -> _Fitted:
    """Return the model of the class logits; zeros where no row has a class target."""
    known = np.asarray(np.isfinite(targets.soft).all(axis=1))
    if not known.any() or not targets.soft.shape[1]:
        return _Fitted(_zero_model(search, targets.soft), np.zeros_like(targets.soft))
    soft = np.where(known[:, None], targets.soft, 0.0)  # (N, C)
    weights = np.where(known, soft @ class_weights(targets.soft, head.balance), 0.0)  # (N,)
    weights *= known.sum() / weights.sum()  # a mean of 1, so that penalties mean the same
    fit: Fit = ridge if head.method == "ridge" else logistic
    goals = 2 * soft - 1 if head.method == "ridge" else soft
    scores = search.left_out(fit, goals, weights, penalties)
    held = known & ~np.isnan(scores).any(axis=(0, 2))
    if not held.any():
        penalty = penalties[0] if len(penalties) == 1 else _USUAL_PENALTY[head.method]
        scale, left_out = _USUAL_SCALE[head.method], scores[0]
    else:
        scaled = [_best_scale(candidate[held], soft[held]) for candidate in scores]
        chosen = int(np.argmin([loss for _, loss in scaled]))
        penalty, scale, left_out = penalties[chosen], scaled[chosen][0], scores[chosen]
        if every_row and np.isnan(left_out).any():
            left_out = search.left_out(fit, goals, weights, [penalty], every_row=True)[0]
    model = search.fit(fit, goals, weights, penalty)
    scaled_model = LinearModel(model.weights * scale, model.intercept * scale)
    return _Fitted(scaled_model, left_out * scale, penalty)


def _fit_attributes(
    search: PenaltySearch, targets: LabelledRows, penalties: Sequence[float], *, every_row: bool
) -> _Fitted:
    """Return a ridge regression on each attribute, from the rows that are rated."""
    model, left_out = _zero_model(search, targets.attributes), np.full_like(targets.attributes, np.nan)
    for index, values in enumerate(targets.attributes.T):
        rated = np.isfinite(values)
        if not rated.any():
            left_out[:, index] = 0.0
            continue
        goals, weights = np.where(rated, values, 0.0)[:, None], rated.astype(np.float64)
        scores = search.left_out(ridge, goals, weights, penalties)[:, :, 0]  # (penalties, N)
        held = rated & ~np.isnan(scores).any(axis=0)
        chosen = 0
        if held.any():
            chosen = int(np.argmin(np.square(scores[:, held] - values[held]).mean(axis=1)))
        elif len(penalties) > 1:
            chosen = int(np.argmin(np.abs(np.asarray(penalties) - _USUAL_PENALTY["ridge"])))
        left_out[:, index] = scores[chosen]
        if every_row and held.any() and np.isnan(scores).any():
            chosen_only = [penalties[chosen]]
            left_out[:, index] = search.left_out(ridge, goals, weights, chosen_only, every_row=True)[0, :, 0]
        solved = search.fit(ridge, goals, weights, penalties[chosen])
        model.weights[:, index], model.intercept[index] = solved.weights[:, 0], solved.intercept[0]
    return _Fitted(model, left_out)


def _zero_model(search: PenaltySearch, targets: Floats) -> LinearModel:
    return LinearModel(np.zeros((search.rows.shape[1], targets.shape[1])), np.zeros(targets.shape[1]))


def _standardization(table: PooledTable, positions: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return mean and scale ``(S, L, D)`` of the rows that are present; constant features have scale 0."""
    present = positions[table.present[positions]]
    shape = table.values.shape[1:]
    total, squares = np.zeros(shape), np.zeros(shape)
    for _, values in table.blocks(present):
        total += values.sum(axis=0, dtype=np.float64)
    mean = total / max(1, len(present))
    for _, values in table.blocks(present):
        squares += np.square(values - mean).sum(axis=0)
    deviation = np.sqrt(squares / max(1, len(present)))
    varies = deviation > 1e-6 * np.maximum(np.abs(mean), 1e-3)
    return mean, np.divide(1.0, deviation, out=np.zeros(shape), where=varies)


def _block_shares(
    head: PooledLinear,
    rows: PooledRows,
    targets: LabelledRows,
    groups: NDArray[np.int64] | None,
    seed: int,
    should_stop: ShouldStop,
) -> list[Floats]:
    """Return of each feature set how much its statistics and layers count, ``(S, L)``; in all 1."""
    shapes = [table.values.shape[1:3] for table in rows.tables]
    equal = [np.full(shape, 1 / (len(shapes) * np.prod(shape))) for shape in shapes]
    goals = targets.soft if targets.soft.shape[1] else _thirds(targets.attributes)
    known = np.flatnonzero(~np.isnan(goals).any(axis=1))
    if groups is None or not head.learn_blocks or not len(known) or sum(map(np.prod, shapes)) < 2:
        return equal
    sample = np.sort(np.random.default_rng(seed).permutation(known)[:_BLOCK_ROWS])
    if len(np.unique(groups[sample])) < 2:
        return equal
    grams, sets = [], []
    for index, table in enumerate(rows.tables):
        refuse_to_go_on(should_stop)
        values, everything = table.values[rows.rows[sample]], np.ones(shapes[index], np.bool_)
        scaled = rows.scaled(index, rows.rows[sample], values, everything).astype(np.float32)
        blocks = scaled.transpose(1, 0, 2)  # (S * L, n, D)
        grams.append(blocks @ blocks.transpose(0, 2, 1) / values.shape[3])  # (S * L, n, n)
        sets += [index] * len(blocks)
    shares = learn_block_weights(
        np.concatenate(grams), goals[sample], groups[sample], np.asarray(sets), should_stop=should_stop
    )
    refuse_to_go_on(should_stop)
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(shares, ends), shapes, strict=True)]


def _largest(shares: Sequence[Floats], dims: Sequence[int]) -> list[Floats]:
    """Return the shares ``(S, L)`` of the blocks that count most, of :data:`_MOST_FEATURES`; 0 elsewhere.

    Where rows are many the features' Gram matrix is what costs.
    """
    flat = np.concatenate([share.ravel() for share in shares])
    sizes = np.repeat(dims, [share.size for share in shares])
    order = np.argsort(-flat, kind="stable")
    kept = order[np.cumsum(sizes[order]) <= max(_MOST_FEATURES, sizes[order[0]])]
    limited = np.zeros_like(flat)
    limited[kept] = flat[kept] / flat[kept].sum()
    ends = np.cumsum([share.size for share in shares])[:-1]
    return [part.reshape(share.shape) for part, share in zip(np.split(limited, ends), shares, strict=True)]


def _thirds(attributes: Floats) -> Floats:
    """Return whether a row's attributes are low, middle or high on average, ``(N, 3)``; NaN where unrated."""
    rated = np.isfinite(attributes)
    counts = rated.sum(axis=0).clip(1)
    mean = np.where(rated, attributes, 0.0).sum(axis=0) / counts
    centred = np.where(rated, attributes - mean, 0.0)
    deviation = np.sqrt(np.square(centred).sum(axis=0) / counts)
    scores = (centred / np.where(deviation > 0, deviation, 1.0)).sum(axis=1)
    known = rated.any(axis=1)
    thirds = np.full((len(attributes), 3), np.nan)
    if known.any():
        bounds = np.quantile(scores[known], [1 / 3, 2 / 3])
        thirds[known] = np.eye(3)[np.searchsorted(bounds, scores[known])]
    return thirds


def _inner_folds(corpus: Corpus, seed: int) -> NDArray[np.int64] | None:
    """Return the inner fold of each row, ``(N,)``, speakers kept apart; None with one speaker."""
    speakers = len({row.speaker for row in corpus.utterances})
    if speakers < 2:
        return None
    count = _INNER_FOLDS if len(corpus) <= MOST_ROWS_OF_ALL_FOLDS else _INNER_FOLDS + 1
    return assign_folds(corpus, min(count, speakers), seed).of(corpus.ids)


def _best_scale(scores: Floats, soft: Floats) -> tuple[float, float]:
    """Return by what scores ``(N, C)`` are multiplied to have the least cross-entropy, and that."""

    def loss(logarithm: float) -> float:
        return -float((soft * log_softmax(np.exp(logarithm) * scores)).sum(axis=1).mean())

    found = minimize_scalar(loss, bounds=(-3.0, 5.0), method="bounded")
    return float(np.exp(found.x)), float(found.fun)


def _flat(values: Floats) -> torch.Tensor:
    return torch.from_numpy(values.ravel())


def _as_tensors(model: LinearModel, rows: PooledRows) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights ``(Q, P)`` over standardised statistics, and the intercept ``(Q,)``."""
    return torch.from_numpy(rows.unscaled(model.weights).T.copy()), torch.from_numpy(model.intercept)
