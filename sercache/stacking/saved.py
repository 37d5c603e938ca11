"""How a fitted stacker lies on disk: its files, and a description with their digests, written last."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sercache.corpus.utterance import Attribute
from sercache.errors import StackingError
from sercache.files import read_json, write_atomically, write_json
from sercache.stacking.rows import Floats, StackingInputs, StackingRows, columns_in_order

DESCRIPTION = "stacker.json"
_FORMAT = 2


@dataclass(frozen=True)
class Signature:
    """The names that a stacker was fitted on, in the order of its weights.

    Attributes:
        members: their names.
        classes: their names.
        attributes: names and ranges.
        extras: their names.
        extra_means: of each extra over the rows that were fitted on.
        extra_deviations: likewise.
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

    def arrange_rows(self, rows: StackingRows) -> StackingRows:
        """Return ``rows`` with their inputs :meth:`arrange`-d."""
        return replace(rows, inputs=self.arrange(rows.inputs))


@dataclass(frozen=True)
class SavedStacker:
    """A stacker as it lies on disk.

    Attributes:
        kind: its name in the registry.
        signature: what it was fitted on.
        learned: what it knows beside its files; JSON.
        files: contents by file name.
    """

    kind: str
    signature: Signature
    learned: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the files, then the description that makes them count."""
        for name, content in self.files.items():
            write_atomically(folder / name, content)
        description = {
            "format": _FORMAT,
            "stacker": self.kind,
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
    def read(cls, folder: Path, kind: str | None = None) -> "SavedStacker":
        """Read a description and its files; no file is parsed before its digest was checked.

        Raises:
            StackingError: there is no stacker, it is of another kind, or a file is missing or damaged.
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
            files = {name: (folder / Path(name).name).read_bytes() for name in digests}
        except OSError as error:
            raise StackingError(f"{error.filename}: cannot read the stacker ({error.strerror})") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StackingError(f"{path}: not the description of a stacker ({error!r})") from error
        for name, content in files.items():
            if hashlib.sha256(content).hexdigest() != digests[name]:
                raise StackingError(f"{folder / name}: damaged, its digest is not the one in {DESCRIPTION}")
        if kind is not None and found != kind:
            raise StackingError(f"{folder} holds a '{found}', not a '{kind}'")
        return cls(found, signature, learned, files)


def _standardised(values: Floats, means: Sequence[float], deviations: Sequence[float]) -> Floats:
    """Return ``(N, E)`` with means 0 and deviations 1 over the rows that these are of; 0 where unknown."""
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
