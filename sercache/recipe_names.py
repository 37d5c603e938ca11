"""Whether every name in a recipe is known: asked before hours of extraction and training, not after them."""

from sercache.errors import RecipeError, SercacheError
from sercache.recipe import Recipe


def check_names(recipe: Recipe) -> None:
    """Look up heads, losses, class weightings, stackers and the calibration in their registries.

    Raises:
        RecipeError: one is not known; names its key and the nearest known one.
    """
    from sercache.evaluation.calibration.registry import CALIBRATORS
    from sercache.heads.registry import HEADS
    from sercache.stacking.registry import STACKERS
    from sercache.training.losses import ATTRIBUTE_LOSSES, CLASS_LOSSES, CLASS_WEIGHTINGS

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
