"""What a search may change about a member: ranges and choices under the recipe's dotted keys.

A key begins with ``options``, ``training`` or ``targets``, the sections that a member has of its own::

    training.stage1.learning_rate: {low: 1.0e-5, high: 1.0e-2, log: true}
    training.patience: {low: 4, high: 16, step: 4}
    options.width: {choices: [32, 64, 128]}
"""

import copy
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sercache.errors import RecipeError, did_you_mean
from sercache.recipe import MemberRecipe, Recipe, yaml_problem
from sercache.validation import in_words

Setting = int | float | str | bool
Settings = Mapping[str, Setting]

_SECTIONS = ("options", "training", "targets")
_HEADS = "attention_heads"
"""The option of heads that must divide their width."""

_SIZES = ("width", "feedforward", "bottleneck")
"""Options of heads that are numbers of units."""


class Dimension(BaseModel):
    """The values that one key may take: a range, or a list.

    A range whose bounds and ``step`` are whole numbers has whole numbers only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = Field(None, gt=0)
    choices: list[Setting] | None = None

    @model_validator(mode="after")
    def _is_one_or_the_other(self) -> "Dimension":
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.step is not None or self.log:
                raise ValueError("give either choices, or low and high")
            if len(set(map(repr, self.choices))) < max(2, len(self.choices)):
                raise ValueError("choices must be two or more, all different")
            return self
        if self.low is None or self.high is None:
            raise ValueError("give low and high, or choices")
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log range must begin above 0, not at {self.low:g}")
        if self.log and self.step is not None and not (self.is_whole and self.step == 1):
            raise ValueError("a log range can have no step but 1, for whole numbers")
        if self.step is not None and abs((self.high - self.low) / self.step % 1 - 0.5) < 0.5 - 1e-6:
            raise ValueError(f"high {self.high:g} is not low {self.low:g} plus some steps of {self.step:g}")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether the range has whole numbers only."""
        bounds = (self.low, self.high, self.step)
        return all(bound is not None and bound.is_integer() for bound in bounds)

    @property
    def probes(self) -> tuple[Setting, ...]:
        """Values that show whether a key can take what the dimension has: the ends and one between."""
        if self.choices is not None:
            return tuple(self.choices)
        assert self.low is not None
        assert self.high is not None
        if self.is_whole:
            return int(self.low), int(self.high)
        between = self.low + (self.step or 0.382 * (self.high - self.low))
        return self.low, between, self.high


Space = Mapping[str, Dimension]


