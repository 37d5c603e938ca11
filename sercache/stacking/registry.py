"""The stackers by name, and reading a fitted one of any kind."""

from pathlib import Path

from sercache.errors import StackingError
from sercache.registry import Registry
from sercache.stacking.base import SavedStacker, Stacker
from sercache.stacking.names import BASELINES, META_LEVELS

STACKERS: Registry[type[Stacker]] = Registry("stacker", META_LEVELS | BASELINES, StackingError)


def needs_classes(name: str) -> bool:
    """Return whether a stacker is defined for classes only.

    Raises:
        StackingError: there is no such stacker.
    """
    return STACKERS[name].needs_classes


def load_stacker(folder: Path) -> Stacker:
    """Read a fitted stacker of any kind.

    Raises:
        StackingError: the folder holds none, or a file of it is damaged.
    """
    return STACKERS[SavedStacker.read(folder).name].load(folder)
