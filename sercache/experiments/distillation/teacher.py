"""What a run's stacker says of the rows that a student learns from, and of those both are judged on."""

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
from sercache.stacking.splits import Plan, make_plan
from sercache.stacking.task import StackerResult, earlier_result, input_digest

BEST_SINGLE = "best-single"


@dataclass(frozen=True)
class Spoken:
    """What one stacker says of the judged rows, and whom it asks.

    Attributes:
        name: of the stacker.
        posteriors: of the judged rows; by the members' own folds where folds take turns.
        members: those that count in it.
    """

    name: str
    posteriors: Posteriors
    members: tuple[str, ...]


@dataclass(frozen=True)
class Teacher:
    """A stacker with its word on all rows.

    Attributes:
        said: of the judged rows.
        lessons: of the training rows, each by stackers and members that did not learn from it.
        best_single: the best single member's word on the judged rows.
        judged: the truth of the judged rows.
        judged_on: ``held-out`` rows, or the ``folds`` in turn.
    """

    said: Spoken
    lessons: Posteriors
    best_single: Spoken
    judged: StackingRows
    judged_on: Literal["held-out", "folds"]

    @property
    def name(self) -> str:
        """Of the stacker."""
        return self.said.name


def find_teacher(run: Run, name: str | None = None, context: Context = QUIET) -> Teacher:
    """Read what a stacker of a run's comparison says.

    A lesson is cross-fitted at both levels: the members that judged a row never saw its speaker, nor did the
    stacker that weighed them. With a test split the lessons of a stacker that was not recommended are made
    now.

    Args:
        run: that was stacked.
        name: of the stacker; None is the one that the comparison recommends.
        context: receives events, and says when to stop.

    Raises:
        StackingError: the run was not stacked, or since then its members or settings have changed; or members
            trained on rows that they judge.
        Interrupted: ``context.should_stop`` returned True.
    """
    recipe = run.recipe()
    chosen = _recommended(run)
    name = name or chosen
    STACKERS[name]
    plan = make_plan(load_rows(run, listener=context.listener), recipe.stacking.repeats, recipe.seed)
    result = _result(run, recipe, plan, name)
    if plan.held_out is None:
        lessons = result.posteriors[0]
    else:
        folder = run.stacker_folder(name) / CROSS_FITTED_NAME
        in_turn = cross_fitted(plan, name, recipe.stacking, recipe.seed, folder, context)
        lessons = in_turn.posteriors[0]
    members = plan.fitting.inputs.members
    return Teacher(
        said=_spoken(result, members),
        lessons=lessons,
        best_single=_spoken(_result(run, recipe, plan, BEST_SINGLE), members),
        judged=plan.judged,
        judged_on="folds" if plan.held_out is None else "held-out",
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
            f"{run.root}: members were judged on rows they trained on; nothing is to be learned"
        )
    return choice


def _result(run: Run, recipe: Recipe, plan: Plan, name: str) -> StackerResult:
    digest = input_digest(name, plan.digest(), recipe.stacking, recipe.seed)
    result = earlier_result(name, digest, run.stacker_folder(name), plan.repeats)
    if result is None:
        raise StackingError(
            f"{run.root}: there is no '{name}' of these members and settings; "
            f"sercache stack {run.root} makes one if the recipe's stackers have it"
        )
    return result


def _spoken(result: StackerResult, members: tuple[str, ...]) -> Spoken:
    counted = tuple(member for member in members if result.shares.get(member, 0.0) != 0.0)
    return Spoken(result.name, result.posteriors[0], counted or members)
