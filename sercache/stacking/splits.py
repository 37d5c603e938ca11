"""Which rows the stackers of a comparison are fitted on, and which they are scored on."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sercache.corpus.folds import assign_folds
from sercache.errors import CorpusError, StackingError
from sercache.events import Event, Listener, ignore
from sercache.posteriors import ALL_FOLDS
from sercache.seeds import derive_seed
from sercache.stacking.rows import RowIndex, StackingRows

Assignment = NDArray[np.int64]
"""The fold of each fitting row, ``(N,)``."""

_TRIES_PER_REPEAT = 5
"""Folds with classes spread evenly are much alike: some seeds give an assignment that exists already."""


@dataclass(frozen=True)
class Round:
    """One fit and the rows it is scored on.

    Attributes:
        repeat: which assignment of speakers to folds.
        fold: whose rows are scored; ``ALL_FOLDS`` for the held-out rows.
        fit: rows to fit on.
        scored: rows to predict and score; no speaker is in both.
        indices: where these are among :attr:`Splits.scored`.
    """

    repeat: int
    fold: int
    fit: StackingRows
    scored: StackingRows
    indices: RowIndex


@dataclass(frozen=True)
class Splits:
    """The rows that stackers are fitted on, and those that they are scored on, round by round.

    With held-out rows there is one round: fit on all ``fitting`` rows, score the held-out ones. Without, the
    folds take turns: fit on the rows of the others, score those of this one, so that no stacker, and no early
    stopping in it, has seen a speaker it is scored on. That is done once for each assignment of speakers to
    folds, so that no lucky assignment decides.

    Attributes:
        fitting: out-of-fold rows.
        held_out: rows of the test split; None for folds in turn.
        assignments: of the fitting rows to folds, the members' own first.
    """

    fitting: StackingRows
    held_out: StackingRows | None
    assignments: tuple[Assignment, ...]

    @property
    def scored(self) -> StackingRows:
        """All scored rows."""
        return self.fitting if self.held_out is None else self.held_out

    @property
    def repeats(self) -> int:
        """How often each scored row is predicted."""
        return len(self.assignments) if self.held_out is None else 1

    @property
    def num_rounds(self) -> int:
        """How many :meth:`rounds` there are."""
        if self.held_out is not None:
            return 1
        return sum(len(np.unique(assignment)) for assignment in self.assignments)

    def rounds(self) -> Iterator[Round]:
        """Yield the rounds, repeat by repeat."""
        if self.held_out is not None:
            all_rows = np.arange(len(self.held_out), dtype=np.int64)
            yield Round(0, ALL_FOLDS, self.fitting, self.held_out, all_rows)
            return
        for repeat in range(self.repeats):
            yield from self.folds_in_turn(repeat)

    def folds_in_turn(self, repeat: int = 0) -> Iterator[Round]:
        """Yield a round for each fold of the fitting rows, whether or not there are held-out rows."""
        assignment = self.assignments[repeat]
        for fold in np.unique(assignment).tolist():
            rows = np.flatnonzero(assignment == fold).astype(np.int64)
            yield Round(repeat, fold, self.fitting.where(assignment != fold), self.fitting.take(rows), rows)

    def digest(self) -> str:
        """Return a digest of everything the results follow from, apart from settings and seed."""
        hashed = hashlib.sha256(self.fitting.digest().encode())
        if self.held_out is not None:
            hashed.update(self.held_out.digest().encode())
        for assignment in self.assignments:
            hashed.update(assignment.tobytes())
        return hashed.hexdigest()


def make_splits(rows: StackingRows, repeats: int = 1, seed: int = 0, listener: Listener = ignore) -> Splits:
    """Return which rows stackers are fitted on and which they are scored on.

    Out-of-fold rows (and in-sample ones, where they were let in) are fitted on. Held-out rows are scored; if
    none counts in the primary score, the folds take turns. Development rows are left out: they stopped the
    members' training.

    Args:
        rows: of all origins.
        repeats: how many assignments of speakers to folds there are where folds take turns.
        seed: of all assignments but the first, which is the members' own.
        listener: receives a note on what is left out.

    Raises:
        StackingError: there are no rows to fit on, or no folds to take turns.
    """
    fitting = rows.where(np.isin(rows.origins, ["out-of-fold", "in-sample"]))
    if not len(fitting):
        raise StackingError(
            "there are no out-of-fold rows to fit a stacker on: the corpus needs a training split"
        )
    needs = rows.truth.primary.needs
    if not fitting.truth.is_scored.any():
        raise StackingError(f"none of the {len(fitting)} out-of-fold rows has {needs}")
    development = int((rows.origins == "development").sum())
    if development:
        _note(listener, f"{development} development rows are left out: they stopped the members' training")
    held_out = rows.where(rows.origins == "held-out")
    if held_out.truth.is_scored.any():
        return Splits(fitting, held_out, (fitting.folds,))
    if len(held_out):
        _note(listener, f"none of the {len(held_out)} held-out rows has {needs}: folds take turns")
    folds = np.unique(fitting.folds)
    if ALL_FOLDS in folds or len(folds) < 2:
        raise StackingError(
            f"stackers cannot take turns over {len(folds)} fold(s): the rows to fit on need at least two, "
            "or the corpus a test split"
        )
    return Splits(fitting, None, _assignments(fitting, len(folds), repeats, seed))


def _assignments(fitting: StackingRows, count: int, repeats: int, seed: int) -> tuple[Assignment, ...]:
    """Return the members' folds and other ones; with few speakers there may be fewer that differ."""
    found = {_partition(fitting.folds): fitting.folds}
    for attempt in range(_TRIES_PER_REPEAT * (repeats - 1)):
        if len(found) == repeats:
            break
        try:
            folds = assign_folds(fitting.corpus, count, derive_seed(seed, "stacking-folds", attempt))
        except CorpusError:  # fewer speakers are named than there are folds
            break
        other = folds.of(fitting.inputs.ids)
        found.setdefault(_partition(other), other)
    return tuple(found.values())


def _partition(assignment: Assignment) -> bytes:
    """Return what two assignments have in common that differ in the numbers of their folds only."""
    _, first, inverse = np.unique(assignment, return_index=True, return_inverse=True)
    return first[inverse].tobytes()


def _note(listener: Listener, message: str) -> None:
    listener(Event("note", "stack", message=message))
