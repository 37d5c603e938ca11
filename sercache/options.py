"""Options that a recipe gives to something in a registry: checked before anything is built."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import yaml

from sercache.errors import RecipeError, did_you_mean

Options = Mapping[str, int | float | str | bool]

_WANTED = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def check_options(
    owner: str,
    function: Callable[..., object],
    options: Options,
    common: Mapping[str, type] = MappingProxyType({}),
) -> None:
    """Check that a class or function has these options and that their values are of the annotated types.

    Args:
        owner: whose options they are, for the message, such as ``head 'deepser'``.
        function: whose keyword-only arguments are the options.
        options: as a recipe gives them.
        common: options that are not the function's own, and their types.

    Raises:
        RecipeError: an option that there is not, or a value of another type.
    """
    parameters = inspect.signature(function).parameters.values()
    specific = {
        parameter.name: parameter.annotation
        for parameter in parameters
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    known = {**specific, **common}
    for option, value in options.items():
        if option not in known:
            listed = ", ".join(known) or "none"
            raise RecipeError(
                f"{owner} has no option '{option}' (options: {listed}).{did_you_mean(option, known)}"
            )
        wanted = known[option]
        if wanted in _WANTED and not _is_a(value, wanted):
            raise RecipeError(f"{owner}: option '{option}' must be {_WANTED[wanted]}, not {value!r}")


def settings_of(pairs: Sequence[str], option: str = "") -> dict[str, Any]:
    """Return what pairs like ``stage1.epochs=20`` set, as a recipe would have it; a dot goes one level down.

    Args:
        pairs: as they were written; of two values for a key the later counts.
        option: the option that they are of, for messages: ``--set``.

    >>> settings_of(["stage1.epochs=20", "stage1.learning_rate=1e-3", "standardize=false"])
    {'stage1': {'epochs': 20, 'learning_rate': 0.001}, 'standardize': False}

    Raises:
        RecipeError: a pair is not of that form, its value is not YAML, or a key has a value
            and keys below it.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        where = f"{option} {pair}" if option else f"'{pair}'"
        key, equals, text = pair.partition("=")
        names = [name.strip() for name in key.split(".")]
        if not equals or not all(names):
            raise RecipeError(f"{where}: expected KEY=VALUE, such as stage1.epochs=20")
        *sections, last = names
        target = settings
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise RecipeError(f"{where}: '{section}' was given a value before")
        value = _value_of(text, where)
        if isinstance(target.get(last), dict) and not isinstance(value, dict):
            raise RecipeError(f"{where}: keys of '{last}' were given values before")
        target[last] = value
    return settings


def _value_of(text: str, where: str) -> Any:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        raise RecipeError(f"{where}: '{text}' is not a value") from None
    except ValueError:  # what looks like a date and is none
        return text
    if not isinstance(found, str):
        return found
    try:
        return float(found)  # YAML takes 1e-3 for a word
    except ValueError:
        return found


def _is_a(value: object, wanted: type) -> bool:
    if isinstance(value, bool):
        return wanted is bool
    return isinstance(value, (int, float) if wanted is float else wanted)
