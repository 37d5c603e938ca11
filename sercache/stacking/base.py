"""The base class of all stackers, the names that a fitted one is bound to, and how it is saved."""

import hashlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from sercache.corpus.utterance import Attribute
from sercache.errors import StackingError
from sercache.files import read_json, write_atomically, write_json
from sercache.recipe import StackingRecipe
from sercache.stacking.rows import Floats, StackingInputs, StackingRows, columns_in_order

DESCRIPTION = "stacker.json"
_FORMAT = 2


class Prediction(NamedTuple):
    """The prediction of N rows.

    Attributes:
        class_probabilities: ``(N, C)``, rows sum to 1; C is 0 of a corpus with attributes alone.
        attribute_values: ``(N, A)``, on the corpus's scale.
    """

    class_probabilities: Floats
    attribute_values: Floats


@dataclass(frozen=True)
class Signature:
    """The names that a stacker was fitted on, in the order of its weights.

    Attributes:
        members: their names.
        classes: their names.
        attributes: names and ranges.
        extras: their names.
        extra_means: of each extra over the rows that were fitted on.
        extra_deviations: the standard deviations of the same.
    """

    members: tuple[str, ...]
    classes: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    extras: tuple[str, ...] = ()
    extra_means: tuple[float, ...] = ()
    extra_deviations: tuple[float, ...] = ()

    @classmethod
    def of(cls, inputs: StackingInputs) -> "Signature":
        """Return the signature of ``inputs``."""
        scale = _means_and_deviations(inputs.extra_values)
        return cls(inputs.members, inputs.classes, inputs.attributes, inputs.extras, *scale)

    def arrange(self, inputs: StackingInputs) -> StackingInputs:
        """Return ``inputs`` in this order, with standardised extras.

        Raises:
            StackingError: the names are not the same.
        """
        arranged = inputs.arranged(self.members, self.classes, self.attributes)
        order = columns_in_order("extras", inputs.extras, self.extras)
        values = _standardised(inputs.extra_values[:, order], self.extra_means, self.extra_deviations)
        return replace(arranged, extras=self.extras, extra_values=values)


