"""Explain pydantic's validation errors in one line: all problems, with the full paths of their keys."""

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError

_MOST_PROBLEMS = 5
_MOST_SUGGESTIONS = 3
_KINDS = {"int", "float", "str", "bool"}
"""What pydantic appends to the path of a value that may be of several kinds."""

_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping of keys to values",
    "model": "a mapping of keys to values",
    "path": "a path",
}
_BOUNDS = {
    "greater_than": ("gt", "above {}"),
    "greater_than_equal": ("ge", "{} or more"),
    "less_than": ("lt", "below {}"),
    "less_than_equal": ("le", "{} or less"),
}


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Return all problems (of very many the first five) in one line.

    Misspelt keys come first: the keys that then seem to be missing follow from them.

    Args:
        error: raised by ``model``.
        model: that has the keys to suggest.
    """
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    found = list(dict.fromkeys(_explained(problem, model) for problem in problems))
    hidden = len(found) - _MOST_PROBLEMS
    more = [f"{hidden} more problem{'s' if hidden > 1 else ''}"] if hidden > 0 else []
    return "; ".join([*found[:_MOST_PROBLEMS], *more]).replace("?; ", "? Also: ")


def in_words(problem: Any) -> str:
    """Return what is wrong with a value, without its key: ``must be 2 or more, not 1``."""
    kind, context, given = problem["type"], problem.get("ctx", {}), _given(problem.get("input"))
    if kind in _BOUNDS:
        key, wanted = _BOUNDS[kind]
        return f"must be {wanted.format(f'{context[key]:g}')}, not {given}"
    if kind == "too_short":
        least = context["min_length"]
        return "must not be empty" if least == 1 else f"must have {least} entries or more"
    if kind in ("literal_error", "enum"):
        wanted = context["expected"].replace("'", "")
        return f"must be {wanted}, not {given}"
    if kind == "string_pattern_mismatch":
        return (
            f"must begin with a letter or digit, then have letters, digits, '_', '.', '-', 64 in all, "
            f"not {given}"
        )
    for prefix, wanted in _WANTED.items():
        if kind.startswith(f"{prefix}_"):
            return f"must be {wanted}, not {given}"
    return str(problem["msg"]).removeprefix("Value error, ")


def _explained(problem: Any, model: type[BaseModel]) -> str:
    parts = [str(part) for part in problem["loc"] if part != "[key]"]
    if parts and parts[-1] in _KINDS and problem["type"].endswith(("_type", "_parsing", "_from_float")):
        return f"{'.'.join(parts[:-1])}: must be a number, a text, or true or false"
    path = ".".join(parts)
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{path}'{_suggestion(parts, model)}"
    if problem["type"] == "missing":
        return f"key '{path}' is missing"
    return f"{path}: {in_words(problem)}" if path else in_words(problem)


def _suggestion(parts: list[str], model: type[BaseModel]) -> str:
    """Return the keys of the nearest name by their full paths: those in the same section first."""
    paths = _all_paths(model)
    beside = [path for path in paths if len(path) == len(parts) and _matches(path[:-1], parts[:-1])]
    for among in (beside, paths):
        nearest = difflib.get_close_matches(parts[-1], {path[-1]: None for path in among}, n=1)
        if nearest:
            found = [path for path in among if path[-1] == nearest[0]]
            named = [f"'{'.'.join([*parts[:-1], path[-1]] if among is beside else path)}'" for path in found]
            return f". Did you mean {' or '.join(named[:_MOST_SUGGESTIONS])}?"
    return ""


def _matches(path: tuple[str, ...], parts: list[str]) -> bool:
    return all(key in (part, "*") for key, part in zip(path, parts, strict=True))


def _all_paths(model: type[BaseModel], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the path of every key; ``*`` stands for an index in a list or a name in a mapping."""
    paths: list[tuple[str, ...]] = []
    for name, described in model.model_fields.items():
        here = (*above, name)
        paths.append(here)
        annotation = described.annotation
        for part in (annotation, *getattr(annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                paths.extend(_all_paths(part, here if part is annotation else (*here, "*")))
    return paths


def _given(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
