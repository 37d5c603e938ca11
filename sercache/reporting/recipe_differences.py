"""What differs between recipes, key by key, as people read it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sercache.recipe import Recipe

_NAMED = ("features", "members")
_NOT_COMPARED = {"output", "cache"}
ABSENT = "—"


@dataclass(frozen=True, slots=True)
class KeyDifference:
    """One key that is not the same everywhere; a value for each recipe."""

    key: str
    values: tuple[str, ...]


def recipe_differences(recipes: Sequence[Recipe]) -> tuple[KeyDifference, ...]:
    """Return the resolved keys that differ; members and feature sets are matched by name.

    Where a member or a feature set is not in every recipe, one line tells it.
    """
    flat = [_flattened(recipe.model_dump(mode="json", exclude=_NOT_COMPARED)) for recipe in recipes]
    return differing(flat)


def differing(flat: Sequence[Mapping[str, Any]]) -> tuple[KeyDifference, ...]:
    """Return the keys whose values are not the same in all mappings, in the order they come."""
    keys = dict.fromkeys(key for values_by_key in flat for key in values_by_key)
    wholly_absent = {
        key for key in keys if _is_whole(key) and any(key not in values_by_key for values_by_key in flat)
    }
    found = []
    for key in keys:
        parent = ".".join(key.split(".")[:2])
        if key != parent and parent in wholly_absent:
            continue
        values = [values_by_key.get(key, ABSENT) for values_by_key in flat]
        if _is_whole(key) and key not in wholly_absent:
            continue  # its own keys tell in what it differs
        if any(value != values[0] for value in values):
            found.append(KeyDifference(key, tuple(_words(value) for value in values)))
    return tuple(found)


def _is_whole(key: str) -> bool:
    parts = key.split(".")
    return len(parts) == 2 and parts[0] in _NAMED


def _flattened(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        key = f"{prefix}{name}"
        if name in _NAMED and not prefix:
            described_by = value if isinstance(value, dict) else {entry["name"]: entry for entry in value}
            for part_name, described in described_by.items():
                flat[f"{key}.{_safe(part_name)}"] = _summary(described)
                rest = {part: entry for part, entry in described.items() if part != "name"}
                flat |= _flattened(rest, f"{key}.{_safe(part_name)}.")
        elif isinstance(value, dict):
            flat |= _flattened(value, f"{key}.")
        else:
            flat[key] = value
    return flat


def _safe(name: str) -> str:
    """Return a name without the dot that parts keys."""
    return name.replace(".", "·")


def _summary(described: Mapping[str, Any]) -> str:
    if "head" in described:
        return f"{described['head']} on {', '.join(described['features'])}"
    return f"{described['encoder']}, layers {described['layers']}"


def _words(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
