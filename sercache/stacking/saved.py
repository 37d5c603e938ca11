"""How a fitted stacker lies on disk: its files, and a description with their digests, written last."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sercache.corpus.utterance import Attribute
from sercache.errors import StackingError
from sercache.files import read_json, write_atomically, write_json
from sercache.stacking.rows import StackingInputs

DESCRIPTION = "stacker.json"
_FORMAT = 1


@dataclass(frozen=True)
class Signature:
    """The names that a stacker was fitted on, in the order of its weights."""

    members: tuple[str, ...]
    classes: tuple[str, ...]
    attributes: tuple[Attribute, ...]

    @classmethod
    def of(cls, inputs: StackingInputs) -> "Signature":
        """Return the signature of ``inputs``."""
        return cls(inputs.members, inputs.classes, inputs.attributes)

    def arrange(self, inputs: StackingInputs) -> StackingInputs:
        """Return ``inputs`` in this order.

        Raises:
            StackingError: the names are not the same.
        """
        return inputs.arranged(self.members, self.classes, self.attributes)


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
