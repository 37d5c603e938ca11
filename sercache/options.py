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


def settings_of(pairs: Sequence[str]) -> dict[str, Any]:
    """Return the nested settings of pairs like ``stage1.epochs=20``; a dot goes one level down.

    >>> settings_of(["stage1.epochs=20", "stage1.learning_rate=1e-3", "standardize=false"])
    {'stage1': {'epochs': 20, 'learning_rate': 0.001}, 'standardize': False}

    Raises:
        RecipeError: one is no such pair.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        *sections, last = (part.strip() for part in key.split("."))
        if not equals or not last or not all(sections):
            raise RecipeError(f"'{pair}': expected KEY=VALUE, such as stage1.epochs=20")
        node = settings
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise RecipeError(f"'{pair}': '{section}' was given a value before")
        node[last] = _value_of(text)
    return settings


def _value_of(text: str) -> Any:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
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
