"""What a head's options may be: checked before anything is built, so that a wrong one is one clear line."""

import inspect
from collections.abc import Callable, Mapping

from sercache.errors import RecipeError, did_you_mean

HeadOptions = Mapping[str, int | float | str | bool]

_WANTED = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def check_options(
    name: str, head_class: Callable[..., object], options: HeadOptions, common: Mapping[str, type]
) -> None:
    """Check that a head has these options and that their values are of the annotated types.

    Args:
        name: the head's, for the message.
        head_class: whose keyword-only arguments are its options.
        options: as a recipe gives them.
        common: options that are not the head's own, and their types.

    Raises:
        RecipeError: an option that the head does not have, or a value of another type.
    """
    parameters = inspect.signature(head_class).parameters.values()
    own = {one.name: one.annotation for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}
    known = {**own, **common}
    for option, value in options.items():
        if option not in known:
            listed = ", ".join(known) or "none"
            raise RecipeError(
                f"head '{name}' has no option '{option}' (options: {listed}).{did_you_mean(option, known)}"
            )
        wanted = known[option]
        if wanted in _WANTED and not _is_a(value, wanted):
            raise RecipeError(f"head '{name}': option '{option}' must be {_WANTED[wanted]}, not {value!r}")


def require_positive(**options: int) -> None:
    """Raise ValueError, naming the option, unless all are 1 or more."""
    for option, value in options.items():
        if value < 1:
            raise ValueError(f"{option} must be at least 1, not {value}")


def require_dropout(dropout: float) -> None:
    """Raise ValueError unless ``dropout`` leaves something: 0 or more and below 1."""
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, not {dropout}")


def _is_a(value: object, wanted: type) -> bool:
    if isinstance(value, bool):
        return wanted is bool
    return isinstance(value, (int, float) if wanted is float else wanted)