@dataclass(frozen=True)
class SavedStacker:
    """The content of a stacker's folder: files, and a description with their digests, written last.

    Attributes:
        name: of the stacker in the registry.
        signature: the names it was fitted on.
        learned: what it learned, as JSON, apart from ``files``.
        files: contents by file name.
    """

    name: str
    signature: Signature
    learned: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the files, then the description that makes them count."""
        for name, content in self.files.items():
            write_atomically(folder / name, content)
        description = {
            "format": _FORMAT,
            "stacker": self.name,
            "members": self.signature.members,
            "classes": self.signature.classes,
            "attributes": [asdict(attribute) for attribute in self.signature.attributes],
            "extras": self.signature.extras,
            "extra_means": self.signature.extra_means,
            "extra_deviations": self.signature.extra_deviations,
            "learned": self.learned,
            "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in self.files.items()},
        }
        write_json(folder / DESCRIPTION, description)

    @classmethod
    def read(cls, folder: Path, name: str | None = None) -> "SavedStacker":
        """Read a description and its files; the digest of a file is checked before anything parses it.

        Args:
            folder: of the stacker.
            name: which stacker it must be; None for any.

        Raises:
            StackingError: there is no stacker, it is another one, or a file is missing or damaged.
        """
        path = folder / DESCRIPTION
        try:
            description = read_json(path)
            if description["format"] != _FORMAT:
                raise StackingError(f"{path}: format {description['format']} is not {_FORMAT}")
            signature = Signature(
                tuple(description["members"]),
                tuple(description["classes"]),
                tuple(Attribute(**attribute) for attribute in description["attributes"]),
                *(tuple(description[key]) for key in ("extras", "extra_means", "extra_deviations")),
            )
            found, learned, digests = description["stacker"], description["learned"], description["sha256"]
            files = {file: (folder / Path(file).name).read_bytes() for file in digests}
        except OSError as error:
            raise StackingError(f"{error.filename}: cannot read the stacker ({error.strerror})") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StackingError(f"{path}: not the description of a stacker ({error!r})") from error
        for file, content in files.items():
            if hashlib.sha256(content).hexdigest() != digests[file]:
                raise StackingError(f"{folder / file}: damaged, its digest is not the one in {DESCRIPTION}")
        if name is not None and found != name:
            raise StackingError(f"{folder} holds a '{found}', not a '{name}'")
        return cls(found, signature, learned, files)


class Stacker(ABC):
    """A meta-level: an estimator from the members' posteriors to one prediction.

    A stacker owns its parameters: each is a keyword of ``__init__`` with a default and an attribute of the
    same name. What it learns is in attributes that end in ``_``. It is fitted on rows that its members did
    not train on; early stopping looks at an inner speaker-disjoint slice of those rows only.

    A subclass implements :meth:`fit_arranged` and :meth:`predict_arranged`; if it learns anything, also
    :meth:`learned` or :meth:`files`, and :meth:`restore`. Names, files and digests are handled here.

    Attributes:
        name: in the registry and in saved files.
        needs_classes: whether it is defined for classes only; it is left out for attributes alone.
        recipe_section: which section of the recipe's ``stacking`` has its parameters; keys of ``stacking``
            itself are parameters of every stacker that has them.
        signature_: the names it was fitted on.
        shares_: how much each member counts for the classes (or for attributes alone): shares of its Shapley
            values (:mod:`sercache.stacking.shares`) or its weight. Empty where that is not defined.
    """

    name: ClassVar[str]
    needs_classes: ClassVar[bool] = False
    recipe_section: ClassVar[str | None] = None

    signature_: Signature
    shares_: Mapping[str, float] = MappingProxyType({})

    @classmethod
    def from_recipe(cls, settings: StackingRecipe, seed: int) -> Self:
        """Return the stacker with those parameters of ``settings`` that its ``__init__`` has.

        Args:
            settings: the recipe's ``stacking``.
            seed: of everything random in ``fit``.
        """
        section = getattr(settings, cls.recipe_section) if cls.recipe_section else ()
        values: dict[str, Any] = {**dict(settings), **dict(section), "seed": seed}
        return cls(**{key: values[key] for key in inspect.signature(cls).parameters if key in values})

    def fit(self, rows: StackingRows) -> Self:
        """Learn from ``rows``; a row without a class target or without ratings does not count for these."""
        self.signature_ = Signature.of(rows.inputs)
        self.fit_arranged(replace(rows, inputs=self.signature_.arrange(rows.inputs)))
        return self

    def predict(self, inputs: StackingInputs) -> Prediction:
        """Predict ``inputs``, whose members, classes and attributes may come in any order.

        Raises:
            StackingError: their names are not those of the rows it was fitted on.
        """
        return self.predict_arranged(self.signature_.arrange(inputs))

    def members_used(self) -> tuple[str, ...]:
        """Return the members that its predictions depend on."""
        return self.signature_.members

    def save(self, folder: Path) -> None:
        """Write the fitted stacker to ``folder``, its description last."""
        SavedStacker(self.name, self.signature_, self.learned(), self.files()).write(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote; parameters are not saved, as only ``fit`` needs them.

        Raises:
            StackingError: the folder holds no such stacker, or a file of it is damaged.
        """
        saved = SavedStacker.read(folder, cls.name)
        stacker = cls()
        stacker.signature_ = saved.signature
        stacker.restore(saved)
        return stacker

    @abstractmethod
    def fit_arranged(self, rows: StackingRows) -> None:
        """Learn from rows in the order of ``signature_``, their extras standardised."""

    @abstractmethod
    def predict_arranged(self, inputs: StackingInputs) -> Prediction:
        """Predict inputs in the order of ``signature_``, their extras standardised."""

    def learned(self) -> dict[str, Any]:
        """Return what is saved as JSON in the description."""
        return {}

    def files(self) -> dict[str, bytes]:
        """Return the files that are saved beside the description, by name. No pickle."""
        return {}

    def restore(self, saved: SavedStacker) -> None:
        """Set the fitted attributes from what :meth:`learned` and :meth:`files` returned."""
        return None


def _standardised(values: Floats, means: Sequence[float], deviations: Sequence[float]) -> Floats:
    """Return ``(N, E)`` minus the means, over the deviations; 0 where unknown."""
    centred = (values - np.asarray(means)) / np.asarray(deviations)
    return np.where(np.isfinite(centred), centred, 0.0)


def _means_and_deviations(values: Floats) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each column of ``(N, E)``; 0 and 1 where there is none."""
    means, deviations = [], []
    for column in values.T:
        known = column[np.isfinite(column)]
        deviation = float(known.std()) if len(known) else 0.0
        means.append(float(known.mean()) if len(known) else 0.0)
        deviations.append(deviation if deviation > 0 else 1.0)
    return tuple(means), tuple(deviations)