def load_space(path: Path) -> dict[str, Dimension]:
    """Read a search space: a YAML file of dotted keys.

    Raises:
        RecipeError: the file is missing, not YAML, or not such a mapping; the first problem is named.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot read the search space ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid YAML ({yaml_problem(error)})") from error
    if not isinstance(loaded, dict) or not loaded:
        raise RecipeError(
            f"{path}: a search space is a mapping such as 'training.batch_size: {{choices: [16, 32]}}'"
        )
    return {str(key): _dimension(f"{path}: {key}", value) for key, value in loaded.items()}


def default_space(
    recipe: Recipe, member: MemberRecipe, *, has_attributes: bool, has_classes: bool = True
) -> dict[str, Dimension]:
    """Return what is worth searching for a member; every range holds the member's present setting.

    Of the two loss weights only one is there: Adam's steps do not depend on the loss's scale, so that only
    their ratio counts.

    Args:
        recipe: that has the member.
        member: whose settings the ranges surround.
        has_attributes: whether the corpus has attributes to learn.
        has_classes: whether it has classes; without, class balance and loss weights change nothing.

    Raises:
        RecipeError: no such head.
    """
    settings = recipe.training_of(member)
    space: dict[str, Dimension] = {}

    def add(key: str, low: float, high: float, current: float, log: bool = False) -> None:
        if log and current <= 0:
            return
        space[key] = Dimension(low=min(low, current), high=max(high, current), log=log)

    if settings.stage1.epochs:
        add("training.stage1.learning_rate", 1e-5, 1e-2, settings.stage1.learning_rate, log=True)
        if has_classes:
            add("training.balance_exponent", 0.0, 1.0, settings.balance_exponent)
    if settings.stage2.epochs:
        add("training.stage2.learning_rate", 1e-6, 1e-2, settings.stage2.learning_rate, log=True)
    space["training.batch_size"] = _sizes_around(settings.batch_size)
    add("training.weight_decay", 1e-4, 0.3, settings.weight_decay, log=True)
    if has_attributes and has_classes and settings.class_weight and settings.attribute_weight:
        add("training.attribute_weight", 0.0, 2.0, settings.attribute_weight)
    add("training.mixup.probability", 0.0, 1.0, settings.mixup.probability)
    add("training.mixup.alpha", 0.1, 2.0, settings.mixup.alpha, log=True)
    options = _options_of(member.head)
    for name, default in options.items():
        current = member.options.get(name, default)
        if isinstance(current, bool):
            space[f"options.{name}"] = Dimension(choices=[False, True])
        elif name in _SIZES and isinstance(current, int):
            heads = member.options.get(_HEADS, options.get(_HEADS, 1)) if name == "width" else 1
            space[f"options.{name}"] = _sizes_around(current, int(heads))
        elif name == "dropout" and isinstance(current, int | float):
            add("options.dropout", 0.0, 0.5, current)
    return space


def check_space(recipe: Recipe, member: MemberRecipe, space: Space, layers: Sequence[int]) -> None:
    """Make sure that the member has every key of the space and can take its values, each for itself.

    Args:
        recipe: that has the member.
        member: whose settings the space is of.
        space: by dotted key.
        layers: how many layers each of its feature sets keeps.

    Raises:
        RecipeError: a key that there is not, an option that the head does not have, or a value of the wrong
            kind; the first is named.
    """
    if not space:
        raise RecipeError("the search space is empty: there is nothing to search")
    known = [f"{section}.{key}" for section, keys in _known_keys(recipe, member).items() for key in keys]
    for key, dimension in space.items():
        section, _, rest = key.partition(".")
        if section not in _SECTIONS or not rest:
            raise RecipeError(
                f"search space: unknown key '{key}' (a key is options.X, training.X or targets.X)."
                f"{did_you_mean(key, known)}"
            )
        for value in dimension.probes:
            try:
                _check_member(recipe, with_settings(member, {key: value}), layers)
            except (RecipeError, ValueError) as error:
                hint = ""
                if isinstance(value, float) and not value.is_integer() and "whole number" in str(error):
                    hint = "; a range of whole numbers has a step, such as step: 1"
                raise RecipeError(f"search space: '{key}' = {value!r}: {error}{hint}") from None


def with_settings(member: MemberRecipe, settings: Settings) -> MemberRecipe:
    """Return the member with ``settings`` over its own; all other settings stay."""
    sections = {section: copy.deepcopy(dict(getattr(member, section))) for section in _SECTIONS}
    for key, value in settings.items():
        *path, last = key.split(".")
        node: dict[str, Any] = sections
        for part in path:
            if not isinstance(node.get(part), dict):
                node[part] = {}
            node = node[part]
        node[last] = value
    return member.model_copy(update=sections)


def _dimension(where: str, value: Any) -> Dimension:
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: give {{low: ..., high: ...}} or {{choices: [...]}}, not {value!r}")
    try:
        return Dimension.model_validate(value)
    except ValidationError as error:
        problem = error.errors()[0]
        node = ".".join(str(part) for part in problem["loc"][:1])
        if problem["type"] == "extra_forbidden":
            message = f"unknown key '{node}'.{did_you_mean(node, Dimension.model_fields)}"
        else:
            message = f"{node}: {in_words(problem)}" if node else in_words(problem)
        raise RecipeError(f"{where}: {message}") from None


def _check_member(recipe: Recipe, member: MemberRecipe, layers: Sequence[int]) -> None:
    """Raise unless the settings are of the recipe's types and the head can be built with its options."""
    import torch

    from sercache.heads.registry import build_head

    recipe.training_of(member)
    recipe.targets_of(member)
    with torch.device("meta"):  # shapes only: a wide head costs no memory here
        build_head(member.head, [1] * len(layers), 2, [], member.options, 0, layers)


def _known_keys(recipe: Recipe, member: MemberRecipe) -> dict[str, list[str]]:
    sections = {
        "training": recipe.training_of(member).model_dump(),
        "targets": recipe.targets_of(member).model_dump(),
    }
    dotted = {name: list(_dotted(content)) for name, content in sections.items()}
    return {"options": list(_options_of(member.head)), **dotted}


def _dotted(content: Mapping[str, Any]) -> list[str]:
    keys = []
    for name, value in content.items():
        inner = _dotted(value) if isinstance(value, dict) else []
        keys.extend([f"{name}.{key}" for key in inner] or [name])
    return keys


def _options_of(head: str) -> dict[str, Any]:
    """Return the options of a head with their defaults."""
    from sercache.heads.registry import HEADS

    parameters = inspect.signature(HEADS[head]).parameters.values()
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def _sizes_around(current: int, divisor: int = 1) -> Dimension:
    """Return the powers of two around a size, its half and double, and itself; multiples of ``divisor``."""
    nearest = 1 << max(0, current.bit_length() - 1)
    around = {max(1, nearest // 2), nearest, 2 * nearest}
    if any(size % divisor for size in around):
        around = {size for size in (current // 2, 2 * current) if size and size % divisor == 0}
    return Dimension(choices=sorted(around | {current}))
