"""Read a stacker's posteriors for the rows that a student learns from and is evaluated on."""

from dataclasses import dataclass
from typing import Literal

from sercache.errors import StackingError
from sercache.events import QUIET, Context
from sercache.files import read_json
from sercache.posteriors import Posteriors
from sercache.recipe import Recipe
from sercache.run import Run
from sercache.stacking.calibrating import CROSS_FITTED_NAME, cross_fitted
from sercache.stacking.joining import load_rows
from sercache.stacking.registry import STACKERS
from sercache.stacking.rows import StackingRows
from sercache.stacking.splits import Splits, make_splits
from sercache.stacking.task import StackerResult, earlier_result, input_digest

BEST_SINGLE = "best-single"


@dataclass(frozen=True)
class StackerPosteriors:
    """One stacker's posteriors for the evaluation rows.

    Attributes:
        name: of the stacker.
        posteriors: of the evaluation rows; out of fold where there is no test split.
        members: with weight in the stacker.
    """

    name: str
    posteriors: Posteriors
    members: tuple[str, ...]


@dataclass(frozen=True)
class Teacher:
    """A stacker with its posteriors for all rows.

    Attributes:
        predicted: the stacker's posteriors for the evaluation rows.
        targets: its posteriors for the training rows, each by models that did not learn from it.
        best_single: the posteriors of the best single member for the evaluation rows.
        evaluated: the truth of the evaluation rows.
        judged_on: ``held-out`` rows, or the ``folds`` in turn.
    """

    predicted: StackerPosteriors
    targets: Posteriors
    best_single: StackerPosteriors
    evaluated: StackingRows
    judged_on: Literal["held-out", "folds"]

    @property
    def name(self) -> str:
        """The stacker's name."""
        return self.predicted.name


def find_teacher(run: Run, name: str | None = None, context: Context = QUIET) -> Teacher:
    """Return a stacker of a run's comparison with its posteriors.

    The targets are cross-fitted at both levels: neither the members that predict a row nor the stacker that
    combines them learned from its speaker. With a test split, the targets of a stacker that was not
    recommended are computed now.

    Args:
        run: that was stacked.
        name: of the stacker; None is the one that the comparison recommends.
        context: receives events, and can stop the work.

    Raises:
        StackingError: the run was not stacked, or since then its members or settings have changed; or members
            predict rows that they were trained on.
        Interrupted: ``context.should_stop`` returned True.
    """
    recipe = run.recipe()
    chosen = _recommended(run)
    name = name or chosen
    STACKERS[name]
    splits = make_splits(load_rows(run, listener=context.listener), recipe.stacking.repeats, recipe.seed)
    result = _result(run, recipe, splits, name)
    if splits.held_out is None:
        targets = result.posteriors[0]
    else:
        folder = run.stacker_folder(name) / CROSS_FITTED_NAME
        in_turn = cross_fitted(splits, name, recipe.stacking, recipe.seed, folder, context)
        targets = in_turn.posteriors[0]
    members = splits.fitting.inputs.members
    return Teacher(
        predicted=_stacker_posteriors(result, members),
        targets=targets,
        best_single=_stacker_posteriors(_result(run, recipe, splits, BEST_SINGLE), members),
        evaluated=splits.scored,
        judged_on="folds" if splits.held_out is None else "held-out",
    )


def _recommended(run: Run) -> str:
    again = f"sercache stack {run.root}"
    if not run.metrics_path.is_file():
        raise StackingError(f"{run.root} has no stacker to learn from yet; first: {again}")
    try:
        found = read_json(run.metrics_path)
        choice, is_leaky = str(found["choice"]), bool(found["is_leaky"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise StackingError(f"{run.metrics_path}: damaged ({error!r}); {again} writes it anew") from error
    if is_leaky:
        raise StackingError(
            f"{run.root}: members predict rows that they were trained on; a student cannot learn from them"
        )
    return choice


def _result(run: Run, recipe: Recipe, splits: Splits, name: str) -> StackerResult:
    digest = input_digest(name, splits.digest(), recipe.stacking, recipe.seed)
    result = earlier_result(name, digest, run.stacker_folder(name), splits.repeats)
    if result is None:
        raise StackingError(
            f"{run.root}: there is no '{name}' of these members and settings; "
            f"sercache stack {run.root} makes one if the recipe's stackers have it"
        )
    return result


def _stacker_posteriors(result: StackerResult, members: tuple[str, ...]) -> StackerPosteriors:
    counted = tuple(member for member in members if result.shares.get(member, 0.0) != 0.0)
    return StackerPosteriors(result.name, result.posteriors[0], counted or members)
