"""The stackers by name, reading a fitted one, and checking all names in a recipe."""

from pathlib import Path

from sercache.errors import RecipeError, SercacheError, StackingError
from sercache.evaluation.calibration.registry import CALIBRATORS
from sercache.heads.registry import HEADS
from sercache.recipe import Recipe
from sercache.registry import Registry
from sercache.stacking.base import SavedStacker, Stacker
from sercache.stacking.names import BASELINES, META_LEVELS
from sercache.training.losses import ATTRIBUTE_LOSSES, CLASS_LOSSES, CLASS_WEIGHTINGS

STACKERS: Registry[type[Stacker]] = Registry("stacker", META_LEVELS | BASELINES, StackingError)


def needs_classes(name: str) -> bool:
    """Return whether a stacker is defined for classes only.

    Raises:
        StackingError: there is no such stacker.
    """
    return STACKERS[name].needs_classes


def load_stacker(folder: Path) -> Stacker:
    """Read a fitted stacker of any kind.

    Raises:
        StackingError: the folder holds none, or a file of it is damaged.
    """
    return STACKERS[SavedStacker.read(folder).name].load(folder)


def check_recipe_names(recipe: Recipe) -> None:
    """Look up heads, losses, class weightings, stackers and the calibration in their registries.

    Raises:
        RecipeError: a name is not known; states its key and the nearest known name.
    """
    for member in recipe.members:
        settings = recipe.training_of(member)
        try:
            HEADS.check(member.head)
            CLASS_LOSSES.check(settings.class_loss)
            ATTRIBUTE_LOSSES.check(settings.attribute_loss)
            CLASS_WEIGHTINGS.check(settings.class_weighting)
        except SercacheError as error:
            raise RecipeError(f"member '{member.name}': {error}") from None
    try:
        for stacker in recipe.stacking.stackers:
            STACKERS.check(stacker)
        CALIBRATORS.check(recipe.stacking.calibration)
    except SercacheError as error:
        raise RecipeError(f"stacking: {error}") from None
